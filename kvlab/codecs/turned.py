"""A store whose coded keys are held as the projection made them, before rotary positions, and turned to their positions when read.

No second list of positions is needed: the slot table has them. Raw keys and protected ones stay as attention wants them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.rope import Rope
from kvlab.store import Store, View


class Turned(Store):
    """`rope`: the rotation of the layer. Coded keys at positions below `sinks` are held already turned."""

    def __init__(self, rope: Rope, sinks: int = 0) -> None:
        super().__init__()
        self.rope, self.sinks = rope, sinks

    def view(self) -> View:
        view, coded = super().view(), self.lens() - self.raw_lens("k")
        if int(coded.max()) == 0:
            return view
        pos = view.pos.expand(-1, view.k.shape[1], -1)
        turned = (torch.arange(pos.shape[2], device=pos.device) < coded[..., None]) & (pos >= self.sinks)
        keys = self.rope.rotate(view.k, pos.clamp(min=0)).to(view.k.dtype)
        return view._replace(k=torch.where(turned[..., None], keys, view.k))


def due_positions(store: Store, name: str, count: Tensor) -> Tensor:
    """Positions [N] of the oldest `count` [B, H] raw slots of a column, packed as `Store.code` hands out their rows."""
    pos = store.pos().expand(-1, count.shape[1], -1)
    start = (store.lens() - store.raw_lens(name))[..., None]
    slot = torch.arange(pos.shape[2], device=pos.device)
    return pos[(slot >= start) & (slot < start + count[..., None])]
