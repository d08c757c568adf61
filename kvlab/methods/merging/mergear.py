"""MergeAR's text analogue: duplicate-token collapse. Card: methods/head_merge_retrieval.md; a reconstruction that is not MergeAR itself.

MergeAR (in MergeVQ, 2025, arXiv 2504.00999) belongs to image tokens: merged grid cells repeat a code, and the cache holds one entry for all
of them. Its cache code is not published. In text the nearest thing is a token that comes again: when its key is enough like the one of an
earlier entry of the same token, not too far back, it gets no slot of its own. The earlier value becomes the mean of all, and the entry
counts as many times as it stands for: the logarithm of that number is added to its logit. Keys carry their position, so the same token far
away looks different; that is why this saves little in text.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.merge import add, takers, total, write
from kvlab.method import Method, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen


def collapse(keys: Tensor, ids: Tensor, pos: Tensor, free: Tensor, new: Tensor, alike: float, distance: int) -> Tensor:
    """The slot each slot goes to, its own where it stays: [B, H, T] int64, ties to the first.

    `keys` [B, H, T, D], `ids` and `pos` [B, H, T]. `new` slots [B, H, T] look, in slot order, for the most alike among the `free` ones before
    them that hold the same token, at most `distance` positions back, and have not gone elsewhere themselves.
    """
    unit, slot = F.normalize(keys.float(), dim=-1), torch.arange(keys.shape[2], device=keys.device)
    target, open_ = slot.expand_as(pos).clone(), free.clone()
    for t in new.flatten(0, 1).any(0).nonzero()[:, 0].tolist():
        near = open_[..., :t] & (ids[..., :t] == ids[..., t : t + 1]) & (pos[..., t : t + 1] - pos[..., :t] <= distance) & (new & free)[..., t : t + 1]
        if not near.any():
            continue
        cosine = (unit[:, :, :t] @ unit[:, :, t, :, None])[..., 0].masked_fill(~near, -torch.inf)
        best = cosine.max(-1)
        joins = near.any(-1) & (best.values > alike)
        target[..., t] = torch.where(joins, best.indices, t)
        open_[..., t] &= ~joins
    return target


@dataclass(frozen=True)
class MergeAR(Method):
    """A token that comes again joins its earlier entry, if their keys are alike."""

    name = "mergear"
    title = "MergeAR's text analogue"
    paper = "after Li et al., arXiv 2504.00999"
    year = 2025
    source = "recon"
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "This is not MergeAR, which merges image tokens in models trained for it and whose cache code is not published. It is kvlab's analogue for text: "
        "duplicate-token collapse. How much it saves is up to the text, so the formula says only what it costs if nothing repeats."
    )

    alike: float = knob(0.9, "Cosine of two keys of the same token above which they become one. Below -1 all do, above 1 none.", -1.1, 1.1, 0.05)
    distance: int = knob(128, "Most positions between the two.", 1, 65536, 1)
    counted: bool = knob(True, "Let an entry count as many times as it stands for. Off: once, the literal version.")

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        ids = self._ids(layer, seen.pos())
        layer.store.tag("mergear.ids", ids)
        others = layer.store.tag("bias" if self.counted else "mergear.others")
        if seen.phase.kind == "chunk":
            return
        stands = others.exp() if self.counted else others + 1
        new = seen.pos() >= self._since(layer)
        target = collapse(seen.view.k, ids, seen.pos(), seen.valid() & takers(layer.store), new, self.alike, self.distance)
        self._merge(layer, seen, target, stands)

    def _merge(self, layer: LayerKV, seen: Seen, target: Tensor, stands: Tensor) -> None:
        slot = torch.arange(target.shape[2], device=target.device).expand_as(target)
        stays = target == slot
        if bool(stays.all()):
            return
        number, v = total(stands, target, target.shape[2]), seen.view.v
        mean = (add(v, slot, target, stands) / number.clamp(min=1)[..., None]).to(v.dtype)
        write(layer.store, "v", torch.where((number > stands)[..., None], mean, v))
        number = torch.where(stays, number, 1)
        layer.store.tag("bias" if self.counted else "mergear.others", number.log() if self.counted else number - 1)
        layer.keep(stays & seen.valid(), into=torch.where(stays, -1, seen.pos().gather(2, target)))

    def _ids(self, layer: LayerKV, pos: Tensor) -> Tensor:
        """Token of each slot plus one, [B, H, T] float32 (whole numbers below 2**24): those of this call are filled in."""
        known, call = layer.store.tag("mergear.ids"), layer.cache.ids
        place = (pos - layer.tokens().view(-1, 1, 1) + call.shape[1]).long()  # a row ends with its newest token
        fresh = call[:, None].expand(-1, pos.shape[1], -1).gather(2, place.clamp(min=0)) + 1
        return torch.where((known == 0) & (pos >= 0) & (place >= 0), fresh.float(), known)

    @staticmethod
    def _since(layer: LayerKV) -> Tensor:
        """First position that has not been looked at before: [B, 1, 1]. What was looked at once stays."""
        since = layer.state.get("mergear", torch.zeros_like(layer.tokens()))
        layer.state["mergear"] = layer.tokens()
        return since.view(-1, 1, 1)

    def refuses(self, geometry: Geometry) -> str | None:
        if geometry.latent:
            return f"{geometry.family} caches latents (MLA), which hold keys and values in one: {self.title} cannot merge values alone."
        return super().refuses(geometry)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return slots * (geometry.slot_bytes + 2 * 4 * geometry.kv_heads)
