"""Reading a part of a store: chosen pages or slots as lists, what lies there as a view, and the bytes that takes."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.store import Store, View


def listed(chosen: Tensor) -> Tensor:
    """Pages or slots chosen, [B, Hs, n] bool, as lists in order: [B, Hs, most] int32, -1 behind the end of a short one."""
    first = chosen.long().argsort(dim=-1, descending=True, stable=True)[..., : int(chosen.sum(-1).max())]
    return torch.where(chosen.gather(2, first), first, -1).int()


def read(store: Store, lists: Tensor, size: int, index: int) -> View:
    """The slots of the pages of `size` in `lists` [B, Hs, n] int32 (-1: none), for each KV head or for each query head: a view with Hs heads.

    `index`: bytes read to choose them.
    """
    held, lens = store.view(), store.lens()
    group = lists.shape[1] // lens.shape[1]
    spread = lambda x: x.repeat_interleave(group, dim=1)  # noqa: E731
    slots = (lists.long()[..., None] * size + torch.arange(size, device=lists.device)).flatten(2)
    real = (slots >= 0) & (slots < spread(lens)[..., None])
    slots = slots.clamp(0, held.k.shape[2] - 1)
    pos = torch.where(real, spread(held.pos.expand(-1, lens.shape[1], -1)).gather(2, slots), -1)
    k, v = (_gather(x, slots) for x in held[:2])
    bias = None if held.bias is None else spread(held.bias).gather(2, slots)
    return View(k, v, pos, bool((pos < 0).any()), index + _touched(store, slots, real, index), bias)


def _touched(store: Store, slots: Tensor, real: Tensor, index: int) -> int:
    """Of the bytes beside the index, the share of slots that some query head of a KV head looks at."""
    lens = store.lens()
    seen = torch.zeros(*slots.shape[:2], len(store), dtype=torch.int32, device=slots.device).scatter_reduce(2, slots, real.int(), "amax")
    distinct = int(seen.unflatten(1, (lens.shape[1], -1)).amax(2).sum())
    return round((store.nbytes() - index) * distinct / int(lens.sum()))


def _gather(x: Tensor, slots: Tensor) -> Tensor:
    """Rows of `x` [B, H, T, D] for every list of slots [B, Hs, n] -> [B, Hs, n, D]."""
    grouped = slots.unflatten(1, (x.shape[1], -1))[..., None].expand(-1, -1, -1, -1, x.shape[-1])
    return x[:, :, None].expand(-1, -1, grouped.shape[2], -1, -1).gather(3, grouped).flatten(1, 2)
