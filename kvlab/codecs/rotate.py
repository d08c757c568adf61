"""Rotations that spread an outlier over all channels: Walsh-Hadamard by butterflies, and random orthogonal ones from a seed.

What a seed gives again whenever it is asked for is not held and costs no bytes.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def hadamard(x: Tensor) -> Tensor:
    """`x` [..., n] times the normalised Walsh-Hadamard matrix: orthogonal, symmetric, its own inverse. float32.

    An n that is no power of two is cut into blocks that are, the largest first (80 = 64 + 16), each turned by itself.
    """
    sizes = [1 << bit for bit in reversed(range(x.shape[-1].bit_length())) if x.shape[-1] >> bit & 1]
    return torch.cat([_block(part) for part in x.float().split(sizes, -1)], -1)


def _block(x: Tensor) -> Tensor:
    shape, half = x.shape, 1
    while half < shape[-1]:
        pairs = x.reshape(-1, shape[-1] // (2 * half), 2, half)
        x = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], dim=2)
        half *= 2
    return x.reshape(shape) * shape[-1] ** -0.5


@functools.cache
def orthogonal(size: int, seed: int) -> Tensor:
    """A random orthogonal matrix [size, size] float32, evenly drawn: QR of a seeded Gaussian with the signs of R put right."""
    q, r = torch.linalg.qr(gaussian(size, seed).double())
    return (q * r.diagonal().sign()).float()


@functools.cache
def gaussian(size: int, seed: int) -> Tensor:
    """Independent standard normal numbers [size, size] float32."""
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
