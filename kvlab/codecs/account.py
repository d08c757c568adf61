"""What a coded cache really costs per value, and what its method holds beside all caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kvlab.rows import body_of, storage_bytes, storage_key

if TYPE_CHECKING:
    from kvlab.cache import KVCache


def true_bits(cache: KVCache) -> float:
    """Bits per key or value entry held, with scales, maps, tables and raw windows: what "2 bits" come to. Layers with a window are left out.

    Raises ValueError for a cache that holds nothing.
    """
    stores = [layer.store for layer in cache.layers if layer.window is None and layer.follows is None]
    columns = [store.columns[name] for store in stores if not store.empty for name in "kv"]
    if not columns:
        raise ValueError("An empty cache has no bits per value. Read a prompt first.")
    values = sum(int(column.lens().sum()) * column.dense().shape[-1] for column in columns)
    return 8 * storage_bytes([tensor for column in columns for tensor in column.tensors()]) / values


def side_bytes(cache: KVCache) -> int:
    """Bytes of codebooks, bases, predictors and the like that calibration made: shared by all runs of a model, never part of a cache's bytes."""
    return storage_bytes(list((cache.artefact or {}).values()))


PARTS = ("raw", "codes", "scales", "window", "index", "positions")
"""Entries in full precision where nothing is coded; codes; scales, zeros, maps and bases; entries in full precision beside codes; all else that a
method holds, with the lengths of uneven heads; positions."""


def by_part(cache: KVCache) -> dict[str, int]:
    """Bytes held, part by part: they add up to `cache.nbytes()`. A storage counts where it is met first, in the order of the layers."""
    parts: dict[str, list[Tensor]] = {name: [] for name in PARTS}
    coded = False
    for store in (layer.store for layer in cache.layers if layer.follows is None and not layer.store.empty):
        for name, column in store.columns.items():
            kind = {"k": "raw", "v": "raw", "pos": "positions"}.get(name, "index")
            for part in column.parts:
                own = body_of(part.rows) if part.coded and kind == "raw" else []
                coded |= bool(own)
                parts["codes"] += own
                parts["scales" if own else kind] += [tensor for tensor in part.rows.tensors() if all(tensor is not one for one in own)]
            parts[kind] += [] if column.open is None else [column.open]
    met = {storage_key(tensor) for tensors in parts.values() for tensor in tensors}
    parts["index"] += [tensor for tensor in cache.tensors() if storage_key(tensor) not in met]
    if coded:
        parts["window"], parts["raw"] = parts["raw"], []
    seen: set[tuple] = set()
    found = {}
    for name, tensors in parts.items():
        fresh = {storage_key(tensor): tensor for tensor in tensors if storage_key(tensor) not in seen}
        seen |= fresh.keys()
        found[name] = storage_bytes(list(fresh.values()))
    return {name: count for name, count in found.items() if count}
