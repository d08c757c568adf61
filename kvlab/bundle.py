"""Runs as one file to take elsewhere: a zip of JSON and arrays, no pickles. What is imported equals what was exported.

    bundle.json               format, version, and for every run its id and tags
    <id>/manifest.json        as the store holds it
    <id>/trace.npz            the arrays of `kvlab.trace.Trace`
    samples.json              rows of the table `samples`, if there are any

An import reads the names above and no others, so nothing in a bundle can be written anywhere else.
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
from kvlab.runs import RunStore, check_tags, checked
from kvlab.trace import Trace

FORMAT, VERSION = "kvlab bundle", 1
LARGEST = 2**31
"""Bytes that one part of a bundle may have when unpacked: a zip can promise far more than it holds."""


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


def load(store: RunStore, path: Path) -> list[str]:
    """Put the runs and rows of a bundle into `store`; returns the ids of the runs. Raises ValueError with a sentence for any other file.

    Everything is read before anything is written: a broken bundle leaves nothing behind.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
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
        store.save(manifest, trace)
        store.tag(manifest["id"], *tags)
    samples.add(store.folder, rows)
    return [manifest["id"] for _, manifest, _ in found]


def _json(bundle: zipfile.ZipFile, name: str) -> Any:
    return json.loads(_part(bundle, name))


def _part(bundle: zipfile.ZipFile, name: str) -> bytes:
    if bundle.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    return bundle.read(name)


def _run(bundle: zipfile.ZipFile, entry: dict[str, Any]) -> tuple[list[str], dict[str, Any], Trace]:
    check_tags(entry["tags"])
    manifest = _json(bundle, f"{checked(entry['id'])}/manifest.json")
    if manifest["id"] != entry["id"]:
        raise ValueError(f"the manifest of {entry['id']} belongs to another run")
    with tempfile.TemporaryDirectory() as spare:
        (Path(spare) / "trace.npz").write_bytes(_part(bundle, f"{entry['id']}/trace.npz"))
        return entry["tags"], manifest, Trace.load(Path(spare) / "trace.npz")
