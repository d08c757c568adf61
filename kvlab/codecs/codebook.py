"""Uneven levels and vector codebooks: nearest entries, the best levels for normal numbers, and k-means."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

ROWS = 1 << 22
"""Distances computed at once."""


def nearest(x: Tensor, book: Tensor) -> Tensor:
    """The entry of `book` [P, K, c] nearest to each vector of `x` [P, N, c]: [P, N] int64; among equals the lowest."""
    half = book.square().sum(-1)[:, None] / 2  # |x|^2 is the same for all entries
    rows = max(1, ROWS // (book.shape[0] * book.shape[1]))
    found = [(part @ book.mT - half).argmax(-1) for part in x.float().split(rows, dim=1)]
    return torch.cat(found, dim=1) if found else x.new_zeros(x.shape[:2], dtype=torch.int64)


def bucket(x: Tensor, levels: Tensor) -> Tensor:
    """The nearest of the ascending `levels` [K] to each number of `x`: int64, shape of `x`. On a border the lower one."""
    return torch.bucketize(x.float().contiguous(), (levels[1:] + levels[:-1]) / 2)


@functools.cache
def normal_levels(bits: int) -> Tensor:
    """The 2**bits levels with the least squared error for standard normal numbers (Lloyd-Max), ascending, float32."""
    count = 2**bits
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    levels = 3**0.5 * torch.special.ndtri(share)  # best for many levels: their density goes with the cube root of the normal one
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    for _ in range(2000 if bits < 6 else 200):
        borders = torch.cat([ends[:1], (levels[1:] + levels[:-1]) / 2, ends[1:]])
        height = torch.exp(-borders.square() / 2) / math.sqrt(2 * math.pi)
        levels = -height.diff() / torch.special.ndtr(borders).diff()
    return levels.float()


def kmeans(x: Tensor, count: int, rounds: int, start: Tensor | None = None) -> Tensor:
    """Centroids [P, count, c] float32 of P sets of vectors `x` [P, N, c], by Lloyd's rounds from `start`, or from distinct points drawn with a seed.

    A centroid nobody is nearest to moves onto the vector that is worst off. Sets of fewer than `count` vectors repeat some.
    """
    draw = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0)).to(x.device)
    book = x[:, draw[torch.arange(count, device=x.device) % len(draw)]].float() if start is None else start
    for _ in range(rounds):
        which = nearest(x, book)
        wide = which[..., None].expand_as(x)
        sizes = torch.zeros_like(book[..., 0]).scatter_add_(1, which, torch.ones_like(which, dtype=book.dtype))
        sums = torch.zeros_like(book).scatter_add_(1, wide, x.float())
        error = (x - book.gather(1, wide)).square().sum(-1)
        worst = error.topk(min(count, x.shape[1]), dim=1).indices
        book = torch.where(sizes[..., None] > 0, sums / sizes[..., None].clamp(min=1), book)
        empty = sizes == 0
        rank = (empty.long().cumsum(1) - 1).clamp(0, worst.shape[1] - 1)
        fresh = x.gather(1, worst.gather(1, rank)[..., None].expand(-1, -1, x.shape[2])).float()
        book = torch.where(empty[..., None], fresh, book)
    return book
