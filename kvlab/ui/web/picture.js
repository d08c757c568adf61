// a card as a picture: what stands on it is read off the page as boxes, words, shapes and canvases, and drawn anew as PNG (2x) or SVG. All of it happens in
// the browser and fetches nothing. Light unless asked otherwise, with a footer: title, sentence, setting, run

const PICTURE_STYLE = `
.picturing { color-scheme: light; } .picturing.dark { color-scheme: dark; }
.picturing, .picturing * { transition: none !important; animation: none !important; }
.picturing .text { max-height: none !important; } .picturing .sub { text-overflow: clip !important; }
.picture { position: relative; font-size: 12.5px; line-height: 18px; }
section.card { position: relative; } section.card .picture { position: absolute; top: 12px; right: 14px; }
header:has(> .picture) { padding-right: 58px; }
.picture button { font: inherit; color: var(--small); background: none; border: 0; padding: 0 2px; cursor: pointer; border-radius: 4px; }
.picture button:hover { color: var(--ink); text-decoration: underline; text-underline-offset: 3px; }
.picture .kinds { position: absolute; right: 0; top: 22px; z-index: 5; display: flex; gap: 4px 12px; align-items: center; padding: 6px 10px; white-space: nowrap; background: var(--panel); border: 1px solid var(--edge); border-radius: 7px; }
.picture .kinds button { color: var(--ink); font-weight: 600; }
.picture label { color: var(--text); display: flex; gap: 4px; align-items: center; }
.picture [hidden] { display: none !important; }`;

// the control: "Picture", and under it the kinds. `app` has a body, `caption()` and `redraw()`; `vector`: the card holds no canvas, so SVG is there too
function offerPicture(app, card, place, name, vector) {
  if (!app.pictureStyle) { app.pictureStyle = el("style", "", PICTURE_STYLE); app.body.append(app.pictureStyle); }
  const box = el("span", "picture"), open = el("button", "", "Picture"), kinds = el("span", "kinds"), dark = el("input"), keep = el("label");
  open.setAttribute("aria-expanded", false);
  open.setAttribute("aria-label", `Picture of this part: ${name.replaceAll("-", " ")}`);
  const show = (on) => { kinds.hidden = !on; open.setAttribute("aria-expanded", on); };
  open.onclick = () => {
    keep.hidden = !shownDark(app.body);
    show(kinds.hidden);
  };
  for (const kind of vector ? ["PNG", "SVG"] : ["PNG"]) {
    const button = el("button", "", kind);
    button.onclick = async () => {
      const made = sheetOf(app, card, dark.checked && !keep.hidden);
      save(kind === "PNG" ? await pngOf(made) : new Blob([svgOf(made)], { type: "image/svg+xml" }), `kvlab-${name}-${app.caption().run || "picture"}.${kind.toLowerCase()}`.replace(/[^\w.-]+/g, "-"));
      show(false);
      open.focus();
    };
    kinds.append(button);
  }
  dark.type = "checkbox";
  keep.append(dark, "dark");
  kinds.append(keep);
  box.append(open, kinds);
  box.onkeydown = (e) => { if (e.key === "Escape" && !kinds.hidden) { show(false); open.focus(); } if (e.key !== "Tab") e.stopPropagation(); };
  box.addEventListener("focusout", (e) => { if (e.relatedTarget && !box.contains(e.relatedTarget)) show(false); });
  show(false);
  place.append(box);
}
function shownDark(node) { // whether the page is dark now: light-dark() says so
  const probe = el("i");
  probe.style.color = "light-dark(#000, #fff)";
  node.append(probe);
  const dark = getComputedStyle(probe).color.includes("255");
  probe.remove();
  return dark;
}
function save(blob, name) {
  const link = el("a"), at = URL.createObjectURL(blob);
  link.href = at;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(at), 10000);
}

// everything on a card, in the order it is painted: { wide, high, ground, items }
function sheetOf(app, card, dark) {
  const { classList } = app.body;
  drawnRatio = 2;
  classList.add("picturing");
  classList.toggle("dark", dark);
  try {
    app.redraw();
    return new Sheet(card).footed(app.caption());
  } finally {
    drawnRatio = 0;
    classList.remove("picturing", "dark");
    app.redraw();
  }
}

const clearColour = (colour) => !colour || colour === "none" || colour === "transparent" || /,\s*0\)$/.test(colour) || /\/\s*0\)$/.test(colour);
const coloursIn = (text) => text.match(/(?:rgba?|color)\([^)]*\)/g) || [];
const px = (text) => parseFloat(text) || 0;

