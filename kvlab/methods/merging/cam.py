"""CaM, cache merging (ICML 2024; no arXiv number on the card). Card: methods/head_merge_retrieval.md, from the authors' code and kvpress.

A plain policy says who leaves. The value of an entry that leaves is not lost: with a chance that is its accumulated attention over the
mean of those behind it, it is split evenly over the next `neighbours` entries that stay. Keys are never merged.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.merge import HOSTS, Next, following, host_keeps, into, leaving, mean_of, spread, takers, write
from kvlab.method import Dropper, knob
from kvlab.methods.eviction.random import draws
from kvlab.phase import Schedule
from kvlab.seen import Seen


def chance(votes: Tensor, slot: Tensor, near: Next) -> Tensor:
    """How likely each leaving slot is merged: its votes [B, H, T] over the mean of its takers, between 0 and 1; 0 without takers. [B, H, E] float64."""
    share = votes.double().gather(2, slot) / mean_of(votes, near)
    return torch.where(near.count > 0, share.nan_to_num(0, posinf=1), 0).clamp(0, 1)


@dataclass(frozen=True)
class CaM(Dropper):
    """What leaves gives its value to the next entries that stay, the likelier the more attention it got."""

    name = "cam"
    title = "CaM"
    paper = "Zhang et al., ICML 2024"
    year = 2024
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "Weights are averaged over the query heads of a KV head. Entries leaving at the end of a prompt merge all at once into those that stay, as in kvpress; "
        "the authors merge one entry a step. Only their accumulated attention is offered, not that of the current step."
    )

    host: str = knob("window", "Who stays: the first and the last tokens, or the most attended and the last ones.", choices=HOSTS)
    sinks: int = knob(4, "First tokens that always stay, where the first and the last do.", 0, 64, 1)
    recent: float = knob(0.5, "Share of the budget for the last tokens, where the most attended stay.", 0, 1, 0.05)
    neighbours: int = knob(32, "Entries over which a value is split.", 1, 512, 1)
    prompt: bool = knob(True, "Whether what leaves at the end of a prompt merges too, or only what leaves while text is written.")
    draw: bool = knob(True, "Merge or drop by lot, as the authors do. Off: merge the share of the value that the chance says.")
    seed: int = knob(0, "Seed of the lots.", 0, 2**31 - 1, 1)

    @property
    def per_head(self) -> bool:  # type: ignore[override]
        return self.host != "window"

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        votes = layer.store.tag("cam") + seen.column_sums()
        layer.store.tag("cam", votes)
        if seen.phase.kind == "chunk":
            return
        stays = host_keeps(self.host, votes, seen.pos(), layer.tokens(), layer.target(self.budget), self.sinks, self.recent)
        slot, real = leaving(seen.valid() & ~stays)
        if not slot.shape[2]:
            return
        near = following(stays & takers(layer.store), slot, self.neighbours)
        weight = self._weight(layer, seen.pos(), votes, slot, near) * real * (self.prompt or seen.phase.kind != "prefill")
        write(layer.store, "v", (seen.view.v.double() + spread(seen.view.v, slot, weight, near)).to(seen.view.v.dtype))
        # it goes to several: the trace names the first
        target = near.order.gather(2, near.first.clamp(max=near.order.shape[2] - 1)) if near.order.shape[2] else slot
        layer.keep(stays, votes, into(seen.pos(), slot, target, weight > 0))

    def _weight(self, layer: LayerKV, pos: Tensor, votes: Tensor, slot: Tensor, near: Next) -> Tensor:
        """Share of each leaving value that is merged: [B, H, E] float64."""
        likely = chance(votes, slot, near)
        if not self.draw:
            return likely
        return (draws(pos, self.seed, layer.index, False).gather(2, slot) < likely).double()

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return super().layer_bytes(slots, geometry) + slots * 4 * geometry.kv_heads
