// one method's toy at full size: who holds what at each step, and the bytes of it

class Player {
  constructor(root) {
    this.body = el("div", "field");
    this.cells = new Cells();
    root.append(this.body);
    this.body.onkeydown = (e) => this.steps.key(e);
    this.watch = new ResizeObserver(() => this.toys && this.body.clientWidth !== this.wide && this.draw());
    this.watch.observe(this.body);
  }

  update({ data }) {
    const { header } = readHeader(data);
    if (this.toys && this.toys.stamp === header.stamp) return;
    this.steps?.stop();
    this.toys = new Toys(data);
    this.body.replaceChildren();
    this.pictureStyle = null;
    this.colours = new Colours(this.body, () => this.draw());
    this.colours.read();
    this.extra = [];
    this.build();
    this.draw();
  }
  caption() { return this.toys.picture; }
  redraw() { this.draw(); }
  drop() { this.watch.disconnect(); this.steps?.stop(); }

  build() {
    const { toys } = this, card = el("section", "card top"), head = el("header");
    head.append(el("h2", "", "The method at work"), el("span", "sub", "24 tokens, 2 layers of 2 KV heads; run by the same code as any prompt"));
    offerPicture(this, card, head, "toy", false);
    this.steps = new Steps(toys.S - 1, () => this.drawStep(), toys.start);
    this.steps.part.classList.add("wide");
    this.say = el("p", "say");
    this.say.setAttribute("role", "status");
    this.plot = el("div", "plot");
    this.canvas = el("canvas", "entries");
    this.canvas.setAttribute("role", "img");
    this.plot.append(this.canvas);
    this.canvas.onpointermove = (e) => this.point(e);
    this.canvas.onpointerleave = () => { this.at = null; this.drawStep(); };
    this.strip = textStrip(toys.words, toys.prompt);
    card.append(head, this.strip, this.steps.part, this.plot, this.say, legend(this.colours, this.extra));
    this.body.append(card);
  }

  draw() {
    this.wide = this.body.clientWidth;
    if (this.wide < 200) return; // not on screen yet
    this.colours.read();
    for (const draw of this.extra) draw();
    const { toys } = this, narrow = this.wide < 620;
    this.left = narrow ? 42 : 62;
    this.side = narrow ? 0 : 132;
    this.w = (this.wide - 34 - this.left - this.side) / toys.P;
    this.h = narrow ? 18 : 24;
    this.gap = 8;
    this.top = narrow ? 52 : 46;
    this.under = this.top + toys.R * this.h + (toys.L - 1) * this.gap;
    this.high = this.under + 92;
    size(this.canvas, this.wide - 34, this.high);
    this.drawStep();
  }
  drawStep() {
    const { toys, colours: c } = this, { step } = this.steps, g = this.canvas.getContext("2d");
    clear(g);
    g.font = c.font;
    this.wordsAbove(g, c, step);
    drawToy(g, c, this.cells, toys, 0, step, { x: this.left, y: this.top, w: this.w, h: this.h, gap: this.gap });
    for (let r = 0; r < toys.R; r++) this.row(g, c, r, step);
    const edge = this.left + toys.prompt * this.w - 0.5;
    dotted(g, c.small, edge, this.top - 6, edge, this.under + 4, [3, 3]);
    if (this.at) this.ring(g, c);
    this.bytes(g, c, step);
    this.strip.step(step);
    this.tell(step);
  }
  rowTop(r) { return this.top + r * this.h + Math.floor(r / this.toys.H) * this.gap; }
  wordsAbove(g, c, step) {
    const { toys } = this;
    for (let p = 0; p < toys.P; p++) {
      g.save();
      g.translate(this.left + (p + 0.5) * this.w + 3, this.top - 8);
      g.rotate(this.w < 20 ? -1.2 : -0.75);
      label(g, c, toys.words[p], 0, 0, "left", p < toys.prompt + step ? c.text : c.edge, p === toys.prompt + step - 1 && step > 0);
      g.restore();
    }
  }
  row(g, c, r, step) {
    const { toys } = this, y = this.rowTop(r) + this.h / 2 + 4;
    label(g, c, `L${Math.floor(r / toys.H)} · H${r % toys.H}`, this.left - 8, y, "right", this.at && this.at[0] === r ? c.ink : c.small);
    if (!this.side) return;
    let held = 0;
    for (let p = 0; p < toys.prompt + step; p++) held += [HELD, UNREAD].includes(toys.kind[toys.at(0, step, r, p)]);
    const x = this.left + toys.P * this.w + 10, wide = 66, top = this.rowTop(r) + this.h / 2 - 5;
    g.strokeStyle = c.edge;
    g.lineWidth = 1;
    g.strokeRect(x + 0.5, top + 0.5, wide - 1, 9);
    g.fillStyle = c.held;
    g.globalAlpha = 0.6;
    g.fillRect(x, top, (wide * held) / (toys.prompt + step), 10);
    g.globalAlpha = 1;
    label(g, c, `${held} of ${toys.prompt + step}`, x + wide + 6, y, "left");
  }
  ring(g, c) {
    const [r, p] = this.at;
    g.strokeStyle = c.ink;
    g.lineWidth = 2;
    g.strokeRect(this.left + p * this.w - 1, this.rowTop(r), this.w, this.h);
  }
  // bytes after each step, under the columns of the tokens then written: the full cache dashed, this one solid
  bytes(g, c, step) {
    const { toys } = this, top = this.under + 30, low = this.under + 78, most = Math.max(...toys.full, ...toys.held);
    const x = (s) => this.left + (toys.prompt + s - 0.5) * this.w, y = (b) => low - ((low - top) * b) / most;
    label(g, c, "bytes held", this.left + (toys.prompt - 1.2) * this.w - 6, y(0) - 16, "right");
    label(g, c, "by tensors, measured", this.left + (toys.prompt - 1.2) * this.w - 6, y(0) - 1, "right");
    const line = (values, last) => { g.beginPath(); for (let s = 0; s <= last; s++) g[s ? "lineTo" : "moveTo"](x(s), y(values[s])); g.stroke(); };
    g.strokeStyle = c.hairline;
    g.lineWidth = 1;
    g.beginPath(); g.moveTo(x(0), low + 0.5); g.lineTo(x(toys.S - 1), low + 0.5); g.stroke();
    g.strokeStyle = c.reference;
    g.lineWidth = 1.5;
    g.setLineDash([6, 4]);
    line(toys.full, toys.S - 1);
    g.setLineDash([]);
    g.strokeStyle = c.held;
    g.lineWidth = 2.2;
    line(toys.held, step);
    g.fillStyle = c.held;
    g.beginPath(); g.arc(x(step), y(toys.held[step]), 3.5, 0, 7); g.fill();
    if (this.side) {
      const apart = Math.abs(y(toys.full[toys.S - 1]) - y(toys.held[step])) > 14;
      if (apart) label(g, c, `full ${grouped(toys.full[toys.S - 1])}`, x(toys.S - 1) + 12, y(toys.full[toys.S - 1]) + 4, "left");
      label(g, c, grouped(toys.held[step]), x(toys.S - 1) + 12, y(toys.held[step]) + 4, "left", c.held, true);
    }
  }

