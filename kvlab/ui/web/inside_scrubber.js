// one line of time: how much attention is missing, when entries left, where the text first differs

class Scrubber {
  constructor(app) {
    this.app = app;
    this.card = el("section", "card scrub");
    this.play = el("button", "play");
    this.play.setAttribute("aria-label", "Play the steps");
    this.play.append(svg("svg", { viewBox: "0 0 12 12", width: 12, height: 12 }, svg("path", { d: "M2.5 1v10l8-5z", fill: "currentColor" })));
    this.play.onclick = () => app.play();
    this.now = el("div", "now");
    this.number = el("b");
    this.of = el("span");
    this.now.append(this.number, this.of);
    this.rail = el("div", "rail");
    this.rail.tabIndex = 0;
    this.rail.setAttribute("role", "slider");
    this.rail.setAttribute("aria-label", "Step of the answer");
    this.label = el("div", "label");
    this.note = el("div", "note");
    this.art = svg("svg", { class: "art", "aria-hidden": "true" });
    this.head = el("div", "playhead");
    this.done = el("div", "done");
    this.knob = el("div", "knob");
    this.rail.append(this.label, this.note, this.art, this.done, this.head, this.knob);
    this.card.append(this.play, this.now, this.rail);
    this.rail.onpointerdown = (e) => { this.rail.setPointerCapture(e.pointerId); this.drag = true; this.to(e); };
    this.rail.onpointermove = (e) => this.drag && this.to(e);
    this.rail.onpointerup = this.rail.onpointercancel = () => { if (this.drag) { this.drag = false; app.commit(); } };
    this.rail.onkeydown = (e) => app.stepKey(e);
    this.rail.onkeyup = () => app.commitSoon();
  }

  x(s) { return 8 + (this.app.run.S > 1 ? (s / (this.app.run.S - 1)) * (this.width - 24) : 0); }
  to(e) {
    const at = (e.clientX - this.rail.getBoundingClientRect().left - 8) / (this.width - 24);
    this.app.goto(Math.round(at * (this.app.run.S - 1)));
  }

  layout() {
    const { run } = this.app;
    this.width = this.rail.clientWidth;
    this.art.setAttribute("width", this.width);
    this.art.setAttribute("height", 84);
    this.art.replaceChildren();
    this.area(run);
    this.marks(run);
    this.axis(run);
    this.rail.setAttribute("aria-valuemin", 0);
    this.rail.setAttribute("aria-valuemax", Math.max(0, run.S - 1));
    this.play.disabled = run.S < 2;
  }

  area(run) {
    if (!run.mean || run.S < 2) return;
    const high = Math.max(0.05, ...run.mean), y = (v) => 60 - 20 * (v / high);
    const points = Array.from(run.mean, (v, s) => `${this.x(s).toFixed(1)},${y(v).toFixed(1)}`);
    this.art.append(
      svg("path", { class: "missing-area", d: `M${this.x(0)},60L${points.join("L")}L${this.x(run.S - 1)},60Z` }),
      svg("path", { class: "missing-line", d: `M${points.join("L")}` }),
    );
  }

  marks(run) {
    const y = 32, first = run.first;
    const diamond = first === null ? -99 : this.x(first) + (run.cuts.some(([s]) => s === first) ? 13 : 0);
    let written = -99, last = -99;
    const end = this.width - 16;
    if (first !== null) {
      const right = diamond + 96 < end;
      this.art.append(
        svg("path", { class: "first", d: `M${diamond},${y - 9}l4.5,4.5l-4.5,4.5l-4.5,-4.5z` }),
        svg("text", { class: "strong", x: diamond + (right ? 8 : -8), y, "text-anchor": right ? "start" : "end" }, "first difference"),
      );
      this.taken = right ? [diamond - 8, diamond + 104] : [diamond - 104, diamond + 8];
    } else this.taken = [-99, -99];
    let dense = 0;
    for (const [s, n] of run.cuts) {
      const x = this.x(s);
      if (x - last < 9) { dense++; this.art.append(svg("rect", { class: "cut", x: x - 0.5, y: y - 4, width: 1, height: 4 })); continue; }
      last = x;
      const free = x - 6 > this.taken[1] || x + 46 < this.taken[0], hidden = x + 5 > this.taken[0] + 3 && x - 5 < this.taken[1] && !(first === s);
      if (hidden) { this.art.append(svg("rect", { class: "cut", x: x - 0.5, y: y + 2, width: 1, height: 5 })); continue; }
      this.art.append(svg("path", { class: "cut", d: `M${x - 4.5},${y - 8}h9l-4.5,7z` }));
      if (free && x - written > 58 && x + 44 < this.width) { this.art.append(svg("text", { x: x + 8, y }, `−${grouped(n)}`)); written = x; }
    }
    this.death(run, y);
    const total = run.cuts.reduce((sum, [, n]) => sum + n, 0);
    this.note.textContent = !total ? "nothing evicted" : dense ? `▼ ${grouped(total)} entries evicted over ${many(run.cuts.length, "step")}` : "▼ entries evicted at this step";
  }

  death(run, y) { // the step at which the last entry of the tracked span left
    const { track, till } = this.app.view;
    if (track < 0) return;
    const { share } = run.alive(track, till), gone = share.findIndex((v, s) => v === 0 && (s ? share[s - 1] > 0 : run.a.born[0] > track));
    if (gone < 0) return;
    const x = this.x(gone);
    this.art.append(svg("path", { class: "death", d: `M${x - 4},${y + 4}l8,8m0,-8l-8,8` }, svg("title", {}, `the tracked span is gone from step ${gone}`)));
  }

  axis(run) {
    this.art.append(svg("rect", { class: "track", x: 8, y: 63, width: Math.max(0, this.width - 24), height: 4, rx: 2 }));
    const every = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].find((n) => (this.width / Math.max(1, run.S)) * n > 44) || 2048;
    for (let s = 0; s < run.S; s += every) this.art.append(svg("text", { x: this.x(s), y: 84, "text-anchor": "middle" }, String(s)));
  }

  step() {
    const { run, view } = this.app, s = view.step, x = this.x(s);
    this.number.textContent = `Step ${s}`;
    this.of.textContent = `of ${Math.max(0, run.S - 1)}`;
    this.knob.style.transform = `translateX(${x - 8}px)`;
    this.head.style.transform = `translateX(${x - 1}px)`;
    this.done.style.width = `${Math.max(0, x - 8)}px`;
    const kept = run.kept.reduce((sum, n) => sum + n, 0), metric = this.app.metricWord(), word = metric[0].toUpperCase() + metric.slice(1);
    const said = run.mean ? `${word}, mean of all heads: ${percent(run.mean[s])} at step ${s}` : `${grouped(kept)} of ${grouped(run.R * run.born_)} entries held at step ${s}; no full cache stored to compare`;
    this.label.textContent = said;
    this.label.classList.toggle("lost", Boolean(run.mean));
    this.rail.setAttribute("aria-valuenow", s);
    this.rail.setAttribute("aria-valuetext", `step ${s} of ${run.S - 1}, ${said}`);
  }

  playing(on) {
    this.play.firstChild.firstChild.setAttribute("d", on ? "M2 1h3v10H2zM7 1h3v10H7z" : "M2.5 1v10l8-5z");
    this.play.setAttribute("aria-label", on ? "Pause" : "Play the steps");
  }
}
