// a toy's entries at one step: a row per layer and KV head, a column per token; what is seen at every size, from 4 px a cell

class Toys {
  constructor(bytes) {
    const { length, header } = readHeader(bytes), raw = bytes.slice().buffer;
    Object.assign(this, header);
    for (const [name, { kind, at, size: n }] of Object.entries(header.arrays)) this[name] = new KINDS[kind](raw, 4 + length + at, n);
    this.R = this.L * this.H;
  }
  at(toy, step, r, p) { return ((toy * this.S + step) * this.R + r) * this.P + p; }
  counts(toy, step) {
    let held = 0, gone = 0, read = 0;
    for (let r = 0; r < this.R; r++) for (let p = 0; p < this.prompt + step; p++) {
      const kind = this.kind[this.at(toy, step, r, p)];
      if (kind === HELD || kind === UNREAD) held++;
      if (kind === EVICTED || kind === MERGED) gone++;
      if (kind !== UNREAD && kind !== EVICTED && kind !== MERGED) read++;
    }
    return { held, gone, read, all: this.R * (this.prompt + step) };
  }
  state(toy, step, r, p) {
    const i = this.at(toy, step, r, p), kind = this.kind[i], [k, v] = [this.kbits[i], this.vbits[i]];
    if (kind === HELD && (k || v)) return `held, keys in ${k || this.precision} and values in ${v || this.precision} bits`;
    if (kind === MERGED) return `merged into “${this.words[this.into[(toy * this.R + r) * this.P + p]]}”`;
    return ["not written yet", "held in full", "evicted", "", "held, not read at this step", `not held here: this layer reads a lower layer's entries`][kind];
  }
}

// draws one toy into a box at x, y of a picture: cells of `w` x `h` px, `gap` px more between layers; `cells` is the picture's own painter
function drawToy(g, c, cells, toys, toy, step, { x, y, w, h, gap }) {
  const flat = h - (h > 14 ? 4 : h > 6 ? 2 : 1);
  cells.lay(Array.from({ length: toys.R }, (_, r) => ({ y: r * h + Math.floor(r / toys.H) * gap + (h - flat) / 2, h: flat })), w * toys.P, toys.P, w > 12 ? 1.5 : w > 4.2 ? 1 : 0);
  cells.paint(c);
  for (let r = 0; r < toys.R; r++) for (let p = 0; p < toys.P; p++) cells.set(r, p, p < toys.prompt + step ? toyLook(toys, toys.at(toy, step, r, p)) : 0);
  cells.put(g, x, y);
}
function toyLook(toys, i) {
  const kind = toys.kind[i], bits = ((toys.kbits[i] || toys.precision) + (toys.vbits[i] || toys.precision)) / 2;
  if (kind !== HELD) return kind > EVICTED ? look(kind) : 0;
  return look(HELD, Math.round(255 * (0.38 + (0.62 * toys.glow[i]) / 255)), heightOf(bits, toys.precision));
}

function marker(at) {
  const box = svg("svg", { width: 14, height: 14, viewBox: "0 0 16 16", "aria-hidden": "true", class: "marker" }), fill = `var(--${at.fill})`;
  box.append(at.outline ? svg("polygon", { points: at.outline, transform: "translate(8 8) scale(7)", fill }) : svg("circle", { cx: 8, cy: 8, r: 6, fill }));
  return box;
}

