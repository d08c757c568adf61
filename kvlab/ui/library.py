"""The Library page's list: which runs, in which order, and what a row says of each. Plain functions, no widgets."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kvlab.catalog import OPENING, Entry
from kvlab.plots.looks import percent, size
from kvlab.runs import SHARED
from kvlab.ui import marks
from kvlab.ui.access import Rights
from kvlab.ui.head import Figure, Words
from kvlab.ui.lane import visible
from kvlab.ui.sweeps import setting_words

CLOSE = 0.01
"""A prediction within this share of what was held has met it."""
STATES = {"done": "done", "stopped": "partial"}
"""Status of a manifest -> its word; any other is a failure."""
ORDERS: dict[str, tuple[str, Callable[[Entry], float]]] = {
    "newest": ("Newest first", lambda entry: 0),
    "bytes": ("Fewest bytes of the full cache", lambda entry: entry.held / entry.full),
    "error": ("Farthest from its prediction", lambda entry: -abs(entry.error)),
}
SOURCES = {"all": "All", "own": "Stored here", "shipped": "Shipped"}


@dataclass(frozen=True)
class Wanted:
    """What the filters ask for; empty means any."""

    methods: Sequence[str] = ()
    models: Sequence[str] = ()
    states: Sequence[str] = ()
    tags: Sequence[str] = ()
    source: str = "all"
    order: str = "newest"


def state(entry: Entry) -> str:
    """done, partial or failed."""
    return STATES.get(entry.status, "failed")


def choose(entries: Sequence[Entry], wanted: Wanted) -> list[Entry]:
    """The entries that match, in the order asked for; equals stay in theirs."""
    found = [
        entry for entry in entries
        if (not wanted.methods or entry.method in wanted.methods) and (not wanted.models or entry.model in wanted.models)
        and (not wanted.states or state(entry) in wanted.states) and (not wanted.tags or set(wanted.tags) & set(entry.tags))
        and (wanted.source == "all" or (wanted.source == "shipped") == entry.shipped)
    ]  # fmt: skip
    return sorted(found, key=ORDERS[wanted.order][1])


def setting(entry: Entry) -> str:
    """Budget and knobs in words."""
    return setting_words(entry.method, entry.budget or None, json.dumps(dict(entry.knobs)))


def name(entry: Entry) -> str:
    """A run in a sentence."""
    return f"{entry.title}, {setting(entry)}"


def missed(entry: Entry) -> str:
    """Predicted against measured bytes in words."""
    if abs(entry.error) < 5e-4:
        return "as predicted"
    share = 100 * abs(entry.error)
    return f"predicted {f'{share:.1f}' if share < 10 else f'{share:,.0f}'} % {'more' if entry.error > 0 else 'less'}"


def finding(entries: Sequence[Entry]) -> tuple[str, Words, list[Figure]]:
    """Title, sentence and figures of a list: how well the formulas foresaw what tensors held."""
    met = sum(abs(entry.error) < CLOSE for entry in entries)
    worst = max(entries, key=lambda entry: abs(entry.error))
    runs = f"{len(entries):,} run{'s' * (len(entries) != 1)}"
    title = f"{met:,} of {runs} as predicted; {visible(worst.title)}: {missed(worst)}"
    look: Words = [("Where the dotted prediction and the blue bar ", False), ("part", True), (", ask which bytes the formula does not count.", False)]
    if met == len(entries):
        title = f"{runs}, {'its' if len(entries) == 1 else 'every'} prediction within 1 % of what was held"
        look = [("The dotted mark is the prediction, the blue bar what tensors held. ", False), ("Where they part", True), (", a formula is wrong.", False)]
    held = statistics.median(entry.held / entry.full for entry in entries)
    shipped = sum(entry.shipped for entry in entries)
    counts = ("In this list", f"{len(entries):,}", "", f" of them {shipped:,} shipped")
    return title, look, [counts, ("Held, middle run", percent(held), "", " of the full cache")]


def row(entry: Entry, rights: Rights) -> dict[str, Any]:
    """One row for the component; every text of a stranger is made visible here and shown as text there."""
    sizes = {"held": size(entry.held), "full": size(entry.full), "share": min(1.0, entry.held / entry.full), "foreseen": min(1.0, entry.predicted / entry.full)}
    short = f": {line(entry.why[:OPENING])}" if entry.why else ""
    partial = f", stopped after {entry.written:,} token{'s' * (entry.written != 1)}" if state(entry) == "partial" else ""
    asked, answer = line(entry.asked or entry.opening), line(entry.answer)
    return {
        "id": entry.id, "marker": marks.marker(entry.method), "title": visible(entry.title), "setting": visible(setting(entry)), "state": state(entry),
        "said": state(entry) + partial + short, "asked": asked, "answer": answer, **sizes, "missed": missed(entry), "far": abs(entry.error) >= CLOSE,
        "model": visible(entry.model.rstrip("/").rsplit("/", 1)[-1]), "tokens": f"{entry.prompt + entry.question:,} tokens", "made": when(entry.made),
        "tags": [visible(tag) for tag in entry.tags], "note": visible(entry.note), "owner": owner(entry, rights), "facts": facts(entry),
    }  # fmt: skip


def line(text: str) -> str:
    """The beginning of a text on one line."""
    return visible(" ".join(text.split()))


def owner(entry: Entry, rights: Rights) -> str:
    """Why a run is in the list, where it is not simply one's own."""
    if entry.shipped:
        return "shipped"
    if SHARED in entry.tags and rights.listed is not None:
        return "shared by you" if rights.changes(entry) else "shared"
    return "" if rights.changes(entry) else "opened by link"


