"""Mustafar (2025, arXiv 2505.22913). Card: methods/quantization.md, from the authors' code.

Every token's key and value lose their smallest magnitudes, each token and KV head on its own. The newest `window` tokens stay whole;
older ones are thinned in blocks of `block` as soon as a block of them has left the window. Attention of a prompt sees all values.

Of D values, D - max(1, floor(sparsity * D)) + 1 stay, as the authors' threshold leaves them. Held are these values in the model's dtype
and a bitmap of D bits: ceil(D / 8) + kept * itemsize bytes per vector.
"""

from dataclasses import dataclass

from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.bitmap import Bitmap, largest
from kvlab.codecs.coder import Coder
from kvlab.codecs.pack import packed_size
from kvlab.geometry import Geometry
from kvlab.method import knob


def kept_values(size: int, sparsity: float) -> int:
    """Values that stay of `size`: the threshold is the k-th smallest magnitude, k = max(1, floor(sparsity * size)), and stays itself."""
    return size - max(1, int(sparsity * size)) + 1


@dataclass(frozen=True)
class Mustafar(Coder):
    """Only the largest values of each key and value vector, with a bitmap of where they stand."""

    name = "mustafar"
    title = "Mustafar"
    paper = "Joo et al., arXiv 2505.22913"
    year = 2025
    encodes = ("k", "v")
    departs = (
        "Each token's vector is packed by itself, with one bitmap and no offsets, where the authors' GPU format has padded tiles of 64: fewer bytes, and "
        "single entries can leave. Among equal magnitudes the lower channel stays, so that all vectors keep equally many."
    )

    k_sparsity: float = knob(0.7, "Share of each key's values that is dropped.", 0, 0.95, 0.05)
    v_sparsity: float = knob(0.7, "Share of each value vector's values that is dropped.", 0, 0.95, 0.05)
    window: int = knob(32, "Newest tokens that stay whole.", 1, 1024, 1)
    block: int = knob(256, "Tokens thinned together once they have left the window; 1 thins one at every step.", 1, 1024, 1)

    def flush(self, layer: LayerKV) -> None:
        for column, sparsity in (("k", self.k_sparsity), ("v", self.v_sparsity)):
            due = (layer.store.raw_lens(column) - self.window).clamp(min=0) // self.block * self.block
            layer.code(column, due, lambda rows, lens, sparsity=sparsity: _sparse(rows, sparsity))

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size, item = geometry.head_dim, geometry.itemsize
        raw = first + later - max(0, first + later - self.window) // self.block * self.block
        coded = max(0, slots - raw)
        vectors = sum(packed_size(size, 1) + item * kept_values(size, sparsity) for sparsity in (self.k_sparsity, self.v_sparsity))
        return geometry.kv_heads * (coded * vectors + (slots - coded) * 2 * size * item) + 4 * slots


def _sparse(rows: Tensor, sparsity: float) -> Bitmap:
    return Bitmap.of(rows, largest(rows, kept_values(rows.shape[1], sparsity)))
