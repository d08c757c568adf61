// Every visible text of the page with less contrast than 4.5 to the colour behind it (WCAG 2.2, 1.4.3), also inside components. Controls that are off are exempt.
() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true }), known = {};
  const rgba = (text) => known[text] ??= (() => { pen.clearRect(0, 0, 1, 1); pen.fillStyle = text; pen.fillRect(0, 0, 1, 1); const d = pen.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; })();
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = (c) => { const [r, g, b] = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const up = (node) => node.parentElement || (node.getRootNode() instanceof ShadowRoot ? node.getRootNode().host : null);
  const faint = [];
  let seen = 0;
  function look(node) {
    const said = [...node.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent.trim()).join(" ").trim(), box = node.getBoundingClientRect(), css = getComputedStyle(node);
    if (!said || box.width < 2 || box.height < 2 || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || /^(STYLE|SCRIPT|NOSCRIPT|OPTION)$/.test(node.tagName)) return;
    const layers = [], x = box.left + box.width / 2, y = box.top + box.height / 2;
    let weight = 1;
    for (let at = node; at; at = up(at)) {
      const own = getComputedStyle(at);
      if (at.matches(":disabled, [aria-disabled=true], .heatmap-label") || (own.backgroundImage !== "none" && at !== node.ownerDocument.body)) return; // hatched, or on a cell of a picture
      weight *= Number(own.opacity);
      const around = at.getBoundingClientRect(), plate = at.matches(".annotation-text-g, .annotation") && at.querySelector("rect.bg");
      const open = own.overflowX === "visible" && own.overflowY === "visible" && at.parentElement !== node.ownerDocument.body;
      if (open && (x < around.left || x > around.right || y < around.top || y > around.bottom)) continue; // the text hangs out of this one
      if (plate) layers.push([...rgba(getComputedStyle(plate).fill).slice(0, 3), Number(getComputedStyle(plate).fillOpacity)]);
      if (!(at instanceof SVGElement) || at.tagName === "svg") layers.push(rgba(own.backgroundColor));
      if (layers.length && layers.at(-1)[3] === 1) break;
    }
    const ground = layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]), ink = rgba(node instanceof SVGElement ? css.fill : css.color);
    const [a, b] = [light(over([...ink.slice(0, 3), ink[3] * weight], ground)), light(ground)], ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen++;
    if (ratio < 4.495) faint.push(`${ratio.toFixed(2)} ${node.tagName.toLowerCase()}.${node.getAttribute("class") || ""} in ${up(node)?.getAttribute("class") || up(node)?.tagName}: ${said.slice(0, 40)}`);
  }
  const walk = (root) => { for (const node of root.querySelectorAll("*")) { look(node); if (node.shadowRoot) walk(node.shadowRoot); } };
  walk(document.body);
  return { seen, faint: [...new Set(faint)].slice(0, 12) };
}
