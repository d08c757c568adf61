"""Decode attention that reads a cache as it is held: packed codes, eight-bit floats, bitmaps, uneven heads, pages. Triton, on CUDA.

Each unit, one (batch row, KV head), is cut into slices that run side by side; every slice leaves its sums, and a second kernel merges
them. The query heads of a KV head share a tile, so a code is unpacked once for all of them. `reference` is the same in plain torch, `ahead`
compiles for a device that is not there. Nothing here imports Triton until a kernel is wanted: a CPU needs none.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.affine import TokenGroups
from kvlab.kernels.segments import segments
from kvlab.store import Pages, Store

if TYPE_CHECKING:
    from kvlab.attention import Rules


def wanted(q: Tensor) -> bool:
    """Whether queries [B, Hq, t, D] are worth asking `decode` for: one for each head, in 16 bits, on CUDA, with Triton there."""
    return q.is_cuda and q.shape[2] == 1 and q.dtype in (torch.float16, torch.bfloat16) and _installed()


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def unmasked(store: Store, rules: Rules) -> bool:
    """Whether attention of the newest token is a softmax over all that `store` holds, and nothing else."""
    plain = rules.softcap is None and rules.sinks is None and (rules.window is None or len(store) <= rules.window)
    return plain and not store.padded and "bias" not in store.columns and type(store).view is Store.view


def decode(q: Tensor, store: Store, rules: Rules, pages: Pages | None = None) -> Tensor | None:
    """Attention of one query over all slots of `store`, or those of `pages`: q [B, Hq, 1, D] -> the same shape. None where the kernels do not fit.

    Then torch takes over. What fits follows from how the store holds its slots and from what the model asks for, never from the method.
    """
    if not unmasked(store, rules):
        return None
    found = segments(store)
    if found is None or (pages and any(isinstance(segment.k, TokenGroups) for segment in found)):
        return None  # a tile is one group of keys, and pages are not
    from kvlab.kernels.launch import attend

    b, hq, _, d = q.shape
    units = len(found[0].lens)
    if pages:
        lists = pages.lists.flatten(0, 1)
        units = len(lists)
        found = [replace(segment, pages=lists, page=pages.size, longest=min(segment.longest, lists.shape[1] * pages.size)) for segment in found]
    return attend(q.reshape(units, b * hq // units, d), found, rules.scaling).view(b, hq, 1, d)
