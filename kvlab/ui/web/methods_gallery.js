// the whole field on one screen: a small map for each method, all at the same step; the bands are the axes

class Gallery {
  constructor(root) {
    this.body = el("div", "field");
    root.append(this.body);
    this.body.onkeydown = (e) => this.steps.key(e);
    this.watch = new ResizeObserver(() => this.toys && this.body.clientWidth !== this.wide && this.draw());
    this.watch.observe(this.body);
  }

  update({ data, setStateValue }) {
    this.send = setStateValue;
    const { header } = readHeader(data);
    if (this.toys && this.toys.stamp === header.stamp) return this.take(header.filter, header.arrival);
    this.toys = new Toys(data);
    this.body.replaceChildren();
    this.colours = new Colours(this.body, () => this.draw());
    this.colours.read();
    this.extra = [];
    this.head();
    this.bands();
    this.arrival = undefined;
    this.take(header.filter, header.arrival);
    this.draw();
  }
  take(filter, arrival) {
    if (arrival === this.arrival) return;
    this.arrival = arrival;
    this.filter = { ...filter };
    this.search.value = this.filter.q || "";
    this.sift(false);
  }
  drop() { this.watch.disconnect(); this.steps?.stop(); clearTimeout(this.later); }

  head() {
    const { toys } = this, card = el("section", "card top");
    this.steps = new Steps(toys.S - 1, () => this.drawStep(), toys.S - 1);
    this.strip = textStrip(toys.words, toys.prompt);
    const first = el("div", "line");
    first.append(this.steps.part, this.strip);
    const second = el("div", "line sift");
    this.search = el("input", "search");
    for (const [name, value] of [["type", "search"], ["placeholder", "Name, author, word"], ["aria-label", "Find a method by name, author or word"]]) this.search.setAttribute(name, value);
    this.search.oninput = () => { this.filter.q = this.search.value; this.sift(true); };
    second.append(this.search);
    for (const [name, said, choices] of toys.filters) second.append(this.choices(name, said, choices));
    this.count = el("span", "count");
    this.count.setAttribute("role", "status");
    this.clear = el("button", "clear", "Show all");
    this.clear.onclick = () => { this.filter = {}; this.search.value = ""; this.sift(true); };
    second.append(this.count, this.clear);
    this.say = el("p", "say");
    const keys = legend(this.colours, this.extra);
    for (const source of ["mixed", "recon"]) keys.append(el("span", "key", `${SOURCE[source][0]} ${SOURCE[source][1]}`));
    card.append(first, second, keys, this.say);
    this.body.append(card);
  }
  choices(name, said, choices) {
    const box = el("label", "choice"), select = el("select");
    select.append(new Option(`any ${said}`, ""));
    for (const [value, words, n] of choices) select.append(new Option(`${words} (${n})`, value));
    select.onchange = () => { this.filter[name] = select.value; this.sift(true); };
    select.setAttribute("aria-label", said);
    box.append(select);
    (this.selects ||= {})[name] = select;
    return box;
  }

  bands() {
    const { toys } = this, grid = el("div", "bands");
    this.cards = [];
    for (const band of toys.bands) {
      const part = el("section", "band"), head = el("h2");
      const swatch = el("i");
      swatch.style.background = `var(--${band.hue})`;
      head.append(swatch, el("span", "", band.title), el("small", "", String(band.cards.length)));
      part.style.setProperty("--n", band.cards.length);
      const cells = el("div", "cells");
      part.append(head, cells);
      for (const card of band.cards) cells.append(this.card(card));
      grid.append(part);
    }
    this.body.append(grid);
  }
  card(card) {
    const link = el("a", "mini kv-link");
    link.href = `methods?m=${encodeURIComponent(card.name)}`;
    const title = el("span", "name");
    title.append(marker(card.marker), el("b", "", card.title));
    if (card.source !== "code") title.append(Object.assign(el("i", "source", SOURCE[card.source][0]), { title: SOURCE[card.source][1] }));
    const canvas = el("canvas");
    canvas.cells = new Cells();
    link.append(title, canvas);
    if (card.toy < 0) link.append(el("span", "none", "no toy: open the card"));
    link.onpointerenter = link.onfocus = () => this.tell(card);
    link.onpointerleave = link.onblur = () => this.tell(null);
    this.cards.push({ card, link, canvas });
    return link;
  }

