"""Who kept what: the entries of the prompt that two runs both hold after their last step, per layer and in all, and what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from kvlab.runs import StoredRun


@dataclass(frozen=True)
class Overlap:
    """Two kept sets. `layers`: rows of [layer, kept by the first only, by both, by the second only]; `shared`: Jaccard, both of either; `chance`: the same
    for two sets that keep as many entries in every head, drawn at random."""

    layers: list[list[int]]
    shared: float
    chance: float


def kept(run: StoredRun) -> np.ndarray:
    """[L, H, asked] bool: entries of the prompt and the question held while the last token was computed."""
    return run.trace.held(len(run.trace.written) - 1)[..., : run.trace.asked]


def open_layers(run: StoredRun) -> list[int]:
    """Layers without a window of their own: in the others every run drops the same entries."""
    return [i for i, window in enumerate(run.manifest["geometry"]["windows"]) if window is None]


def overlap(a: np.ndarray, b: np.ndarray, layers: Sequence[int]) -> Overlap:
    """Compare two kept sets [L, H, T] over `layers`. Two empty sets share everything."""
    a, b = a[list(layers)], b[list(layers)]
    both, mine, theirs = (a & b).sum((1, 2)), (a & ~b).sum((1, 2)), (b & ~a).sum((1, 2))
    sizes = a.sum(-1) * 1.0, b.sum(-1) * 1.0
    expected = float((sizes[0] * sizes[1]).sum() / max(1, a.shape[-1]))
    total, either = float(sizes[0].sum() + sizes[1].sum()), float((a | b).sum())
    rows = [[layer, int(x), int(y), int(z)] for layer, x, y, z in zip(layers, mine, both, theirs, strict=True)]
    return Overlap(rows, float(both.sum()) / either if either else 1.0, expected / (total - expected) if total > expected else 1.0)


def overlaps(runs: Sequence[StoredRun]) -> dict[tuple[int, int], Overlap]:
    """Every pair of `runs` by their places, the earlier one first."""
    sets, layers = [kept(run) for run in runs], open_layers(runs[0])
    return {(i, j): overlap(sets[i], sets[j], layers) for i, j in combinations(range(len(runs)), 2)}


def said(runs: Sequence[StoredRun], names: Sequence[str], letters: Sequence[str]) -> dict[str, Any]:
    """The same for the browser: names and letters, entries kept, entries there are, and every pair."""
    layers = open_layers(runs[0])
    sizes = [int(kept(run)[layers].sum()) for run in runs]
    heads, tokens = runs[0].trace.left_at.shape[1], runs[0].trace.asked
    pairs = [{"a": i, "b": j, "layers": o.layers, "shared": round(o.shared, 4), "chance": round(o.chance, 4)} for (i, j), o in overlaps(runs).items()]
    return {"names": list(names), "letters": list(letters), "kept": sizes, "of": len(layers) * heads * tokens, "per": heads * tokens, "pairs": pairs}
