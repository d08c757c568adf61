"""How far a run is from the full cache on the run's own text: KL per step, top-1 agreement, first divergence."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def agreement(full: Tensor, ours: Tensor) -> dict[str, Any]:
    """Columns kl, top1 and diverged of a row, from logits [S, V] of the full cache and of this run, one row for each step."""
    theirs, mine = full.float().log_softmax(-1), ours.float().log_softmax(-1)
    kl = (theirs.exp() * (theirs - mine)).sum(-1).clamp(min=0)  # rounding may leave less than nothing
    same = theirs.argmax(-1) == mine.argmax(-1)
    apart = (~same).nonzero().flatten()
    return {"kl": float(kl.double().mean()), "top1": float(same.double().mean()), "diverged": int(apart[0]) if len(apart) else None}


def losses(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p of `ids` [S] under `logits` [S, V], float64, from a float32 softmax."""
    return -logits.float().log_softmax(-1).gather(1, ids[:, None])[:, 0].double()
