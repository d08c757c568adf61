"""KVCrush (2025, arXiv 2503.00022). Card: methods/eviction.md; the paper's form, reconstructed. The authors' shipped code works on blocks.

Most of the budget goes to the best tokens. The rest goes to representatives of those that leave: every token is a word of bits, one for
each query head, that says which heads would have kept it. Tokens are sorted by their distance to one anchor word and picked evenly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import knob
from kvlab.methods.eviction.snapkv import SnapKV, snap_votes
from kvlab.seen import Seen
from kvlab.select import keep_top, ranks


def representatives(bits: Tensor, anchor: Tensor, leaving: Tensor, count: Tensor) -> Tensor:
    """Mask [B, T] of `count` [B] tokens of those `leaving` [B, T], evenly over their distances to the anchor; ties in slot order.

    `bits` [B, Hq, T] and `anchor` [B or 1, Hq] are bool. Where fewer leave than are to be picked, all are.
    """
    distance = (bits != anchor[..., None]).sum(1)
    place = ranks(-distance.float(), torch.zeros_like(leaving), leaving)
    step = (leaving.sum(-1) // count.clamp(min=1)).clamp(min=1)[:, None]
    return leaving & (place % step == 0) & (place // step < count[:, None])


@dataclass(frozen=True)
class KVCrush(SnapKV):
    """Spends a part of the budget on tokens that stand for the ones dropped."""

    name = "kvcrush"
    title = "KVCrush"
    paper = "Jha et al., arXiv 2503.00022"
    year = 2025
    source = "recon"
    per_head = False
    departs = (
        "Reconstructed: bits for query heads as the paper tells it, with SnapKV's votes as scores and all heads of a layer keeping the same tokens. "
        "The shipped code compares blocks of tokens instead and adds its representatives on top of the budget."
    )

    share: float = knob(0.25, "Share of the budget for representatives. 0: SnapKV with votes summed over all heads.", 0, 1, 0.05)
    anchor: str = knob("random", "The word all tokens are compared with.", choices=("random", "zeros", "ones", "alternating", "majority"))
    seed: int = knob(0, "Seed of a random anchor.", 0, 2**31 - 1, 1)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        votes, count, valid = snap_votes(seen, self.window, self.kernel, self.pool), layer.target(self.budget), seen.valid()
        window = self.protected(layer, seen, count)
        free, room = (valid & ~window)[:, :1], count - count.clamp(max=self.window)
        extra = (room.double() * self.share).round().long()
        total = votes.sum(1, keepdim=True)
        best = keep_top(total, room - extra, free)
        leaving = (free & ~best)[:, 0]
        bits = keep_top(votes, room - extra, free.expand_as(votes))
        stand = representatives(bits, self._anchor(bits, leaving, layer.index), leaving, extra)
        layer.keep(window | best | stand[:, None], total.expand(valid.shape))

    def _anchor(self, bits: Tensor, leaving: Tensor, layer: int) -> Tensor:
        """[B or 1, Hq] bool; a majority is that of the tokens `leaving` [B, T]."""
        heads = torch.arange(bits.shape[1], device=bits.device)[None]
        if self.anchor == "majority":
            return 2 * (bits & leaving[:, None]).sum(-1) > leaving.sum(-1, keepdim=True)
        if self.anchor == "random":
            return torch.from_numpy(np.random.default_rng((self.seed, layer)).random(bits.shape[1]) < 0.5)[None].to(bits.device)
        return {"zeros": heads < 0, "ones": heads >= 0, "alternating": heads % 2 == 1}[self.anchor]
