"""Random eviction, the baseline every score has to beat. Card: methods/eviction.md; kvpress has the per-head form without protection.

At prefill end every entry draws a uniform number and the largest stay. Numbers belong to positions, so a text gets the same ones alone,
in a batch, in chunks and under a larger budget.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import Scorer, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import protect


def draws(pos: Tensor, seed: int, layer: int, shared: bool) -> Tensor:
    """Uniform numbers [B, H, T] float32 for `pos` [B, H, T]: one stream per layer, drawn position by position, one number for each head."""
    end, heads = max(1, int(pos.max()) + 1), pos.shape[1]
    stream = np.random.default_rng((seed, layer)).random((end, 1 if shared else heads), dtype=np.float32)
    numbers = torch.from_numpy(stream).to(pos.device).T.expand(heads, -1)
    return numbers.expand(len(pos), -1, -1).gather(2, pos.clamp(min=0).long())


@dataclass(frozen=True)
class Random(Scorer):
    """Keeps entries by lot. What a method gains beyond this is what its scores are worth."""

    name = "random"
    title = "Random"
    paper = "Baseline, as in NVIDIA/kvpress"
    year = 2024
    schedule = Schedule(prefill=True)
    departs = "Each layer has a stream of its own; kvpress seeds all layers alike, so that they lose the same tokens."

    shared: bool = knob(False, "One draw for all heads of a layer instead of one for each.")
    sinks: int = knob(0, "First tokens that always stay. Without them most models break, which no score is to blame for.", 0, 64, 1)
    recent: int = knob(0, "Last tokens that always stay.", 0, 512, 1)
    seed: int = knob(0, "Seed of the draw.", 0, 2**31 - 1, 1)

    @property
    def per_head(self) -> bool:  # type: ignore[override]
        return not self.shared

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        return draws(seen.pos(), self.seed, layer.index, self.shared)

    def protected(self, layer: LayerKV, seen: Seen, count: Tensor) -> Tensor:
        recent = count.clamp(max=self.recent)
        return protect(seen.pos(), layer.tokens(), (count - recent).clamp(max=self.sinks), recent)
