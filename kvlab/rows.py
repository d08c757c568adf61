"""How the rows of one column (keys, values, positions, a score) are held: raw, or coded by a codec.

`Rows` is the contract a codec fulfils. Every instance is immutable: `keep` returns a new one. That makes a snapshot of a cache a copy
of a few lists, and a rollback free. Rows are packed: [N, ...], all (batch row, head) pairs end to end, in slot order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Rows(Protocol):
    """N rows of one column. `bits` is what one value costs without its share of scales and bases (for the pictures).

    A codec may also offer `join(other, index) -> Rows | None`: row i of the result is row index[i] of self's rows followed by other's,
    None when the two cannot be one. Then a column that encodes step by step stays one part. Like `keep`, it never decodes. And
    `body() -> list[Tensor]`, where more than the first of `tensors()` holds the rows themselves: the others are scales, maps and bases.
    """

    bits: float

    def decode(self) -> Tensor:
        """All rows as a plain tensor [N, ...] in the dtype of the model."""

    def keep(self, mask: Tensor) -> Rows:
        """The rows where `mask` [N] is true. Never decodes: codes are gathered."""

    def tensors(self) -> list[Tensor]:
        """Every tensor held: codes, scales, indices, bases. Their storages are the bytes reported."""


@dataclass(frozen=True)
class Raw:
    """Rows as they are: `data` [N, ...]."""

    data: Tensor

    @property
    def bits(self) -> float:
        return self.data.element_size() * 8

    def decode(self) -> Tensor:
        return self.data

    def keep(self, mask: Tensor) -> Raw:
        return Raw(self.data[mask])

    def tensors(self) -> list[Tensor]:
        return [self.data]


def body_of(rows: Rows) -> list[Tensor]:
    """Of the tensors of `rows` those that hold the rows themselves."""
    return rows.body() if hasattr(rows, "body") else rows.tensors()[:1]


def storage_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`. A slice that keeps a large buffer alive counts the whole buffer: it is held."""
    return sum({storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def storage_key(tensor: Tensor) -> tuple[int, torch.device]:
    """The same for tensors that lie in one storage."""
    return tensor.untyped_storage().data_ptr(), tensor.device


def ramp(lens: Tensor) -> tuple[Tensor, Tensor]:
    """For lengths [M]: the owner (0..M-1) and the rank inside its owner of each of the sum(lens) packed rows."""
    owner = torch.repeat_interleave(torch.arange(len(lens), device=lens.device), lens)
    starts = lens.cumsum(0) - lens
    return owner, torch.arange(len(owner), device=lens.device) - starts[owner]
