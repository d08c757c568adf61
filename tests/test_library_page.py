"""The Library without a browser: who finds which run, what the filters leave, what may be done with a run, and what an import refuses."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from fake_runs import fake
from streamlit.testing.v1 import AppTest

from kvlab import bundle, catalog, index
from kvlab.runs import SHARED, RunStore
from kvlab.schema import check_run
from kvlab.ui import access, library, library_view, refill, service
from kvlab.ui.access import Rights
from kvlab.ui.library import Wanted

PAGE = str(Path(__file__).parent.parent / "pages" / "library.py")
HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script><img src=x onerror=alert(1)> $x$ :material/home: \u202e"
ONE, TWO, THREE = (f"{i:016x}" for i in (1, 2, 3))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunStore:
    """The store of a server of this test."""
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    found = RunStore()
    monkeypatch.setattr(service, "service", lambda: service.Service(None, None, found, "cpu"))
    return found


def put(store: RunStore, run: str = ONE, visitor: str = "", kind: str = "evict", **changes: Any) -> str:
    made = fake(kind)
    return store.save({**made.manifest, "id": run, **changes}, made.trace, visitor)


def opened(*chosen: str, **params: str) -> AppTest:
    """The page alone, with these runs ticked."""
    at = AppTest.from_file(PAGE, default_timeout=120)
    at.session_state["framed"] = True
    at.session_state["library_picked"] = list(chosen)
    for name, value in params.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def said(at: AppTest) -> str:
    return " ".join(part.proto.body for part in at.get("html"))


def listed(at: AppTest) -> list[dict]:
    """What the component is given."""
    found = [json.loads(part.proto.json) for part in at.get("bidi_component") if part.proto.component_name == "kvlab_library"]
    return found[0]["rows"] if found else []


def ids(at: AppTest) -> set[str]:
    return {row["id"] for row in listed(at) if row["owner"] != "shipped"}


def test_the_list_holds_own_and_shipped_runs_with_their_figures(store: RunStore) -> None:
    put(store, text=HOSTILE, title=HOSTILE, status="stopped", request={"prompt": HOSTILE, "question": "", "seed": 3})
    store.tag(ONE, "paper")
    catalog.note(store, ONE, HOSTILE)
    at = opened()
    own, *shipped = listed(at)
    assert own["id"] == ONE and own["said"] == "partial, stopped after 8 tokens" and own["tags"] == ["paper"] and own["owner"] == ""
    assert (own["held"], own["full"], own["missed"]) == ("1000 B", "2.0 KiB", "predicted 1.0 % more")
    facts = dict(map(tuple, own["facts"]))
    assert facts["Seed"] == "3" and facts["Revision"] == "not recorded" and "float32" in facts["Device"]
    assert len(shipped) == min(39, len(store.ships())) and all(row["owner"] == "shipped" for row in shipped) and shipped[0]["missed"]
    assert "\u202e" not in json.dumps(listed(at), ensure_ascii=False), "direction marks are shown, not followed"
    assert "<script" not in said(at) and not at.markdown, "a stranger's words go to the component, which sets them as text"


def test_an_empty_store_says_what_to_do(store: RunStore, tmp_path: Path) -> None:
    store.shipped = tmp_path / "none"
    at = opened()
    assert "No run is stored yet" in said(at) and 'href="run"' in said(at) and not listed(at)


def test_filters_and_their_link(store: RunStore) -> None:
    put(store, ONE, text="the Parrot sings")
    put(store, TWO, kind="bits", status="stopped")
    store.tag(TWO, "paper")
    assert ids(opened(lib_find="pArRoT", lib_from="own")) == {ONE}
    assert ids(opened(lib_status="partial")) == ids(opened(lib_tag="paper")) == ids(opened(lib_method="bits")) == {TWO}
    at = opened(lib_from="shipped", lib_status="wrong", lib_order="wrong")
    assert not ids(at) and listed(at) and "lib_status" not in at.query_params
    at.segmented_control(key="lib_from").set_value("own").run()
    assert len(listed(at)) == 2 and at.query_params["lib_from"] in ("own", ["own"])
    none = opened(lib_find="no such words anywhere")
    assert "No run matches" in said(none) and not listed(none)
    none.button(key="library-unfilter").click().run()
    assert not none.exception and ids(none) == {ONE, TWO}


def test_orders(store: RunStore) -> None:
    size = fake().manifest["bytes"]
    put(store, ONE, bytes={**size, "resident": 500, "predicted": 500})
    put(store, TWO, bytes={**size, "predicted": 3000})
    found = [entry for entry in catalog.entries(store, {}) if not entry.shipped]
    assert [entry.id for entry in library.choose(found, Wanted(order="newest"))] == [TWO, ONE]
    assert [entry.id for entry in library.choose(found, Wanted(order="bytes"))] == [ONE, TWO]
    assert [entry.id for entry in library.choose(found[::-1], Wanted(order="error"))] == [TWO, ONE]
    title, _, figures = library.finding(found)
    assert title == "1 of 2 runs as predicted; Made evict: predicted 200 % more" and figures[1][1] == "38 %"
    assert library.finding(found[1:])[0] == "1 run, its prediction within 1 % of what was held"
    table = library.table(found)
    assert table["error"].tolist() == [2.0, 0.0] and table["held"].tolist() == [1000, 500]


def test_a_thousand_runs_are_listed_from_the_index(store: RunStore) -> None:
    put(store, THREE)
    short = json.dumps({**{k: v for k, v in fake().manifest.items() if k not in ("pieces", "kept")}, "request": {"prompt": "some words " * 300}})
    rows = []
    for i in range(1000):
        run = f"{i + 16:016x}"
        (store.folder / run).mkdir()
        (store.folder / run / "manifest.json").write_text("not read")
        rows.append((run, (store.folder / run / "manifest.json").stat().st_mtime_ns, short.replace(fake().manifest["id"], run)))
    with index.opened(store.folder) as db:
        db.executemany("INSERT INTO runs VALUES (?, ?, ?)", rows)
    known: dict = {}
    start = time.process_time()
    assert len(catalog.entries(store, known)) == 1001 + len(store.ships()) and len(catalog.saying(store, "SOME WORDS")) == 1000
    first = time.process_time() - start
    assert first < 2 and len(known) == 1001
    store.delete(THREE)
    assert len(catalog.entries(store, known)) == 1000 + len(store.ships()) and len(known) == 1000
    at = opened()
    assert len(listed(at)) == 40 and "1,0" in said(at), "a page of them"


def test_tags_and_a_note(store: RunStore) -> None:
    put(store)
    shipped = store.ships()[0]["id"]
    at = opened(ONE, shipped)
    at.text_input(key="library-tag").set_value("paper")
    at.button(key="library-tag-put").click().run()
    assert not at.exception and "Tagged 1 run \u201cpaper\u201d." in said(at) and "1 of them stay as they are" in said(at)
    at.text_input(key="library-tag").set_value("two words")
    at.button(key="library-tag-put").click().run()
    assert "A tag is up to 64 letters" in said(at) and store.list("paper")[0]["id"] == ONE
    at.text_input(key="library-tag").set_value(SHARED)
    at.button(key="library-tag-put").click().run()
    assert "Use Share for it" in said(at) and not store.list(SHARED)
    at.button(key="library-tag-take-0").click().run()
    assert not at.exception and not store.list("paper")
    at = opened(ONE)
    at.text_area(key=f"library-note-{ONE}").set_value("look at L1 \u00b7 H1")
    at.button(key="library-note-keep").click().run()
    assert listed(at)[0]["note"] == "look at L1 \u00b7 H1"
    with pytest.raises(ValueError, match="at most 2,000 are kept"):
        catalog.note(store, ONE, "x" * 2001)
    with pytest.raises(ValueError, match="takes no note"):
        catalog.note(store, shipped, "x")
    store.delete(ONE)
    put(store)
    assert catalog.entries(store, {})[0].note == "", "a note goes with its run"


def test_deleting_asks_first_and_leaves_shipped_runs(store: RunStore) -> None:
    put(store)
    shipped = store.ships()[0]["id"]
    at = opened(ONE, shipped)
    assert "1 of them ships with kvlab and cannot be deleted" in said(at) and "Delete 1 run for good?" in said(at) and store.holds(ONE)
    at.button(key="library-delete-go").click().run()
    assert not at.exception and "1 run deleted." in said(at) and not store.holds(ONE) and store.holds(shipped)
    assert at.session_state["library_picked"] == []
    only = opened(shipped)
    assert "Shipped runs cannot be deleted." in said(only) and "library-delete-go" not in {button.key for button in only.button}


def test_compare_takes_two_to_six(store: RunStore) -> None:
    put(store, ONE)
    put(store, TWO)
    assert f'class="kv-act kv-link" href="compare?cmp={TWO},{ONE}"' in said(opened(ONE, TWO)), "in the order of the list"
    assert "Compare takes two to 6 runs" in said(opened(ONE)) and "cmp=" not in said(opened(ONE))
    assert "ticked" not in said(opened("0" * 16)), "a run that is gone is not ticked"


def visit(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    monkeypatch.setattr(access, "_name", lambda: name)
    return access.me()


def test_on_a_server_for_several_a_run_is_found_by_who_made_it(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_SHARED", "1")
    mine = visit(monkeypatch, "ann")
    put(store, ONE, mine)
    put(store, TWO)  # from the command line
    at = opened(ONE)
    assert ids(at) == {ONE} and "Your list" in said(at) and "ann" not in (store.folder / index.NAME).read_bytes().decode("latin1")
    assert ONE in {run["id"] for run in access.runs(store)} and TWO not in {run["id"] for run in access.runs(store)}
    other = visit(monkeypatch, "bob")
    assert ids(opened()) == set() and other != mine
    visit(monkeypatch, "ann")
    at.button(key="library-share").click().run()
    assert "everybody who uses this server" in said(at) and store.list(SHARED)[0]["id"] == ONE
    visit(monkeypatch, "bob")
    at = opened(ONE)
    assert ids(at) == {ONE} and listed(at)[0]["owner"] == "shared" and listed(at)[0]["tags"] == [SHARED]
    assert "belongs to somebody else" in said(at) and not {"library-delete-go", "library-tag-put"} & {button.key for button in at.button}
    visit(monkeypatch, "ann")
    opened(ONE).button(key="library-unshare").click().run()
    visit(monkeypatch, "bob")
    assert ids(opened()) == set()
    catalog.remember(store, access.me(), [ONE])
    assert listed(opened())[0]["owner"] == "opened by link"


def test_a_run_that_two_made_stays_for_the_other(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_SHARED", "1")
    for name in ("ann", "bob"):
        put(store, ONE, visit(monkeypatch, name))
    opened(ONE).button(key="library-delete-go").click().run()
    assert store.holds(ONE) and ids(opened()) == set()
    visit(monkeypatch, "ann")
    opened(ONE).button(key="library-delete-go").click().run()
    assert not store.holds(ONE)


def test_a_link_puts_its_run_into_the_list(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_SHARED", "1")
    put(store)

    def page() -> None:
        from kvlab.ui import access

        access.arrive()

    at = AppTest.from_function(page)
    at.query_params["cmp"] = f"{ONE},{TWO},../../etc"
    at.run()
    assert not at.exception
    with index.opened(store.folder, write=False) as db:
        assert [tuple(row)[::2] for row in db.execute("SELECT * FROM visitors")] == [(ONE, 0)]


@pytest.mark.parametrize(("address", "said", "several"), [
    ("127.0.0.1", None, False), ("0.0.0.0", None, True), ("", None, True), ("127.0.0.1", "1", True), ("", "0", False),
])  # fmt: skip
def test_whether_a_server_is_for_several(monkeypatch: pytest.MonkeyPatch, address: str, said: str | None, several: bool) -> None:
    monkeypatch.setattr(st, "get_option", lambda name: address)
    monkeypatch.delenv("KVLAB_SHARED", raising=False)
    if said:
        monkeypatch.setenv("KVLAB_SHARED", said)
    assert access.several() is several
    assert Rights(None).sees(catalog.entry(fake().manifest, False)) and not Rights({}).sees(catalog.entry(fake().manifest, False))


def packed(store: RunStore, path: Path, *runs: str) -> bytes:
    bundle.export(store, path, runs)
    return path.read_bytes()


def test_a_bundle_comes_in_ticked_unshared_and_changes_nothing_that_is_here(store: RunStore, tmp_path: Path) -> None:
    theirs = RunStore(tmp_path / "theirs")
    put(theirs, ONE, text="theirs")
    put(theirs, TWO, text="theirs")
    theirs.tag(TWO, SHARED, "paper")
    theirs.tag(ONE, "forged")
    put(store, ONE, text="ours")
    at = opened()
    at.file_uploader(key="library-file").upload("b.zip", packed(theirs, tmp_path / "b.zip", ONE, TWO), "application/zip").run()
    assert not at.exception and "2 runs are in your list, ticked." in said(at) and at.session_state["library_picked"] == [ONE, TWO]
    assert store.load(ONE).manifest["text"] == "ours" and store.load(TWO).manifest["text"] == "theirs"
    assert {run["id"]: run["tags"] for run in store.list() if run["tags"]} == {TWO: ["paper"]}


def test_what_is_no_bundle_gets_one_sentence(store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened()
    at.file_uploader(key="library-file").upload("b.zip", b"PK nothing", "application/zip").run()
    assert not at.exception and "is not a kvlab bundle" in said(at)
    at.run()
    assert "is not a kvlab bundle" in said(at), "and stays until another file is chosen"
    theirs = RunStore(tmp_path / "theirs")
    put(theirs, ONE)
    good = packed(theirs, tmp_path / "b.zip", ONE)
    for name, limit, says in (("LARGEST", 0, "at most 0 MB are read"), ("UNPACKED", 0, "unpacks to more than 0 bytes")):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=says):
            patch.setattr(library_view, name, limit)
            library_view.imported(store, good)
    inner = sum(part.file_size for part in zipfile.ZipFile(tmp_path / "b.zip").infolist())
    monkeypatch.setattr(library_view, "UNPACKED", (inner + 1000) / 10**6)
    with pytest.raises(ValueError, match="unpacks to more than"):  # the arrays in a trace are packed once more
        library_view.imported(store, good)
    assert not store.holds(ONE)


@pytest.mark.parametrize(("change", "says"), [
    ({"bytes": {"full": 1}}, "bytes lacks nominal"), ({"axis": "magic"}, "axis is none that is known"), ({"title": 3}, "title is of another kind"),
    ({"tokens": ["a"]}, "of another kind"), ({"versions": {"torch": 2}}, "torch is of another kind"), ({"schema": 2}, "another version"),
    ({"pieces": []}, "text of the manifest"), ({"geometry": {"layers": 9, "kv_heads": 2, "query_heads": 4, "windows": []}}, "trace is not that"),
    ({"request": {"prompt": 5}}, "prompt is of another kind"), ({"prompt_tokens": True}, "of another kind"),
])  # fmt: skip
def test_a_run_that_kvlab_could_not_show_is_refused(store: RunStore, tmp_path: Path, change: dict, says: str) -> None:
    theirs = RunStore(tmp_path / "theirs")
    put(theirs, ONE)
    check_run(theirs.load(ONE).manifest, theirs.load(ONE).trace)
    put(theirs, ONE, **change)
    with pytest.raises(ValueError, match=says) as found:
        library_view.imported(store, packed(theirs, tmp_path / "b.zip", ONE))
    assert "is not a kvlab bundle of version 1" in str(found.value) and not store.holds(ONE)


@pytest.mark.parametrize("away", [[[9, 0, 0, 1, 2]], [[0, 0, 0, 1]], [[-1, 0, 0, 1, 2]]])
def test_a_trace_whose_returns_name_no_entries_is_refused(away: list) -> None:
    with pytest.raises(ValueError, match="names entries that it does not have"):
        check_run(fake().manifest, dataclasses.replace(fake().trace, away=np.array(away, np.int32)))


def test_an_index_without_notes_gets_them(store: RunStore) -> None:
    put(store)
    store.tag(ONE, "paper")
    db = sqlite3.connect(store.folder / index.NAME)
    db.executescript("DROP TABLE notes; DROP TABLE visitors; PRAGMA user_version = 2")
    db.close()
    catalog.note(store, ONE, "kept")
    assert catalog.entries(store, {})[0].note == "kept" and catalog.entries(store, {})[0].tags == ("paper",)


def test_the_form_is_filled_as_a_run_was(store: RunStore) -> None:
    asked = {"prompt": "Some text.", "question": "And?", "aware": True, "max_new_tokens": 9, "seed": 7, "temperature": 0.5, "chunk": 64, "template": False}
    of = {"method": "snapkv+kivi", "knobs": {"snapkv.budget": "64t", "snapkv.window": 16, "kivi.bits": 2}, "model": "bundled"}
    m = fake().manifest | {"request": asked, "prompt_tokens": 200, "budget": {"asked": "64t"}} | of
    state: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(st, "session_state", state)
        assert refill.fill([m], state) == []
        assert (state["run-source"], state["run-text"], state["run-question"]) == ("Write", "Some text.", "And?")
        assert (state["run-before"], state["run-new"]) == (False, 9)
        assert (state["run-seed"], state["run-temperature"], state["run-chunk"], state["run-template"]) == (7, 0.5, 64, False)
        assert state["run-pick-axis-drop"] == ["snapkv"] and state["run-with-snapkv"] == ["kivi"]
        assert state["run-knob-snapkv-snapkv-window"] == 16 and state["run-knob-snapkv-kivi-bits"] == 2
        assert (state["run-unit"], state["run-slider"], state["run-share"]) == ("tokens", 64, 0.32)
        two = refill.fill([m, m | {"method": "tova", "knobs": {}}, m | {"method": "full"}], state)
        assert state["run-pick-axis-drop"] == ["snapkv", "tova"] and two == []
        odd = refill.fill([m | {"method": "gone", "budget": {"asked": "0.0625"}, "request": asked | {"pinned": [1, 2]}}], state)
        assert odd == ["There is no method gone in this kvlab.", "It asked for a budget of 6.25 %; the slider stands at the nearest step, 6.",
                       "It ran with 2 protected entries, which this form does not ask for."]  # fmt: skip
