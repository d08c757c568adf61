// one run of the comparison: stepping costs what changes between two steps, however many entries there are

class Lane extends Run {
  constructor(bytes, card, pieces) {
    super(bytes);
    this.card = card;
    this.pieces = [...pieces, ...this.answer];
    this.coding = this.a.coded ? this.byStep(this.a.coded) : null;
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
    return heightOf((one(this.a.bits[i]) + one(this.a.bits[size + i])) / 2, this.precision);
  }
  add(r, p, sign, step) {
    super.add(r, p, sign);
    const j = r * this.bins + this.binOf[p];
    this.count[j] += sign;
    this.tall[j] += sign * this.height(r * this.P + p, step);
    this.touch(j);
  }
  touch(j) { if (!this.stale[j]) { this.stale[j] = 1; this.changed[this.changes++] = j; } }

  at(step) {
    super.at(step);
    if (this.read) this.reading();
  }
  afresh(step) {
    for (const array of [this.count, this.tall]) array.fill(0);
    super.afresh(step);
    this.touchAll();
  }
  touchAll() { for (let j = 0; j < this.stale.length; j++) this.touch(j); }

  cross(step, sign) {
    super.cross(step, sign);
    const before = this.a.born[step - 1], { left } = this.a;
    for (let n = this.coding ? this.coding.from[step] : 0; this.coding && n < this.coding.from[step + 1]; n++) {
      const i = this.coding.order[n], r = Math.floor(i / this.P), p = i - r * this.P;
      if (p >= before || left[i] <= step) continue;
      this.tall[r * this.bins + this.binOf[p]] += sign * (this.height(i, step) - 255);
      this.touch(r * this.bins + this.binOf[p]);
    }
  }

  reading() { // read sets have no order in time: counted anew
    this.read.fill(0);
    for (let r = 0; r < this.R; r++) for (let p = 0; p < this.born_; p++) if (this.held(r, p) && !this.unread(r, p)) this.read[r * this.bins + this.binOf[p]]++;
    this.touchAll();
  }

  spanHeld(from, to) { let held = 0; for (let p = from; p <= to && p < this.P; p++) held += this.heldCount[p]; return held; }
  mergedOf(p) { let n = 0; for (let r = 0; r < this.R; r++) if (this.merged(r, p) >= 0) n++; return n; }
  fullBytes(step) { return this.even ? (this.bytes.full * this.a.born[step]) / this.P : this.bytes.full; }
}
