"""ThinK (2024, arXiv 2407.21018). Card: methods/lowrank_channel.md, section 1, from the authors' code and kvpress.

At prefill end each KV head ranks its key channels by the energy of the last queries times the energy of all keys it holds, and takes
the weakest ones out of its keys, except out of the newest `recent`. The set is frozen; tokens that follow stay at full width.

Bytes of one layer and KV head with D channels of which w stay, T0 slots at prefill end and T now: (T0 - recent) * w + (T - T0 + recent) * D
values of keys, T * D values of values, and w int16 channel numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.channels import Channels
from kvlab.codecs.coder import Coder
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.store import View


def query_energy(seen: Seen, window: int) -> Tensor:
    """Mean square of the last `window` real queries, over the query heads of each KV head: [B, H, D] float32."""
    real = seen.real[:, None, -window:, None]
    squares = (seen.q[:, :, -window:].float().square() * real).sum(2) / real.sum(2).clamp(min=1)
    return squares.unflatten(1, (-1, seen.groups)).mean(2)


def key_energy(view: View) -> Tensor:
    """Mean square of all held keys: [B, H, D] float32."""
    held = (view.pos >= 0)[..., None].expand(-1, view.k.shape[1], -1, -1)
    return (view.k.float().square() * held).sum(2) / held.sum(2).clamp(min=1)


def strongest(scores: Tensor, count: int) -> Tensor:
    """The `count` best channels of `scores` [..., D], ascending, int16; of equal ones the lower stays."""
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :count].sort(dim=-1).values.to(torch.int16)


@dataclass(frozen=True)
class ThinK(Coder):
    """Key channels that the last queries hardly use are taken out."""

    name = "think"
    title = "ThinK"
    paper = "Xu et al., arXiv 2407.21018"
    year = 2024
    encodes = ("k",)
    needs = ("queries",)
    schedule = Schedule(prefill=True, chunks=True)
    departs = (
        "Channels are chosen per KV head, with the energy of its query heads averaged; the authors' code repeats keys to query heads first. A later turn uses "
        "the channels of the first one. Keys that read as zero there are really absent."
    )

    ratio: float = knob(0.4, "Share of the key channels that is taken out.", 0, 0.8, 0.05)
    recent: int = knob(32, "Newest tokens of the prompt whose keys stay at full width.", 0, 1024, 1)
    window: int = knob(32, "Queries at the prompt's end that rank the channels.", 1, 512, 1)

    def width(self, size: int) -> int:
        """Channels that stay of `size`."""
        return size - int(size * self.ratio)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        if "think channels" not in layer.state:
            layer.state["think queries"] = query_energy(seen, self.window)
        if seen.phase.kind == "prefill":
            self.flush(layer)

    def flush(self, layer: LayerKV) -> None:
        size, state = layer.cache.geometry.head_dim, layer.state
        old = (layer.store.raw_lens("k") - self.recent).clamp(min=0)
        if self.width(size) == size or int(old.max()) == 0:
            return
        if "think channels" not in state:
            scores = state.pop("think queries") * key_energy(layer.store.view())
            state["think channels"] = strongest(scores, self.width(size)).flatten(0, 1)
        layer.code("k", old, lambda rows, lens: Channels.of(rows, lens, state["think channels"]))

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size = geometry.head_dim
        old, gone = max(0, min(first, slots - later) - self.recent), size - self.width(size)
        table = 2 * self.width(size) if old and gone else 0
        return slots * geometry.slot_bytes + geometry.kv_heads * (table - old * gone * geometry.itemsize)
