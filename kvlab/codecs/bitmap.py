"""Sparse rows: the kept values of each row end to end, and one bit per value that says where they belong.

Every row keeps equally many values, so its place in the packed values follows from its number and no offsets are held.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs.pack import pack, unpack


def largest(rows: Tensor, count: int) -> Tensor:
    """Mask [N, D] of the `count` largest magnitudes of each row; among equal ones the lower channel stays."""
    order = rows.abs().argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :count], True)


@dataclass(frozen=True)
class Bitmap:
    """values [N, n] in the model's dtype, in channel order; bitmap [N, ceil(D / 8)] uint8, channel c at bit c % 8 of byte c // 8."""

    values: Tensor
    bitmap: Tensor
    width: int

    @classmethod
    def of(cls, rows: Tensor, mask: Tensor) -> Bitmap:
        """The values of `rows` [N, D] where `mask` is true; every row of the mask must hold equally many."""
        kept = mask.sum(1)
        if len(kept) and int(kept.min()) != int(kept.max()):
            raise ValueError("Every row of a bitmap keeps equally many values.")
        return cls(rows[mask].view(len(rows), -1), pack(mask.to(torch.uint8), 1), rows.shape[1])

    @property
    def bits(self) -> float:
        return 8 * (self.values.element_size() * self.values.shape[1] + self.bitmap.shape[1]) / self.width

    def decode(self) -> Tensor:
        out = self.values.new_zeros(len(self.values), self.width)
        out[unpack(self.bitmap, 1, self.width).bool()] = self.values.flatten()
        return out

    def keep(self, mask: Tensor) -> Bitmap:
        return Bitmap(self.values[mask], self.bitmap[mask], self.width)

    def join(self, other: Bitmap, index: Tensor) -> Bitmap | None:
        if self.values.shape[1] != other.values.shape[1]:
            return None
        return Bitmap(torch.cat([self.values, other.values])[index], torch.cat([self.bitmap, other.bitmap])[index], self.width)

    def tensors(self) -> list[Tensor]:
        return [self.values, self.bitmap]
