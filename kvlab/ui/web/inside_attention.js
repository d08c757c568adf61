// the last token looks back: the full cache upwards, this run downwards, on the columns of the map

const NAMED = 0.05; // bars above this share are widened and named

class Attention {
  constructor(app, map) {
    this.app = app;
    this.map = map;
    this.part = el("div", "attention");
    const head = el("header");
    head.append(el("h3", "", "Attention of one query"));
    this.sub = el("span", "sub");
    head.append(this.sub);
    this.canvas = el("canvas");
    this.canvas.setAttribute("role", "img");
    this.names = el("div", "names");
    this.arrow = svg("svg", { class: "arrow", "aria-hidden": "true" });
    this.balance = el("div", "balance");
    this.part.append(head, this.canvas, this.arrow, this.names, this.balance);
    this.canvas.onpointermove = (e) => app.hover(map.hit(e)[0]);
    this.canvas.onclick = (e) => { const [p] = map.hit(e); if (p >= 0) app.lock(p, e.shiftKey); };
  }

  layout(wide) {
    const { run } = this.app;
    this.none = !run.a.attention;
    this.tall = this.none ? 0 : run.a.full ? 172 : 104;
    this.high = this.none ? 24 : this.tall + 34;
    this.part.classList.toggle("none", this.none);
    size(this.canvas, wide, Math.max(1, this.tall));
    this.arrow.setAttribute("width", wide);
    this.arrow.setAttribute("height", this.tall);
    this.balance.classList.toggle("below", this.map.right < 100);
    this.balance.style.left = this.map.right < 100 ? "" : `${this.map.gutter + this.map.width + 22}px`;
  }

  // the smallest round scale that holds both sides
  scale(run, r) {
    let up = 0, down = 0;
    for (let p = 0; p < run.born_; p++) { up = Math.max(up, run.full(r, p)); down = Math.max(down, run.attention(r, p)); }
    const round = (v) => [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1].find((n) => n >= v) || 1;
    this.up = run.a.full ? round(up) : 0;
    this.down = round(down);
    const free = this.tall - 32; // room for a name above and below
    this.unit = free / (this.up + this.down);
    this.zero = 16 + this.up * this.unit;
  }

  topOf(p) { // where a token's bar begins, from the top of the picture
    const { run } = this.app;
    return this.none || p < 0 || p >= run.born_ ? -48 : this.zero - run.full(this.app.row(), p) * this.unit;
  }

  draw() {
    const { run, colours: c } = this.app, r = this.app.row();
    this.names.replaceChildren();
    this.arrow.replaceChildren();
    if (this.none) { this.sub.textContent = "rows of attention were not stored with this run"; this.balance.replaceChildren(); return; }
    this.scale(run, r);
    const g = this.canvas.getContext("2d"), { map } = this;
    clear(g);
    g.font = c.font;
    this.axes(g, c, run);
    const bars = [];
    for (let p = map.from; p < Math.min(map.from + map.count, run.born_); p++) this.bars(g, c, run, r, p, bars);
    g.fillStyle = c.reference;
    g.fillRect(map.gutter, this.zero - 0.5, map.width, 1.5);
    const named = this.name(run, r, bars);
    this.moved(run, r, bars, named);
    this.balanceOf(run, r);
    const rows = run.rowsOf(), at = rows === run.step ? "" : `, row of step ${rows}`;
    this.sub.textContent = `${run.name(r)}, the last token looks back${run.group > 1 ? `; mean of its ${run.group} query heads` : ""}${at}`;
    const to = run.reads(r);
    this.canvas.setAttribute("aria-label", `Attention of ${run.name(r)} at step ${run.step}` + (run.a.full ? `: ${percent(to.held)} of the full cache's attention is held here, ${percent(1 - to.held)} is not` : ""));
  }

