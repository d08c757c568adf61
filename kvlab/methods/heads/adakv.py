"""Ada-KV (2024, arXiv 2407.11550). Card: methods/eviction.md, from the authors' code over SnapKV scores.

The heads of a layer share one budget. Each gets as many entries as it has among the layer's best, mixed with an equal share so that no
head goes empty; then it keeps its own best. Heads end with different numbers of entries, and the store holds just those.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.eviction.snapkv import check_kernel, snap_scores
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


def head_counts(scores: Tensor, free: Tensor, base: Tensor, alpha: float) -> Tensor:
    """Entries for each head, [B, H]: `scores` and `free` [B, H, T], `base` [B] entries per head on average."""
    heads = scores.shape[1]
    best = keep_top(scores.flatten(1)[:, None], base * heads, free.flatten(1)[:, None])
    won = best.view_as(scores).sum(-1)
    equal = (base.double() * alpha).floor()
    return (won * (1 - alpha) + equal[:, None]).round().long()  # halves go to the even number, in torch as in the authors' code


@dataclass(frozen=True)
class AdaKV(Dropper):
    """Heads that spread their attention get more of the layer's budget than heads that look at a few tokens."""

    name = "adakv"
    title = "Ada-KV"
    paper = "Feng et al., arXiv 2407.11550"
    year = 2024
    needs = ("queries",)
    schedule = Schedule(prefill=True)
    departs = "Votes are smoothed before they are averaged over the query heads of a KV head. Rounding may move the total by half an entry per head."

    alpha: float = knob(0.2, "Share of the budget split evenly; the rest follows the scores.", 0, 1, 0.05)
    window: int = knob(32, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)
    kernel: int = knob(7, "Width of the smoothing along the tokens, odd.", 1, 63, 2)
    pool: str = knob("max", "How votes of neighbours are combined.", choices=("avg", "max"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        scores, valid, count = snap_scores(seen, self.window, self.kernel, self.pool), seen.valid(), layer.target(self.budget)
        last = count.clamp(max=self.window)
        window = protect(seen.pos(), layer.tokens(), last=last)
        each = head_counts(scores, valid & ~window, count - last, self.alpha) + last[:, None]
        roomy = valid.sum(-1).amax(-1) <= count  # a row that fits is left alone: the rounding could take one away
        layer.keep(keep_top(scores, torch.where(roomy[:, None], count[:, None], each), valid, window), scores)

    def kept(self, tokens: int, prompt: int) -> float:
        count = self.budget.tokens(prompt)
        if count == prompt:
            return tokens
        base = max(0, count - self.window)
        return base * (1 - self.alpha) + int(self.alpha * base) + min(count, self.window) + tokens - prompt

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        ragged = self.alpha < 1 and geometry.kv_heads > 1 and not (self.budget.unit == "fraction" and self.budget.amount == 1)
        return super().layer_bytes(slots, geometry) + (3 * 8 * geometry.kv_heads if ragged else 0)
