"""PrefixKV (2024, arXiv 2412.03409). Card: methods/eviction.md, from the authors' code.

Every layer keeps the same share of its attention, not of its tokens: tokens are sorted by the attention they got from the whole prompt,
and one threshold on the running sum, found by bisection, cuts all layers so that together they hold the budget.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.method import Dropper, knob
from kvlab.phase import Phase, Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect

ROUNDS = 30  # halvings of the threshold's range: closer than float32 tells apart


def forgotten(sums: list[Tensor], held: Tensor, threshold: Tensor, protected: Tensor) -> Tensor:
    """Tokens each layer would drop, [B, L]: `sums` L of [B, T] attention in falling order, summed up and ending at 1.

    `held` [B, L] tokens of each layer, `threshold` [B] the share of attention to keep, `protected` [B] tokens that stay anyway.
    """
    first = torch.cat([torch.searchsorted(layer, threshold[:, None].contiguous()) for layer in sums], dim=1)
    return (held - first.minimum(held - 1) - 1 - protected[:, None]).clamp(min=0)


def common_cut(attention: list[Tensor], held: Tensor, count: Tensor, protected: Tensor) -> Tensor:
    """Tokens each layer drops, [B, L], so that L * `count` [B] stay: `attention` L of [B, T] per token, 0 for holes."""
    falling = [layer.double().sort(dim=-1, descending=True).values for layer in attention]
    sums = [(layer / layer.sum(-1, keepdim=True)).cumsum(-1) for layer in falling]
    total = (held.sum(1) - held.shape[1] * count).clamp(min=0)
    low, high = torch.zeros_like(sums[0][:, 0]), torch.ones_like(sums[0][:, 0])
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        over = forgotten(sums, held, middle, protected).sum(1) > total
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    drop = forgotten(sums, held, high, protected)
    drop = torch.where(drop.any(1, keepdim=True), drop, (held > protected[:, None]).long())  # no threshold takes the very last one
    # the few that are missing are taken in proportion; rounded sums of all layers so far end at the total exactly
    ends = drop.cumsum(1)
    ends = total[:, None] * ends // ends[:, -1:].clamp(min=1)
    return ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1])).minimum((held - protected[:, None]).clamp(min=0))


@dataclass(frozen=True)
class PrefixKV(Dropper):
    """Layers that look at few tokens keep few: all keep the same part of their attention. The cache grows with the text, in proportion."""

    name = "prefixkv"
    title = "PrefixKV"
    paper = "Wang et al., arXiv 2412.03409"
    year = 2024
    source = "mixed"
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    per_head = False
    departs = (
        "Each prompt finds its own threshold; the authors average the layers' shares over sample prompts once and use these for all. "
        "Rounding is spread over the layers, so that exactly the budget stays of a prompt. Several new tokens at once drop as many, one after another."
    )

    sinks: int = knob(1, "First tokens that always stay, beside the last one.", 0, 64, 1)
    distance: int = knob(25, "How far before the prompt's end, among the kept tokens, one leaves whenever a written one needs room.", 1, 1024, 1)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        if seen.phase.kind in ("decode", "question"):
            self._make_room(layer, seen)
            return
        sums = layer.store.tag("prefixkv") + seen.column_sums().mean(1, keepdim=True)
        layer.store.tag("prefixkv", sums)

    def finish(self, cache: KVCache, phase: Phase) -> None:
        layers = [layer for layer in cache.layers if phase.kind == "prefill" and "prefixkv" in layer.store.columns]
        if not layers:
            return
        count = layers[0].target(self.budget)
        attention = [layer.store.untag("prefixkv")[:, 0] for layer in layers]
        valid = [layer.store.valid() for layer in layers]
        held = torch.stack([mask[:, 0].sum(-1) for mask in valid], dim=1)
        sinks = (count - 1).clamp(max=self.sinks)
        stay = held - common_cut(attention, held, count, sinks + 1)
        for i, layer in enumerate(layers):
            fixed = protect(layer.store.pos().expand_as(valid[i]), layer.tokens(), sinks, 1)
            scores = attention[i][:, None].expand_as(valid[i])
            layer.keep(keep_top(scores, stay[:, i], valid[i], fixed), scores)
            layer.state["prefixkv"] = stay[:, i], layer.tokens()

    def _make_room(self, layer: LayerKV, seen: Seen) -> None:
        """Hold the layer at its share of all tokens seen: whoever stands at a fixed place among the kept ones leaves."""
        stayed, tokens = layer.state["prefixkv"]
        valid = seen.valid()
        surplus = (valid[:, 0].sum(-1) - stayed * layer.tokens() // tokens).clamp(min=0)
        place = stayed - self.distance
        place = torch.where(place < self.sinks, stayed // 2, place).view(-1, 1, 1)
        slot = valid.long().cumsum(-1) - 1
        if int(surplus.max()) > 0:
            layer.keep(valid & ((slot < place) | (slot >= place + surplus.view(-1, 1, 1))))

    def kept(self, tokens: int, prompt: int) -> float:
        # of the mean layer: each rounds down for itself, so the true mean may be less than a token off
        return self.budget.tokens(prompt) * tokens // prompt
