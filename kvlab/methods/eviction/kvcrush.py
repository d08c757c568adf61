"""KVCrush (2025, arXiv 2503.00022). Card: methods/eviction.md; the paper's form, reconstructed, and the blocks of the authors' shipped code.

Most of the budget goes to the best tokens. The rest goes to representatives of those that leave: every token is a word of bits, one for
each query head, that says which heads would have kept it. Tokens are sorted by their distance to one anchor word and picked evenly.
The shipped code does so with blocks of neighbouring tokens, whose bits say which of them are in the better half of all tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
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
        "In the form of blocks, as shipped, representatives are a part of the budget and not on top of it, only the prompt's end is scored, and tokens "
        "that fill no block are the first ones and stay."
    )

    form: str = knob("heads", "What is compared: tokens by the heads that would keep them, or blocks by their better tokens.", choices=("heads", "blocks"))
    block: int = knob(32, "Tokens of a block.", 2, 128, 1)
    share: float = knob(0.25, "Share of the budget for representatives. 0: SnapKV with votes summed over all heads.", 0, 1, 0.05)
    anchor: str = knob("random", "The word all tokens are compared with.", choices=("random", "zeros", "ones", "alternating", "majority"))
    seed: int = knob(0, "Seed of a random anchor.", 0, 2**31 - 1, 1)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        votes, count, valid = snap_votes(seen, self.window, self.kernel, self.pool), layer.target(self.budget), seen.valid()
        window = self.protected(layer, seen, count)
        free, room = (valid & ~window)[:, :1], count - count.clamp(max=self.window)
        total = votes.sum(1, keepdim=True)
        if self.form == "blocks":
            layer.keep(window | self._blocks(total[:, 0], free[:, 0], room, layer.index)[:, None], total.expand(valid.shape))
            return
        extra = (room.double() * self.share).round().long()
        best = keep_top(total, room - extra, free)
        leaving = (free & ~best)[:, 0]
        bits = keep_top(votes, room - extra, free.expand_as(votes))
        stand = representatives(bits, self._anchor(bits, leaving, layer.index), leaving, extra)
        layer.keep(window | best | stand[:, None], total.expand(valid.shape))

    def _blocks(self, votes: Tensor, free: Tensor, room: Tensor, layer: int) -> Tensor:
        """What stays of the slots `free` [B, T], by their `votes` [B, T], in blocks: [B, T] bool. `room` [B] slots may."""
        size, most = self.block, int(free.sum(-1).max()) // self.block
        plans = [self._plan(*row) for row in zip(free.sum(-1).tolist(), room.tolist(), strict=True)]
        start, best, extra = (torch.tensor(x, device=votes.device) for x in zip(*plans, strict=True))
        first = free.sum(-1) % size
        index = first[:, None] + torch.arange(most * size, device=votes.device)
        exists = (index < free.sum(-1, keepdim=True)).view(len(votes), most, size)
        tokens = votes.gather(1, index.clamp(max=votes.shape[1] - 1)).view(exists.shape)
        good = keep_top(tokens.flatten(1)[:, None], exists.flatten(1).sum(-1) // 2, exists.flatten(1)[:, None])[:, 0].view(exists.shape)
        whole = exists.all(-1)
        chosen = keep_top((tokens * exists).sum(-1)[:, None], best, whole[:, None])[:, 0]
        bits = good.mT
        stand = representatives(bits, self._anchor(bits, whole, layer), whole & ~chosen, extra)
        stays = (chosen | stand).repeat_interleave(size, dim=1)
        slot = torch.arange(votes.shape[1], device=votes.device).expand_as(votes)
        reached = (slot >= first[:, None]) & free
        held = F.pad(stays, (0, 1)).gather(1, torch.where(reached, slot - first[:, None], stays.shape[1]))
        return free & (held | (slot < start[:, None]))

    def _plan(self, free: int, room: int) -> tuple[int, int, int]:
        """First tokens that stay, best blocks, and blocks that stand for others, of `free` tokens with `room`."""
        first = free % self.block
        if room >= free:
            return first, free // self.block, 0
        blocks = max(0, room - first) // self.block
        extra = int(blocks * self.share)
        return min(first, room), blocks - extra, extra

    def kept(self, tokens: int, prompt: int) -> float:
        count = self.budget.tokens(prompt)
        last = min(count, self.window)
        first, best, extra = self._plan(prompt - last, count - last)
        return super().kept(tokens, prompt) if self.form == "heads" else last + first + (best + extra) * self.block + tokens - prompt

    def _anchor(self, bits: Tensor, leaving: Tensor, layer: int) -> Tensor:
        """[B or 1, Hq] bool; a majority is that of the tokens `leaving` [B, T]."""
        heads = torch.arange(bits.shape[1], device=bits.device)[None]
        if self.anchor == "majority":
            return 2 * (bits & leaving[:, None]).sum(-1) > leaving.sum(-1, keepdim=True)
        if self.anchor == "random":
            return torch.from_numpy(np.random.default_rng((self.seed, layer)).random(bits.shape[1]) < 0.5)[None].to(bits.device)
        return {"zeros": heads < 0, "ones": heads >= 0, "alternating": heads % 2 == 1}[self.anchor]
