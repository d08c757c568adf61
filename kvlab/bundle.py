"""Runs as one file to take elsewhere: a zip of JSON and arrays, no pickles. What is imported equals what was exported.

    bundle.json               format, version, and for every run its id and tags
    <id>/manifest.json        as the store holds it
    <id>/trace.npz            the arrays of `kvlab.trace.Trace`
    samples.json              rows of the table `samples`, if there are any

An import reads the names above and no others, so nothing in a bundle can be written anywhere else. It changes no run that is here already,
and it shares nothing: whoever imports a run decides anew whether everybody finds it.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kvlab import samples
from kvlab.runs import SHARED, RunStore, check_tags, checked
from kvlab.schema import check_run
from kvlab.trace import Trace

FORMAT, VERSION = "kvlab bundle", 1
LARGEST = 2**31
"""Bytes that a bundle may have when unpacked: a zip can promise far more than it holds."""


def export(store: RunStore, path: Path, runs: Iterable[str], rows: Iterable[dict[str, Any]] = ()) -> None:
    """Write `runs` and sample `rows` to one zip. Raises ValueError for a run that is not stored. A half-written bundle is never seen."""
    tags = {said["id"]: said["tags"] for said in store.list()}
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as bundle:
            about = []
            for run in dict.fromkeys(runs):
                stored = store.load(run)
                bundle.writestr(f"{run}/manifest.json", json.dumps(stored.manifest, ensure_ascii=False))
                with tempfile.TemporaryDirectory() as spare:
                    stored.trace.save(Path(spare) / "trace.npz")
                    bundle.write(Path(spare) / "trace.npz", f"{run}/trace.npz", zipfile.ZIP_STORED)  # it is compressed already
                about.append({"id": run, "tags": tags.get(run, [])})
            if rows := list(rows):
                bundle.writestr("samples.json", json.dumps(rows, ensure_ascii=False))
            bundle.writestr("bundle.json", json.dumps({"format": FORMAT, "version": VERSION, "runs": about}))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def load(store: RunStore, path: Path, visitor: str = "", most: int = LARGEST, with_rows: bool = True) -> list[str]:
    """Put the runs of a bundle into `store`, and `with_rows` its sample rows; returns the ids. Raises ValueError with a sentence for any other file.

    visitor: who imports them. most: bytes that all of it may have when unpacked. Everything is read before anything is written: a broken bundle
    leaves nothing behind.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            _check_size(bundle, most)
            about = _json(bundle, "bundle.json")
            if about.get("format") != FORMAT or about.get("version") != VERSION:
                raise ValueError("of another format")
            found = [_run(bundle, entry) for entry in about["runs"]]
            rows = _json(bundle, "samples.json") if "samples.json" in bundle.namelist() else []
            samples.check(rows)
    except OSError as error:
        raise ValueError(f"The bundle {path} cannot be read: {error.strerror or error}.") from None
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path.name} is not a kvlab bundle of version {VERSION} ({error}).") from error
    for tags, manifest, trace in found:
        if not store.holds(manifest["id"]):
            store.save(manifest, trace, visitor)
            store.tag(manifest["id"], *(tag for tag in tags if tag != SHARED))
    if with_rows:
        samples.add(store.folder, rows)
    return [manifest["id"] for _, manifest, _ in found]


def _check_size(bundle: zipfile.ZipFile, most: int) -> None:
    """What it says of itself is what will be read: the arrays inside the traces count too, for they are packed twice."""
    total = 0
    for part in bundle.infolist():
        total += part.file_size
        if part.filename.endswith(".npz") and total <= most:
            with bundle.open(part) as inner, zipfile.ZipFile(inner) as arrays:
                total += sum(array.file_size for array in arrays.infolist())
        if total > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes")


def _json(bundle: zipfile.ZipFile, name: str) -> Any:
    return json.loads(bundle.read(name))


def _run(bundle: zipfile.ZipFile, entry: dict[str, Any]) -> tuple[list[str], dict[str, Any], Trace]:
    check_tags(entry["tags"])
    manifest = _json(bundle, f"{checked(entry['id'])}/manifest.json")
    if manifest["id"] != entry["id"]:
        raise ValueError(f"the manifest of {entry['id']} belongs to another run")
    with tempfile.TemporaryDirectory() as spare:
        (Path(spare) / "trace.npz").write_bytes(bundle.read(f"{entry['id']}/trace.npz"))
        trace = Trace.load(Path(spare) / "trace.npz")
    check_run(manifest, trace)
    return entry["tags"], manifest, trace
