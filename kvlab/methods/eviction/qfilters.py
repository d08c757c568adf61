"""Q-Filters (2025, arXiv 2503.02812). Card: methods/eviction.md, from the authors' code.

Queries of a head crowd around one direction whatever the text, so the projection of a key on it foretells its attention. The direction is
found once per model on plain text: for each query head the first singular vector of its rotated queries, signed towards most of them,
averaged over the query heads of a KV head. Online no query is looked at. The filters, [L, H, D], are shared by all runs and lie outside
the cache, so they are no part of its bytes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.calibration import sample
from kvlab.method import Method, Scorer, knob
from kvlab.models import LM
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import protect
from kvlab.trace import Silent


def direction(queries: Tensor) -> Tensor:
    """The direction most `queries` [..., N, D] share, not centred, of unit length: [..., D] float32."""
    x = queries.double()
    axis = torch.linalg.eigh(x.mT @ x)[1][..., -1:]  # the first right singular vector, without decomposing N rows
    towards = (x @ axis > 0).double().mean(-2) > 0.5
    return torch.where(towards, axis[..., 0], -axis[..., 0]).float()


class Listener(Silent):
    """Adds the rotated queries [Hq, n, D] at the places `picked` [t] of one passage to those of each layer."""

    def __init__(self, queries: list[list[Tensor]], picked: Tensor) -> None:
        self.queries, self.picked = queries, picked

    def attended(self, layer: LayerKV, store: object, seen: Seen) -> None:
        self.queries[layer.index].append(seen.q[0][:, self.picked])


@dataclass(frozen=True)
class QFilters(Scorer):
    """Keeps the keys that lie towards the side queries usually come from, known before any text is read."""

    name = "qfilters"
    title = "Q-Filters"
    paper = "Godey et al., arXiv 2503.02812"
    year = 2025
    needs = ("calibration",)
    schedule = Schedule(prefill=True, every=1)
    departs = (
        "Calibration reads shorter passages of other text (256 tokens; the authors' have 2048), and the window is half of theirs. A prompt is read whole "
        "before it is cut; the authors' cache cuts first."
    )

    window: int = knob(32, "Last tokens that always stay.", 0, 512, 1)
    passages: int = knob(20, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)
    rows: int = knob(3000, "Queries drawn from all passages to find a head's direction.", 1, 100_000, 1)

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        towards = layer.cache.artefact["filters"][layer.index].to(seen.view.k.device)
        return (seen.view.k.float() @ towards[..., None])[..., 0]

    def protected(self, layer: LayerKV, seen: Seen, count: Tensor) -> Tensor:
        return protect(seen.pos(), layer.tokens(), last=count.clamp(max=self.window))

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"filters": [L, H, D] float32}: for each KV head the mean of its query heads' directions, towards the queries."""
        ids = sample(lm, self.passages, self.length)
        order = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(0))
        picked = (order.argsort() < self.rows).view(ids.shape).to(lm.device)
        queries: list[list[Tensor]] = [[] for _ in range(lm.geometry.layers)]
        for passage, places in zip(ids, picked, strict=True):
            cache = KVCache(Method(), lm.geometry, 1, Listener(queries, places), lm.device)
            cache.tokens = torch.tensor([len(passage)], device=lm.device)
            positions = torch.arange(len(passage), device=lm.device)[None]
            lm.model.get_decoder()(input_ids=passage[None], position_ids=positions, past_key_values=cache, use_cache=True)
        found = [direction(torch.cat(parts, dim=1)).unflatten(0, (lm.geometry.kv_heads, -1)).mean(1) for parts in queries]
        return {"filters": torch.stack(found).cpu()}
