"""MagicPIG (2024, arXiv 2410.16179). Card: methods/head_merge_retrieval.md, from the authors' code.

Everything stays; each query head reads a sample. At the end of a prompt every key, less the mean of its head's keys, is hashed: in each of
L tables its code is on which side of K random planes it lies. A query head reads the tokens whose code is its own in at least two tables.
How likely that was follows from the angle between the two, so each sampled logit is lowered by the log of that chance: softmax over the
sample then stands for softmax over all, an importance sample in which rare finds weigh more. The first and last tokens of the prompt, and
all that came after it, are read by everyone and need no correction.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.column import Column
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.methods.retrieval._slots import listed, read
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.store import Store, View

FLOOR = 1e-4
"""Added to a chance before its log, as in the authors' code."""
BLOCK = 256
"""Slots hashed at once."""


def codes(x: Tensor, planes: Tensor, bits: int) -> Tensor:
    """The side of each plane that `x` [..., D] lies on, `bits` planes to a table: [..., D] and [D, tables * bits] -> [..., tables] int16."""
    sides = (x.float() @ planes.float() > 0).unflatten(-1, (-1, bits))
    return (sides * 2 ** torch.arange(bits, device=x.device)).sum(-1).to(torch.int16)


def chance(cosine: Tensor, bits: int, tables: int) -> Tensor:
    """How likely two vectors with this cosine have the same code in at least two tables."""
    same = (1 - cosine.clamp(-1, 1).arccos() / math.pi) ** bits
    return 1 - (1 - same) ** tables - tables * same * (1 - same) ** (tables - 1)


