"""HIGGS: a Walsh-Hadamard turn makes the entries of a vector nearly normal, and pairs of them take the nearest point of a grid for such pairs."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.codecs import stream
from kvlab.codecs.codebook import kmeans, nearest
from kvlab.codecs.pack import packed_size
from kvlab.codecs.rotate import hadamard

PAIR = 2
"""Entries that share a grid point."""


@functools.cache
def grid(bits: int) -> Tensor:
    """2**(2 * bits) points [n, 2] float32 for pairs of independent standard normal numbers: k-means over an even lattice of their quantiles.

    It starts from a sunflower whose density is the square root of the numbers' own, which is best for many points in the plane.
    """
    count = 2 ** (PAIR * bits)
    at = torch.arange(count) + 0.5
    radius, angle = (-4 * torch.log1p(-at / count)).sqrt(), at * math.pi * (3 - 5**0.5)
    numbers = torch.special.ndtri((torch.arange(256) + 0.5) / 256)
    return kmeans(torch.cartesian_prod(numbers, numbers)[None], count, 40, torch.stack([radius * angle.cos(), radius * angle.sin()], 1)[None])[0]


def width_of(size: int, most: int) -> int:
    """Entries that turn together: the power of two that holds `size`, at most `most`."""
    return min(most, 1 << max(0, size - 1).bit_length())


@dataclass(frozen=True)
class Higgs:
    """`bits` per entry, groups of at most `most` entries with one length each."""

    bits: int
    most: int

    def encode(self, rows: Tensor, points: Tensor, held: torch.dtype) -> tuple[Tensor, Tensor]:
        """`rows` [N, C] float32 -> codes [N, ...] uint8 and lengths [N, groups] `held`, filled up with zeros to whole groups."""
        width = width_of(rows.shape[1], self.most)
        groups = torch.nn.functional.pad(rows, (0, -rows.shape[1] % width)).unflatten(1, (-1, width))
        length = groups.norm(dim=2).to(held)
        spread = hadamard(groups) * width**0.5 / torch.where(length == 0, 1, length.float())[..., None]
        codes = nearest(spread.reshape(1, -1, PAIR), points[None])[0].view(len(rows), -1)
        return stream.pack(codes, PAIR * self.bits), length

    def decode(self, codes: Tensor, length: Tensor, size: int, points: Tensor) -> Tensor:
        """[N, C = `size`] float32 again."""
        width = width_of(size, self.most)
        picked = points[stream.unpack(codes, PAIR * self.bits, length.shape[1] * width // PAIR)]
        groups = hadamard(picked.flatten(1).unflatten(1, (length.shape[1], width))) * width**-0.5
        return (groups * length.float()[..., None]).flatten(1)[:, :size]

    def row_bytes(self, size: int) -> int:
        """Bytes of one row of `size` entries."""
        groups = -(-size // width_of(size, self.most))
        return packed_size(groups * width_of(size, self.most) // PAIR, PAIR * self.bits) + 2 * groups
