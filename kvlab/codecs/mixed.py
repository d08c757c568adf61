"""Two kinds of rows among each other, and one bit per row that says which it is: protected tokens, salient ones, mixed precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs.pack import pack, unpack
from kvlab.rows import Rows, body_of


@dataclass(frozen=True)
class Mixed:
    """`first` and `second` hold their rows in order; `packed` [ceil(N / 8)] uint8, row i at bit i % 8 of byte i // 8: 1 where it is one of `first`."""

    first: Rows
    second: Rows
    packed: Tensor
    count: int

    @classmethod
    def of(cls, which: Tensor, first: Rows, second: Rows) -> Mixed:
        """`which` [N] bool: the rows that `first` holds."""
        return cls(first, second, pack(which.to(torch.uint8), 1), len(which))

    @property
    def bits(self) -> float:
        share = float(self.which().float().mean()) if self.count else 0.0
        return share * self.first.bits + (1 - share) * self.second.bits

    def which(self) -> Tensor:
        """Rows that `first` holds: [N] bool."""
        return unpack(self.packed, 1, self.count).bool()

    def decode(self) -> Tensor:
        which, rows = self.which(), self.second.decode()
        out = rows.new_empty(self.count, *rows.shape[1:])
        out[which], out[~which] = self.first.decode(), rows
        return out

    def keep(self, mask: Tensor) -> Mixed:
        which = self.which()
        return Mixed.of(which[mask], self.first.keep(mask[which]), self.second.keep(mask[~which]))

    def join(self, other: Mixed, index: Tensor) -> Mixed | None:
        which = torch.cat([self.which(), other.which()])
        # the place of each row among those of its own kind, self's before other's
        place = torch.where(which, which.long().cumsum(0), (~which).long().cumsum(0))[index] - 1
        which = which[index]
        first = self.first.join(other.first, place[which])
        second = self.second.join(other.second, place[~which])
        return None if first is None or second is None else Mixed.of(which, first, second)

    def tensors(self) -> list[Tensor]:
        return [*self.first.tensors(), *self.second.tensors(), self.packed]

    def body(self) -> list[Tensor]:
        return body_of(self.first) + body_of(self.second)


def split_lens(which: Tensor, lens: Tensor) -> Tensor:
    """How many rows of each (b, h) are in `which` [N]: `lens` [B, H] of all rows -> [B, H]."""
    owner = torch.arange(lens.numel(), device=lens.device).repeat_interleave(lens.flatten(), output_size=len(which))
    return torch.zeros_like(lens.flatten()).index_add_(0, owner, which.long()).view_as(lens)
