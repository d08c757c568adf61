"""Decode attention over heads that hold unequally many raw slots, in plain torch: every head's rows are read where they lie.

Nothing is padded and nothing of the past is copied; only the logits, one row for each query, are as wide as the longest head needs. The
plain way is `attend` over `Store.view`, which pads keys, values and positions anew for every token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.column import Column
from kvlab.kernels import unmasked
from kvlab.rows import Raw
from kvlab.store import Store

if TYPE_CHECKING:
    from kvlab.attention import Rules


def wanted(q: Tensor, store: Store) -> bool:
    """Whether `decode` is worth asking: one query [B, Hq, 1, D] for each head, and heads that end with different numbers of slots. No gradients."""
    return q.shape[2] == 1 and not store.even and not q.requires_grad


def decode(q: Tensor, store: Store, rules: Rules) -> Tensor | None:
    """Attention of one query over all slots of `store`, q [B, Hq, 1, D] -> the same shape. None where slots are coded, masked or weighed."""
    k, v = store.columns["k"], store.columns["v"]
    if not (_alike(k, v) and unmasked(store, rules)):
        return None
    b, hq, _, d = q.shape
    units = k.parts[0].lens.numel()
    return _attend(q.reshape(units, b * hq // units, d).float() * rules.scaling, k, v).to(q.dtype).view(b, hq, 1, d)


def _alike(k: Column, v: Column) -> bool:
    """Whether both are raw and cut into parts of the same lengths, as dropping slots of uneven heads leaves them."""
    return all(isinstance(part.rows, Raw) for part in k.parts + v.parts) and [part.counts for part in k.parts] == [part.counts for part in v.parts]


def _attend(q: Tensor, k: Column, v: Column) -> Tensor:
    """q [U, G, D] float32, scaled, for U (batch row, KV head) units with G queries each -> [U, G, D] float32."""
    fresh = 0 if k.open is None else k.open.shape[2]
    starts, width = [], fresh  # the open part's logits come first, then a stretch for each closed part; a short head leaves -inf in its own
    for part in k.parts:
        starts.append(width)
        width += max(part.counts)
    logits = q.new_full((*q.shape[:2], width), float("-inf"))
    if fresh:
        logits[..., :fresh] = q @ k.open.flatten(0, 1).float().mT
    # few and small calls: for short contexts they cost as much as the products themselves
    for part, start in zip(k.parts, starts, strict=True):
        for row, keys, place, n in zip(q.unbind(), part.rows.data.float().T.split(part.counts, 1), logits.unbind(), part.counts, strict=True):
            torch.mm(row, keys, out=place[:, start : start + n])
    weights = logits.softmax(-1)
    out = weights[..., :fresh] @ v.open.flatten(0, 1).float() if fresh else torch.zeros_like(q)
    for part, start in zip(v.parts, starts, strict=True):
        for row, weight, values, n in zip(out.unbind(), weights.unbind(), part.rows.data.float().split(part.counts), part.counts, strict=True):
            row.addmm_(weight[:, start : start + n], values)
    return out