  point(e) {
    const box = this.canvas.getBoundingClientRect(), { toys } = this, p = Math.floor((e.clientX - box.left - this.left) / this.w), y = e.clientY - box.top;
    const r = [...Array(toys.R).keys()].find((one) => y >= this.rowTop(one) && y < this.rowTop(one) + this.h);
    const at = r === undefined || p < 0 || p >= toys.P ? null : [r, p];
    if (String(at) === String(this.at)) return;
    this.at = at;
    this.drawStep();
  }
  tell(step) {
    const { toys } = this, now = toys.counts(0, step), before = step ? toys.counts(0, step - 1) : { gone: 0 }, left = now.gone - before.gone;
    const held = `${now.held} of ${now.all} entries held` + (now.read < now.held ? `, ${now.read} read` : "") + (left > 0 ? `; ${left} left since the step before` : "");
    this.canvas.setAttribute("aria-label", `Entries of each layer and head at step ${step}: ${held}, ${grouped(toys.held[step])} of ${grouped(toys.full[step])} bytes`);
    if (this.at) {
      const [r, p] = this.at, i = toys.at(0, step, r, p), read = toys.kind[i] === HELD ? `, gets ${Math.round((toys.glow[i] / 255) ** 2 * 100)} % of this head's attention` : "";
      this.say.textContent = `L${Math.floor(r / toys.H)} · H${r % toys.H}, “${toys.words[p]}” at ${p}: ${toys.state(0, step, r, p)}${read}`;
    } else this.say.textContent = `${step ? `Step ${step}, “${toys.words[toys.prompt + step - 1]}” looks back` : "The prompt's last token looks back; nothing has acted yet"}: ${held}.`;
  }
}

const players = new WeakMap(); // one per mounted component: Python calls again after every rerun

export default function (component) {
  const root = component.parentElement;
  if (!players.has(root)) players.set(root, new Player(root));
  const player = players.get(root);
  player.update(component);
  return () => { player.drop(); player.body.remove(); players.delete(root); };
}
