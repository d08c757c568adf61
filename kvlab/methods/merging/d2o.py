"""D2O, dynamic discriminative operations (2024, arXiv 2406.13035). Card: methods/head_merge_retrieval.md, from the authors' code.

Layers that spread the prompt's attention evenly get more of the budget than layers that look at a few tokens; the first ones and the last
are left whole. In each head the most attended tokens stay beside the latest. One that leaves looks for the kept key most like its own:
if they are alike enough, measured against a running mean of such likeness, the two become one; otherwise it is dropped.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.geometry import Geometry
from kvlab.merge import add, into, leaving, nearest, takers, total, write
from kvlab.method import Dropper, knob
from kvlab.methods.eviction.h2o import last_slots
from kvlab.phase import Phase, Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


def density(votes: Tensor, valid: Tensor) -> Tensor:
    """How much a layer singles out tokens, [B] float64: variance of the votes [B, H, T] of each head, scaled to 0..1 over the heads, their mean.

    With one KV head that is 0 and with two it is 1/2, so that all layers share alike; only more heads tell layers apart.
    """
    x = votes.double() * valid
    n = valid.sum(-1)
    mean = x.sum(-1) / n
    spread = ((x - mean[..., None]).square() * valid).sum(-1) / n
    low, high = spread.amin(1, keepdim=True), spread.amax(1, keepdim=True)
    return ((spread - low) / (high - low)).nan_to_num(0).mean(1)


def layer_counts(dense: Tensor, count: Tensor, tokens: Tensor) -> Tensor:
    """Slots per head for each layer, [B, L]: `count` [B] on average, by the softmax of minus `dense` [B, L]; what exceeds `tokens` [B] goes to the others."""
    weight, layers, most = (-dense).softmax(1), dense.shape[1], tokens[:, None].double()
    full = torch.zeros_like(weight, dtype=torch.bool)
    for _ in range(layers):
        left = layers * count[:, None] - most * full.sum(1, keepdim=True)
        shares = torch.where(full, most, left * weight / (weight * ~full).sum(1, keepdim=True))
        full = full | (shares >= most)
    # rounded sums of all layers so far end at the total exactly
    return shares.cumsum(1).round().long().diff(dim=1, prepend=torch.zeros_like(count[:, None])).clamp(min=1)


@dataclass(frozen=True)
class D2O(Dropper):
    """Layers share the budget by how widely they look; what leaves is merged into the kept key most like it, if it is alike enough."""

    name = "d2o"
    title = "D2O"
    paper = "Wan et al., arXiv 2406.13035"
    year = 2024
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "The budget is that of the mean compressed layer: the layers left whole come on top of it, and what one cannot use goes to the others. "
        "Scores, keys and merging are per KV head; the authors' code repeats keys to query heads first. Entries held coded take nothing."
    )

    recent: float = knob(0.5, "Share of the budget that goes to the most recent tokens.", 0, 1, 0.05)
    sinks: int = knob(4, "First tokens that always stay.", 0, 64, 1)
    whole: int = knob(2, "First layers that keep everything.", 0, 64, 1)
    whole_last: int = knob(1, "Last layers that keep everything.", 0, 64, 1)
    memory: float = knob(0.5, "Share of the old threshold in the new one; the rest is the likeness of the entries that leave now.", 0, 1, 0.05)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        if self._everything or self._whole(layer.index, layer.cache.geometry):
            return
        votes = layer.store.tag("d2o") + seen.column_sums()
        layer.store.tag("d2o", votes)
        if seen.phase.kind in ("decode", "question"):
            self._cut(layer)
        elif seen.phase.kind == "prefill":
            layer.state["d2o.dense"] = density(votes, seen.valid())

    def finish(self, cache: KVCache, phase: Phase) -> None:
        layers = [layer for layer in cache.layers if "d2o.dense" in layer.state]
        if not layers:
            return
        count = layers[0].target(self.budget)
        dense = torch.stack([layer.state.pop("d2o.dense") for layer in layers], dim=1)
        for layer, mine in zip(layers, layer_counts(dense, count, cache.tokens).unbind(1), strict=True):
            layer.state["d2o.more"] = mine - count  # than the mean layer
            self._cut(layer)

    def _cut(self, layer: LayerKV) -> None:
        view, votes, valid = layer.store.view(), layer.store.tag("d2o"), layer.store.valid()
        count = (layer.target(self.budget) + layer.state["d2o.more"]).clamp(min=1)
        pos = view.pos.expand_as(votes)
        last = (count * self.recent).round().long()
        first = torch.minimum(count // 4, count - last).clamp(max=self.sinks)
        stays = keep_top(votes, count, valid, last_slots(valid, last) | protect(pos, layer.tokens(), first))
        slot, real = leaving(valid & ~stays)
        if not slot.shape[2]:
            return
        target, alike = nearest(view.k, slot, stays & takers(layer.store))
        merges = real & (alike > -torch.inf) & self._alike_enough(layer, alike, real)[:, None]
        weight = torch.where(merges, alike, 0)
        members = 1 + total(merges, target, votes.shape[2])[..., None]
        for name, x in (("k", view.k), ("v", view.v)):
            write(layer.store, name, torch.where(members > 1, ((x.float() + add(x, slot, target, weight)) / members).to(x.dtype), x))
        layer.keep(stays, votes, into(pos, slot, target, merges))

    def _alike_enough(self, layer: LayerKV, alike: Tensor, real: Tensor) -> Tensor:
        """Which of the leaving slots are merged, [B, E]: those whose likeness, averaged over the heads, reaches the threshold it has just moved."""
        found = real & (alike > -torch.inf)
        mean = torch.where(found, alike, 0).sum(1) / found.sum(1).clamp(min=1)
        some = found.any(1)
        now = (mean * some).sum(1) / some.sum(1).clamp(min=1)
        old = layer.state.get("d2o.threshold", torch.full_like(now, torch.nan))
        moved = torch.where(old.isnan(), now, self.memory * old + (1 - self.memory) * now)
        layer.state["d2o.threshold"] = torch.where(some.any(1), moved, old)
        return some & (mean >= moved[:, None])

    @property
    def _everything(self) -> bool:
        return self.budget.unit == "fraction" and self.budget.amount == 1

    def _whole(self, index: int, geometry: Geometry) -> bool:
        """Whether this layer keeps everything. Layers with a window do not count."""
        place = sum(window is None for window in geometry.windows[:index])
        return place < self.whole or place >= geometry.open_layers - self.whole_last

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return tokens if self._whole(layer, geometry) else self.kept(tokens, prompt)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return super().layer_bytes(slots, geometry) + (0 if self._everything else slots * 4 * geometry.kv_heads)  # layers left whole need no scores
