"""xKV (2025, arXiv 2503.18893). Card: methods/lowrank_channel.md, from the authors' code.

Neighbouring layers lean on the same directions among the tokens. At prefill end the keys of a group of layers, turned back from their
positions, stand side by side as one matrix [T, group * H * D], and so do the values. Of its singular value decomposition the largest
`rank` directions stay: one factor [T, rank] for all layers of the group and one basis [rank, H * D] for each. Keys are rebuilt and turned
to their positions whenever they are read. Tokens written later stay exact until the next prompt's end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.phase import Phase, Schedule
from kvlab.rope import Rope


def rank_of(share: float, tokens: int, width: int) -> int:
    """Directions kept of a [tokens, width] matrix; 0 where two factors would be no smaller than the matrix."""
    rank = max(1, round(share * min(tokens, width)))
    return rank if rank * (tokens + width) < tokens * width else 0


def factor(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of `matrix` [T, m] of that rank, as [T, rank] @ [rank, m]: float32, worked out in float64."""
    wide = matrix.double()
    if wide.shape[0] <= wide.shape[1]:
        left = torch.linalg.eigh(wide @ wide.mT)[1][:, -rank:]
        return left.float(), (left.mT @ wide).float()
    right = torch.linalg.eigh(wide.mT @ wide)[1][:, -rank:]
    return (wide @ right).float(), right.mT.float()


@dataclass(frozen=True)
class Block:
    """One text of the batch in one layer: `tokens` [T, rank] shared by the group, `basis` [rank, H * D], `pos` [T] (None for values)."""

    tokens: Tensor
    basis: Tensor
    pos: Tensor | None

    def decode(self, heads: int, rope: Rope | None) -> Tensor:
        """[H * T, D] float32, head by head."""
        full = (self.tokens.float() @ self.basis.float()).unflatten(1, (heads, -1)).transpose(0, 1)
        full = full if self.pos is None else rope.rotate(full, self.pos)
        return full.flatten(0, 1)


@dataclass(frozen=True)
class Factored:
    """Rows of one layer held as blocks. `kept`: which of the rows are left, [N] int32; None: all."""

    blocks: tuple[Block, ...]
    heads: int
    rope: Rope | None
    bits: float
    dtype: torch.dtype
    kept: Tensor | None = None

    def decode(self) -> Tensor:
        rows = torch.cat([block.decode(self.heads, self.rope) for block in self.blocks]).to(self.dtype)
        return rows if self.kept is None else rows[self.kept.long()]

    def keep(self, mask: Tensor) -> Factored:
        return replace(self, kept=mask.nonzero()[:, 0].int() if self.kept is None else self.kept[mask])

    def tensors(self) -> list[Tensor]:
        held = [tensor for block in self.blocks for tensor in (block.tokens, block.basis, block.pos)]
        return [tensor for tensor in (*held, self.kept) if tensor is not None]

    def body(self) -> list[Tensor]:
        return [block.tokens for block in self.blocks]


def encode(group: list[LayerKV], name: str, share: float) -> None:
    """Factor the raw slots of column `name` of the layers in `group`, for each text of the batch by itself."""
    counts, dtype = group[0].store.raw_lens(name), group[0].store.columns[name].raw_run()[1].dtype
    blocks: list[list[Block]] = [[] for _ in group]
    factored, held, replaced = torch.zeros_like(counts), 0, 0
    for b, count in enumerate(counts[:, 0].tolist()):
        matrix, pos = _side_by_side(group, name, b, count)
        if rank := rank_of(share, *matrix.shape):
            tokens, basis = (x.to(dtype) for x in factor(matrix, rank))
            for mine, part in zip(blocks, basis.chunk(len(group), dim=1), strict=True):
                mine.append(Block(tokens, part.clone(), pos if name == "k" else None))
            factored[b], held, replaced = count, held + tokens.numel(), replaced + matrix.numel()
    for layer, mine in zip(group, blocks, strict=True):
        if mine:
            rows = Factored(tuple(mine), counts.shape[1], layer.rope if name == "k" else None, 8 * dtype.itemsize * held / replaced, dtype)
            layer.code(name, factored, lambda raw, lens, rows=rows: rows)


def _side_by_side(group: list[LayerKV], name: str, b: int, count: int) -> tuple[Tensor, Tensor]:
    """Raw slots of text `b` as one matrix [count, layers * H * D] float32, keys before rotation, and their positions [count]."""
    slots = int(group[0].store.lens()[b, 0])
    pos = group[0].store.pos()[b, 0, slots - count : slots]
    columns = []
    for layer in group:
        held = layer.store.columns[name].raw_run()[1][b, :, :count]
        held = layer.rope.unrotate(held, pos) if name == "k" else held.float()
        columns.append(held.transpose(0, 1).flatten(1))
    return torch.cat(columns, dim=1), pos.clone()


@dataclass(frozen=True)
class XKV(Method):
    """Neighbouring layers share one low-rank factor of the prompt's keys, and one of its values."""

    name = "xkv"
    title = "xKV"
    paper = "Chang et al., arXiv 2503.18893"
    year = 2025
    needs = ("rope", "even heads")
    encodes = ("k", "v")
    schedule = Schedule(prefill=True)
    departs = (
        "Ranks are shares of the smaller side of the matrix, so that short prompts are compressed too; the authors give numbers (512 and 768 of 4096). "
        "Where the factors would be larger than the matrix it stays exact. The decomposition goes through the smaller Gram matrix."
    )

    group: int = knob(4, "Neighbouring layers that share a factor.", 1, 64, 1)
    key_rank: float = knob(0.125, "Directions kept of the keys, as a share of the smaller side of their matrix.", 0.01, 1, 0.005)
    value_rank: float = knob(0.1875, "Directions kept of the values, as a share of the smaller side of their matrix.", 0.01, 1, 0.005)

    def finish(self, cache: KVCache, phase: Phase) -> None:
        if not self.schedule.acts(phase):
            return
        layers = [layer for layer in cache.layers if layer.window is None and layer.follows is None]
        for start in range(0, len(layers), self.group):
            group = layers[start : start + self.group]
            self._check(group)
            encode(group, "k", self.key_rank)
            encode(group, "v", self.value_rank)

    def _check(self, group: list[LayerKV]) -> None:
        first = group[0].store.pos()
        if first.shape[1] > 1 or not all(torch.equal(first, layer.store.pos()) for layer in group):
            raise ValueError("xKV needs the same entries in every head and layer. Run it without the method that drops them unevenly.")

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return self.held_bytes(slots, slots, 0, geometry)

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        """One prompt of `first` tokens, factored at its end, and the rest exact."""
        prompt, item = int(first), geometry.itemsize
        total = geometry.open_layers * (4 * slots + 2 * (slots - first) * geometry.kv_heads * geometry.head_dim * item)
        for width in self._widths(geometry):
            for share, listed in ((self.key_rank, 4), (self.value_rank, 0)):
                rank = rank_of(share, prompt, width)
                total += item * rank * (prompt + width) + listed * prompt if rank else item * prompt * width
        return total / max(1, geometry.open_layers)

    def _widths(self, geometry: Geometry) -> Iterator[int]:
        """Columns of each group's matrix."""
        for start in range(0, geometry.open_layers, self.group):
            yield min(self.group, geometry.open_layers - start) * geometry.kv_heads * geometry.head_dim
