"""Runs on disk: whole or not there, quick to list, safe for two processes, and the same after a journey in a bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from fake_runs import fake

from kvlab import bundle, index, samples
from kvlab.cli import main
from kvlab.runs import RunStore
from kvlab.samples import COLUMNS, Row

ROOT = Path(__file__).parent.parent
WRITER = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from pathlib import Path
from fake_runs import fake
from kvlab import samples
from kvlab.runs import RunStore
from test_store import row
store, me, run = RunStore(Path(sys.argv[1])), sys.argv[2], fake()
print("ready", flush=True)
sys.stdin.readline()
for i in range(6):
    store.save({{**run.manifest, "id": f"{{i:016x}}", "text": me}}, run.trace)
    store.save({{**run.manifest, "id": me * 15 + f"{{i:x}}", "text": me}}, run.trace)
    store.tag(me * 15 + f"{{i:x}}", me)
    samples.add(store.folder, [row(item=f"{{me}}{{i}}", question=q) for q in range(3)])
"""


def row(**said: object) -> Row:
    """A row made by hand: everything missing that may be."""
    text = {f.name: "" for f in dataclasses.fields(Row) if f.type == "str"}
    whole = {f.name: 0 for f in dataclasses.fields(Row) if f.type == "int"}
    return Row(**{**dict.fromkeys(COLUMNS), **text, **whole, "seconds": 0.5, **said})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    found = RunStore(tmp_path / "runs")
    found.shipped = tmp_path / "none"
    return found


def put(store: RunStore, run: str = "00000000000000aa", **changes: object) -> str:
    made = fake()
    return store.save({**made.manifest, "id": run, **changes}, made.trace)


def test_a_run_comes_back_as_it_went(store: RunStore) -> None:
    run = fake("evict")
    loaded = store.load(store.save(run.manifest, run.trace))
    assert loaded.manifest == run.manifest and loaded.trace.equal(run.trace)


def test_the_same_run_again_takes_the_place_of_the_first(store: RunStore) -> None:
    run = put(store, text="one")
    assert put(store, text="two") == run
    assert store.load(run).manifest["text"] == "two" and [said["text"] for said in store.list()] == ["two"]
    assert sorted(p.suffix for p in (store.folder / run).iterdir()) == [".json", ".npz"], "the earlier trace is gone"


def test_runs_of_earlier_versions_are_read(store: RunStore) -> None:
    run = fake()
    place = store.folder / run.id
    place.mkdir(parents=True)
    run.trace.save(place / "trace.npz")
    (place / "manifest.json").write_text(json.dumps(run.manifest))
    assert store.load(run.id).trace.equal(run.trace) and [said["id"] for said in store.list()] == [run.id]


def test_what_is_half_written_is_not_there(store: RunStore) -> None:
    run = put(store)
    other = store.folder / "00000000000000bb"
    other.mkdir()
    fake().trace.save(other / "trace-1.npz")  # a writer that was killed before its manifest
    (other / ".trace-1.npz.part").write_text('{"id": "0000')
    assert [said["id"] for said in store.list()] == [run]
    with pytest.raises(ValueError, match="is not stored here"):
        store.load(other.name)
    next((store.folder / run).glob("*.npz")).unlink()
    with pytest.raises(ValueError, match="its trace is missing"):
        store.load(run)


def test_lists_are_light_newest_first_and_follow_the_folder(store: RunStore) -> None:
    for i in (1, 2, 3):
        put(store, f"{i:016x}")
    shutil.rmtree(store.folder / f"{2:016x}")  # by hand
    found = store.list()
    assert [said["id"] for said in found] == [f"{3:016x}", f"{1:016x}"]
    assert not {"kept", "pieces", "tops"} & set(found[0]) and found[0]["title"] == "Made evict" and found[0]["tags"] == []


