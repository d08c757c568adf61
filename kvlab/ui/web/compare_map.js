// kept entries of one run, a pixel for a token or for several: below 4 px a shape cannot be read, so height says how many bits and hover names the state

class PoolMap {
  constructor(app, lane) {
    this.app = app;
    this.lane = lane;
    this.cells = new Cells();
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
    const { lane, app } = this;
    this.wide = Math.max(40, this.box.clientWidth - 30);
    const bins = Math.min(Math.floor(this.wide * pixelRatio()), app.P);
    const h = lane.R <= 16 ? 8 : lane.R <= 32 ? 6 : lane.R <= 64 ? 4 : lane.R <= 128 ? 2 : 1, gap = lane.R <= 32 ? 1 : 0, between = lane.R <= 64 ? 4 : 2;
    this.h = h;
    this.rows = Array.from({ length: lane.R }, (_, r) => r * (h + gap) + Math.floor(r / lane.H) * between);
    this.high = this.rows.at(-1) + h;
    size(this.canvas, this.wide, this.high);
    this.cells.lay(this.rows.map((y) => ({ y, h })), this.wide, bins, this.wide / bins >= 4 ? 1 : 0);
    this.label();
    lane.bin(bins, app.P);
  }

  label() { // a name for each layer that has the room
    const { lane } = this, each = this.rows[lane.H] ?? this.high, every = Math.max(1, Math.ceil(13 / each));
    this.names.replaceChildren();
    for (let l = 0; l < lane.L; l += every) {
      const name = el("span", "", `L${l}`);
      name.style.top = `${this.rows[l * lane.H] + Math.min(each, 40) / 2 - 9}px`;
      this.names.append(name);
    }
  }

  draw() {
    const { lane, app, cells } = this, c = app.colours, g = this.canvas.getContext("2d");
    if (cells.said !== c.said) lane.touchAll();
    cells.paint(c);
    for (let n = 0; n < lane.changes; n++) {
      const j = lane.changed[n], r = Math.floor(j / lane.bins);
      lane.stale[j] = 0;
      cells.set(r, j - r * lane.bins, this.look(j));
    }
    lane.changes = 0;
    cells.put(g, 0, 0);
    for (const [r, list] of lane.lostRows) for (const p of list) drawWanted(g, c, ((p + 0.5) / app.P) * this.wide - 2.5, this.rows[r], 5, this.h);
    this.canvas.setAttribute("aria-label", `${lane.card.name}: ${grouped(lane.total)} of ${grouped(lane.R * lane.born_)} entries held at step ${lane.step}`);
  }

  look(j) { // the tokens of one column in one head: opacity is the share held, height their mean bits
    const { lane } = this, n = lane.count[j];
    if (!n) return 0;
    const mean = lane.tall[j] / (255 * n), skipped = lane.read && !lane.read[j], alpha = 50 + (165 * n) / lane.room[j % lane.bins];
    if (this.h < 3) return look(HELD, Math.round(alpha * (skipped ? 0.4 : mean))); // no room for height or an outline
    return skipped ? look(UNREAD, Math.round(alpha)) : look(HELD, Math.round(alpha), Math.round(255 * mean));
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
