"""GEAR (2024, arXiv 2403.05527). Card: methods/quantization.md, from the authors' code.

What a coarse quantizer loses is mended twice. The largest and smallest entries, `outliers` of all, are taken out first and held exactly: of
a key channel over the tokens of a chunk, of a value over its channels. The rest is quantized as in KIVI. The error that is left is
approximated per KV head by a product of rank `rank`, found by a few rounds of power iteration. A prompt is one chunk; written tokens
gather raw until `gap` of them make another.

Bytes of one chunk of T tokens and a KV head with D channels, for each of key and value: T * D * (bits / 8) and 4 per group, (T + D) * rank * 2,
and 4 for every outlier and 1 for every token that says how many it has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.coder import Coder
from kvlab.codecs.each import half
from kvlab.codecs.pack import packed_size
from kvlab.codecs.tokens import groups_of
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.rows import Rows, body_of

ROUNDS = 3
"""Of the power iteration, as in the authors' code."""


def low_rank(error: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`error` [T, D] as nearly left [T, r] @ right [r, D], from a seeded start; r is at most T and D."""
    rank = min(rank, *error.shape)
    right = torch.randn(error.shape[1], rank, generator=torch.Generator().manual_seed(0)).to(error)
    for at in range(ROUNDS):
        right = torch.linalg.qr(right)[0] if at == ROUNDS - 1 else right
        left = error @ right
        left = torch.linalg.qr(left)[0] if at == ROUNDS - 1 else left
        right = error.T @ left
    return left, right.T


def extremes(x: Tensor, dim: int, share: float) -> Tensor:
    """Mask of the share / 2 largest and as many smallest entries of each vector along `dim` of `x` [T, D]; at least one each if share > 0."""
    length = x.shape[dim]
    count = min(max(1, round(share / 2 * length)), length // 2) if share else 0
    rank = x.argsort(dim=dim, stable=True).argsort(dim=dim)
    return (rank < count) | (rank >= length - count)


@dataclass(frozen=True)
class Mended:
    """base: quantized rows; left [N, r] 16 bit, right [B * H, r, D] 16 bit (None: rank 0); lens [B * H] int32, None when even.

    Outliers in row order: values [E] 16 bit, channels [E] int16, counts [N] uint8 (int16 in wide heads); None: none are held.
    """

    base: Rows
    left: Tensor | None
    right: Tensor | None
    lens: Tensor | None
    outliers: tuple[Tensor, Tensor, Tensor] | None
    heads: int

    @property
    def bits(self) -> float:
        return self.base.bits

    def owner(self, count: int) -> Tensor:
        sizes = torch.full((self.heads,), count // self.heads, device=self.right.device) if self.lens is None else self.lens.long()
        return torch.arange(self.heads, device=self.right.device).repeat_interleave(sizes, output_size=count)

    def decode(self) -> Tensor:
        rows = self.base.decode()
        out = rows.float()
        if self.left is not None:
            out = out + torch.einsum("nr,nrd->nd", self.left.float(), self.right.float()[self.owner(len(rows))])
        if self.outliers is not None:
            values, channels, counts = self.outliers
            row = torch.arange(len(rows), device=out.device).repeat_interleave(counts.long(), output_size=len(values))
            out = out.index_put((row, channels.long()), values.float())
        return out.to(rows.dtype)

    def keep(self, mask: Tensor) -> Mended:
        left, lens, outliers = self.left, self.lens, self.outliers
        if left is not None:
            left, owner = left[mask], self.owner(len(mask))
            lens = torch.zeros(self.heads, dtype=torch.int64, device=mask.device).index_add_(0, owner, mask.long())
            lens = None if int(lens.min()) == int(lens.max()) else lens.to(torch.int32)
        if outliers is not None:
            values, channels, counts = outliers
            stays = mask.repeat_interleave(counts.long(), output_size=len(values))
            outliers = values[stays], channels[stays], counts[mask]
        return replace(self, base=self.base.keep(mask), left=left, lens=lens, outliers=outliers)

    def tensors(self) -> list[Tensor]:
        own = (self.left, self.right, self.lens, *(self.outliers or ()))
        return [*self.base.tensors(), *(x for x in own if x is not None)]

    def body(self) -> list[Tensor]:
        return body_of(self.base)


@dataclass(frozen=True)
class GEAR(Coder):
    """Coarse codes, a low-rank guess of their error, and a few outliers held exactly."""

    name = "gear"
    title = "GEAR"
    paper = "Kang et al., arXiv 2403.05527"
    year = 2024
    encodes = ("k", "v")
    departs = (
        "The backbone's groups are KIVI's. A value's outliers are looked for within its head, at least one at either end, so narrow heads hold more of them. "
        "Outliers are exact to 16 bits."
    )

    bits: int = knob(2, "Bits of one coded value.", choices=(2, 4, 8))
    group: int = knob(64, "Tokens (keys) or channels (values) that share a scale and an offset.", choices=(8, 16, 32, 64))
    rank: int = knob(4, "Rank of the error's approximation for a prompt; 0: none.", 0, 64, 1)
    later_rank: int = knob(2, "Rank for a chunk of written tokens; 0: none.", 0, 64, 1)
    outliers: float = knob(0.02, "Share of the entries held exactly, half at either end.", 0, 0.2, 0.01)
    gap: int = knob(64, "Tokens of a chunk; a prompt is one chunk of all its whole ones. A multiple of the group.", 8, 1024, 8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gap % self.group:
            raise ValueError(f"gear: gap is a multiple of the group ({self.group}), not {self.gap}.")

    def flush(self, layer: LayerKV) -> None:
        rank = self.rank if layer.cache.phase.kind == "prefill" else self.later_rank
        for name in "kv":
            due = layer.store.raw_lens(name) // self.gap * self.gap
            layer.code(name, due, lambda rows, lens, name=name: self.mend(rows, lens, name, rank))

    def mend(self, rows: Tensor, lens: Tensor, name: str, rank: int) -> Mended:
        """`rows` [N, D] of column `name`, packed by `lens` [B, H], as one chunk."""
        held, dim, parts = half(rows.dtype), 0 if name == "k" else 1, rows.float().split(lens.flatten().tolist())
        masks = [extremes(x, dim, self.outliers) if len(x) else torch.zeros_like(x, dtype=torch.bool) for x in parts]
        filled = torch.cat([_filled(x, mask, dim) for x, mask in zip(parts, masks, strict=True)]).to(rows.dtype)
        coded = TokenGroups.of(filled, self.bits, self.group) if name == "k" else ChannelGroups.of(filled, self.bits, groups_of(rows.shape[1], self.group))
        mask = torch.cat(masks)
        error = torch.where(mask, 0, rows.float() - coded.decode().float())
        rank, outliers = min(rank, rows.shape[1], int(lens[lens > 0].min())), None
        left, right = _factors(error.split(lens.flatten().tolist()), rank, held) if rank else (None, None)
        if self.outliers:
            count = mask.sum(1).to(torch.uint8 if rows.shape[1] < 256 else torch.int16)
            outliers = rows[mask].to(held), mask.nonzero()[:, 1].to(torch.int16), count
        flat = lens.flatten().to(torch.int32)
        uneven = flat if rank and int(flat.min()) != int(flat.max()) else None
        return Mended(coded, left, right, uneven, outliers, lens.numel())

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size, item = geometry.head_dim, geometry.itemsize
        prompt = first // self.gap * self.gap
        chunks = (first - prompt + later) // self.gap
        once = prompt + chunks * self.gap
        coded = max(0, slots - (first + later - once))
        width = groups_of(size, self.group)
        total = coded * (2 * packed_size(size, self.bits) + 4 * size / self.group + 4 * size / width) + (slots - coded) * 2 * size * item
        for tokens, rank, count in ((prompt, self.rank, 1), (self.gap, self.later_rank, chunks)):
            if tokens and count:
                rank = min(rank, size, int(tokens))
                total += count * (4 * rank * (tokens * (coded / once) + size) + (coded / once) * self._outlier_bytes(tokens, size))
        return geometry.kv_heads * total + 4 * slots

    def _outlier_bytes(self, tokens: float, size: int) -> float:
        """Of the keys and values of one chunk and head."""
        ends = lambda length: min(max(1, round(self.outliers / 2 * length)), length // 2)  # noqa: E731
        row = 1 if size < 256 else 2
        return 2 * row * tokens + 4 * 2 * (ends(tokens) * size + ends(size) * tokens) if self.outliers else 0

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.head_dim % groups_of(geometry.head_dim, self.group):
            return f"{geometry.family} has heads of {geometry.head_dim} channels, which groups of {self.group} do not divide. Choose another group."
        return super().refuses(geometry)


def _filled(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """`x` with its outliers replaced by the mean of the others of their vector."""
    others = (~mask).sum(dim, keepdim=True).clamp(min=1)
    return torch.where(mask, torch.where(mask, 0, x).sum(dim, keepdim=True) / others, x)


def _factors(errors: tuple[Tensor, ...], rank: int, held: torch.dtype) -> tuple[Tensor, Tensor]:
    """left [N, rank] and right [heads, rank, D] of all heads; a head without rows has a right factor of zeros."""
    pairs = [low_rank(x, rank) if len(x) else (x.new_zeros(0, rank), x.new_zeros(rank, x.shape[1])) for x in errors]
    left, right = zip(*pairs, strict=True)
    return torch.cat(left).to(held), torch.stack(right).to(held)
