"""SnapKV (2024, arXiv 2404.14469). Card: methods/eviction.md, from the authors' code.

At prefill end, the last `window` queries vote: their attention to each earlier slot is averaged over the window, smoothed along the
tokens, averaged over the query heads of a KV head; the best slots stay together with the window itself.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, Scorer, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import protect


def snap_votes(seen: Seen, window: int, kernel: int, pool: str) -> Tensor:
    """Votes of the last `window` queries of each query head for each slot before them: [B, Hq, T] float32. Holes and the window's own slots get 0."""
    votes = seen.weights(window)
    votes = votes.mul_(seen.real[:, None, -votes.shape[2] :, None]).sum(2)  # in place: they are many
    # the window stays anyway: its votes for itself must not spill over to the slots just before it
    pos, first = seen.pos(), seen.q_pos.amax(1) + 1 - window
    earlier = ((pos >= 0) & (pos < first.view(-1, 1, 1))).repeat_interleave(seen.groups, dim=1)
    smooth = F.max_pool1d if pool == "max" else F.avg_pool1d
    return torch.where(earlier, smooth(votes * earlier, kernel, stride=1, padding=kernel // 2), 0)


def snap_scores(seen: Seen, window: int, kernel: int, pool: str) -> Tensor:
    """`snap_votes`, mean over the query heads of each KV head: [B, H, T] float32."""
    return seen.by_kv_head(snap_votes(seen, window, kernel, pool), "mean")


def check_kernel(method: Dropper) -> None:
    """Raise ValueError with a sentence when the smoothing has no middle."""
    if method.kernel % 2 == 0:
        raise ValueError(f"{method.name}: kernel is an odd number, not {method.kernel}.")


@dataclass(frozen=True)
class SnapKV(Scorer):
    """The end of the prompt votes for what the answer will read."""

    name = "snapkv"
    title = "SnapKV"
    paper = "Li et al., arXiv 2404.14469"
    year = 2024
    needs = ("queries",)
    schedule = Schedule(prefill=True)
    departs = "Scores are averaged over the query heads of a KV head and entries are kept per KV head; the authors' code repeats keys to query heads first."

    window: int = knob(32, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)
    kernel: int = knob(5, "Width of the smoothing along the tokens, odd.", 1, 63, 2)
    pool: str = knob("avg", "How votes of neighbours are combined.", choices=("avg", "max"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self)

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        return snap_scores(seen, self.window, self.kernel, self.pool)

    def protected(self, layer: LayerKV, seen: Seen, count: Tensor) -> Tensor:
        return protect(seen.pos(), layer.tokens(), last=count.clamp(max=self.window))

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        # where only the window stays, all heads keep the same tokens and share one list of positions
        return slots * geometry.slot_bytes if first <= self.window else self.layer_bytes(slots, geometry)
