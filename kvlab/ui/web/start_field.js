// quality against measured bytes, small: marks, faint lines, the stepped front, the full cache dashed with its interval

function fieldChart(d, wide, high) {
  const box = { l: 44, r: 10, t: 22, b: 22 }, w = wide - box.l - box.r, h = high - box.t - box.b;
  const x = (share) => box.l + share * w, y = (share) => box.t + (1 - share) * h;
  const root = svg("svg", { width: wide, height: high, role: "img", "aria-label": d.alt });
  const text = (words, at, below, anchor, classes = "") => {
    const node = svg("text", { x: at, y: below, "text-anchor": anchor, class: classes });
    node.textContent = words;
    root.append(node);
    return node;
  };
  for (const [share, words] of d.yticks) {
    root.append(svg("path", { d: `M${box.l} ${y(share)}H${box.l + w}`, stroke: "var(--hairline)" }));
    text(words, box.l - 6, y(share) + 4, "end");
  }
  let free = -1;
  for (const [share, words] of d.xticks) {
    if (x(share) < free || x(share) > wide - 12) continue;
    text(words, x(share), high - 4, "middle");
    free = x(share) + 46;
  }
  text(`${d.measure} →`.replace(" →", ""), 0, 12, "start", "strong");
  text("bytes held (log) →", wide - 4, 12, "end", "strong");
  for (const { at, low, high: top } of d.reference) {
    root.append(svg("rect", { x: box.l, y: y(top), width: w, height: Math.max(1, y(low) - y(top)), fill: "var(--reference-band)", opacity: 0.14 }));
    root.append(svg("path", { d: `M${box.l} ${y(at[1])}H${box.l + w}`, stroke: "var(--reference)", "stroke-width": 1.3, "stroke-dasharray": "6 4" }));
  }
  if (d.front.length) {
    const steps = d.front.map(([a, b]) => `H${x(a)}V${y(b)}`).join("");
    root.append(svg("path", { d: `M${x(d.front[0][0])} ${box.t + h}${steps}H${box.l + w}`, fill: "none", stroke: "var(--ink)", "stroke-width": 1.3 }));
  }
  const points = [...d.series.flatMap((one) => one.points), ...d.reference.map((one) => one.at)].map(([a, b]) => [x(a), y(b)]);
  for (const one of d.series) series(root, one, x, y);
  for (const { at } of d.reference) root.append(svg("rect", { x: x(at[0]) - 5, y: y(at[1]) - 5, width: 10, height: 10, fill: "var(--panel)", stroke: "var(--reference)", "stroke-width": 1.6 }));
  const named = [...d.reference.map(({ at }) => ({ title: "Full cache", points: [at], token: "text" })), ...[...d.series].reverse().map((one) => ({ ...one, token: one.marker.fill }))];
  names(named, points, x, y, { ...box, w, h }, (words, at, below, token) => { text(words, at, below, "start", "name").style.fill = `var(--${token})`; });
  return root;
}

function series(root, { marker: mark, front, points }, x, y) {
  const both = mark.fill !== mark.edge, r = front ? 5 : 3.6, group = svg("g", front ? {} : { class: "faint" });
  const path = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  const line = { d: path, fill: "none", "stroke-width": front ? 2.2 : 1.4 };
  group.append(svg("path", { ...line, stroke: `var(--${mark.fill})` }));
  if (both) group.append(svg("path", { ...line, stroke: `var(--${mark.edge})`, "stroke-dasharray": "7 7" }));
  const paint = { fill: `var(--${mark.fill})`, stroke: both ? `var(--${mark.edge})` : "none", "stroke-width": both ? 2.2 : 0, "vector-effect": "non-scaling-stroke" };
  for (const [a, b] of points) {
    const place = `translate(${x(a).toFixed(1)} ${y(b).toFixed(1)}) scale(${r})`;
    group.append(mark.outline ? svg("polygon", { points: mark.outline, transform: place, ...paint }) : svg("circle", { r: 0.9, transform: place, ...paint }));
  }
  root.append(group);
}

// each name beside one of its own points, where it covers least: first those of the front, so that they have the choice
function names(all, points, x, y, box, write) {
  const taken = [], font = textFont();
  for (const one of all) {
    const wide = textWidth(one.title, font) + 4;
    let best = null;
    for (const [a, b] of one.points) {
      for (const [dx, dy] of [[9, 4], [-9 - wide, 4], [-wide / 2, -9], [-wide / 2, 18], [8, -7], [8, 16], [-8 - wide, -7], [-8 - wide, 16]]) {
        const spot = { x: x(a) + dx, y: y(b) + dy - 11, w: wide, h: 14 };
        const out = spot.x < box.l || spot.x + wide > box.l + box.w + 6 || spot.y < box.t - 12 || spot.y + 14 > box.t + box.h;
        const cost = 100 * out + 50 * taken.filter((t) => overlap(t, spot)).length + 4 * points.filter(([px, py]) => overlap({ x: px - 5, y: py - 5, w: 10, h: 10 }, spot)).length;
        if (!best || cost < best.cost) best = { cost, spot };
      }
    }
    if (!best || best.cost >= 50) continue;
    taken.push(best.spot);
    write(one.title, best.spot.x + 2, best.spot.y + 11, one.token);
  }
}
function overlap(a, b) { return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h; }
function textFont() { return "600 12px 'Source Sans', sans-serif"; }
