// a small map of kept entries: a row per layer and KV head, a column per token or per few of them; wanted entries that left are never pooled

const GUTTER = 25, PITCH = 4, CELL = 3, BETWEEN = 4, MARK = 6;

function unpacked(text) {
  return text ? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)) : null;
}

class SmallMap {
  constructor(map, spoken, colours) {
    Object.assign(this, map, { colours, held: unpacked(map.held), tall: unpacked(map.tall), idle: unpacked(map.idle) });
    this.rows = map.layers * map.heads;
    this.slim = this.rows > 48; // many heads: rows without a gap, as low as they must be
    this.pitch = this.slim ? Math.max(1, Math.floor(112 / this.rows)) : PITCH;
    this.between = this.slim ? 0 : BETWEEN;
    this.high = this.rows * this.pitch + (map.layers - 1) * this.between + 4;
    this.canvas = el("canvas", "map");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", spoken);
  }
  top(row) { return 2 + row * this.pitch + Math.floor(row / this.heads) * this.between; }
  draw() {
    const wide = this.canvas.parentElement.clientWidth, c = this.colours, g = this.canvas.getContext("2d");
    if (!wide) return;
    size(this.canvas, wide, this.high);
    clear(g);
    g.font = c.font;
    this.left = this.heads * this.pitch >= 12 ? GUTTER : 0;
    this.width = wide - this.left - 1;
    for (let layer = 0; layer < this.layers && this.left; layer++) label(g, c, `L${layer}`, 0, this.top(layer * this.heads) + (this.heads * this.pitch) / 2 + 4, "left");
    for (let row = 0; row < this.rows; row++) this.row(g, c, row);
    const asked = Math.round(this.left + this.asked * this.width) + 0.5;
    dotted(g, c.ink, asked, 0, asked, this.high);
    for (const [row, at] of this.lost) this.wanted(g, c, row, at);
  }
  row(g, c, row) {
    const cell = this.slim ? this.pitch : CELL, y = this.top(row), n = this.columns;
    g.fillStyle = c.hairline;
    if (!this.slim) g.fillRect(this.left, y + 1, this.width, 1);
    g.fillStyle = c.held;
    for (let i = 0; i < n; i++) {
      const at = row * n + i, share = this.held[at] / 255, idle = this.idle ? this.idle[at] / 255 : 0;
      if (!share) continue;
      const x = this.left + Math.round((i * this.width) / n), w = this.left + Math.round(((i + 1) * this.width) / n) - x;
      const tall = this.tall ? Math.max(1, cell * (this.tall[at] / 255)) : cell;
      g.globalAlpha = 0.85 * share * (1 - idle);
      g.fillRect(x, y + cell - tall, w, tall);
      g.globalAlpha = 0.6 * share * idle;
      if (idle) { g.fillRect(x, y, w, 0.75); g.fillRect(x, y + cell - 0.75, w, 0.75); }
    }
    g.globalAlpha = 1;
  }
  wanted(g, c, row, at) {
    const x = Math.round(this.left + at * this.width - MARK / 2), y = this.top(row) - 1, high = (this.slim ? this.pitch : CELL) + 2;
    g.fillStyle = c.lostSoft;
    g.fillRect(x, y, MARK, high);
    g.fillStyle = c.hatch;
    g.fillRect(x, y, MARK, high);
    g.strokeStyle = c.lost;
    g.lineWidth = 1;
    g.strokeRect(x + 0.5, y + 0.5, MARK - 1, high - 1);
  }
}
