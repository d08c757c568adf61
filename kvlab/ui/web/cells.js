// the one painter of kept entries: shapes drawn once as masks, then pixels over typed arrays. A step costs the cells that look different after it

const [LATER, HELD, EVICTED, MERGED, UNREAD, ELSEWHERE] = [0, 1, 2, 3, 4, 5]; // as kvlab.toy.KINDS

// how a cell looks, in one number: kind, opacity and height of the fill, each of the last two as 0 to 255
const look = (kind, alpha = 255, tall = 255) => (kind << 16) | (alpha << 8) | tall;
const heightOf = (bits, precision) => (bits && bits < precision ? Math.round(255 * (0.3 + (0.7 * bits) / precision)) : 255); // a floor of 30 %, then by the bits

// the shape of an entry in the colour that is set; below 4 px a shape cannot be read, so lines stand for it
function drawShape(g, kind, w, h) {
  const narrow = w < 4;
  g.lineWidth = 1;
  if (kind === UNREAD) {
    if (narrow) { g.fillRect(0, 0, w, 1); g.fillRect(0, h - 1, w, 1); } else g.strokeRect(0.5, 0.5, w - 1, h - 1);
  } else if (kind === MERGED) { // a ring on a stem
    if (narrow) { g.fillRect(0, h - 2.5, w, 1.5); return; }
    const r = Math.min(w / 2 - 0.4, h * 0.28, 5), mid = w / 2;
    g.lineWidth = w > 12 ? 1.4 : 1;
    g.beginPath();
    g.arc(mid, r + 0.5, r, 0, 7);
    g.moveTo(mid, 2 * r + 0.5);
    g.lineTo(mid, h);
    g.stroke();
  } else if (kind === ELSEWHERE) { // a dot where there is room for no more
    g.setLineDash([3, 2]);
    if (w > 12) g.strokeRect(0.5, 0.5, w - 1, h - 1);
    else g.fillRect(w / 2 - 1, h / 2 - 1, 2, 2);
    g.setLineDash([]);
  }
}

// wanted and gone: hatched with an edge, never pooled, at least 5 px wide so that one lost token is seen among thousands. Drawn once, then copied
function drawWanted(g, c, x, y, w, h, edge = c.lost) {
  const ratio = pixelRatio(), key = [w, h, edge, ratio, c.said].join();
  if (c.tiles?.said !== c.said) c.tiles = { said: c.said };
  g.drawImage((c.tiles[key] ||= wantedTile(c, w, h, edge, ratio)), Math.round(x * ratio) / ratio, Math.round(y * ratio) / ratio, w, h);
}
function wantedTile(c, w, h, edge, ratio) {
  const tile = document.createElement("canvas"), g = tile.getContext("2d");
  [tile.width, tile.height] = [Math.round(w * ratio), Math.round(h * ratio)];
  g.scale(tile.width / w, tile.height / h);
  g.fillStyle = c.lostSoft;
  g.fillRect(0, 0, w, h);
  g.fillStyle = h >= 4 ? c.hatch : c.lost;
  g.fillRect(0, 0, w, h);
  g.strokeStyle = edge;
  g.lineWidth = 1;
  if (h >= 4) g.strokeRect(0.5, 0.5, w - 1, h - 1);
  return tile;
}

function packed(text) { // a computed colour as a pixel without its alpha
  const [r, g, b] = text.match(/[\d.]+/g).map(Number);
  return ((b << 16) | (g << 8) | r) >>> 0;
}

class Cells {
  // rows: [{ y, h }] in px from the top of the picture; `columns` over `width` px; `air`: px between two cells
  lay(rows, width, columns, air) {
    const ratio = pixelRatio(), px = (v) => Math.round(v * ratio), said = JSON.stringify([rows, width, columns, air, ratio]);
    if (said === this.laid) return;
    this.laid = said;
    this.ratio = ratio;
    this.columns = columns;
    this.rows = rows.map(({ y, h }) => ({ y: px(y), h: Math.max(1, px(y + h) - px(y)) }));
    this.w = Math.max(1, px(width));
    this.from = Int32Array.from({ length: columns + 1 }, (_, b) => Math.floor((b * this.w) / columns));
    this.air = air ? Math.max(1, Math.floor(air * ratio)) : 0;
    this.image = new ImageData(this.w, Math.max(1, ...this.rows.map(({ y, h }) => y + h)));
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.looks = new Int32Array(rows.length * columns).fill(-1);
    this.masks = new Map();
  }
  paint(c) { // the colours of now; others than before make every cell look different
    if (c.said === this.said) return;
    this.said = c.said;
    this.blue = packed(c.held);
    this.line = (packed(c.hairline) | 0xff000000) >>> 0;
    this.looks?.fill(-1);
  }
  set(row, column, to) {
    const j = row * this.columns + column;
    if (this.looks[j] === to) return;
    this.looks[j] = to;
    this.cell(this.rows[row], column, to >> 16, (to >> 8) & 255, to & 255);
  }
  cell({ y: top, h }, column, kind, alpha, tall) {
    const { pixels, from, w: wide, blue } = this, left = from[column], next = from[column + 1], end = Math.max(left + 1, next - this.air), n = end - left;
    const half = Math.max(1, Math.round(this.ratio)), middle = h >= 3 ? (h - half + 1) >> 1 : h, under = middle + half; // the row's hairline shows where nothing is drawn
    const high = kind === HELD ? Math.max(1, Math.round((h * tall) / 255)) : 0, fill = (blue | (alpha << 24)) >>> 0, mask = kind > EVICTED ? this.mask(kind, n, h) : null;
    for (let y = 0, at = top * wide + left; y < h; y++, at += wide) {
      const line = y >= middle && y < under ? this.line : 0;
      if (mask) for (let x = 0; x < n; x++) { const m = mask[y * n + x]; pixels[at + x] = m ? (blue | (((m * alpha) / 255) << 24)) >>> 0 : line; }
      else pixels.fill(h - y <= high ? fill : line, at, at + n);
      if (end < next) pixels.fill(line, at + n, at + next - left);
    }
  }
  mask(kind, w, h) { // opacity of a shape at this size, from the one drawing of it
    const key = (kind * 4096 + w) * 4096 + h;
    if (!this.masks.has(key)) {
      const tile = document.createElement("canvas");
      [tile.width, tile.height] = [w, h];
      const g = tile.getContext("2d");
      g.scale(this.ratio, this.ratio);
      drawShape(g, kind, w / this.ratio, h / this.ratio);
      const { data } = g.getImageData(0, 0, w, h);
      this.masks.set(key, Uint8Array.from({ length: w * h }, (_, i) => data[4 * i + 3]));
    }
    return this.masks.get(key);
  }
  put(g, x, y) { g.putImageData(this.image, Math.round(x * this.ratio), Math.round(y * this.ratio)); }
}
