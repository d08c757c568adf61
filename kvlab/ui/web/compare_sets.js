// who kept the same: every pair of runs, and for the chosen pair each layer

class Sets {
  constructor() {
    this.card = card("sets", "Who kept the same entries", "of the prompt, after each run's last step");
    this.matrix = el("div", "matrix");
    this.matrix.setAttribute("role", "group");
    this.matrix.setAttribute("aria-label", "Overlap of kept entries between runs. Choose a pair to see it by layer.");
    this.pair = el("div", "pair");
    const both = el("div", "both");
    both.append(this.matrix, this.pair);
    this.card.append(both);
  }

  load(sets) {
    this.data = sets;
    const n = sets.names.length;
    this.cells = new Map();
    this.matrix.style.gridTemplateColumns = `minmax(64px, 150px) repeat(${n}, minmax(52px, 104px))`;
    const nodes = [el("span")];
    for (let j = 0; j < n; j++) nodes.push(this.name(j, "top"));
    for (let i = 0; i < n; i++) {
      nodes.push(this.name(i, "side"));
      for (let j = 0; j < n; j++) nodes.push(this.cell(i, j));
    }
    this.matrix.replaceChildren(...nodes);
    const open = sets.pairs.filter((pair) => Math.max(sets.kept[pair.a], sets.kept[pair.b]) < sets.of); // a full cache overlaps with all in what they kept: nothing to learn
    this.pick((open.length ? open : sets.pairs).reduce((least, pair) => (pair.shared < least.shared ? pair : least)));
  }
  name(i, where) {
    const { letters, names } = this.data, box = el("span", `who-${where}`);
    box.append(el("b", "", letters[i]), where === "side" ? el("span", "", names[i]) : "");
    box.title = names[i];
    return box;
  }
  cell(i, j) {
    const sets = this.data, pair = sets.pairs.find(({ a, b }) => a === Math.min(i, j) && b === Math.max(i, j)), share = i === j ? sets.kept[i] / sets.of : pair.shared;
    const box = el(i === j ? "span" : "button", i === j ? "meet own" : "meet"), bar = el("i");
    bar.style.width = `${100 * share}%`;
    box.append(bar, el("span", "", percent(share)));
    if (i === j) { box.title = `${sets.names[i]} kept ${grouped(sets.kept[i])} of ${grouped(sets.of)} entries`; return box; }
    box.setAttribute("aria-label", `${sets.names[i]} and ${sets.names[j]}: ${percent(share)} of the entries that either kept are kept by both`);
    box.onclick = () => this.pick(pair);
    if (!this.cells.has(pair)) this.cells.set(pair, []);
    this.cells.get(pair).push(box);
    return box;
  }

  pick(pair) {
    const sets = this.data, name = (i) => sets.names[i], letter = (i) => sets.letters[i];
    for (const [other, boxes] of this.cells) for (const box of boxes) box.setAttribute("aria-pressed", other === pair);
    const informative = sets.kept[pair.a] < sets.of && sets.kept[pair.b] < sets.of, head = el("p", "pair-says");
    head.append(el("b", "", `${name(pair.a)} and ${name(pair.b)}`), ` share ${percent(pair.shared)} of what either kept`, informative ? `; two random choices of the same sizes would share ${percent(pair.chance)}.` : "; one of them kept everything.");
    const most = Math.max(1, ...pair.layers.map(([, a, both, b]) => Math.max(a, b) + both / 2)), list = el("div", "by-layer"), half = (n) => `${(50 * n) / most}%`;
    list.setAttribute("role", "img");
    list.setAttribute("aria-label", pair.layers.map(([l, a, both, b]) => `Layer ${l}: ${a} only ${name(pair.a)}, ${both} both, ${b} only ${name(pair.b)}`).join(". "));
    const title = [el("span"), el("span", "left-only", `only ${letter(pair.a)}`), el("span", "in-both", "both"), el("span", "right-only", `only ${letter(pair.b)}`)];
    list.append(...title);
    for (const [l, a, both, b] of pair.layers) {
      const bar = el("div", "meet-bar"), parts = [el("i", "only a"), el("i", "shared"), el("i", "only b")];
      [a, both, b].forEach((n, k) => (parts[k].style.width = half(n)));
      parts[0].style.right = `calc(50% + ${half(both / 2)})`;
      parts[1].style.left = `calc(50% - ${half(both / 2)})`;
      parts[2].style.left = `calc(50% + ${half(both / 2)})`;
      bar.append(...parts);
      list.append(el("span", "layer", `L${l}`), el("span", "count", grouped(a)), bar, el("span", "count right", grouped(b)));
      bar.append(el("span", "middle", grouped(both)));
    }
    this.pair.replaceChildren(head, list);
  }
}
