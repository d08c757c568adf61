"""Linear symmetric quantization in two planes, one scale for each token: x ~ scale * (high * 16 + low), `low` unsigned and of 4 bits.

The high plane alone gives a coarse value, so a reader may fetch the low one only where it has to. The scale is held in 16 bits, and codes
are made with the rounded scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab.codecs.pack import pack, packed_size, unpack

LOW = 4
"""Bits of the low plane."""


@dataclass(frozen=True)
class Planes:
    """N rows of D values: high [N, bytes of D codes] uint8 (shifted to be unsigned), low [N, bytes of D codes] uint8, scale [N, 1] 16 bit.

    `bits_high` is 4 or 8. With `low` None the rows decode from the high plane alone, as low 0: a view for reading, not for holding.
    """

    high: Tensor
    low: Tensor | None
    scale: Tensor
    bits_high: int
    size: int
    dtype: torch.dtype

    @property
    def bits(self) -> float:
        return self.bits_high + LOW

    @classmethod
    def of(cls, rows: Tensor, bits_high: int) -> Planes:
        """From `rows` [N, D]."""
        held = rows.dtype if rows.element_size() == 2 else torch.float16
        limit = 2 ** (bits_high + LOW - 1) - 1
        scale = (rows.float().abs().amax(1, keepdim=True) / limit).to(held)
        step = torch.where(scale == 0, 1, scale.float())
        codes = (rows.float() / step).round().clamp(-limit - 1, limit).to(torch.int32)
        high = ((codes >> LOW) + 2 ** (bits_high - 1)).to(torch.uint8)
        return cls(pack(high, bits_high), pack((codes & (2**LOW - 1)).to(torch.uint8), LOW), scale, bits_high, rows.shape[1], rows.dtype)

    def coarse(self) -> Planes:
        """The same rows read from the high plane alone."""
        return replace(self, low=None)

    def decode(self) -> Tensor:
        codes = (unpack(self.high, self.bits_high, self.size).float() - 2 ** (self.bits_high - 1)) * 2**LOW
        if self.low is not None:
            codes = codes + unpack(self.low, LOW, self.size).float()
        return (codes * self.scale.float()).to(self.dtype)

    def keep(self, mask: Tensor) -> Planes:
        return replace(self, high=self.high[mask], low=self.low[mask], scale=self.scale[mask])

    def join(self, other: Planes, index: Tensor) -> Planes | None:
        if self.bits_high != other.bits_high:
            return None
        high, low, scale = (torch.cat(pair)[index] for pair in zip(self.tensors(), other.tensors(), strict=True))
        return replace(self, high=high, low=low, scale=scale)

    def tensors(self) -> list[Tensor]:
        return [self.high, self.low, self.scale]


def row_bytes(size: int, bits_high: int) -> int:
    """Bytes of one row of `size` values."""
    return packed_size(size, bits_high) + packed_size(size, LOW) + 2
