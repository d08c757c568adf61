"""Block floating point: `block` consecutive channels share one exponent of 8 bits, each has a signed mantissa of `bits`."""

from __future__ import annotations

import torch
from torch import Tensor

BIAS = 128
"""Exponents are held as uint8 above this; 0 stands for a block of zeros."""


def encode(x: Tensor, bits: int, block: int) -> tuple[Tensor, Tensor]:
    """`x` [..., D], D a multiple of `block` -> mantissas [..., D] int64 within +-(2**(bits - 1) - 1), exponents [..., D / block] uint8."""
    blocks = x.float().unflatten(-1, (-1, block))
    top = blocks.abs().amax(-1)
    exponent = (torch.frexp(top)[1] - 1).clamp(1 - BIAS, 255 - BIAS)  # frexp is exact where a logarithm may round up
    limit = 2 ** (bits - 1) - 1
    mantissas = torch.ldexp(blocks, (bits - 2 - exponent)[..., None]).round().clamp(-limit, limit)
    return mantissas.flatten(-2).long(), torch.where(top == 0, 0, exponent + BIAS).to(torch.uint8)


def decode(mantissas: Tensor, exponents: Tensor, bits: int) -> Tensor:
    """float32 [..., D]."""
    blocks = mantissas.float().unflatten(-1, (exponents.shape[-1], -1))
    values = torch.ldexp(blocks, (exponents.int() - BIAS + 2 - bits)[..., None])
    return torch.where(exponents[..., None] == 0, 0, values).flatten(-2)
