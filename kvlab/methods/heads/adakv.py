"""Ada-KV (2024, arXiv 2407.11550). Card: methods/eviction.md, from the authors' code.

The heads of a layer share one budget. Each gets as many entries as it has among the layer's best, mixed with an equal share so that no
head goes empty; then it keeps its own best. Heads end with different numbers of entries, and the store holds just those.

Whose scores these are is a knob: the authors' SnapKV, or any other method that scores entries once, as kvpress does it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, Scorer, knob
from kvlab.methods.eviction.expectedattention import ExpectedAttention
from kvlab.methods.eviction.keydiff import KeyDiff
from kvlab.methods.eviction.knorm import Knorm
from kvlab.methods.eviction.pyramidkv import PyramidKV
from kvlab.methods.eviction.qfilters import QFilters
from kvlab.methods.eviction.random import Random
from kvlab.methods.eviction.snapkv import SnapKV, check_kernel
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top

BASES = {kind.name: kind for kind in (SnapKV, PyramidKV, Knorm, KeyDiff, ExpectedAttention, QFilters, Random)}


def head_counts(scores: Tensor, free: Tensor, base: Tensor, alpha: float) -> Tensor:
    """Entries for each head, [B, H]: `scores` and `free` [B, H, T], `base` [B] entries per head on average."""
    heads = scores.shape[1]
    best = keep_top(scores.flatten(1)[:, None], base * heads, free.flatten(1)[:, None])
    won = best.view_as(scores).sum(-1)
    equal = (base.double() * alpha).floor()
    return (won * (1 - alpha) + equal[:, None]).round().long()  # halves go to the even number, in torch as in the authors' code


class Asked:
    """A layer that is asked what it would drop, and drops nothing: `said` is the mask and the scores [B, H, T], None if it would not act."""

    def __init__(self, layer: LayerKV) -> None:
        self.layer = layer
        self.said: tuple[Tensor, Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def keep(self, mask: Tensor, scores: Tensor) -> None:
        self.said = mask, scores


@dataclass(frozen=True)
class AdaKV(Dropper):
    """Heads that spread their attention get more of the layer's budget than heads that look at a few tokens."""

    name = "adakv"
    title = "Ada-KV"
    paper = "Feng et al., arXiv 2407.11550"
    year = 2024
    departs = (
        "Votes are smoothed before they are averaged over the query heads of a KV head. Rounding may move the total by half an entry per head. "
        "Other bases than SnapKV are used with their own default knobs, where this method has none of that name; KeyDiff judges all entries at once."
    )

    base: str = knob("snapkv", "Whose scores, and whose budgets for the layers, are shared out over the heads.", choices=tuple(BASES))
    alpha: float = knob(0.2, "Share of the budget split evenly; the rest follows the scores.", 0, 1, 0.05)
    window: int = knob(32, "Queries at the prompt's end that vote and are always kept, where the base has such a window.", 1, 512, 1)
    kernel: int = knob(7, "Width of the smoothing along the tokens, odd, where the base smooths.", 1, 63, 2)
    pool: str = knob("max", "How votes of neighbours are combined, where the base smooths.", choices=("avg", "max"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self)

    @property
    def scorer(self) -> Dropper:
        """The base, with the knobs it shares with this method."""
        kind, mine = BASES[self.base], {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shared = {f.name: mine[f.name] for f in dataclasses.fields(kind) if f.name in mine}
        return kind(**shared, **({"block": 0} if kind is KeyDiff else {}))

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.scorer.needs

    @property
    def artefact_of(self) -> Dropper:
        """The base calibrates, if it needs to."""
        return self.scorer

    @property
    def schedule(self) -> Schedule:  # type: ignore[override]
        return Schedule(prefill=True, chunks=BASES[self.base].schedule.chunks)  # asked for at every step: no base is made for it

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        base, asked = self.scorer, Asked(layer)
        base.compress(asked, seen)
        if asked.said is None:
            return
        scores, valid, count = asked.said[1], seen.valid(), layer.target(self.budget)
        if isinstance(base, Scorer):
            count = base.room(layer)
        stays = base.protected(layer, seen, count) if isinstance(base, Scorer) else None
        stays = torch.zeros_like(valid) if stays is None else stays & valid
        last = stays.sum(-1).amax(-1)
        each = head_counts(scores, valid & ~stays, count - last, self.alpha) + last[:, None]
        roomy = valid.sum(-1).amax(-1) <= count  # a row that fits is left alone: the rounding could take one away
        layer.keep(keep_top(scores, torch.where(roomy[:, None], count[:, None], each), valid, stays), scores)

    def kept(self, tokens: int, prompt: int) -> float:
        return self._rounded(self.scorer.kept(prompt, prompt), prompt) + tokens - prompt

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return self._rounded(self.scorer.layer_kept(layer, prompt, prompt, geometry), prompt) + tokens - prompt

    def _rounded(self, count: float, prompt: int) -> float:
        """Slots per head that come of a budget of `count`: the even part of what is not protected is rounded down."""
        if count >= prompt:
            return prompt
        fixed = min(count, getattr(self.scorer, "window", getattr(self.scorer, "sinks", 0)))
        return (count - fixed) * (1 - self.alpha) + int(self.alpha * (count - fixed)) + fixed

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        ragged = self.alpha < 1 and geometry.kv_heads > 1 and not (self.budget.unit == "fraction" and self.budget.amount == 1)
        return super().layer_bytes(slots, geometry) + (3 * 8 * geometry.kv_heads if ragged else 0)
