"""One column of a layer's slot table: closed parts (coded or packed), then one open part that new tokens join."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.rows import Raw, Rows, ramp

Encode = Callable[[Tensor, Tensor], Rows]
"""rows [N, D] packed, lengths [B, H] -> the coded rows. Groups never cross a (b, h) border if every length is a multiple of the group."""

PIECES = 32
"""Pieces of positions before they are made one tensor even if nobody looks: each costs some memory that no tensor shows."""


@dataclass(frozen=True)
class Part:
    """Closed slots of a column: packed rows and how many each (b, h) has. `even` is that number when all have the same."""

    rows: Rows
    lens: Tensor  # [B, H] int64
    even: int | None

    @classmethod
    def of(cls, rows: Rows, lens: Tensor) -> Part:
        low, high = int(lens.min()), int(lens.max())
        return cls(rows, lens, low if low == high else None)

    @functools.cached_property
    def counts(self) -> list[int]:
        """`lens`, flat, as numbers: read back from the device once."""
        return self.lens.flatten().tolist()

    @property
    def coded(self) -> bool:
        return not isinstance(self.rows, Raw)

    def dense(self) -> Tensor:
        """[B, H, max length, ...]; the places behind a short head's end are zero."""
        data = self.rows.decode()
        if self.even is not None:
            return data.view(*self.lens.shape, self.even, *data.shape[1:])
        out = data.new_zeros(self.lens.numel(), int(self.lens.max()), *data.shape[1:])
        out[ramp(self.lens.flatten())] = data
        return out.view(*self.lens.shape, *out.shape[1:])

    def keep(self, mask: Tensor) -> Part:
        """`mask` [B, H, max length]; places behind the end of a head are ignored."""
        owner, rank = ramp(self.lens.flatten())
        flat = mask.flatten(0, 1)[owner, rank]
        if bool(flat.all()):
            return self
        lens = torch.zeros_like(self.lens).flatten().index_add_(0, owner, flat.long()).view_as(self.lens)
        return Part.of(self.rows.keep(flat), lens)

    def join(self, later: Part) -> Part | None:
        """This part and `later` as one, each (b, h) with its own rows first; None when their codec does not join them."""
        if type(self.rows) is not type(later.rows) or not hasattr(self.rows, "join"):
            return None
        first, second = self.lens.flatten(), later.lens.flatten()
        starts = torch.stack([first.cumsum(0) - first, first.sum() + second.cumsum(0) - second], dim=1)
        owner, rank = ramp(torch.stack([first, second], dim=1).flatten())
        rows = self.rows.join(later.rows, starts.flatten()[owner] + rank)
        return None if rows is None else Part.of(rows, self.lens + later.lens)


