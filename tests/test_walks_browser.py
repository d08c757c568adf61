"""Three people walk through the whole dashboard in a real browser: one who studies methods, one who teaches, one who deploys."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import fake_sweep
import pandas as pd
import pytest
from browser import settled, visit
from playwright.sync_api import expect

from kvlab.lessons import lessons
from kvlab.runs import RunStore

pytestmark = pytest.mark.browser
TEXT = "The code of the green falcon is 2916. The code of the silver ribbon is 8644. Hugo left the blue orchid in the park. " * 2
PRESS = """(lesson, key) => { dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true, composed: true }));
  return [lesson.querySelector('.count').textContent, lesson.querySelector('h1').textContent, !!lesson.querySelector('.reveal').textContent]; }"""
"""Press a key and look at once: what is on screen before the browser did anything else needed no server."""


class Hands:
    """Counts what a visitor does."""

    def __init__(self) -> None:
        self.done = 0

    def click(self, what: Any) -> None:
        self.done += 1
        what.click()

    def upload(self, what: Any, path: Path) -> None:
        self.done += 1
        what.set_input_files(path)


def saved(page: Any, button: str, folder: Path) -> bytes:
    """What a button of this name downloads."""
    with page.expect_download() as got:
        page.get_by_role("button", name=button).click()
    got.value.save_as(folder / "file")
    return (folder / "file").read_bytes()


def at_start(page: Any, server: str) -> None:
    """A cold tab."""
    page.goto(server, wait_until="commit")
    page.locator(".preset canvas").first.wait_for()
    settled(page)


@pytest.fixture
def scheme() -> str:
    return "light"


@pytest.fixture(scope="module")
def swept(runs_home: Path) -> str:
    """A made-up sweep of the server in which some settings meet a low floor."""
    return fake_sweep.write(runs_home / "sweeps" / "walked", *fake_sweep.sweep(("niah",), (256,))).name


def test_a_researcher_comes_from_a_cold_tab_to_a_pair_to_a_point_to_files(page: Any, server: str, runs_home: Path, swept: str, tmp_path: Path) -> None:
    """Start, Run with an upload and two methods, Compare in at most six interactions, a point of Trade-offs and its run, CSV, JSON, HTML, PNG and a bundle."""
    prompt = tmp_path / "falcons.txt"
    prompt.write_text(TEXT)
    at_start(page, server)
    hands = Hands()
    hands.click(page.get_by_role("link", name="Run", exact=True))
    page.get_by_role("heading", name="Run", exact=True).wait_for()
    settled(page)
    hands.click(page.get_by_role("radio", name="Upload"))
    settled(page)
    hands.upload(page.locator("input[type=file]"), prompt)
    page.locator(".st-key-prompt-preview", has_text="green falcon").wait_for()
    settled(page)
    hands.click(page.locator("[data-testid=stButtonGroup] button", has_text="KIVI").first)
    page.locator("article.planned >> nth=2").wait_for()
    settled(page)
    hands.click(page.locator(".st-key-do-run button"))
    compare = page.get_by_role("link", name="Compare these 3 runs")
    compare.wait_for()
    page.wait_for_function("location.search.includes('run=')")  # the finished runs are in the address: nothing more is to come
    settled(page)
    hands.click(compare)
    page.locator(".column-card >> nth=1").wait_for()
    assert hands.done <= 6, "a first compared pair"
    settled(page)
    assert sorted(page.locator("h3.run-name").all_inner_texts())[-2:] == ["KIVI", "SnapKV"]
    runs = re.search(r"cmp=([0-9a-f,]+)", page.url)[1].split(",")
    store = RunStore(runs_home / "runs")
    kept = {store.load(run).manifest["method"]: run for run in runs}
    assert set(kept) == {"full", "snapkv", "kivi"}

    table = fake_sweep.sweep(("niah",), (256,))  # every point of the sweep is now traced to what was just run
    fake_sweep.write(runs_home / "sweeps" / swept, table[0].assign(run=kept["snapkv"]), table[1])
    page.get_by_role("link", name="Trade-offs", exact=True).click()
    page.get_by_role("heading", name="Trade-offs").or_(page.locator(".st-key-trade-bar")).first.wait_for()
    page.goto(f"{server}/tradeoffs?sweep={swept}&methods=snapkv", wait_until="commit")
    figure = page.locator(".st-key-figure-quality")
    marks = figure.locator(".scatterlayer .points path")
    marks.first.wait_for(state="attached")
    settled(page)
    box = marks.last.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url(re.compile("point="))
    settled(page)
    page.get_by_role("button", name="Picture", exact=True).click()
    page.get_by_text("Picture to save").click()
    page.keyboard.press("Escape")
    picture = page.locator(".st-key-card-picture")
    picture.locator(".main-svg").first.wait_for()
    settled(page)
    picture.hover()
    with page.expect_download() as got:
        picture.locator(".modebar-btn").first.click()
    got.value.save_as(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    page.get_by_role("link", name="Look inside this run").click()
    page.wait_for_url(re.compile(f"/inside\\?run={kept['snapkv']}"))
    page.locator(".inside .tok").first.wait_for()

    page.goto(f"{server}/library?lib_find=green falcon&lib_from=own", wait_until="commit")
    for run in runs:
        page.locator(f"[data-run='{run}'] input").check()
    page.get_by_text("3 ticked").wait_for()
    settled(page)
    bundle = zipfile.ZipFile(io.BytesIO(saved(page, "Bundle of 3 runs", tmp_path)))
    assert {f"{run}/manifest.json" for run in runs} <= set(bundle.namelist())
    page.get_by_role("button", name="Export", exact=True).click()
    rows = pd.read_csv(io.BytesIO(saved(page, "Runs, CSV", tmp_path)), comment="#")
    assert set(runs) <= set(rows["run"])
    said = json.loads(saved(page, "All as JSON", tmp_path))
    assert {run["id"] for run in said["runs"]} == set(runs) and "torch" in said["versions"]
    assert all("python -m kvlab run" in run["command"] for run in said["runs"])
    report = saved(page, "Report, one HTML page", tmp_path).decode()
    assert all(run in report for run in runs) and not re.search(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)\s*=", report)


def test_a_teacher_gives_a_whole_lesson_from_stored_runs_at_the_back_row(page: Any, server: str, browser: Any) -> None:
    """Start, Lessons, Present at 1280 x 720: every step is in the browser before its key is pressed, no key opens a dialog, a link is its step."""
    page.set_viewport_size({"width": 1280, "height": 720})
    at_start(page, server)
    page.get_by_role("link", name=re.compile("Teach it")).click()
    lesson = next(one for one in lessons() if one.id == "sinks")
    page.locator(".kv-lessons").get_by_role("link", name=lesson.title).click()
    page.locator(".lesson footer .act.main").wait_for()
    page.locator(".lesson").get_by_role("link", name="Present", exact=True).click()
    page.wait_for_url(re.compile("present=1"))
    page.locator(".lesson.present").wait_for()
    settled(page)
    page.context.set_offline(True)  # nothing more can be fetched; nothing has to be
    steps = len(lesson.steps)
    for number, step in enumerate(lesson.steps, 1):
        assert page.locator(".lesson .count").inner_text() == f"{number} of {steps}"
        if step.question:
            assert page.locator(".lesson").evaluate(PRESS, " ") == [f"{number} of {steps}", step.title, True], "the result shows at once"
        assert page.locator(".lesson .stage svg, .lesson .passage").first.is_visible()
        for key in ("r", "c", "Escape", "f", "?", "x"):
            page.keyboard.press(key)
        if number < steps:
            after = page.locator(".lesson").evaluate(PRESS, "PageDown")
            assert after[:2] == [f"{number + 1} of {steps}", lesson.steps[number].title], "the next step shows at once"
    assert page.get_by_role("dialog").count() == 0 and page.locator(".lesson").is_visible()
    page.context.set_offline(False)
    page.keyboard.press("PageUp")
    page.wait_for_url(re.compile(f"step={steps - 1}"))
    settled(page)
    with visit(browser, "light") as student:
        student.goto(page.url.replace("&present=1", ""), wait_until="commit")
        student.get_by_role("heading", name=lesson.steps[steps - 2].title).wait_for()
        assert student.locator(".lesson .count").inner_text() == f"{steps - 1} of {steps}"
    inside = page.locator(".lesson").get_by_role("link", name="Open this in Look inside")
    while not inside.count():
        page.keyboard.press("PageUp")
    address = inside.get_attribute("href")
    inside.click()
    page.wait_for_url(f"**/{address}*")
    page.locator(".inside .tok").first.wait_for()
    settled(page)
    step = re.search(r"step=(\d+)", address)
    expect(page.get_by_role("slider", name="Step of the answer")).to_have_attribute("aria-valuenow", step[1] if step else "0")
    page.go_back()
    page.locator(".lesson.present").wait_for()


def test_an_engineer_gets_a_setting_with_its_formulas_evidence_and_limits(page: Any, server: str, swept: str) -> None:
    """Start, Plan, the settings block, Trade-offs: every byte figure unfolds, errors are shown, no score is carried over to a model nobody measured."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    at_start(page, server)
    page.get_by_role("link", name=re.compile("Choose a setting")).click()
    page.locator(".kv-pl-row >> nth=1").wait_for()
    settled(page)
    users = page.get_by_label("Users at once")
    users.fill("20")
    users.press("Enter")
    page.wait_for_url(re.compile("users=20"))
    page.get_by_text("at 20 users").first.wait_for()
    settled(page)
    rows = page.locator(".kv-pl-row:not(.kv-pl-top)")
    page.get_by_text("Show every formula").click()
    page.wait_for_url(re.compile("formulas="))
    settled(page)
    assert rows.count() > 2
    for row in rows.all():
        names = row.locator(".kv-how[open] dt").all_inner_texts()
        assert {"Weights", "Cache", "Workspace", "Total"} <= set(names)
        said = row.locator(".kv-how[open] dd").all_inner_texts()
        assert all(re.search(r"\d.*=.*\d", text.replace("\n", " ")) for text in said[:2]), "numbers, not names alone"
    errors = page.locator(".st-key-card-plan-errors")
    errors.locator(".js-plotly-plot").wait_for()
    expect(errors).to_contain_text(re.compile(r"\d+ of \d+|%"))  # how far, over how many measured
    expect(page.locator(".st-key-card-plan-list")).to_contain_text("scores are not carried over")
    expect(page.locator(".kv-pl-table")).to_contain_text("not on this one")
    command = page.locator(".st-key-card-plan-command")
    text = command.locator("code").inner_text()
    command.hover()
    command.get_by_role("button", name=re.compile("Copy", re.IGNORECASE)).first.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.split() == text.split() and copied.startswith("python -m kvlab")
    context = page.get_by_label("Context, tokens")
    context.fill("4000000")
    context.press("Enter")
    page.get_by_text(re.compile(r"was made for [\d,]+ positions; 4,000,000 are asked for")).first.wait_for()
    settled(page)
    page.locator(".kv-pl-table").get_by_role("link", name="Trade-offs").first.click()
    page.wait_for_url(re.compile(r"/tradeoffs\?.*point="))
    page.locator(".kv-pt-head").wait_for()
