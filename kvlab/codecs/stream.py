"""Codes of any width side by side in bytes: a bit stream along the last dimension, the first code in the lowest bits.

Where codes fill a byte evenly this is exactly `kvlab.codecs.pack`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.codecs import pack as even


def pack(codes: Tensor, bits: int) -> Tensor:
    """Whole numbers [..., n] from 0 to below 2**bits, bits 1..16 -> uint8 [..., ceil(n * bits / 8)]. The last byte is filled up with zeros."""
    if not 1 <= bits <= 16:
        raise ValueError(f"Codes have 1 to 16 bits, not {bits}.")
    if 8 % bits == 0:
        return even.pack(codes.to(torch.uint8), bits)
    string = codes.to(torch.int32)[..., None] >> torch.arange(bits, device=codes.device) & 1
    return even.pack(string.flatten(-2).to(torch.uint8), 1)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` numbers of each row again: int64 [..., count]."""
    if 8 % bits == 0:
        return even.unpack(packed, bits, count).long()
    string = even.unpack(packed, 1, count * bits).long().unflatten(-1, (count, bits))
    return (string << torch.arange(bits, device=packed.device)).sum(-1)
