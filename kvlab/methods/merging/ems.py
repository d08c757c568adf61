"""EMS, evict then merge (2024, arXiv 2412.08521). Card: methods/head_merge_retrieval.md; no code of the authors was found: a reconstruction.

An entry counts by the attention of the whole prompt or by that of its last queries, whichever says more. The best stay as centres. The next
best are not worth a slot but worth keeping: each joins the centre whose key is most like its own, unless even that is too unlike. The
rest is dropped. Members count by their scores; keys are averaged as directions, and the centre's key keeps its length.

Reconstructed: how the two sums get one scale, how many may merge, the likeness asked for, and all that happens while text is written.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.merge import add, into, leaving, nearest, takers, total, write
from kvlab.method import Dropper, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


def global_local(everywhere: Tensor, late: Tensor, scored: Tensor) -> Tensor:
    """The larger of both sums of attention [B, H, T], the first brought to the scale of the second over the `scored` slots."""
    sums = [(x * scored).sum(-1, keepdim=True) for x in (everywhere, late)]
    return torch.maximum(everywhere * (sums[1] / sums[0]).nan_to_num(0, posinf=0), late)


def pooled_keys(keys: Tensor, slot: Tensor, target: Tensor, own: Tensor, weight: Tensor) -> Tensor:
    """Keys [B, H, T, D] turned towards their members: `own` [B, H, T] is a slot's weight in its own mean, `weight` [B, H, E] that of each leaving one."""
    unit = F.normalize(keys.float(), dim=-1)
    mean = F.normalize(unit * own[..., None] + add(unit, slot, target, weight), dim=-1)
    return mean * keys.float().norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class EMS(Dropper):
    """The best entries stay, the next best merge into the one most like them, the rest is dropped."""

    name = "ems"
    title = "EMS"
    paper = "Li et al., arXiv 2412.08521"
    year = 2024
    source = "recon"
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "No code of the authors was found. Known are the two sums of attention and their maximum, the split in three and the weighted merging; the sums' "
        "scale, the window, how many merge, the likeness asked for and the steps while text is written are kvlab's choices."
    )

    window: int = knob(32, "Queries at the prompt's end that make the second sum. Their entries, at most half the budget, stay and take nothing.", 1, 512, 1)
    merged: float = knob(1.0, "Entries that may merge, as a multiple of the centres.", 0, 8, 0.25)
    alike: float = knob(0.6, "Smallest cosine with a centre's key; what is less alike is dropped. Above 1 nothing merges.", -1.1, 1.1, 0.05)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        scores = layer.store.tag("ems") + seen.column_sums()
        if seen.phase.kind == "prefill":
            rows = seen.weights(self.window)
            late = seen.by_kv_head((rows * seen.real[:, None, -rows.shape[2] :, None]).sum(2), "mean")
            scores = global_local(scores, late, seen.valid() & ~protect(seen.pos(), layer.tokens(), last=self.window))
        layer.store.tag("ems", scores)
        if seen.phase.kind != "chunk":
            self._cut(layer, seen, scores)

    def _cut(self, layer: LayerKV, seen: Seen, scores: Tensor) -> None:
        store, view, valid, count = layer.store, seen.view, seen.valid(), layer.target(self.budget)
        window = protect(seen.pos(), layer.tokens(), last=(count // 2).clamp(max=self.window))
        stays = keep_top(scores, count, valid, window)
        if bool((stays == valid).all()):
            return
        centres = stays & ~window
        most = (centres.sum(-1) * self.merged).round().long()
        slot, real = leaving(keep_top(scores, most, valid & ~stays))
        target, alike = nearest(view.k, slot, centres & takers(store))
        merges = real & (alike >= self.alike) & (alike > -torch.inf)
        gained = total(torch.where(merges, scores.gather(2, slot), 0), target, scores.shape[2])
        together = scores + gained
        took = (total(merges, target, scores.shape[2]) > 0)[..., None]
        own = (scores / together).nan_to_num(1)
        weight = torch.where(merges, (scores.gather(2, slot) / together.gather(2, target)).nan_to_num(0), 0)
        v = view.v.float() * own[..., None] + add(view.v, slot, target, weight)
        for name, x, y in (("k", view.k, pooled_keys(view.k, slot, target, own, weight)), ("v", view.v, v)):
            write(store, name, torch.where(took, y.to(x.dtype), x))
        store.tag("ems", together)
        layer.keep(stays, scores, into(seen.pos(), slot, target, merges))

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return super().layer_bytes(slots, geometry) + slots * 4 * geometry.kv_heads
