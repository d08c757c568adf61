"""What one layer really holds: a table of slots with the columns k, v, pos and whatever a method tags them with.

All columns drop together (`keep`) and may be held in different ways (`code`): keys in groups of tokens, values token by token, as each
method has it. Heads may end with different numbers of slots; then rows are packed and padded only to attend.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kvlab.column import Column, Encode, Joined, Places
from kvlab.rows import storage_bytes


class Extra(NamedTuple):
    """R entries that are no slots, in the same softmax: `logits` gives theirs for queries, [B, Hq, t, D] -> [B, Hq, t, R] float32; `v` [B, H, R, D]."""

    logits: Callable[[Tensor], Tensor]
    v: Tensor


class View(NamedTuple):
    """Slots offered to attention. `k` and `v` [B, H, T, D], `places`: their positions, maybe not put together before `pos` is asked for.

    `holes` is false when no slot is a hole, so that a single query needs no mask. A `read` hook may return a view with Hq heads: then
    every query head looks at slots of its own. `bias` [B, H, T] float32 is added to the slots' logits; `extra` joins their softmax.
    """

    k: Tensor
    v: Tensor
    places: Tensor | Joined
    holes: bool
    touched: int | None = None  # bytes read to attend; None: all that the store holds
    bias: Tensor | None = None
    extra: Extra | None = None

    @property
    def pos(self) -> Tensor:
        """True positions [B, 1 or H, T] int32, -1 for a hole."""
        return self.places if isinstance(self.places, Tensor) else self.places.whole()


class Pages(NamedTuple):
    """Slots named instead of handed out, in pages of `size`: what a `read` hook may return in place of a view of a part.

    `lists` [B, H or Hq, n] int32: the pages of each KV head or of each query head, -1 behind the end of a short list. `view` gathers their
    slots, for attention in torch and for whoever looks at them.
    """

    lists: Tensor
    size: int
    view: Callable[[], View]


class Store:
    """The slots of one layer. Knows nothing of attention, budgets or models."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {"k": Column(), "v": Column(), "pos": Places()}
        self.padded = False

    def __len__(self) -> int:
        """Slots of the longest (b, h)."""
        pos = self.columns["pos"]
        if not pos.parts:
            return 0 if pos.tail is None else pos.open.shape[2]
        return int(pos.lens().max())

    @property
    def empty(self) -> bool:
        pos = self.columns["pos"]
        return pos.tail is None and not pos.parts

    def snapshot(self) -> Store:
        """A second store over the same immutable tensors: appending to one never shows in the other."""
        twin = copy.copy(self)  # a method's own kind of store keeps its class and its numbers
        twin.columns = {name: column.copy() for name, column in self.columns.items()}
        return twin

    def append(self, k: Tensor, v: Tensor, pos: Tensor, padded: bool = False) -> None:
        """`k`, `v` [B, H, t, D] join at the end, with positions `pos` [B, t] int32 (-1 where padding, then `padded` is true)."""
        self.padded |= padded
        for name, column in self.columns.items():
            if name == "pos":
                column.append(pos[:, None])
            else:
                column.append(k if name == "k" else v if name == "v" else self.fresh(name, k))

    def fresh(self, name: str, k: Tensor) -> Tensor:
        """What new slots with keys `k` [B, H, t, D] hold in a column of another name: [B, H, t, ...]. A tag starts at zero."""
        return k.new_zeros(*k.shape[:3], dtype=torch.float32)

    def lens(self) -> Tensor:
        """Slots held by each (b, h), holes of padding included: [B, H] int64."""
        return self.columns["k"].lens()

    def pos(self) -> Tensor:
        """True positions [B, 1 or H, T] int32, -1 behind the end of a short head."""
        column = self.columns["pos"]
        pos = column.dense()
        if not self.even:
            slot = torch.arange(pos.shape[2], device=pos.device)
            pos = torch.where(slot < column.lens()[..., None], pos, -1)
        return pos

    @property
    def even(self) -> bool:
        """Whether every (b, h) holds equally many slots."""
        parts = self.columns["pos"].parts
        return not parts or all(part.even is not None for part in parts)

    def view(self) -> View:
        """All slots, decoded. Raw even stores hand out their own tensors; anything else is a transient copy. A tag named "bias" weighs them."""
        bias = self.columns["bias"].dense() if "bias" in self.columns else None
        places = self.columns["pos"]
        return View(self.columns["k"].dense(), self.columns["v"].dense(), self.pos() if places.parts else places.tail, self.padded or not self.even, bias=bias)

    def valid(self) -> Tensor:
        """[B, H, T] bool: slots that hold a token (no padding, no hole)."""
        return (self.pos() >= 0).expand(-1, self.columns["k"].heads, -1)

    def keep(self, mask: Tensor) -> None:
        """Drop every slot where `mask` [B, H, T] is false, in all columns. Holes always leave."""
        mask = mask & self.valid()
        shared = self.columns["pos"].heads == 1
        alike = shared and bool((mask == mask[:, :1]).all())
        if shared and not alike:  # from one list of positions for all heads to one for each
            pos = self.columns["pos"].dense().expand(-1, mask.shape[1], -1)
            self.columns["pos"] = Places()
            self.columns["pos"].hold(pos, mask)
        else:
            self.columns["pos"].keep(mask[:, :1] if alike else mask)
        for name, column in self.columns.items():
            if name != "pos":
                column.keep(mask)
        self.padded = False

    def code(self, name: str, count: Tensor | int, encode: Encode) -> bool:
        """Encode the oldest `count` raw slots of column `name` ("k" or "v"); the rest stays raw and open. False when there are none."""
        lens = self.columns[name].lens()
        count = torch.full_like(lens, count) if isinstance(count, int) else count
        if int(count.max()) == 0:
            return False
        self.columns[name].code(count, encode)
        return True

    def raw_lens(self, name: str) -> Tensor:
        """Slots of column `name` that are still raw: [B, H] int64."""
        return self.columns[name].raw_lens()

    def tag(self, name: str, values: Tensor | None = None) -> Tensor:
        """Read, or with `values` [B, H, T] float32 set, a per-slot number that drops along with its slot."""
        if values is not None:
            column = Column()
            column.hold(values, self._filled(values))
            self.columns[name] = column
        elif name not in self.columns:
            return self.tag(name, torch.zeros(*self.lens().shape, len(self), device=self.lens().device))
        return self.columns[name].dense()

    def untag(self, name: str) -> Tensor:
        """The numbers [B, H, T] under `name`, no longer held: for what only the end of a prompt needs."""
        return self.columns.pop(name).dense()

    def _filled(self, values: Tensor) -> Tensor:
        slot = torch.arange(values.shape[2], device=values.device)
        return slot < self.lens()[..., None]

    def replace_raw(self, name: str, values: Tensor) -> None:
        """Overwrite the raw slots of column `name` with `values` [B, H, n, D] (a merge), n as in the padded raw block."""
        column = self.columns[name]
        coded, raw, lens = column.raw_run()
        if values.shape != raw.shape:
            raise ValueError(f"The raw block of {name} is {tuple(raw.shape)}, but {tuple(values.shape)} was given.")
        column.parts, column.open = coded, None
        column.hold(values, torch.arange(raw.shape[2], device=raw.device) < lens[..., None])

    def tensors(self) -> list[Tensor]:
        """Every tensor held, of every column."""
        return [tensor for column in self.columns.values() for tensor in column.tensors()]

    def nbytes(self) -> int:
        """Bytes of the distinct storages held."""
        return storage_bytes(self.tensors())
