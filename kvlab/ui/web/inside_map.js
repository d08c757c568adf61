// who holds what: one row per layer and KV head, one column per token; the attention below shares the columns

const LEAST_COLUMN = 1.5; // px; below it the map shows a window of the tokens, and a mini map shows all of them
const KEPT = 100; // px, the bar of a full head; five digits fit beside it

class KeptMap {
  constructor(app) {
    this.app = app;
    this.card = card("map", "Kept entries", "row: layer and KV head, column: token");
    this.sub = this.card.querySelector(".sub");
    this.mini = el("canvas", "mini");
    this.mini.tabIndex = 0;
    this.mini.setAttribute("role", "slider");
    this.mini.setAttribute("aria-label", "Part of the text that the map shows");
    this.pooling = el("div", "pooling");
    for (const how of ["max", "mean"]) {
      const button = el("button", "", how);
      button.onclick = () => { this.pool = how; this.drawMini(); };
      this.pooling.append(button);
    }
    this.pool = "max";
    this.cells = new Cells();
    this.small = new Cells();
    this.box = el("div", "plot");
    this.canvas = el("canvas", "cells");
    this.canvas.setAttribute("role", "img");
    this.column = el("div", "column");
    this.lockLine = el("div", "column locked");
    this.attention = new Attention(app, this);
    this.box.append(this.canvas, this.attention.part, this.column, this.lockLine);
    this.over = el("div", "overview");
    const side = el("div", "poolside");
    side.append(el("span", "sub", "all tokens, by layer"), this.pooling);
    this.over.append(this.mini, side);
    this.card.append(this.over, this.box);
    this.unfolded = new Set();
    this.canvas.onpointermove = (e) => { const [p, r] = this.hit(e); app.hover(p, false, r); };
    this.box.onpointerleave = () => app.hover(-1);
    this.canvas.onclick = (e) => this.click(e);
    this.mini.onpointerdown = (e) => { this.mini.setPointerCapture(e.pointerId); this.drag = true; this.slide(e); };
    this.mini.onpointermove = (e) => this.drag && this.slide(e);
    this.mini.onpointerup = () => (this.drag = false);
    this.mini.onkeydown = (e) => {
      const by = { ArrowLeft: -0.25, ArrowRight: 0.25, PageUp: -1, PageDown: 1 }[e.key];
      if (by) { this.show(this.from + by * this.count); e.preventDefault(); }
    };
  }

  // what fits: sizes, rows, columns
  layout() {
    const { run } = this.app, wide = this.box.clientWidth;
    this.gutter = wide < 560 ? 58 : 88;
    this.right = wide < 560 ? 8 : 172;
    this.width = Math.max(60, wide - this.gutter - this.right);
    const all = this.width / run.P >= LEAST_COLUMN;
    this.count = all ? run.P : Math.min(run.P, Math.max(20, Math.floor(this.width / (wide < 560 ? 4 : 3.8))));
    this.cell = this.width / this.count;
    this.from = all ? 0 : Math.max(0, Math.min(this.from ?? this.centre(), run.P - this.count));
    this.over.hidden = all;
    this.rowsOf(run);
    this.high = this.rows.length ? this.rows.at(-1).y + this.rows.at(-1).h + 24 : 60;
    size(this.canvas, wide, this.high);
    this.top = this.rows.length ? this.rows[0].y - 2 : 0;
    const flat = (row) => (row.r < 0 ? { y: row.y + 1, h: row.h - 2 } : { y: row.y + (row.h > 10 ? 1 : 0), h: row.h - (row.h > 10 ? 2 : 0) });
    this.flat = this.rows.map(flat);
    this.cells.lay(this.flat.map(({ y, h }) => ({ y: y - this.top, h })), this.width, this.count, this.cell > 3 ? 1 : 0);
    this.attention.layout(wide);
    this.crosshairs();
  }
  centre() {
    const { run, view } = this.app, token = view.token >= 0 ? view.token : run.P - 1;
    return token - this.count / 2;
  }
  rowsOf(run) {
    this.rows = [];
    const fold = run.R > 64, h = run.R <= 16 ? 18 : fold ? 14 : 8, gap = run.R <= 16 ? 6 : fold ? 2 : 4;
    let y = 38;
    for (let l = 0; l < run.L; l++) {
      const open = !fold || this.unfolded.has(l), inner = fold ? 8 : h;
      if (fold) { this.rows.push({ l, r: -1, y, h: 14, label: `L${l} ${open ? "▾" : "▸"}` }); y += 16; }
      if (open) for (let k = 0; k < run.H; k++) {
        this.rows.push({ l, r: l * run.H + k, y, h: inner, label: run.R <= 16 ? run.name(l * run.H + k) : fold || k ? "" : `L${l}` });
        y += inner + (run.R <= 16 ? 0 : 1);
      }
      y += gap;
    }
  }

