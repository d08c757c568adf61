"""Points that a visitor brings in a CSV file: checked line by line, and marked as imported for good."""

from __future__ import annotations

import hashlib
import io
import math
import re
from typing import Any

import pandas as pd

from kvlab.plots.points import COLUMNS
from kvlab.registry import registry
from kvlab.runs import checked
from kvlab.ui.sweeps import SAMPLE_COLUMNS, TEXT, Swept, tables

NEEDED = ("model", "method", "task", "length", "mode", "better", "mean", "low", "high", "n", "interval", "resident", "full")
"""What an imported table must have; the other columns may be missing."""
LIMIT, ROWS, LETTERS = 5_000_000, 20_000, 300
"""Bytes, rows and letters of a cell of an imported file, at most."""


def read_import(data: bytes, name: str) -> Swept:
    """Points from a stranger's CSV, all marked imported. Raises ValueError with one sentence for the first thing that is wrong."""
    raw = _table(data, name)
    for column in NEEDED:
        if (empty := raw[column].isna() | (raw[column].astype(str).str.strip() == "")).any():
            raise ValueError(f"Line {_line(empty)}: {column} is empty. Every point needs one.")
    for column in ("length", "mean", "low", "high", "n", "resident", "full", "peak", "read_per_step", "prefill_s", "decode_s", "kept_fraction"):
        if column in raw:
            raw[column] = _numbers(raw[column], column, column in NEEDED)
        else:
            raw[column] = float("nan")
    for column, allowed in (("better", ("higher", "lower")), ("interval", ("wilson", "bootstrap", "single"))):
        if (wrong := ~raw[column].isin(allowed)).any():
            raise ValueError(f"Line {_line(wrong)}: {column} is {' or '.join(allowed)}, not {_cut(raw[column][wrong].iloc[0])!r}.")
    for wrong, says in (
        (raw["low"].gt(raw["mean"]) | raw["mean"].gt(raw["high"]), "the mean does not lie between low and high"),
        (raw["n"].lt(1) | (raw["n"] % 1).ne(0), "n is the number of samples, a whole number from 1"),
        (raw["length"].lt(1) | (raw["length"] % 1).ne(0), "length is a whole number of tokens from 1"),
        (raw["resident"].le(0) | raw["full"].le(0), "resident and full are bytes above 0"),
    ):
        if wrong.any():
            raise ValueError(f"Line {_line(wrong)}: {says}.")
    raw[["n", "length"]] = raw[["n", "length"]].astype(int)
    peak, read = raw["peak"].where(raw["peak"] > 0), raw["read_per_step"].where(raw["read_per_step"] > 0)
    axis = [_axis(method, given) for method, given in zip(raw["method"], raw.get("axis", pd.Series("", raw.index)).fillna(""), strict=True)]
    filled = raw.assign(
        title=raw["title"].fillna(raw["method"]) if "title" in raw else raw["method"].map(_title), axis=axis, peak=peak, read_per_step=read,
        setting=raw["setting"].fillna("") if "setting" in raw else "", budget=raw.get("budget"),
        run=[_run(run) for run in raw["run"]] if "run" in raw else None, source="imported",
    )  # fmt: skip
    return Swept(name, *tables(filled), pd.DataFrame(columns=SAMPLE_COLUMNS), hashlib.sha256(data).hexdigest(), True)


def _table(data: bytes, name: str) -> pd.DataFrame:
    if not name.lower().endswith(".csv"):
        raise ValueError("Only .csv files are read. A sweep writes its points as points.csv.")
    if len(data) > LIMIT:
        raise ValueError(f"The file has {len(data):,} bytes; at most {LIMIT:,} are read.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The file is not UTF-8 text: byte {error.start:,} cannot be read. Save it as UTF-8.") from None
    if "\x00" in text:
        raise ValueError("The file holds a NUL character, so it is no CSV. Export it again.")
    try:
        text = re.sub(r"\A(#[^\n]*\n)+", "", text)  # what kvlab exports says there what made it
        raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"The file is no table of comma-separated values: {_cut(' '.join(str(error).split()), 120)}.") from None
    if missing := [column for column in NEEDED if column not in raw]:
        raise ValueError(f"The file lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}. A table of points needs {', '.join(NEEDED)}.")
    if raw.empty:
        raise ValueError("The file has no rows. A point is one row.")
    if len(raw) > ROWS:
        raise ValueError(f"The file has {len(raw):,} rows; at most {ROWS:,} are read.")
    for column in set(raw) & {*COLUMNS, *TEXT} - {"command", "versions"}:
        if (wrong := raw[column].str.len() > LETTERS).any():
            raise ValueError(f"Line {_line(wrong)}: {column} has more than {LETTERS} letters.")
    return raw.reset_index(drop=True)


def _line(wrong: pd.Series) -> int:
    """The first such row's line in the file, after its head."""
    return int(wrong.to_numpy().argmax()) + 2


def _numbers(column: pd.Series, name: str, needed: bool) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = (values.isna() | ~values.map(math.isfinite)) & (column.notna() | needed)
    if wrong.any():
        raise ValueError(f"Line {_line(wrong)}: {name} is a number, not {_cut(column[wrong].iloc[0])!r}.")
    return values


def _cut(text: Any, letters: int = 40) -> str:
    return str(text) if len(str(text)) <= letters else str(text)[: letters - 1] + "\u2026"


def _title(method: str) -> str:
    return " + ".join(registry()[part].title if part in registry() else part for part in method.split("+"))


def _axis(method: str, given: str) -> str:
    """The axis of the first part that kvlab knows, else the one given."""
    return next((registry()[part].axis for part in method.split("+") if part in registry()), given)


def _run(run: Any) -> str | None:
    """A run's id, or None for what cannot be one."""
    try:
        return checked(run) if isinstance(run, str) else None
    except ValueError:
        return None
