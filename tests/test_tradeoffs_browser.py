"""Trade-offs in a real browser: the figure is there, a choice is in the link, a click chooses a point, its link opens the run behind it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fake_sweep as fake
import pytest
from browser import settled
from fake_runs import fake as run_of
from playwright.sync_api import expect

from kvlab.runs import RunStore

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def swept(runs_home: Path) -> str:
    """A made-up sweep of the server; the run behind every SnapKV point is stored, behind the others none is."""
    run = run_of("evict")
    RunStore(runs_home / "runs").save(run.manifest, run.trace)
    points, samples = fake.sweep(("niah", "recall"), (256,))
    points.loc[points["method"] == "snapkv", "run"] = run.id
    return fake.write(runs_home / "sweeps" / "made", points, samples).name


@pytest.mark.parametrize("scheme", ["dark"], indirect=True)
def test_a_task_a_click_and_the_run_behind_a_point(page: Any, server: str, swept: str) -> None:
    page.goto(f"{server}/tradeoffs?sweep={swept}&methods=snapkv", wait_until="commit")
    figure = page.locator(".st-key-figure-quality")
    figure.locator(".scatterlayer .points path").first.wait_for(state="attached")
    settled(page)
    page.get_by_role("figure", name=re.compile("stepped front")).first.wait_for()  # the figure's sentence is its name
    ink = page.locator(".gtitle, .annotation-text", has_text="Score, %").first
    expect(ink).to_have_css("fill", "rgb(237, 239, 241)")
    page.get_by_role("combobox", name="Task").click()
    page.get_by_role("option", name="recall").click()
    page.wait_for_url(re.compile("task=recall"))
    settled(page)
    marks = figure.locator(".scatterlayer .trace:has(path[style*='rgb(109, 75, 195)'], path[style*='rgb(173, 149, 245)']) .points path")
    box = marks.last.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url(re.compile("point="))
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelector('[data-testid=stMain]').scrollWidth <= 390")
    page.get_by_role("link", name="Look inside this run").click()
    page.wait_for_url(re.compile(r"/inside\?run="))
    page.locator(".inside .tok").first.wait_for()