// play, rail and arrow keys over the steps; `goto` is told of every change
class Steps {
  constructor(last, goto, start) {
    this.last = last;
    this.goto = goto;
    this.step = start;
    this.part = el("div", "steps");
    this.play = el("button", "play");
    this.play.append(svg("svg", { viewBox: "0 0 12 12", width: 12, height: 12 }, svg("path", { fill: "currentColor" })));
    this.play.onclick = () => this.run();
    this.now = el("div", "now");
    this.now.append(el("b"), el("span", "", `of ${last}`));
    this.rail = el("div", "rail");
    this.rail.tabIndex = 0;
    for (const [name, value] of [["role", "slider"], ["aria-label", "Step of the text that is written"], ["aria-valuemin", 0], ["aria-valuemax", last]]) this.rail.setAttribute(name, value);
    this.done = el("i", "done");
    this.knob = el("i", "knob");
    this.rail.append(el("i", "track"), this.done, this.knob);
    for (let s = 0; s <= last; s++) {
      const tick = el("span", "tick", s ? String(s) : "prompt");
      if (!s) tick.classList.add("first");
      tick.style.left = `${(100 * s) / last}%`;
      this.rail.append(tick);
    }
    this.part.append(this.play, this.now, this.rail);
    this.rail.onpointerdown = (e) => { this.rail.setPointerCapture(e.pointerId); this.drag = true; this.to(e); };
    this.rail.onpointermove = (e) => this.drag && this.to(e);
    this.rail.onpointerup = this.rail.onpointercancel = () => (this.drag = false);
    this.show();
  }
  to(e) {
    const box = this.rail.getBoundingClientRect();
    this.set(Math.round(((e.clientX - box.left) / box.width) * this.last));
  }
  key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || ["INPUT"].includes(e.target.tagName)) return;
    const to = { ArrowRight: this.step + 1, ArrowLeft: this.step - 1, Home: 0, End: this.last }[e.key];
    if (to !== undefined) this.set(to);
    else if (e.key === " " && !["BUTTON", "A"].includes(e.target.tagName)) this.run();
    else return;
    e.preventDefault();
    e.stopPropagation();
  }
  set(step) {
    step = Math.max(0, Math.min(this.last, step));
    if (step === this.step) return;
    this.step = step;
    this.show();
    this.goto(step);
  }
  run() {
    if (this.clock) this.stop();
    else {
      if (this.step >= this.last) this.set(0);
      this.clock = setInterval(() => (this.step < this.last ? this.set(this.step + 1) : this.stop()), 700);
    }
    this.show();
  }
  stop() { clearInterval(this.clock); this.clock = 0; this.show(); }
  show() {
    this.play.querySelector("path").setAttribute("d", this.clock ? "M2 1h3v10H2zM7 1h3v10H7z" : "M2.5 1v10l8-5z");
    this.play.setAttribute("aria-label", this.clock ? "Pause" : "Play the steps");
    this.now.firstChild.textContent = `Step ${this.step}`;
    this.done.style.width = this.knob.style.left = `${(100 * this.step) / this.last}%`;
    this.rail.setAttribute("aria-valuenow", this.step);
    this.rail.setAttribute("aria-valuetext", this.step ? `step ${this.step} of ${this.last}` : "the prompt has been read");
  }
}

// the text, one word a token: those of the prompt, those written, those still to come
function textStrip(words, prompt) {
  const strip = el("p", "words");
  words.forEach((word, p) => {
    const one = el("span", p < prompt ? "" : "written", word);
    if (p === prompt) strip.append(el("span", "part", "writes"));
    strip.append(one, " ");
  });
  strip.step = (step) => strip.querySelectorAll("span:not(.part)").forEach((one, p) => one.classList.toggle("later", p >= prompt + step));
  return strip;
}

// what the marks mean, drawn by the same hand as the maps
function legend(c, draw) {
  const box = el("div", "legend"), keys = [["held, stronger is read more", HELD], ["lower: fewer bits", HELD, 4], ["evicted", EVICTED], ["merged into another", MERGED], ["held, not read", UNREAD], ["held by another layer", ELSEWHERE]];
  for (const [words, kind, bits] of keys) {
    const item = el("span", "key"), canvas = el("canvas");
    item.append(canvas, el("span", "", words));
    box.append(item);
    draw.push(() => {
      size(canvas, 18, 14);
      const g = canvas.getContext("2d");
      clear(g);
      const cells = new Cells();
      cells.lay([{ y: 0, h: 12 }], 16, 2, 1);
      cells.paint(c);
      for (const i of [0, 1]) cells.set(0, i, kind === HELD ? look(HELD, [140, 207][i], heightOf(bits, 16)) : kind > EVICTED ? look(kind) : 0);
      cells.put(g, 1, 1);
    });
  }
  return box;
}
