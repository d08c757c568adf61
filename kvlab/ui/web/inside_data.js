// the run as the browser holds it: typed arrays laid over the block of bytes that Python sent

const KINDS = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array, float64: Float64Array };
const halves = new Float32Array(65536); // half precision to number, exact; filled once
const glows = new Uint8Array(65536), byteGlows = new Uint8Array(256); // either code of a share to the opacity of an entry that gets it
const glowOf = (root) => Math.round((255 / 24) * Math.round(24 * (0.38 + 0.62 * Math.min(1, root || 0))));

function fillHalves() {
  if (halves[1]) return;
  for (let i = 0; i < 65536; i++) {
    const sign = i & 0x8000 ? -1 : 1, power = (i >> 10) & 31, part = i & 1023;
    halves[i] = sign * (power === 0 ? part * 2 ** -24 : power === 31 ? (part ? NaN : Infinity) : (1 + part / 1024) * 2 ** (power - 15));
    glows[i] = glowOf(Math.sqrt(Math.max(0, halves[i])));
  }
  for (let code = 0; code < 256; code++) byteGlows[code] = glowOf(code / 255);
}

function readHeader(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
  return { length, header: JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length))) };
}

class Run {
  constructor(bytes) {
    fillHalves();
    const { length, header } = readHeader(bytes);
    const raw = bytes.slice().buffer; // a copy of its own: typed arrays need the alignment the message may not have
    Object.assign(this, header);
    this.R = this.L * this.H;
    this.a = {};
    for (const [name, { kind, at, size }] of Object.entries(header.arrays)) this.a[name] = new KINDS[kind](raw, 4 + length + at, size);
    this.hatches = Boolean(this.a.lost?.some((i) => !this.a.into || this.a.into[i] < 0)); // something wanted is gone, not merged
    this.mean = this.a.missing ? this.meanMissing() : null;
    this.heldCount = new Uint16Array(this.P);
    this.heldLayer = new Uint16Array(this.L * this.P); // heads of a layer that hold a token
    this.kept = new Uint32Array(this.R);
    this.left = this.a.left; // the last time each entry left
    this.leaving = this.byStep(this.a.left);
    this.step = -1;
  }

  leftAt(step) { // when each entry left, as it stood at a step: some came back since
    const { away } = this.a;
    if (!away) return this.left;
    const left = this.left.slice();
    for (let n = 0; n < away.length; n += 3) if (away[n + 1] <= step && step < away[n + 2]) left[away[n]] = away[n + 1];
    return left;
  }

  byStep(when) { // entries in the order of the step at which something happens to them, and where each step begins
    const from = new Int32Array(this.S + 1);
    for (const s of when) if (s > 0 && s < this.S) from[s + 1]++;
    for (let s = 1; s <= this.S; s++) from[s] += from[s - 1];
    const next = from.slice(), order = new Int32Array(from[this.S]);
    for (let i = 0; i < when.length; i++) if (when[i] > 0 && when[i] < this.S) order[next[when[i]]++] = i;
    return { from, order };
  }

  meanMissing() {
    const mean = new Float32Array(this.S);
    for (let s = 0; s < this.S; s++) {
      let sum = 0;
      for (let r = 0; r < this.R; r++) sum += this.a.missing[s * this.R + r];
      mean[s] = sum / this.R;
    }
    return mean;
  }

