// a lesson: all of its steps are here, so that a key shows the next one at once. Python hears which step is open, for the link, and what was guessed

const lessonKeys = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Backspace: -1 };

class LessonView {
  constructor(root) {
    this.guesses = {};
    this.at = 0;
    this.body = el("section", "lesson");
    this.head = el("header");
    this.title = el("h1");
    this.title.tabIndex = -1;
    this.say = el("p", "say");
    this.stage = el("figure", "stage");
    this.stage.setAttribute("role", "img");
    this.table = el("div", "twin");
    this.table.tabIndex = 0;
    this.ask = el("div", "ask");
    this.reveal = el("p", "reveal");
    this.reveal.setAttribute("aria-live", "polite");
    this.source = el("p", "source");
    this.foot = el("footer");
    this.body.append(this.head, this.title, this.say, this.stage, this.table, this.ask, this.reveal, this.source, this.foot);
    root.append(this.body);
    this.onKey = (event) => this.key(event);
    window.addEventListener("keydown", this.onKey, true);
    this.watch = new ResizeObserver(() => this.picture());
    this.watch.observe(this.stage);
  }
  drop() { window.removeEventListener("keydown", this.onKey, true); this.watch.disconnect(); }

  update({ data, setStateValue }) {
    this.send = setStateValue;
    const fresh = !this.data || this.data.lesson.id !== data.lesson.id;
    if (fresh || this.arrival !== data.arrival) {
      this.at = data.view.step;
      this.guesses = { ...data.view.guesses };
      this.sent = JSON.stringify(this.state(data));
      this.tabled = false;
    } else if (this.data.present === data.present) return;
    this.data = data;
    this.arrival = data.arrival;
    this.body.classList.toggle("present", data.present);
    this.layout();
  }
  state(data = this.data) { return { lesson: data.lesson.id, step: this.at, guesses: { ...this.guesses } }; }
  commit() {
    const said = JSON.stringify(this.state());
    if (said === this.sent) return;
    this.sent = said;
    this.send("view", this.state());
  }
  get step() { return this.data.lesson.steps[this.at]; }
  get open() { return !this.step.question || this.guesses[this.at] !== undefined; }
  href(step = this.at, present = this.data.present) { return `learn?lesson=${this.data.lesson.id}&step=${step + 1}${present ? "&present=1" : ""}`; }

  caption() {
    const step = this.step, { lesson } = this.data, runs = step.runs || [], rest = runs.length > 3 ? ` and ${runs.length - 3} more` : "";
    const setting = [`Lesson ${lesson.number}: ${lesson.title}`, step.source].filter(Boolean).join(" · ");
    return { title: step.title, sentence: (this.open ? step.reveal : step.text).map(([text]) => text).join(""), setting, run: runs.slice(0, 3).join(", ") + rest };
  }
  redraw() { this.picture(); }

  layout() {
    const { lesson, present } = this.data, { steps } = lesson, step = this.step;
    this.head.replaceChildren(el("span", "mark"), ...(present ? [] : [this.link("All lessons", "learn")]), el("b", "", `Lesson ${lesson.number}`), el("span", "", lesson.title), el("span", "grow"), ...this.tools(), el("span", "count", `${this.at + 1} of ${steps.length}`));
    this.title.textContent = step.title;
    this.words(this.say, step.text);
    this.table.hidden = !this.tabled;
    this.stage.hidden = this.tabled;
    this.source.textContent = step.source || "";
    this.source.hidden = !step.source || present;
    if (step.problem) return this.trouble(step);
    if (this.tabled) this.twin();
    this.question();
    this.words(this.reveal, this.open ? step.reveal : []);
    if (this.open) for (const doubt of step.doubts) this.reveal.append(el("span", "doubt", ` The stored data no longer show this: ${doubt}`));
    this.footer();
    this.picture();
  }
  trouble(step) {
    this.stage.replaceChildren(el("p", "trouble", step.problem));
    this.ask.replaceChildren();
    this.reveal.replaceChildren();
    this.footer();
  }
  words(node, pieces) { node.replaceChildren(...pieces.map(([text, strong]) => el(strong ? "b" : "span", "", text))); }
  link(words, href, kind = "quiet") { const a = el("a", `kv-link ${kind}`, words); a.href = href; return a; }
  button(words, action, kind = "quiet") { const b = el("button", kind, words); b.onclick = action; return b; }

  tools() {
    const { present } = this.data, step = this.step, found = [];
    const table = this.button(this.tabled ? "Show as picture" : "Show as table", () => { this.tabled = !this.tabled; this.layout(); });
    if (!step.problem) found.push(table);
    if (step.link) found.push(this.link(step.link.startsWith("inside") ? "Open this in Look inside" : "Open this in Trade-offs", step.link));
    if (!step.problem && !this.tabled) {
      const holder = el("span");
      offerPicture(this, this.stage, holder, `lesson-${this.data.lesson.number}-${this.at + 1}`, true);
      found.push(holder);
    }
    const copy = this.button("Copy link", () => this.copy(copy));
    copy.title = "Students who open it see the same stored runs, read-only";
    found.push(copy, this.link(present ? "Leave presenter mode" : "Present", this.href(this.at, !present)));
    return found;
  }
  async copy(button) {
    const link = new URL(this.href(this.at, false), location.href).href;
    try { await navigator.clipboard.writeText(link); button.textContent = "Copied: same runs for every student"; }
    catch { // no clipboard without https: show it, selected, to be copied by hand
      const field = el("input", "linkfield");
      field.value = link;
      field.readOnly = true;
      field.setAttribute("aria-label", "Link to this step");
      button.replaceWith(field);
      field.select();
    }
  }

