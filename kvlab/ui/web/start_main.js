// the Start page: a strip for the first visit, the doors, the presets

const CLOSED = "kvlab-introduction-closed";

function remembered() {
  try { return localStorage.getItem(CLOSED) === "1"; } catch { return false; } // a browser may refuse to keep anything
}
function remember(closed) {
  try { closed ? localStorage.setItem(CLOSED, "1") : localStorage.removeItem(CLOSED); } catch { /* then it comes back next time */ }
}

const WORDS = "A model keeps a key and a value for every token it has read: its KV cache. A compression method holds less of it. Each map below is one stored run, "
  + "a row for each layer and head, a column for each token. Open one and step through its answer; nothing has to load.";

class Start {
  constructor(root) {
    this.body = el("div", "start");
    root.append(this.body);
    this.colours = new Colours(root, () => this.draw());
    this.watch = new ResizeObserver(() => this.body.clientWidth !== this.wide && this.draw());
    this.watch.observe(this.body);
  }
  update(data) {
    const said = JSON.stringify(data);
    if (said === this.said) return;
    this.said = said;
    this.maps = [];
    const doors = el("nav", "doors");
    doors.setAttribute("aria-label", "Ways in");
    this.field = fieldDoor(data.field);
    doors.append(compareDoor(data.compare), lessonDoor(data.lesson), planDoor(data.plan), this.field);
    const cards = el("div", "cards");
    cards.append(...data.cards.map((one) => this.card(one)));
    this.body.replaceChildren(this.help(), doors, this.legend(data.cards), cards, this.session(data.session));
    this.draw();
  }
  drop() { this.watch.disconnect(); }

  help() {
    const strip = el("aside", "help"), close = el("button", "", "Close"), again = el("button", "again", "What is this?");
    strip.setAttribute("aria-label", "Introduction");
    const words = el("p");
    words.append(el("b", "", "New here? "), WORDS);
    strip.append(words, close);
    const show = (closed) => { strip.classList.toggle("closed", closed); words.hidden = close.hidden = closed; again.hidden = !closed; };
    close.onclick = () => { remember(true); show(true); again.focus(); };
    again.onclick = () => { remember(false); show(false); close.focus(); };
    strip.append(again);
    show(remembered());
    return strip;
  }
  legend(cards) {
    const head = el("header", "presets"), keys = el("span", "legend"), maps = cards.map((one) => one.map || {});
    const kinds = [["held", "held", true], ["low", "in fewer bits", maps.some((map) => map.tall)], ["idle", "held, not read", maps.some((map) => map.idle)],
      ["gone", "evicted", true], ["wanted", "evicted, yet wanted", maps.some((map) => map.lost && map.lost.length)], ["asked", "the question begins", true]];
    for (const [kind, words, there] of kinds) {
      if (!there) continue;
      const key = el("span", "key");
      key.append(el("i", kind), words);
      keys.append(key);
    }
    head.append(el("h2", "", "Presets, with their stored runs"), keys);
    return head;
  }

  card(d) {
    const box = el("article", "card preset"), title = el("h3", "", d.title);
    box.append(title);
    const ways = el("div", "ways"), again = link(d.run ? "Run again here" : "Run it here", `run?preset=${encodeURIComponent(d.preset)}`);
    if (!d.run) {
      again.classList.add("go");
      ways.append(again);
      box.append(el("p", "finding", "No run of it is stored."), el("p", "method", d.look), ways);
      return box;
    }
    const method = el("p", "method"), name = el("span", "", d.method);
    name.prepend(marker(d.marker));
    method.append(name, el("span", "", [d.setting, `${d.tokens.toLocaleString("en-US")} tokens`].filter(Boolean).join(" · ")));
    const to = link("", `inside?run=${d.run}`, "picture");
    to.tabIndex = -1; // "Open" below is the same way for the keyboard
    to.setAttribute("aria-label", `Open ${d.title}`);
    box.append(method, to);
    if (d.map.held) {
      const map = new SmallMap(d.map, d.spoken, this.colours);
      to.append(map.canvas);
      this.maps.push(map);
    }
    box.append(this.bytes(d), el("p", "finding", d.finding), this.answers(d));
    ways.append(link("Open", `inside?run=${d.run}`, "go"), again);
    if (d.compare.length > 1) ways.append(link(`Compare ${d.compare.length}`, `compare?cmp=${d.compare.join(",")}`));
    for (const way of ways.children) way.setAttribute("aria-label", `${way.textContent}: ${d.title}`);
    box.append(ways);
    return box;
  }
  bytes(d) {
    const row = el("div", "size"), bar = el("div", "bytes"), fill = el("i");
    fill.style.width = `${Math.min(100, (100 * d.resident) / d.full)}%`;
    bar.append(fill);
    row.append(bar, el("span", "", d.held));
    return row;
  }
  answers(d) {
    const list = el("dl");
    for (const [name, words, lost] of [["this run", d.answer, d.differs], ["full cache", d.reference, false]]) {
      if (!words) continue;
      const value = el("dd", lost ? "lost" : "", (lost ? "◆ " : "") + words);
      value.title = words;
      list.append(el("dt", "", name), value);
    }
    return list;
  }

  session({ live, rows }) {
    const box = el("section", "session"), note = el("p");
    box.append(el("h2", "", "Last runs of this session"));
    if (live) note.append(`${live === 1 ? "One lane is" : `${live} lanes are`} still at work. `, link("Watch on the page Run", "run"));
    else if (!rows.length) note.append("This session has run nothing yet. ", link("Make a run", "run"), ", and it is listed here.");
    if (note.childNodes.length) box.append(note);
    const list = el("ul");
    for (const row of rows) {
      const line = el("li"), name = el("b", "", [row.method, row.setting].filter(Boolean).join(", ")), open = link("Open", `inside?run=${row.run}`);
      name.prepend(marker(row.marker));
      open.setAttribute("aria-label", `Open: ${name.textContent}`);
      line.append(name, el("span", "wrote", row.answer), el("span", "", row.said), open);
      list.append(line);
    }
    if (rows.length) box.append(list);
    return box;
  }

  draw() {
    this.wide = this.body.clientWidth;
    if (!this.wide || !this.maps) return;
    this.colours.read();
    for (const map of this.maps) map.draw();
    if (this.field.redraw) this.field.redraw();
  }
}

const shownPages = new WeakMap(); // one per mounted component: Python calls again after every rerun

export default function ({ data, parentElement: root }) {
  if (!shownPages.has(root)) shownPages.set(root, new Start(root));
  const start = shownPages.get(root);
  start.update(data);
  return () => { start.drop(); start.body.remove(); shownPages.delete(root); };
}
