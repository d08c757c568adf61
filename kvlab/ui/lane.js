// draws one lane; all words and numbers come from Python, all of them enter through textContent
const NS = "http://www.w3.org/2000/svg";

function el(parent, tag, cls, text) {
  const node = parent.appendChild(document.createElement(tag));
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  return node;
}

function svg(parent, tag, attrs, text) {
  const node = parent.appendChild(document.createElementNS(NS, tag));
  for (const [key, value] of Object.entries(attrs)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function marker(parent, { outline, fill, edge }) {
  const box = svg(parent, "svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" });
  const both = fill !== edge, r = both ? 5.5 : 6.5;
  const paint = { fill: `var(--${fill})`, stroke: both ? `var(--${edge})` : "none", "stroke-width": both ? 3 : 0, "stroke-linejoin": "round" };
  if (!outline) svg(box, "circle", { cx: 8, cy: 8, r: r - 0.7, ...paint });
  else svg(box, "polygon", { points: outline, transform: `translate(8 8) scale(${r + 0.6})`, "vector-effect": "non-scaling-stroke", ...paint });
}

function sign(parent, state) {
  const box = svg(parent, "svg", { width: 18, height: 18, viewBox: "0 0 18 18", role: "img", "aria-label": state });
  const ring = { cx: 9, cy: 9, r: 7, fill: "none", stroke: "var(--text)", "stroke-width": 1.4 };
  const line = { fill: "none", stroke: "var(--text)", "stroke-width": 1.6, "stroke-linecap": "round", "stroke-linejoin": "round" };
  if (state === "running") {
    svg(box, "circle", { ...ring, stroke: "var(--edge)", "stroke-width": 2 });
    svg(box, "path", { ...line, d: "M9 2a7 7 0 0 1 0 14", stroke: "var(--ink)", "stroke-width": 2.4, "stroke-linecap": "butt" });
  } else if (state === "queued" || state === "planned") svg(box, "circle", { ...ring, stroke: "var(--small)", "stroke-dasharray": "1.6 2.6" });
  else {
    svg(box, "circle", ring);
    if (state === "done") svg(box, "path", { ...line, d: "M5.8 9.2l2.3 2.4 4.2-4.8" });
    if (state === "stopped") svg(box, "rect", { x: 6.4, y: 6.4, width: 5.2, height: 5.2, fill: "var(--text)" });
    if (state === "failed") svg(box, "path", { ...line, d: "M9 5.4v4.2M9 12.4v.1", stroke: "var(--ink)" });
  }
}

const UNITS = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const unitOf = (top) => UNITS.find(([d]) => top >= 10 * d) || UNITS[3];
const short = (v) => (v >= 100 ? Math.round(v).toLocaleString("en-US") : v >= 10 ? v.toFixed(1).replace(/\.0$/, "") : v.toFixed(2).replace(/\.?0+$/, ""));

function ticks(top) {
  const raw = top / 2, scale = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * scale).filter((s) => s <= raw * 1.02).pop() || raw;
  return Array.from({ length: Math.floor((top * 1.02) / step) + 1 }, (_, i) => i * step);
}

const W = 396, H = 124, X0 = 62, X1 = 306, Y0 = 14, Y1 = 96;

function chart(parent, d) {
  const top = Math.max(...d.full, ...d.predicted, ...d.measured, 1);
  const [div, unit] = unitOf(top);
  const last = Math.max(1, d.steps - 1);
  const x = (s) => X0 + ((X1 - X0) * s) / last, y = (b) => Y1 - ((Y1 - Y0) * b) / top;
  const path = (rows, from = 0) => rows.map((b, s) => (s < from ? "" : `${s === from ? "M" : "L"}${x(s).toFixed(1)} ${y(b).toFixed(1)}`)).join("");
  const box = svg(parent, "svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": d.spoken });
  ticks(top / div).forEach((v, i, all) => {
    const at = y(v * div);
    svg(box, "line", { x1: X0, x2: X1, y1: at, y2: at, stroke: "var(--hairline)" });
    svg(box, "text", { x: X0 - 8, y: at + 4, "text-anchor": "end" }, short(v) + (i === all.length - 1 ? ` ${unit}` : ""));
  });
  svg(box, "text", { x: X0, y: H - 8 }, "step 0");
  svg(box, "text", { x: X1, y: H - 8, "text-anchor": "end" }, String(d.steps - 1));
  const labels = [];
  if (d.full.length) {
    const own = d.reference && d.measured.length;
    svg(box, "path", { d: path(d.full), fill: "none", stroke: "var(--reference)", "stroke-width": 1.5, "stroke-dasharray": own ? "none" : "6 4", opacity: own ? 0.4 : 1 });
    if (!own) labels.push({ at: d.full[d.steps - 1], text: `full ${short(d.full[d.steps - 1] / div)}` });
  }
  const now = d.measured.length - 1;
  if (!d.reference && d.predicted.length && now + 1 < d.steps) {
    svg(box, "path", { d: path(d.predicted, Math.max(0, now)), fill: "none", stroke: "var(--held)", "stroke-width": 1.5, "stroke-dasharray": "1.5 3" });
    if (now < 0 || d.state !== "stopped") labels.push({ at: d.predicted[d.steps - 1], text: short(d.predicted[d.steps - 1] / div), cls: "guess", weak: now >= 0 });
  }
  if (now >= 0) measured(box, d, { x, y, path, div, unit, now, labels });
  place(box, labels, y);
}

