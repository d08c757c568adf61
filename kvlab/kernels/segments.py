"""What a kernel is given: a store cut into segments in which keys are held in one way and values in one way.

Keys and values of a column may be coded up to different slots (KIVI's are), and the newest slots are raw: each stretch between two such
borders is a segment of its own, and the residual window is the last one. A unit is one (batch row, head); the rows of unit u in `k` begin
at `k_rows` [U] int64, and it has `lens` [U] int32 of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.bitmap import Bitmap
from kvlab.codecs.each import Each
from kvlab.column import Part
from kvlab.rows import Raw, Rows
from kvlab.store import Store

KEYS = (Raw, Each, TokenGroups, Bitmap)
VALUES = (Raw, Each, ChannelGroups, Bitmap)
"""What the kernels read, and as what: of `Each`, eight-bit floats of the form e4m3."""
TILES = (16, 32, 64, 128)
"""Sizes a group of keys may have: it is one tile of the kernel."""


@dataclass(frozen=True)
class Segment:
    """`longest`: slots of the longest unit, or as many as a list names. `starts` [U] int32: the slot each unit's rows begin with.

    `pages` [L, n] int32 with `page` slots each: units are then lists of pages, L a multiple of U, and list i reads from unit i // (L / U); -1 fills up
    short lists. Pages count the slots of the whole store, so a page may lie in several segments.
    """

    k: Rows
    v: Rows
    k_rows: Tensor
    v_rows: Tensor
    lens: Tensor
    longest: int
    starts: Tensor
    pages: Tensor | None = None
    page: int = 0

    @classmethod
    def even(cls, k: Rows, v: Rows, units: int, length: int) -> Segment:
        """Every unit has all of its `length` rows, end to end."""
        rows = torch.arange(units, device=k.tensors()[0].device) * length
        lens = torch.full_like(rows, length, dtype=torch.int32)
        return cls(k, v, rows, rows, lens, length, torch.zeros_like(lens))

    @classmethod
    def ragged(cls, k: Rows, v: Rows, lens: Tensor) -> Segment:
        """`lens` [U] rows for each unit, end to end."""
        rows, lens = lens.cumsum(0) - lens, lens.to(torch.int32)
        return cls(k, v, rows, rows, lens, int(lens.max()), torch.zeros_like(lens))


def width(rows: Rows) -> int:
    """Channels of a row."""
    if isinstance(rows, TokenGroups):
        return rows.scale.shape[1]
    if isinstance(rows, ChannelGroups):
        return rows.scale.shape[1] * rows.group
    if isinstance(rows, Each):
        return rows.size
    return rows.width if isinstance(rows, Bitmap) else rows.data.shape[1]


def readable(k: Rows, v: Rows) -> bool:
    """Whether the kernels read this pair as it is held."""
    if not (isinstance(k, KEYS) and isinstance(v, VALUES)) or width(k) != width(v):
        return False
    if any(isinstance(rows, Each) and getattr(rows.codec, "form", None) != "e4m3" for rows in (k, v)):
        return False
    if isinstance(k, TokenGroups) and (k.counts is not None or k.group not in TILES):
        return False  # groups that lost some of their rows no longer lie on a grid
    return not isinstance(v, ChannelGroups) or v.scale.shape[1] == 1 or v.group & (v.group - 1) == 0


def segments(store: Store) -> list[Segment] | None:
    """All slots of `store`, in any order; None when some of them are held in a way the kernels do not read."""
    found = []
    for k, k_first in _starts(store.columns["k"].all_parts()):
        for v, v_first in _starts(store.columns["v"].all_parts()):
            alike = k.even is not None and v.even is not None and isinstance(k_first, int) and isinstance(v_first, int)
            piece = (_even if alike else _ragged)(k, k_first, v, v_first)
            if piece is None:
                continue
            if not readable(k.rows, v.rows):
                return None
            found.append(piece)
    return found


def _starts(parts: list[Part]) -> list[tuple[Part, int | Tensor]]:
    # the first slot of each part: a number as long as all units have equally many, so that nothing is read back from the device
    first, found = 0, []
    for part in parts:
        found.append((part, first))
        first = first + (part.even if part.even is not None else part.lens.flatten())
    return found


def _even(k: Part, k_first: int, v: Part, v_first: int) -> Segment | None:
    start, end = max(k_first, v_first), min(k_first + k.even, v_first + v.even)
    if end <= start:
        return None
    unit = torch.arange(k.lens.numel(), device=k.lens.device)
    lens = torch.full_like(unit, end - start, dtype=torch.int32)
    return Segment(k.rows, v.rows, unit * k.even + (start - k_first), unit * v.even + (start - v_first), lens, end - start, torch.full_like(lens, start))


def _ragged(k: Part, k_first: int | Tensor, v: Part, v_first: int | Tensor) -> Segment | None:
    k_lens, v_lens = k.lens.flatten(), v.lens.flatten()
    k_first, v_first = k_first + torch.zeros_like(k_lens), v_first + torch.zeros_like(v_lens)
    start = torch.maximum(k_first, v_first)
    lens = (torch.minimum(k_first + k_lens, v_first + v_lens) - start).clamp(min=0)
    longest = int(lens.max())
    if not longest:
        return None
    k_rows, v_rows = k_lens.cumsum(0) - k_lens + start - k_first, v_lens.cumsum(0) - v_lens + start - v_first
    return Segment(k.rows, v.rows, k_rows, v_rows, lens.to(torch.int32), longest, start.to(torch.int32))
