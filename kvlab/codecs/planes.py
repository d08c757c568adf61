"""Linear symmetric quantization in two planes, one scale for each token: x ~ scale * (high * 16 + low), `low` unsigned and of 4 bits.

The high plane alone gives a coarse value, so a reader may fetch the low one only where it has to. The scale is held in 16 bits times the
power of two that makes it about the largest magnitude of its token: as it is it would fall below float16's range for 14 or 16 bits. Codes
are made with the rounded scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab.codecs import stream
from kvlab.codecs.pack import pack, packed_size, unpack

LOW = 4
"""Bits of the low plane."""


@dataclass(frozen=True)
class Planes:
    """N rows of D values: high [N, bytes of D codes] uint8 (shifted to be unsigned), low [N, bytes of D codes] uint8, span [N, 1] 16 bit.

    `bits_high` is 1 to 12. With `low` None the rows decode from the high plane alone, as low 0: a view for reading, not for holding.
    """

    high: Tensor
    low: Tensor | None
    span: Tensor
    bits_high: int
    size: int
    dtype: torch.dtype

    @property
    def bits(self) -> int:
        return self.bits_high + LOW

    @classmethod
    def of(cls, rows: Tensor, bits_high: int) -> Planes:
        """From `rows` [N, D]."""
        held = rows.dtype if rows.element_size() == 2 else torch.float16
        whole = 2 ** (bits_high + LOW - 1)
        span = (rows.float().abs().amax(1, keepdim=True) / (whole - 1) * whole).to(held)
        step = torch.where(span == 0, 1, span.float() / whole)
        codes = (rows.float() / step).round().clamp(-whole, whole - 1).to(torch.int32)
        high = (codes >> LOW) + 2 ** (bits_high - 1)
        return cls(stream.pack(high, bits_high), pack((codes & (2**LOW - 1)).to(torch.uint8), LOW), span, bits_high, rows.shape[1], rows.dtype)

    @property
    def scale(self) -> Tensor:
        """[N, 1] float32."""
        return self.span.float() / 2 ** (self.bits - 1)

    def coarse(self) -> Planes:
        """The same rows read from the high plane alone."""
        return replace(self, low=None)

    def decode(self) -> Tensor:
        codes = (stream.unpack(self.high, self.bits_high, self.size).float() - 2 ** (self.bits_high - 1)) * 2**LOW
        if self.low is not None:
            codes = codes + unpack(self.low, LOW, self.size).float()
        return (codes * self.scale).to(self.dtype)

    def keep(self, mask: Tensor) -> Planes:
        return replace(self, high=self.high[mask], low=self.low[mask], span=self.span[mask])

    def join(self, other: Planes, index: Tensor) -> Planes | None:
        if self.bits_high != other.bits_high:
            return None
        high, low, span = (torch.cat(pair)[index] for pair in zip(self.tensors(), other.tensors(), strict=True))
        return replace(self, high=high, low=low, span=span)

    def tensors(self) -> list[Tensor]:
        return [self.high, self.low, self.span]

    def body(self) -> list[Tensor]:
        return [self.high, self.low]


def row_bytes(size: int, bits_high: int) -> int:
    """Bytes of one row of `size` values."""
    return packed_size(size, bits_high) + packed_size(size, LOW) + 2
