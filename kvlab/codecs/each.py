"""Rows coded one by one: whatever a codec makes of a row leaves with it, so that single tokens can go.

A codec is a frozen dataclass without tensors of its own. What it needs beside the rows comes from a seed, from the calibration of the
model (shared by all runs, so not part of a cache's bytes), or from `tables` held once for each head of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kvlab.cache import LayerKV


class Codec:
    """Base: one row at a time. `bits`: of one value, without scales."""

    headed: ClassVar[bool] = False  # it must know the head of a row
    joint: ClassVar[bool] = False  # a row is a token's heads side by side (`kvlab.codecs.joint`)
    carries: ClassVar[tuple[int, ...]] = (0,)  # which of what `encode` makes are the values themselves, and no scales
    bits: float

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """`rows` [N, D] float32 -> tensors [N, ...]; scales go into `held`, 16 bits. `owner` [N]: the head, of B * H; `tables`: see `Each`."""
        raise NotImplementedError

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        """[N, D = `size`] float32 again."""
        raise NotImplementedError

    def row_bytes(self, size: int, item: int) -> int:
        """Bytes of one row of `size` values, `item` bytes each in the model."""
        raise NotImplementedError


class Learned(Codec):
    """A codec that needs what calibration found for its layer; `layer` is None for the byte formula, which needs none of it."""

    layer: LayerKV | None

    def known(self, name: str, device: torch.device) -> Tensor:
        """What the artefact holds for the layer under `name`."""
        return self.layer.cache.artefact[name][self.layer.index].to(device)


def half(dtype: torch.dtype) -> torch.dtype:
    """What scales are held in under a model of `dtype`: its own 16 bits, or float16."""
    return dtype if dtype.itemsize == 2 else torch.float16


@dataclass(frozen=True)
class Each:
    """held: tensors [N, ...]; tables: tensors [B * H, ...], held once for each head; lens [B * H] int32, None when even or of no use."""

    held: tuple[Tensor, ...]
    tables: tuple[Tensor, ...]
    lens: Tensor | None
    codec: Codec
    size: int
    heads: int
    dtype: torch.dtype

    @classmethod
    def of(cls, rows: Tensor, lens: Tensor, codec: Codec, dtype: torch.dtype, tables: tuple[Tensor, ...] = ()) -> Each:
        """From `rows` [N, D] packed by `lens` [B, H]; `dtype` is what they decode to."""
        lens = lens.flatten()
        owner = torch.arange(len(lens), device=lens.device).repeat_interleave(lens, output_size=len(rows)) if codec.headed else None
        held = codec.encode(rows.float(), half(dtype), owner, tables)
        return cls(held, tables, _uneven(lens, codec), codec, rows.shape[1], len(lens), dtype)

    @property
    def bits(self) -> float:
        return self.codec.bits

    def sizes(self) -> Tensor:
        """Rows of each head: [B * H] int64."""
        rows = self.held[0]
        return rows.new_full((self.heads,), len(rows) // self.heads, dtype=torch.int64) if self.lens is None else self.lens.long()

    def owner(self) -> Tensor | None:
        """The head of each row [N], where the codec asks for it."""
        if not self.codec.headed:
            return None
        return torch.arange(self.heads, device=self.held[0].device).repeat_interleave(self.sizes(), output_size=len(self.held[0]))

    def decode(self) -> Tensor:
        return self.codec.decode(self.held, self.size, self.owner(), self.tables).to(self.dtype)

    def keep(self, mask: Tensor) -> Each:
        held, lens = tuple(x[mask] for x in self.held), None
        if self.codec.headed:
            lens = _uneven(torch.zeros_like(self.sizes()).index_add_(0, self.owner(), mask.long()), self.codec)
        return replace(self, held=held, lens=lens)

    def join(self, other: Each, index: Tensor) -> Each | None:
        alike = all(torch.equal(a, b) for a, b in zip(self.tables, other.tables, strict=True))
        if self.codec != other.codec or not alike:
            return None
        held = tuple(torch.cat(pair)[index] for pair in zip(self.held, other.held, strict=True))
        return replace(self, held=held, lens=_uneven(self.sizes() + other.sizes(), self.codec) if self.codec.headed else None)

    def tensors(self) -> list[Tensor]:
        return [*self.held, *self.tables, *([] if self.lens is None else [self.lens])]

    def body(self) -> list[Tensor]:
        return [self.held[i] for i in self.codec.carries if i < len(self.held)]


def _uneven(lens: Tensor, codec: Codec) -> Tensor | None:
    return lens.to(torch.int32) if codec.headed and int(lens.min()) != int(lens.max()) else None


@dataclass(frozen=True)
class Whole(Codec):
    """Rows as they are, closed: what a method protects among what it codes."""

    itemsize: int

    @property
    def bits(self) -> float:
        return 8 * self.itemsize

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (rows if self.itemsize == 4 else rows.to(held),)

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        return held[0].float()

    def row_bytes(self, size: int, item: int) -> int:
        return size * item
