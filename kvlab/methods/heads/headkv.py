"""HeadKV (2024, arXiv 2410.19258). Card: methods/head_merge_retrieval.md, from the authors' code.

A table says how much each head of the model copies from needles. Every head gets a small equal part of the budget; the rest is one pool
for the whole model, shared out by the table. At prefill end each head keeps its own best entries, by SnapKV's votes, and the last tokens.

A head may be given more than the text has. As in the authors' code that surplus is lost by default, which costs a model of few heads much
of its budget at large kept fractions: it then holds less than was asked for, and predicted bytes are an upper bound.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.eviction.snapkv import check_kernel, snap_scores
from kvlab.methods.heads._split import of_layer, open_layers
from kvlab.phase import Schedule
from kvlab.profile import HeadProfile, by_kv_head
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


def shares(table: Tensor, temperature: float = 1.0) -> Tensor:
    """Scores [L, Hq] as shares of the whole model, which sum to 1; equal ones where all scores are 0."""
    if not table.any():
        return torch.full_like(table, 1 / table.numel(), dtype=torch.float64)
    found = (table.double() / table.double().sum()) ** temperature
    return found / found.sum()


def capacities(share: Tensor, count: int, beta: float) -> Tensor:
    """Entries of each head beside the window, int64 like `share` [L, Hq], for `count` on average. The larger `beta`, the larger the equal part."""
    pooled = int(count // beta)
    return (share * pooled * share.numel() + (count - pooled)).round().long()


def fitted(wanted: Tensor, room: int, total: int) -> Tensor:
    """Whole numbers [N] in proportion to `wanted` [N] that sum to `total`, none above `room`: what one head cannot use goes to the others."""
    wanted, full = wanted.double().clamp(min=1e-6), torch.zeros_like(wanted, dtype=torch.bool)
    while not full.all():
        scaled = wanted * ((total - room * int(full.sum())) / wanted[~full].sum())
        if not (more := ~full & (scaled > room)).any():
            break
        full = full | more
    exact = wanted.new_full(wanted.shape, room) if full.all() else torch.where(full, room, scaled)
    whole = (exact + 1e-9).floor()  # three times a third is one
    over = (exact - whole).argsort(descending=True, stable=True)[: round(total - float(whole.sum()))]
    return whole.index_add(0, over, torch.ones_like(whole[over])).long()


@dataclass(frozen=True)
class HeadKV(Dropper):
    """Heads that copy from far back get most of the budget, the same ones for every text."""

    name = "headkv"
    title = "HeadKV"
    paper = "Fu et al., arXiv 2410.19258"
    year = 2024
    needs = ("queries", "calibration")
    schedule = Schedule(prefill=True)
    artefact_of = HeadProfile()
    table: ClassVar[str] = "retrieval"
    departs = (
        "Entries are kept per KV head, with the mean budget and the mean votes of its query heads; the authors' code repeats keys to query heads first. "
        "Heads are scored on texts of at most 512 tokens, the answer read in one pass."
    )

    beta: float = knob(1.01, "How large the equal part is: from 1 (none) on, the authors try 1.005 to 10.", 1, 10, 0.005)
    temperature: float = knob(1.0, "Power of the shares: above 1 the best heads get more still.", 0, 8, 0.1)
    surplus: str = knob("lost", "What a head cannot use is lost, as in the authors' code, or goes to the others.", choices=("lost", "shared"))
    window: int = knob(8, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)
    kernel: int = knob(7, "Width of the smoothing along the tokens, odd.", 1, 63, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        votes = snap_scores(seen, self.window, 1, "max")  # averaged over the query heads first, smoothed then
        scores = F.max_pool1d(votes, self.kernel, stride=1, padding=self.kernel // 2)
        valid, count = seen.valid(), layer.target(self.budget)
        last, tokens = count.clamp(max=self.window), layer.tokens()
        each = [self.entries(layer, int(n), int(room)) for n, room in zip(count - last, tokens - last, strict=True)]
        each = torch.stack(each).to(count.device) + last[:, None]
        roomy = valid.sum(-1).amax(-1) <= count  # a row that fits is left alone
        each = torch.where(roomy[:, None], count[:, None], each)
        layer.keep(keep_top(scores, each, valid, protect(seen.pos(), tokens, last=last)), scores)

    def entries(self, layer: LayerKV, count: int, room: int) -> Tensor:
        """Entries each head of a layer may keep beside the window, [H] int64, for `count` on average over the model; a head can use `room`."""
        geometry = layer.cache.geometry
        table = layer.cache.artefact[self.table][open_layers(geometry)]
        found = by_kv_head(capacities(shares(table, self.temperature), count, self.beta).double(), geometry.kv_heads, "mean").flatten()
        shared = self.surplus == "shared" and count < room
        return of_layer(fitted(found, room, count * len(found)) if shared else found.round().long(), layer)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        uneven = geometry.kv_heads > 1 and not (self.budget.unit == "fraction" and self.budget.amount == 1)
        return super().layer_bytes(slots, geometry) + (3 * 8 * geometry.kv_heads if uneven else 0)
