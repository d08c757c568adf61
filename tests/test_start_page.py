"""The Start page without a browser: maps against a plain count, runs found by content, doors against their tables, no model loaded, hostile text as text."""

from __future__ import annotations

import base64
import functools
import json
import re
import time
from pathlib import Path
from typing import Any

import fake_points
import numpy as np
import pandas as pd
import pytest
from alone import html, page_alone
from fake_runs import fake
from fake_sweep import write
from streamlit.testing.v1 import AppTest

from kvlab import runs
from kvlab.jobs import Group, Job, JobManager
from kvlab.models import DATA
from kvlab.plots import words
from kvlab.presets import presets
from kvlab.runs import RunStore, StoredRun
from kvlab.ui import choice, form, marks, start, start_doors, start_view, sweeps
from kvlab.ui.inside import unread, wanted
from kvlab.ui.palette import TOKENS
from kvlab.ui.service import service
from kvlab.ui.start_session import last_runs

PAGE = str(Path(__file__).parent.parent / "pages" / "start.py")
HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script> $x$ :material/home: \u202eback"
PRESET = {"id": "one", "title": "A made preset", "context": "the text", "question": "what?", "what_to_look_for": "Look here.",
          "suggest": {"method": "snapkv", "budget": 0.5}}  # fmt: skip


