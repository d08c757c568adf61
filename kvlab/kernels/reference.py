"""The same decode attention in plain torch, one unit after the other, in float32: what the kernels are held against."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kvlab.kernels.segments import Segment
from kvlab.rows import Rows


def exact(rows: Rows) -> Tensor:
    """Decoded to float32 [N, D], without the rounding to the model's dtype that a decoded copy has."""
    return (replace(rows, dtype=torch.float32) if hasattr(rows, "dtype") else rows).decode().float()


def slots_of(segment: Segment, unit: int, share: int) -> Tensor:
    """The rows of a unit that list `unit` reads, in the order of its pages, counted from the segment's first: [n] int64."""
    length, start = int(segment.lens[unit // share]), int(segment.starts[unit // share])
    if segment.pages is None:
        return torch.arange(length, device=segment.lens.device)
    pages = segment.pages[unit].long()
    slots = (pages[pages >= 0, None] * segment.page + torch.arange(segment.page, device=pages.device)).flatten() - start
    return slots[(slots >= 0) & (slots < length)]


def attend(q: Tensor, segments: list[Segment], scaling: float) -> Tensor:
    """q [U, G, D], or [L, G, D] for L lists of pages -> float32 of that shape; zero for a unit without slots."""
    out = torch.zeros(q.shape, dtype=torch.float32, device=q.device)
    decoded = [(exact(segment.k), exact(segment.v)) for segment in segments]
    for unit in range(len(q)):
        keys, values = [], []
        for segment, (k, v) in zip(segments, decoded, strict=True):
            share = len(q) // len(segment.lens)
            slots = slots_of(segment, unit, share)
            keys.append(k[segment.k_rows[unit // share] + slots])
            values.append(v[segment.v_rows[unit // share] + slots])
        k, v = torch.cat(keys), torch.cat(values)
        if len(k):
            out[unit] = (q[unit].float() @ k.T * scaling).softmax(-1) @ v
    return out