  // counts of one step; everything drawn afterwards reads them. From the step before it costs what changed, however many entries there are
  at(step) {
    step = Math.min(step, this.S - 1); // of several runs one may have ended early: it stays as it was
    if (step === this.step || !this.S) return;
    if (this.a.away) { this.a.left = this.leftAt(step); this.step = -1; } // few runs have entries that came back: those are counted anew
    if (this.step < 0) this.afresh(step);
    for (; this.step < step; this.step++) this.cross(this.step + 1, 1);
    for (; this.step > step; this.step--) this.cross(this.step, -1);
    this.born_ = this.a.born[step];
    this.rowBase = Math.floor(step / this.every) * this.R * this.P;
    this.lostRows = new Map(); // row -> positions that are gone though the full cache wants them: few, so a list
    const from = this.a.lost_from;
    for (let n = from ? from[step] : 0; from && this.a.lost && n < from[step + 1]; n++) {
      const r = Math.floor(this.a.lost[n] / this.P);
      if (!this.lostRows.has(r)) this.lostRows.set(r, []);
      this.lostRows.get(r).push(this.a.lost[n] % this.P);
    }
  }
  afresh(step) {
    for (const counts of [this.heldCount, this.heldLayer, this.kept]) counts.fill(0);
    this.total = 0;
    this.step = step;
    const born = this.a.born[step], { left } = this.a;
    for (let r = 0; r < this.R; r++) for (let p = 0, i = r * this.P; p < born; p++, i++) if (left[i] > step) this.add(r, p, 1, step);
  }
  cross(step, sign) { // from step - 1 to step, or back
    const before = this.a.born[step - 1], after = this.a.born[step], { left } = this.a;
    for (let n = this.leaving.from[step]; n < this.leaving.from[step + 1]; n++) {
      const r = Math.floor(this.leaving.order[n] / this.P), p = this.leaving.order[n] - r * this.P;
      if (p < before) this.add(r, p, -sign, step - 1);
    }
    for (let p = before; p < after; p++) for (let r = 0, i = p; r < this.R; r++, i += this.P) if (left[i] > step) this.add(r, p, sign, step);
  }
  add(r, p, sign) {
    this.kept[r] += sign;
    this.heldCount[p] += sign;
    this.heldLayer[Math.floor(r / this.H) * this.P + p] += sign;
    this.total += sign;
  }

