// small helpers: elements, canvases, colours. Text goes in through textContent only

function el(name, classes, text) {
  const node = document.createElement(name);
  if (classes) node.className = classes;
  if (text !== undefined) node.textContent = text;
  if (name === "button") node.type = "button";
  return node;
}
function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function card(kind, title, sub) {
  const box = el("section", `card ${kind}`), head = el("header");
  head.append(el("h2", "", title), el("span", "sub", sub));
  box.append(head);
  return box;
}
let drawnRatio = 0; // while a picture is made its canvases are drawn this fine, whatever the screen
const pixelRatio = () => drawnRatio || window.devicePixelRatio || 1;
function size(canvas, wide, high) {
  const ratio = pixelRatio();
  canvas.width = Math.round(wide * ratio);
  canvas.height = Math.round(high * ratio);
  canvas.style.width = `${wide}px`;
  canvas.style.height = `${high}px`;
  canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
}
function clear(g) {
  g.save();
  g.setTransform(1, 0, 0, 1, 0, 0);
  g.clearRect(0, 0, g.canvas.width, g.canvas.height);
  g.restore();
  g.globalAlpha = 1;
}
function label(g, c, text, x, y, align, colour, strong) {
  g.fillStyle = colour || c.small;
  g.textAlign = align;
  g.font = strong ? c.strong : c.font;
  g.fillText(text, x, y);
  g.font = c.font;
}
function dotted(g, colour, x1, y1, x2, y2, dash = [2, 2]) {
  g.strokeStyle = colour;
  g.lineWidth = 1;
  g.setLineDash(dash);
  g.beginPath();
  g.moveTo(x1, y1);
  g.lineTo(x2, y2);
  g.stroke();
  g.setLineDash([]);
}
let ruler = null;
function textWidth(text, font) {
  ruler = ruler || document.createElement("canvas").getContext("2d");
  ruler.font = font;
  return ruler.measureText(text).width;
}

// a canvas cannot read light-dark(): each token is put on a hidden element and its computed colour is read
class Colours {
  constructor(root, changed) {
    this.probes = {};
    const box = el("div", "probes");
    box.setAttribute("aria-hidden", "true");
    for (const name of ["ink", "text", "small", "hairline", "edge", "held", "lost", "lost-soft", "reference", "panel"]) {
      const probe = el("i");
      probe.style.color = `var(--${name})`;
      this.probes[name] = probe;
      box.append(probe);
    }
    root.append(box);
    // the colour of the first one has a transition of a millisecond: its end tells that the theme changed
    this.probes.ink.ontransitionend = () => { if (this.read()) changed(); };
  }
  read() {
    const found = Object.fromEntries(Object.entries(this.probes).map(([name, probe]) => [name, getComputedStyle(probe).color]));
    const said = JSON.stringify(found);
    if (said === this.said) return false;
    this.said = said;
    Object.assign(this, found, { lostSoft: found["lost-soft"] });
    const family = getComputedStyle(this.probes.ink).fontFamily;
    this.font = `12px ${family}`;
    this.strong = `600 12px ${family}`;
    this.hatch = this.pattern(found.lost);
    return true;
  }
  pattern(colour) {
    const tile = document.createElement("canvas"), ratio = Math.max(1, Math.round(window.devicePixelRatio || 1)), n = 5 * ratio;
    tile.width = tile.height = n;
    const g = tile.getContext("2d");
    g.strokeStyle = colour;
    g.lineWidth = 1.5 * ratio;
    g.lineCap = "square";
    g.beginPath();
    for (const d of [-n, 0, n]) { g.moveTo(d, n); g.lineTo(d + n, 0); }
    g.stroke();
    const pattern = g.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(1 / ratio));
    return pattern;
  }
}
