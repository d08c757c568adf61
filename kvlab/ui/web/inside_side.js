// the right column: the heads to choose from, the locked token, the tracked span, the bytes

class Heads {
  constructor(app) {
    this.app = app;
    this.card = card("heads", "Heads", "");
    this.sub = this.card.querySelector(".sub");
    this.grid = el("div", "grid");
    this.grid.setAttribute("role", "radiogroup");
    this.grid.setAttribute("aria-label", "Layer and KV head");
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
    const { run } = this.app, small = run.L > 8 || run.H > 4;
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

  value(r) {
    const { run } = this.app, lost = run.missing(r);
    return lost === null ? run.kept[r] / Math.max(1, run.born_) : lost;
  }

  step() {
    const { run } = this.app, kept = run.a.missing ? "" : " kept";
    for (const [r, cell] of this.cells.entries()) {
      const text = percent(this.value(r));
      if (cell.said === text) continue;
      cell.said = text;
      cell.fill.className = kept;
      cell.fill.style.width = `${Math.min(100, 100 * this.value(r))}%`;
      cell.text.textContent = text;
      cell.setAttribute("aria-label", `${run.name(r)}, ${text} ${this.app.metricWord()}`);
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
    const { run } = this.app, small = this.grid.classList.contains("small"), at = r >= 0 ? r : this.app.row(), word = this.app.metricWord();
    this.sub.textContent = small ? `${run.name(at)}: ${percent(this.value(at))} ${word}` : word;
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
    this.card.append(this.top, this.rows, this.label, this.cells, this.ends);
  }

  draw() {
    const { run, view, hovered } = this.app, p = view.token >= 0 ? view.token : hovered, none = p < 0;
    this.card.classList.toggle("empty", none);
    this.rows.hidden = this.cells.hidden = this.label.hidden = this.ends.hidden = none;
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
      this.cells.children[r].className = `${kind}${r === this.app.row() ? " on" : ""}`;
    }
  }
}

class SpanPanel { // how much of a word or phrase is still there, step by step
  constructor(app) {
    this.app = app;
    this.card = card("span", "Tracked span", "");
    this.title = this.card.querySelector("h2");
    this.sub = this.card.querySelector(".sub");
    this.art = svg("svg", { class: "spark", role: "img" });
    this.card.append(this.art);
  }

  draw() {
    const { run } = this.app, [from, to] = this.app.span();
    this.card.hidden = from < 0 || run.S < 2;
    if (this.card.hidden) return;
    this.title.replaceChildren("Tracked span ", el("span", "quote", shown(run.pieces.slice(from, to + 1).join(""), 22)));
    const all = (to - from + 1) * run.R, share = new Float32Array(run.S);
    for (let s = 0; s < run.S; s++) {
      let held = 0;
      for (let r = 0; r < run.R; r++) for (let p = from; p <= to; p++) if (p < run.a.born[s] && run.a.left[r * run.P + p] > s) held++;
      share[s] = held / all;
    }
    this.share = share;
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
    this.step();
  }
  step() {
    if (this.card.hidden || !this.place) return;
    const { view } = this.app, { x, wide, high } = this.place, at = x(view.step), late = at > wide - 48, share = this.share[view.step];
    this.here.setAttribute("d", `M${at},2V${high - 2}`);
    this.value.setAttribute("x", late ? at - 6 : at + 6);
    this.value.setAttribute("text-anchor", late ? "end" : "start");
    this.value.setAttribute("y", share > 0.5 ? high - 14 : 20);
    this.value.textContent = percent(share);
    this.art.setAttribute("aria-label", `${percent(share)} of the span is held at step ${view.step}`);
  }
}

class BytesPanel { // four figures that are never mixed, against the uncompressed cache
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
    for (const [name, key, kind] of [["nominal", "nominal", "outline"], ["predicted", "predicted", "dotted"], ["held by tensors, measured", "resident", "solid"], ["peak", "peak", "soft"]]) {
      const row = el("div", `row ${kind}`), bar = el("div", "bar"), fill = el("i"), full = el("u");
      fill.style.width = `${(100 * bytes[key]) / most}%`;
      full.style.left = `${(100 * bytes.full) / most}%`;
      bar.append(fill, full);
      row.append(el("span", "", name), el("b", "", bytesText(bytes[key])), bar);
      this.list.append(row);
    }
  }
}

const digits = (x) => (x !== 0 && (Math.abs(x) < 0.001 || Math.abs(x) >= 1e5) ? x.toExponential(1) : Number(x.toPrecision(2)).toString());
