"""Sweeps from the Trade-offs page: their cost before they start, a job for each point, points that appear, cancel, going on, one's own questions."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import save_tiny
from streamlit.testing.v1 import AppTest

from kvlab.jobs import Job, JobManager, Partial
from kvlab.runs import RunStore
from kvlab.shelf import Shelf
from kvlab.sweep.plan import Plan
from kvlab.sweep.queued import Counted, Known, cost, folder_of, jobs, parts
from kvlab.ui import builder, own_tasks, sweeps

PAGE = str(Path(__file__).parent.parent / "pages" / "tradeoffs.py")
LINES = [{"context": f"The code of the falcon is {n}. Hugo left the orchid.", "question": "Which code?", "answers": [str(n)]} for n in (2916, 8644)]
FILE = "\n".join(map(json.dumps, LINES)).encode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("letters"), template=False, layers=1))


@pytest.fixture
def home(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A server of its own: no sweep is shipped, the model is tiny."""
    monkeypatch.setattr(sweeps, "DATA", tmp_path / "data")
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KVLAB_MODEL", model)
    return tmp_path / "home"


def plan_of(model: str, **more: object) -> Plan:
    """Two methods on a file of two questions: three points."""
    task = own_tasks.task(own_tasks.keep(FILE, "mine.jsonl")).name
    return Plan(("full", "snapkv"), (task,), ("0.5", "0.25"), lengths=(200,), samples=2, model=model, device="cpu", **more)


def known(model: str) -> Known:
    from kvlab.ui.service import card

    here = card(model, "cpu")
    return Known(here.lm.name, here.lm.revision, here.dtype, torch.device("cpu"))


def settle(manager: JobManager, group: object) -> None:
    end = time.monotonic() + 120
    while group.live:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_sweep_is_a_job_for_each_point_and_goes_on_where_it_stopped(home: Path, model: str) -> None:
    plan, store, shelf = plan_of(model), RunStore(), Shelf(1)
    before = cost(plan, known(model), store.folder)
    assert [part.setting.asked for part in parts(plan)] == [None, "0.5", "0.25"] and before.left == (2, 2, 2) and before.runs == 6
    assert before.seconds is None and "no earlier run" in builder.sentence(before) and builder.sentence(before).startswith("6 runs in 3 points")
    folder = folder_of(plan, home / "sweeps")
    made = jobs(plan, before, shelf, store, "a", folder)
    assert len(made) == 3 and all(job.background for job in made)
    manager = JobManager()
    try:
        settle(manager, manager.submit("a", made[:2]))
        assert [job.state for job in made[:2]] == ["done", "done"] and [e.done for e in made[0].events() if isinstance(e, Counted)] == [1, 2]
        points = pd.read_csv(folder / "points.csv")
        assert sorted(points["method"]) == ["full", "snapkv"] and (points["n"] == 2).all()
        after = cost(plan, known(model), store.folder)
        assert after.left == (0, 0, 2) and after.earlier == 4 and after.seconds > 0
        assert "2 runs in 1 point, 4 more are measured already" in builder.sentence(after) and "from 4 earlier runs" in builder.sentence(after)
        rest = jobs(plan, after, shelf, store, "a", folder)
        settle(manager, manager.submit("a", rest))
        assert len(rest) == 1 and len(pd.read_csv(folder / "points.csv")) == 3
        assert builder.sentence(cost(plan, known(model), store.folder)) == "All 6 runs are measured already"
    finally:
        manager.close()


def test_a_cancelled_point_keeps_its_samples(home: Path, model: str) -> None:
    plan, store = plan_of(model), RunStore()
    (first, *_) = jobs(plan, cost(plan, known(model), store.folder), Shelf(1), store, "a", home / "sweeps" / "x")
    emit = first.emit
    first.emit = lambda event: (emit(event), first.stop.set())  # cancelled after its first sample
    with pytest.raises(Partial):
        first.work(first, "cpu")
    assert cost(plan, known(model), store.folder).left == (1, 2, 2)


def test_points_wait_behind_their_owners_lanes() -> None:
    order, gate = [], threading.Event()

    def work(job: Job, device: str) -> None:
        order.append(job.title)
        gate.wait(10)

    manager = JobManager(waiting=2, points=5)
    try:
        first = manager.submit("a", [Job("a", f"p{n}", work, background=True) for n in range(5)])
        while first.jobs[0].state == "queued":
            time.sleep(0.005)
        lanes = manager.submit("a", [Job("a", "lane", work)])
        assert manager.place(lanes.jobs[0]).ahead == 1
        with pytest.raises(ValueError, match="4 points waiting and asked for 2 more; at most 5"):
            manager.submit("a", [Job("a", "p", work, background=True)] * 2)
        gate.set()
        settle(manager, first)
        assert order == ["p0", "lane", "p1", "p2", "p3", "p4"]
    finally:
        manager.close()


def opened(**params: str) -> AppTest:
    at = AppTest.from_file(PAGE, default_timeout=200)
    at.session_state["framed"] = True
    for name, value in params.items():
        at.query_params[name] = value
    return at.run()


def said(at: AppTest) -> str:
    return " ".join(part.proto.body for part in at.get("html"))


def test_from_a_file_of_questions_to_points_on_the_page(home: Path) -> None:
    at = opened(tasks=own_tasks.keep(FILE, "../<b>mine.jsonl"))
    assert not at.exception and "No sweep is stored yet" in said(at)
    assert at.multiselect(key="sweep-tasks").value[0].startswith("b-mine-") and at.number_input(key="sweep-samples").value == 2
    at.multiselect(key="sweep-methods").set_value(["full", "snapkv"]).run()
    at.multiselect(key="sweep-budgets").set_value(["0.5"]).run()
    assert "4 runs in 2 points; no earlier run to tell the time from" in said(at)
    at.button(key="sweep-start").click().run()
    assert not at.exception
    end = time.monotonic() + 120
    while "2 of 2 points measured" not in said(at):
        assert time.monotonic() < end and not at.exception
        time.sleep(0.1)
        at.run()
    at.run()
    assert not at.exception and at.get("plotly_chart") and len(at.dataframe[0].value) == 2
    assert at.query_params["job"]
    at.button(key="trade-new").click().run()
    assert "All 4 runs are measured already" in said(at)
    at.number_input(key="sweep-samples").set_value(3).run()
    assert "Your file holds 2 questions" in said(at)


def test_what_cannot_be_measured_is_a_sentence(home: Path) -> None:
    at = opened(tasks="nothing-here")
    assert not at.exception and "is not here any more" in said(at)
    at.multiselect(key="sweep-methods").set_value(["snapkv+h2o"]).run()
    assert not at.exception and "both decide how many entries stay" in said(at)
    for data, sentence in ((b'{"context": "a"}', 'The file, line 1: "question" is missing'), (b"x", "not JSON"), (b"\xff\xfe\x00", "but it is not")):
        with pytest.raises(ValueError, match=sentence):
            own_tasks.keep(data, "a.jsonl")
    assert not list(own_tasks.folder().glob("*.part"))
