// the pictures of a lesson: SVG laid out for the room there is, labels at the marks. Text goes in through textContent only

const SHADES = { held: "var(--held)", reference: "var(--reference)", soft: "var(--edge)", lost: "url(#lesson-hatch)", predicted: "none", ink: "var(--ink)" };
const shade = (look) => SHADES[look] || `var(--axis-${look.replace("axis-", "")})`;

class Art {
  constructor(box, wide, high, f) {
    Object.assign(this, { wide, high, f });
    this.node = svg("svg", { width: wide, height: high, viewBox: `0 0 ${wide} ${high}`, "aria-hidden": "true" });
    this.node.style.fontSize = `${f}px`;
    const hatch = svg("pattern", { id: "lesson-hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { width: 5, height: 5, fill: "var(--lost-soft)" }), svg("rect", { width: 2, height: 5, fill: "var(--lost)" }));
    this.node.append(svg("defs", {}, hatch));
    box.replaceChildren(this.node);
  }
  add(name, attributes) { const node = svg(name, attributes); this.node.append(node); return node; }
  rect(x, y, width, height, look, more = {}) { return this.add("rect", { x, y, width: Math.max(0, width), height: Math.max(0, height), ...look, ...more }); }
  line(x1, y1, x2, y2, look) { return this.add("line", { x1, y1, x2, y2, ...look }); }
  text(x, y, words, kind = "", anchor = "start") {
    const node = this.add("text", { x, y, class: kind, "text-anchor": anchor });
    node.textContent = words;
    return node;
  }
  width(words, strong = false) { return textWidth(words, `${strong ? 600 : 400} ${this.f}px ${getComputedStyle(this.node).fontFamily || "sans-serif"}`); }
  // words that fit: cut at the end where there is no room
  fit(words, room) {
    if (this.width(words) <= room) return words;
    let cut = words;
    while (cut.length > 4 && this.width(cut + "…") > room) cut = cut.slice(0, -1);
    return cut + "…";
  }
  guess(x, top, bottom, guess) {
    this.line(x, top, x, bottom, { class: "guess" });
    const room = this.width(guess.words, true) / 2 + 4;
    this.text(Math.max(room, Math.min(this.wide - room, x)), top - 6, guess.words, "strong", "middle");
  }
}

const PICTURES = {
  tracks(art, p, { open, guess }) {
    const { f, wide, high } = art, gutter = Math.max(...p.rows.map((row) => art.width(row.label, true))) + f, narrow = wide < 700;
    const map = (wide - gutter) * (narrow ? 0.6 : 0.52), left = gutter, valueAt = left + map + (narrow ? 14 : 2.6 * f), room = wide - valueAt - 3.6 * f;
    const top = f * (p.marks.length || (guess && p.max) ? 3.4 : 2), foot = 1.9 * f, all = p.rows.every((row) => row.strong);
    const breaks = p.rows.filter((row, i) => i && row.group !== p.rows[i - 1].group).length, gap = p.rows.length > breaks + 1 ? 0.5 * f : 0;
    const pitch = Math.min(3.4 * f, (high - top - foot - gap * breaks) / p.rows.length), h = pitch * 0.78, px = map / p.n;
    art.text(left, f, art.fit(p.heading, map + 2.2 * f), "strong");
    art.text(valueAt, f, narrow ? "" : p.values, "strong");
    let y = top;
    const rings = [], numbers = [];
    for (const [i, row] of p.rows.entries()) {
      if (i && row.group !== p.rows[i - 1].group) y += gap;
      const full = row.strong ? 1 : 0.45, mid = y + h / 2;
      art.text(gutter - f * 0.7, mid + f * 0.35, row.label, row.strong && !all ? "strong" : "", "end");
      art.line(left, mid, left + map, mid, { stroke: "var(--hairline)" });
      for (const [from, to, level, tall = 1, kind = 0] of row.spans) {
        const x = left + from * px, wideSpan = (to - from) * px, t = h * Math.max(0.3, tall), opacity = full * (0.25 + 0.75 * level);
        if (kind === 1) art.rect(x + 0.5, y + h - t + 0.5, Math.max(1, wideSpan - 1), t - 1, { fill: "none", stroke: "var(--held)", "stroke-width": 1, opacity: 0.7 * full });
        else if (px >= 2.2) art.line(x, y + h - t / 2, x + wideSpan - 0.4, y + h - t / 2, { stroke: "var(--held)", "stroke-width": t, "stroke-dasharray": `${px - 0.6} 0.6`, opacity });
        else art.rect(x, y + h - t, Math.max(0.8, wideSpan), t, { fill: "var(--held)", opacity });
      }
      const known = open || p.hide !== "values", size = room * (row.value / (p.max || 1));
      if (known) {
        art.rect(valueAt, y, size, h, { fill: shade(p.look), rx: 3, opacity: p.look === "lost" ? 1 : row.strong ? 1 : 0.45, class: "grow" });
        numbers.push([valueAt + size + 8, mid + f * 0.38, row.text, row.strong && !all ? "strong big halo" : "big halo"]);
      } else art.rect(valueAt, y + 0.5, room, h - 1, { class: "unknown", rx: 3 });
      if (row.strong && !all) {
        if (rings.length && rings[rings.length - 1].row === i - 1) Object.assign(rings[rings.length - 1], { to: y + h, row: i });
        else rings.push({ from: y, to: y + h, row: i });
      }
      y += pitch;
    }
    const bottom = y;
    for (const { from, to } of rings) art.rect(1, from - 4, wide - 2, to - from + 8, { fill: "none", stroke: "var(--ink)", "stroke-width": 2, rx: 8 });
    for (const mark of p.marks) {
      const a = left + mark.from * px, b = Math.max(a + 4, left + mark.to * px);
      art.add("path", { d: `M${a} ${top - 4}v-5H${b}v5`, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5 });
      art.line((a + b) / 2, top - 4, (a + b) / 2, bottom, { stroke: "var(--ink)", "stroke-dasharray": "1 4" });
      const room2 = art.width(mark.word, true) / 2;
      art.text(Math.max(left + room2, Math.min(left + map - room2, (a + b) / 2)), top - 13, mark.word, "strong", "middle");
    }
    art.text(left, bottom + 1.2 * f, p.left);
    art.text(left + map, bottom + 1.2 * f, p.right, "", "end");
    if (guess) art.guess(valueAt + room * Math.min(1.2, guess.value / (p.max || 1)), top, bottom, guess);
    for (const number of numbers) art.text(...number); // over the line of the guess
  },

  reading(art, p) {
    const { f, wide, high } = art, both = p.down.length > 0, top = 2.6 * f, foot = 1.9 * f, px = wide / p.n;
    const most = Math.max(...p.up.map((b) => b[1]), ...p.down.map((b) => b[1]), 0.01), half = both ? (high - top - foot - 1.6 * f) / 2 : high - top - foot, base = top + half, gone = new Set(p.gone);
    const bar = (at, share, down) => {
      const w = share >= 0.05 ? Math.max(px * 0.9, 9) : Math.max(px * 0.9, 1.2), x = Math.max(0, Math.min(wide - w, (at + 0.5) * px - w / 2)), h = Math.max(1, half * share / most);
      const lost = both && !down && gone.has(at);
      art.rect(x, down ? base + 1 : base - h, w, h, { fill: lost ? "url(#lesson-hatch)" : down ? "var(--held)" : "var(--reference)", class: "grow", ...(lost ? { stroke: "var(--lost)" } : {}) });
    };
    for (const [at, share] of p.up) bar(at, share, false);
    for (const [at, share] of p.down) bar(at, share, true);
    art.line(0, base, wide, base, { stroke: "var(--edge)" });
    art.text(0, f, `${p.names[0]} ${both ? "↑" : ""}`, "strong");
    if (both) {
      art.text(0, high - foot - 0.1 * f, `${p.names[1]} ↓`, "strong");
      art.text(wide, f, "hatched: wanted, and gone", "lost", "end");
    }
    const used = [];
    for (const label of [...p.labels].sort((a, b) => b.share - a.share)) {
      const words = `${label.word}  ${Math.round(100 * label.share)} %`, room = art.width(words, true) / 2, at = (label.at + 0.5) * px, late = at > wide - 2.4 * room, h = half * label.share / most;
      const x = late ? at - 10 - room : Math.max(room + 2, at); // beside its bar where there is no room above it
      let y = label.side === "down" ? base + h + (late ? 0 : 1.1 * f) : base - h + (late ? 0.8 * f : -0.45 * f);
      if (label.side === "up" && x - room < art.width(p.names[0], true) + f && y < 1.6 * f) y = 2.1 * f;
      const clear = label.side === "down" ? 1 : -1;
      const hit = () => used.some((u) => Math.abs(u.x - x) < u.room + room + 6 && Math.abs(u.y - y) < 1.15 * f);
      for (let tries = 0; hit() && tries < 4; tries++) y += clear * 1.2 * f;
      if (hit() || y < 0.9 * f || y > high - foot + 0.3 * f) continue;
      used.push({ x, y, room });
      art.text(x, y, words, "strong halo", "middle");
    }
    art.text(0, high - 0.3 * f, p.left);
    art.text(wide, high - 0.3 * f, p.right, "", "end");
  },

  bars(art, p, { open, guess }) {
    const { f, wide, high } = art, narrow = wide < 620, note = p.rows.some((row) => row.note), top = f * (guess ? 3.6 : 2.2);
    const gutter = narrow ? 0 : Math.min(wide * 0.34, Math.max(...p.rows.map((row) => art.width(row.label) + (note ? art.width(row.note || "") + f : 0))) + 1.4 * f);
    const words = Math.max(...p.rows.map((row) => art.width(row.text, true))) + f, room = Math.max(wide * 0.25, wide - gutter - words);
    const pitch = Math.min((narrow ? 4.4 : 5.6) * f, (high - top - 4) / p.rows.length), h = narrow ? pitch * 0.4 : Math.min(3.2 * f, pitch * 0.62), x0 = gutter;
    art.text(x0, f, art.fit(p.heading, wide - x0), "strong");
    p.rows.forEach((row, i) => {
      const y = top + i * pitch + (narrow ? 1.3 * f : 0), mid = y + h / 2, known = open || row.given;
      if (narrow) art.text(0, y - 0.35 * f, row.label + (row.note && known ? ` · ${row.note}` : ""), "text");
      else {
        art.text(gutter - 0.8 * f, mid + f * 0.36, row.label + (row.note && known ? ` · ${row.note}` : ""), "text", "end");
      }
      if (!known) return art.rect(x0, y + 0.5, room, h - 1, { class: "unknown", rx: 3 });
      const size = Math.max(row.value > 0 ? 2 : 0, room * row.value / p.max), dotted = row.look === "predicted";
      art.rect(x0, y, size, h, { fill: shade(row.look), rx: 3, class: dotted ? "predicted grow" : "grow", ...(row.look === "lost" ? { stroke: "var(--lost)" } : {}) });
      let end = size;
      if (row.low !== undefined) {
        const a = x0 + room * row.low / p.max, b = x0 + room * row.high / p.max;
        art.add("path", { d: `M${a} ${mid - 5}v10M${a} ${mid}H${b}M${b} ${mid - 5}v10`, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5 });
        end = Math.max(size, b - x0);
      }
      art.text(x0 + end + 0.6 * f, mid + f * 0.36, art.fit(row.text, Math.max(words, wide - x0 - end - 0.6 * f)), "strong");
    });
    if (guess) art.guess(x0 + room * Math.min(1.1, guess.value / p.max), top - 6, top + p.rows.length * pitch, guess);
  },

  curve(art, p, { open, guess }) {
    const { f, wide, high } = art, left = Math.max(...p.y.ticks.map((t) => art.width(t[1])), f) + 0.8 * f, top = 1.9 * f, bottom = high - 2.9 * f;
    const seen = p.series.filter((s) => open || s.given), names = p.named ? seen.filter((s) => s.label !== "front") : [];
    const right = wide - Math.min(wide * 0.3, p.band ? f : Math.max(f, ...names.map((s) => art.width(s.label) + 1.2 * f)));
    const X = (v) => left + (right - left) * (v - p.x.min) / (p.x.max - p.x.min || 1), Y = (v) => bottom - (bottom - top) * (v - p.y.min) / (p.y.max - p.y.min || 1);
    art.text(0, f, p.y.label, "strong");
    for (const [v, words] of p.y.ticks) {
      art.line(left, Y(v), right, Y(v), { stroke: "var(--hairline)" });
      art.text(left - 0.6 * f, Y(v) + 0.35 * f, words, "", "end");
    }
    for (const v of p.levels || []) if (open) art.line(left, Y(v), right, Y(v), { stroke: "var(--held)", opacity: 0.22 });
    for (const [v, words] of p.x.ticks) art.text(X(v), bottom + 1.3 * f, words, "", "middle");
    art.text(right, high - 0.3 * f, p.x.label, "", "end");
    if (p.band) {
      art.rect(left, Y(p.band[1]), right - left, Y(p.band[0]) - Y(p.band[1]), { fill: "var(--reference-band)", opacity: 0.16 });
      art.line(left, Y(p.band[2]), right, Y(p.band[2]), { stroke: "var(--reference)", "stroke-width": 1.5, "stroke-dasharray": "6 4" });
      art.text(right, Y(p.band[2]) + 1.2 * f, "full cache", "text", "end");
    }
    const used = [];
    for (const s of seen) {
      const points = s.points.map((q) => [X(q[0]), Y(q[1]), ...q.slice(2).map(Y)]), colour = s.mark ? `var(--${s.mark.fill})` : shade(s.look);
      const path = points.map(([x, y], i) => (i === 0 ? `M${x} ${y}` : s.line === "step" ? `H${x}V${y}` : `L${x} ${y}`)).join("");
      const dash = s.look === "reference" && p.named && !s.dots && !s.solid ? "6 4" : s.look === "soft" ? "2 4" : "";
      if (s.line) art.add("path", { d: path, fill: "none", stroke: colour, "stroke-width": s.line === "step" ? 2 : 2.4, "stroke-dasharray": dash, opacity: s.mark ? 0.5 : 1, "stroke-linejoin": "round" });
      for (const [x, y, low, high2] of points) {
        if (low !== undefined && p.front) art.line(x, low, x, high2, { stroke: colour, opacity: 0.5 });
        if (s.mark) this.mark(art, x, y, s.mark);
        else if (s.dots) art.add("circle", { cx: x, cy: y, r: 0.3 * f, fill: colour });
        else if (s.dashes) art.line(x - 0.55 * f, y, x + 0.55 * f, y, { stroke: colour, "stroke-width": 4 });
      }
    }
    for (const s of names) { // after all lines, so that none runs through a label
      const points = s.points.map((q) => [X(q[0]), Y(q[1])]), end = points[points.length - 1], words = s.label, x = end[0] + 0.8 * f, room = art.width(words);
      let y = end[1] + 0.35 * f;
      const from = y, hit = () => used.some((u) => x < u.x + u.room && u.x < x + room && Math.abs(u.y - y) < 1.1 * f);
      for (let tries = 1; hit() && tries < 10; tries++) y = from + (tries % 2 ? -1 : 1) * Math.ceil(tries / 2) * 1.1 * f; // a line up, a line down, two up, ...
      used.push({ x, y, room });
      art.text(x, y, words, "text halo");
    }
    if (guess) art.guess(X(guess.value), top, bottom, guess);
  },

  squares(art, p, { open }) {
    const { f, wide, high } = art, gutter = wide < 620 ? 0 : Math.max(...p.groups.map((g) => art.width(g.label))) + 1.6 * f, top = 2.4 * f;
    const pitch = Math.min(4.2 * f, (high - top) / p.groups.length), side = Math.min(1.7 * f, pitch * 0.55), each = side * 1.25;
    art.text(gutter, f, art.fit(p.heading, wide - gutter), "strong");
    p.groups.forEach((g, i) => {
      const y = top + i * pitch + (gutter ? 0 : 1.2 * f), known = open || g.given;
      if (gutter) art.text(gutter - 0.8 * f, y + side / 2 + 0.36 * f, g.label, "text", "end");
      else art.text(0, y - 0.35 * f, g.label, "text");
      if (!known) return art.rect(gutter, y, Math.min(wide - gutter, 20 * each), side, { class: "unknown", rx: 3 });
      const shrink = Math.min(1, (wide - gutter - 3 * f) / (Math.max(1, g.count) * each));
      for (let n = 0; n < g.count; n++) {
        const x = gutter + n * each * shrink, s = side * shrink;
        art.rect(x, y, s, s, { fill: g.look === "held" ? "var(--held)" : "var(--panel)", stroke: g.look === "none" ? "var(--edge)" : "var(--held)", "stroke-width": 1.5, rx: 2 });
        if (g.look === "a") art.add("path", { d: `M${x} ${y}h${s}L${x} ${y + s}z`, fill: "var(--held)" });
        if (g.look === "b") art.add("path", { d: `M${x + s} ${y}v${s}H${x}z`, fill: "var(--held)" });
      }
      art.text(gutter + Math.max(1, g.count) * each * shrink + 0.6 * f, y + side / 2 + 0.38 * f, `${g.count}`, "strong big");
    });
  },

  mark(art, x, y, { outline, fill, edge }) {
    const r = 0.42 * art.f, paint = { fill: `var(--${fill})`, stroke: fill === edge ? "var(--panel)" : `var(--${edge})`, "stroke-width": fill === edge ? 1 : 3 };
    if (!outline) art.add("circle", { cx: x, cy: y, r, ...paint });
    else art.add("polygon", { points: outline, transform: `translate(${x} ${y}) scale(${r * 1.15})`, "vector-effect": "non-scaling-stroke", ...paint });
  },
};

// a passage is text, not SVG: it wraps, and reads as prose
function passage(box, p, { open }) {
  const text = el("p", "passage");
  let key = null; // the tokens of the answer, in one frame
  for (const part of p.parts) {
    const node = el("span", `tok ${part.s}`, part.t);
    if (part.s === "skip") node.className = "skip";
    else if (part.read !== undefined) node.style.setProperty("--read", `${Math.round(100 * Math.sqrt(part.read))}%`), part.read && node.classList.add("read");
    else if (open && part.s !== "asked") {
      node.style.setProperty("--share", `${100 * part.share}%`);
      node.classList.add(part.share === 0 ? "gone" : "some");
    }
    if (part.s === "key") {
      key = key || text.appendChild(el("span", "key"));
      key.append(node);
    } else {
      key = null;
      text.append(node);
    }
    if (part.note) text.append(el("sup", "", part.note));
  }
  if (p.reads) return box.replaceChildren(text, el("p", "key-line", p.reads));
  const legend = el("p", "key-line");
  if (open) legend.append(el("span", "tok some all", "held by all heads"), " ", el("span", "tok some half", "by half"), " ", el("span", "tok gone", "by none"));
  legend.append(" ", el("span", "tok asked", "the question, read later"));
  box.replaceChildren(text, legend);
}

function draw(box, picture, env) {
  if (picture.kind === "text") return passage(box, picture, env);
  const art = new Art(box, env.wide, env.high, env.f);
  PICTURES[picture.kind](art, picture, env);
}
