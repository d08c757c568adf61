// the right column: the heads to choose from, the locked token, the tracked span, the bytes

// what colours the heads: name in the list, words for a value, whether much of it is a loss, and the value of a row
const METRICS = {
  missing: { name: "missing attention", words: (app) => app.metricWord(), lost: true, there: (run) => run.a.missing, of: (run, r) => run.missing(r) },
  kept: { name: "share kept", words: () => "of the entries kept", there: () => true, of: (run, r) => run.kept[r] / Math.max(1, run.born_) },
  spread: { name: "spread of attention", words: () => "spread (entropy; 100 %: all entries alike)", there: (run) => run.a.attention, of: (run, r) => run.spread(r) },
  sinks: { name: "attention on the first 4", words: () => "of its attention on the first 4 tokens", there: (run) => run.a.attention, of: (run, r) => run.sinks(r) },
};

class Heads {
  constructor(app) {
    this.app = app;
    this.card = card("heads", "Heads", "");
    this.sub = this.card.querySelector(".sub");
    this.grid = el("div", "grid");
    this.grid.setAttribute("role", "radiogroup");
    this.grid.setAttribute("aria-label", "Layer and KV head");
    this.choice = el("select");
    this.choice.setAttribute("aria-label", "Colour the heads by");
    this.choice.onchange = () => { this.metric = this.choice.value; this.step(); this.tell(-1); };
    this.choice.onkeydown = (e) => e.stopPropagation(); // its arrow keys choose, they do not step
    this.card.querySelector("header").append(this.choice);
    this.card.append(this.grid);
    this.grid.onclick = (e) => { const cell = e.target.closest("[data-r]"); if (cell) app.pick(Number(cell.dataset.r)); };
    this.grid.onpointerover = (e) => { const cell = e.target.closest("[data-r]"); this.tell(cell ? Number(cell.dataset.r) : -1); };
    this.grid.onpointerleave = () => this.tell(-1);
    this.grid.onkeydown = (e) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -app.run.H, ArrowDown: app.run.H }[e.key];
      if (!by) return;
      const r = app.row() + by;
      if (r >= 0 && r < app.run.R) { app.pick(r); this.cells[r].focus(); }
      e.preventDefault();
      e.stopPropagation();
    };
  }

  load() {
    const { run } = this.app, small = run.L > 8 || run.H > 4, there = Object.keys(METRICS).filter((name) => METRICS[name].there(run));
    if (!there.includes(this.metric)) this.metric = there[0];
    this.choice.replaceChildren(...there.map((name) => { const option = el("option", "", METRICS[name].name); option.value = name; return option; }));
    this.choice.value = this.metric;
    this.grid.className = `grid${small ? " small" : ""}`;
    this.grid.style.gridTemplateColumns = `${small ? "26px" : "24px"} repeat(${run.H}, minmax(0, 1fr))`;
    this.cells = [];
    this.grid.replaceChildren();
    for (let l = 0; l < run.L; l++) {
      this.grid.append(el("span", "layer", small && l % 4 ? "" : `L${l}`));
      for (let h = 0; h < run.H; h++) {
        const cell = el("button", "cell"), r = l * run.H + h;
        cell.dataset.r = r;
        cell.setAttribute("role", "radio");
        cell.fill = el("i");
        cell.text = el("span");
        cell.append(cell.fill, cell.text);
        this.cells.push(cell);
        this.grid.append(cell);
      }
    }
    this.grid.append(el("span"));
    for (let h = 0; h < run.H; h++) this.grid.append(el("span", "foot", small ? (h % 4 ? "" : `H${h}`) : `KV head ${h}`));
    this.tell(-1);
  }

  value(r) { return METRICS[this.metric].of(this.app.run, r); }
  words() { return METRICS[this.metric].words(this.app); }

  step() {
    const { run } = this.app, kind = METRICS[this.metric].lost ? "" : "kept", words = this.words();
    for (const [r, cell] of this.cells.entries()) {
      const value = this.value(r), text = percent(value), said = `${run.name(r)}, ${text} ${words}`;
      if (cell.said === said) continue;
      cell.said = said;
      cell.fill.className = kind;
      cell.fill.style.width = `${Math.min(100, Math.ceil(50 * value) * 2)}%`; // to about a pixel: finer steps cost a layout each
      cell.text.textContent = text;
      cell.setAttribute("aria-label", said);
    }
  }

  pick() {
    for (const [r, cell] of this.cells.entries()) {
      const on = r === this.app.row();
      cell.setAttribute("aria-checked", on);
      cell.tabIndex = on ? 0 : -1;
    }
    this.tell(-1);
  }
  tell(r) {
    const { run } = this.app, small = this.grid.classList.contains("small"), at = r >= 0 ? r : this.app.row(), word = this.words();
    // where every cell shows its value, the list above already names it
    this.sub.textContent = small ? `${run.name(at)}: ${percent(this.value(at))} ${word}` : word === METRICS[this.metric].name ? "" : word;
  }
}