def made(kind: str, method: str, number: int, **more: Any) -> StoredRun:
    """A run of the made preset."""
    run = fake(kind)
    axis = {"full": "reference", "kivi": "quantization", "quest": "retrieval"}.get(method, "eviction")
    request = {"prompt": PRESET["context"], "question": PRESET["question"]}
    run.manifest.update(id=f"{number:016x}", method=method, title=method.upper(), axis=axis, request=request, text=f"answer of {method}", **more)
    return run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Four methods on the made preset, and a run of another text."""
    store = RunStore(tmp_path / "runs")
    store.shipped = store.folder
    own = [made("evict", "snapkv", 1), made("full", "full", 2), made("same", "h2o", 3), made("bits", "kivi", 4)]
    own[3].manifest["budget"]["asked"] = None
    other = made("evict", "tova", 5)
    other.manifest["request"]["prompt"] = "another text"
    for run in [*own, other]:
        store.save(run.manifest, run.trace)
    return store


def unpacked(text: str, rows: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(rows, -1) / 255


@pytest.mark.parametrize(("kind", "long"), [("evict", 1), ("evict", 9), ("bits", 1), ("bits", 9), ("read", 9), ("merge", 1)])
def test_the_small_map_counts_what_the_trace_holds(kind, long):
    run, step = fake(kind, long=long), 2
    t, end = run.trace, int(run.trace.born[step])
    small = start.small_map(run, step)
    edges = [i * end // small["columns"] for i in range(small["columns"] + 1)]
    held, tall, idle = (unpacked(small[name], 6) if small[name] else None for name in ("held", "tall", "idle"))
    assert held.shape == (6, min(start.BINS, end)) and (tall is not None) == (kind == "bits") and (idle is not None) == (kind == "read")
    for row, column in [(0, 0), (1, 3), (3, small["columns"] // 2), (5, small["columns"] - 1), (4, 17)]:
        layer, head = divmod(row, 2)
        here = [p for p in range(edges[column], edges[column + 1]) if t.left_at[layer, head, p] > step]
        assert held[row, column] == pytest.approx(len(here) / (edges[column + 1] - edges[column]), abs=0.003)
        if kind == "bits":
            heights = [start.FLOOR + (1 - start.FLOOR) * np.mean([b or 32 for b in t.bits[:, layer, head, p]]) / 32 for p in here]
            assert tall[row, column] == pytest.approx(np.mean(heights), abs=0.003)
        if kind == "read":
            assert idle[row, column] == pytest.approx(np.mean([unread(t)[step, layer, head, p] for p in here]), abs=0.003)
    lost = {(row // 2, row % 2, int(at * end)) for row, at in small["lost"]}
    assert lost == {tuple(map(int, place)) for place in np.argwhere(wanted(t, step)[..., :end])} and (len(lost) > 0) == (kind in ("evict", "merge"))
    assert str(len(lost)) in start.spoken(small) or not lost


def test_runs_of_a_preset_are_found_by_their_text(store):
    own = start.belonging(PRESET, store.list() * 2)
    assert own[0]["method"] == "full" and sorted(m["method"] for m in own) == ["full", "h2o", "kivi", "snapkv"]
    assert start.suggested(PRESET, own)["method"] == "snapkv"
    assert start.suggested({**PRESET, "suggest": {"method": "adakv", "budget": 0.1}}, own)["method"] != "full", "a made run is better than no picture"
    assert start.suggested({**PRESET, "suggest": {"method": "kivi", "budget": None}}, own)["method"] == "kivi"
    assert not start.belonging({**PRESET, "question": "another one"}, store.list())


def test_a_card_says_what_its_run_shows(store):
    (card,) = start.cards([PRESET], store)
    assert (card["method"], card["setting"], card["tokens"]) == ("SNAPKV", "50 % kept", fake("evict").trace.prompt)
    assert card["finding"] == "One wanted digit is gone, and the answer differs" and card["differs"]
    assert (card["answer"], card["reference"]) == ("answer of snapkv", "answer of full")
    assert card["compare"][0] == f"{2:016x}" and set(card["compare"]) == {f"{n:016x}" for n in (1, 2, 3, 4)}
    (row,) = start.table([card])
    assert row["Run"] == f"inside?run={1:016x}" and row["Evicted yet wanted"] == len(card["map"]["lost"]) > 0
    title, _, figures = start.opening([card])
    assert title.endswith("compressed cache: 1 of 1 answers changes")
    assert figures[0][1] == "1 of 1"


def test_a_preset_without_a_readable_run_offers_to_make_one(store):
    for place in store.folder.glob(f"{1:016x}/trace-*.npz"):
        place.unlink()
    (card,) = start.cards([PRESET], store)
    assert card["run"] == "" and card["title"] == PRESET["title"] and start.table([card]) == []
    assert "No run is stored" in start.opening([card])[1][0][0]


def test_the_title_counts_answers():
    cards = [{"run": "x", "differs": d, "resident": 10, "full": 40} for d in (True, False, False)]
    assert start.opening(cards)[0].endswith("1 of 3 answers changes") and start.opening(cards)[2][1][1:] == ("30 B", "", " of 120 B")
    assert start.opening([cards[0]] * 2)[0].endswith(": all 2 answers change") and start.opening([cards[1]] * 2)[0].endswith("none of 2 answers changes")


def test_rivals_are_few_and_of_every_axis():
    own = [{"id": "0", "method": "full", "axis": "reference", "bytes": {"resident": 100}}]
    own += [{"id": f"{i}", "method": f"m{i}", "axis": "eviction", "bytes": {"resident": 100 - i}} for i in range(1, 9)]
    own.append({"id": "bits", "method": "kivi", "axis": "quantization", "bytes": {"resident": 1}})
    chosen = [m["id"] for m in start.rivals(own)]
    assert len(chosen) == start.MOST and chosen[0] == "0" and chosen[-1] == "bits" and chosen[1] == "1"


def test_the_compare_door_shows_who_wrote_something_else(store):
    for run, text in ((made("full", "full", 2), " 42."), (made("same", "h2o", 3), " 42. "), (made("evict", "snapkv", 1), " 43.")):
        run.manifest["text"] = text
        store.save(run.manifest, run.trace)
    door = start_doors.compare([PRESET], store.list())
    assert {row["method"]: row["differs"] for row in door["rows"]} == {"FULL": False, "H2O": False, "SNAPKV": True, "KIVI": True}
    assert door["runs"][0] == f"{2:016x}" and door["said"].endswith("2 of 3 write something else")
    assert start_doors.compare([{**PRESET, "question": "no run has it"}], store.list()) is None


def test_the_lesson_door_takes_the_most_unequal_heads_of_a_layer(store):
    door = start_doors.lesson(store, [f"{1:016x}", f"{4:016x}"])
    t = fake("evict").trace
    counts = t.held(0)[..., : t.prompt].sum(-1)
    layer = int(np.argmax((counts.max(1) + 1) / (counts.min(1) + 1)))
    assert sorted(row["kept"] for row in door["rows"]) == sorted((int(counts[layer].min()), int(counts[layer].max())))
    for row in door["rows"]:
        assert row["name"].startswith(f"L{layer} ") and sum(b - a for a, b in row["spans"]) == row["kept"]
    assert start_doors.lesson(store, [f"{4:016x}"]) is None, "equal heads are nothing to guess"


@pytest.mark.parametrize("held", ["", "1", "0", "0110", "1011", "11101"])
def test_spans_cover_what_is_held(held):
    back = np.zeros(len(held), int)
    for a, b in start_doors.spans(np.array([letter == "1" for letter in held], bool)):
        assert b > a
        back[a:b] += 1
    assert "".join(map(str, back)) == held


def swept(points: pd.DataFrame) -> pd.DataFrame:
    return points.assign(x=points["resident"].astype(float))


def test_the_plan_door_has_the_settings_that_keep_the_score():
    points = swept(fake_points.points())
    door = start_doors.settings(points)
    full = points[points["axis"] == "reference"].iloc[0]
    kept = words.kept(points)
    assert door["rows"][0]["reference"] and door["rows"][0]["fit"] == f"{2**30 // int(full['resident']):,}"
    assert [row["method"] for row in door["rows"][1:]] == list(kept.drop_duplicates("method")["title"])[:3]
    shares = [row["share"] for row in door["rows"][1:]]
    assert shares == sorted(shares) and all(share < 1 for share in shares)
    assert door["said"].startswith(f"{kept['method'].nunique()} of {points['method'].nunique() - 1} methods")
    assert start_doors.settings(points[points["axis"] != "reference"]) is None


def test_the_small_figure_has_every_measured_point_in_place():
    points = swept(fake_points.points())
    figure = start_doors.field(points)
    placed = [tuple(at) for one in figure["series"] for at in one["points"]] + [tuple(one["at"]) for one in figure["reference"]]
    assert len(placed) == len(points) and all(0 <= share <= 1 for at in placed for share in at)
    assert all(tuple(at) in placed for at in figure["front"]) and figure["front"] == sorted(figure["front"])
    assert all(0 <= share <= 1 for share, _ in figure["xticks"] + figure["yticks"]) and figure["title"] == words.finding(points)
    best = max(figure["series"], key=lambda one: one["front"])
    assert figure["series"][-1]["front"] == best["front"], "what is on the front is drawn last"


def test_the_session_lists_its_own_runs_once_newest_first():
    manager = JobManager([])  # no worker: nothing runs
    try:
        groups = {owner: manager.submit(owner, [Job(owner, "a", lambda job, device: None)]) for owner in ("ann", "bob")}
        later = manager.submit("ann", [Job("ann", "b", lambda job, device: None)])
        assert manager.of("ann") == [later, groups["ann"]] and manager.of("nobody") == []
    finally:
        manager.close()
    run = made("evict", "snapkv", 1).manifest | {"text": "a\x07\u202eb", "status": "stopped"}
    done = Job("ann", "a", lambda job, device: None, state="done", result=run)
    point = Job("ann", "a point of a sweep", lambda job, device: None, background=True, state="done", result={"score": 1})
    said = last_runs([Group("1", "ann", (done, Job("ann", "b", lambda job, device: None), point)), Group("2", "ann", (done,))])
    assert said["live"] == 1 and len(said["rows"]) == 1
    assert said["rows"][0]["answer"] == "a<0007><202E>b" and said["rows"][0]["said"].startswith("stopped early, ")
    assert last_runs([]) == {"live": 0, "rows": []}


# the page


opened = functools.partial(page_alone, "start.py")


def drawn(at: AppTest) -> dict[str, Any]:
    (part,) = at.get("bidi_component")
    return json.loads(part.proto.json)


def test_page_from_what_ships_loads_no_model_and_reads_files_once(monkeypatch):
    service.clear()
    start_view.contents.clear()
    at = opened()
    said = drawn(at)
    assert [card["title"] for card in said["cards"]] == [preset["title"] for preset in presets()] and len(said["cards"]) >= 6
    for card in said["cards"]:
        run = RunStore(DATA / "runs").load(card["run"])
        assert card["answer"] and card["differs"] == (card["answer"] != card["reference"]) and card["tokens"] > 0
        assert card["method"] == run.manifest["title"] and card["map"]["held"] and card["finding"]
    assert said["compare"] and said["plan"] and said["field"] and said["session"] == {"live": 0, "rows": []}
    assert start.opening(said["cards"])[0] in html(at)
    assert not service().shelf._models, "opening the page loads no model"
    monkeypatch.setattr(RunStore, "load", lambda *_: pytest.fail("a second visitor is served from what the first one read"))
    assert drawn(opened())["cards"] == said["cards"]


def test_page_lists_what_the_session_ran():
    jobs = service().jobs
    group = jobs.submit("me", [Job("me", "SnapKV", lambda job, device: made("evict", "snapkv", 1).manifest)])
    end = time.monotonic() + 60
    while group.live and time.monotonic() < end:
        time.sleep(0.01)
    at = AppTest.from_file(PAGE, default_timeout=200)
    at.session_state["framed"], at.session_state["visitor"] = True, "me"
    at.run()
    (row,) = drawn(at)["session"]["rows"]
    assert not at.exception and (row["run"], row["method"], row["answer"]) == (f"{1:016x}", "SNAPKV", "answer of snapkv")


def test_page_shows_its_pictures_as_tables():
    at = opened()
    at.toggle(key="start_table").set_value(True).run()
    assert not at.exception and len(at.dataframe) == 2
    assert at.dataframe[0].value["Preset"].tolist() == [preset["title"] for preset in presets()]
    points = start_view.field_points()
    assert len(at.dataframe[1].value) == len(points)


def test_page_without_any_run_or_sweep(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "DATA", tmp_path)
    monkeypatch.setattr(sweeps, "DATA", tmp_path)
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    at = opened()
    said = drawn(at)
    assert "No run is stored yet" in html(at) and all(card["run"] == "" and card["look"] for card in said["cards"])
    assert said["compare"] is said["lesson"] is said["plan"] is said["field"] is None
    write(tmp_path / "home" / "sweeps" / "mine")
    said = drawn(opened())
    assert said["field"]["title"] and said["plan"]["rows"], "the first sweep of one's own is behind the figure at once"
    at.toggle(key="start_table").set_value(True).run()
    assert not at.exception


def test_hostile_text_reaches_the_page_as_data_only(monkeypatch, store):
    run = made("evict", "snapkv", 1)
    run.manifest.update(text=HOSTILE, title=HOSTILE)
    store.save(run.manifest, run.trace)
    monkeypatch.setattr(start_view, "presets", lambda: [{**PRESET, "title": HOSTILE}])
    monkeypatch.setattr(start_view, "shipped", lambda: store)
    at = opened()
    (card,) = drawn(at)["cards"]
    assert card["title"] == HOSTILE and "<202E>" in card["answer"]
    written = html(at) + " ".join([*(m.value for m in at.markdown), *(c.value for c in at.caption)])
    assert "evil.test" not in written and "<script" not in written
    code = start_view.script()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|import\(|XMLHttpRequest", code)
    assert set(re.findall(r"https?://[^\"'`\s)]+", code + start_view.style())) <= {"http://www.w3.org/2000/svg"}
    used = set(re.findall(r"var\(--([a-z-]+)", code + start_view.style())) - {"st-font", "st-heading-font"}
    assert used <= set(TOKENS), used - set(TOKENS)


# a preset in the address of the Run page


def form_page() -> None:
    from kvlab.ui import form

    form.begin()


def test_a_link_fills_the_run_form_with_its_preset_once():
    first, second, *_ = presets()
    at = AppTest.from_function(form_page, default_timeout=60)
    at.query_params["preset"] = second["id"]
    at.run()
    state = at.session_state
    assert not at.exception and (state["run-source"], state["run-preset"], state["run-question"]) == ("Preset", second["id"], second["question"])
    picked = [name for hue in marks.groups() for name in state[f"run-pick-{hue}"]]
    assert picked == [second["suggest"]["method"].split("+")[0]]
    state["run-question"] = "my own question"
    at.run()
    assert at.session_state["run-question"] == "my own question", "what is changed afterwards stays"
    at.query_params["preset"] = first["id"]
    at.run()
    assert at.session_state["run-question"] == first["question"]


def test_an_unknown_preset_in_a_link_is_a_sentence():
    at = AppTest.from_function(form_page, default_timeout=60)
    at.query_params["preset"] = "<script>alert(1)</script>"
    at.run()
    assert not at.exception and "There is no preset" in html(at) and "<script>alert" not in html(at)
    assert at.session_state["run-preset"] == next(iter(form.presets()))


def test_the_figure_is_the_one_that_trade_offs_opens_with():
    sweep = start_view.first_sweep()
    view = choice.resolve(sweep, {})
    assert set(start_view.field_points()["point"]) <= set(choice.panel(sweep, view)["point"])
