// a toy's entries at one step: a row per layer and KV head, a column per token; what is seen at every size, from 4 px a cell

const [LATER, HELD, EVICTED, MERGED, UNREAD, ELSEWHERE] = [0, 1, 2, 3, 4, 5]; // as kvlab.toy.KINDS

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

// draws one toy into a box at x, y: cells of `w` x `h` px, `gap` px more between layers
function drawToy(g, c, toys, toy, step, { x, y, w, h, gap }) {
  const air = w > 12 ? 1.5 : w > 4.2 ? 0.8 : 0.5;
  for (let r = 0; r < toys.R; r++) {
    const top = y + r * h + Math.floor(r / toys.H) * gap, flat = h - (h > 14 ? 4 : h > 6 ? 2 : 1);
    g.fillStyle = c.hairline;
    g.globalAlpha = 1;
    g.fillRect(x, Math.round(top + h / 2) - 0.5, w * toys.P, 1);
    for (let p = 0; p < toys.prompt + step; p++) drawEntry(g, c, toys, toys.at(toy, step, r, p), x + p * w, top + (h - flat) / 2, w - air, flat);
  }
  g.globalAlpha = 1;
}

function drawEntry(g, c, toys, i, x, y, w, h) {
  const kind = toys.kind[i];
  g.fillStyle = g.strokeStyle = c.held;
  g.globalAlpha = 1;
  if (kind === HELD) {
    const bits = ((toys.kbits[i] || toys.precision) + (toys.vbits[i] || toys.precision)) / 2;
    const tall = bits < toys.precision ? Math.max(2, h * (0.3 + (0.7 * bits) / toys.precision)) : h;
    g.globalAlpha = 0.38 + (0.62 * toys.glow[i]) / 255;
    g.fillRect(x, y + h - tall, w, tall);
  } else if (kind === UNREAD) {
    g.lineWidth = 1;
    g.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
  } else if (kind === MERGED) {
    const r = Math.min(w / 2 - 0.4, h * 0.28, 5), mid = x + w / 2;
    g.lineWidth = w > 12 ? 1.4 : 1;
    g.beginPath();
    g.arc(mid, y + r + 0.5, r, 0, 7);
    g.moveTo(mid, y + 2 * r + 0.5);
    g.lineTo(mid, y + h);
    g.stroke();
  } else if (kind === ELSEWHERE) { // a dot where there is room for no more
    g.lineWidth = 1;
    g.setLineDash([3, 2]);
    if (w > 12) g.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
    else g.fillRect(x + w / 2 - 1, y + h / 2 - 1, 2, 2);
    g.setLineDash([]);
  }
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
      g.fillStyle = c.hairline;
      g.fillRect(0, 7, 18, 1);
      const one = { kind: [kind, kind], kbits: [bits || 0, bits || 0], vbits: [bits || 0, bits || 0], glow: [50, 190], precision: 16 };
      for (const i of [0, 1]) drawEntry(g, c, one, i, 1 + i * 8, 1, 7, 12);
    });
  }
  return box;
}
