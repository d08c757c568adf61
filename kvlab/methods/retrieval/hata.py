"""HATA (2025, ACL Findings, 2025.findings-acl.1275). Card: methods/head_merge_retrieval.md, from the authors' code.

Everything stays; each KV head reads its best tokens one by one. Of every key a short hash code is held beside it, and its length. A query's
code tells in how many bits it agrees with a key's, which stands for their angle; with the key's length that stands for their product. Scores
are summed over the query heads of a KV head, which then read the same tokens, exactly. The first layers read everything, and so does every
call with more than one new token.

The matrices that make the codes are learned once per model, layer and KV head (`_hash`). They are shared by all runs and lie outside the
cache, so they are no part of its bytes. No token is read whatever its score unless a knob says so: a query may leave its own unread.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.pack import pack
from kvlab.column import Column
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.methods.retrieval._hash import HashTraining
from kvlab.methods.retrieval._slots import listed, read
from kvlab.rows import storage_bytes
from kvlab.select import keep_top, protect
from kvlab.store import Pages, Store, View


def encode(x: Tensor, matrix: Tensor) -> Tensor:
    """Codes [..., bits / 32] int32 of `x` [..., D]: bit j of word w says whether the product with column 32 w + j of `matrix` [..., D, bits] is above 0."""
    return pack((x.float() @ matrix > 0).byte(), 1).view(torch.int32)


def set_bits(words: Tensor) -> Tensor:
    """How many bits of each int32 are set: int32, same shape. Counted in twos, fours and bytes at once; masks take off what a sign bit drags along."""
    words = words - (words >> 1 & 0x55555555)
    words = (words & 0x33333333) + (words >> 2 & 0x33333333)
    words = words + (words >> 4) & 0x0F0F0F0F
    words = words + (words >> 8)
    return words + (words >> 16) & 0x3F


def agreement(q: Tensor, k: Tensor) -> Tensor:
    """Codes `q` [B, Hq, words] and `k` [B, H, T, words] -> [B, H, T] float32: 1 - 2 * share of differing bits, summed over a KV head's query heads."""
    b, heads, slots, words = k.shape
    unlike = k.new_zeros(b, heads, slots)
    for asked in q.unflatten(1, (heads, -1)).unbind(2):
        unlike += set_bits(asked[:, :, None] ^ k).sum(-1, dtype=torch.int32)
    return q.shape[1] // heads - unlike.float() / (16 * words)


class Hashed(Store):
    """A store that holds a code of every key, column "code" [B, H, T, bits / 32] int32, and its length, column "norm" [B, H, T] float16, if asked."""

    def __init__(self, layer: LayerKV, norm: bool) -> None:
        super().__init__()
        self.layer, self.own = layer, ("code", "norm")[: 1 + norm]
        self.columns |= {name: Column() for name in self.own}

    def hash(self, x: Tensor) -> Tensor:
        """Codes [B, Hx, t, bits / 32] of keys or queries `x` [B, Hx, t, D]; a query has the matrix of its KV head."""
        matrices = self.layer.cache.artefact["hata"][self.layer.index].to(x.device).float()
        return encode(x.unflatten(1, (len(matrices), -1)), matrices[:, None]).flatten(1, 2)

    def fresh(self, name: str, k: Tensor) -> Tensor:
        if name == "code":
            return self.hash(k)
        return k.float().norm(dim=-1).half() if name == "norm" else super().fresh(name, k)

    def replace_raw(self, name: str, values: Tensor) -> None:
        super().replace_raw(name, values)
        if name == "k":
            keys, filled = self.columns["k"].dense(), self.valid()
            for own in self.own:
                self.columns[own] = Column()
                self.columns[own].hold(self.fresh(own, keys), filled)

    def scores(self, q: Tensor) -> Tensor:
        """[B, H, T] float32 for one query of every head, `q` [B, Hq, 1, D]: the larger, the likelier its heads look there."""
        alike = agreement(self.hash(q)[:, :, 0], self.columns["code"].dense())
        return alike * self.columns["norm"].dense().float() if "norm" in self.own else alike

    def select(self, lists: Tensor) -> View:
        """The slots in `lists` [B, H, n] int32 (-1: none). All codes and lengths are read to choose them."""
        index = storage_bytes([tensor for name in self.own for tensor in self.columns[name].tensors()])
        return read(self, lists, 1, index)


@dataclass(frozen=True)
class HATA(Method):
    """Each KV head reads the tokens whose short, learned codes are nearest to the query's; nothing is dropped."""

    name = "hata"
    title = "HATA"
    paper = "Gong et al., 2025.findings-acl.1275"
    year = 2025
    needs = ("queries", "calibration")
    departs = (
        "The tokens read are a share of those held instead of a fixed 512 to 2048. Training reads shorter passages of other text (256 tokens), draws new "
        "places for its queries in every epoch, and keeps the matrices in full precision meanwhile. All runs share them; they are no part of the cache's bytes."
    )

    share: float = knob(0.25, "Share of the held tokens each KV head reads, rounded down, at least one. 1: all.", 0.01, 1, 0.01)
    bits: int = knob(128, "Bits of a code.", choices=(32, 64, 128, 256))
    norm: bool = knob(True, "Whether the length of a key counts, or its direction alone.")
    sinks: int = knob(0, "First tokens that are always read, within the share.", 0, 512, 1)
    recent: int = knob(0, "Latest tokens that are always read, within the share.", 0, 512, 1)
    dense: int = knob(2, "First layers that read everything.", 0, 64, 1)
    epochs: int = knob(15, "Lessons of 20 steps that the codes learn from. 0: random codes, and no training.", 0, 1000, 1)
    passages: int = knob(48, "Calibration passages.", 1, 1024, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)

    @property
    def artefact_of(self) -> HashTraining:
        """The matrices, which do not depend on what is read with them."""
        return HashTraining(self.bits, self.epochs, self.passages, self.length)

    def store(self, layer: LayerKV) -> Store:
        return Hashed(layer, self.norm) if layer.index >= self.dense else Store()

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> Pages | None:
        store = (layer.follows or layer).store
        if self.share == 1 or layer.cache.phase.kind != "decode" or q.shape[2] > 1 or not isinstance(store, Hashed):
            return None
        count = (store.lens().double() * self.share).long().clamp(min=1)
        least = count.amin(1)
        recent = least.clamp(max=self.recent)
        fixed = protect(store.pos(), layer.tokens(), (least - recent).clamp(max=self.sinks), recent)
        lists = listed(keep_top(store.scores(q), count, store.valid(), fixed.expand(-1, count.shape[1], -1)))
        held = store.snapshot()  # what the store does later must not show
        return Pages(lists, 1, lambda: held.select(lists))

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        hashed = sum(window is None for window in geometry.windows[self.dense :]) / max(1, geometry.open_layers)
        return slots * geometry.slot_bytes + hashed * slots * geometry.kv_heads * (self.bits // 8 + 2 * self.norm)
