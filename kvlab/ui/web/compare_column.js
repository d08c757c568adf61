// one run: what it wrote, what it held, and where

class Column {
  constructor(app, lane) {
    this.app = app;
    this.lane = lane;
    const { card } = lane;
    this.card = el("section", "card column-card");
    this.card.setAttribute("aria-label", card.name);
    this.map = new PoolMap(app, lane);
    this.card.append(this.header(card), this.answer(card), this.facts(), this.bytes(), this.figures(), this.mapTitle(), this.map.box);
  }

  header(card) {
    const head = el("header"), under = el("div", "under");
    head.append(badge(card), mark(card), el("h3", "run-name", card.name));
    under.append(el("span", "sub", card.setting));
    const link = (where, words, short = words) => {
      const made = el("a", "kv-link", short);
      made.title = words;
      made.dataset.to = card.links[where];
      made.setAttribute("aria-label", `${words}: ${card.name}`);
      return made;
    };
    if (card.links.inside) head.append(link("inside", "Look inside"));
    under.append(card.reference ? el("span", "tag", "reference") : link("pin", "Pin as reference", "Pin"));
    const both = document.createDocumentFragment();
    both.append(head, under);
    this.links = [...both.querySelectorAll("a")];
    return both;
  }

  answer(card) {
    const text = el("p", "answer");
    this.text = text;
    this.words = [];
    let different = false, before = "";
    for (const { kind, text: said, gap, at } of card.diff) {
      const changed = kind === "added" || kind === "removed";
      if (changed && !different) text.append(gap ? " " : "", el("span", "diamond", "◆"));
      else if (gap) text.append(" ");
      different ||= changed;
      const word = el({ added: "ins", removed: "del" }[kind] || "span", `word ${kind}`);
      if (changed && kind !== before) word.append(el("span", "sign", kind === "added" ? "+" : "−"));
      before = kind;
      word.append(el("span", "", visible(said)));
      if (said.length > 22) word.classList.add("wide");
      if (/^<.+>$/.test(said)) word.classList.add("end");
      word.title = { same: "", added: "only this run writes it", removed: "only the reference writes it", beyond: "the other answer was cut off before" }[kind];
      word.dataset.from = at[0];
      word.dataset.to = at[1];
      text.append(word);
      if (kind !== "removed") this.words.push(word);
    }
    if (!this.words.length) text.append(el("span", "sub", "nothing written"));
    const over = (e) => { const word = e.target.closest(".word:not(.removed)"); return word ? this.app.asked + Number(word.dataset.from) : -1; };
    text.onpointerover = (e) => this.app.hover(over(e));
    text.onpointerleave = () => this.app.hover(-1);
    text.onclick = (e) => { const p = over(e); if (p >= 0) { this.app.goto(p - this.app.asked); this.app.commit(); } };
    return text;
  }

  facts() {
    const { card, seconds } = this.lane, box = el("dl", "facts");
    const put = (name, value) => { const cell = el("div"); cell.append(el("dt", "", name), value); box.append(cell); return value; };
    const first = el("dd");
    if (card.reference) first.textContent = "this is the reference";
    else if (card.first === null) first.textContent = "none";
    else {
      const go = el("button", "jump", `◆ step ${card.first}`);
      go.onclick = () => { this.app.goto(card.first); this.app.commit(); };
      first.append(go);
    }
    put("first difference", first);
    this.held = put("", el("dd"));
    this.heldName = this.held.previousSibling;
    put("speed", el("dd", "", seconds.decode_per_token ? `${(1000 * seconds.decode_per_token).toFixed(1)} ms per token` : "one token only"));
    this.missing = put("missing attention", el("dd"));
    return box;
  }

  bytes() {
    const box = el("div", "held-bytes"), head = el("header");
    this.bytesAt = el("h4");
    this.amount = el("b");
    this.share = el("span", "sub");
    const right = el("span", "amount");
    right.append(this.amount, this.share);
    head.append(this.bytesAt, right);
    this.bar = el("div", "bar-outline");
    this.fill = el("i", this.lane.card.full ? "full" : "");
    this.limit = el("u");
    this.bar.append(this.fill, this.limit);
    box.append(head, this.bar);
    return box;
  }

