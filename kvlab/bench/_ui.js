// In the page: milliseconds of each step of the scrubber with the layout that it causes.
window.kvlabBench = {
  async scrub(rail, count) {
    const found = [], last = Number(rail.getAttribute("aria-valuemax"));
    const press = (key) => rail.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, composed: true }));
    press("Home");
    for (let i = 0, way = 1; i < count; i++) {
      await new Promise(requestAnimationFrame);
      const at = Number(rail.getAttribute("aria-valuenow"));
      if (at + way < 0 || at + way > last) way = -way;
      void document.body.offsetHeight; // what came before is not this step's
      const start = performance.now();
      press(way > 0 ? "ArrowRight" : "ArrowLeft");
      void document.body.offsetHeight;
      found.push(performance.now() - start);
      if (Number(rail.getAttribute("aria-valuenow")) === at) throw new Error("the scrubber did not move");
    }
    return found;
  },
  unfold(canvas, layers) { // from below, so that no row moves that is still to be clicked
    const box = canvas.getBoundingClientRect();
    for (let l = layers - 1; l >= 0; l--) canvas.dispatchEvent(new MouseEvent("click", { clientX: box.left + 20, clientY: box.top + 45 + 18 * l, bubbles: true }));
  },
};