class Sheet {
  constructor(card) {
    const box = card.getBoundingClientRect(), style = getComputedStyle(card), page = this.token(card, "page");
    this.items = [];
    this.x = box.left;
    this.y = box.top;
    this.pad = clearColour(style.backgroundColor) ? 12 : 0; // a bare figure gets a margin
    this.wide = Math.ceil(box.width) + 2 * this.pad;
    this.high = Math.ceil(Math.max(box.height, card.scrollHeight)) + 2 * this.pad;
    this.ground = this.pad ? page : style.backgroundColor;
    [this.hatch, this.soft, this.ink, this.small, this.hairline] = ["lost", "lost-soft", "ink", "small", "hairline"].map((name) => this.token(card, name));
    this.font = style.fontFamily;
    for (const child of card.childNodes) this.walk(child, 1, "");
  }
  token(node, name) {
    const probe = el("i");
    probe.style.color = `var(--${name})`;
    node.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  }
  place(box) { return { x: box.left - this.x + this.pad, y: box.top - this.y + this.pad, w: box.width, h: box.height }; }
  rect(at, more) { if (at.w > 0 && at.h > 0) this.items.push({ kind: "rect", ...at, alpha: 1, ...more }); }

  walk(node, alpha, strike) {
    if (node.nodeType === 3) return this.words(node, alpha, strike);
    if (node.nodeType !== 1 || node.matches(".picture, .probes, .live, style, select, .acts, .column:not(.locked)")) return;
    const style = getComputedStyle(node);
    if (style.display === "none" || style.visibility === "hidden" || node.hidden) return;
    alpha *= Number(style.opacity);
    if (node.tagName === "CANVAS") return this.canvas(node, alpha);
    if (node.tagName === "svg") return this.drawing(node, alpha);
    const cut = style.overflowX !== "visible" && style.display !== "inline", { x, y, w, h } = this.place(node.getBoundingClientRect());
    for (const box of style.display === "inline" ? node.getClientRects() : [node.getBoundingClientRect()]) this.box(this.place(box), style, alpha);
    this.before(node, alpha);
    if (cut) this.items.push({ kind: "cut", x, y, w, h });
    for (const child of node.childNodes) this.walk(child, alpha, style.textDecorationLine !== "none" ? style.textDecorationLine : strike);
    if (cut) this.items.push({ kind: "end" });
  }

