"""Every page in every state a link can lead to: no run, one, a partial one, one that never began, one that failed, one that is gone, a broken one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fake_sweep
import pytest
from alone import html, page_alone
from compare_runs import WORDS, saying
from conftest import save_tiny
from fake_runs import fake
from streamlit.testing.v1 import AppTest

from kvlab.runs import RunStore
from kvlab.ui import sweeps
from kvlab.ui.service import service

GONE = "0" * 16
WHY = "The device ran out of <b>memory</b>."
BROKEN = "cannot be read, or its trace is missing"
STATES = ("none", "one", "partial", "empty", "failed", "gone", "broken", "torn")
"""`none`: the address names none, and pages about runs open a preset.
`empty` was stopped before its first token. Of a `broken` run the trace is no archive, of a `torn` one the manifest is no JSON."""
SAYS = {
    "start": {"": "Asked again with a compressed cache"},
    "run": {
        "": "entries kept", "none": "No run is open|predicted", "partial": "stopped at token 8, kept", "empty": "stopped before the first token",
        "failed": "ran out of <b>memory.*failed before the first token", "gone": "is not stored here", "broken": "is not a kvlab trace", "torn": BROKEN,
    },
    "inside": {
        "": "One wanted digit is gone", "none": "Held by tensors, measured", "empty": "Stopped before the first token", "gone": "is not stored here",
        "failed": "This run failed.*ran out of &lt;b&gt;memory", "broken": "is not a kvlab trace", "torn": BROKEN,
    },
    "compare": {
        "": "Made evict</b> leaves at step 0", "none": "reference: Full cache", "empty": "stopped before its first token: it has no answer",
        "failed": "failed before its first token. The device ran out of &lt;b&gt;memory", "gone": "is not stored here",
        "broken": "is not a kvlab trace", "torn": BROKEN,
    },
    "tradeoffs": {"": "Look inside this run", "gone": "is not stored here", "none": "No sweep is stored yet", "broken": "This sweep cannot be shown"},
    "plan": {"": "Memory against the GPU", "gone": "There is no model"},
    "learn": {"": "Eight short lessons", "gone": "There is no lesson of that name"},
    "library": {"": "In this list"},
    "methods": {"": "ways to hold less", "gone": "There is no method"},
}  # fmt: skip
"""Page -> state -> what it must say there; "" stands for all states that are not named."""
SHOWN = {"one": "done", "partial": "partial, stopped after 8 tokens", "empty": "partial, stopped after 0 tokens", "failed": f"failed: {WHY}"}
"""What the Library's row of the run says."""
LINKS = {"learn": {"lesson": "nothing"}, "methods": {"m": "nothing"}, "plan": {"shape": "nothing"}}
"""A link that leads nowhere, of pages that show no runs."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("letters"), layers=1))


def stored(state: str, store: RunStore, model: str) -> str:
    """Store what the state needs, and beside it a full cache on the same prompt; the id of the run."""
    if state == "none":
        return ""
    full, run = saying(WORDS, "full"), fake("empty" if state in ("empty", "failed") else "evict")
    full.manifest["model"] = model
    store.save(full.manifest, full.trace)
    if state == "gone":
        return GONE
    status = {"partial": "stopped", "empty": "stopped", "failed": "failed"}.get(state, "done")
    run.manifest.update(status=status, error=WHY if state == "failed" else "", request=full.manifest["request"], model=model)
    store.save(run.manifest, run.trace)
    if state == "broken":
        next((store.folder / run.id).glob("*.npz")).write_bytes(b"no archive")
    if state == "torn":
        (store.folder / run.id / "manifest.json").write_text('{"id": ')
    return run.id


def sweep(state: str, run: str, folder: Path) -> None:
    """A sweep whose points lead to the run. Of a partial one half of the points are measured, of a broken one the table is none."""
    points, samples = fake_sweep.sweep(("niah",), (256,))
    points = points.head(len(points) // 2) if state == "partial" else points
    fake_sweep.write(folder, points.assign(run=run), samples)
    if state == "broken":
        (folder / "points.csv").write_text("\x00")


def said(at: AppTest) -> str:
    """All words of the page, those that components draw among them."""
    return " ".join([html(at), *(part.proto.json for part in at.get("bidi_component")), *(button.label for button in at.button)])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("page", SAYS)
def test_every_page_opens_in_every_state(page: str, state: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))
    monkeypatch.setenv("KVLAB_MODEL", model)
    service.clear()  # it holds the store of an earlier folder
    run = stored(state, RunStore(), model)
    if page == "tradeoffs":
        monkeypatch.setattr(sweeps, "DATA", tmp_path / "data")
        if state != "none":
            sweep(state, run, tmp_path / "sweeps" / "made")
    full = next((path.name for path in (tmp_path / "runs").glob("[0-9a-f]*") if path.name not in (run, GONE)), "")
    link = {"compare": {"cmp": f"{full},{run}"}}.get(page, {"run": run} | ({"job": "nothing", "again": "nothing"} if state == "gone" else {})) if run else {}
    at = page_alone(f"{page}.py", **link, **(LINKS.get(page, {}) if state == "gone" else {}))
    wanted = SAYS[page].get(state, SAYS[page][""])
    assert re.search(wanted, said(at), re.DOTALL), (wanted, re.sub(r"<style>.*?</style>", "", said(at), flags=re.DOTALL)[:3000])
    if page == "library" and state in SHOWN:
        rows = {row["id"]: row for row in json.loads(at.get("bidi_component")[0].proto.json)["rows"]}
        assert SHOWN[state] in rows[run]["said"]
