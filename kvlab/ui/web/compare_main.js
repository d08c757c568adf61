// one step and one token for all runs. Python hears of them on release only

class Compare extends Stepped {
  constructor(root) {
    super();
    this.view = { step: 0, token: -1 };
    this.hovered = -1;
    this.body = el("div", "inside compare");
    this.tracks = new Tracks(this);
    this.columns = el("div", "columns");
    this.columns.tabIndex = 0;
    this.columns.setAttribute("role", "region");
    this.columns.setAttribute("aria-label", "The runs side by side");
    this.shared = this.together();
    this.strip = new Strip(this.shared);
    this.sets = new Sets();
    this.live = el("div", "live");
    this.live.setAttribute("aria-live", "polite");
    this.body.append(this.tracks.card, this.columns, this.strip.card, this.sets.card, this.live);
    root.append(this.body);
    offerPicture(this, this.tracks.card, this.tracks.side, "tracks", true);
    offerPicture(this, this.strip.card, this.strip.card.querySelector("header"), "prompt", true);
    offerPicture(this, this.sets.card, this.sets.card.querySelector("header"), "overlap", true);
    this.colours = new Colours(this.body, () => this.lanes && this.layout());
    this.body.onkeydown = (e) => this.stepKey(e);
    this.body.onkeyup = () => this.commitSoon();
    this.watch = new ResizeObserver(() => this.lanes && this.body.clientWidth !== this.wide && this.layout());
    this.watch.observe(this.body);
    this.near = new IntersectionObserver(([entry]) => { this.seen = entry.isIntersecting; if (this.seen && this.lanes) this.drawStrip(); });
    this.near.observe(this.strip.card);
  }

  // the strip of Look inside over all runs at once: who still holds a token of the prompt
  together() {
    const app = this;
    return {
      run: null,
      get view() { return { step: 0, token: app.view.token, until: -1 }; },
      get hovered() { return app.hovered; },
      span: () => app.span(),
      hover: (p, speak) => app.hover(p, speak),
      lock: (p) => app.lock(p),
    };
  }

  update(component) {
    this.send = component.setStateValue;
    const bytes = component.data, { length, header } = readHeader(bytes);
    if (this.key === header.key && this.arrival === header.arrival) return;
    this.arrival = header.arrival;
    this.view = { ...header.view };
    this.sent = JSON.stringify(this.view);
    if (this.key !== header.key) this.open(bytes, length, header);
    this.layout();
    this.strip.reveal(this.view.token);
  }
  open(bytes, length, header) {
    this.key = header.key;
    this.said = header.picture;
    ({ pieces: this.pieces, prompt: this.prompt, asked: this.asked, reference: this.reference, writes: this.writes } = header);
    this.lanes = header.cards.map((card, n) => new Lane(bytes.subarray(4 + length + header.spans[n][0], 4 + length + header.spans[n][0] + header.spans[n][1]), card, header.pieces));
    this.P = Math.max(...this.lanes.map((lane) => lane.P));
    this.run = { S: Math.max(this.writes.length, ...this.lanes.map((lane) => lane.S)) };
    const heads = this.lanes.reduce((sum, lane) => sum + lane.R, 0);
    this.shared.run = { pieces: this.pieces, prompt: this.prompt, asked: this.asked, P: this.asked, R: heads, S: 0, born_: this.asked, first: null, tops: [], named: [], lostRows: new Map(), a: {}, heldCount: new Uint16Array(this.asked) };
    this.parts = this.lanes.map((lane) => new Column(this, lane));
    this.columns.replaceChildren(...this.parts.map((part) => part.card));
    this.columns.style.setProperty("--n", this.lanes.length);
    this.sets.load(header.sets);
    this.strip.load();
    this.strip.card.querySelector("h2").textContent = "The prompt";
    this.strip.sub.textContent = `line under a token: share of the ${grouped(heads)} heads of all columns that hold it at this step`;
  }
  caption() { return { ...this.said, setting: `${this.said.setting} · step ${this.view.step}` }; }
  redraw() { this.layout(); }
  drop() { this.watch.disconnect(); this.near.disconnect(); this.stop(); }

  span() {
    const { token } = this.view;
    return token < 0 || !this.lanes ? [-1, -1] : token < this.asked ? this.lanes[0].word(token) : [token, token];
  }

  layout() {
    this.wide = this.body.clientWidth;
    this.colours.read();
    this.tracks.layout();
    for (const part of this.parts) part.layout();
    this.drawStep();
    this.drawStrip();
    this.drawMarks();
  }
  drawStep() {
    for (const lane of this.lanes) lane.at(this.view.step);
    this.tracks.step();
    for (const part of this.parts) part.step();
    if (this.seen) this.drawStrip();
  }
  drawStrip() { // hundreds of words: only while they are on screen
    const { heldCount } = this.shared.run;
    heldCount.fill(0);
    for (const lane of this.lanes) for (let p = 0; p < heldCount.length; p++) heldCount[p] += lane.heldCount[p];
    this.strip.step();
  }
  drawMarks() {
    for (const part of this.parts) part.mark();
    this.strip.mark();
  }

  get scrubber() { return this.tracks; }
  stepKey(e) { if (e.target !== this.columns || !/Arrow/.test(e.key)) super.stepKey(e); } // arrows scroll the columns
  hover(p, speak = false) {
    if (p >= this.P) p = -1;
    if (p === this.hovered) return;
    this.hovered = p;
    this.drawMarks();
    if (speak && p >= 0) this.live.textContent = `token ${p}, ${shown(this.pieces[p] ?? "")}: ${this.parts.map((part) => `${part.lane.card.name} ${part.says.textContent}`).join("; ")}`;
  }
  lock(p) {
    if (p >= this.asked) return; // a token of an answer stands in one column only
    this.view.token = p === this.view.token ? -1 : p;
    this.drawMarks();
    this.drawStep();
    this.strip.reveal(this.view.token);
    this.commit();
  }
}

const shownCompares = new WeakMap(); // one per mounted component: Python calls again after every rerun

export default function (component) {
  const root = component.parentElement;
  if (!shownCompares.has(root)) shownCompares.set(root, new Compare(root));
  const compare = shownCompares.get(root);
  compare.update(component);
  return () => { compare.drop(); compare.body.remove(); shownCompares.delete(root); };
}
