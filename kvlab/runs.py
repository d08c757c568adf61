"""Runs on disk: one folder each, a manifest in JSON and a trace in arrays. The id is a hash of what defines the run.

A run is there once its manifest is, and the manifest names its trace: each is put in place whole, so nobody ever reads half of one, and
two processes may write at once. `kvlab/index.py` makes lists quick; `kvlab/bundle.py` takes runs elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvlab import index
from kvlab.engine import Request, Result
from kvlab.models import DATA, LM
from kvlab.trace import Trace

SCHEMA = 1
SHARED = "shared"
"""The tag of a run that everybody who uses this server finds in the list."""
HEAVY = ("kept", "pieces", "tops")
"""Fields of a manifest that a list leaves out: they are as long as the text."""


@dataclass(frozen=True)
class StoredRun:
    """A finished run. `manifest` is plain JSON: the result's fields plus id, created, request, pieces (text of each position) and geometry."""

    manifest: dict[str, Any]
    trace: Trace

    @property
    def id(self) -> str:
        return self.manifest["id"]


def run_id(lm: LM, request: Request) -> str:
    """Sixteen hex digits over everything that defines a run: same id, same run."""
    return id_of(lm.revision, lm.dtype, request)


def id_of(revision: str, dtype: str, request: Request) -> str:
    """`run_id` before the model is loaded."""
    asked = {k: str(v) for k, v in vars(request).items() if k != "pinned" or v}
    said = json.dumps([SCHEMA, revision, dtype, asked], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def manifest(lm: LM, request: Request, result: Result) -> dict[str, Any]:
    """The JSON side of a stored run. `pieces` covers the prompt, the question and every written token, `tops` the full cache's first choices."""
    ids = [*result.trace.ids[: result.trace.asked].tolist(), *result.tokens]
    asked = {k: v for k, v in vars(request).items() if k != "method"}
    geometry = {"layers": lm.geometry.layers, "kv_heads": lm.geometry.kv_heads, "query_heads": lm.geometry.query_heads, "windows": list(lm.geometry.windows)}
    about = {"id": run_id(lm, request), "schema": SCHEMA, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "request": asked}
    return {**result.as_dict(), **about, "title": request.method.title, "axis": request.method.axis, "source": request.method.source,
            "pieces": lm.pieces(ids), "tops": lm.pieces(result.trace.top.tolist()), "geometry": geometry}  # fmt: skip


def default_folder() -> Path:
    """`KVLAB_HOME`/runs, by default `.kvlab/runs` in the working folder."""
    return Path(os.environ.get("KVLAB_HOME", ".kvlab")) / "runs"


def failure(manifest: Mapping[str, Any]) -> str:
    """Why a run failed, in a sentence; "" for one that is done or was stopped. What fails here is not stored, but a folder may hold what others stored."""
    if manifest["status"] in ("done", "stopped"):
        return ""
    return str(manifest.get("error") or "What went wrong was not recorded.")


class RunStore:
    """Runs of one folder (default `KVLAB_HOME`/runs), and read-only those shipped: in `data/runs`, and behind the points of `data/sweeps`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self.shipped = DATA / "runs"

    @property
    def indexed(self) -> bool:
        """Whether the folder has an index: the shipped one is made of plain files."""
        return self.folder.resolve() != self.shipped.resolve()

    def save(self, manifest: dict[str, Any], trace: Trace, visitor: str = "") -> str:
        """Write a run and return its id. The same run again takes the place of the earlier one in one step. `visitor`: who made it, where that is known."""
        place, run = self.folder / checked(manifest["id"]), manifest["id"]
        place.mkdir(parents=True, exist_ok=True)
        name, before = f"trace-{uuid.uuid4().hex[:8]}.npz", _read(place)
        trace.save(place / name)
        draft = place / f".{name}.part"
        draft.write_text(json.dumps({**manifest, "trace": name}, ensure_ascii=False))
        os.replace(draft, place / "manifest.json")
        if before:
            (place / _trace(before)).unlink(missing_ok=True)
        if self.indexed:
            with index.opened(self.folder) as db:
                db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (run, _stamp(place), _short(manifest)))
                if visitor:
                    db.execute("INSERT OR REPLACE INTO visitors VALUES (?, ?, 1)", (run, visitor))
        return run

    def load(self, run: str) -> StoredRun:
        """Raises ValueError with a sentence for an id that is none or is not here."""
        for _ in range(3):  # it may be written anew between its manifest and its trace
            place = self._place(run)
            try:
                if (said := _read(place)) is None:
                    continue
                return StoredRun({k: v for k, v in said.items() if k != "trace"}, Trace.load(place / _trace(said)))
            except FileNotFoundError:
                continue
        raise ValueError(f"The run {run} is incomplete: its manifest cannot be read, or its trace is missing. Delete it and run it again.")

    def holds(self, run: str) -> bool:
        """Whether a run of this id is here."""
        return self._found(run) is not None

    def _found(self, run: str) -> Path | None:
        homes = (self.folder, self.shipped, *sorted((DATA / "sweeps").glob("*/runs")))
        return next((home / run for home in homes if (home / checked(run) / "manifest.json").exists()), None)

    def _place(self, run: str) -> Path:
        if place := self._found(run):
            return place
        raise ValueError(f"The run {run} is not stored here. It may have been made on another machine, or deleted.")

    def list(self, tag: str | None = None) -> list[dict[str, Any]]:
        """Manifests of all runs without their long fields, with their `tags`; newest first, the shipped ones last. `tag`: only those."""
        found = [{**said, "tags": []} for said in self.ships()]
        if self.indexed and self.folder.exists():
            found = self._own() + found
        return [said for said in found if tag is None or tag in said["tags"]]

    def ships(self) -> list[dict[str, Any]]:
        """Manifests of the runs in `data/runs` without their long fields."""
        return [_shipped(str(p), p.stat().st_mtime_ns) for p in sorted(self.shipped.glob("[0-9a-f]*/manifest.json"))]

    def _own(self) -> list[dict[str, Any]]:
        self.notice()
        with index.opened(self.folder, write=False) as db:
            tags: dict[str, list[str]] = {}
            for row in db.execute("SELECT run, tag FROM tags ORDER BY tag"):
                tags.setdefault(row["run"], []).append(row["tag"])
            rows = db.execute("SELECT id, manifest FROM runs ORDER BY stamp DESC, id").fetchall()
        return [{**json.loads(row["manifest"]), "tags": tags.get(row["id"], [])} for row in rows]

    def notice(self) -> None:
        """Bring the index up to what lies in the folder: runs may be copied in, or removed, by hand."""
        names = [entry.name for entry in os.scandir(self.folder) if len(entry.name) == 16]
        here = {name: stamp for name in names if (stamp := _stamp(self.folder / name))}
        with index.opened(self.folder, write=False) as db:
            known = {row["id"]: row["stamp"] for row in db.execute("SELECT id, stamp FROM runs")}
        fresh = [(run, stamp, _short(said)) for run, stamp in here.items() if known.get(run) != stamp and (said := _read(self.folder / run))]
        gone = [(run,) for run in known.keys() - here.keys()]
        if fresh or gone:
            with index.opened(self.folder) as db:
                db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", fresh)
                db.executemany("DELETE FROM runs WHERE id = ?", gone)

    def tag(self, run: str, *tags: str) -> None:
        """Put words on a run. A word is letters, digits and - _ . only."""
        check_tags(tags)
        place = self._place(run)
        if place.parent != self.folder:
            raise ValueError(f"The run {run} ships with kvlab and takes no tags. Run it yourself to have one of your own.")
        with index.opened(self.folder) as db:
            db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", [(run, tag) for tag in tags])

    def untag(self, run: str, *tags: str) -> None:
        """Take words off a run."""
        with index.opened(self.folder) as db:
            db.executemany("DELETE FROM tags WHERE run = ? AND tag = ?", [(checked(run), tag) for tag in tags])

    def delete(self, run: str) -> None:
        """Remove a run of one's own, and its tags and note; shipped ones stay."""
        place = self.folder / checked(run)
        if not self.indexed or not place.exists():
            return
        (place / "manifest.json").unlink(missing_ok=True)  # first: from now on it is not there
        shutil.rmtree(place, ignore_errors=True)
        with index.opened(self.folder) as db:
            db.execute("DELETE FROM runs WHERE id = ?", (run,))
            for table in ("tags", "notes", "visitors"):
                db.execute(f"DELETE FROM {table} WHERE run = ?", (run,))


def checked(run: str) -> str:
    """`run`, or ValueError with a sentence when it is no id."""
    if not re.fullmatch(r"[0-9a-f]{16}", run):
        raise ValueError("That is not the id of a run. An id has sixteen characters, 0-9 and a-f.")
    return run


def check_tags(tags: Iterable[str]) -> None:
    """Raise ValueError with a sentence for a word that is no tag."""
    if bad := [tag for tag in tags if not re.fullmatch(r"[\w.-]{1,64}", tag)]:
        raise ValueError(f"A tag is up to 64 letters, digits, '-', '_' or '.', not {bad[0]!r}.")


def _read(place: Path) -> dict[str, Any] | None:
    """The manifest of a run; None where there is none, or where what lies there is no JSON."""
    try:
        said = json.loads((place / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _stamp(place: Path) -> int | None:
    try:
        return os.stat(place / "manifest.json").st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None


def _trace(manifest: dict[str, Any]) -> str:
    """File name of a run's trace. Only ever a name in the run's own folder, whatever the manifest says."""
    return Path(manifest.get("trace", "trace.npz")).name


def _short(manifest: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in manifest.items() if k not in (*HEAVY, "trace")}, ensure_ascii=False)


@functools.lru_cache(maxsize=1024)
def _shipped(path: str, stamp: int) -> dict[str, Any]:
    return json.loads(_short(json.loads(Path(path).read_text())))
