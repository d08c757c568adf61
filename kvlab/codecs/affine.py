"""Asymmetric min-max quantization in groups: x is held as q in 0..2**bits-1 with x ~ q * scale + low.

Scale and low of a group are held in the model's own 16-bit dtype, and in float16 under a float32 model, so that bytes are the same for
both. Codes are made with the rounded scale and low, the ones decoding will use. A group of equal values has scale 0 and decodes to
its low: exact in a 16-bit model, the nearest float16 in a float32 one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab.codecs.pack import pack, unpack


def quantize(x: Tensor, dim: int, bits: int, held: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Groups lie along `dim`: codes (uint8, shape of `x`), and scale and low in 16 bits (`held`, or as `x` says), with size 1 along `dim`."""
    held = held or (x.dtype if x.element_size() == 2 else torch.float16)
    x, levels = x.float(), 2**bits - 1
    low, high = x.aminmax(dim=dim, keepdim=True)
    scale = ((high - low) / levels).to(held)
    low = low.to(held)
    step = torch.where(scale == 0, 1, scale.float())
    codes = ((x - low.float()) / step).round().clamp(0, levels).to(torch.uint8)
    return codes, scale, low


@dataclass(frozen=True)
class TokenGroups:
    """Keys: one scale and low per channel for `group` consecutive tokens of a head. M groups lie end to end, as the rows do.

    codes [N, bytes of D codes] uint8, packed along the head so that single tokens can leave. scale, low [M, D] 16 bit. counts [M]: rows
    left in each group, held only once some but not all rows of a group left; groups without rows go.
    """

    codes: Tensor
    scale: Tensor
    low: Tensor
    counts: Tensor | None
    group: int
    bits: int
    dtype: torch.dtype

    @classmethod
    def of(cls, rows: Tensor, bits: int, group: int) -> TokenGroups:
        """From `rows` [N, D]. N must be a multiple of `group`, and so must the rows of each head, or groups would cross heads."""
        if len(rows) % group:
            raise ValueError(f"{len(rows)} rows cannot be split into groups of {group}.")
        codes, scale, low = quantize(rows.unflatten(0, (-1, group)), 1, bits)
        return cls(pack(codes.flatten(0, 1), bits), scale[:, 0], low[:, 0], None, group, bits, rows.dtype)

    def sizes(self) -> Tensor:
        """Rows of each group: [M] int64."""
        return self.scale.new_full((len(self.scale),), self.group, dtype=torch.int64) if self.counts is None else self.counts.long()

    def owners(self) -> Tensor:
        """The group of each row: [N] int64."""
        return torch.arange(len(self.scale), device=self.scale.device).repeat_interleave(self.sizes(), output_size=len(self.codes))

    def decode(self) -> Tensor:
        codes, scale, low = unpack(self.codes, self.bits, self.scale.shape[1]).float(), self.scale.float(), self.low.float()
        if self.counts is None:  # whole groups broadcast: nothing is repeated per row
            return (codes.unflatten(0, (-1, self.group)) * scale[:, None] + low[:, None]).flatten(0, 1).to(self.dtype)
        owners = self.owners()
        return (codes * scale[owners] + low[owners]).to(self.dtype)

    def keep(self, mask: Tensor) -> TokenGroups:
        left = torch.zeros_like(self.sizes()).index_add_(0, self.owners(), mask.long())
        used = left > 0
        return replace(self, codes=self.codes[mask], scale=self.scale[used], low=self.low[used], counts=self._counts(left[used]))

    def join(self, other: TokenGroups, index: Tensor) -> TokenGroups | None:
        if (self.bits, self.group) != (other.bits, other.group):
            return None
        first = len(self.scale)
        order = torch.cat([self.owners(), other.owners() + first])[index].unique_consecutive()
        scale, low = torch.cat([self.scale, other.scale])[order], torch.cat([self.low, other.low])[order]
        sizes = torch.cat([self.sizes(), other.sizes()])[order]
        return replace(self, codes=torch.cat([self.codes, other.codes])[index], scale=scale, low=low, counts=self._counts(sizes))

    def _counts(self, sizes: Tensor) -> Tensor | None:
        whole = bool((sizes == self.group).all())
        return None if whole else sizes.to(torch.uint8 if self.group < 256 else torch.int16)

    def tensors(self) -> list[Tensor]:
        return [self.codes, self.scale, self.low] + ([] if self.counts is None else [self.counts])


@dataclass(frozen=True)
class ChannelGroups:
    """Values: each token has one scale and low for every `group` consecutive channels, so it leaves or joins on its own.

    codes [N, bytes of D codes] uint8, scale and low [N, D // group] 16 bit.
    """

    codes: Tensor
    scale: Tensor
    low: Tensor
    group: int
    bits: int
    dtype: torch.dtype

    @classmethod
    def of(cls, rows: Tensor, bits: int, group: int) -> ChannelGroups:
        """From `rows` [N, D]; D must be a multiple of `group`."""
        if rows.shape[1] % group:
            raise ValueError(f"{rows.shape[1]} channels cannot be split into groups of {group}.")
        codes, scale, low = quantize(rows.unflatten(1, (-1, group)), 2, bits)
        return cls(pack(codes.flatten(1), bits), scale[..., 0], low[..., 0], group, bits, rows.dtype)

    def decode(self) -> Tensor:
        codes = unpack(self.codes, self.bits, self.scale.shape[1] * self.group).float()
        codes = codes.unflatten(1, (-1, self.group))
        return (codes * self.scale[..., None].float() + self.low[..., None].float()).flatten(1).to(self.dtype)

    def keep(self, mask: Tensor) -> ChannelGroups:
        return replace(self, codes=self.codes[mask], scale=self.scale[mask], low=self.low[mask])

    def join(self, other: ChannelGroups, index: Tensor) -> ChannelGroups | None:
        if (self.bits, self.group) != (other.bits, other.group):
            return None
        codes, scale, low = (torch.cat(pair)[index] for pair in zip(self.tensors(), other.tensors(), strict=True))
        return replace(self, codes=codes, scale=scale, low=low)

    def tensors(self) -> list[Tensor]:
        return [self.codes, self.scale, self.low]
