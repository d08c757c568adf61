"""What methods that hold keys or values coded have in common: when they encode, and which models they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvlab.method import Method
from kvlab.phase import Phase, Schedule

if TYPE_CHECKING:
    from kvlab.cache import KVCache, LayerKV
    from kvlab.geometry import Geometry
    from kvlab.seen import Seen


@dataclass(frozen=True)
class Coder(Method):
    """Base of methods that encode raw slots. `flush` says which, from what a layer holds at that moment and from nothing else.

    So it may be called at any time and twice: at prefill end, after every step, and after members that drop entries in `finish`.
    """

    schedule = Schedule(prefill=True, every=1)

    def flush(self, layer: LayerKV) -> None:
        """Encode what is due in one layer, through `layer.code`."""
        raise NotImplementedError

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        """What is coded follows from the past, not from the slots held. Entries that left since are taken to be coded ones: the oldest."""
        raise NotImplementedError

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return self.held_bytes(slots, slots, 0, geometry)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        self.flush(layer)

    def finish(self, cache: KVCache, phase: Phase) -> None:
        if phase.kind != "prefill":
            return
        for layer in cache.layers:
            if layer.window is None and layer.follows is None:
                self.flush(layer)

    def refuses(self, geometry: Geometry) -> str | None:
        if geometry.latent:
            return f"{geometry.family} caches latents (MLA). {self.title} works on the keys and values of heads; choose a model that has them."
        return super().refuses(geometry)
