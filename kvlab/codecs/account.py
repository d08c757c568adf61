"""What a coded cache really costs per value, and what its method holds beside all caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvlab.rows import storage_bytes

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
