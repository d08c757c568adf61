"""PyramidKV (2024, arXiv 2406.02069). Card: methods/eviction.md, from the authors' KVCache-Factory.

SnapKV with budgets that shrink from layer to layer: lower layers spread their attention and get more entries, upper ones look at a few
tokens and get fewer. Budgets fall by equal whole steps, so their sum is not exactly the one asked for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.eviction.snapkv import SnapKV


def pyramid(count: int, tokens: int, window: int, beta: int, layers: int) -> list[int]:
    """Slots each layer keeps of `tokens`, the window counted in, for `count` on average."""
    scored = count - window
    # near the full cache or below the window there is nothing to shift between layers
    if layers < 2 or scored < 1 or tokens <= count or tokens < 2 * scored:
        return [min(count, tokens)] * layers
    low = scored // beta
    high = 2 * scored - low
    if high >= tokens - window:
        high = tokens - window
        low = 2 * scored - high
    step = (high - low) // (layers - 1)
    return [high - layer * step + window for layer in range(layers)]


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """SnapKV's votes, with more entries for lower layers than for upper ones."""

    name = "pyramidkv"
    title = "PyramidKV"
    paper = "Cai et al., arXiv 2406.02069"
    year = 2024
    departs = (
        "Entries are kept per KV head; the authors' code repeats keys to query heads first. Sliding-window layers are left to their window: the others share "
        "the pyramid. Whole steps between layers may exceed the budget by a few percent, as in the authors' code."
    )

    beta: int = knob(20, "How steep: the top layer gets about one part in `beta` of the average.", 1, 100, 1)
    window: int = knob(8, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)
    kernel: int = knob(7, "Width of the smoothing along the tokens, odd.", 1, 63, 2)

    def room(self, layer: LayerKV) -> Tensor:
        tokens = layer.tokens()
        return torch.tensor([self._slots(layer.index, int(n), layer.cache.geometry) for n in tokens], device=tokens.device)

    def _slots(self, layer: int, prompt: int, geometry: Geometry) -> int:
        place = sum(window is None for window in geometry.windows[:layer])
        return pyramid(self.budget.tokens(prompt), prompt, self.window, self.beta, geometry.open_layers)[place]

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return self._slots(layer, prompt, geometry) + tokens - prompt
