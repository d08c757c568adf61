"""Rows with channels taken out: what is gone is gone from memory, and reads as zero, which is what leaving it out of a dot product means."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """data [N, w]; channels [M, w] int16, the channels each of the M = B * H heads kept, ascending, held once for all of its rows.

    lens [M] int32: rows of each head, to find the head of a row; None when all have equally many. width: D, the full size of a head.
    """

    data: Tensor
    channels: Tensor
    lens: Tensor | None
    width: int

    @classmethod
    def of(cls, rows: Tensor, lens: Tensor, channels: Tensor) -> Channels:
        """From `rows` [N, D] packed by `lens` [B, H], keeping `channels` [M, w] int16 of each head."""
        lens = lens.flatten()
        owners = torch.arange(len(lens), device=lens.device).repeat_interleave(lens, output_size=len(rows))
        return cls(rows.gather(1, channels[owners].long()), channels, _uneven(lens), rows.shape[1])

    @property
    def bits(self) -> float:
        return 8 * self.data.element_size() * self.data.shape[1] / self.width

    def sizes(self) -> Tensor:
        """Rows of each head: [M] int64."""
        heads = len(self.channels)
        return self.data.new_full((heads,), len(self.data) // heads, dtype=torch.int64) if self.lens is None else self.lens.long()

    def owners(self) -> Tensor:
        """The head of each row: [N] int64."""
        return torch.arange(len(self.channels), device=self.data.device).repeat_interleave(self.sizes(), output_size=len(self.data))

    def decode(self) -> Tensor:
        return self.data.new_zeros(len(self.data), self.width).scatter_(1, self.channels[self.owners()].long(), self.data)

    def keep(self, mask: Tensor) -> Channels:
        left = torch.zeros_like(self.sizes()).index_add_(0, self.owners(), mask.long())
        return replace(self, data=self.data[mask], lens=_uneven(left))

    def join(self, other: Channels, index: Tensor) -> Channels | None:
        if not torch.equal(self.channels, other.channels):
            return None
        return replace(self, data=torch.cat([self.data, other.data])[index], lens=_uneven(self.sizes() + other.sizes()))

    def tensors(self) -> list[Tensor]:
        return [self.data, self.channels] + ([] if self.lens is None else [self.lens])


def _uneven(lens: Tensor) -> Tensor | None:
    return None if int(lens.min()) == int(lens.max()) else lens.to(torch.int32)
