"""Rows coded together across the KV heads of a slot, for methods whose groups, outliers or rotations span heads.

Slot i of all heads makes one vector [H * D]. Where heads hold different tokens, or leave at different times, a vector mixes tokens, which
a codec of numbers does not mind; `order` then says which rows are left, and a vector goes once no head needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab.codecs.each import Codec, half


@dataclass(frozen=True)
class Joint:
    """held: tensors [R, ...] of R vectors; order [N] int32: row -> vector * H + head, None when every head has all in order.

    sizes: vectors of each text of the batch.
    """

    held: tuple[Tensor, ...]
    order: Tensor | None
    codec: Codec
    heads: int
    size: int
    sizes: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, rows: Tensor, lens: Tensor, codec: Codec, dtype: torch.dtype) -> Joint:
        """From `rows` [N, D] packed by `lens` [B, H]. A head with fewer rows than the others stands in its text's last vectors as zeros."""
        heads, sizes = lens.shape[1], tuple(lens.amax(1).tolist())
        order = _in_order(sizes, lens)
        vectors = rows.new_zeros(sum(sizes) * heads, rows.shape[1], dtype=torch.float32)
        vectors[order] = rows.float()
        held = codec.encode(vectors.view(sum(sizes), heads * rows.shape[1]), half(dtype), None, ())
        return cls(held, None, codec, heads, rows.shape[1], sizes, dtype)._ordered(order)

    @property
    def bits(self) -> float:
        return self.codec.bits

    def decode(self) -> Tensor:
        rows = self.codec.decode(self.held, self.heads * self.size, None, ()).reshape(-1, self.size)
        return rows[self.places()].to(self.dtype)

    def places(self) -> Tensor:
        """vector * H + head of every row: [N] int64."""
        return self._all(self.sizes) if self.order is None else self.order.long()

    def _all(self, sizes: tuple[int, ...]) -> Tensor:
        lens = torch.tensor(sizes, device=self.held[0].device)[:, None].expand(-1, self.heads)
        return _in_order(sizes, lens)

    def _ordered(self, places: Tensor) -> Joint:
        whole = self._all(self.sizes)
        return replace(self, order=None if torch.equal(places, whole) else places.to(torch.int32))

    def keep(self, mask: Tensor) -> Joint:
        places = self.places()[mask]
        used, vector = (places // self.heads).unique(return_inverse=True)
        ends = torch.tensor(self.sizes, device=used.device).cumsum(0)
        text = torch.bucketize(used, ends, right=True)
        sizes = tuple(torch.bincount(text, minlength=len(self.sizes)).tolist())
        return replace(self, held=tuple(x[used] for x in self.held), sizes=sizes)._ordered(vector * self.heads + places % self.heads)

    def join(self, other: Joint, index: Tensor) -> Joint | None:
        if self.codec != other.codec:
            return None
        texts = torch.tensor([*range(len(self.sizes))] * 2, device=index.device)
        by_text = texts.repeat_interleave(torch.tensor([*self.sizes, *other.sizes], device=index.device)).argsort(stable=True)
        held = tuple(torch.cat(pair)[by_text] for pair in zip(self.held, other.held, strict=True))
        places = torch.cat([self.places(), other.places() + sum(self.sizes) * self.heads])[index]
        places = by_text.argsort()[places // self.heads] * self.heads + places % self.heads
        return replace(self, held=held, sizes=tuple(a + b for a, b in zip(self.sizes, other.sizes, strict=True)))._ordered(places)

    def tensors(self) -> list[Tensor]:
        return [*self.held, *([] if self.order is None else [self.order])]

    def body(self) -> list[Tensor]:
        return [self.held[i] for i in self.codec.carries if i < len(self.held)]


def _in_order(sizes: tuple[int, ...], lens: Tensor) -> Tensor:
    """Places of packed rows: text by text, head by head, the first lens[b, h] vectors of the text."""
    heads, parts, start = lens.shape[1], [], 0
    for size, row in zip(sizes, lens.tolist(), strict=True):
        parts += [(start + torch.arange(n, device=lens.device)) * heads + head for head, n in enumerate(row)]
        start += size
    return torch.cat(parts)