  x(p) { return this.gutter + (p - this.from) * this.cell; }
  inside(p) { return p >= this.from && p < this.from + this.count; }
  hit(e) {
    const box = this.canvas.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
    const p = Math.floor((x - this.gutter) / this.cell) + this.from;
    const row = this.rows.find((one) => y >= one.y - 1 && y < one.y + one.h + 2);
    return [x >= this.gutter && p < this.from + this.count && p < this.app.run.P ? p : -1, row ? row.r : -1, row];
  }
  click(e) {
    const [p, r, row] = this.hit(e), { app } = this;
    if (row && row.r < 0) {
      this.unfolded.has(row.l) ? this.unfolded.delete(row.l) : this.unfolded.add(row.l);
      this.layout();
      this.draw();
      this.attention.draw();
      return;
    }
    if (r >= 0) app.pick(r, false);
    if (p >= 0) app.lock(p, e.shiftKey);
    else app.commit();
  }
  show(from) {
    const { run } = this.app;
    this.from = Math.round(Math.max(0, Math.min(from, run.P - this.count)));
    this.draw();
    this.attention.draw();
    this.crosshairs();
  }
  slide(e) {
    const box = this.mini.getBoundingClientRect();
    this.show(((e.clientX - box.left) / box.width) * this.app.run.P - this.count / 2);
  }
  reveal(p) { if (p >= 0 && !this.inside(p)) this.show(p - this.count / 2); }

  draw() {
    const { run, colours: c } = this.app, g = this.canvas.getContext("2d");
    clear(g);
    g.font = c.font;
    this.paint(g, run, c);
    this.coverage(g, run, c);
    for (const row of this.rows) row.r < 0 ? this.layer(g, run, c, row) : this.row(g, run, c, row);
    this.frame(g, run, c);
    if (!this.over.hidden) this.drawMini();
    this.say(run);
  }

  // the cells, and over them what is gone though wanted
  paint(g, run, c) {
    const { cells, rows, from, count } = this, end = Math.min(count, run.P - from), marks = [];
    cells.paint(c);
    for (const [n, row] of rows.entries()) {
      if (row.r < 0) { // one row for all heads of a layer: opacity is the share that hold the token
        for (let b = 0, j = row.l * run.P + from; b < end; b++, j++) cells.set(n, b, run.heldLayer[j] ? look(HELD, Math.round((217 * run.heldLayer[j]) / run.H)) : 0);
        for (let r = row.l * run.H; r < (row.l + 1) * run.H; r++) for (const p of run.lostIn(r)) marks.push([p, n, r]);
      } else {
        for (let b = 0; b < end; b++) cells.set(n, b, this.look(run, row.r, from + b));
        for (const p of run.lostIn(row.r)) if (run.merged(row.r, p) < 0) marks.push([p, n, row.r]);
        if (run.a.unread) for (let p = from; p < from + end; p++) if (run.wants(row.r, p) && run.held(row.r, p) && run.unread(row.r, p)) marks.push([p, n, -1]);
      }
    }
    cells.put(g, this.gutter, this.top);
    const wide = Math.max(6, this.cell - 0.8);
    for (const [p, n, r] of marks) if (this.inside(p)) drawWanted(g, c, this.x(p) + this.cell / 2 - wide / 2, this.flat[n].y, wide, this.flat[n].h, r < 0 ? c.held : c.lost);
  }
  // how an entry looks: opacity by what it is read, height by its bits
  look(run, r, p) {
    if (!run.held(r, p)) return run.merged(r, p) >= 0 ? look(MERGED, 230) : 0;
    return run.unread(r, p) ? look(UNREAD) : look(HELD, run.glow(r, p), heightOf(run.bits(r, p), run.precision));
  }

