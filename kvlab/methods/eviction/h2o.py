"""H2O, the heavy-hitter oracle (2023, arXiv 2306.14048). Card: methods/eviction.md, from the authors' cache that really drops.

Every slot adds up the attention it gets from every query, from the first one on. Whenever there are more slots than the budget, the
heaviest stay together with the most recent ones.
"""

from dataclasses import dataclass

from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top


def last_slots(valid: Tensor, count: Tensor) -> Tensor:
    """Mask of the last `count` [B] slots of each head: `valid` [B, H, T]."""
    from_end = valid.long().flip(-1).cumsum(-1).flip(-1)
    return valid & (from_end <= count.view(-1, 1, 1))


@dataclass(frozen=True)
class H2O(Dropper):
    """Tokens that gathered the most attention so far stay, beside the latest."""

    name = "h2o"
    title = "H2O"
    paper = "Zhang et al., arXiv 2306.14048"
    year = 2023
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "Sums are averaged over the query heads of a KV head, where the authors' code has one KV head for each. "
        "A long prompt is cut once, at its end, not after each chunk."
    )

    recent: float = knob(0.5, "Share of the budget that goes to the most recent tokens.", 0, 1, 0.05)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        sums = layer.store.tag("h2o") + seen.column_sums()
        layer.store.tag("h2o", sums)
        if seen.phase.kind == "chunk":
            return
        count = layer.target(self.budget)
        recent = (count * self.recent).round().long()
        layer.keep(keep_top(sums, count, seen.valid(), last_slots(seen.valid(), recent)), sums)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return super().layer_bytes(slots, geometry) + slots * 4 * geometry.kv_heads
