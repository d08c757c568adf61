"""TurboQuant (2025, arXiv 2504.19874). Card: methods/quantization.md, from the abstract and a community implementation.

A random turn makes the coordinates of any vector of length 1 nearly normal numbers of variance 1 / D, so the levels that are best for
these are best for every vector: no range is looked for and nothing is calibrated. Held are the vector's length (16 bits) and the codes.
The product form gives keys one bit less and spends it on the signs of random projections of what is left over, with its length: then
the estimate of every inner product is right on average.

Bytes per token, KV head and tensor of D channels: D * bits / 8 + 2, in the product form D * (bits - 1) / 8 + D / 8 + 4.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs import stream
from kvlab.codecs.codebook import bucket, normal_levels
from kvlab.codecs.each import Codec
from kvlab.codecs.pack import packed_size
from kvlab.codecs.rotate import gaussian, orthogonal
from kvlab.codecs.tokenwise import Tokenwise
from kvlab.method import knob


@dataclass(frozen=True)
class Turbo(Codec):
    """Length and levels of a turned vector."""

    bits: int
    seed: int

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        size = rows.shape[1]
        length = rows.norm(dim=1, keepdim=True).to(held)
        turned = rows @ orthogonal(size, self.seed).to(rows.device) / torch.where(length == 0, 1, length.float()) * size**0.5
        return stream.pack(bucket(turned, normal_levels(self.bits).to(rows.device)), self.bits), length

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        turned = normal_levels(self.bits).to(held[0].device)[stream.unpack(held[0], self.bits, size)]
        return held[1].float() * size**-0.5 * (turned @ orthogonal(size, self.seed).to(turned.device).T)

    def row_bytes(self, size: int, item: int) -> int:
        return packed_size(size, self.bits) + 2


@dataclass(frozen=True)
class Product(Codec):
    """`inner`, and of what it leaves over the length and the signs of Gaussian projections: unbiased for inner products."""

    inner: Turbo
    carries = (0, 2)

    @property
    def bits(self) -> int:
        return self.inner.bits + 1

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        coarse = self.inner.encode(rows, held, owner, tables)
        rest = rows - self.inner.decode(coarse, rows.shape[1], owner, tables)
        signs = rest @ gaussian(rows.shape[1], self.inner.seed + 1).to(rows.device).T >= 0
        return *coarse, stream.pack(signs, 1), rest.norm(dim=1, keepdim=True).to(held)

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        signs = stream.unpack(held[2], 1, size).float() * 2 - 1
        rest = signs @ gaussian(size, self.inner.seed + 1).to(signs.device)
        return self.inner.decode(held[:2], size, owner, tables) + held[3].float() * math.sqrt(math.pi / 2) / size * rest

    def row_bytes(self, size: int, item: int) -> int:
        return self.inner.row_bytes(size, item) + packed_size(size, 1) + 2


@dataclass(frozen=True)
class TurboQuant(Tokenwise):
    """A random rotation, then fixed levels that are best for whatever comes out of it."""

    name = "turboquant"
    title = "TurboQuant"
    paper = "Zandieh et al., arXiv 2504.19874"
    year = 2025
    source = "mixed"
    departs = (
        "All channels get the same bits; the paper's fractional bits split off outlier channels. Levels are those for normal numbers, which the coordinates "
        "of a turned unit vector only come close to in narrow heads."
    )

    k_bits: int = knob(4, "Bits of one key value.", choices=(2, 3, 4, 5, 6, 8))
    v_bits: int = knob(3, "Bits of one value value.", choices=(1, 2, 3, 4, 5, 6, 8))
    product: bool = knob(False, "Keys in the product form: one bit for the signs of what the others leave over.")
    seed: int = knob(0, "Seed of the rotation.", 0, 1_000_000, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        keys = Product(Turbo(self.k_bits - 1, self.seed)) if self.product else Turbo(self.k_bits, self.seed)
        return {"k": keys, "v": Turbo(self.v_bits, self.seed)}
