// the text: prose whose tokens show who still holds them

const STRIP_ALL = 600; // up to so many tokens the whole text is there; above, windows around what matters
const AROUND = 60;

class Strip {
  constructor(app) {
    this.app = app;
    this.card = card("strip", "Tokens", "");
    this.sub = this.card.querySelector(".sub");
    const legend = el("div", "legend");
    for (const [kind, text] of [["all", "all heads"], ["some", "some"], ["none", "none"]]) {
      const item = el("span", `key ${kind}`);
      if (kind !== "none") item.append(el("i"));
      item.append(el("span", "", text));
      legend.append(item);
    }
    this.card.querySelector("header").append(legend);
    this.text = el("div", "text");
    this.text.tabIndex = 0;
    this.text.setAttribute("role", "group");
    this.text.setAttribute("aria-label", "Tokens. Arrow keys move, Enter locks, Shift and Enter marks a span.");
    this.line = el("p", "writes");
    this.card.append(this.text, this.line);
    const over = (e) => { const t = e.target.closest?.("[data-p]"); return t ? Number(t.dataset.p) : -1; };
    this.text.onpointerover = (e) => app.hover(over(e));
    this.text.onpointerleave = () => app.hover(-1);
    this.text.onclick = (e) => {
      if (e.target.dataset.from) return this.open(Number(e.target.dataset.from));
      const p = over(e);
      if (p >= 0 && p < app.run.P) app.lock(p, e.shiftKey);
    };
    this.text.onkeydown = (e) => this.key(e);
  }

  key(e) {
    const { app } = this, move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[e.key];
    const here = app.hovered >= 0 ? app.hovered : Math.max(0, app.view.token);
    if (move) app.hover(Math.max(0, Math.min(app.run.P - 1, here + move)), true);
    else if (e.key === "Enter") app.lock(here, e.shiftKey);
    else if (e.key === "Escape") app.lock(-1);
    else return;
    e.preventDefault();
    e.stopPropagation();
    this.reveal(app.hovered);
  }

  load() {
    const { run } = this.app;
    this.sub.textContent = `line under a token: share of the ${run.R} heads that still hold it`;
    this.shown = new Uint8Array(run.pieces.length).fill(run.pieces.length <= STRIP_ALL ? 1 : 0);
    if (run.pieces.length > STRIP_ALL) {
      this.window(0, 40);
      this.window(run.prompt - AROUND, run.pieces.length - run.prompt > STRIP_ALL ? run.asked + AROUND : run.pieces.length);
      for (const p of [this.app.view.token, ...run.named]) if (p >= 0) this.window(p - AROUND, p + AROUND);
      const lost = [...new Set([...run.lostRows.values()].flat())].filter((p) => !this.shown[p]);
      for (const p of lost.slice(0, 6)) this.window(p - 20, p + 20);
    }
    this.build();
  }
  window(from, to) { this.shown.fill(1, Math.max(0, from), Math.min(this.shown.length, to)); }
  open(from) { this.window(from, from + 400); this.build(); this.step(); this.mark(); }

  build() {
    const { run } = this.app, all = document.createDocumentFragment();
    this.spans = new Array(run.pieces.length).fill(null);
    this.was = [];
    this.share = [];
    let word = null, gap = 0;
    for (let p = 0; p < run.pieces.length; p++) {
      if (p === run.prompt && run.asked > run.prompt) { all.append(" ", el("span", "part", "question")); word = null; }
      if (p === run.asked) { all.append(" ", el("span", "part", "answer")); word = null; }
      if (!this.shown[p]) {
        for (gap = p; p + 1 < run.pieces.length && !this.shown[p + 1] && p + 1 !== run.prompt && p + 1 !== run.asked; ) p++;
        const button = el("button", "gap", `${grouped(p - gap + 1)} tokens folded · show ${p - gap + 1 > 400 ? "400" : "them"}`);
        button.dataset.from = gap;
        all.append(" ", button, " ");
        word = null;
        continue;
      }
      const piece = run.pieces[p], bare = piece.trim() === "", mark = (q) => /^<.+>$/.test(run.pieces[q] ?? "");
      if (/^\s/.test(piece) || word === null || mark(p) || mark(p - 1)) {
        if (word && !bare) all.append(" ");
        word = el("span", "w");
        if (!all.lastChild || all.lastChild.nodeType !== 3) all.append(" ");
        all.append(word);
      }
      const token = el("span", "tok", bare ? shown(piece, 4) : visible(piece.trim()));
      token.dataset.p = p;
      this.spans[p] = token;
      word.append(token);
      if (word.textContent.length > 22) word.classList.add("long");
      if (piece.includes("\n")) { all.append(el("br")); word = null; }
      else if (/\s$/.test(piece) && !bare) { all.append(" "); word = null; }
    }
    this.text.replaceChildren(all);
  }

  step() {
    const { run, view } = this.app, writes = run.asked + view.step;
    for (let p = 0; p < this.spans.length; p++) {
      const token = this.spans[p];
      if (!token) continue;
      const count = p < run.P ? run.heldCount[p] : 0;
      const state = p >= run.born_ ? (p === writes ? "now" : "later") : count === 0 ? "gone" : "";
      const differs = p >= run.asked && run.tops.length && run.a.top[p - run.asked] !== run.a.written[p - run.asked] && p <= writes;
      const classes = `tok ${state}${differs ? " differs" : ""}${p - run.asked === run.first && p <= writes ? " first" : ""}`, share = Math.ceil((32 * count) / run.R);
      if (this.was[p] !== classes) token.className = classes + (this.rings?.[p] ? " " + this.rings[p] : "");
      if (this.share[p] !== share) token.style.setProperty("--share", `${(100 * share) / 32}%`); // to a pixel: each change costs the style of a token
      this.was[p] = classes;
      this.share[p] = share;
    }
    this.writes();
  }

  writes() {
    const { run, view } = this.app, s = view.step;
    this.line.replaceChildren();
    if (!run.S) return;
    const mine = el("b", "token", shown(run.pieces[run.asked + s], 24));
    this.line.append(`step ${s} writes`, mine);
    if (!run.tops.length) return;
    if (run.a.top[s] === run.a.written[s]) return this.line.append("as the full cache would");
    mine.className = "token differs";
    this.line.append("where the full cache writes", el("b", "token", shown(run.tops[s], 24)));
  }

  mark() {
    const { run, view, hovered } = this.app, rings = {};
    const add = (p, name) => { rings[p] = rings[p] ? `${rings[p]} ${name}` : name; };
    for (const p of run.named) add(p, "named");
    const [from, to] = this.app.span();
    if (from >= 0 && view.until >= 0) { add(from, "from"); add(to, "to"); }
    if (view.token >= 0) add(view.token, "locked");
    if (hovered >= 0) add(hovered, "hovered");
    for (const p of new Set([...Object.keys(this.rings || {}), ...Object.keys(rings)])) {
      const token = this.spans[p];
      if (token) token.className = [this.was[p], rings[p]].filter(Boolean).join(" ");
    }
    this.rings = rings;
  }

  reveal(p) {
    if (p >= 0 && !this.spans[p] && p < this.shown.length) { this.window(p - AROUND, p + AROUND); this.build(); this.step(); this.mark(); }
    const token = this.spans[p], box = this.text;
    if (!token || box.scrollHeight <= box.clientHeight) return;
    const top = token.getBoundingClientRect().top - box.getBoundingClientRect().top;
    if (top < 0 || top > box.clientHeight - 28) box.scrollTop += top - box.clientHeight / 2;
  }
}
