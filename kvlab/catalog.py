"""What a list of runs shows of each, from the index alone: a thousand runs are listed without opening one. Also their notes, and who made or opened them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvlab import index
from kvlab.runs import RunStore, checked, failure

LONGEST_NOTE = 2000
"""Characters of a note."""
OPENING = 160
"""Characters of a prompt, a question and an answer that an entry keeps."""
MANY = 500
"""Ids in one question to SQLite."""


@dataclass(frozen=True)
class Entry:
    """One run as a list shows it. Bytes as in the manifest; `opening`, `asked`, `answer`: how prompt, question and answer begin; `made`: UTC. `why` it
    failed, if it did."""

    id: str
    made: str
    status: str
    method: str
    title: str
    axis: str
    budget: str
    knobs: Mapping[str, Any]
    model: str
    seed: int | None
    versions: Mapping[str, str]
    held: int
    predicted: int
    full: int
    prompt: int
    question: int
    written: int
    opening: str
    asked: str
    answer: str
    shipped: bool
    tags: tuple[str, ...] = ()
    note: str = ""
    why: str = ""

    @property
    def error(self) -> float:
        """How far the prediction is from what was held, as a share of it: 0.02 is 2 % too much."""
        return self.predicted / self.held - 1 if self.held else 0.0


def entry(said: Mapping[str, Any], shipped: bool) -> Entry:
    """From a manifest, with or without its long fields."""
    asked, size = said["request"], said["bytes"]
    return Entry(
        id=said["id"], made=said["created"], status=said["status"], method=said["method"], title=said["title"], axis=said["axis"],
        budget=said["budget"]["asked"] or "", knobs=said["knobs"], model=said["model"], seed=asked.get("seed"), versions=said["versions"],
        held=size["resident"], predicted=size["predicted"], full=size["full"], prompt=said["prompt_tokens"], question=said["question_tokens"],
        written=len(said["tokens"]), opening=asked.get("prompt", "")[:OPENING], asked=asked.get("question", "")[:OPENING], answer=said["text"][:OPENING],
        shipped=shipped, why=failure(said),
    )  # fmt: skip


def entries(store: RunStore, known: dict[tuple[str, int], Entry]) -> list[Entry]:
    """All runs of the store, newest first, the shipped ones last. `known` is a memory of the caller's: entries of runs that are as they were."""
    shipped = [entry(said, True) for said in store.ships()]
    if not store.indexed or not store.folder.exists():
        return shipped
    store.notice()
    with index.opened(store.folder, write=False) as db:
        keys = [(row["id"], row["stamp"]) for row in db.execute("SELECT id, stamp FROM runs ORDER BY stamp DESC, id")]
        fresh = {key[0]: key for key in keys if key not in known}
        for row in _rows(db, fresh):
            known[fresh[row["id"]]] = entry(json.loads(row["manifest"]), False)
        for gone in known.keys() - set(keys):
            del known[gone]
        tags: dict[str, tuple[str, ...]] = {}
        for row in db.execute("SELECT run, tag FROM tags ORDER BY tag"):
            tags[row["run"]] = (*tags.get(row["run"], ()), row["tag"])
        notes = dict(db.execute("SELECT run, note FROM notes").fetchall())
    own = [replace(known[key], tags=tags.get(key[0], ()), note=notes.get(key[0], "")) for key in keys]
    return own + shipped


def _rows(db: sqlite3.Connection, runs: Iterable[str]) -> Iterator[sqlite3.Row]:
    wanted = list(runs)
    for i in range(0, len(wanted), MANY):
        some = wanted[i : i + MANY]
        yield from db.execute(f"SELECT id, manifest FROM runs WHERE id IN ({', '.join('?' * len(some))})", some)


def saying(store: RunStore, words: str) -> set[str]:
    """Ids of the runs whose id, method, model, prompt, question or answer holds `words`, in any case."""
    sought = words.casefold()
    found = {said["id"] for said in store.ships() if sought in _text(said)}
    if store.indexed and store.folder.exists():
        with index.opened(store.folder, write=False) as db:
            db.create_function("says", 1, lambda manifest: sought in _text(json.loads(manifest)))
            found |= {row["id"] for row in db.execute("SELECT id FROM runs WHERE says(manifest)")}
    return found


def _text(said: Mapping[str, Any]) -> str:
    asked = said["request"]
    parts = (said["id"], said["method"], said["title"], said["model"], said["text"], asked.get("prompt", ""), asked.get("question", ""))
    return "\n".join(parts).casefold()


def note(store: RunStore, run: str, text: str) -> None:
    """Write a note on a run, or with an empty text take it off. Raises ValueError with a sentence."""
    if len(text) > LONGEST_NOTE:
        raise ValueError(f"The note has {len(text):,} characters; at most {LONGEST_NOTE:,} are kept. Shorten it.")
    if not (store.folder / checked(run) / "manifest.json").exists():
        raise ValueError(f"The run {run} ships with kvlab, or is not stored here, and takes no note.")
    with index.opened(store.folder) as db:
        if text.strip():
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (run, text.strip()))
        else:
            db.execute("DELETE FROM notes WHERE run = ?", (run,))


def remember(store: RunStore, visitor: str, runs: Iterable[str]) -> None:
    """Put runs that a visitor opened into the visitor's list; those the visitor made stay marked as such."""
    with index.opened(store.folder) as db:
        db.executemany("INSERT OR IGNORE INTO visitors VALUES (?, ?, 0)", [(checked(run), visitor) for run in runs])


def listed(store: RunStore, visitor: str) -> dict[str, bool]:
    """Ids of the runs in a visitor's list -> whether the visitor made or imported them."""
    with index.opened(store.folder, write=False) as db:
        return {row["run"]: bool(row["made"]) for row in db.execute("SELECT run, made FROM visitors WHERE visitor = ?", (visitor,))}


def leave(store: RunStore, visitor: str, run: str) -> bool:
    """Take a run out of a visitor's list. True when nobody else made it, so that it may go."""
    with index.opened(store.folder) as db:
        db.execute("DELETE FROM visitors WHERE visitor = ? AND run = ?", (visitor, checked(run)))
        return db.execute("SELECT count(*) FROM visitors WHERE run = ? AND made", (run,)).fetchone()[0] == 0
