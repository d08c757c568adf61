"""What calibrated quantizers learn from: keys, values and queries of one pass over plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.calibration import sample
from kvlab.method import Method
from kvlab.models import LM
from kvlab.rope import ropes
from kvlab.seen import Seen
from kvlab.trace import Silent


@dataclass(frozen=True)
class Captured:
    """Of one layer, N tokens: `q` [N, Hq, D], `k` and `v` [N, H, D] as the cache gets them, `plain` the keys before rotation. float32."""

    q: Tensor
    k: Tensor
    v: Tensor
    plain: Tensor | None


class _Listener(Silent):
    def __init__(self, queries: list[list[Tensor]]) -> None:
        self.queries = queries

    def attended(self, layer: LayerKV, store: object, seen: Seen) -> None:
        self.queries[layer.index].append(seen.q[0].transpose(0, 1))


@torch.no_grad()
def captured(lm: LM, passages: int, length: int, skip: int = 0, before_rope: bool = False) -> list[Captured]:
    """Layer by layer. The first `skip` tokens of every passage are left out, as methods that protect them do."""
    turns = ropes(lm) if before_rope else None
    queries: list[list[Tensor]] = [[] for _ in range(lm.geometry.layers)]
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in queries]
    places = torch.arange(length, device=lm.device)
    for passage in sample(lm, passages, length):
        cache = KVCache(Method(), lm.geometry, 1, _Listener(queries), lm.device)
        cache.tokens = torch.tensor([length], device=lm.device)
        lm.model.get_decoder()(input_ids=passage[None], position_ids=places[None], past_key_values=cache, use_cache=True)
        for i, layer in enumerate(cache.layers):
            view = layer.store.view()
            pos = view.pos[0, 0]
            plain = turns[i].unrotate(view.k[0], pos) if turns else view.k[0]
            found[i].append(tuple(x.transpose(0, 1)[pos >= skip].float() for x in (view.k[0], view.v[0], plain)))
    made = []
    for asked, parts in zip(queries, found, strict=True):
        k, v, plain = (torch.cat(each) for each in zip(*parts, strict=True))
        made.append(Captured(torch.cat([x[skip:] for x in asked]).float(), k, v, plain if before_rope else None))
    return made


def learned(name: str, found: list[Captured], learn: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """{"<name> k", "<name> v"}: what `learn` makes of each layer's keys before rotation, and of its values, [N, H, D], stacked in float16."""
    rows = {"k": [layer.plain for layer in found], "v": [layer.v for layer in found]}
    return {f"{name} {column}": torch.stack([learn(x) for x in each]).half().cpu() for column, each in rows.items()}