class TokenPanel {
  constructor(app) {
    this.app = app;
    this.card = el("section", "card token");
    this.top = el("div", "top");
    this.tile = el("div", "tile");
    const words = el("div");
    this.title = el("h2");
    this.sub = el("span", "sub");
    words.append(this.title, this.sub);
    this.top.append(this.tile, words);
    this.rows = el("dl");
    this.label = el("span", "sub", "This token in each head");
    this.cells = el("div", "cells");
    this.cells.onclick = (e) => { if (e.target.dataset.r) app.pick(Number(e.target.dataset.r)); };
    this.ends = el("div", "ends");
    this.acts = el("div", "acts");
    this.track = el("button", "act", "Track this span");
    this.track.onclick = () => app.trackSpan();
    this.protect = el("button", "act", "Protect and rerun");
    this.protect.onclick = () => app.protect();
    this.acts.append(this.track, this.protect);
    this.card.append(this.top, this.rows, this.label, this.cells, this.ends, this.acts);
  }

  draw() {
    const { run, view, hovered } = this.app, p = view.token >= 0 ? view.token : hovered, none = p < 0;
    this.card.classList.toggle("empty", none);
    this.rows.hidden = this.cells.hidden = this.label.hidden = this.ends.hidden = none;
    this.acts.hidden = view.token < 0;
    if (!this.acts.hidden) this.offer();
    this.tile.textContent = none ? "" : shown(run.pieces[p], 7);
    this.tile.classList.toggle("wide", !none && shown(run.pieces[p], 7).length > 2);
    this.title.textContent = none ? "No token locked" : view.token >= 0 ? "Locked token" : "Token under the pointer";
    this.sub.textContent = none ? "Click a token in the text, the map or the bars." : `position ${p} · id ${run.a.ids[p]} · ${this.born(p)}`;
    if (none) return;
    const r = this.app.row(), i = r * run.P + p, there = p < run.born_, gone = there && !run.held(r, p), into = run.merged(r, p);
    const facts = [["Held by", there ? `${run.heldCount[p]} of ${run.R} heads` : "not in the cache yet"], [`In ${run.name(r)}`, this.app.state(r, p), gone ? "lost" : ""]];
    if (!there) facts.length = 1;
    if (there && run.a.score && !Number.isNaN(run.a.score[i])) {
      facts.push([gone ? "Score then" : "Score, last judged", digits(run.a.score[i])]);
      if (run.a.rank[i] > 0) facts.push([gone ? "Rank then" : "Rank, last judged", gone && into < 0 ? `${run.a.rank[i]}; the head kept ${run.keptThen(r, p)}` : `${run.a.rank[i]}`]);
    }
    if (there && run.a.bits && !gone) facts.push(["Bits, key and value", this.bits(i)]);
    if (there && run.a.full) facts.push(["Full cache reads", percent(run.full(r, p))]);
    if (there && run.a.attention) facts.push(["This run reads", percent(run.attention(r, p))]);
    this.rows.replaceChildren(...facts.flatMap(([name, value, kind]) => [el("dt", "", name), el("dd", kind || "", value)]));
    this.heads(p);
  }

  offer() { // what may be done with the locked token, or the span it begins
    const { run, view } = this.app, [from, to] = this.app.span(), what = to > from ? `“${shown(run.pieces.slice(from, to + 1).join(""), 18)}”` : "this token";
    const tracked = view.track === from && view.till === to, why = run.noPin;
    this.track.textContent = tracked ? "Stop tracking" : "Track this span";
    this.track.setAttribute("aria-pressed", tracked);
    this.track.title = `Keep ${what} in the panel below, whatever else is chosen`;
    this.protect.disabled = Boolean(why) || from >= run.asked;
    this.protect.title = why || (from >= run.asked ? "Only tokens of the prompt and the question can be protected" : `Run again with every entry of ${what} held, and see whether the answer changes`);
  }

