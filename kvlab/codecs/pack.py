"""The one packer: small unsigned numbers side by side in bytes, along the last dimension, the first number in the lowest bits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _shifts(bits: int, device: torch.device) -> Tensor:
    if bits not in (1, 2, 4, 8):
        raise ValueError(f"Codes of {bits} bits do not fill a byte evenly. Use 1, 2, 4 or 8.")
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)


def pack(codes: Tensor, bits: int) -> Tensor:
    """uint8 [..., n] below 2**bits -> uint8 [..., ceil(n * bits / 8)]. The last byte is filled up with zeros."""
    shifts = _shifts(bits, codes.device)
    codes = F.pad(codes, (0, -codes.shape[-1] % len(shifts)))
    # the fields of a byte do not overlap, so their sum is their union
    return (codes.unflatten(-1, (-1, len(shifts))) << shifts).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` numbers of each row again: uint8 [..., count]."""
    fields = packed[..., None] >> _shifts(bits, packed.device) & (2**bits - 1)
    return fields.flatten(-2)[..., :count]


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` packed numbers."""
    return -(-count * bits // 8)
