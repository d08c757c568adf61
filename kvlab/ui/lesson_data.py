"""What lessons are made of: the shipped runs and sweep points found by content, and the scene that a step gets from them. No model is loaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from kvlab.models import DATA
from kvlab.presets import presets
from kvlab.runs import RunStore, StoredRun
from kvlab.samples import FILE
from kvlab.ui.inside import show

SWEEP = "spine"
"""The shipped sweep that the lessons read."""


@dataclass(frozen=True)
class Scene:
    """What a step shows: facts for its sentences, a picture for the browser, its table twin, a link to the page with all of it, the runs behind it."""

    facts: dict[str, Any]
    picture: dict[str, Any]
    table: list[dict[str, Any]]
    link: str = ""
    runs: tuple[str, ...] = field(default=())


class Sources:
    """Shipped runs by preset and method, shipped points by task, method and budget; each read once."""

    def __init__(self) -> None:
        self.store = RunStore(DATA / "runs")
        self.presets = {preset["id"]: preset for preset in presets()}
        self._listed = self.store.list()
        self._open: dict[str, StoredRun] = {}

    def run(self, preset: str, method: str) -> StoredRun:
        """The stored run of this prompt with this method. Raises ValueError saying which one is missing."""
        if preset not in self.presets:
            raise ValueError(f"There is no preset {preset}.")
        said = self.presets[preset]
        asked = said["context"], said["question"]
        same = [m for m in self._listed if (m["request"]["prompt"], m["request"]["question"]) == asked and m["status"] == "done"]
        found = [m["id"] for m in same if m["method"] == method]
        if not found:
            raise ValueError(f"No run of {method} on the preset {preset} is stored. Make the presets' runs again.")
        return self._open.get(found[0]) or self._load(found[0])

    def _load(self, run: str) -> StoredRun:
        self._open[run] = self.store.load(run)
        return self._open[run]

    def full_runs(self) -> list[StoredRun]:
        """The full cache's run of every preset."""
        return [self.run(preset, "full") for preset in self.presets]

    def table(self, name: str) -> pd.DataFrame:
        """`points.csv`, or `FILE` with the samples, of the shipped sweep."""
        file = DATA / "sweeps" / SWEEP / name
        return _table(str(file), file.stat().st_mtime_ns)

    def points(self, task: str) -> pd.DataFrame:
        """The sweep's points of one task, with `share`, the bytes held of the full cache's."""
        found = self.table("points.csv")
        found = found[(found["task"] == task) & found["mean"].notna()]
        if found.empty:
            raise ValueError(f"The sweep {SWEEP} has no points of {task}.")
        return found.assign(share=found["resident"] / found["full"])

    def point(self, task: str, method: str, budget: float | None = None) -> pd.Series:
        """One point. Methods that know no budget have one point whatever is asked."""
        rows = self.points(task)
        rows = rows[rows["method"] == method]
        rows = rows[rows["budget"].isna() | (rows["budget"].astype(float) == budget)]
        if rows.empty:
            raise ValueError(f"The sweep {SWEEP} has no point of {method} at {budget} on {task}.")
        return rows.iloc[0]

    def samples(self, task: str, method: str, budget: float | None = None) -> pd.DataFrame:
        """The questions behind one point."""
        rows = self.table(FILE)
        rows = rows[(rows["task"] == task) & (rows["method"] == method) & (rows["status"] == "done")]
        return rows[rows["budget"].isna() | (rows["budget"].astype(float) == budget)]


@functools.lru_cache(maxsize=4)
def _table(path: str, changed: int) -> pd.DataFrame:
    return pd.read_csv(path, usecols=lambda name: name not in ("item", "answer", "command", "versions", "nll"), dtype={"budget": str, "run": str})


def stamp() -> str:
    """Changes whenever the shipped runs, the sweep or the lessons do."""
    files = [*(DATA / "runs").glob("*/manifest.json"), *(DATA / "sweeps" / SWEEP).glob("*.csv*"), *(DATA / "lessons").glob("*.yaml")]
    return f"{len(files)} {max(file.stat().st_mtime_ns for file in files)}"


def inside(run: StoredRun, step: int = 0, layer: int = 0, head: int = 0, token: int = -1) -> str:
    """The link that shows this in Look inside."""
    return f"inside?run={run.id}&step={step}&L={layer}&H={head}" + (f"&tok={token}" if token >= 0 else "")


def head_name(layer: int, head: int) -> str:
    return f"L{layer} · H{head}"


def answer_span(run: StoredRun, answer: str) -> tuple[int, int]:
    """Positions [from, to) of the prompt that spell the answer; (0, 0) where it does not stand in the prompt."""
    pieces = run.manifest["pieces"][: run.trace.prompt]
    text = "".join(pieces)
    at = text.find(answer)
    if at < 0:
        return 0, 0
    ends = np.cumsum([len(piece) for piece in pieces])
    return int(np.searchsorted(ends, at, side="right")), int(np.searchsorted(ends, at + len(answer) - 1, side="right")) + 1


def right(run: StoredRun, answer: str) -> bool:
    """Whether the written text begins with the answer."""
    return run.manifest["text"].strip().startswith(answer)


def wrote(run: StoredRun) -> str:
    """What the run wrote, short enough for a sentence."""
    text = " ".join(run.manifest["text"].split()) or "nothing"
    return text if len(text) <= 28 else text[:27] + "…"


def word(piece: str) -> str:
    """A token for a label: signs in quotes."""
    text = show(piece)
    return text if any(c.isalnum() for c in text) else f"“{text}”"


def spans(levels: np.ndarray) -> list[list[float]]:
    """[P] levels 0..1 as runs [from, to, level] without the empty ones."""
    cuts = np.flatnonzero(np.diff(levels)) + 1
    edges = [0, *cuts.tolist(), len(levels)]
    return [[a, b, round(float(levels[a]), 3)] for a, b in pairwise(edges) if b > a and levels[a] > 0]


def nearest(value: float, choices: list[float]) -> int:
    """Index of the choice that lies nearest, by ratio."""
    return int(np.argmin([abs(np.log(max(value, 1e-9) / max(choice, 1e-9))) for choice in choices]))
