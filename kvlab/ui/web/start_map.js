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
    this.cells = new Cells();
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
    const h = this.slim ? this.pitch : CELL, n = this.columns, { cells } = this;
    cells.lay(Array.from({ length: this.rows }, (_, row) => ({ y: this.top(row), h })), this.width, n, 0);
    cells.paint(c);
    for (let at = 0; at < this.rows * n; at++) cells.set(Math.floor(at / n), at % n, this.look(at));
    cells.put(g, this.left, 0);
    const asked = Math.round(this.left + this.asked * this.width) + 0.5;
    dotted(g, c.ink, asked, 0, asked, this.high);
    for (const [row, at] of this.lost) drawWanted(g, c, Math.round(this.left + at * this.width - MARK / 2), this.top(row) - 1, MARK, h + 2);
  }
  look(at) { // of the tokens of a column: the share held, their bits, and whether most of them were not read
    const share = this.held[at] / 255, idle = this.idle ? this.idle[at] / 255 : 0;
    if (!share) return 0;
    return idle > 0.5 ? look(UNREAD, Math.round(153 * share * idle)) : look(HELD, Math.round(217 * share * (1 - idle)), this.tall ? this.tall[at] : 255);
  }
}
