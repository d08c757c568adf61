"""Axes with ticks set by hand: bytes, shares, scores and perplexities. A scale also turns data into pixels, for placing labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kvlab.plots.looks import linear_ticks, log_ticks, percent, unit


@dataclass(frozen=True)
class Scale:
    """One axis: its ends, whether it is logarithmic, its ticks with their text."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]
    texts: tuple[str, ...]

    def at(self, value: float) -> float:
        """Where an annotation goes: Plotly wants the logarithm there."""
        return math.log10(value) if self.log else value

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        return (self.at(value) - self.at(self.low)) / (self.at(self.high) - self.at(self.low))

    def layout(self) -> dict[str, Any]:
        """For `figure.update_xaxes` or `update_yaxes`."""
        return {"type": "log" if self.log else "linear", "range": [self.at(self.low), self.at(self.high)], "tickvals": self.ticks, "ticktext": self.texts}


def bytes_scale(values: Iterable[float], log: bool) -> Scale:
    """Bytes, the unit at the first tick only."""
    low, high = min(values), max(values)
    one, name = unit(math.sqrt(low * high))
    low, high = (low / 1.15, high * 1.22) if log else (0.0, high * 1.08)
    ticks = log_ticks(low / one, high / one) if log else linear_ticks(0, high / one)
    texts = tuple(f"{t:g} {name}" if i == 0 else f"{t:g}" for i, t in enumerate(ticks))
    return Scale(low, high, log, tuple(t * one for t in ticks), texts)


def share_scale(values: Iterable[float], log: bool) -> Scale:
    """Percent of the full cache, its sign at the first tick only."""
    low, high = min(values), max(values)
    low, high = (low / 1.15, max(high, 100) * 1.22) if log else (0.0, max(high, 100) * 1.08)
    ticks = log_ticks(low, high) if log else linear_ticks(0, high)
    return Scale(low, high, log, tuple(ticks), tuple(f"{t:g} %" if i == 0 else f"{t:g}" for i, t in enumerate(ticks)))


def quality_scale(points: pd.DataFrame) -> Scale:
    """Scores between 0 and 1 as percent, the sign at the top tick; other measures linear, or logarithmic where they are small-is-good and spread wide."""
    low = float(points[["mean", "low"]].min(axis=None))
    high = float(points[["mean", "high"]].max(axis=None))
    if points["better"].iloc[0] == "higher" and low >= 0 and high <= 1:
        ticks = (0, 0.2, 0.4, 0.6, 0.8, 1)
        return Scale(-0.025, 1.045, False, ticks, tuple(f"{100 * t:.0f}" + (" %" if t == 1 else "") for t in ticks))
    if points["better"].iloc[0] == "lower" and low > 0 and high / low > 4:
        low, high = low / 1.12, high * 1.15
        ticks = tuple(log_ticks(low, high, 7))
        return Scale(low, high, True, ticks, tuple(f"{t:g}" for t in ticks))
    room = 0.08 * (high - low or abs(high) or 1)
    low, high = low - room, high + room
    ticks = tuple(linear_ticks(low, high))
    return Scale(low, high, False, ticks, tuple(f"{t:g}" for t in ticks))


def score(value: float, share: bool) -> str:
    """A score for a person, in the form of its axis: "89 %" (where `is_share`) or "4.41"."""
    if share:
        return percent(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(row: pd.Series | dict[str, Any], share: bool) -> str:
    """A score's interval for a person: "[79, 95]"."""
    if row["n"] <= 1 or row["interval"] == "single":
        return "one prompt"
    return f"[{score(row['low'], share).removesuffix(' %')}, {score(row['high'], share).removesuffix(' %')}]"


def is_share(points: pd.DataFrame) -> bool:
    """Whether the scores are shares between 0 and 1."""
    return bool((points["better"] == "higher").all() and points["mean"].between(0, 1).all())