  box(at, style, alpha) {
    const r = px(style.borderTopLeftRadius), grown = (n, dx = 0, dy = 0) => ({ x: at.x - n + dx, y: at.y - n + dy, w: at.w + 2 * n, h: at.h + 2 * n });
    for (const shadow of (style.boxShadow === "none" ? [] : style.boxShadow.split(/,(?![^(]*\))/)).reverse()) {
      const [colour] = coloursIn(shadow), [dx, dy, , spread] = shadow.replace(colour, "").match(/-?[\d.]+px/g).map(px);
      if (!shadow.includes("inset")) this.rect(grown(spread, dx, dy), { fill: colour, r: r + spread, alpha });
      else this.later = { ...at, y: at.y + at.h + Math.min(0, dy), h: Math.abs(dy) || 0, fill: colour };
    }
    if (!clearColour(style.backgroundColor)) this.rect(at, { fill: style.backgroundColor, r, alpha });
    this.gradients(at, style, alpha);
    if (this.later) { this.rect(this.later, { fill: this.later.fill, alpha }); this.later = null; }
    this.border(at, style, alpha, r);
    const ring = style.outlineStyle === "none" ? 0 : px(style.outlineWidth);
    if (ring) this.rect(grown(px(style.outlineOffset) + ring / 2), { stroke: style.outlineColor, lw: ring, dash: style.outlineStyle === "dashed" ? [3, 2] : [], r: 2, alpha });
  }
  border(at, style, alpha, r) {
    const sides = ["Top", "Right", "Bottom", "Left"].map((side) => ({ lw: style[`border${side}Style`] === "none" ? 0 : px(style[`border${side}Width`]), stroke: style[`border${side}Color`], how: style[`border${side}Style`] }));
    const dash = ({ how, lw }) => (how === "dashed" ? [3 * lw, 2 * lw] : how === "dotted" ? [lw, 2 * lw] : []), [top] = sides, half = top.lw / 2;
    if (top.lw && sides.every((one) => one.lw === top.lw && one.stroke === top.stroke)) {
      if (!clearColour(top.stroke)) this.rect({ x: at.x + half, y: at.y + half, w: at.w - top.lw, h: at.h - top.lw }, { stroke: top.stroke, lw: top.lw, dash: dash(top), r, alpha });
      return;
    }
    const ends = [[at.x, at.y, at.x + at.w, at.y], [at.x + at.w, at.y, at.x + at.w, at.y + at.h], [at.x, at.y + at.h, at.x + at.w, at.y + at.h], [at.x, at.y, at.x, at.y + at.h]];
    sides.forEach((one, i) => { if (one.lw && !clearColour(one.stroke)) this.items.push({ kind: "path", d: `M${ends[i][0]} ${ends[i][1]}L${ends[i][2]} ${ends[i][3]}`, stroke: one.stroke, lw: one.lw, dash: dash(one), alpha }); });
  }
  gradients(at, style, alpha) { // a hatch, or flat strips: nothing on these pages fades
    if (style.backgroundImage === "none") return;
    if (style.backgroundImage.includes("repeating")) return this.rect(at, { fill: "hatch", alpha });
    const layers = style.backgroundImage.split(/,\s*(?=linear-gradient)/), sizes = style.backgroundSize.split(/,\s*/);
    for (let i = layers.length - 1; i >= 0; i--) {
      const [wide, high] = (sizes[i] || "auto").split(" "), tones = coloursIn(layers[i]);
      if (wide !== "auto") {
        const h = px(high), w = wide.endsWith("%") ? (at.w * px(wide)) / 100 : px(wide);
        this.rect({ x: at.x, y: at.y + at.h - h, w, h }, { fill: tones[0], alpha });
      } else {
        const share = px(layers[i].slice(layers[i].indexOf(tones[0]) + tones[0].length)) / 100;
        if (tones[1]) this.rect(at, { fill: tones[1], alpha });
        this.rect({ ...at, w: at.w * share }, { fill: tones[0], alpha });
      }
    }
  }
  before(node, alpha) {
    const style = getComputedStyle(node, "::before"), text = /^"(.+)"$/.exec(style.content)?.[1];
    if (!text) return;
    const { x, y, h } = this.place(node.getClientRects()[0] || node.getBoundingClientRect());
    this.items.push({ kind: "text", x, y: y + h * 0.68, text, font: `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`, fill: style.color, alpha });
  }

  words(node, alpha, strike) { // one item a line, where the page broke them
    const parent = node.parentElement;
    if (!node.data.trim() || !parent) return;
    const style = getComputedStyle(parent), range = document.createRange(), lines = [];
    range.selectNodeContents(node);
    if (range.getClientRects().length < 2) lines.push([node.data, range.getBoundingClientRect()]);
    else for (let i = 0; i < node.data.length; i++) {
      range.setStart(node, i);
      range.setEnd(node, i + 1);
      const box = range.getClientRects()[0], last = lines.at(-1);
      if (!box || !box.width) { if (last) last[0] += node.data[i]; continue; }
      if (last && Math.abs(last[1].top - box.top) < 3) { last[0] += node.data[i]; last[1] = new DOMRect(last[1].left, last[1].top, box.right - last[1].left, last[1].height); } else lines.push([node.data[i], box]);
    }
    const font = `${style.fontStyle} ${px(style.webkitTextStrokeWidth) ? 600 : style.fontWeight} ${style.fontSize} ${style.fontFamily}`, pre = style.whiteSpace.startsWith("pre");
    for (const [said, box] of lines) {
      const at = this.place(box), text = pre ? said.replace(/\s+$/, "") : said.replace(/\s+/g, " ").trim(), [up, down] = ascent(font);
      if (!text || !at.w) continue;
      const y = at.y + (at.h * up) / (up + down);
      this.items.push({ kind: "text", x: at.x, y, text, font, fill: style.color, alpha, wide: at.w });
      const line = strike.includes("line-through") ? y - px(style.fontSize) * 0.3 : strike.includes("underline") ? y + 3 : 0;
      if (line) this.rect({ x: at.x, y: line, w: at.w, h: 1 }, { fill: style.color, alpha });
    }
  }

  canvas(node, alpha) {
    const at = this.place(node.getBoundingClientRect());
    if (!at.w || !node.width) return;
    const copy = el("canvas"); // the page draws over its own right after
    [copy.width, copy.height] = [node.width, node.height];
    copy.getContext("2d").drawImage(node, 0, 0);
    this.items.push({ kind: "image", ...at, copy, alpha });
  }

