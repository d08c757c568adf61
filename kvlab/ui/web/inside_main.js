// one selection for all parts: step, head, locked token, span, hover. Python hears of it on release only

class Inside extends Stepped {
  constructor(root) {
    super();
    this.view = { step: 0, layer: 0, head: 0, token: -1, until: -1, track: -1, till: -1 };
    this.hovered = this.hoverRow = -1;
    this.body = el("div", "inside");
    this.parts = { strip: new Strip(this), scrubber: new Scrubber(this), map: new KeptMap(this), heads: new Heads(this), token: new TokenPanel(this), span: new SpanPanel(this), bytes: new BytesPanel(this) };
    const left = el("div", "left"), right = el("div", "right"), p = this.parts;
    left.append(p.strip.card, p.scrubber.card, p.map.card);
    right.append(p.heads.card, p.token.card, p.span.card, p.bytes.card);
    this.live = el("div", "live");
    this.live.setAttribute("aria-live", "polite");
    this.body.append(left, right, this.live);
    root.append(this.body);
    const heads = (part) => part.card.querySelector("header");
    for (const [name, part, vector] of [["tokens", p.strip, true], ["kept-entries", p.map, false], ["heads", p.heads, true], ["span", p.span, false], ["bytes", p.bytes, true]])
      offerPicture(this, part.card, heads(part), name, vector);
    this.colours = new Colours(this.body, () => this.run && this.layout());
    this.body.onkeydown = (e) => this.stepKey(e);
    this.body.onkeyup = () => this.commitSoon();
    this.watch = new ResizeObserver(() => this.run && this.body.clientWidth !== this.wide && this.layout());
    this.watch.observe(this.body);
  }

  update(component) {
    this.send = component.setStateValue;
    this.ask = component.setTriggerValue;
    const bytes = component.data, { header } = readHeader(bytes);
    if (this.run && this.run.run === header.run && this.arrival === header.arrival) return;
    if (!this.run || this.run.run !== header.run) this.run = new Run(bytes);
    this.run.named = header.named;
    restoreAddress(header.run);
    this.arrival = header.arrival;
    this.view = { ...header.view };
    this.sent = JSON.stringify(this.view);
    this.parts.map.from = undefined;
    this.run.at(this.view.step);
    for (const part of [this.parts.strip, this.parts.heads, this.parts.bytes]) part.load();
    this.layout();
    this.parts.strip.reveal(this.view.token);
  }
  caption() { const { picture } = this.run; return { ...picture, setting: `${picture.setting} · step ${this.view.step}, ${this.run.name(this.row())}` }; }
  redraw() { this.layout(); }
  drop() { this.watch.disconnect(); this.stop(); }

  row() { return this.view.layer * this.run.H + this.view.head; }
  span() {
    const { token, until } = this.view;
    if (token < 0) return [-1, -1];
    return until >= 0 ? [Math.min(token, until), Math.max(token, until)] : this.run.word(token);
  }
  tracked() { return this.view.track >= 0 ? [this.view.track, this.view.till] : this.span(); }
  trackSpan() {
    const { view } = this, [from, to] = this.span(), same = view.track === from && view.till === to;
    [view.track, view.till] = same ? [-1, -1] : [from, to];
    this.parts.token.draw();
    this.parts.span.draw();
    this.parts.scrubber.layout();
    this.parts.scrubber.step();
    this.commit();
  }
  protect() {
    const [from, to] = this.span();
    this.ask("protect", { from, to });
  }
  metricWord() {
    const { run } = this;
    if (!run.a.missing) return "share kept";
    return !run.a.unread ? "missing attention" : run.cuts.length ? "missing or unread attention" : "attention not read";
  }
  state(r, p) {
    const { run } = this, left = run.a.left[r * run.P + p], into = run.merged(r, p);
    if (p >= run.born_) return "not in the cache yet";
    if (into >= 0) return `merged into “${shown(run.pieces[into])}” at step ${left}`;
    if (!run.held(r, p)) return run.windows[Math.floor(r / run.H)] ? `left the window at step ${left}` : `evicted at step ${left}`;
    return run.unread(r, p) ? "held, not read" : "held";
  }

  layout() {
    this.wide = this.body.clientWidth;
    this.colours.read();
    this.parts.scrubber.layout();
    this.parts.map.layout();
    this.drawStep();
    this.drawPick();
    this.drawMarks();
    this.parts.span.draw();
  }
  drawStep() {
    const p = this.parts;
    this.run.at(this.view.step);
    p.strip.step();
    p.scrubber.step();
    p.map.draw();
    p.map.attention.draw();
    p.map.crosshairs();
    p.heads.step();
    p.token.draw();
    p.span.step();
  }
  drawPick() { this.parts.heads.pick(); }
  drawMarks() { this.parts.strip.mark(); this.parts.map.crosshairs(); }

  get scrubber() { return this.parts.scrubber; }
  pick(r, commit = true) {
    this.view.layer = Math.floor(r / this.run.H);
    this.view.head = r % this.run.H;
    this.parts.map.draw();
    this.parts.map.attention.draw();
    this.parts.map.crosshairs();
    this.parts.token.draw();
    this.parts.span.step();
    this.drawPick();
    if (commit) this.commit();
  }
  lock(p, extend = false) {
    const { view } = this;
    if (p >= this.run.P) return;
    if (extend && view.token >= 0 && p >= 0) view.until = p === view.token ? -1 : p;
    else [view.token, view.until] = [p === view.token ? -1 : p, -1];
    this.parts.token.draw();
    this.parts.span.draw();
    this.parts.strip.reveal(view.token);
    if (view.token >= 0) this.parts.map.reveal(view.token);
    this.drawMarks();
    this.commit();
  }
  hover(p, speak = false, row = -1) {
    if (p >= this.run.P) p = -1;
    if (p === this.hovered && row === this.hoverRow) return;
    this.hovered = p;
    this.hoverRow = row;
    this.drawMarks();
    this.parts.map.say(this.run);
    if (this.view.token < 0) this.parts.token.draw();
    if (speak && p >= 0) this.live.textContent = `token ${p}, ${shown(this.run.pieces[p])}, held by ${this.run.heldCount[p]} of ${this.run.R} heads, ${this.run.name(this.row())} ${this.state(this.row(), p)}`;
  }
}

// What the page before this one was still asked for may put its own address over this one's, after this one was opened
function restoreAddress(run) {
  if (!location.pathname.endsWith("/inside")) return;
  const asked = new URLSearchParams(location.search);
  if (!asked.has("job") && asked.get("run") === run) return;
  if (asked.get("run") !== run) for (const name of [...asked.keys()]) asked.delete(name);
  asked.delete("job");
  asked.set("run", run);
  history.replaceState(history.state, "", `?${asked}`);
}

const shownRuns = new WeakMap(); // one per mounted component: Python calls again after every rerun

export default function (component) {
  const root = component.parentElement;
  if (!shownRuns.has(root)) shownRuns.set(root, new Inside(root));
  const inside = shownRuns.get(root);
  inside.update(component);
  return () => { inside.drop(); inside.body.remove(); shownRuns.delete(root); };
}
