"""From rows to points: one for each setting, budget, task, length and mode, with an interval and the medians of what was measured.

A sample counts once, whatever the number of its questions: they share a context, so their answers are no independent draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, bootstrap

KEYS = ("model", "revision", "dtype", "device", "method", "setting", "budget", "task", "task_version", "length", "mode")
MEDIANS = ("resident", "peak", "read_per_step", "full", "predicted", "kept_fraction", "prefill_s", "decode_s", "kl", "top1")
LEVEL = 0.95
DRAWS = 2000


def points(rows: list[dict[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """A row for each point, in the order of its first sample.

    mean, low, high: of the samples' scores, or the perplexity over all scored tokens of a text task, with the 95 % interval of kind
    `interval`: "wilson" for scores that are all 0 or 1, "bootstrap" for others, "single" for one sample,
    which has none (low and high are the mean).
    n: samples; failed: rows that could not be run and do not count. Bytes, shares, `kl` and `top1` are medians over questions; seconds are
    too, and `seconds` is that of prefill and one written token. better: higher or lower. run: a stored run behind the point.
    """
    table = pd.DataFrame(rows)
    if table.empty:
        return pd.DataFrame(columns=[*KEYS, "title", "axis", "mean", "low", "high", "n", "interval", "failed", *MEDIANS, "seconds", "better", "run", "source"])
    found = [_point(dict(zip(KEYS, key, strict=True)), of) for key, of in table.groupby(list(KEYS), dropna=False, sort=False)]
    return pd.DataFrame([point for point in found if point is not None])


def _point(key: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any] | None:
    done = rows[rows["status"] == "done"]
    if done.empty:
        return None
    mean, low, high, interval, n = _scored(done) if done["nll"].notna().all() else _answered(done)
    medians = {name: float(pd.to_numeric(done[name]).median()) for name in MEDIANS}
    runs, first = done["run"].dropna(), done.iloc[0]
    return {
        **key, "budget": key["budget"] if isinstance(key["budget"], str) else None, "title": first["title"], "axis": first["axis"],
        "mean": mean, "low": low, "high": high, "n": n, "interval": interval, "failed": len(rows) - len(done),
        **medians, "seconds": medians["prefill_s"] + medians["decode_s"], "better": first["better"],
        "run": runs.iloc[0] if len(runs) else None, "source": "measured",
        "seeds": ",".join(map(str, sorted(done["seed"].unique()))), "versions": first["versions"], "command": first["command"],
    }  # fmt: skip


def _answered(rows: pd.DataFrame) -> tuple[float, float, float, str, int]:
    """Mean over samples of the mean over their questions."""
    scores = rows.groupby(["seed", "sample"])["score"].mean().to_numpy(float)
    n, mean = len(scores), float(scores.mean())
    if n == 1:
        return mean, mean, mean, "single", n
    if np.isin(scores, (0.0, 1.0)).all():
        low, high = binomtest(int(scores.sum()), n).proportion_ci(LEVEL, method="wilson")
        return mean, float(low), float(high), "wilson", n
    return mean, *_interval(bootstrap((scores,), np.mean, confidence_level=LEVEL, n_resamples=DRAWS, method="percentile", rng=0)), "bootstrap", n


def _scored(rows: pd.DataFrame) -> tuple[float, float, float, str, int]:
    """Perplexity over all tokens: the sum of the losses by the sum of the tokens, not the mean of the samples' perplexities."""
    nll, tokens = rows["nll"].to_numpy(float), rows["scored_tokens"].to_numpy(float)
    whole = lambda a, b, axis=-1: np.exp(a.sum(axis) / b.sum(axis))  # noqa: E731
    mean = float(whole(nll, tokens))
    if len(rows) == 1:
        return mean, mean, mean, "single", 1
    drawn = bootstrap((nll, tokens), whole, paired=True, vectorized=True, confidence_level=LEVEL, n_resamples=DRAWS, method="percentile", rng=0)
    return mean, *_interval(drawn), "bootstrap", len(rows)


def _interval(drawn: Any) -> tuple[float, float]:
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)
