// In the page: milliseconds from a key or a click to the end of the server's answer, and of one step of the scrubber to the next frame.
window.kvlabBench = {
  answered() {
    const app = document.querySelector("[data-testid='stApp']");
    const start = performance.now();
    let ran = false;
    return new Promise((done) => {
      const watch = new MutationObserver(() => {
        const state = app.dataset.testScriptState;
        if (state === "running") ran = true;
        else if (ran && state === "notRunning") { watch.disconnect(); done(performance.now() - start); }
      });
      watch.observe(app, { attributes: true, attributeFilter: ["data-test-script-state"] });
    });
  },
  async steps(rail, count) {
    const found = [];
    for (let i = 0; i < count; i++) {
      await new Promise(requestAnimationFrame);
      const start = performance.now();
      rail.dispatchEvent(new KeyboardEvent("keydown", { key: i % 2 ? "ArrowLeft" : "ArrowRight", bubbles: true, composed: true }));
      found.push(performance.now() - start);
    }
    return found;
  },
};
