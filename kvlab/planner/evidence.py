"""What sweeps measured of a setting, held against a quality floor. Nothing is carried over from one model, length or task to another: each says its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kvlab.budget import Budget
from kvlab.method import Method
from kvlab.registry import make

VERDICTS = ("meets", "open", "unmeasured", "below")
"""The whole interval lies on or above the floor; only the mean does; nothing was measured; not even the mean does. In the order of the list."""
PANEL = ["model", "task", "length", "protocol"]


@dataclass(frozen=True)
class Evidence:
    """One measured point against the full cache of the same sweep, model, task, length and mode.

    share, low, high: its score and interval as shares of the full cache's mean; of a measure where less is better, the other way round.
    """

    sweep: str
    model: str
    task: str
    length: int
    mode: str
    protocol: str
    samples: int
    share: float
    low: float
    high: float
    point: str
    run: str | None

    def verdict(self, floor: float) -> str:
        """ "meets", "open" or "below"; a single sample proves nothing."""
        if self.share < floor:
            return "below"
        return "meets" if self.low >= floor and self.samples > 1 else "open"


@dataclass(frozen=True)
class Setting:
    """A method with its knobs and, of one that drops, its budget. Equal settings are one."""

    method: Method

    @classmethod
    def of(cls, name: str, budget: str | None, knobs: Mapping[str, Any]) -> Setting:
        """From the columns of a sweep. ValueError for what this kvlab does not know."""
        return cls(make(name, budget, dict(knobs)))

    @property
    def whole(self) -> bool:
        """Whether its budget keeps everything, so that it drops nothing."""
        budgets = [part.budget for part in self.method.members if part.budget_knob]
        return bool(budgets) and budgets[0] == Budget(1)


def gathered(sweeps: Iterable[tuple[str, pd.DataFrame]]) -> dict[Setting, list[Evidence]]:
    """All measured points of sweeps as the Trade-offs page reads them (`kvlab.ui.sweeps.Swept.points`), by setting, the full cache left out."""
    found: dict[Setting, list[Evidence]] = {}
    for name, points in sweeps:
        measured = points[points["source"] == "measured"]
        for _, panel in measured.groupby(PANEL, sort=False):
            full = panel.loc[panel["axis"] == "reference", "mean"]
            if full.empty or not full.iloc[0] > 0:
                continue  # no reference, or one that answers nothing: no share of it can be taken
            for row in panel[panel["axis"] != "reference"].itertuples():
                if (setting := _setting(row)) and (row.better == "higher" or row.low > 0):
                    found.setdefault(setting, []).append(_evidence(name, row, full.iloc[0]))
    return found


def _setting(row: Any) -> Setting | None:
    try:
        knobs = json.loads(row.knobs or "{}")
        setting = Setting.of(row.method, row.budget if isinstance(row.budget, str) else None, knobs)
    except (ValueError, TypeError, AttributeError):
        return None  # a method or knob of another version of kvlab: its bytes cannot be predicted
    # a number of bytes was turned into tokens for the length that was measured: of another length it says nothing
    in_bytes = any(part.budget_knob and part.budget.unit == "bytes" for part in setting.method.members)
    return None if setting.whole or in_bytes else setting


def _evidence(sweep: str, row: Any, full: float) -> Evidence:
    higher = row.better == "higher"
    share, low, high = (row.mean / full, row.low / full, row.high / full) if higher else (full / row.mean, full / row.high, full / row.low)
    run = row.run if isinstance(row.run, str) else None
    return Evidence(sweep, row.model, row.task, int(row.length), row.mode, row.protocol, int(row.n), share, low, high, row.point, run)


def tasks(found: Mapping[Setting, list[Evidence]]) -> list[str]:
    """Every task that something was measured on."""
    return list(dict.fromkeys(one.task for all_of in found.values() for one in all_of))


def settling(all_of: Iterable[Evidence], model: str, task: str, floor: float) -> Evidence | None:
    """The evidence that decides: of the planned model where there is any, of the task asked for ("" every one), what speaks most against it."""
    mine = [one for one in all_of if task in ("", one.task)]
    own = [one for one in mine if model and one.model == model]
    return max(own or mine, key=lambda one: (VERDICTS.index(one.verdict(floor)), -one.share), default=None)


@dataclass(frozen=True)
class Error:
    """Bytes predicted and measured of one run or of one point's mean."""

    where: str
    run: str | None
    method: str
    title: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predicted / self.measured - 1


def run_errors(runs: Iterable[Mapping[str, Any]]) -> list[Error]:
    """Of stored runs (manifests) that were finished and hold something."""
    return [
        Error("run", said["id"], said["method"], said["title"], said["bytes"]["predicted"], said["bytes"]["resident"])
        for said in runs
        if said.get("status") == "done" and said["bytes"].get("predicted") and said["bytes"].get("resident")
    ]


def sweep_errors(sweeps: Iterable[tuple[str, pd.DataFrame]]) -> list[Error]:
    """Of sweeps' points, whose figures are means over their samples; of what was not measured here none."""
    found: list[Error] = []
    for name, points in sweeps:
        for row in points[points["source"] == "measured"].itertuples():
            predicted = pd.to_numeric(getattr(row, "predicted", None), errors="coerce")
            if predicted > 0 and row.resident > 0:
                run = row.run if isinstance(row.run, str) else None
                found.append(Error(f"sweep {name}", run, row.method, row.title, float(predicted), float(row.resident)))
    return found