def when(made: str) -> str:
    """2026-01-02T03:04:05Z -> 2026-01-02 03:04; anything else as it is."""
    return f"{made[:10]} {made[11:16]}" if len(made) == 20 and made.endswith("Z") else visible(made)


def facts(entry: Entry) -> list[tuple[str, str]]:
    """Everything else that is known of a run, as pairs."""
    of = dict(entry.versions)
    kind = ", ".join(of.pop(key) for key in ("device", "dtype") if key in of)
    revision = of.pop("model_revision", "not recorded")
    knobs = ", ".join(f"{key} {value}" for key, value in entry.knobs.items()) or "none"
    size_line = f"{entry.held:,} of {entry.full:,} bytes held, {entry.predicted:,} predicted: {missed(entry)}"
    pairs = [
        ("Run", entry.id), ("Model", entry.model), ("Revision", revision), ("Seed", "not recorded" if entry.seed is None else str(entry.seed)),
        ("Device", kind or "not recorded"), ("Versions", ", ".join(f"{key} {value}" for key, value in of.items())), ("Made", f"{when(entry.made)} UTC"),
        ("Knobs", knobs), ("Bytes", size_line),
        ("Tokens", f"{entry.prompt:,} of the prompt, {entry.question:,} of the question, {entry.written:,} written"),
        ("Prompt", line(entry.opening) + (" \u2026" if len(entry.opening) == OPENING else "")),
    ]  # fmt: skip
    return [(key, visible(value)) for key, value in pairs]


def table(entries: Sequence[Entry]) -> pd.DataFrame:
    """The list as a table, for files."""
    return pd.DataFrame([
        {"run": e.id, "made": e.made, "status": state(e), "method": e.method, "budget": e.budget, "knobs": json.dumps(dict(e.knobs)), "model": e.model,
         "revision": e.versions.get("model_revision"), "seed": e.seed, "device": e.versions.get("device"), "dtype": e.versions.get("dtype"),
         "versions": json.dumps({key: e.versions[key] for key in ("kvlab", "torch", "transformers") if key in e.versions}), "held": e.held,
         "predicted": e.predicted, "full": e.full, "error": e.error, "prompt_tokens": e.prompt, "question_tokens": e.question, "written": e.written,
         "tags": " ".join(e.tags), "note": e.note, "shipped": e.shipped}
        for e in entries
    ])  # fmt: skip


def pages(count: int, each: int) -> int:
    """Pages of `each` rows; at least one."""
    return max(1, math.ceil(count / each))
