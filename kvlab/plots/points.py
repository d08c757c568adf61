"""The table every trade-off figure starts from: checked, with the shown bytes in one column, and its Pareto front."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

COLUMNS = (
    "model", "method", "title", "axis", "setting", "budget", "task", "length", "mode", "better", "mean", "low", "high", "n", "interval",
    "resident", "peak", "read_per_step", "full", "prefill_s", "decode_s", "kept_fraction", "run", "source",
)  # fmt: skip
PANEL = ["model", "task", "length", "mode"]
"""What must be equal for two points to be compared."""
AXES = {
    "resident": "Measured bytes held",
    "peak": "Measured bytes at the peak",
    "read_per_step": "Measured bytes read per step",
    "share": "Measured bytes held, % of the full cache",
}
"""What may stand on the x axis -> its words."""


def check(points: pd.DataFrame) -> pd.DataFrame:
    """The points, reindexed, or ValueError with what is wrong. Rows without a mean (a point that failed) are left out."""
    missing = [name for name in COLUMNS if name not in points]
    if missing:
        raise ValueError(f"The table of points lacks {', '.join(missing)}.")
    for column, allowed in (("better", {"higher", "lower"}), ("interval", {"wilson", "bootstrap", "single"}), ("source", {"measured", "imported"})):
        if wrong := set(points[column]) - allowed:
            raise ValueError(f"Column {column} of the points holds {sorted(map(str, wrong))[0]!r}; it takes {' or '.join(sorted(allowed))}.")
    found = points[points["mean"].notna()].reset_index(drop=True)
    if found.empty:
        raise ValueError("There are no points to draw. Run a sweep or import one.")
    if not (found[["resident", "full"]] > 0).all(axis=None):
        raise ValueError("Every point needs its measured bytes and those of the full cache, both above 0.")
    return found


def panel(points: pd.DataFrame, x: str) -> pd.DataFrame:
    """One panel's points with the shown bytes in column `x`. ValueError when they are of several tasks, lengths, modes or models."""
    found = check(points)
    for column in PANEL:
        if len(values := found[column].astype(str).unique()) > 1:
            raise ValueError(f"This figure shows one {column} at a time, and the points have {len(values)}: {', '.join(values[:4])}. Choose one of them.")
    return found.assign(x=shown(found, x))


def shown(points: pd.DataFrame, x: str) -> pd.Series:
    """The bytes to show: a column, or for "share" the bytes held in percent of the full cache."""
    if x not in AXES:
        raise ValueError(f"x is one of {', '.join(AXES)}, not {x!r}.")
    values = 100 * points["resident"] / points["full"] if x == "share" else points[x].astype(float)
    if not (values > 0).all():
        raise ValueError(f"{AXES[x]} is not known for every point.")
    return values


def single(points: pd.DataFrame) -> pd.Series:
    """Which points come from one prompt: no rate, drawn hollow."""
    return (points["n"] <= 1) | (points["interval"] == "single")


def curves(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The lines through one method's rows: each joins those that differ in one thing only, the budget or else the number that was varied most.

    One line through all where `knobs`, the settings as JSON, are not told.
    """
    if "knobs" not in rows or rows.empty:
        return [rows]
    alike = rows["knobs"] if rows["budget"].nunique() > 1 else _without_the_varied(rows["knobs"])
    return [part for _, part in rows.groupby(alike, sort=False, dropna=False)]


def _without_the_varied(knobs: pd.Series) -> pd.Series:
    """The same settings without the number that takes the most values among them; as they are where they are no JSON."""
    try:
        said = [json.loads(text) for text in knobs]
    except (TypeError, ValueError):
        return knobs
    numbers = {name for one in said for name, value in one.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    varied = max(sorted(numbers), key=lambda name: len({one.get(name) for one in said}), default=None)
    return pd.Series([json.dumps({name: value for name, value in one.items() if name != varied}, sort_keys=True) for one in said], knobs.index)


def comparable(points: pd.DataFrame) -> pd.Series:
    """Which points may stand on a front: measured here, and on more than one prompt."""
    return (points["source"] == "measured") & ~single(points)


def pareto(points: pd.DataFrame, x: str = "resident") -> pd.DataFrame:
    """The rows that no other row of their model, task, length and mode beats in bytes and quality at once, by rising bytes.

    A row is beaten by one with no more bytes and no worse mean, one of them strictly better; equal rows both stay. Every given row takes part:
    leave out what must not (`comparable`). One pass over the rows sorted by bytes, O(n log n).
    """
    bytes_of = shown(points, x)
    gain = points["mean"].where(points["better"] == "higher", -points["mean"])
    kept: list[int] = []
    for _, rows in points.groupby(PANEL, sort=False, dropna=False).indices.items():
        order = rows[np.lexsort((-gain.to_numpy()[rows], bytes_of.to_numpy()[rows]))]
        best, at = -np.inf, -np.inf
        for row in order:
            value, here = gain.iloc[row], bytes_of.iloc[row]
            if value > best or (value == best and here == at):
                kept.append(row)
                best, at = value, here
    return points.iloc[kept]
