"""Runs on disk: one folder each, a manifest in JSON and a trace in arrays. The id is a hash of what defines the run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvlab.engine import Request, Result
from kvlab.models import DATA, LM
from kvlab.trace import Trace

SCHEMA = 1


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
    asked = {k: str(v) for k, v in vars(request).items()}
    said = json.dumps([SCHEMA, lm.revision, lm.dtype, asked], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def manifest(lm: LM, request: Request, result: Result) -> dict[str, Any]:
    """The JSON side of a stored run. `pieces` covers the prompt, the question and every written token, `tops` the full cache's first choices."""
    ids = [*result.trace.ids[: result.trace.asked].tolist(), *result.tokens]
    asked = {k: v for k, v in vars(request).items() if k != "method"}
    geometry = {"layers": lm.geometry.layers, "kv_heads": lm.geometry.kv_heads, "query_heads": lm.geometry.query_heads, "windows": list(lm.geometry.windows)}
    about = {"id": run_id(lm, request), "schema": SCHEMA, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "request": asked}
    return {**result.as_dict(), **about, "title": request.method.title, "axis": request.method.axis, "source": request.method.source,
            "pieces": lm.pieces(ids), "tops": lm.pieces(result.trace.top.tolist()), "geometry": geometry}  # fmt: skip


class RunStore:
    """Runs of one folder (default `KVLAB_HOME`/runs), and read-only those shipped in `data/runs`."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(os.environ.get("KVLAB_HOME", ".kvlab")) / "runs"
        self.shipped = DATA / "runs"

    def save(self, manifest: dict[str, Any], trace: Trace) -> str:
        """Write a run and return its id. It appears under its name only when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=self.folder, prefix=".part-"))
        (draft / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False))
        trace.save(draft / "trace.npz")
        place = self.folder / manifest["id"]
        shutil.rmtree(place, ignore_errors=True)
        os.replace(draft, place)
        return manifest["id"]

    def load(self, run: str) -> StoredRun:
        """Raises ValueError with a sentence for an id that is none or is not here."""
        place = self._place(run)
        return StoredRun(json.loads((place / "manifest.json").read_text()), Trace.load(place / "trace.npz"))

    def _place(self, run: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{16}", run):
            raise ValueError("That is not the id of a run. An id has sixteen characters, 0-9 and a-f.")
        for place in (self.folder / run, self.shipped / run):
            if (place / "manifest.json").exists():
                return place
        raise ValueError(f"The run {run} is not stored here. It may have been made on another machine, or deleted.")

    def list(self) -> list[dict[str, Any]]:
        """Manifests of all runs, newest first, the shipped ones last."""
        own = sorted(self.folder.glob("[0-9a-f]*/manifest.json"), key=lambda p: p.stat().st_mtime, reverse=True)
        return [json.loads(p.read_text()) for p in [*own, *sorted(self.shipped.glob("[0-9a-f]*/manifest.json"))]]

    def delete(self, run: str) -> None:
        """Remove a run of one's own; shipped ones stay."""
        shutil.rmtree(self.folder / run, ignore_errors=True)
