// one line of time for all runs: the reference's words over it, a hill per run, a ◆ where its text first differs

class Tracks extends Scrubber {
  constructor(app) {
    super(app);
    this.card.className = "card tracks";
    const corner = el("div", "corner"), now = el("div", "where");
    this.title = el("h2");
    corner.append(this.title, el("span", "sub", "one token per step"));
    now.append(this.play, this.now);
    this.words = svg("svg", { class: "words", "aria-hidden": "true" });
    this.lanes = el("div", "lanes");
    this.scale = el("span", "sub");
    this.side = el("span");
    this.card.replaceChildren(corner, this.words, this.side, this.lanes, now, this.rail, this.scale);
    for (const part of [this.words, this.lanes]) { // the whole picture is the handle, not only the rail
      part.onpointerdown = (e) => { if (e.target.closest("button, a")) return; part.setPointerCapture(e.pointerId); this.drag = true; this.to(e); };
      part.onpointermove = this.rail.onpointermove;
      part.onpointerup = part.onpointercancel = this.rail.onpointerup;
    }
  }

  area() {}
  marks() {}
  layout() {
    super.layout();
    const { app } = this;
    this.most = Math.max(1, ...app.lanes.flatMap((lane) => (lane.a.far ? [...lane.a.far] : [])));
    this.title.textContent = `${app.reference} writes`;
    this.scale.textContent = app.lanes.some((lane) => lane.a.far) ? "bits from the full cache, root scale" : "";
    this.hillHigh = app.lanes.length > 4 ? 30 : 38;
    this.write();
    this.lanes.replaceChildren(...app.lanes.map((lane) => this.lane(lane)).flat());
    this.card.style.setProperty("--hill", `${this.hillHigh}px`);
    this.card.style.setProperty("--up", `${app.lanes.length * (this.hillHigh + 10) - 2}px`);
    this.lit = null;
  }

  write() { // every word that has the room for its slant, and always the one of this step
    const { writes } = this.app, step = this.S() > 1 ? this.x(1) - this.x(0) : 99, every = Math.max(1, Math.ceil(15 / step));
    this.words.setAttribute("width", this.width);
    const longest = Math.max(...writes.map((word) => textWidth(shown(word, 10), `600 14px ${this.app.colours.font.slice(5)}`)));
    const tall = Math.ceil(18 + longest * 0.67); // the sine of the slant
    this.words.setAttribute("height", tall);
    this.texts = writes.map((word, s) => {
      const text = svg("text", { transform: `translate(${(this.x(s) + 4).toFixed(1)} ${tall - 8}) rotate(-42)`, class: s % every ? "spare" : "" });
      text.textContent = shown(word, 10);
      return text;
    });
    this.words.replaceChildren(...this.texts);
  }
  S() { return this.app.run.S; }

  lane(lane) {
    const { card } = lane, who = el("div", "who"), art = svg("svg", { class: "track-art", width: this.width, height: this.hillHigh, "aria-hidden": "true" }), say = el("div", "agree");
    who.append(badge(card), mark(card), el("span", "run-label", card.name));
    if (card.reference) who.append(el("span", "tag", "reference"));
    if (lane.a.far) this.hill(lane, art);
    if (card.first !== null && !card.reference) {
      const go = el("button", "go", "◆");
      go.setAttribute("aria-label", `${card.name}: go to its first difference, step ${card.first}`);
      go.onclick = () => { this.app.goto(card.first); this.app.commit(); };
      go.style.left = `${this.x(card.first)}px`;
      const field = el("div", "field");
      field.append(art, go);
      lane.field = field;
    } else { lane.field = el("div", "field"); lane.field.append(art); }
    lane.says = el("span", "now-far");
    const agree = card.agree ? `${card.agree[0]} / ${card.agree[1]} agree` : "";
    say.append(el("b", "", agree), lane.says);
    say.title = card.agree ? "steps at which the full cache, reading this run's own text, would have written the same token" : "";
    return [who, lane.field, say];
  }

  hill(lane, art) {
    const high = this.hillHigh, far = Array.from(lane.a.far), y = (v) => high - 3 - (high - 10) * Math.sqrt(Math.max(0, v) / this.most);
    const points = far.map((v, s) => `${this.x(s).toFixed(1)},${y(v).toFixed(1)}`);
    if (points.length === 1) points.push(`${(this.x(0) + 6).toFixed(1)},${y(far[0]).toFixed(1)}`);
    const id = `hatch-${lane.card.letter}`, line = svg("path", { d: `M${points.join("L")}`, class: "far" });
    line.style.stroke = `var(--${lane.card.hue})`;
    art.append(
      svg("pattern", { id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("path", { d: "M2 0V5", class: "stripe" })),
      svg("path", { d: `M${this.x(0)},${high - 3}L${points.join("L")}L${this.x(far.length - 1)},${high - 3}Z`, fill: `url(#${id})` }), line,
    );
    if (far.length < this.S()) art.append(svg("path", { class: "over", d: `M${this.x(far.length - 1)},${high - 8}v10` }), svg("text", { x: this.x(far.length - 1) + 6, y: high - 6 }, "ended"));
  }

  step() {
    const { app } = this, s = app.view.step, x = this.x(s);
    this.number.textContent = `Step ${s}`;
    this.of.textContent = `of ${this.S() - 1}`;
    this.knob.style.transform = `translateX(${x - 8}px)`;
    this.head.style.transform = `translateX(${x - 1}px)`;
    this.done.style.width = `${Math.max(0, x - 8)}px`;
    if (this.lit) this.lit.classList.remove("lit");
    this.lit = this.texts[s];
    if (this.lit) this.lit.classList.add("lit");
    for (const lane of app.lanes) lane.says.textContent = !lane.a.far ? "" : s < lane.S ? `${far(lane.a.far[s])} bits` : "ended";
    const said = app.lanes.filter((lane) => !lane.card.reference).map((lane) => `${lane.card.name} ${s < lane.S ? `writes ${shown(lane.answer[s])}` : "has ended"}`);
    this.rail.setAttribute("aria-valuenow", s);
    this.rail.setAttribute("aria-valuetext", `step ${s} of ${this.S() - 1}: ${app.reference} ${s < app.writes.length ? `writes ${shown(app.writes[s])}` : "has ended"}; ${said.join("; ")}`);
  }
}

const far = (bits) => (bits >= 9.95 ? Math.round(bits).toString() : bits >= 0.095 ? bits.toFixed(1) : bits >= 0.0095 ? bits.toFixed(2) : "0.00");

function badge(card) {
  const box = el("span", "badge", card.letter);
  box.style.setProperty("--hue", `var(--${card.hue})`);
  return box;
}
function mark(card) { // the method's shape; none while names are hidden
  const art = svg("svg", { class: "mark", viewBox: "-1.25 -1.25 2.5 2.5", width: 14, height: 14, "aria-hidden": "true" });
  if (!card.mark) { art.style.display = "none"; return art; }
  const shape = card.mark.outline ? svg("polygon", { points: card.mark.outline }) : svg("circle", { r: 0.9 });
  shape.style.fill = `var(--${card.mark.fill})`;
  shape.style.stroke = `var(--${card.mark.edge})`;
  shape.setAttribute("stroke-width", card.mark.fill === card.mark.edge ? 0 : 0.45);
  art.append(shape);
  return art;
}
