"""What a row measures while its run goes on: bytes, as the trace's recorder counts them, without the trace."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from kvlab.cache import KVCache, LayerKV
from kvlab.geometry import Geometry
from kvlab.predict import predicted_bytes
from kvlab.session import Session
from kvlab.store import Store
from kvlab.trace import Recorder, Silent


class Meter(Silent):
    """Listens as `Recorder` does and keeps bytes only."""

    def __init__(self, geometry: Geometry) -> None:
        self.inner = Recorder(geometry.layers, geometry.kv_heads, 0, attention=False)

    def attended(self, layer: LayerKV, store: Store, seen: Any) -> None:
        self.inner.attended(layer, store, seen)

    def step(self, cache: KVCache) -> None:
        """After a token was chosen, or a part of a text scored."""
        self.inner.step(cache, token=-1, logprob=0.0, seconds=0.0)

    def mark(self) -> Recorder:
        """The counts so far, to come back to."""
        return self._twin(self.inner)

    def back(self, mark: Recorder) -> None:
        """As it was at `mark`."""
        self.inner = self._twin(mark)

    @staticmethod
    def _twin(recorder: Recorder) -> Recorder:
        twin = copy.copy(recorder)
        twin.steps = list(recorder.steps)
        return twin

    def figures(self, session: Session) -> dict[str, Any]:
        """The byte columns of a row, at this moment."""
        cache, geometry = session.cache, session.lm.geometry
        seen, prompt = int(cache.tokens[0]), int(cache.prompt[0])
        touched = [step["touched"] for step in self.inner.steps]
        return {
            "resident": cache.nbytes(),
            "peak": self.inner.peak,
            # the first step of all counts the prompt in
            "read_per_step": float(np.mean(touched[1:] or touched)) if touched else None,
            "full": geometry.full_bytes(seen),
            "predicted": predicted_bytes(session.method, geometry, seen, prompt),
            "kept_fraction": kept_slots(cache) / max(1, seen),
        }


def kept_slots(cache: KVCache) -> float:
    """Slots per KV head, mean over the layers that methods act on (first row of the batch)."""
    stores = [(layer.follows or layer).store for layer in cache.layers if layer.window is None]
    held = [float(store.valid()[0].sum(-1).float().mean()) for store in stores if not store.empty]
    return sum(held) / max(1, len(stores))