  born(p) {
    const { run } = this.app;
    return p < run.prompt ? "born at prefill" : p < run.asked ? "born with the question" : `written at step ${p - run.asked}`;
  }
  bits(i) {
    const { run } = this.app, name = (b) => (b ? String(b) : `full (${run.precision})`), size = run.R * run.P;
    return run.a.coded[i] > run.step ? `full (${run.precision}) so far` : `${name(run.a.bits[i])} and ${name(run.a.bits[size + i])}`;
  }
  heads(p) {
    const { run } = this.app;
    this.cells.classList.toggle("many", run.R > 16);
    if (this.cells.childElementCount !== run.R) {
      this.cells.replaceChildren(...Array.from({ length: run.R }, (_, r) => { const cell = el("i"); cell.dataset.r = r; cell.title = run.name(r); return cell; }));
      this.ends.replaceChildren(el("span", "", run.name(0)), el("span", "", run.name(run.R - 1)));
    }
    for (let r = 0; r < run.R; r++) {
      const there = p < run.born_, held = run.held(r, p), merged = run.merged(r, p) >= 0;
      const kind = !there ? "none" : held ? (run.unread(r, p) ? "unread" : "held") : merged ? "merged" : run.wants(r, p) ? "lost" : "gone";
      const cell = this.cells.children[r], said = `${kind}${r === this.app.row() ? " on" : ""}`;
      if (cell.className !== said) cell.className = said;
    }
  }
}

class SpanPanel { // how much of a word or phrase is still there, step by step and layer by layer, and how much attention it gets
  constructor(app) {
    this.app = app;
    this.card = card("span", "Tracked span", "");
    this.title = this.card.querySelector("h2");
    this.sub = this.card.querySelector(".sub");
    this.art = svg("svg", { class: "spark", role: "img" });
    this.layers = el("canvas", "layers");
    this.layers.setAttribute("role", "img");
    this.note = el("span", "sub");
    this.rows = el("dl");
    this.card.append(this.art, this.layers, this.note, this.rows);
  }

  draw() {
    const { run, view } = this.app, [from, to] = this.app.tracked();
    this.card.hidden = from < 0 || run.S < 2;
    if (this.card.hidden) return;
    this.title.replaceChildren(`${view.track >= 0 ? "Tracked" : "This"} span `, el("span", "quote", shown(run.pieces.slice(from, to + 1).join(""), 22)));
    this.alive = run.alive(from, to);
    const all = (to - from + 1) * run.R, share = this.alive.share;
    this.sub.textContent = `share of its ${many(all, "entry", "entries")} still held, by step`;
    const wide = Math.max(120, this.card.clientWidth - 32 - 42), high = 64, x = (s) => 1 + (s / (run.S - 1)) * (wide - 2), y = (v) => 6 + (high - 12) * (1 - v);
    this.place = { x, wide, high };
    let d = `M${x(0)},${y(share[0])}`;
    for (let s = 1; s < run.S; s++) d += `H${x(s)}V${y(share[s])}`;
    this.art.setAttribute("width", wide + 42);
    this.art.setAttribute("height", high + 18);
    this.art.replaceChildren(
      svg("path", { class: "grid", d: `M0,${y(1)}H${wide}M0,${y(0)}H${wide}` }),
      svg("path", { class: "series", d }),
      svg("text", { x: wide + 6, y: y(1) + 4 }, "100 %"), svg("text", { x: wide + 6, y: y(0) + 4 }, "0 %"),
      svg("text", { x: 0, y: high + 15 }, "step 0"), svg("text", { x: wide, y: high + 15, "text-anchor": "end" }, String(run.S - 1)),
    );
    this.here = svg("path", { class: "here" });
    this.value = svg("text", { class: "strong" });
    this.art.append(this.here, this.value);
    this.strips(run, wide);
    this.step();
  }

  strips(run, wide) { // one strip a layer, blue where its heads hold the span: the second cue is the bare ground
    const c = this.app.colours, high = run.L > 12 ? 4 : 9, gap = run.L > 12 ? 1 : 2;
    size(this.layers, wide + 42, run.L * (high + gap));
    const g = this.layers.getContext("2d"), w = (wide - 2) / run.S;
    for (let l = 0; l < run.L; l++) {
      const y = l * (high + gap);
      g.strokeStyle = c.edge;
      g.globalAlpha = 1;
      g.strokeRect(1.5, y + 0.5, wide - 3, high - 1);
      g.fillStyle = c.held;
      for (let s = 0, end; s < run.S; s = end) {
        const value = this.alive.layers[l * run.S + s];
        for (end = s + 1; end < run.S && this.alive.layers[l * run.S + end] === value; ) end++;
        g.globalAlpha = value;
        g.fillRect(1 + s * w, y, (end - s) * w, high);
      }
      g.globalAlpha = 1;
      if (run.L <= 12 || l % 4 === 0) label(g, c, `L${l}`, wide + 6, y + Math.min(high, 9), "left");
    }
  }

