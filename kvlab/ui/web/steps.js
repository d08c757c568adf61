// a page that is walked step by step: keys, play and release. It has a `view` with its step, a `run` of S steps, a `scrubber` and a `drawStep`.
// All of it stays in the browser; Python hears of the release only

class Stepped {
  goto(step) {
    step = Math.max(0, Math.min(this.run.S - 1, step));
    if (step === this.view.step || !this.run.S) return;
    this.view.step = step;
    this.drawStep();
  }
  stepKey(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || !this.run) return;
    const { view, run } = this, to = { ArrowRight: view.step + 1, ArrowLeft: view.step - 1, PageUp: view.step + 16, PageDown: view.step - 16, Home: 0, End: run.S - 1 }[e.key];
    if (to !== undefined) this.goto(to);
    else if (e.key === " " && !/^(BUTTON|A)$/.test(e.target.tagName)) this.play();
    else return;
    e.preventDefault();
    e.stopPropagation();
  }
  play() {
    if (this.clock) { clearInterval(this.clock); this.clock = 0; this.commit(); }
    else {
      if (this.view.step >= this.run.S - 1) this.goto(0);
      this.clock = setInterval(() => (this.view.step < this.run.S - 1 ? this.goto(this.view.step + 1) : this.play()), 260);
    }
    this.scrubber.playing(Boolean(this.clock));
  }
  commit() {
    clearTimeout(this.later);
    const said = JSON.stringify(this.view);
    if (this.clock || said === this.sent) return;
    this.sent = said;
    this.send("view", { ...this.view });
  }
  commitSoon() { clearTimeout(this.later); this.later = setTimeout(() => this.commit(), 250); }
  stop() { clearInterval(this.clock); clearTimeout(this.later); }
}
