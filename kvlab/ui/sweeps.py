"""Stored sweeps for the Trade-offs page: those shipped in `data/sweeps`, and those under `KVLAB_HOME`.

A sweep is a folder with `points.csv` and `samples.csv.gz`, as `python -m kvlab sweep` writes it. `raw` stays as the file has it, for exports;
`points` is what the figures of `kvlab.plots` take, with settings and modes in words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.models import DATA
from kvlab.plots.points import PANEL, check
from kvlab.runs import default_folder
from kvlab.samples import FILE

TEXT = ("budget", "run", "setting", "seeds", "revision", "versions", "command", "model", "method", "title", "axis", "task", "mode", "source")
SAMPLE_COLUMNS = ("method", "title", "axis", "setting", "budget", "task", "length", "depth", "seed", "sample", "question", "mode", "score", "status", "model")
MODES = {
    "requests": "question asked after compression", "aware": "question read with the context", "turns": "turn by turn",
    "prefix": "scored after one reading", "token": "scored token by token",
}  # fmt: skip


@dataclass(frozen=True)
class Swept:
    """One sweep's tables. Every row of `points` has its `point`, a short name that stays the same for the same setting."""

    name: str
    raw: pd.DataFrame
    points: pd.DataFrame
    samples: pd.DataFrame
    stamp: str
    """Changes with the tables: the key of figures drawn from them."""
    imported: bool = False


FIRST = "spine"
"""Of the shipped sweeps the one that pages open with: few methods, of several axes."""


def folders() -> dict[str, Path]:
    """Name -> folder of every stored sweep: the shipped ones, `FIRST` and then by name; then the own ones, newest first."""
    shipped, own = ([path.parent for path in home.glob("*/points.csv")] for home in (DATA / "sweeps", default_folder().parent / "sweeps"))
    shipped.sort(key=lambda place: (place.name != FIRST, place.name))
    own.sort(key=lambda place: -(place / "points.csv").stat().st_mtime)
    found: dict[str, Path] = {}
    for folder in shipped + own:
        found[folder.name if folder.name not in found else f"{folder.name} (own)"] = folder
    return found


def stored(name: str) -> Swept:
    """The sweep of this name. Raises ValueError with a sentence."""
    folder = folders()[name]
    return _stored(name, str(folder), (folder / "points.csv").stat().st_mtime_ns)


@st.cache_resource(max_entries=8, show_spinner=False)
def _stored(name: str, folder: str, changed: int) -> Swept:
    place = Path(folder)
    try:
        raw = pd.read_csv(place / "points.csv", dtype=dict.fromkeys(TEXT, str), keep_default_na=True)
        wanted = lambda column: column in SAMPLE_COLUMNS  # noqa: E731
        there = (place / FILE).exists()
        samples = pd.read_csv(place / FILE, usecols=wanted, dtype={"budget": str}) if there else pd.DataFrame(columns=SAMPLE_COLUMNS)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"The sweep {name} cannot be read: {' '.join(str(error).split())}. Run the same sweep command again to write it anew.") from None
    return Swept(name, *tables(raw), samples, f"{folder} {changed}")


def tables(raw: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that have a mean, and for the figures the same rows with settings and modes in words, a `point` each, and `protocol` and `knobs` as they were.

    Raises ValueError for tables that are none of points.
    """
    found = check(raw.assign(setting=raw["setting"].fillna("") if "setting" in raw else "", axis=raw["axis"].fillna("") if "axis" in raw else ""))
    varied = {method: _varied(rows["setting"]) for method, rows in found.groupby("method", sort=False)}
    words = [setting_words(row.method, row.budget, row.setting, varied[row.method]) for row in found.itertuples()]
    same = [*PANEL, "method", "setting", "budget", "source"]
    again = found.groupby(same, dropna=False).cumcount()  # an imported file may say a thing twice
    ids = [point_id(*row) for row in found[same].assign(again=again).itertuples(index=False)]
    said = found.assign(setting=words, protocol=found["mode"], mode=[mode_words(mode) for mode in found["mode"]], knobs=found["setting"], point=ids)
    return raw[raw["mean"].notna()].reset_index(drop=True), said


def point_id(*said: Any) -> str:
    """Ten hex digits over what makes a point this one."""
    return hashlib.sha256(repr([str(part) for part in said]).encode()).hexdigest()[:10]


def mode_words(mode: str) -> str:
    """How a context was used, in words."""
    kind, _, count = str(mode).partition(" ")
    return f"scored {count} tokens at a time" if kind == "chunked" else MODES.get(mode, str(mode))


def setting_words(method: str, budget: Any, knobs: str, varied: Sequence[str] = ()) -> str:
    """"25 % kept, bits 2": the budget, then the knobs that differ within the method; where there are neither, its first two knobs."""
    if method == "full":
        return "every entry"
    known = _knobs(knobs)
    if known is None:
        return knobs
    names = list(varied) if varied else [] if isinstance(budget, str) else list(known)[:2]
    kept = [f"{amount(budget)} kept"] if isinstance(budget, str) else []
    return ", ".join([*kept, *(f"{name.replace('_', ' ')} {known[name]}" for name in names if name in known)])


def amount(budget: str) -> str:
    """0.25 -> "25 %", 64t -> "64 tokens", 20MB as it is."""
    try:
        return f"{100 * float(budget):g} %"
    except ValueError:
        return f"{budget[:-1]} tokens" if budget.endswith("t") and budget[:-1].isdigit() else budget


def _knobs(text: str) -> dict[str, Any] | None:
    """The knobs in a `setting`, or None where it is plain words."""
    try:
        said = json.loads(text or "{}")
    except (json.JSONDecodeError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _varied(settings: pd.Series) -> list[str]:
    """Knobs that do not have one value in all of these settings."""
    said = [_knobs(text) or {} for text in settings.unique()]
    names = dict.fromkeys(name for knobs in said for name in knobs)
    return [name for name in names if len({json.dumps(knobs.get(name)) for knobs in said}) > 1]


def beside(swept: Swept, imported: Sequence[Swept]) -> Swept:
    """The sweep with the imported points of the same models, tasks, lengths and modes, each still marked imported. Their full caches stay out."""
    known = {tuple(row) for row in swept.points[PANEL].itertuples(index=False)}
    raws, points = [swept.raw], [swept.points]
    for other in imported:
        same = pd.Series([tuple(row) in known for row in other.points[PANEL].itertuples(index=False)], other.points.index, dtype=bool)
        fits = same & (other.points["axis"] != "reference")
        raws.append(other.raw[fits])
        points.append(other.points[fits])
    if sum(map(len, points)) == len(swept.points):
        return swept
    stamp = " ".join([swept.stamp, *(other.stamp for other in imported)])
    return replace(swept, raw=pd.concat(raws, ignore_index=True), points=pd.concat(points, ignore_index=True), stamp=stamp)
