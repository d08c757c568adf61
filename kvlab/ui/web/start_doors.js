// the doors: a heading that is the link, a sentence, and a small picture of what is behind it

function link(words, href, classes = "") {
  const node = el("a", `kv-link ${classes}`, words);
  node.href = href;
  return node;
}
function marker({ outline, fill, edge }) {
  const both = fill !== edge, r = both ? 5 : 6;
  const paint = { fill: `var(--${fill})`, stroke: both ? `var(--${edge})` : "none", "stroke-width": both ? 2.6 : 0, "stroke-linejoin": "round" };
  const shape = outline ? svg("polygon", { points: outline, transform: `scale(${r})`, "vector-effect": "non-scaling-stroke", ...paint }) : svg("circle", { r: r - 0.6, ...paint });
  return svg("svg", { class: "marker", width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, shape);
}
function door(kind, title, href, said) {
  const box = el("section", `card door ${kind}`), head = el("h2");
  head.append(link(title, href, "whole"));
  box.append(head, el("p", "for", said));
  return box;
}

function compareDoor(d) {
  const box = door("compare", "Compare methods", d ? `compare?cmp=${d.runs.join(",")}` : "compare", "For research. One prompt, several methods, token by token.");
  if (!d) return box;
  const list = el("ul", "answers");
  for (const row of d.rows) {
    const line = el("li"), name = el("span", "name", row.method), wrote = el("span", row.differs ? "wrote lost" : "wrote", (row.differs ? "◆ " : "") + row.answer);
    name.prepend(marker(row.marker));
    wrote.title = row.answer;
    line.append(name, wrote, el("span", "share", row.share));
    list.append(line);
  }
  box.append(list, el("p", "said", `${d.said}. Last column: bytes held, of the full cache.`));
  return box;
}

function lessonDoor(d) {
  const box = door("lesson", "Teach it", "learn", "For a lecture. Short lessons on stored runs: guess first, then see it.");
  if (!d) return box;
  const most = Math.max(...d.rows.map((row) => row.kept), d.even);
  for (const row of d.rows) {
    const head = el("div", "guess"), track = svg("svg", { class: "track", viewBox: `0 0 ${d.tokens} 10`, preserveAspectRatio: "none", "aria-hidden": "true" });
    head.append(el("span", "", row.name), el("b", "", `${row.kept} kept`));
    track.append(svg("rect", { x: 0, y: 4.7, width: d.tokens, height: 0.6, fill: "var(--edge)" }));
    track.append(svg("path", { d: row.spans.map(([a, b]) => `M${a} 0H${b}V10H${a}Z`).join(""), fill: "var(--held)" }));
    const bar = el("div", "count"), fill = el("i"), even = el("u");
    fill.style.width = `${(100 * row.kept) / most}%`;
    even.style.left = `${(100 * d.even) / most}%`;
    bar.append(fill, even);
    box.append(head, track, bar);
  }
  box.append(el("p", "said", `${d.method} gives all heads one budget. How many of ${d.tokens.toLocaleString("en-US")} tokens does each keep? Dotted: the even share, ${Math.round(d.even)}.`));
  return box;
}

function planDoor(d) {
  const box = door("plan", "Choose a setting", "plan", "For deployment. Memory, context and users in; settings that fit out.");
  if (!d) return box;
  for (const row of d.rows) {
    const head = el("div", "guess"), name = el("span", "", row.method), bar = el("div", row.reference ? "bytes full" : "bytes"), fill = el("i");
    name.prepend(marker(row.marker));
    head.append(name, el("b", "", row.bytes));
    fill.style.width = `${Math.min(100, 100 * row.share)}%`;
    bar.append(fill);
    const line = el("div", "fit");
    line.append(bar, el("span", "", `${row.fit} in 1 GiB`));
    box.append(head, line);
  }
  box.append(el("p", "said", `${d.said}. Cache of one request of ${d.length} tokens, measured.`));
  return box;
}

function fieldDoor(d) {
  const box = door("field", "Trade-offs", "tradeoffs", d ? d.title : "Quality against measured bytes, with the run behind every point.");
  if (!d) return box;
  const plot = el("div", "plot");
  box.append(plot, el("p", "said", `${d.said}. Stepped line: nothing measured is smaller and better.`));
  box.redraw = () => plot.replaceChildren(...(plot.clientWidth ? [fieldChart(d, plot.clientWidth, Math.max(150, plot.clientHeight))] : []));
  return box;
}
