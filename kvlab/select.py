"""From scores to masks. Scores are float32, ties go to the earlier position, protection is a mask and never a large score."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(scores: Tensor, protected: Tensor, valid: Tensor) -> Tensor:
    """Rank of each entry along the last axis: protected first, then by score, holes last; ties in slot order. int64, same shape."""
    order = scores.float().argsort(dim=-1, descending=True, stable=True)
    # one sort only, of the scores: entries of a tier keep their order, so a place is a count
    first, second = (protected & valid).gather(-1, order), (valid & ~protected).gather(-1, order)
    firsts, seconds = first.cumsum(-1), second.cumsum(-1)
    holes = torch.arange(1, order.shape[-1] + 1, device=order.device) - firsts - seconds
    behind = torch.where(second, firsts[..., -1:] + seconds, firsts[..., -1:] + seconds[..., -1:] + holes)
    return torch.empty_like(order).scatter_(-1, order, torch.where(first, firsts, behind) - 1)


def keep_top(scores: Tensor, count: Tensor | int, valid: Tensor, protected: Tensor | None = None) -> Tensor:
    """Mask [B, H, T] of the `count` (int, [B] or [B, H]) best slots of each head, protected ones included in the count.

    Protected slots stay even where they are more than `count`. The same as `ranks` below `count`, without sorting: the lowest score that
    stays is looked for, and of the slots that have just that one the earliest fill what is left.
    """
    protected = torch.zeros_like(valid) if protected is None else protected & valid
    if not valid.shape[-1]:
        return protected
    limit, free = count if isinstance(count, int) else count.view(count.shape[0], -1, 1), valid & ~protected
    room = (limit - protected.sum(-1, keepdim=True)).clamp(0, valid.shape[-1])
    scores = scores.float().nan_to_num(torch.inf, torch.inf, -torch.inf).masked_fill(~free, -torch.inf)
    edge = _largest(scores, room.clamp(min=1))
    above, level = scores > edge, free & (scores == edge)
    return protected | above | (level & (level.cumsum(-1) <= room - above.sum(-1, keepdim=True)))


def _largest(x: Tensor, place: Tensor) -> Tensor:
    """The number at `place` [B, H, 1], from 1, when each row of `x` [B, H, T] is put in falling order: [B, H, 1]."""
    first, last = map(int, place.aminmax())
    if first == last:  # as in most methods, and many times faster than a sort
        return x.kthvalue(x.shape[-1] + 1 - first, dim=-1, keepdim=True).values
    return x.sort(dim=-1, descending=True).values.gather(-1, place - 1)


def protect(pos: Tensor, seen: Tensor, first: Tensor | int = 0, last: Tensor | int = 0) -> Tensor:
    """Mask of slots among the `first` or the `last` positions (int or [B]): `pos` [B, H, T], `seen` [B] tokens seen by each row."""
    first = first.view(-1, 1, 1) if isinstance(first, Tensor) else first
    return (pos >= 0) & ((pos < first) | (pos >= (seen - last).view(-1, 1, 1)))
