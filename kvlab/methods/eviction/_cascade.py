"""What methods share whose layers pass on fewer tokens or heads than they got: numbers by position, schedules, and a tally for all layers."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.codecs.planes import Planes
from kvlab.geometry import Geometry
from kvlab.store import Store


def by_position(x: Tensor, pos: Tensor, size: int) -> Tensor:
    """Sum over heads of the numbers `x` [B, H, T] float32 at the positions `pos` [B, H, T] (-1: none): [B, size]."""
    place = torch.where(pos >= 0, pos, size).long().flatten(1)
    return x.new_zeros(len(x), size + 1).scatter_add(1, place, x.flatten(1))[:, :size]


def unshortened(title: str, geometry: Geometry) -> str | None:
    """Why the text cannot get shorter between the layers of a model, or None."""
    if geometry.rope:
        return None
    return f"{title} shortens the text between layers, which kvlab does in families with rotary positions; {geometry.family} has none."


def tokens_left(count: int, tokens: int, layers: int, dense: float, slope: float) -> list[int]:
    """Tokens each layer keeps of `tokens`, falling, `count` on average: all in the `dense` first ones, then by equal steps.

    The last layer keeps `slope` times what the first of those keeps, or more where that one would keep all. As many dense layers as half of
    the budget pays for.
    """
    if count >= tokens or layers < 2:
        return [min(count, tokens)] * layers
    full = min(int(dense * layers), count * layers // (2 * tokens))
    rest = layers - full
    mean = (count * layers - full * tokens) / rest
    start = min(tokens, 2 * mean / (1 + slope)) if rest > 1 else mean
    return [tokens] * full + [max(1, round(start - 2 * (start - mean) * i / max(1, rest - 1))) for i in range(rest)]


def heads_left(heads: int, place: int, layers: int, end: float) -> int:
    """KV heads of the layer at `place`: all in the first 30 percent of the layers, then linearly down to the share `end`, at least one."""
    full = -(-3 * layers // 10)
    if place < full:
        return heads
    return max(1, round(heads * (1 - (1 - end) * (place - full + 1) / (layers - full))))


class Tally(Store):
    """The store of the first layer, which also holds `sums` [B, P] float32: for each position the attention it got in all layers so far."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor | None = None

    def add(self, got: Tensor, pos: Tensor, size: int) -> None:
        """Attention `got` [B, H, T] by the slots at `pos` [B, H, T]; `size` positions were seen so far."""
        old = got.new_zeros(len(got), 0) if self.sums is None else self.sums
        self.sums = by_position(got, pos, size) + F.pad(old, (0, size - old.shape[1]))

    def tensors(self) -> list[Tensor]:
        return super().tensors() + ([] if self.sums is None else [self.sums])


def coarse_keys(store: Store) -> Tensor:
    """Keys [B, H, T, D] by their high plane alone; those not coded yet as they are."""
    column = store.columns["k"].copy()
    column.parts = [replace(part, rows=part.rows.coarse()) if isinstance(part.rows, Planes) else part for part in column.parts]
    return column.dense()
