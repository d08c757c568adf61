"""ResQ, the part that touches the cache (2024, arXiv 2412.14363). Card: methods/quantization.md, from the authors' code.

On calibration text the directions of most variance are found: for keys (after RoPE) one basis per layer, for values one per KV head. The
`share` directions of most variance are held in `high` bits, the others in `low`; inside each part a random turn spreads what is left
unequal. Each part of each token has a scale and a rounded zero point.

Bytes per token, KV head and tensor of D channels, r = floor(share * D): (D - r) * low / 8 + r * high / 8 + 8. The bases, [L, D, D] for keys
and [L, H, D, D] for values, are shared by all runs and lie outside the cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs import stream
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.pack import packed_size
from kvlab.codecs.rotate import orthogonal
from kvlab.codecs.tokens import per_head
from kvlab.codecs.tokenwise import Tokenwise
from kvlab.codecs.uniform import integer_zero
from kvlab.method import knob
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM


def basis(rows: Tensor, high: int) -> Tensor:
    """Orthogonal [..., D, D] for `rows` [..., N, D]: the last `high` columns span the directions of most energy, turned at random inside each part."""
    x = rows.double()
    moment = x.mT @ x / x.shape[-2]
    size = moment.shape[-1]
    damp = 0.01 * moment.diagonal(dim1=-2, dim2=-1).mean(-1)
    axes = torch.linalg.eigh(moment + damp[..., None, None] * torch.eye(size, dtype=x.dtype, device=x.device))[1]
    mix = torch.block_diag(*(orthogonal(n, 0) for n in (size - high, high) if n)).to(axes)
    return (axes @ mix).float()


@dataclass(frozen=True)
class Parts(Learned):
    """Coordinates in the layer's basis for `column`: the last `share` in `high` bits, the others in `low`."""

    low: int
    high: int
    share: float
    column: str
    layer: LayerKV | None
    headed = True
    carries = (0, 3)

    @property
    def bits(self) -> float:
        return self.low + self.share * (self.high - self.low)

    def bases(self, device: torch.device) -> Tensor:
        known = self.known(f"resq {self.column}", device)
        return known[None] if known.dim() == 2 else known

    def cut(self, size: int) -> int:
        """Coordinates in `low` bits."""
        return size - int(self.share * size)

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        turned, cut = per_head(rows, owner, self.bases(rows.device)), self.cut(rows.shape[1])
        parts = [(turned[:, :cut], self.low), (turned[:, cut:], self.high)]
        made = [(stream.pack(codes, bits), scale, zero) for x, bits in parts if x.shape[1] for codes, scale, zero in [integer_zero(x, bits, held)]]
        return tuple(tensor for part in made for tensor in part)

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        cut, parts = self.cut(size), []
        for at, (count, bits) in enumerate((n, b) for n, b in ((cut, self.low), (size - cut, self.high)) if n):
            codes, scale, zero = held[3 * at : 3 * at + 3]
            parts.append((stream.unpack(codes, bits, count).float() - zero.float()) * scale.float())
        return per_head(torch.cat(parts, dim=1), owner, self.bases(held[0].device).mT)

    def row_bytes(self, size: int, item: int) -> int:
        cut = self.cut(size)
        return sum(packed_size(n, bits) + 4 for n, bits in ((cut, self.low), (size - cut, self.high)) if n)


@dataclass(frozen=True)
class ResQ(Tokenwise):
    """The directions that vary most get more bits than the others."""

    name = "resq"
    title = "ResQ"
    paper = "Saxena et al., arXiv 2412.14363"
    year = 2024
    needs = ("calibration",)
    learns = ("share", "passages", "length")
    departs = (
        "Only what touches the cache. Queries are not quantized, nor is the basis. The range of keys is not widened to hold 0. Attention over a prompt sees "
        "exact keys and values. Calibration reads less text."
    )

    low: int = knob(4, "Bits of the other directions.", choices=(2, 3, 4, 8))
    high: int = knob(8, "Bits of the directions of most variance.", choices=(2, 3, 4, 5, 6, 8))
    share: float = knob(0.125, "Share of the directions that get the higher bits.", 0, 1, 0.0625)
    passages: int = knob(16, "Calibration passages.", 1, 512, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        return {column: Parts(self.low, self.high, self.share, column, layer) for column in "kv"}

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"resq k": [L, D, D], "resq v": [L, H, D, D]} float32."""
        found, high = captured(lm, self.passages, self.length), int(self.share * lm.geometry.head_dim)
        keys, values = [basis(x.k.flatten(0, 1), high) for x in found], [basis(x.v.transpose(0, 1), high) for x in found]
        return {"resq k": torch.stack(keys).cpu(), "resq v": torch.stack(values).cpu()}