  sift(send) {
    const { filter } = this, words = (filter.q || "").toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { card, link } of this.cards) {
      const on = words.every((word) => card.search.includes(word)) && this.toys.filters.every(([name]) => !filter[name] || card[name].includes(filter[name]));
      link.classList.toggle("off", !on);
      link.inert = !on;
      shown += on;
    }
    for (const [name, select] of Object.entries(this.selects)) select.value = filter[name] || "";
    const all = shown === this.cards.length;
    this.count.textContent = all ? `${this.cards.length} methods` : `${shown} of ${this.cards.length} methods`;
    this.clear.hidden = all && !Object.values(filter).some(Boolean);
    for (const band of this.body.querySelectorAll(".band")) band.classList.toggle("off", !band.querySelector(".mini:not(.off)"));
    if (this.wide) this.drawStep();
    if (!send) return;
    clearTimeout(this.later);
    this.later = setTimeout(() => this.send("filter", { ...this.filter }), 400);
  }

  draw() {
    this.wide = this.body.clientWidth;
    this.colours.read();
    for (const draw of this.extra) draw();
    this.drawStep();
  }
  drawStep() {
    const { toys, colours: c } = this, { step } = this.steps, shown = this.cards.find(({ link }) => link.clientWidth); // in a narrow window the others are hidden
    const wide = shown ? shown.link.clientWidth - 14 : 0, w = wide / toys.P, h = 8, gap = 3;
    this.strip.step(step);
    this.tell(this.told);
    if (wide < toys.P) return;
    for (const { card, canvas } of this.cards) {
      if (card.toy < 0) continue;
      if (canvas.wide !== wide) { size(canvas, wide, toys.R * h + (toys.L - 1) * gap + 7); canvas.wide = wide; }
      const g = canvas.getContext("2d");
      clear(g);
      drawToy(g, c, canvas.cells, toys, card.toy, step, { x: 0, y: 0, w, h, gap });
      this.whenActs(g, c, card, step, w, toys.R * h + (toys.L - 1) * gap + 3);
    }
  }
  // under the map, on the same columns: when the schedule lets the method act; a square while reading, a dot for each written token
  whenActs(g, c, card, step, w, y) {
    const { toys } = this;
    g.fillStyle = c.small;
    if (card.prefill) g.fillRect((toys.prompt - 1) * w, y, w - 0.8, 3);
    if (card.chunks) g.fillRect(0, y + 1, (toys.prompt - 1) * w, 1);
    for (let s = 1; s < toys.S; s++) if (card.every && s % card.every === 0) g.fillRect((toys.prompt + s - 1) * w + w / 2 - 1, y + 0.5, 2, 2);
  }

  tell(card) {
    this.told = card;
    const { toys } = this, { step } = this.steps;
    if (!card) {
      this.say.textContent = "Rows: two layers of two KV heads. Columns: 16 tokens of a prompt, then 8 that are written. The marks under a map say when its method may act.";
      return;
    }
    const found = card.toy < 0 ? null : toys.counts(card.toy, step);
    this.say.replaceChildren(el("b", "", card.title), ` ${card.says} `, el("span", "", found ? `Here it holds ${found.held} of ${found.all} entries and reads ${found.read} at step ${step}, ${grouped(toys.held[card.toy * toys.S + step])} of ${grouped(toys.full[step])} bytes.` : ""));
  }
}

const SOURCE = { mixed: ["◐", "partly reconstructed"], recon: ["◌", "reconstruction"] };

const galleries = new WeakMap(); // one per mounted component: Python calls again after every rerun

export default function (component) {
  const root = component.parentElement;
  if (!galleries.has(root)) galleries.set(root, new Gallery(root));
  const gallery = galleries.get(root);
  gallery.update(component);
  return () => { gallery.drop(); gallery.body.remove(); galleries.delete(root); };
}
