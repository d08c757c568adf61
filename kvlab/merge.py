"""Parts of merging: who leaves, which kept entry takes what leaves (routers), and how it is taken in (combiners).

Slots that leave are listed as E places per head, `slot` [B, H, E], of which `real` are in use. Routers answer with a slot for each;
combiners add rows up there. Entries that another member holds coded take nothing: `takers` leaves them out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.methods.eviction.h2o import last_slots
from kvlab.select import keep_top, protect
from kvlab.store import Store

HOSTS = ("window", "h2o")
"""Plain policies a merging method may sit on: the first and the last tokens, or the most attended and the last ones."""


def host_keeps(host: str, votes: Tensor | None, pos: Tensor, tokens: Tensor, count: Tensor, sinks: int, recent: float) -> Tensor:
    """Mask [B, H, T] of the `count` [B] slots that stay. `votes` [B, H, T] for "h2o", of whose budget the share `recent` goes to the last slots."""
    if host == "window":
        first = (count - 1).clamp(max=sinks)
        return protect(pos, tokens, first, count - first)
    valid = pos >= 0
    return keep_top(votes, count, valid, last_slots(valid, (count * recent).round().long()))


def leaving(gone: Tensor) -> tuple[Tensor, Tensor]:
    """The slots where `gone` [B, H, T] is true, in slot order: `slot` [B, H, E] int64 and `real` [B, H, E] bool. Places not in use name slots that stay."""
    most = int(gone.sum(-1).max())
    slot = gone.long().argsort(dim=-1, descending=True, stable=True)[..., :most]
    return slot, gone.gather(2, slot)


def takers(store: Store) -> Tensor:
    """Slots [B, H, T] whose key and value are both raw, so that they can change."""
    coded = store.lens() - torch.minimum(store.raw_lens("k"), store.raw_lens("v"))
    return torch.arange(len(store), device=coded.device) >= coded[..., None]


# routers


def nearest(keys: Tensor, slot: Tensor, takes: Tensor) -> tuple[Tensor, Tensor]:
    """For each leaving slot the one among `takes` [B, H, T] whose key has the largest cosine with its own, and that cosine.

    `keys` [B, H, T, D] -> [B, H, E] int64 (ties: the first) and [B, H, E] float32, -inf where no slot takes anything.
    """
    unit = F.normalize(keys.float(), dim=-1)
    mine = unit.gather(2, slot[..., None].expand(-1, -1, -1, keys.shape[-1]))
    best = [(block @ unit.mT).masked_fill(~takes[:, :, None], -torch.inf).max(-1) for block in mine.split(256, dim=2)]
    if not best:
        return slot, slot.float()
    return torch.cat([b.indices for b in best], dim=2), torch.cat([b.values for b in best], dim=2)


class Next(NamedTuple):
    """The takers behind each leaving slot: `order` [B, H, K] all takers, of which `count` [B, H, E] from the place `first` [B, H, E] on."""

    order: Tensor
    real: Tensor
    first: Tensor
    count: Tensor


def following(takes: Tensor, slot: Tensor, most: int) -> Next:
    """The next `most` slots among `takes` [B, H, T] behind each leaving slot, fewer at the end."""
    order, real = leaving(takes)
    first = takes.long().cumsum(-1).gather(2, slot)
    return Next(order, real, first, (takes.sum(-1, keepdim=True) - first).clamp(0, most))


def mean_of(x: Tensor, near: Next) -> Tensor:
    """Mean of `x` [B, H, T] over the takers behind each leaving slot: [B, H, E] float64, 0 where there are none."""
    sums = F.pad((x.double().gather(2, near.order) * near.real).cumsum(-1), (1, 0))
    total = sums.gather(2, near.first + near.count) - sums.gather(2, near.first)
    return total / near.count.clamp(min=1)


# combiners


def add(x: Tensor, slot: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of the rows of `x` [B, H, T, D] that go to each slot, each times its `weight` [B, H, E]: [B, H, T, D] float32."""
    width = x.shape[-1]
    rows = x.gather(2, slot[..., None].expand(-1, -1, -1, width)).float() * weight[..., None]
    return torch.zeros_like(x, dtype=torch.float32).scatter_add(2, target[..., None].expand(-1, -1, -1, width), rows)


def total(weight: Tensor, target: Tensor, slots: int) -> Tensor:
    """Sum of the weights [B, H, E] that go to each slot: [B, H, T] float32."""
    return torch.zeros(*weight.shape[:2], slots, device=weight.device).scatter_add(2, target, weight.float())


def spread(x: Tensor, slot: Tensor, weight: Tensor, near: Next) -> Tensor:
    """Each leaving row of `x` [B, H, T, D] times its `weight` [B, H, E], split evenly over the takers behind it: [B, H, T, D] float64.

    What a row gives is entered where its takers begin and taken off where they end; running sums are what each taker gets.
    """
    width, places = x.shape[-1], near.order.shape[2]
    wide = lambda index: index[..., None].expand(-1, -1, -1, width)  # noqa: E731
    part = x.gather(2, wide(slot)).double() * (weight.double() / near.count.clamp(min=1) * (near.count > 0))[..., None]
    edges = part.new_zeros(*x.shape[:2], places + 1, width)
    edges.scatter_add_(2, wide(near.first), part)
    edges.scatter_add_(2, wide(near.first + near.count), -part)
    got = edges.cumsum(2)[:, :, :places] * near.real[..., None]
    return torch.zeros_like(x, dtype=torch.float64).scatter(2, wide(near.order), got)


def write(store: Store, name: str, values: Tensor) -> None:
    """Put the raw slots, if any, among `values` [B, H, T, D] into column `name`."""
    raw, coded = store.raw_lens(name), store.lens() - store.raw_lens(name)
    if not int(raw.max()):
        return
    index = coded[..., None] + torch.arange(int(raw.max()), device=values.device)
    index = index.clamp(max=values.shape[2] - 1)[..., None].expand(-1, -1, -1, values.shape[-1])
    store.replace_raw(name, values.gather(2, index))


def into(pos: Tensor, slot: Tensor, target: Tensor, merged: Tensor) -> Tensor:
    """For the trace: the position each leaving slot went to where `merged` [B, H, E], else -1: [B, H, T] int32."""
    return torch.full_like(pos, -1).scatter(2, slot, torch.where(merged, pos.gather(2, target), -1))