  coverage(g, run, c) {
    label(g, c, this.gutter < 80 ? "heads" : "heads holding", this.gutter - 9, 26, "right");
    g.fillStyle = c.held;
    g.globalAlpha = 0.45;
    const slim = this.cell > 3 ? 0.6 : 0;
    for (let p = this.from; p < this.from + this.count; p++) {
      const h = (24 * run.heldCount[p]) / run.R;
      if (h) g.fillRect(this.x(p), 30 - h, this.cell - slim, h);
    }
    g.globalAlpha = 1;
  }

  row(g, run, c, row) {
    this.kept(g, run, c, row);
    this.rowName(g, run, c, row);
  }

  rowName(g, run, c, { r, y, h, label: text }) { // the chosen row is always named; where rows are slim it takes the place of its layer's name
    const chosen = r === this.app.row(), at = this.rows.find((one) => one.r === this.app.row());
    if (chosen) label(g, c, run.name(r), this.gutter - 9, y + h / 2 + 4, "right", c.ink, true);
    else if (text && !(at && Math.abs(at.y - y) < 13)) label(g, c, text, this.gutter - 9, y + h / 2 + 4, "right");
  }

  layer(g, run, c, row) {
    const chosen = Math.floor(this.app.row() / run.H) === row.l;
    label(g, c, row.label, this.gutter - 9, row.y + row.h / 2 + 4, "right", chosen ? c.ink : c.small, chosen);
  }

  kept(g, run, c, { r, y, h }) { // the ragged bar: outline all tokens, fill what is kept
    if (this.right < 100) return;
    const x = this.gutter + this.width + 22, wide = KEPT, bar = Math.min(10, h - 2), top = y + (h - bar) / 2, chosen = r === this.app.row();
    g.strokeStyle = c.edge;
    g.lineWidth = 1;
    g.strokeRect(x + 0.5, top + 0.5, wide - 1, bar - 1);
    g.fillStyle = c.held;
    g.globalAlpha = chosen ? 1 : 0.6;
    g.fillRect(x, top, (wide * run.kept[r]) / Math.max(1, run.born_), bar);
    g.globalAlpha = 1;
    if (h > 10) label(g, c, grouped(run.kept[r]), x + wide + 8, y + h / 2 + 4, "left", chosen ? c.ink : c.small, chosen);
    else if (chosen) label(g, c, grouped(run.kept[r]), x + wide + 8, y + h / 2 + 4, "left", c.ink, true);
  }

  frame(g, run, c) {
    const first = this.rows[0], last = this.rows.at(-1), bottom = last.y + last.h, plain = this.rows.filter((row) => row.r >= 0);
    const chosen = plain.find((row) => row.r === this.app.row());
    if (chosen) {
      g.strokeStyle = c.ink;
      g.lineWidth = 2;
      g.beginPath();
      g.roundRect(this.gutter - 3, chosen.y - 1.5, this.width + 6, chosen.h + 3, 4);
      g.stroke();
    }
    if (this.right > 100 && plain.length) {
      const x = this.gutter + this.width + 22, even = run.kept.reduce((a, b) => a + b, 0) / run.R, at = Math.min(x + KEPT - 0.5, x + (KEPT * even) / Math.max(1, run.born_));
      label(g, c, "kept per head", x, 26, "left");
      const uneven = Math.max(...run.kept) > Math.min(...run.kept);
      if (uneven) dotted(g, c.ink, at, first.y - 6, at, bottom + 4);
      label(g, c, uneven ? `even share ${grouped(even)}` : `of ${grouped(run.born_)} tokens`, x, bottom + 18, "left");
    }
    this.ticks(g, run, c, bottom);
  }
  ticks(g, run, c, bottom) {
    const every = [5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10000].find((n) => n * this.cell > 64) || 20000;
    const taken = [];
    const border = (p, text) => {
      if (!this.inside(p) || p <= this.from) return;
      dotted(g, c.small, this.x(p) - 0.5, 6, this.x(p) - 0.5, bottom + 4, [3, 3]);
      const far = this.x(p) + 56 > this.gutter + this.width;
      label(g, c, text, this.x(p) + (far ? -4 : 4), bottom + 18, far ? "right" : "left");
      taken.push([this.x(p) - (far ? 62 : 12), this.x(p) + (far ? 10 : 62)]);
    };
    if (run.asked > run.prompt) border(run.prompt, "question");
    if (run.P > run.asked && (run.asked - run.prompt) * this.cell > 70) border(run.asked, "answer");
    for (let p = Math.ceil(this.from / every) * every; p < this.from + this.count; p += every) {
      const x = this.x(p) + this.cell / 2;
      if (!taken.some(([a, b]) => x > a - 12 && x < b)) label(g, c, grouped(p), x, bottom + 18, "center");
    }
  }

