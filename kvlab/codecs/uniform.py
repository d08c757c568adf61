"""Even steps with a rounded zero point, and symmetric ones. `kvlab.codecs.affine.quantize` is the form with a floating offset.

Groups lie along the last dimension. Scales are held in 16 bits and codes are made with the rounded scale, the one decoding will use.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 2**15 - 1
"""Zero points are held as int16: groups that do not straddle 0 have them outside of their codes."""


def integer_zero(x: Tensor, bits: int, held: torch.dtype, clip: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (int64, shape of `x`) from 0 to 2**bits - 1, scale (`held`) and zero (int16), both [..., 1]: x ~ scale * (code - zero).

    `clip` pulls both ends of the range towards 0. A range too narrow for its distance from 0, or of no width, is widened to hold 0.
    """
    x, levels = x.float(), 2**bits - 1
    low, high = (end * clip for end in x.aminmax(dim=-1, keepdim=True))
    narrow = torch.maximum(low.abs(), high.abs()) * levels >= LIMIT * (high - low)
    low, high = torch.where(narrow, low.clamp(max=0), low), torch.where(narrow, high.clamp(min=0), high)
    scale = ((high - low) / levels).to(held)
    step = torch.where(scale == 0, 1, scale.float())
    zero = (-low / step).round().clamp(-LIMIT, LIMIT)
    return ((x / step).round() + zero).clamp(0, levels).long(), scale, zero.to(torch.int16)


def symmetric(x: Tensor, bits: int, held: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes (int64) from -(2**(bits - 1) - 1) to 2**(bits - 1) - 1 and scale [..., 1] (`held`): x ~ scale * code."""
    limit = 2 ** (bits - 1) - 1
    scale = (x.float().abs().amax(-1, keepdim=True) / limit).to(held)
    step = torch.where(scale == 0, 1, scale.float())
    return (x.float() / step).round().clamp(-limit, limit).long(), scale