  held(r, p) { return p < this.born_ && this.a.left[r * this.P + p] > this.step; }
  value(name, r, p) {
    const array = this.a[name];
    if (!array) return 0;
    const code = array[this.rowBase + r * this.P + p];
    return array instanceof Uint16Array ? halves[code] : (code / 255) ** 2;
  }
  glow(r, p) { // opacity of a held entry, 0 to 255 in 24 steps, with the root of the attention it gets
    const array = this.a.attention;
    return array ? (array instanceof Uint16Array ? glows[array[this.rowBase + r * this.P + p]] : byteGlows[array[this.rowBase + r * this.P + p]]) : glows[0];
  }
  attention(r, p) { return this.value("attention", r, p); }
  full(r, p) { return this.value("full", r, p); }
  rowsOf() { return Math.floor(this.step / this.every) * this.every; } // the step whose rows of attention are shown
  unread(r, p) {
    if (!this.a.unread) return false;
    const width = Math.ceil(this.P / 8);
    const byte = this.a.unread[(Math.floor(this.step / this.every) * this.R + r) * width + (p >> 3)];
    return Boolean((byte >> (p & 7)) & 1);
  }
  bits(r, p) { // mean bits of key and value, 0 where the entry is held in full
    if (!this.a.bits || this.a.coded[r * this.P + p] > this.step) return 0;
    const size = this.R * this.P, i = r * this.P + p, one = (b) => b || this.precision;
    return (one(this.a.bits[i]) + one(this.a.bits[size + i])) / 2;
  }
  merged(r, p) { return this.a.into && this.a.left[r * this.P + p] <= this.step ? this.a.into[r * this.P + p] : -1; }
  wants(r, p) { return this.full(r, p) > this.wanted; }
  lostIn(r) { return this.lostRows.get(r) || []; }
  missing(r) { return this.a.missing ? this.a.missing[this.step * this.R + r] : null; }
  reads(r) { // where the full cache's attention of a row lies: held, merged, evicted, not read
    const to = { held: 0, merged: 0, evicted: 0, unread: 0 };
    for (let p = 0; p < this.born_; p++) {
      const share = this.full(r, p);
      if (!share) continue;
      if (this.held(r, p)) to[this.unread(r, p) ? "unread" : "held"] += share;
      else to[this.merged(r, p) >= 0 ? "merged" : "evicted"] += share;
    }
    return to;
  }
  spread(r) { // entropy of a row of attention as a share of the most it could be
    let sum = 0;
    for (let p = 0; p < this.born_; p++) { const share = this.attention(r, p); if (share > 0) sum -= share * Math.log(share); }
    return this.born_ > 1 ? sum / Math.log(this.born_) : 0;
  }
  sinks(r) {
    let sum = 0;
    for (let p = 0; p < Math.min(4, this.born_); p++) sum += this.attention(r, p);
    return sum;
  }
  alive(from, to) { // of the entries of a span: the share held at each step, over all heads and layer by layer
    const layers = new Float32Array(this.L * this.S), share = new Float32Array(this.S), each = (to - from + 1) * this.H;
    for (let s = 0; s < this.S; s++) {
      const left = this.leftAt(s);
      for (let l = 0; l < this.L; l++) {
        let held = 0;
        for (let r = l * this.H; r < (l + 1) * this.H; r++) for (let p = from; p <= to; p++) if (p < this.a.born[s] && left[r * this.P + p] > s) held++;
        layers[l * this.S + s] = held / each;
        share[s] += held / each / this.L;
      }
    }
    return { layers, share };
  }
  name(r) { return `L${Math.floor(r / this.H)} · H${r % this.H}`; }
  // entries the head still held right after p left it
  keptThen(r, p) {
    const when = this.a.left[r * this.P + p], end = when === 0 ? this.prompt : this.a.born[Math.min(when, this.S) - 1];
    let kept = 0;
    for (let q = 0, i = r * this.P; q < end; q++, i++) if (this.a.left[i] > when) kept++;
    return kept;
  }
  word(p) { // the whole word around a token: its neighbours up to white space or a change between digits and letters
    const kind = (q) => (/^\s*\p{N}+$/u.test(this.pieces[q]) ? "n" : /^\s*[\p{L}\p{M}'’-]+$/u.test(this.pieces[q]) ? "w" : "");
    let from = p, to = p;
    if (!kind(p)) return [p, p];
    while (from > 0 && !/^\s/.test(this.pieces[from]) && kind(from - 1) === kind(p)) from--;
    while (to + 1 < this.P && !/^\s/.test(this.pieces[to + 1]) && kind(to + 1) === kind(p)) to++;
    return [from, to];
  }
}

const percent = (share) => (share >= 0.0995 || share === 0 ? `${Math.round(100 * share)} %` : share >= 0.0005 ? `${(100 * share).toFixed(1)} %` : "< 0.1 %");
const grouped = (n) => Math.round(n).toLocaleString("en-US");
const many = (n, one, more) => `${grouped(n)} ${n === 1 ? one : more || one + "s"}`;

function bytesText(n) {
  const unit = n >= 2 ** 30 ? ["GiB", 2 ** 30] : n >= 2 ** 20 ? ["MiB", 2 ** 20] : n >= 1024 ? ["KiB", 1024] : ["B", 1];
  const x = n / unit[1];
  return `${x >= 100 || unit[1] === 1 ? Math.round(x) : x.toFixed(1)} ${unit[0]}`;
}

// a token as text that can be seen: controls by their sign, turning marks by their number
function visible(piece) {
  return Array.from(piece, (c) => {
    const code = c.codePointAt(0);
    if (c === "\n") return "↵";
    if (c === "\t") return "⇥";
    if (code < 32 || code === 127) return String.fromCodePoint(code === 127 ? 0x2421 : 0x2400 + code);
    if ((code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code === 0x200e || code === 0x200f) return `U+${code.toString(16).toUpperCase()}`;
    return c;
  }).join("");
}
function shown(piece, most = 16) {
  const text = visible(piece.trim() === "" ? piece : piece.trim());
  if (text === "") return "∅";
  if (text.trim() === "") return "␣".repeat(Math.min(3, text.length));
  return text.length > most ? text.slice(0, most - 1) + "…" : text;
}