  drawMini() {
    const { app: { run, colours: c }, small } = this, wide = this.mini.parentElement.clientWidth - 134, high = 64;
    const bins = Math.min(wide, run.P), h = (high - 6) / run.L;
    const key = `${wide} ${pixelRatio()}`;
    if (this.miniKey !== key) { this.miniKey = key; size(this.mini, wide, high); }
    small.lay(Array.from({ length: run.L }, (_, l) => ({ y: l * h, h: h > 3 ? h - 1 : h })), wide, bins, 0);
    small.paint(c);
    this.poolInto(small, run, bins);
    const g = this.mini.getContext("2d");
    clear(g);
    small.put(g, 0, 3);
    g.fillStyle = c.lost;
    for (const [r, list] of run.lostRows) for (const p of list) g.fillRect((p / run.P) * wide - 3, 3 + Math.floor(r / run.H) * h, 6, Math.max(2, h - 1));
    g.strokeStyle = c.ink;
    g.lineWidth = 2;
    g.strokeRect(1 + (this.from / run.P) * (wide - 2), 1, (this.count / run.P) * (wide - 2), high - 2);
    for (const button of this.pooling.children) button.setAttribute("aria-pressed", button.textContent === this.pool);
    this.mini.setAttribute("aria-valuetext", `tokens ${this.from} to ${this.from + this.count - 1} of ${run.P}`);
    this.mini.setAttribute("aria-valuenow", this.from);
  }

  poolInto(cells, run, bins) { // share of a layer's heads that hold the tokens of a bin: the most or the mean, in eight shades
    const each = run.P / bins, max = this.pool === "max";
    for (let l = 0; l < run.L; l++) for (let b = 0; b < bins; b++) {
      let most = 0, sum = 0;
      const from = l * run.P + Math.floor(b * each), to = l * run.P + Math.floor((b + 1) * each);
      for (let j = from; j < to; j++) { sum += run.heldLayer[j]; if (run.heldLayer[j] > most) most = run.heldLayer[j]; }
      const share = Math.round((8 * (max ? most : sum / (to - from))) / run.H) / 8;
      cells.set(l, b, share ? look(HELD, Math.round(255 * (0.15 + 0.7 * share))) : 0);
    }
  }

  // the line beside the title: what the marks mean, or what is under the pointer
  say(run) {
    const { app } = this, { hovered: p, hoverRow: r } = app;
    if (p >= 0 && p < run.P) {
      const where = r >= 0 ? `${run.name(r)} ${app.state(r, p)}` : `held by ${run.heldCount[p]} of ${run.R} heads`;
      this.sub.textContent = `${grouped(p)} “${shown(run.pieces[p])}”: ${where}`;
      return;
    }
    const marks = ["blue is held, darker is read more"];
    if (run.hatches) marks.push("hatched is gone though the full cache reads it");
    if (run.a.bits) marks.push("lower is fewer bits");
    if (run.a.unread) marks.push("outlined is held, not read");
    if (run.a.into) marks.push(this.cell < 4 ? "a low line was merged away" : "a ring was merged away");
    this.sub.textContent = `column: token; ${marks.join("; ")}`;
    const kept = run.kept.reduce((a, b) => a + b, 0);
    this.canvas.setAttribute("aria-label", `Kept entries at step ${run.step}: ${grouped(kept)} of ${grouped(run.born_ * run.R)} held. The heads and tokens beside it say the same in words.`);
  }

  crosshairs() {
    const { hovered, view } = this.app;
    for (const [line, p] of [[this.column, hovered], [this.lockLine, view.token]]) {
      line.hidden = p < 0 || !this.inside(p);
      line.style.height = `${this.high - 30}px`; // solid over the rows, dotted from there to the bar
      line.style.setProperty("--gap", `${Math.max(0, 24 + 24 + this.attention.topOf(p))}px`);
      line.style.transform = `translateX(${this.x(p) + this.cell / 2 - 0.5}px)`;
    }
  }
}
