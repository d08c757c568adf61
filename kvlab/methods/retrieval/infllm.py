"""InfLLM (2024, arXiv 2402.04617). Card: methods/head_merge_retrieval.md, from the authors' code.

Everything stays; a query reads the first tokens, the latest ones, and of what lies between a few blocks of consecutive tokens. What is out of
the window of the latest tokens is read as if it stood at the window's edge, however far it is: its keys are turned there. A block is
represented by the mean of a few of its keys, those that got most attention while they were in the window. Its score is the sum over all heads
of query times representative, so all heads of a layer read the same blocks. Tokens out of the window that fill no block yet are always read.

Calls with more than one new token read everything, at true positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.attention import QUERY_BLOCK, softmax_rows, visible
from kvlab.cache import LayerKV
from kvlab.column import Column
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.methods.retrieval._slots import listed, read
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top
from kvlab.store import Store, View


def local_sums(seen: Seen, window: int) -> Tensor:
    """Attention each slot of the view got from queries less than `window` positions behind it, over the queries of this call: [B, H, T] float32."""
    total = seen.view.k.new_zeros(seen.valid().shape, dtype=torch.float32)
    for start in range(0, seen.q.shape[2], QUERY_BLOCK):
        places = seen.q_pos[:, start : start + QUERY_BLOCK]
        rows = softmax_rows(seen.q[:, :, start : start + QUERY_BLOCK], seen.view, places, seen.rules)
        near = visible(seen.pos(), places, window)  # where a query's tokens have all left, its row of weights says nothing
        total = total + (seen.by_kv_head(rows, "mean") * near).sum(2)
    return total


def by_head(x: Tensor, pos: Tensor, at: Tensor) -> Tensor:
    """The numbers `x` [B, H, n] of the positions `pos` [B, H, n] (-1: none), for the positions `at` [B, H, T]: zero where `pos` has none of those."""
    size = int(torch.maximum(pos.max(), at.max())) + 1
    table = x.new_zeros(*x.shape[:2], size + 1).scatter_(2, torch.where(pos >= 0, pos, size).long(), x)
    return table.gather(2, torch.where(at >= 0, at, size).long()).masked_fill(at < 0, 0)


def representatives(keys: Tensor, block: Tensor, score: Tensor, count: int, best: int) -> Tensor:
    """[B, H, count, D] float32: for each block the mean of the `best` keys [B, H, T, D] with the highest `score` of those it has.

    `block` [B, H, T]: which block a slot is of; numbers outside 0 .. count - 1 are none. A block without slots is represented by zeros.
    """
    block = torch.where((block >= 0) & (block < count), block, count).long()
    order = score.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(2, block.gather(2, order).argsort(dim=-1, stable=True))  # by block, in each the highest first
    block = block.gather(2, order)
    rank = torch.arange(block.shape[2], device=block.device) - torch.searchsorted(block, block)
    block = torch.where(rank < best, block, count)[..., None]
    picked = keys.float().gather(2, order[..., None].expand_as(keys))
    total = picked.new_zeros(*block.shape[:2], count + 1, keys.shape[3]).scatter_add(2, block.expand_as(picked), picked)
    many = picked.new_zeros(*block.shape[:2], count + 1, 1).scatter_add(2, block, torch.ones_like(block, dtype=torch.float32))
    return total[:, :, :count] / many[:, :, :count].clamp(min=1)


class Blocks(Store):
    """A store with a number for every slot, column "local" [B, H, T] float32, the attention it got while in the window, and the blocks that have left it.

    `heads` [B, H, blocks, D]: their representatives, made of keys before rotation. Blocks are counted by position, so that they stay what
    they are when slots leave.
    """

    def __init__(self, layer: LayerKV, method: InfLLM) -> None:
        super().__init__()
        self.layer, self.method, self.heads = layer, method, None
        self.columns["local"] = Column()

    def complete(self) -> Tensor:
        """Blocks that have left the window, of each row: [B] int64."""
        return ((self.layer.tokens() - self.method.local - self.method.sinks) // self.method.block).clamp(min=0)

    def refresh(self) -> None:
        """Representatives for all blocks that have left the window; nothing to do when none has since."""
        count = int(self.complete().max())
        if count == (0 if self.heads is None else self.heads.shape[2]):
            return
        keys, pos = self.columns["k"].dense(), self.pos()
        plain = self.layer.rope.unrotate(keys, pos.clamp(min=0))
        found = representatives(plain, self.block_of(pos).expand(keys.shape[:3]), self.tag("local"), count, self.method.best)
        self.heads = found.to(keys.dtype)

    def block_of(self, pos: Tensor) -> Tensor:
        """Which block a position is of; negative for the first tokens and for holes."""
        return torch.where(pos < 0, -1, (pos - self.method.sinks).div(self.method.block, rounding_mode="floor"))

    def note(self, got: Tensor, pos: Tensor) -> None:
        """Add the attention `got` [B, H, n] by the tokens at `pos` [B, H, n]."""
        self.tag("local", self.tag("local") + by_head(got, pos, self.pos().expand(-1, got.shape[1], -1)))

    def keep(self, mask: Tensor) -> None:
        super().keep(mask)
        self._again()

    def replace_raw(self, name: str, values: Tensor) -> None:
        super().replace_raw(name, values)
        if name == "k":
            self._again()

    def _again(self) -> None:
        if self.heads is not None:
            self.heads = None
            self.refresh()

    def tensors(self) -> list[Tensor]:
        return super().tensors() + ([] if self.heads is None else [self.heads])


@dataclass(frozen=True)
class InfLLM(Method):
    """A window of the latest tokens, the first ones, and a few blocks of the past, all read as if they were near; nothing is dropped."""

    name = "infllm"
    title = "InfLLM"
    paper = "Xiao et al., arXiv 2402.04617"
    year = 2024
    needs = ("queries", "weights", "rope")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "Prompts and questions are read in full at true positions, in one piece; the authors read them through the window too, and so go beyond the length "
        "a model was trained for, which this form does not show. Attention in the window is counted on that. Sizes are a thirty-second to a half of theirs. "
        "What a token got while it was in the window stays counted afterwards."
    )

    sinks: int = knob(8, "First tokens that are always read.", 0, 512, 1)
    local: int = knob(64, "Latest tokens that are always read, at true positions.", 1, 8192, 1)
    block: int = knob(16, "Tokens of a block.", 1, 512, 1)
    blocks: int = knob(4, "Blocks a query reads.", 0, 512, 1)
    best: int = knob(4, "Keys that represent a block.", 1, 64, 1)

    def store(self, layer: LayerKV) -> Store:
        return Blocks(layer, self)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        if layer.cache.late and seen.phase.kind == "chunk":
            return  # these queries come again, after the scoring passes
        layer.store.note(local_sums(seen, self.local), seen.pos())
        layer.store.refresh()

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | None:
        store = (layer.follows or layer).store
        if layer.cache.phase.kind != "decode" or q.shape[2] > 1 or int(q_pos.max()) < self.local:
            return None
        store.refresh()
        pos, p = store.pos().expand(*store.lens().shape, -1), q_pos[:, None]
        far = (pos >= 0) & (pos <= p - self.local)
        chosen = (pos >= 0) & ~far | far & self._chosen(layer, store, q, q_pos, store.block_of(pos))
        view = read(store, listed(chosen), 1, 0 if store.heads is None else store.heads.nbytes)
        by = (p - (self.local - 1) - view.pos).clamp(min=0).masked_fill(view.pos < 0, 0)
        turned = layer.rope.shift(view.k, by).to(view.k.dtype)
        return view._replace(k=torch.where((by > 0)[..., None], turned, view.k))

    def _chosen(self, layer: LayerKV, store: Blocks, q: Tensor, q_pos: Tensor, block: Tensor) -> Tensor:
        """[B, H, T] bool: slots before all blocks, of the best ones, or behind the last that has left the window."""
        complete = store.complete()[:, None, None]
        outside = (block < 0) | (block >= complete)
        if store.heads is None or not store.heads.shape[2]:
            return outside
        edge = layer.rope.shift(q, (self.local - 1) - q_pos[:, None])  # the query as far from position 0 as the window's edge is from it
        score = (edge[:, :, 0].unflatten(1, (store.heads.shape[1], -1)) @ store.heads.float().mT).sum((1, 2))
        exists = torch.arange(score.shape[1], device=q.device) < complete[:, 0]
        best = keep_top(score[:, None], self.blocks, exists[:, None])
        return outside | best.expand(-1, block.shape[1], -1).gather(2, block.clamp(0, score.shape[1] - 1).long())

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return slots * (geometry.slot_bytes + 4 * geometry.kv_heads)

    def extra_bytes(self, tokens: int, prompt: int, geometry: Geometry) -> float:
        blocks = max(0, (tokens - self.sinks - self.local) // self.block)  # however many of their slots have left
        return blocks * geometry.open_layers * geometry.kv_heads * geometry.head_dim * geometry.itemsize