  question() {
    const q = this.step.question, guess = this.guesses[this.at];
    this.ask.replaceChildren();
    this.ask.hidden = !q || (this.open && this.data.present);
    if (!q) return;
    this.ask.append(el("p", "question", q.ask));
    const list = el("div", "choices");
    list.setAttribute("role", "group");
    list.setAttribute("aria-label", q.ask);
    q.choices.forEach((words, i) => {
      const b = this.button("", () => this.choose(i), "choice");
      b.append(el("kbd", "", `${i + 1}`), el("span", "", words));
      if (this.open) {
        b.disabled = true;
        b.classList.toggle("right", i === q.answer);
        b.classList.toggle("mine", i === guess);
        if (i === q.answer) b.append(el("i", "", "✓ measured"));
        if (i === guess) b.append(el("i", "", i === q.answer ? "· your guess" : "your guess"));
      }
      list.append(b);
    });
    this.ask.append(list);
  }
  choose(i) {
    if (this.open) return;
    this.guesses[this.at] = i;
    this.layout();
    this.next.focus();
    this.commit();
  }

  footer() {
    const { lesson, present, onward } = this.data, { steps } = lesson, last = this.at === steps.length - 1, q = this.step.question;
    const dots = el("nav", "dots");
    dots.setAttribute("aria-label", "Steps of this lesson");
    steps.forEach((step, i) => {
      const dot = this.button("", () => this.go(i), i === this.at ? "dot here" : i < this.at ? "dot seen" : "dot");
      dot.setAttribute("aria-label", `Step ${i + 1}: ${step.title}`);
      dot.title = step.title;
      if (i === this.at) dot.setAttribute("aria-current", "step");
      dots.append(dot);
    });
    const guess = this.guesses[this.at], said = !q ? "" : !this.open ? (present ? "Guess, then Space shows it." : "Choose before the result shows.") : guess < 0 ? "Shown without a guess." : `You guessed “${q.choices[guess]}”.`;
    const status = el("p", "status", `${said} Stored runs, the same for everyone with this link.`.trim());
    const live = this.link("Run it live", `run?preset=${lesson.live}`, "act");
    const back = this.button("Back", () => this.move(-1), "act");
    back.disabled = this.at === 0;
    this.next = last && this.open ? this.link(onward.words, onward.href + (present && onward.href.includes("?") ? "&present=1" : ""), "act main") : this.button(!this.open ? "Show" : "Next", () => this.move(1), "act main");
    this.next.append(el("kbd", "", "Space"));
    this.foot.replaceChildren(dots, status, live, back, this.next);
  }
  move(by) {
    if (by > 0 && !this.open) {
      if (!this.data.present) return this.ask.querySelector("button").focus();
      return this.choose(-1);
    }
    const to = this.at + by;
    if (to >= this.data.lesson.steps.length) return this.next.click();
    if (to >= 0) this.go(to);
  }
  go(to) {
    this.at = to;
    this.tabled = false;
    this.layout();
    this.title.focus({ preventScroll: true });
    if (this.title.getBoundingClientRect().top < 60) this.head.scrollIntoView(); // on a small screen the new step begins above
    this.commit();
  }
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.data) return;
    const target = event.composedPath()[0], tag = target.tagName || "";
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(tag) || target.isContentEditable) return;
    const digit = "1234".indexOf(event.key), q = this.step.question;
    if (this.data.present && (event.key === "r" || event.key === "c")) event.stopImmediatePropagation(); // Streamlit's own keys
    else if (digit >= 0 && q && !this.open && digit < q.choices.length) { event.preventDefault(); this.choose(digit); }
    else if (lessonKeys[event.key] && !(event.key === " " && (tag === "BUTTON" || tag === "A"))) {
      event.preventDefault();
      event.stopImmediatePropagation();
      this.move(lessonKeys[event.key]);
    } else if (event.key === " " && tag === "A") { event.preventDefault(); target.click(); }
  }

  picture() {
    const step = this.data && this.step;
    if (!step || step.problem || this.tabled) return;
    const wide = this.stage.clientWidth, high = this.stage.clientHeight;
    if (!wide || !high) return;
    const q = step.question, guess = this.guesses[this.at];
    const value = this.open && q && guess >= 0 ? q.values[guess] : undefined;
    const f = parseFloat(getComputedStyle(this.stage).fontSize);
    draw(this.stage, step.picture, { wide, high, f, open: this.open, guess: value === undefined ? null : { value, words: "your guess" } });
    this.stage.setAttribute("role", step.picture.kind === "text" ? "group" : "img"); // a passage is read as it stands
    this.stage.setAttribute("aria-label", `${step.title}. ${(this.open ? step.reveal : step.text).map(([text]) => text).join("")}`);
  }
  twin() {
    if (!this.open) return this.table.replaceChildren(el("p", "trouble", "The table shows the result. Choose first."));
    const rows = this.step.table, names = rows.length ? Object.keys(rows[0]) : [], table = el("table"), head = el("tr");
    names.forEach((name) => head.append(el("th", "", name)));
    table.append(el("caption", "", this.step.title), head);
    for (const row of rows) {
      const line = el("tr");
      names.forEach((name) => line.append(el("td", typeof row[name] === "number" ? "number" : "", typeof row[name] === "number" ? row[name].toLocaleString("en") : row[name])));
      table.append(line);
    }
    this.table.replaceChildren(table);
  }
}

const shownLessons = new WeakMap(); // one per mounted component: Python calls again after every rerun

export default function (component) {
  const root = component.parentElement;
  if (!shownLessons.has(root)) shownLessons.set(root, new LessonView(root));
  const view = shownLessons.get(root);
  view.update(component);
  return () => { view.drop(); view.body.remove(); shownLessons.delete(root); };
}
