"""The index of a folder of runs: SQLite in WAL mode, so that several processes read and write at once. Arrays never go in here.

It lists runs without opening them, holds their tags, notes and visitors, and the table `samples` of all sweeps. Runs themselves are files beside it; what
the index says of them can be made again from the files (`kvlab/runs.py`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "index.sqlite"
WAIT = 30.0
"""Seconds a writer waits for another one."""

MIGRATIONS = (
    (
        "CREATE TABLE runs (id TEXT PRIMARY KEY, stamp INTEGER NOT NULL, manifest TEXT NOT NULL)",
        "CREATE INDEX runs_by_age ON runs (stamp)",
        "CREATE TABLE tags (run TEXT NOT NULL, tag TEXT NOT NULL, PRIMARY KEY (run, tag))",
    ),
    (
        """CREATE TABLE samples (
            item TEXT NOT NULL, question INTEGER NOT NULL,
            method TEXT NOT NULL, title TEXT NOT NULL, axis TEXT NOT NULL, setting TEXT NOT NULL, budget TEXT,
            task TEXT NOT NULL, task_version INTEGER NOT NULL, length INTEGER NOT NULL, depth REAL, seed INTEGER NOT NULL, sample INTEGER NOT NULL,
            mode TEXT NOT NULL, better TEXT NOT NULL, score REAL, answer TEXT NOT NULL, nll REAL, scored_tokens INTEGER,
            kl REAL, top1 REAL, diverged INTEGER,
            resident INTEGER, peak INTEGER, read_per_step REAL, "full" INTEGER, predicted INTEGER, kept_fraction REAL,
            prefill_s REAL, decode_s REAL, seconds REAL, prefill_tokens INTEGER, status TEXT NOT NULL, run TEXT,
            model TEXT NOT NULL, revision TEXT NOT NULL, dtype TEXT NOT NULL, device TEXT NOT NULL, versions TEXT NOT NULL,
            command TEXT NOT NULL, created TEXT NOT NULL,
            PRIMARY KEY (item, question))""",
    ),
    (
        "CREATE TABLE notes (run TEXT PRIMARY KEY, note TEXT NOT NULL)",
        "CREATE TABLE visitors (run TEXT NOT NULL, visitor TEXT NOT NULL, made INTEGER NOT NULL, PRIMARY KEY (run, visitor))",
    ),
)
"""Statements that take an index from version i to i + 1. Only ever appended to."""


@contextmanager
def opened(folder: Path, write: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection to the index of `folder`, made or brought up to date first. What is done in it is there in full or not at all.

    Who will `write` waits for other writers now: one who starts by reading may find later that what he read has changed.

    Raises ValueError with a sentence for an index that a newer kvlab wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(folder / NAME, timeout=WAIT, isolation_level=None)
    db.row_factory = sqlite3.Row
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        if _version(db) != len(MIGRATIONS):
            _migrate(db, folder)
        db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        yield db
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    finally:
        db.close()


def _version(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


def _migrate(db: sqlite3.Connection, folder: Path) -> None:
    if _version(db) > len(MIGRATIONS):
        raise ValueError(f"The index in {folder} was written by a newer kvlab. Update kvlab, or name another folder.")
    _write_ahead(db)
    db.execute("BEGIN IMMEDIATE")  # of two processes the second finds the work done
    for version in range(_version(db), len(MIGRATIONS)):
        for statement in MIGRATIONS[version]:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {version + 1}")
    db.execute("COMMIT")


def _write_ahead(db: sqlite3.Connection) -> None:
    # the switch does not wait for other connections by itself
    deadline = time.monotonic() + WAIT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