def test_a_list_of_thousands_is_quick(store: RunStore) -> None:
    said = json.dumps({k: v for k, v in fake().manifest.items() if k not in ("pieces", "kept")})
    ids = [f"{i:016x}" for i in range(3000)]
    rows = []
    for run in ids:
        (store.folder / run).mkdir(parents=True)
        (store.folder / run / "manifest.json").write_text("not read")
        rows.append((run, (store.folder / run / "manifest.json").stat().st_mtime_ns, said))
    with index.opened(store.folder) as db:
        db.executemany("INSERT INTO runs VALUES (?, ?, ?)", rows)
    start = time.process_time()
    assert len(store.list()) == 3000
    assert time.process_time() - start < 2, "no manifest was opened"


def test_tags_and_deleting(store: RunStore) -> None:
    one, two = put(store, f"{1:016x}"), put(store, f"{2:016x}")
    store.tag(one, "paper", "figure-3")
    store.tag(one, "paper")
    assert [said["id"] for said in store.list("paper")] == [one] and store.list("paper")[0]["tags"] == ["figure-3", "paper"]
    store.untag(one, "paper")
    assert store.list("paper") == []
    with pytest.raises(ValueError, match="letters, digits"):
        store.tag(one, "two words")
    with pytest.raises(ValueError, match="is not stored here"):
        store.tag(f"{3:016x}", "x")
    store.delete(one)
    assert [said["id"] for said in store.list()] == [two] and not (store.folder / one).exists()
    put(store, one)
    assert store.list()[0]["tags"] == [], "tags go with their run"


def test_shipped_runs_can_be_neither_tagged_nor_deleted() -> None:
    store = RunStore()
    shipped = next(path.parent.name for path in sorted(store.shipped.glob("*/manifest.json")))
    store.delete(shipped)
    assert store.load(shipped).id == shipped and shipped in {said["id"] for said in store.list()}
    with pytest.raises(ValueError, match="takes no tags"):
        store.tag(shipped, "mine")
    ours = RunStore(store.shipped)
    assert not ours.indexed and len({said["id"] for said in ours.list()}) == len(ours.list()) and not (store.shipped / index.NAME).exists()