  drawing(root, alpha) {
    for (const node of root.querySelectorAll("path, rect, line, circle, polygon, polyline, text")) {
      const style = getComputedStyle(node);
      if (node.closest("defs, pattern, clipPath") || style.display === "none" || style.visibility === "hidden") continue;
      let shade = alpha;
      for (let up = node; up !== root; up = up.parentElement) shade *= Number(getComputedStyle(up).opacity);
      const m = node.getScreenCTM(), matrix = [m.a, m.b, m.c, m.d, m.e - this.x + this.pad, m.f - this.y + this.pad], scale = Math.hypot(m.a, m.b) || 1;
      const fill = style.fill.includes("url(") ? "hatch" : clearColour(style.fill) ? null : style.fill, stroke = clearColour(style.stroke) ? null : style.stroke;
      const lw = px(style.strokeWidth) / (style.vectorEffect === "non-scaling-stroke" ? scale : 1), dash = style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(/[ ,]+/).map(px);
      const item = { matrix, fill, stroke, lw, dash, alpha: shade * Number(style.fillOpacity || 1) };
      if (node.tagName === "text") {
        const anchor = { middle: "middle", end: "end" }[style.textAnchor] || "start";
        this.items.push({ ...item, kind: "text", x: px(node.getAttribute("x")), y: px(node.getAttribute("y")), text: [...node.childNodes].filter((one) => one.nodeType === 3).map((one) => one.data).join(""), font: `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`, anchor });
      } else this.items.push({ ...item, kind: "path", d: outline(node, style) });
    }
  }

  footed({ title, sentence, setting, run }) { // under a hairline: what this is of
    const wide = this.wide - 32, plain = `12px ${this.font}`, strong = `600 12px ${this.font}`;
    const lines = [...broken(title, strong, wide).map((text) => [text, strong, this.ink]), ...broken(sentence, plain, wide).map((text) => [text, plain, this.ink]),
      ...broken([setting, run].filter(Boolean).join(" · "), plain, wide).map((text) => [text, plain, this.small])];
    this.items.push({ kind: "path", d: `M16 ${this.high + 0.5}H${this.wide - 16}`, stroke: this.hairline, lw: 1, dash: [], alpha: 1 });
    lines.forEach(([text, font, fill], i) => this.items.push({ kind: "text", x: 16, y: this.high + 20 + 17 * i, text, font, fill, alpha: 1 }));
    this.high += 17 * lines.length + 20;
    return this;
  }
}

const ascents = new Map();
function ascent(font) {
  if (!ascents.has(font)) {
    const g = el("canvas").getContext("2d");
    g.font = font;
    const { fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = g.measureText("x");
    ascents.set(font, [up, down]);
  }
  return ascents.get(font);
}
function broken(text, font, wide) { // into lines that fit
  const lines = [];
  for (const word of (text || "").split(/\s+/).filter(Boolean)) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && textWidth(longer, font) <= wide) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  return lines;
}
function outline(node, style) {
  const of = (name) => px(node.getAttribute(name)), points = () => (node.getAttribute("points").match(/-?[\d.]+(?:e-?\d+)?/g) || []).join(" ");
  if (node.tagName === "path") return node.getAttribute("d") || "";
  if (node.tagName === "line") return `M${of("x1")} ${of("y1")}L${of("x2")} ${of("y2")}`;
  if (node.tagName === "polygon") return `M${points()}Z`;
  if (node.tagName === "polyline") return `M${points()}`;
  if (node.tagName === "circle") { const r = px(style.r) || of("r"); return `M${of("cx") - r} ${of("cy")}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`; }
  const [x, y, w, h] = ["x", "y", "width", "height"].map(of);
  return rounded({ x, y, w, h, r: of("rx") });
}
function rounded({ x, y, w, h, r = 0 }) {
  r = Math.max(0, Math.min(r, w / 2, h / 2));
  if (!r) return `M${x} ${y}h${w}v${h}h${-w}Z`;
  const turn = (dx, dy) => `a${r} ${r} 0 0 1 ${dx} ${dy}`;
  return `M${x + r} ${y}h${w - 2 * r}${turn(r, r)}v${h - 2 * r}${turn(-r, r)}h${2 * r - w}${turn(-r, -r)}v${2 * r - h}${turn(r, -r)}Z`;
}

// the two ways to draw a sheet

