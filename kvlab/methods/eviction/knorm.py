"""Knorm, the L2 norm strategy (2024, arXiv 2406.11430). Card: methods/eviction.md, from the authors' code.

Keys of small norm tend to be the ones that get much attention. At prefill end each KV head keeps the tokens with the smallest keys; no
query is looked at. The first layers do not follow that rule well, so they may be left whole. Families that normalise keys (Qwen3, Gemma 3)
leave little to tell them apart by: only the learned weights of that norm make keys differ in length.
"""

from dataclasses import dataclass

from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Scorer, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen


@dataclass(frozen=True)
class Knorm(Scorer):
    """Keeps the tokens with the smallest keys."""

    name = "knorm"
    title = "Knorm"
    paper = "Devoto et al., arXiv 2406.11430"
    year = 2024
    schedule = Schedule(prefill=True)
    departs = (
        "Every layer is cut unless `skip` says otherwise (the authors' example leaves the first two whole), and short prompts are cut as well. "
        "Norms are rounded to three decimals."
    )

    skip: int = knob(0, "First layers that stay whole. They come on top of the budget.", 0, 128, 1)

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        # rotation leaves a norm alone up to rounding: the same word twice is a tie, and ties go to the earlier token
        return -seen.view.k.float().norm(dim=-1).round(decimals=3)

    def room(self, layer: LayerKV) -> Tensor:
        return layer.tokens() if layer.index < self.skip else super().room(layer)

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return tokens if layer < self.skip else self.kept(tokens, prompt)
