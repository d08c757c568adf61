"""GraphKV (2025, arXiv 2509.00388). Card: methods/eviction.md, reconstructed: the authors publish a figure of the mechanism, and no code of it.

Scores of another method are passed along a graph of tokens. The best tokens are sources; those whose keys are most like a source's say
nearly the same and lose in proportion to the likeness, so that what stays is important and different.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.eviction.pyramidkv import PyramidKV
from kvlab.methods.eviction.snapkv import snap_scores
from kvlab.seen import Seen
from kvlab.select import keep_top


def share_of(count: Tensor, share: float) -> Tensor:
    """`share` of `count` [B], rounded up."""
    return (count.double() * share - 1e-9).ceil().long()  # a tenth of 30 is 3, also where floating point makes it a little more


def decayed(scores: Tensor, keys: Tensor, sources: Tensor, targets: Tensor, near: Tensor) -> Tensor:
    """`scores` [B, H, T] after each of the `sources` took from its `near` [B] most alike `targets` their cosine's part of the old score.

    `keys` [B, H, T, D]; `sources` and `targets` are masks [B, H, T]. What two sources take adds up and may leave less than nothing.
    """
    most = int(sources.sum(-1).max())
    if most == 0:
        return scores
    keys = F.normalize(keys.float(), dim=-1)
    slots = sources.long().argsort(dim=-1, descending=True, stable=True)[..., :most]
    mine = keys.gather(2, slots[..., None].expand(-1, -1, -1, keys.shape[-1]))
    edges = (mine @ keys.transpose(-1, -2)).clamp(min=0)  # tokens that point away are not the same said twice: nothing to take, or to add
    reach = targets[:, :, None] & sources.gather(2, slots)[..., None]
    active = keep_top(edges.flatten(1, 2), near, reach.flatten(1, 2)).view_as(edges)
    return scores * (1 - (edges * active).sum(2))


@dataclass(frozen=True)
class GraphKV(PyramidKV):
    """Lowers the scores of tokens that resemble the most important ones, so that fewer of a kind stay."""

    name = "graphkv"
    title = "GraphKV"
    paper = "Li et al., arXiv 2509.00388"
    year = 2025
    source = "recon"
    departs = (
        "Reconstructed from the paper's figure. How many sources and neighbours there are, that negative cosines count as 0, that later rounds "
        "take the next best tokens as sources, and that key norms are shifted to start at 0 are kvlab's choices."
    )

    base: str = knob("snapkv", "Whose scores, and whose budgets for the layers, are the start.", choices=("snapkv", "pyramidkv", "knorm"))
    sources: float = knob(0.25, "Sources, as a share of the entries that can stay.", 0.01, 1, 0.05)
    near: float = knob(0.1, "Neighbours a source takes from, as a share of the tokens.", 0.01, 1, 0.01)
    rounds: int = knob(1, "Rounds, each with new sources.", 1, 8, 1)
    window: int = knob(32, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        count = self.room(layer)
        free = seen.valid() & ~self.protected(layer, seen, count)
        found, used = self._base(seen, free), torch.zeros_like(free)
        each, near = share_of(count - count.clamp(max=self.window), self.sources), share_of(free[:, 0].sum(-1), self.near)
        for _ in range(self.rounds):
            new = keep_top(found, each, free & ~used)
            used = used | new
            found = decayed(found, seen.view.k, new, free & ~used, near)
        return found

    def _base(self, seen: Seen, free: Tensor) -> Tensor:
        """Scores [B, H, T] of the method to start from, none below 0: a negative one would gain by losing a part."""
        if self.base != "knorm":
            return snap_scores(seen, self.window, self.kernel, self.pool)
        norms = seen.view.k.float().norm(dim=-1).round(decimals=3)  # as Knorm does: rotation moves them a little
        return norms.masked_fill(~free, 0).amax(-1, keepdim=True) - norms

    def room(self, layer: LayerKV) -> Tensor:
        return super().room(layer) if self.base == "pyramidkv" else layer.target(self.budget)

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return super().layer_kept(layer, tokens, prompt, geometry) if self.base == "pyramidkv" else self.kept(tokens, prompt)