  step() {
    if (this.card.hidden || !this.place) return;
    const { run, view } = this.app, { x, wide, high } = this.place, at = x(view.step), late = at > wide - 48, share = this.alive.share[view.step];
    this.here.setAttribute("d", `M${at},2V${high - 2}`);
    this.value.setAttribute("x", late ? at - 6 : at + 6);
    this.value.setAttribute("text-anchor", late ? "end" : "start");
    this.value.setAttribute("y", share > 0.5 ? high - 14 : 20);
    this.value.textContent = percent(share);
    this.art.setAttribute("aria-label", `${percent(share)} of the span is held at step ${view.step}`);
    const held = Array.from({ length: run.L }, (_, l) => `L${l} ${percent(this.alive.layers[l * run.S + view.step])}`).join(", ");
    this.layers.setAttribute("aria-label", `Held by layer at step ${view.step}: ${held}`);
    const gone = this.alive.share.findIndex((v, s) => s && v === 0 && this.alive.share[s - 1] > 0);
    this.note.textContent = gone > 0 ? `held by layer; gone everywhere from step ${gone}` : "held by layer";
    this.sums(run);
  }

  sums(run) { // attention on all its tokens together
    const [from, to] = this.app.tracked(), r = this.app.row(), facts = [];
    for (const [name, of] of [["This run reads", "attention"], ["Full cache reads", "full"]]) {
      if (!run.a[of]) continue;
      const found = Array.from({ length: to - from + 1 }, (_, i) => (from + i < run.born_ ? run[of](r, from + i) : 0)), sum = found.reduce((a, b) => a + b, 0);
      facts.push([name, `${percent(sum)}${to > from ? `; mean ${percent(sum / found.length)}, most ${percent(Math.max(...found))}` : ""}`]);
    }
    if (facts.length) facts.unshift([`In ${run.name(r)}, all together`, ""]);
    this.rows.replaceChildren(...facts.flatMap(([name, value]) => [el("dt", "", name), el("dd", "", value)]));
  }
}

class BytesPanel { // figures that are never mixed, against the uncompressed cache; what a step reads where that is not all
  constructor(app) {
    this.app = app;
    this.card = card("bytes", "Bytes of the cache", "");
    this.list = el("div", "list");
    this.card.append(this.list);
  }
  load() {
    const { run } = this.app, { bytes } = run, most = Math.max(bytes.full, bytes.peak, bytes.resident, 1);
    this.card.querySelector(".sub").textContent = `full cache ${bytesText(bytes.full)}`;
    this.list.replaceChildren();
    const figures = [["nominal", "nominal", "outline"], ["predicted", "predicted", "dotted"], ["held by tensors, measured", "resident", "solid"], ["peak", "peak", "soft"]];
    if (run.a.unread) figures.push(["read per step, mean", "read_per_step", "soft"]);
    for (const [name, key, kind] of figures) {
      const row = el("div", `row ${kind}`), bar = el("div", "bar"), fill = el("i"), full = el("u");
      fill.style.width = `${(100 * bytes[key]) / most}%`;
      full.style.left = `${(100 * bytes.full) / most}%`;
      bar.append(fill, full);
      row.append(el("span", "", name), el("b", "", bytesText(bytes[key])), bar);
      this.list.append(row);
    }
    const coded = bytes.bits_per_value === undefined ? [] : [["bits per value, all counted", `${bytes.bits_per_value.toFixed(2)} of ${run.precision}`],
      ["beside the cache, shared by all runs", bytes.side ? bytesText(bytes.side) : "nothing"]];
    for (const [name, value] of coded) {
      const row = el("div", "row plain");
      row.append(el("span", "", name), el("b", "", value));
      this.list.append(row);
    }
  }
}

const digits = (x) => (x !== 0 && (Math.abs(x) < 0.001 || Math.abs(x) >= 1e5) ? x.toExponential(1) : Number(x.toPrecision(2)).toString());
