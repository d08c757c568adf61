"""Codecs of one row at a time, for `kvlab.codecs.each`: min-max groups along the channels, and a rotation around any codec."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs import stream
from kvlab.codecs.affine import quantize
from kvlab.codecs.each import Codec
from kvlab.codecs.pack import packed_size
from kvlab.codecs.rotate import hadamard
from kvlab.codecs.uniform import integer_zero


def groups_of(size: int, group: int) -> int:
    """Channels that share a scale in heads of `size`: `group`, or all where a head is narrower."""
    return min(group, size)


def per_head(rows: Tensor, owner: Tensor, matrices: Tensor) -> Tensor:
    """Each row of `rows` [N, D] times the matrix of its head: `owner` [N] counts through `matrices` [H, D, D] again for every text."""
    head, out = owner % len(matrices), torch.empty_like(rows)
    for h, matrix in enumerate(matrices):
        out[head == h] = rows[head == h] @ matrix
    return out


@dataclass(frozen=True)
class MinMax(Codec):
    """Even steps in groups of `group` channels (at most a head). `zero`: "float" holds the lowest value, "integer" a rounded zero point."""

    bits: int
    group: int
    zero: str = "float"
    clip: float = 1.0

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        width = groups_of(rows.shape[1], self.group)
        grouped = rows.unflatten(1, (rows.shape[1] // width, width))
        if self.zero == "float":
            codes, scale, low = quantize(grouped, 2, self.bits, held)
        else:
            codes, scale, low = integer_zero(grouped, self.bits, held, self.clip)
        return stream.pack(codes.flatten(1), self.bits), scale[..., 0], low[..., 0]

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        codes, scale, low = stream.unpack(held[0], self.bits, size).float(), held[1].float()[..., None], held[2].float()[..., None]
        codes = codes.unflatten(1, (held[1].shape[1], -1))
        return (codes * scale + low if self.zero == "float" else (codes - low) * scale).flatten(1)

    def row_bytes(self, size: int, item: int) -> int:
        return packed_size(size, self.bits) + 4 * (size // groups_of(size, self.group))


@dataclass(frozen=True)
class Rotated(Codec):
    """A codec of rows that were turned by the Walsh-Hadamard matrix of a head first. Reading turns them back."""

    inner: Codec

    @property
    def bits(self) -> float:
        return self.inner.bits

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.inner.encode(hadamard(rows), held, owner, tables)

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        return hadamard(self.inner.decode(held, size, owner, tables))

    def row_bytes(self, size: int, item: int) -> int:
        return self.inner.row_bytes(size, item)
