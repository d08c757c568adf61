"""Attention over a view: the output through SDPA, and softmax rows only for the queries somebody asks about.

The mask is one comparison of positions: a query at p sees the slots with 0 <= pos <= p and, under a window w, pos > p - w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.store import View

QUERY_BLOCK = 256
"""Queries handled at once where a mask or a row of weights is needed: memory is [block, T], never [T, T]."""


class Rules(NamedTuple):
    """What the model asks of its attention besides q, k and v."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None  # [Hq], one extra logit per head (GPT-OSS)


def visible(pos: Tensor, q_pos: Tensor, window: int | None) -> Tensor:
    """Which slots a query sees: `pos` [B, Hs, T], `q_pos` [B, t] -> bool [B, Hs, t, T]."""
    pos, q = pos[:, :, None], q_pos[:, None, :, None]
    mask = (pos >= 0) & (pos <= q)
    return mask if window is None else mask & (pos > q - window)


def attend(q: Tensor, view: View, q_pos: Tensor, rules: Rules, fresh: bool) -> Tensor:
    """Output [B, Hq, t, D]. `fresh`: the view is exactly the t new tokens without padding, so plain causal order holds."""
    t, slots = q.shape[2], view.k.shape[2]
    plain = rules.softcap is None and rules.sinks is None and view.bias is None and view.extra is None
    if plain and not view.holes and (rules.window is None or slots <= rules.window):
        if t == 1:
            return _one_query(q, view, rules.scaling)
        if fresh and slots == t:
            return F.scaled_dot_product_attention(q, view.k, view.v, is_causal=True, scale=rules.scaling, enable_gqa=q.shape[1] != view.k.shape[1])
    block = _masked if plain else _by_hand
    parts = [block(q[:, :, i : i + QUERY_BLOCK], view, q_pos[:, i : i + QUERY_BLOCK], rules) for i in range(0, t, QUERY_BLOCK)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _one_query(q: Tensor, view: View, scaling: float) -> Tensor:
    # the G query heads of a KV head become rows of one small matrix: no key is repeated
    b, hq, _, d = q.shape
    h = view.k.shape[1]
    out = F.scaled_dot_product_attention(q.reshape(b, h, hq // h, d), view.k, view.v, scale=scaling)
    return out.view(b, hq, 1, -1)


def _masked(q: Tensor, view: View, q_pos: Tensor, rules: Rules) -> Tensor:
    b, hq, t, d = q.shape
    h = view.k.shape[1]
    mask = _open_blind(visible(view.pos, q_pos, rules.window)).expand(-1, h, -1, -1)
    grouped = q.reshape(b, h, hq // h * t, d)
    mask = mask[:, :, None].expand(-1, -1, hq // h, -1, -1).reshape(b, h, hq // h * t, -1)
    out = F.scaled_dot_product_attention(grouped, view.k, view.v, attn_mask=mask, scale=rules.scaling)
    return out.view(b, hq, t, -1)


def _open_blind(mask: Tensor) -> Tensor:
    # a query of padding sees nothing: let it see everything instead of returning NaN. Its output is never used.
    return mask | ~mask.any(-1, keepdim=True)


def _by_hand(q: Tensor, view: View, q_pos: Tensor, rules: Rules) -> Tensor:
    v = view.v if view.extra is None else torch.cat([view.v, view.extra.v.to(view.v.dtype)], dim=2)
    weights = _softmax(q, view, q_pos, rules)[..., : v.shape[2]].to(v.dtype)
    return torch.matmul(weights.unflatten(1, (v.shape[1], -1)), v[:, :, None]).flatten(1, 2)


def softmax_rows(q: Tensor, view: View, q_pos: Tensor, rules: Rules) -> Tensor:
    """Attention weights of the slots, [B, Hq, t, T] float32: exactly what `attend` averages the values with."""
    return _softmax(q, view, q_pos, rules)[..., : view.k.shape[2]]


def _softmax(q: Tensor, view: View, q_pos: Tensor, rules: Rules) -> Tensor:
    # weights of the slots, then of the entries in `view.extra`, if any, then of the model's sink, if it has one
    logits = slot_logits(q, view, q_pos, rules)
    rest = [] if view.extra is None else [view.extra.logits(q)]
    if rules.sinks is not None:
        rest.append(rules.sinks.float().view(1, -1, 1, 1).expand(*logits.shape[:3], 1))
    return torch.cat([logits, *rest], -1).softmax(-1) if rest else logits.softmax(-1)


def slot_logits(q: Tensor, view: View, q_pos: Tensor, rules: Rules) -> Tensor:
    """Logits of the slots, [B, Hq, t, T] float32: the lowest number where a query does not see."""
    (b, hq, t, d), h = q.shape, view.k.shape[1]
    # the query heads of a KV head are rows of one matrix, and nothing is made twice: memory is most of the cost of a few queries over a long text
    logits = (q.reshape(b, h, hq // h * t, d).float() @ view.k.float().mT).mul_(rules.scaling).view(b, h, hq // h, t, view.k.shape[2])
    if rules.softcap is not None:
        logits = torch.tanh(logits / rules.softcap) * rules.softcap
    if view.bias is not None:
        logits = logits.add_(view.bias[:, :, None, None])
    mask = _open_blind(visible(view.pos, q_pos, rules.window))
    lowest = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, torch.finfo(torch.float32).min)
    return logits.add_(lowest[:, :, None]).flatten(1, 2)  # no logit is large enough to move the lowest number
