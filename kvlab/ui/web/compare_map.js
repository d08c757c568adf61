// kept entries of one run, a pixel for a token or for several: below 4 px a shape cannot be read, so height says how many bits and hover names the state

class PoolMap {
  constructor(app, lane) {
    this.app = app;
    this.lane = lane;
    this.box = el("div", "pool");
    this.canvas = el("canvas");
    this.canvas.setAttribute("role", "img");
    this.names = el("div", "layer-names");
    this.hover = el("div", "line");
    this.lock = el("div", "line locked");
    this.box.append(this.canvas, this.names, this.hover, this.lock);
    this.canvas.onpointermove = (e) => app.hover(this.hit(e));
    this.canvas.onpointerleave = () => app.hover(-1);
    this.canvas.onclick = (e) => app.lock(this.hit(e));
  }

  layout() {
    const { lane, app } = this, ratio = Math.max(1, Math.round(window.devicePixelRatio || 1));
    this.wide = Math.max(40, this.box.clientWidth - 30);
    const w = Math.floor(this.wide * ratio), bins = Math.min(w, app.P);
    const h = (lane.R <= 16 ? 8 : lane.R <= 32 ? 6 : lane.R <= 64 ? 4 : lane.R <= 128 ? 2 : 1) * ratio, gap = (lane.R <= 32 ? 1 : 0) * ratio, between = (lane.R <= 64 ? 4 : 2) * ratio;
    this.rows = Array.from({ length: lane.R }, (_, r) => r * (h + gap) + Math.floor(r / lane.H) * between);
    this.h = h;
    this.ratio = ratio;
    const tall = this.rows.at(-1) + h;
    this.canvas.width = w;
    this.canvas.height = tall;
    this.canvas.style.width = `${w / ratio}px`;
    this.canvas.style.height = `${tall / ratio}px`;
    this.high = tall / ratio;
    this.image = new ImageData(w, tall);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.from = Int32Array.from({ length: bins + 1 }, (_, b) => Math.floor((b * w) / bins));
    this.slim = w / bins >= 4 ? ratio : 0;
    lane.bin(bins, app.P);
    this.label(ratio);
  }

  label(ratio) { // a name for each layer that has the room
    const { lane } = this, each = (this.rows[lane.H] ?? this.high * ratio) / ratio, every = Math.max(1, Math.ceil(13 / each));
    this.names.replaceChildren();
    for (let l = 0; l < lane.L; l += every) {
      const name = el("span", "", `L${l}`);
      name.style.top = `${this.rows[l * lane.H] / ratio + Math.min(each, 40) / 2 - 9}px`;
      this.names.append(name);
    }
  }

  colour(text, alpha = 255) {
    const [r, g, b] = text.match(/[\d.]+/g).map(Number);
    return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }

  draw() {
    const { lane, app } = this, c = app.colours, blue = this.colour(c.held, 0), grey = this.colour(c.hairline);
    for (let n = 0; n < lane.changes; n++) {
      lane.stale[lane.changed[n]] = 0;
      this.cell(lane.changed[n], blue, grey);
    }
    lane.changes = 0;
    const g = this.canvas.getContext("2d");
    g.putImageData(this.image, 0, 0);
    for (const [r, list] of lane.lostRows) for (const p of list) { // wanted and gone: never binned away
      const wide = 5 * this.ratio, x = ((p + 0.5) / app.P) * this.canvas.width - wide / 2;
      g.fillStyle = c.lostSoft;
      g.fillRect(x, this.rows[r], wide, this.h);
      g.fillStyle = this.h >= 4 ? c.hatch : c.lost;
      g.fillRect(x, this.rows[r], wide, this.h);
      g.strokeStyle = c.lost;
      g.lineWidth = this.ratio;
      if (this.h >= 4) g.strokeRect(x + this.ratio / 2, this.rows[r] + this.ratio / 2, wide - this.ratio, this.h - this.ratio);
    }
    this.canvas.setAttribute("aria-label", `${lane.card.name}: ${grouped(lane.total)} of ${grouped(lane.R * lane.born_)} entries held at step ${lane.step}`);
  }

  cell(j, blue, grey) { // the tokens of one column in one head
    const { lane, h, from, pixels } = this, w = this.canvas.width, r = Math.floor(j / lane.bins), b = j - r * lane.bins, n = lane.count[j];
    const mean = n ? lane.tall[j] / (255 * n) : 0, tall = n ? Math.max(1, Math.round(h * mean)) : 0, skipped = lane.read && !lane.read[j];
    const end = Math.max(from[b] + 1, from[b + 1] - (n ? this.slim : 0)), middle = h >= 4 ? h >> 1 : -1;
    let alpha = n ? 50 + Math.round((165 * n) / lane.room[b]) : 0;
    if (n && h < 3) alpha = Math.round(alpha * (skipped ? 0.4 : mean)); // no room for height
    const fill = (blue | (alpha << 24)) >>> 0;
    for (let y = 0, at = this.rows[r] * w; y < h; y++, at += w) {
      const drawn = n && h - y <= tall && !(skipped && h >= 3 && y > h - tall && y < h - 1); // held, not read: an outline
      const value = drawn ? fill : y === middle ? grey : 0;
      for (let x = from[b]; x < end; x++) pixels[at + x] = value;
      for (let x = end; x < from[b + 1]; x++) pixels[at + x] = 0;
    }
  }

  hit(e) {
    const box = this.canvas.getBoundingClientRect(), p = Math.floor(((e.clientX - box.left) / box.width) * this.app.P);
    return p >= 0 && p < this.app.P ? p : -1;
  }
  lines() {
    const { app } = this, place = (line, from, to) => {
      line.hidden = from < 0;
      if (from < 0) return;
      line.style.height = `${this.high + 6}px`;
      line.style.transform = `translateX(${30 + (((from + to) / 2 + 0.5) / app.P) * this.wide}px)`;
    };
    place(this.hover, app.hovered, app.hovered);
    place(this.lock, ...app.span());
  }
}
