"""Run, Look inside and Trade-offs in every state a link can lead to: no run, one, a partial one, one that never began, one that is gone, a broken one."""

from __future__ import annotations

from pathlib import Path

import fake_sweep
import pytest
from conftest import save_tiny
from fake_runs import fake
from streamlit.testing.v1 import AppTest

from kvlab.runs import RunStore
from kvlab.ui import sweeps

PAGES = Path(__file__).parent.parent / "pages"
STATES = ("none", "one", "partial", "empty", "gone", "broken")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("letters"), layers=1))


def link(state: str, store: RunStore) -> dict[str, str]:
    """Store what the state needs; the parameters of a link to it."""
    if state == "none":
        return {}
    if state == "gone":
        return {"run": "0" * 16, "job": "nothing", "point": "nothing", "again": "nothing"}
    run = fake("empty" if state == "empty" else "evict")
    run.manifest["status"] = "stopped" if state in ("partial", "empty") else "done"
    store.save(run.manifest, run.trace)
    if state == "broken":
        next((store.folder / run.id).glob("*.npz")).write_bytes(b"no archive")
    return {"run": run.id}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("page", ["run", "inside", "tradeoffs"])
def test_every_page_opens_in_every_state(page: str, state: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))
    monkeypatch.setenv("KVLAB_MODEL", model)
    monkeypatch.setattr(sweeps, "DATA", tmp_path / "data")
    params = link(state, RunStore())
    if page == "tradeoffs" and state != "none":
        points, samples = fake_sweep.sweep(("niah",), (256,))
        if state == "partial":  # a sweep that was cancelled has no point of some settings
            points = points.iloc[: len(points) // 2]
        if state == "empty":
            points = points.head(0)
        folder = fake_sweep.write(tmp_path / "sweeps" / "made", points.assign(run=params.get("run")), samples)
        if state == "broken":
            (folder / "points.csv").write_text("\x00")
    at = AppTest.from_file(str(PAGES / f"{page}.py"), default_timeout=200)
    at.session_state["framed"] = True
    for name, value in params.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    assert at.get("html"), "the page says something"
