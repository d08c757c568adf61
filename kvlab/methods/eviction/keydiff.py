"""KeyDiff (2025, arXiv 2504.15364). Card: methods/eviction.md, from kvpress; the authors published no code that is known.

Keys that point elsewhere than the average key are the ones worth keeping. The prompt's entries are gone through in blocks: what was kept
so far and the next block compete, and the entries least similar to the mean direction of all competitors stay.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import Dropper, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top


def unlikeness(keys: Tensor, among: Tensor) -> Tensor:
    """Minus the cosine of each key to the mean direction of those in `among` [B, H, T]: `keys` [B, H, T, D] -> [B, H, T] float32."""
    directions = F.normalize(keys.float(), dim=-1)
    # the sum points where the mean does
    anchor = (directions * among[..., None]).sum(2, keepdim=True)
    return -F.cosine_similarity(directions, anchor, dim=-1)


@dataclass(frozen=True)
class KeyDiff(Dropper):
    """Keeps the tokens whose keys differ most from the average key; needs no attention weights and no protected tokens."""

    name = "keydiff"
    title = "KeyDiff"
    paper = "Park et al., arXiv 2504.15364"
    year = 2025
    schedule = Schedule(prefill=True)
    departs = "The whole prompt is read before its entries are gone through; in the paper a block is read when the earlier ones are cut already."

    block: int = knob(128, "Entries that join the competition at a time. 0: all at once.", 0, 8192, 8)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        valid, count = seen.valid(), layer.target(self.budget)
        slots = valid.shape[2]
        slot, edge = torch.arange(slots, device=valid.device), count.view(-1, 1, 1)
        stays, scores = valid & (slot < edge), torch.full(valid.shape, torch.nan, device=valid.device)
        while int(edge.min()) < slots:
            block = valid & (slot >= edge) & (slot < edge + (self.block or slots))
            edge = edge + (self.block or slots)
            among = stays | block
            found = unlikeness(seen.view.k, among)
            stays = keep_top(found, count, among)
            scores = torch.where(among, found, scores)
        layer.keep(stays, scores)
