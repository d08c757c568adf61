"""KVMerger (2024, arXiv 2407.08454). Card: methods/head_merge_retrieval.md; no code of the authors was found, parts are reconstructed.

At prefill end neighbours with alike keys become one entry. Runs of similar neighbours are merging sets; in each, the token that got the
most attention is the pivot, every member counts by a Gaussian of its distance to the pivot, and the weighted means of keys and of values
go to the pivot's slot. The first, the last and the most attended tokens never merge.

Reconstructed: which tokens are protected and how many, the width of the Gaussian (mean squared distance to the pivot), and the budget.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.merge import add, takers, write
from kvlab.method import Dropper, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


class Plan(NamedTuple):
    """What becomes of each slot: the slot it goes to ("pivot", its own where it stays) [B, H, T] int64, and its weight there, float32."""

    pivot: Tensor
    weight: Tensor


def similarity(keys: Tensor) -> Tensor:
    """Cosine of each key [B, H, T, D] and the next one: [B, H, T] float32, -1 for the last."""
    keys = keys.float()
    out = keys.new_full(keys.shape[:3], -1)
    out[..., :-1] = torch.cosine_similarity(keys[:, :, :-1], keys[:, :, 1:], dim=-1)
    return out


def plan(keys: Tensor, linked: Tensor, votes: Tensor) -> Plan:
    """Pivots and weights of the runs in which `linked` [B, H, T] joins a slot to the next one. `votes` [B, H, T] choose the pivot."""
    slot = torch.arange(keys.shape[2], device=keys.device).expand_as(votes)
    starts = torch.cat([torch.ones_like(linked[..., :1]), ~linked[..., :-1]], dim=-1)
    run = starts.long().cumsum(-1) - 1
    best = torch.zeros_like(votes).scatter_reduce(2, run, votes, "amax", include_self=False)
    chosen = torch.where(votes == best.gather(2, run), slot, keys.shape[2])
    pivot = torch.zeros_like(slot).scatter_reduce(2, run, chosen, "amin", include_self=False).gather(2, run)
    index = pivot[..., None].expand_as(keys)
    distance = (keys - keys.gather(2, index)).float().square().sum(-1)
    total = lambda x: torch.zeros_like(x).scatter_add(2, run, x).gather(2, run)  # noqa: E731
    width = total(distance) / total(torch.ones_like(distance))
    near = torch.where(width > 0, torch.exp(-distance / (2 * width)), 1)
    return Plan(pivot, near / total(near))


def merged(x: Tensor, made: Plan) -> Tensor:
    """Weighted means of `x` [B, H, T, D], each in the slot of its pivot; slots that left hold what they held."""
    slot = torch.arange(x.shape[2], device=x.device).expand_as(made.pivot)
    return torch.where((made.pivot == slot)[..., None], add(x, slot, made.pivot, made.weight).to(x.dtype), x)


@dataclass(frozen=True)
class KVMerger(Dropper):
    """Neighbours with alike keys become one entry, weighted towards the most attended of them."""

    name = "kvmerger"
    title = "KVMerger"
    paper = "Wang et al., arXiv 2407.08454"
    year = 2024
    source = "recon"
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True)
    departs = (
        "The most similar neighbours merge until the budget is met, where the paper fixes a threshold; each head finds its own threshold that way. "
        "Protection and the width of the Gaussian are reconstructed. Tokens written later stay single until the next prompt."
    )

    recent: float = knob(0.25, "Share of the budget that goes to the last tokens, which never merge.", 0, 0.9, 0.05)
    heavy: float = knob(0.2, "Share of the budget that goes to the most attended tokens, which never merge.", 0, 0.45, 0.05)
    sinks: int = knob(4, "First tokens that never merge.", 0, 64, 1)
    threshold: float = knob(-1.0, "Neighbours merge from this cosine on only, even if the budget is missed. -1: the budget alone decides.", -1, 1.1, 0.05)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        store = layer.store
        votes = store.tag("kvmerger") + seen.column_sums()
        store.tag("kvmerger", votes)
        if seen.phase.kind == "chunk":
            return
        linked = self._links(layer, seen, votes)
        if not linked.any():
            return
        made = plan(seen.view.k, linked, votes)
        for name, x in (("k", seen.view.k), ("v", seen.view.v)):
            write(store, name, merged(x, made))
        stays = made.pivot == torch.arange(linked.shape[2], device=linked.device)
        into = torch.where(stays, -1, seen.pos().gather(2, made.pivot))
        layer.keep(stays & seen.valid(), votes, into)

    def _links(self, layer: LayerKV, seen: Seen, votes: Tensor) -> Tensor:
        """Slots [B, H, T] that join their right neighbour: the most similar pairs, as many as slots are over the budget."""
        store, valid, count = layer.store, seen.valid(), layer.target(self.budget)
        free = valid & ~self._protected(seen, layer.tokens(), count, votes)
        free = free & takers(store)  # entries that another member encoded stay
        joins = free & torch.cat([free[..., 1:], torch.zeros_like(free[..., :1])], dim=-1)
        alike = similarity(seen.view.k)
        surplus = (valid.sum(-1) - count[:, None]).clamp(min=0)
        return keep_top(alike, surplus, joins & (alike >= self.threshold))

    def _protected(self, seen: Seen, tokens: Tensor, count: Tensor, votes: Tensor) -> Tensor:
        """Slots [B, H, T] that never merge. Each heavy one may split a run, so all together leave room for the budget to be met."""
        first = (count // 8).clamp(max=self.sinks)
        last = torch.minimum((count * self.recent).long(), count - 1 - first).clamp(min=0)
        heavy = torch.minimum((count * self.heavy).long(), (count - 1 - first - last) // 2).clamp(min=0)
        ends = protect(seen.pos(), tokens, first, last)
        return ends | keep_top(votes, heavy, seen.valid() & ~ends)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return super().layer_bytes(slots, geometry) + slots * 4 * geometry.kv_heads