class Column:
    """Slots 0..lens[b, h)-1 of every (b, h), first the closed `parts`, then the `open` one [B, H, n, ...] (None when empty)."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.open: Tensor | None = None

    def copy(self) -> Column:
        twin = Column()
        twin.parts, twin.open = list(self.parts), self.open
        return twin

    @property
    def heads(self) -> int:
        """H of a column that is not empty."""
        return self.parts[0].lens.shape[1] if self.parts else self.open.shape[1]

    def append(self, new: Tensor) -> None:
        """`new` [B, H, t, ...] joins the open part."""
        if self.open is None:
            # a view of a larger projection would keep that alive: own the bytes
            self.open = new.clone(memory_format=torch.contiguous_format)
        else:
            self.open = torch.cat([self.open, new], dim=2)

    def dense(self) -> Tensor:
        """[B, H, T, ...] with every (b, h) filled from slot 0; behind the end of a short one there are zeros."""
        if not self.parts:
            return self.open
        if all(part.even is not None for part in self.parts):
            blocks = [part.dense() for part in self.parts]
            return torch.cat(blocks + ([self.open] if self.open is not None else []), dim=2) if len(blocks) > 1 or self.open is not None else blocks[0]
        return self._ragged()

    def _ragged(self) -> Tensor:
        lens = self.lens()
        blocks = [(part.lens.flatten(), part.rows.decode()) for part in self.all_parts()]
        sample = blocks[0][1]
        out = sample.new_zeros(lens.numel(), int(lens.max()), *sample.shape[1:])
        start = torch.zeros_like(lens.flatten())
        for part_lens, rows in blocks:
            owner, rank = ramp(part_lens)
            out[owner, start[owner] + rank] = rows
            start = start + part_lens
        return out.view(*lens.shape, *out.shape[1:])

    def all_parts(self) -> list[Part]:
        if self.open is None:
            return self.parts
        b, h, n = self.open.shape[:3]
        lens = torch.full((b, h), n, device=self.open.device)
        return [*self.parts, Part(Raw(self.open.flatten(0, 2)), lens, n)]

    def lens(self) -> Tensor:
        return torch.stack([part.lens for part in self.all_parts()]).sum(0)

    def raw_lens(self) -> Tensor:
        """How many raw slots trail the coded ones: [B, H] int64."""
        parts = self.all_parts()
        return torch.stack([torch.zeros_like(part.lens) if part.coded else part.lens for part in parts]).sum(0)

    def raw_run(self) -> tuple[list[Part], Tensor | None, Tensor]:
        """The coded parts, the trailing raw slots as a padded block [B, H, n, ...] (None if there are none), and their lengths."""
        coded = [part for part in self.parts if part.coded]
        tail = Column()
        tail.parts, tail.open = [part for part in self.parts if not part.coded], self.open
        if not tail.all_parts():
            return coded, None, torch.zeros_like(self.parts[0].lens)
        return coded, tail.dense(), tail.lens()

    def keep(self, mask: Tensor) -> None:
        """Drop the slots where `mask` [B, H, T] is false. Kept rows stay in slot order, which is position order."""
        if not self.parts:
            raw, self.open = self.open, None
            return self.hold(raw, mask)
        coded, raw, raw_lens = self.raw_run()
        kept, start = [], torch.zeros_like(raw_lens)
        slot = torch.arange(mask.shape[-1], device=mask.device)
        for part in coded:
            width = int(part.lens.max())
            index = (start[..., None] + slot[:width]).clamp(max=mask.shape[-1] - 1)
            part_mask = mask.gather(2, index) & (slot[:width] < part.lens[..., None])
            start = start + part.lens
            left = part.keep(part_mask)
            if left.even != 0:
                kept.append(left)
        self.parts, self.open = kept, None
        if raw is None:
            return
        index = (start[..., None] + slot[: raw.shape[2]]).clamp(max=mask.shape[-1] - 1)
        self.hold(raw, mask.gather(2, index) & (slot[: raw.shape[2]] < raw_lens[..., None]))

    def hold(self, raw: Tensor, mask: Tensor) -> None:
        """Put raw[mask] back: open when all (b, h) have equally many, packed and closed otherwise."""
        rows = raw.flatten(0, 2).index_select(0, mask.flatten().nonzero()[:, 0])  # raw[mask], but whole rows are copied
        part = Part.of(Raw(rows), mask.sum(-1))
        if part.even is None:
            self.parts.append(part)
        elif part.even > 0:
            self.open = part.dense()

    def code(self, count: Tensor, encode: Encode) -> None:
        """Encode the oldest `count` [B, H] raw slots of every (b, h); the rest stays raw."""
        coded, raw, raw_lens = self.raw_run()
        slot = torch.arange(raw.shape[2], device=raw.device)
        old = slot < count[..., None]
        self.parts, self.open = coded, None
        self._close(Part.of(encode(raw[old], count), count))
        self.hold(raw, ~old & (slot < raw_lens[..., None]))

    def _close(self, part: Part) -> None:
        # one long part instead of one for every step: reading stays as fast as it was
        joined = self.parts[-1].join(part) if self.parts else None
        self.parts = [*self.parts[:-1], joined] if joined else [*self.parts, part]

    def tensors(self) -> list[Tensor]:
        closed = [tensor for part in self.parts for tensor in part.rows.tensors()]
        ragged = [part.lens for part in self.parts if part.even is None]
        return closed + ragged + ([self.open] if self.open is not None else [])


class Joined:
    """Positions [B, 1 or H, t] end to end, made one tensor when somebody looks. The first piece says for how many heads."""

    def __init__(self, pieces: list[Tensor]) -> None:
        self.pieces = pieces

    def whole(self) -> Tensor:
        """[B, 1 or H, n], the same tensor each time."""
        if len(self.pieces) > 1:
            heads = self.pieces[0].shape[1]
            self.pieces = [torch.cat([piece.expand(-1, heads, -1) for piece in self.pieces], dim=2)]
        return self.pieces[0]


class Places(Column):
    """The column of positions: new ones [B, 1, t] join the open part when somebody looks, and most decode steps never do."""

    @property
    def open(self) -> Tensor | None:  # type: ignore[override]
        return None if self.tail is None else self.tail.whole()

    @open.setter
    def open(self, whole: Tensor | None) -> None:
        self.tail = None if whole is None else Joined([whole])

    def copy(self) -> Places:
        twin = Places()
        twin.parts, twin.tail = list(self.parts), self.tail
        return twin

    def append(self, new: Tensor) -> None:
        if self.tail is None:
            return super().append(new.expand(-1, self.heads, -1) if self.parts else new)
        if len(self.tail.pieces) == PIECES:
            self.tail.whole()
        self.tail = Joined([*self.tail.pieces, new])  # a view or a copy may hold the old one