  axes(g, c, run) {
    const { map } = this, step = (this.up + this.down) / 5, every = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5].find((n) => n >= step) || 0.5;
    const line = (v, side) => {
      const y = Math.round(this.zero - side * v * this.unit) + 0.5;
      g.strokeStyle = c.hairline;
      g.lineWidth = 1;
      g.beginPath(); g.moveTo(map.gutter, y); g.lineTo(map.gutter + map.width, y); g.stroke();
      label(g, c, `${Math.round(100 * v)} %`, map.gutter - 9, y + 4, "right");
    };
    for (let v = every; v <= this.up + 1e-6; v += every) line(v, 1);
    for (let v = every; v <= this.down + 1e-6; v += every) line(v, -1);
    const short = map.gutter < 80, x = short ? map.gutter + map.width : 0, side = short ? "right" : "left"; // beside the scale, or over the picture's end
    if (run.a.full) label(g, c, "full cache", x, 12, side, c.text, true);
    label(g, c, "this run", x, this.tall - 4, side, c.held, true);
  }

  bars(g, c, run, r, p, bars) {
    const { map } = this, full = run.full(r, p), mine = run.attention(r, p), away = !run.held(r, p), skipped = !away && run.unread(r, p), lost = away || skipped;
    if (full < 0.001 && mine < 0.001) return;
    const one = (share, side) => {
      if (share < 0.001) return;
      const w = share > NAMED ? Math.max(9, map.cell - 0.8) : Math.max(1.2, map.cell - 0.8), h = Math.max(1, share * this.unit);
      const x = map.x(p) + map.cell / 2 - w / 2, y = side > 0 ? this.zero - h : this.zero;
      if (side > 0 && lost) {
        g.fillStyle = c.lostSoft; g.fillRect(x, y, w, h);
        g.fillStyle = w < 5 ? c.lost : c.hatch; g.fillRect(x, y, w, h);
        if (w >= 5) { g.strokeStyle = skipped ? c.held : c.lost; g.lineWidth = 1; g.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1); }
      } else {
        g.fillStyle = side > 0 ? c.reference : c.held;
        g.fillRect(x, y, w, h);
      }
      if (share > NAMED) bars.push({ p, share, side, lost: side > 0 && lost, skipped, x, w, y: side > 0 ? y : y + h });
    };
    one(full, 1);
    one(mine, -1);
  }

  // names beside the tallest bars, lost ones first; a name that would cover another is left out
  name(run, r, bars) {
    const { map } = this, taken = [], named = new Set(), right = map.gutter + map.width;
    for (const bar of bars) taken.push({ left: bar.x, right: bar.x + bar.w, top: Math.min(bar.y, this.zero), bottom: Math.max(bar.y, this.zero), bar });
    const order = [...bars].sort((a, b) => b.lost - a.lost || b.share - a.share).slice(0, 8);
    for (const bar of order) {
      const quote = `“${shown(run.pieces[bar.p])}”`, left = run.a.left[r * run.P + bar.p], into = run.merged(r, bar.p);
      const why = bar.skipped ? "held, not read at this step" : into >= 0 ? `merged into “${shown(run.pieces[into])}” at step ${left}` : `evicted at step ${left}`;
      const lines = bar.lost ? [quote, `${percent(bar.share)} of this head's attention, ${why}`] : [`${quote} ${percent(bar.share)}`];
      const long = Math.max(...lines.map((text) => textWidth(text, this.app.colours.font) * 1.06)), tall = 16 * lines.length;
      const top = bar.side > 0 ? Math.max(0, Math.min(bar.y - (bar.lost ? 2 : 14), this.zero - tall - 2)) : Math.min(bar.y - 10, this.tall - 16);
      for (const side of [-1, 1]) {
        const from = side < 0 ? bar.x - 8 - long : bar.x + bar.w + 8, to = from + long;
        if (from < map.gutter - 4 || to > right + 4) continue;
        if (taken.some((t) => t.bar !== bar && from < t.right + 3 && to > t.left - 3 && top < t.bottom && top + tall > t.top)) continue;
        taken.push({ left: from, right: to, top, bottom: top + tall });
        const text = el("div", `name ${bar.lost ? "gone" : bar.side > 0 ? "theirs" : "ours"}${side < 0 ? " before" : ""}`);
        for (const line of lines) text.append(el("span", "", line));
        text.style.transform = `translate(${side < 0 ? from : from}px, ${top}px)`;
        text.style.width = `${Math.ceil(long) + 1}px`;
        this.names.append(text);
        named.add(bar);
        break;
      }
    }
    return named;
  }

  // where the mass went: only when one token gained more than ten points while this head lost a wanted entry
  moved(run, r, bars) {
    const lost = bars.filter((bar) => bar.lost).sort((a, b) => b.share - a.share)[0];
    if (!lost) return;
    let best = null;
    for (const bar of bars) if (bar.side < 0 && bar.share - run.full(r, bar.p) > 0.1 && (!best || bar.share - run.full(r, bar.p) > best.share - run.full(r, best.p))) best = bar;
    if (!best || Math.abs(best.x - lost.x) < 40) return;
    const way = Math.sign(best.x - lost.x), from = way > 0 ? lost.x + lost.w + 4 : lost.x - 4, y = Math.max(lost.y + 26, (lost.y + this.zero) / 2), to = best.x + best.w / 2;
    const theirs = bars.find((bar) => bar.p === best.p && bar.side > 0), end = (theirs ? theirs.y : this.zero) - 7;
    if (end < y + 4) return;
    const bend = Math.min(60, Math.abs(to - from) / 2);
    this.arrow.append(
      svg("path", { class: "way", d: `M${from},${y}H${to - way * bend}Q${to},${y} ${to},${end}` }),
      svg("path", { class: "tip", d: `M${to - 4},${end - 1}h8l-4,7z` }),
    );
  }

  balanceOf(run, r) {
    this.balance.replaceChildren();
    if (!run.a.full) return;
    const to = run.reads(r), sum = to.held + to.merged + to.evicted + to.unread || 1, gone = 1 - to.held / sum;
    const bar = el("div", "bar"), held = el("i", "held"), lost = el("i", "lost");
    held.style.width = `${(100 * to.held) / sum}%`;
    lost.style.width = `${100 * gone}%`;
    bar.append(held, lost);
    this.balance.append(el("span", "", "where its attention goes"), bar, el("span", "", `${percent(1 - gone)} ${to.unread ? "held and read" : "held"}`));
    const parts = [["missing", to.evicted], ["merged away", to.merged], ["held, not read", to.unread]].filter(([, share]) => share / sum >= 0.0005);
    for (const [word, share] of parts) this.balance.append(el("b", "", `${percent(share / sum)} ${word}`));
    if (!parts.length) this.balance.append(el("span", "", "nothing missing"));
  }
}
