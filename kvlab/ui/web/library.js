// The list of runs. What is ticked lives here and is told to Python; a new `epoch` from Python sets it anew. All texts enter through textContent
const NS = "http://www.w3.org/2000/svg";

function el(parent, tag, cls, text) {
  const node = parent.appendChild(document.createElement(tag));
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  return node;
}
function svg(parent, tag, attrs) {
  const node = parent.appendChild(document.createElementNS(NS, tag));
  for (const [key, value] of Object.entries(attrs)) node.setAttribute(key, value);
  return node;
}
function marker(parent, { outline, fill, edge }) {
  const box = svg(parent, "svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true", class: "marker" });
  const both = fill !== edge, r = both ? 5.5 : 6.5;
  const paint = { fill: `var(--${fill})`, stroke: both ? `var(--${edge})` : "none", "stroke-width": both ? 3 : 0, "stroke-linejoin": "round" };
  if (!outline) svg(box, "circle", { cx: 8, cy: 8, r: r - 0.7, ...paint });
  else svg(box, "polygon", { points: outline, transform: `translate(8 8) scale(${r + 0.6})`, "vector-effect": "non-scaling-stroke", ...paint });
}
function sign(parent, state) {
  const box = svg(parent, "svg", { width: 16, height: 16, viewBox: "0 0 18 18", "aria-hidden": "true", class: "sign" });
  const line = { fill: "none", stroke: "var(--text)", "stroke-width": 1.6, "stroke-linecap": "round", "stroke-linejoin": "round" };
  svg(box, "circle", { cx: 9, cy: 9, r: 7, fill: "none", stroke: "var(--text)", "stroke-width": 1.4 });
  if (state === "done") svg(box, "path", { ...line, d: "M5.8 9.2l2.3 2.4 4.2-4.8" });
  if (state === "partial") svg(box, "rect", { x: 6.4, y: 6.4, width: 5.2, height: 5.2, fill: "var(--text)" });
  if (state === "failed") svg(box, "path", { ...line, d: "M9 5.4v4.2M9 12.4v.1" });
}
function link(parent, where, text, name) {
  const node = el(parent, "a", "kv-link", text);
  node.href = where;
  node.setAttribute("aria-label", `${text}: ${name}`);
}
function bytes(parent, run) {
  const box = el(parent, "div", "bytes"), said = el(box, "div", "figure");
  el(said, "b", "", run.held);
  el(said, "span", "", ` of ${run.full}`);
  const track = el(box, "div", "track");
  track.setAttribute("role", "img");
  track.setAttribute("aria-label", `${run.held} held of ${run.full}, ${run.missed}`);
  el(track, "i", "held").style.width = `${100 * run.share}%`;
  el(track, "i", "foreseen").style.left = `${100 * run.foreseen}%`;
  el(box, "div", run.far ? "missed far" : "missed", run.missed);
}

class List {
  constructor(root) {
    this.picked = new Set();
    this.open = new Set();
    this.box = el(root, "div", "library");
    this.list = el(this.box, "ul", "runs");
    this.list.setAttribute("aria-label", "Runs");
  }
  update({ data, setStateValue }) {
    this.send = setStateValue;
    if (data.epoch !== this.epoch) { this.epoch = data.epoch; this.picked = new Set(data.picked); }
    const focus = this.box.getRootNode().activeElement;
    const held = focus && focus.closest("li") ? [focus.closest("li").dataset.run, focus.dataset.part] : null;
    this.list.replaceChildren();
    for (const run of data.rows) this.row(run);
    const back = held && this.list.querySelector(`li[data-run="${held[0]}"] [data-part="${held[1]}"]`);
    if (back) back.focus({ preventScroll: true });
  }
  row(run) {
    const item = el(this.list, "li", "run"), name = `${run.title}, ${run.setting}, ${run.made}`;
    item.dataset.run = run.id;
    const tick = el(el(item, "label", "tick"), "input");
    tick.type = "checkbox";
    tick.dataset.part = "tick";
    tick.checked = this.picked.has(run.id);
    tick.setAttribute("aria-label", `Choose ${name}`);
    item.classList.toggle("picked", tick.checked);
    tick.onchange = () => {
      this.picked[tick.checked ? "add" : "delete"](run.id);
      item.classList.toggle("picked", tick.checked);
      this.send("picked", [...this.picked]);
    };
    const main = el(item, "div", "main"), head = el(main, "h3");
    marker(head, run.marker);
    el(head, "b", "", run.title);
    el(head, "span", "", run.setting);
    if (run.owner) el(head, "em", "chip", run.owner);
    for (const tag of run.tags) el(head, "em", "chip tag", tag);
    const words = el(main, "p", "words");
    if (run.asked) el(words, "q", "", run.asked);
    el(words, "span", "", run.answer ? "→" : "→ wrote nothing");
    if (run.answer) el(words, "q", "answer", run.answer);
    if (run.note) el(main, "p", "note", run.note);
    bytes(item, run);
    const about = el(item, "div", "about"), status = el(about, "div", "status");
    sign(status, run.state);
    el(status, "span", "", run.said);
    el(about, "div", "small", `${run.model}, ${run.tokens}`);
    el(about, "div", "small", run.made);
    const ways = el(item, "div", "ways");
    link(ways, `inside?run=${run.id}`, "Look inside", name);
    link(ways, `run?run=${run.id}`, "Reproduce", name);
    const more = el(ways, "button", "", "Details"), facts = el(item, "dl", "facts");
    more.type = "button";
    more.dataset.part = "more";
    more.setAttribute("aria-label", `Details: ${name}`);
    for (const [key, value] of run.facts.filter(([, value]) => value)) { const pair = el(facts, "div"); el(pair, "dt", "", key); el(pair, "dd", "", value); }
    const show = () => { facts.hidden = !this.open.has(run.id); more.setAttribute("aria-expanded", String(!facts.hidden)); };
    more.onclick = () => { this.open[facts.hidden ? "add" : "delete"](run.id); show(); };
    show();
  }
}

const LISTS = new WeakMap();
export default function (component) {
  const { parentElement } = component;
  if (!LISTS.has(parentElement)) LISTS.set(parentElement, new List(parentElement));
  LISTS.get(parentElement).update(component);
}