class Hashed(Store):
    """A store with `codes` [B, H, n, tables] int16 of the first slots of each head, the `mean` [B, H, 1, D] of their keys, and the `planes`.

    `planes` [D, tables * bits] are one tensor for all layers of a cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self.codes = Column()
        self.mean: Tensor | None = None
        self.planes: Tensor | None = None

    def snapshot(self) -> Store:
        twin = super().snapshot()
        twin.codes = self.codes.copy()
        return twin

    def keep(self, mask: Tensor) -> None:
        if self.codes.all_parts():
            self.codes.keep(mask[..., : int(self.codes.lens().max())])
        super().keep(mask)

    def hash(self, planes: Tensor, bits: int, first: int, before: Tensor) -> None:
        """Hash the slots at positions below `before` [B]; those below `first` do not count for the mean."""
        keys, pos = self.columns["k"].dense(), self.pos()
        covered = self.valid() & (pos < before.view(-1, 1, 1))
        middle = (covered & (pos >= first))[..., None]
        self.mean = (keys.float() * middle).sum(2, keepdim=True).div(middle.sum(2, keepdim=True).clamp(min=1)).to(keys.dtype)
        self.planes, self.codes = planes, Column()
        self.codes.hold(torch.cat([codes(block - self.mean, planes, bits) for block in keys.split(BLOCK, dim=2)], dim=2), covered)

    def tensors(self) -> list[Tensor]:
        return super().tensors() + self._index()

    def _index(self) -> list[Tensor]:
        return self.codes.tensors() + [tensor for tensor in (self.mean, self.planes) if tensor is not None]

    def select(self, lists: Tensor) -> View:
        """The slots in `lists` [B, Hq, n] int32 (-1: none): a view with Hq heads."""
        return read(self, lists, 1, sum(tensor.nbytes for tensor in self._index()))


@dataclass(frozen=True)
class MagicPIG(Method):
    """Each query reads a random sample, keys near its own direction more likely, and corrects for it; nothing is dropped."""

    name = "magicpig"
    title = "MagicPIG"
    paper = "Chen et al., arXiv 2410.16179"
    year = 2024
    needs = ("queries",)
    departs = (
        "Everything is on one device, and codes are compared one by one instead of looked up in hash tables, so codes count as cache: 300 bytes a token and "
        "KV head at 150 tables. Keys are held as they are: only hashing and angles take their mean off, which moves all logits of a query alike. "
        "An entry that several query heads of a KV head look at counts as read once."
    )
    schedule = Schedule(prefill=True)

    bits: int = knob(10, "Planes of a table, bits of a code: the more, the fewer tokens are read. 0: all are.", 0, 15, 1)
    tables: int = knob(150, "Hash tables: the more, the more tokens are read, and the more bytes the codes take.", 2, 1000, 1)
    sinks: int = knob(4, "First tokens that are always read.", 0, 128, 1)
    recent: int = knob(64, "Last tokens of the prompt that are always read, as is all that is written.", 0, 1024, 1)
    dense: int = knob(16, "One layer in so many reads everything, from the first on.", 1, 64, 1)
    seed: int = knob(0, "Which random planes.", 0, 1000000, 1)

    def store(self, layer: LayerKV) -> Store:
        return Hashed() if self.bits and layer.index % self.dense else Store()

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        if isinstance(layer.store, Hashed):
            layer.store.hash(self._planes(layer), self.bits, self.sinks, layer.tokens() - self.recent)

    def _planes(self, layer: LayerKV) -> Tensor:
        """The planes that some layer has already, or new ones."""
        for other in layer.cache.layers:
            if isinstance(other.store, Hashed) and other.store.planes is not None:
                return other.store.planes
        keys = layer.store.columns["k"].dense()
        return torch.randn(keys.shape[-1], self.tables * self.bits, generator=torch.Generator().manual_seed(self.seed)).to(keys)

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | None:
        store = (layer.follows or layer).store
        if layer.cache.phase.kind != "decode" or q.shape[2] > 1 or not isinstance(store, Hashed) or not store.codes.all_parts():
            return None
        heads, pos = store.codes.heads, store.pos()
        mine = codes(q[:, :, 0], store.planes, self.bits).unflatten(1, (heads, -1))
        theirs, slot = store.codes.dense(), torch.arange(pos.shape[2], device=q.device)
        covered = slot < store.codes.lens()[..., None]
        always = store.valid() & (~covered | (pos < self.sinks))
        hits = (theirs[:, :, None] == mine[:, :, :, None]).sum(-1)  # [B, H, G, n]
        sampled = torch.zeros(*mine.shape[:3], pos.shape[2], dtype=torch.bool, device=q.device)
        sampled[..., : theirs.shape[2]] = hits >= 2
        sampled = (sampled & (covered & ~always)[:, :, None]).flatten(1, 2)
        lists = listed(sampled | always.repeat_interleave(mine.shape[2], 1))
        view, drawn = store.select(lists), sampled.gather(2, lists.long().clamp(min=0))
        lift = torch.where(drawn, -(self._chance(q, view.k, store.mean) + FLOOR).log(), 0)
        return view._replace(bias=lift if view.bias is None else view.bias + lift)

    def _chance(self, q: Tensor, k: Tensor, mean: Tensor) -> Tensor:
        """Of each key [B, Hq, n, D] that a query head looks at, to have been sampled: [B, Hq, n] float32."""
        centred = (k - mean.repeat_interleave(q.shape[1] // mean.shape[1], 1)).float()
        return chance(torch.cosine_similarity(q.float(), centred, dim=-1), self.bits, self.tables)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return self.held_bytes(slots, slots, 0, geometry)

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        index = geometry.kv_heads * (2 * self.tables * max(0, first - self.recent) + geometry.head_dim * geometry.itemsize)
        return slots * geometry.slot_bytes + self._hashed(geometry) / max(1, geometry.open_layers) * index

    def extra_bytes(self, tokens: int, prompt: int, geometry: Geometry) -> float:
        return geometry.head_dim * self.bits * self.tables * geometry.itemsize * bool(self._hashed(geometry))

    def _hashed(self, geometry: Geometry) -> int:
        """Layers that are read in part."""
        return sum(window is None and i % self.dense > 0 for i, window in enumerate(geometry.windows)) if self.bits else 0
