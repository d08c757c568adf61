"""The table `samples`: one row for each question of each sample of a sweep, in the index of a folder of runs.

Rows of one item (a sample under one setting) are written together, so an item is there in full or not at all: that is what a sweep that
was killed resumes from.
"""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kvlab import index

FILE = "samples.csv.gz"
"""The rows of a sweep in its folder: packed, as command and versions stand in each of them."""


@dataclass(frozen=True)
class Row:
    """One question of one sample under one setting. Bytes, seconds, losses and shares are measured; None where there is no such figure.

    item: hash of everything that defines the figures; with `question` the key. setting: the knobs without the budget, as JSON. budget: as
    asked, None where the method has none. depth: where in the context the fact stands. mode: how the context was used (`kvlab.sweep.plan`).
    score: by the task's metric in [0, 1], or the sample's perplexity. nll: sum over `scored_tokens`, in nats. kl: mean over the steps of
    KL(full cache || this run), on this run's own text; top1: share of the steps where both would choose the same token; diverged: the first
    step where they would not, None if never. resident: at the end; peak: with transient copies; read_per_step: to attend; full: what a full
    cache would hold, by formula; predicted: by the method's formula. kept_fraction: slots per head that are still held, of the tokens seen.
    prefill_s: until the first token may be chosen; a reading of the context that several settings share counts in full for each.
    decode_s: per written token. seconds: what this row really took. prefill_tokens: those the model read for this row (0: others had read them).
    status: done, or why not. run: a stored run of the same sample, if there is one. versions: JSON.
    """

    item: str
    question: int
    method: str
    title: str
    axis: str
    setting: str
    budget: str | None
    task: str
    task_version: int
    length: int
    depth: float | None
    seed: int
    sample: int
    mode: str
    better: str
    score: float | None
    answer: str
    nll: float | None
    scored_tokens: int | None
    kl: float | None
    top1: float | None
    diverged: int | None
    resident: int | None
    peak: int | None
    read_per_step: float | None
    full: int | None
    predicted: int | None
    kept_fraction: float | None
    prefill_s: float | None
    decode_s: float | None
    seconds: float
    prefill_tokens: int
    status: str
    run: str | None
    model: str
    revision: str
    dtype: str
    device: str
    versions: str
    command: str
    created: str


COLUMNS = tuple(f.name for f in dataclasses.fields(Row))


KINDS = {"str": str, "int": int, "float": (int, float)}


def check(rows: list[dict[str, Any]]) -> None:
    """Raise ValueError when `rows`, from another machine, are not of this table."""
    if not isinstance(rows, list) or any(set(row) != set(COLUMNS) for row in rows):
        raise ValueError("its sample rows have other columns")
    for f in dataclasses.fields(Row):
        kind, _, optional = f.type.partition(" | ")
        if any(not isinstance(row[f.name], KINDS[kind]) and not (optional and row[f.name] is None) for row in rows):
            raise ValueError(f"a sample row has a {f.name} of another kind")


def add(folder: Path, rows: Iterable[Row | dict[str, Any]]) -> None:
    """Write rows, all or none. A row of the same item and question is replaced."""
    said = [row if isinstance(row, dict) else dataclasses.asdict(row) for row in rows]
    if said:
        columns, marks = ", ".join(f'"{name}"' for name in COLUMNS), ", ".join("?" * len(COLUMNS))
        with index.opened(folder) as db:
            db.executemany(f"INSERT OR REPLACE INTO samples ({columns}) VALUES ({marks})", [tuple(row[name] for name in COLUMNS) for row in said])


def done(folder: Path) -> set[str]:
    """Items that are in the table."""
    with index.opened(folder, write=False) as db:
        return {row["item"] for row in db.execute("SELECT DISTINCT item FROM samples")}


def rows(folder: Path, items: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Rows of `items`, in their order and by question; of all items, oldest first, if None."""
    with index.opened(folder, write=False) as db:
        found = [dict(row) for row in db.execute("SELECT * FROM samples ORDER BY rowid")]
    if items is None:
        return found
    place = {item: i for i, item in enumerate(items)}
    return sorted((row for row in found if row["item"] in place), key=lambda row: (place[row["item"]], row["question"]))


def packed(rows: list[dict[str, Any]]) -> bytes:
    """What goes into `FILE`: the same rows make the same bytes."""
    return gzip.compress(pd.DataFrame(rows).to_csv(index=False).encode(), mtime=0)