async function pngOf(sheet) {
  const canvas = el("canvas"), g = canvas.getContext("2d"), hatch = hatchTile(sheet);
  [canvas.width, canvas.height] = [2 * sheet.wide, 2 * sheet.high];
  g.scale(2, 2);
  g.fillStyle = sheet.ground;
  g.fillRect(0, 0, sheet.wide, sheet.high);
  const pattern = g.createPattern(hatch, "repeat");
  pattern.setTransform(new DOMMatrix().scale(0.5));
  for (const item of sheet.items) {
    if (item.kind === "cut") { g.save(); g.beginPath(); g.rect(item.x, item.y, item.w, item.h); g.clip(); continue; }
    if (item.kind === "end") { g.restore(); continue; }
    g.save();
    g.globalAlpha = item.alpha;
    if (item.matrix) g.transform(...item.matrix);
    if (item.kind === "image") g.drawImage(item.copy, item.x, item.y, item.w, item.h);
    g.fillStyle = item.fill === "hatch" ? pattern : item.fill || "#0000";
    g.strokeStyle = item.stroke || "#0000";
    g.lineWidth = item.lw || 1;
    g.lineJoin = "round";
    g.setLineDash(item.dash || []);
    if (item.kind === "text") {
      g.font = item.font;
      g.textAlign = { middle: "center", end: "right" }[item.anchor] || "left";
      if (item.stroke) g.strokeText(item.text, item.x, item.y); // a halo lies under its word
      g.fillText(item.text, item.x, item.y);
    } else if (item.kind !== "image") {
      const path = new Path2D(item.kind === "rect" ? rounded(item) : item.d);
      if (item.fill) g.fill(path);
      if (item.stroke) g.stroke(path);
    }
    g.restore();
  }
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}
function hatchTile(sheet) {
  const tile = el("canvas"), g = tile.getContext("2d");
  tile.width = tile.height = 10;
  g.fillStyle = sheet.soft;
  g.fillRect(0, 0, 10, 10);
  g.strokeStyle = sheet.hatch;
  g.lineWidth = 3;
  g.beginPath();
  for (const d of [-10, 0, 10]) { g.moveTo(d, 10); g.lineTo(d + 10, 0); }
  g.stroke();
  return tile;
}

function svgOf(sheet) {
  const root = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width: sheet.wide, height: sheet.high, viewBox: `0 0 ${sheet.wide} ${sheet.high}` });
  root.append(svg("defs", {}, svg("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse" }, svg("rect", { width: 5, height: 5, fill: sheet.soft }), svg("path", { d: "M-1 6L6 -1M-3.5 3.5L3.5 -3.5M1.5 8.5L8.5 1.5", stroke: sheet.hatch, "stroke-width": 1.5 }))));
  root.append(svg("rect", { width: sheet.wide, height: sheet.high, fill: sheet.ground }));
  let into = root, cuts = 0;
  const stack = [];
  for (const item of sheet.items) {
    if (item.kind === "cut") {
      const id = `cut-${cuts++}`, group = svg("g", { "clip-path": `url(#${id})` });
      root.firstChild.append(svg("clipPath", { id }, svg("rect", { x: item.x, y: item.y, width: item.w, height: item.h })));
      into.append(group);
      stack.push(into);
      into = group;
      continue;
    }
    if (item.kind === "end") { into = stack.pop(); continue; }
    const paint = { fill: item.fill === "hatch" ? "url(#hatch)" : item.fill || "none" };
    if (item.stroke) Object.assign(paint, { stroke: item.stroke, "stroke-width": item.lw, "stroke-linejoin": "round" });
    if (item.dash?.length) paint["stroke-dasharray"] = item.dash.join(" ");
    if (item.alpha < 1) paint.opacity = item.alpha;
    if (item.matrix) paint.transform = `matrix(${item.matrix.join(" ")})`;
    if (item.kind === "image") into.append(svg("image", { x: item.x, y: item.y, width: item.w, height: item.h, href: item.copy.toDataURL("image/png"), opacity: item.alpha }));
    else if (item.kind === "text") {
      const text = svg("text", { ...paint, x: item.x, y: item.y, "text-anchor": item.anchor || "start", style: `font: ${item.font}; white-space: pre`, "paint-order": "stroke" });
      text.textContent = item.text;
      into.append(text);
    } else into.append(svg("path", { ...paint, d: item.kind === "rect" ? rounded(item) : item.d }));
  }
  return new XMLSerializer().serializeToString(root);
}