@pytest.mark.alone
def test_two_processes_write_at_once(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text(WRITER.format(root=str(ROOT)))
    call = [sys.executable, str(tmp_path / "writer.py"), str(store.folder)]
    writers = [subprocess.Popen([*call, me], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for me in "ab"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    trace = fake().trace
    while any(writer.poll() is None for writer in writers):  # a third one reads meanwhile
        for said in store.list():
            assert store.load(said["id"]).trace.equal(trace)
    assert [writer.wait() for writer in writers] == [0, 0], [writer.stderr.read() for writer in writers]
    found = store.list()
    assert len(found) == 18 and {said["text"] for said in found} <= {"a", "b"} and len(store.list("a")) == len(store.list("b")) == 6
    assert len(samples.rows(store.folder)) == 2 * 6 * 3


def test_an_index_of_an_earlier_version_is_brought_up_to_date(store: RunStore) -> None:
    store.folder.mkdir(parents=True)
    db = sqlite3.connect(store.folder / index.NAME)
    for statement in index.MIGRATIONS[0]:
        db.execute(statement)
    db.execute("INSERT INTO tags VALUES ('00000000000000aa', 'kept')")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    put(store)
    assert store.list("kept")[0]["id"] == "00000000000000aa"
    samples.add(store.folder, [row(item="x")])
    with index.opened(store.folder) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(index.MIGRATIONS)
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_an_index_of_a_later_version_is_left_alone(store: RunStore) -> None:
    put(store)
    with index.opened(store.folder) as db:
        db.execute(f"PRAGMA user_version = {len(index.MIGRATIONS) + 1}")
    with pytest.raises(ValueError, match="written by a newer kvlab"):
        store.list()


def test_the_table_has_the_columns_of_a_row(store: RunStore) -> None:
    with index.opened(store.folder) as db:
        assert {said["name"] for said in db.execute("PRAGMA table_info(samples)")} == set(COLUMNS)


def test_rows_are_written_all_or_none(store: RunStore) -> None:
    samples.add(store.folder, [row(item="b", score=0.25), row(item="a"), row(item="a", question=1)])
    assert samples.done(store.folder) == {"a", "b"}
    assert [(r["item"], r["question"]) for r in samples.rows(store.folder, ["a", "b"])] == [("a", 0), ("a", 1), ("b", 0)]
    assert samples.rows(store.folder, ["b"]) == [dataclasses.asdict(row(item="b", score=0.25))]
    with pytest.raises(sqlite3.IntegrityError):
        samples.add(store.folder, [row(item="c"), row(item="d", method=None)])
    assert samples.done(store.folder) == {"a", "b"}


def test_a_bundle_loads_back_equal(store: RunStore, tmp_path: Path) -> None:
    runs = [put(store, f"{1:016x}"), put(store, f"{2:016x}")]
    store.tag(runs[0], "paper")
    samples.add(store.folder, [row(item="a", run=runs[0], answer="<b>\u00e9</b>")])
    bundle.export(store, tmp_path / "b.zip", runs, samples.rows(store.folder))
    assert not [name for name in zipfile.ZipFile(tmp_path / "b.zip").namelist() if not name.endswith((".json", ".npz"))]
    other = RunStore(tmp_path / "other")
    other.shipped = store.shipped
    assert bundle.load(other, tmp_path / "b.zip") == runs
    for run in runs:
        assert other.load(run).manifest == store.load(run).manifest and other.load(run).trace.equal(store.load(run).trace)
    assert [said["id"] for said in other.list("paper")] == runs[:1] and samples.rows(other.folder) == samples.rows(store.folder)


@pytest.mark.parametrize("bad", ["no zip", "no bundle", "another id", "a path", "other rows", "a row of text", "a broken trace"])
def test_other_files_are_no_bundles_and_leave_nothing(store: RunStore, tmp_path: Path, bad: str) -> None:
    run, path = put(store), tmp_path / "b.zip"
    bundle.export(store, path, [run], [dataclasses.asdict(row(item="a"))])
    parts = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    about = json.loads(parts["bundle.json"])
    if bad == "no bundle":
        parts = {"readme.txt": b"hello"}
    elif bad == "another id":
        parts[f"{run}/manifest.json"] = parts[f"{run}/manifest.json"].replace(run.encode(), b"00000000000000ff")
    elif bad == "a path":
        about["runs"][0]["id"] = "../../../evil"
        parts |= {"bundle.json": json.dumps(about).encode(), "../../../evil/manifest.json": b'{"id": "../../../evil"}'}
        parts["../../../evil/trace.npz"] = parts[f"{run}/trace.npz"]
    elif bad == "other rows":
        parts["samples.json"] = b'[{"item": "a", "shell": "rm"}]'
    elif bad == "a row of text":
        parts["samples.json"] = parts["samples.json"].replace(b'"seconds": 0.5', b'"seconds": "long"')
    elif bad == "a broken trace":
        parts[f"{run}/trace.npz"] = parts[f"{run}/trace.npz"][:200]
    with zipfile.ZipFile(path, "w") as made:
        for name, data in parts.items():
            made.writestr(name, data)
    if bad == "no zip":
        path.write_bytes(b"PK nothing")
    other = RunStore(tmp_path / "other")
    other.shipped = store.shipped
    with pytest.raises(ValueError, match="is not a kvlab bundle"):
        bundle.load(other, path)
    assert other.list() == [] and not (tmp_path / "evil").exists()


def test_the_command_keeps_house(store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, call = put(store), ["runs", "--store", str(store.folder)]
    assert main([*call, "tag", run, "paper"]) == main([*call, "list", "--tag", "paper"]) == 0
    assert run in capsys.readouterr().out
    assert main([*call, "export", str(tmp_path / "b.zip"), run]) == main([*call, "delete", run]) == 0
    assert main([*call, "list", "--tag", "paper"]) == 0 and run not in capsys.readouterr().out
    assert main([*call, "import", str(tmp_path / "b.zip")]) == 0 and store.load(run).id == run
    assert main([*call, "import", str(tmp_path / "missing.zip")]) == 2
    assert main([*call, "tag", "nonsense", "x"]) == 2
    assert "cannot be read" in (told := capsys.readouterr().err) and "not the id of a run" in told
