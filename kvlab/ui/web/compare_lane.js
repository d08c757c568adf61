// one run of the comparison: stepping costs what changes between two steps, however many entries there are

class Lane extends Run {
  constructor(bytes, card, pieces) {
    super(bytes);
    this.card = card;
    this.pieces = [...pieces, ...this.answer];
    this.leaving = this.byStep(this.a.left);
    this.coding = this.a.coded ? this.byStep(this.a.coded) : null;
    this.step = -1;
  }

  byStep(when) { // entries in the order of the step at which something happens to them, and where each step begins
    const from = new Int32Array(this.S + 1);
    for (const s of when) if (s > 0 && s < this.S) from[s + 1]++;
    for (let s = 1; s <= this.S; s++) from[s] += from[s - 1];
    const next = from.slice(), order = new Int32Array(from[this.S]);
    for (let i = 0; i < when.length; i++) if (when[i] > 0 && when[i] < this.S) order[next[when[i]]++] = i;
    return { from, order };
  }

  // tokens into `bins` columns of an axis of `tokens`; what a column shows is kept up to date from then on
  bin(bins, tokens) {
    this.bins = bins;
    this.binOf = Uint16Array.from({ length: this.P }, (_, p) => Math.floor((p * bins) / tokens));
    this.room = new Uint16Array(bins); // tokens of the axis in each column
    for (let p = 0; p < tokens; p++) this.room[Math.floor((p * bins) / tokens)]++;
    this.count = new Uint16Array(this.R * bins); // entries held
    this.tall = new Uint32Array(this.R * bins); // the sum of their heights, 255 for full precision
    this.read = this.a.unread ? new Uint16Array(this.R * bins) : null; // those looked at
    this.stale = new Uint8Array(this.R * bins); // cells to paint anew, and a list of them
    this.changed = new Int32Array(this.R * bins);
    this.changes = 0;
    const step = Math.max(0, this.step);
    this.step = -1;
    this.at(step);
  }

  height(i, step) {
    if (!this.a.bits || this.a.coded[i] > step) return 255;
    const size = this.R * this.P, one = (b) => b || this.precision;
    return Math.max(76, Math.round(255 * (0.3 + (0.35 * (one(this.a.bits[i]) + one(this.a.bits[size + i]))) / this.precision)));
  }
  add(i, sign, height) {
    const r = Math.floor(i / this.P), p = i - r * this.P, j = r * this.bins + this.binOf[p];
    this.count[j] += sign;
    this.tall[j] += sign * height;
    this.total += sign;
    this.heldCount[p] += sign;
    this.touch(j);
  }
  touch(j) { if (!this.stale[j]) { this.stale[j] = 1; this.changed[this.changes++] = j; } }

  at(step) {
    step = Math.min(step, this.S - 1); // an answer that ended early stays as it was
    if (this.a.away && step !== this.step) { this.a.left = this.leftAt(step); this.step = -1; } // few runs have entries that came back
    if (this.step < 0) this.afresh(step);
    for (; this.step < step; this.step++) this.cross(this.step + 1, 1);
    for (; this.step > step; this.step--) this.cross(this.step, -1);
    this.born_ = this.a.born[step];
    if (this.read) this.reading();
    this.lostRows = new Map();
    const from = this.a.lost_from;
    for (let n = from ? from[step] : 0; from && this.a.lost && n < from[step + 1]; n++) {
      const r = Math.floor(this.a.lost[n] / this.P);
      if (!this.lostRows.has(r)) this.lostRows.set(r, []);
      this.lostRows.get(r).push(this.a.lost[n] % this.P);
    }
  }

  afresh(step) {
    for (const array of [this.count, this.tall, this.heldCount]) array.fill(0);
    this.total = 0;
    this.step = step;
    const born = this.a.born[step], { left } = this.a;
    for (let r = 0; r < this.R; r++) for (let p = 0, i = r * this.P; p < born; p++, i++) if (left[i] > step) this.add(i, 1, this.height(i, step));
    this.touchAll();
  }
  touchAll() { for (let j = 0; j < this.stale.length; j++) this.touch(j); }

  cross(step, sign) { // from step - 1 to step, or back
    const before = this.a.born[step - 1], after = this.a.born[step], { left } = this.a;
    for (let n = this.leaving.from[step]; n < this.leaving.from[step + 1]; n++) {
      const i = this.leaving.order[n];
      if (i % this.P < before) this.add(i, -sign, this.height(i, step - 1));
    }
    for (let p = before; p < after; p++) for (let r = 0, i = p; r < this.R; r++, i += this.P) if (left[i] > step) this.add(i, sign, this.height(i, step));
    for (let n = this.coding ? this.coding.from[step] : 0; this.coding && n < this.coding.from[step + 1]; n++) {
      const i = this.coding.order[n], r = Math.floor(i / this.P), p = i - r * this.P;
      if (p >= before || left[i] <= step) continue;
      this.tall[r * this.bins + this.binOf[p]] += sign * (this.height(i, step) - 255);
      this.touch(r * this.bins + this.binOf[p]);
    }
  }

  reading() { // read sets have no order in time: counted anew
    this.rowBase = Math.floor(this.step / this.every) * this.R * this.P;
    this.read.fill(0);
    for (let r = 0; r < this.R; r++) for (let p = 0; p < this.born_; p++) if (this.held(r, p) && !this.unread(r, p)) this.read[r * this.bins + this.binOf[p]]++;
    this.touchAll();
  }

  spanHeld(from, to) { let held = 0; for (let p = from; p <= to && p < this.P; p++) held += this.heldCount[p]; return held; }
  mergedOf(p) { let n = 0; for (let r = 0; r < this.R; r++) if (this.merged(r, p) >= 0) n++; return n; }
  fullBytes(step) { return this.even ? (this.bytes.full * this.a.born[step]) / this.P : this.bytes.full; }
}
