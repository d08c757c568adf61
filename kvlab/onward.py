"""Shorter texts between layers: tokens that a method lets go no further are not computed by the layers above.

A method that `shortens` says in `compress`, through `KVCache.shorten`, which tokens of the call go on. A hook in front of every decoder
layer, hung up for the call, then hands the layers above the hidden states, positions and angles of these tokens only. Positions are data,
so nothing else has to know: the mask compares true positions, and a token that did not arrive holds no slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from kvlab.cache import KVCache


class Onward(NamedTuple):
    """Tokens of a call that go on: `places` [B, n] int64 in the whole call, -1 in front of a row with fewer; `fresh`, the same among the
    tokens the last layer had, until the next one took them over.
    """

    places: Tensor
    fresh: Tensor | None


def right_aligned(mask: Tensor) -> Tensor:
    """Indices of the true ones of each row in order: `mask` [B, t] -> [B, n] int64, with -1 in front of rows that have fewer."""
    order = mask.long().argsort(dim=1, stable=True)[:, mask.shape[1] - int(mask.sum(1).max()) :]
    return torch.where(mask.gather(1, order), order, -1)


@contextmanager
def gates(model: nn.Module, cache: KVCache) -> Iterator[None]:
    """Hooks in front of every layer of a decoder, for the calls with this cache; each does nothing until the cache says that tokens stay behind."""
    layers = getattr(model.get_decoder(), "layers", ())
    hooks = [layer.register_forward_pre_hook(_Gate(index, cache), with_kwargs=True) for index, layer in enumerate(layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Gate:
    """The hook of one layer. It knows its cache, so runs in other threads pass by untouched."""

    def __init__(self, index: int, cache: KVCache) -> None:
        self.index, self.cache = index, cache

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any] | None = None) -> tuple[tuple, dict[str, Any]] | None:
        # torch hangs a hook up before it notes that it wants `kwargs`: in between another thread's call may come by without
        cache = self.cache
        if cache.onward is None or kwargs is None or not any(value is cache for value in kwargs.values()):
            return None
        places, fresh = cache.onward
        hidden = args[0]
        if fresh is not None:
            hidden, cache.onward = _rows(hidden, fresh), Onward(places, None)
        had = kwargs["position_ids"].expand(len(places), -1)
        mask = kwargs.get("attention_mask")
        layer = cache.layers[self.index]
        layer.seen += had.shape[1] - places.shape[1]  # they were seen, if not by this layer
        cache.recorder.skipped(layer, _missing(had, mask, places))
        taken = {"position_ids": _rows(had, places), "attention_mask": (places >= 0).to(had) if bool((places < 0).any()) else None}
        if (angles := kwargs.get("position_embeddings")) is not None:
            taken["position_embeddings"] = tuple(_rows(part.expand(len(places), -1, -1), places) for part in angles)
        return (hidden, *args[1:]), {**kwargs, **taken}


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Of `x` [B, t, ...] what stands at `places` [B, n]; anything where a place is -1."""
    index = places.clamp(min=0).view(*places.shape, *[1] * (x.dim() - 2))
    return x.gather(1, index.expand(-1, -1, *x.shape[2:]))


def _missing(pos: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
    """Positions [m] of the first row's tokens that did not come so far."""
    behind = torch.ones_like(pos[0], dtype=torch.bool)
    behind[places[0][places[0] >= 0]] = False
    return pos[0][behind if mask is None else behind & mask[0, -pos.shape[1] :].bool()]