  figures() {
    const box = el("dl", "figures"), { bytes } = this.lane, all = [["nominal", "nominal"], ["predicted", "predicted"], ["held, measured", "resident"], ["peak", "peak"]];
    if (this.lane.a.unread) all.push(["read per step", "read_per_step"]); // else it is what is held
    for (const [name, key] of all) {
      const cell = el("div", key === "resident" ? "solid" : "");
      cell.append(el("dt", "", name), el("dd", "", bytesText(bytes[key])));
      box.append(cell);
    }
    return box;
  }

  mapTitle() {
    const row = el("div", "map-title");
    this.says = el("p", "sub map-says");
    row.append(this.says);
    offerPicture(this.app, this.card, row, this.lane.card.name, false);
    return row;
  }

  layout() {
    this.map.layout();
    this.tall = this.text.scrollHeight > this.text.clientHeight;
  }
  follow() { // a long answer shows the word of this step
    const word = this.tall && this.words.find((one) => one.classList.contains("here"));
    if (word) this.text.scrollTop = word.offsetTop - this.text.offsetTop - this.text.clientHeight / 2;
  }
  step() {
    const { lane, app } = this, s = Math.min(app.view.step, lane.S - 1), ended = app.view.step >= lane.S, full = lane.fullBytes(s), held = lane.a.resident[s], most = Math.max(full, held);
    this.bytesAt.textContent = ended ? "Bytes at its end" : `Bytes at step ${s}`;
    this.amount.textContent = bytesText(held);
    this.share.textContent = ` of ${bytesText(full)}, ${Math.round((100 * held) / full)} %`;
    this.fill.style.width = `${(100 * held) / most}%`;
    this.limit.style.left = `${(100 * full) / most}%`;
    this.limit.hidden = held <= full;
    this.missing.textContent = lane.a.gap ? percent(lane.a.gap[s]) : "not stored";
    for (const word of this.words) word.classList.toggle("here", !ended && Number(word.dataset.from) <= s && s < Number(word.dataset.to));
    this.follow();
    for (const link of this.links) {
      const more = `step=${app.view.step}${app.view.token >= 0 ? `&tok=${app.view.token}` : ""}`;
      link.href = `${link.dataset.to}&${link.dataset.to.startsWith("inside") ? `step=${s}${app.view.token >= 0 ? `&tok=${app.view.token}` : ""}` : more}`;
    }
    this.map.draw();
    this.tell();
  }

  mark() {
    const { app } = this, s = app.hovered - app.asked;
    for (const word of this.words) word.classList.toggle("lit", s >= 0 && Number(word.dataset.from) <= s && s < Number(word.dataset.to));
    this.map.lines();
    this.tell();
  }

  tell() { // the tracked word, and the token under the pointer or all entries
    const { app, lane } = this, [from, to] = app.span(), p = app.hovered;
    this.heldName.textContent = from < 0 ? "entries held" : `“${shown(lane.pieces.slice(from, to + 1).join(""), 12)}” held`;
    this.held.textContent = from < 0 ? percent(lane.total / (lane.R * lane.born_)) : `${lane.spanHeld(from, to)} of ${lane.R * (to - from + 1)}`;
    if (p < 0) this.says.textContent = `${grouped(lane.total)} of ${grouped(lane.R * lane.born_)} entries held`;
    else if (p >= lane.born_) this.says.textContent = p < lane.P || p === lane.asked + lane.S - 1 ? "not in the cache yet" : "this answer had ended";
    else {
      const merged = lane.a.into ? lane.mergedOf(p) : 0;
      this.says.textContent = `${grouped(p)} “${shown(lane.pieces[p] ?? "", 14)}” held by ${lane.heldCount[p]} of ${lane.R} heads${merged ? `, merged away in ${merged}` : ""}`;
    }
  }
}
