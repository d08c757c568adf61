"""DynamicKV (2024, arXiv 2412.14838). Card: methods/eviction.md, from the authors' code.

The layers of a model share one budget. Each starts with far too much; after every few layers the best entries of all layers so far are
counted, and a layer's part of the budget is its part of these. A layer is only ever cut down: it keeps its best entries by SnapKV's votes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.eviction.snapkv import check_kernel, snap_scores
from kvlab.phase import Phase, Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


def layer_counts(scores: list[Tensor], free: list[Tensor], base: Tensor, layers: int) -> Tensor:
    """Entries per head for each layer seen so far, [B, n]: `scores` and `free` n of [B, H, T], `base` [B] the mean over all `layers`.

    The budget of the whole model goes to the layers seen, in proportion to the entries each has among their best.
    """
    joined, mask = (torch.cat([x.flatten(1) for x in xs], dim=1)[:, None] for xs in (scores, free))
    best = keep_top(joined, base * len(scores) * scores[0].shape[1], mask)[:, 0].split([x[0].numel() for x in free], dim=1)
    won = torch.stack([part.sum(-1) for part in best], dim=1)
    total = base * layers
    counts = total[:, None] * won // won.sum(1, keepdim=True).clamp(min=1)
    counts[:, -1] += total - counts.sum(1)
    return counts


def rebalanced(scores: list[Tensor], free: list[Tensor], base: Tensor, first: float, every: int) -> Tensor:
    """Entries per head for each layer after all rounds, [B, L]: no layer gets back what an earlier round took."""
    have = torch.stack([mask[:, 0].sum(-1) for mask in free], dim=1).minimum((base * first).long()[:, None])
    layers = len(scores)
    for n in sorted({*range(every, layers + 1, every), layers}):
        counts = layer_counts(scores[:n], free[:n], base, layers)
        have = torch.cat([have[:, :n].minimum(counts), have[:, n:]], dim=1)
    return have


@dataclass(frozen=True)
class DynamicKV(Dropper):
    """Layers whose entries score best get more of the budget, prompt by prompt."""

    name = "dynamickv"
    title = "DynamicKV"
    paper = "Zhou et al., arXiv 2412.14838"
    year = 2024
    source = "mixed"
    needs = ("queries",)
    schedule = Schedule(prefill=True)
    departs = (
        "The rounds are gone through after the last layer: they end as in the paper, but nothing is freed before. "
        "Shares are whole numbers without the authors' early rounding, a last round always covers all layers, "
        "and votes are averaged over the query heads of a KV head."
    )

    window: int = knob(8, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)
    kernel: int = knob(7, "Width of the smoothing along the tokens, odd.", 1, 63, 2)
    pool: str = knob("avg", "How votes of neighbours are combined.", choices=("avg", "max"))
    first: float = knob(10.0, "What a layer holds before the first round, in budgets. Near 1 less than the budget stays.", 1, 64, 1)
    every: int = knob(4, "Layers between two rounds.", 1, 128, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        layer.state["dynamickv"] = snap_scores(seen, self.window, self.kernel, self.pool)

    def finish(self, cache: KVCache, phase: Phase) -> None:
        layers = [layer for layer in cache.layers if "dynamickv" in layer.state]
        if not layers:
            return
        scores = [layer.state.pop("dynamickv") for layer in layers]
        count = layers[0].target(self.budget)
        last = count.clamp(max=self.window)
        valid = [layer.store.valid() for layer in layers]
        windows = [protect(layer.store.pos().expand_as(mask), layer.tokens(), last=last) for layer, mask in zip(layers, valid, strict=True)]
        free = [mask & ~window for mask, window in zip(valid, windows, strict=True)]
        counts = rebalanced(scores, free, count - last, self.first, self.every)
        for i, layer in enumerate(layers):
            layer.keep(keep_top(scores[i], counts[:, i] + last, valid[i], windows[i]), scores[i])

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        # where only the window stays, all heads keep the same tokens and share one list of positions
        return slots * geometry.slot_bytes if first <= self.window else self.layer_bytes(slots, geometry)