function measured(box, d, { x, y, path, div, unit, now, labels }) {
  const hue = d.reference ? "var(--reference)" : "var(--held)", end = d.measured[now];
  if (!d.reference && now > 0) svg(box, "path", { d: `${path(d.measured)}L${x(now)} ${Y1}L${X0} ${Y1}Z`, fill: "var(--held)", opacity: 0.12 });
  svg(box, "path", { d: path(d.measured), fill: "none", stroke: hue, "stroke-width": d.reference ? 1.8 : 2.2, "stroke-linejoin": "round" });
  svg(box, "circle", { cx: x(now), cy: y(end), r: 3.5, fill: hue });
  const cuts = d.measured.flatMap((b, s) => (s && b < d.measured[s - 1] ? [s] : []));
  cuts.filter((s, i) => !i || x(s) - x(cuts[i - 1]) > 9).forEach((s) =>
    svg(box, "path", { d: `M${x(s) - 4} ${y(d.measured[s - 1]) - 11}h8l-4 6.5z`, fill: "var(--lost)" }));
  if (cuts.length) svg(box, "text", { x: Math.max(X0 + 66, x(cuts[0]) - 9), y: y(d.measured[cuts[0] - 1]) - 5, "text-anchor": "end", class: "cut" }, d.again);
  labels.push({ at: end, text: `${short(end / div)} ${unit}`, cls: d.reference ? "own" : "value", x: now === d.steps - 1 ? null : x(now) });
}

function place(box, labels, y) {
  // labels at the right edge keep 14 px between them; one that belongs to a line still growing stands beside its end
  let above = -Infinity;
  const right = labels.filter((l) => l.x == null || l.x > X1 - 70).sort((a, b) => b.at - a.at);
  for (const l of right) {
    if (l.weak && right.length > 2) continue;
    const at = Math.max(y(l.at) + 4, above + 14);
    above = at;
    svg(box, "text", { x: X1 + 10, y: at, class: l.cls || "" }, l.text);
  }
  for (const l of labels.filter((l) => !right.includes(l))) svg(box, "text", { x: l.x + 8, y: y(l.at) - 7, class: l.cls }, l.text);
}

function text(parent, d) {
  const box = el(parent, "div", "text");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `Text written under ${d.title}`);
  for (const [token, mark] of d.tokens) el(box, "span", mark ? (mark === 2 ? "d f" : "d") : "", token);
  if (d.state === "running") el(box, "i", "caret");
  return box;
}

function left(parent, d) {
  const box = el(parent, "div", "left");
  sign(box, d.state);
  marker(box, d.marker);
  const head = el(box, "div", "head");
  el(head, "b", "", d.title);
  el(head, "span", "", d.setting);
  if (d.note) el(head, "span", "recon", d.note);
  const rest = el(box, "div", "rest");
  el(rest, "div", "line", (d.stale ? "from the earlier settings: " : "") + d.line);
  if (d.tokens.length) {
    const box = text(rest, d);
    if (d.state === "running") requestAnimationFrame(() => (box.scrollTop = box.scrollHeight));
  } else if (d.wait) el(rest, "div", "text wait", d.wait);
  if (d.error) el(rest, "p", "error", d.error).setAttribute("role", "alert");
  if (d.detail) {
    const more = el(rest, "details");
    el(more, "summary", "", "Technical text");
    el(more, "pre", "", d.detail);
  }
  const lost = d.below.startsWith("differs");
  if (d.below) el(rest, "div", lost ? "below lost" : "below", (lost ? "\u25C6 " : "") + d.below);
}

function foot(parent, d) {
  const row = el(parent, "div", "foot");
  if (d.run) {
    const link = el(row, "a", "kv-link", "Look inside");
    link.href = `inside?run=${encodeURIComponent(d.run)}`;
  }
  const list = el(row, "dl", "figures");
  for (const [name, value] of d.bytes) {
    const pair = el(list, "div", name.startsWith("held") ? "held" : "");
    el(pair, "dt", "", name);
    el(pair, "dd", "", value);
  }
}

export default function ({ data: d, parentElement }) {
  const old = parentElement.querySelector("article");
  const kept = old && old.querySelector(".text") ? old.querySelector(".text").scrollTop : 0;
  const card = document.createElement("article");
  card.className = `${d.state}${d.stale ? " stale" : ""}${d.reference ? " reference" : ""}`;
  card.setAttribute("aria-label", `${d.title}, ${d.state}: ${d.line}`);
  const body = el(card, "div", "body");
  left(body, d);
  chart(el(body, "div", "right"), d);
  if (d.bytes.length) foot(body, d);
  old ? old.replaceWith(card) : parentElement.appendChild(card);
  const now = card.querySelector(".text");
  if (now && kept) now.scrollTop = kept;
}
