"""The doors of the Start page: a small true picture of what is behind each, from stored runs and the stored sweep. Plain functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from kvlab.plots import words
from kvlab.plots.looks import percent, size
from kvlab.plots.points import comparable, pareto, shown, single
from kvlab.plots.scales import bytes_scale, is_share, quality_scale, score
from kvlab.runs import RunStore, StoredRun
from kvlab.ui import choice, marks
from kvlab.ui.start import Runs, answer, belonging, named, rivals
from kvlab.ui.sweeps import Swept

ROOM = 2**30
"""Bytes in which the door of Plan counts requests."""


def compare(presets: Sequence[Mapping[str, Any]], runs: Runs) -> dict[str, Any] | None:
    """One prompt under several methods: who wrote what. The prompt with the most stored runs; None when none has three."""
    found = [(preset, rivals(belonging(preset, runs))) for preset in presets]
    preset, chosen = max(found, key=lambda pair: len(pair[1]), default=({}, []))
    if len(chosen) < 3 or chosen[0]["method"] != "full":
        return None
    full = chosen[0]
    held, wrote = full["bytes"]["full"], full["text"].strip()
    rows = [
        {**named(m), "answer": answer(m), "differs": m["text"].strip() != wrote, "share": percent(m["bytes"]["resident"] / held)} for m in chosen
    ]  # fmt: skip
    changed = sum(row["differs"] for row in rows)
    return {"rows": rows, "runs": [m["id"] for m in chosen], "said": f"\u201c{preset['title']}\u201d: {changed} of {len(rows) - 1} write something else"}


def lesson(store: RunStore, ids: Sequence[str]) -> dict[str, Any] | None:
    """Two heads of one layer that share a budget and keep the most unequal numbers of entries: something to guess. None when all heads keep the same."""
    best: tuple[float, StoredRun, int, np.ndarray] | None = None
    for run in map(store.load, ids):
        if not len(run.trace.written):
            continue
        counts = run.trace.held(0)[..., : run.trace.prompt].sum(-1)
        for layer, row in enumerate(counts):
            spread = float((row.max() + 1) / (row.min() + 1))
            if spread > (best[0] if best else 1.0):
                best = spread, run, layer, row
    if best is None:
        return None
    _, run, layer, row = best
    t = run.trace
    held = t.held(0)[layer, :, : t.prompt]
    rows = [{"name": f"L{layer} \u00b7 H{head}", "kept": int(row[head]), "spans": spans(held[head])} for head in sorted((int(row.argmin()), int(row.argmax())))]
    even = float(t.held(0)[..., : t.prompt].sum(-1).mean())
    return {"rows": rows, "tokens": t.prompt, "even": round(even, 1), "method": run.manifest["title"], "run": run.id}


def spans(held: np.ndarray) -> list[list[int]]:
    """[first, past the last] of every unbroken stretch of true entries."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], held.astype(np.int8), [0]])))
    return [[int(a), int(b)] for a, b in list(pairwise(edges))[::2]]


def opened(swept: Swept) -> pd.DataFrame:
    """The points that Trade-offs opens a sweep with, their bytes in `x`."""
    view = choice.resolve(swept, {})
    here = choice.panel(swept, view)
    points = here[here["method"].isin(choice.shown_methods(here, view))]
    return points.assign(x=shown(points, view.x))


def settings(points: pd.DataFrame) -> dict[str, Any] | None:
    """The settings that keep the full cache's score within the intervals, each method's smallest, and how many requests fit in a GiB of cache."""
    full = points[points["axis"] == "reference"]
    if full.empty:
        return None
    fits = words.kept(points).drop_duplicates("method")
    rows = [_setting(row, full.iloc[0]) for _, row in pd.concat([full.head(1), fits.head(3)]).iterrows()]
    tried = points.loc[comparable(points) & (points["axis"] != "reference"), "method"].nunique()
    prompts = int(full.iloc[0]["n"])
    said = f"{len(fits)} of {tried} methods keep the score with fewer bytes, as far as {prompts} prompts can show"
    return {"rows": rows, "said": said, "length": f"{int(full.iloc[0]['length']):,}"}


def _setting(row: pd.Series, full: pd.Series) -> dict[str, Any]:
    return {
        "method": row["title"], "setting": row["setting"], "marker": marks.marker(row["method"]), "bytes": size(row["resident"]),
        "share": round(row["resident"] / full["resident"], 4), "reference": row["axis"] == "reference", "fit": f"{int(ROOM // row['resident']):,}",
        "score": score(row["mean"], row["better"] == "higher" and 0 <= row["mean"] <= 1),
    }  # fmt: skip


def field(points: pd.DataFrame) -> dict[str, Any]:
    """Quality against measured bytes, every place as a share of the axes: x from the left, y from below."""
    xs, ys = bytes_scale(points["x"], True), quality_scale(points)
    best = pareto(points[comparable(points)])
    at = lambda row: [round(xs.share(row["x"]), 4), round(ys.share(row["mean"]), 4)]  # noqa: E731
    series = []
    for method, rows in points[(points["axis"] != "reference") & ~single(points) & (points["source"] == "measured")].groupby("method", sort=False):
        on = rows.index.isin(best.index)
        series.append({"marker": marks.marker(method), "title": rows["title"].iloc[0], "front": bool(on.mean() >= 0.5),
                       "points": [at(row) for _, row in rows.sort_values("x").iterrows()]})  # fmt: skip
    full = points[points["axis"] == "reference"]
    share = is_share(points)
    reference = [{"at": at(row), "low": round(ys.share(row["low"]), 4), "high": round(ys.share(row["high"]), 4)} for _, row in full.head(1).iterrows()]
    return {
        "series": sorted(series, key=lambda one: one["front"]), "front": [at(row) for _, row in best.sort_values("x").iterrows()], "reference": reference,
        "xticks": [[round(xs.share(t), 4), text] for t, text in zip(xs.ticks, xs.texts, strict=True)],
        "yticks": [[round(ys.share(t), 4), text] for t, text in zip(ys.ticks, ys.texts, strict=True)],
        "title": words.finding(points), "said": words.setting(points), "measure": words.measure(points), "alt": words.alt(points.drop(columns="x")),
        "full": score(full["mean"].iloc[0], share) if len(full) else "",
    }  # fmt: skip
