"""KIVI (2024, arXiv 2402.02750). Card: methods/quantization.md, from the authors' code.

Keys are quantized per channel, in groups of consecutive tokens; values per token, in groups of channels. A group of keys needs all its
tokens, so keys wait raw until `residual` of them are there and then leave together: between 0 and residual - 1 stay raw. Values need
only themselves: exactly the newest `residual` stay raw. Attention of a prompt sees exact keys and values.

Bytes of one layer and KV head with T slots, D channels, groups of g = `group` tokens or min(`group`, D) channels, 16-bit scale and low:
keys Tk * D * bits / 8 + Tk / group * D * 4 for the coded Tk = T // residual * residual, values Tv * D * bits / 8 + Tv * D / g * 4
for the coded Tv = max(0, T - residual), and the rest raw.
"""

from dataclasses import dataclass

from kvlab.cache import LayerKV
from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.coder import Coder
from kvlab.codecs.pack import packed_size
from kvlab.geometry import Geometry
from kvlab.method import knob


@dataclass(frozen=True)
class KIVI(Coder):
    """Keys in 2 or 4 bits per channel, values in 2 or 4 bits per token, the newest ones raw."""

    name = "kivi"
    title = "KIVI"
    paper = "Liu et al., arXiv 2402.02750"
    year = 2024
    encodes = ("k", "v")
    departs = (
        "Codes are packed along the channels, not along the tokens, so that single entries can leave a coded cache. A group of equal values is kept "
        "instead of dividing by zero. Heads narrower than a group make groups of their own width. Padding never enters a group."
    )

    bits: int = knob(4, "Bits of one coded key or value. The authors advise 4 for models with grouped queries; their tables are 2.", choices=(2, 4, 8))
    group: int = knob(32, "Tokens (keys) or channels (values) that share a scale and an offset.", choices=(8, 16, 32, 64, 128))
    residual: int = knob(32, "Newest tokens held raw: all for values, up to this many for keys. A multiple of the group; long-text tables use 128.", 8, 2048, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.residual % self.group:
            raise ValueError(f"kivi: residual is a multiple of the group ({self.group}), not {self.residual}.")

    def flush(self, layer: LayerKV) -> None:
        width = min(self.group, layer.cache.geometry.head_dim)
        keys = layer.store.raw_lens("k") // self.residual * self.residual
        layer.code("k", keys, lambda rows, lens: TokenGroups.of(rows, self.bits, self.group))
        values = (layer.store.raw_lens("v") - self.residual).clamp(min=0)
        layer.code("v", values, lambda rows, lens: ChannelGroups.of(rows, self.bits, width))

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size = geometry.head_dim
        # keys ever coded: their groups stay, if not all of their tokens. Where slots never sufficed for a block, raw ones left
        once = (first + later) // self.residual * self.residual if max(first, slots) >= self.residual else 0
        keys, values = max(0, slots - (first + later - once)), max(0, slots - self.residual)
        coded = (keys + values) * packed_size(size, self.bits)
        scales = 4 * size * (min(once / self.group, keys) + values / min(self.group, size))
        raw = (2 * slots - keys - values) * size * geometry.itemsize
        return geometry.kv_heads * (coded + scales + raw) + 4 * slots

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.head_dim % min(self.group, geometry.head_dim):
            return f"{geometry.family} has heads of {geometry.head_dim} channels, which groups of {self.group} do not divide. Choose another group."
        return super().refuses(geometry)
