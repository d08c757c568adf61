"""The Library in a real browser: ticking and the keyboard, links to the other pages, deleting, files out and a bundle in again, and a narrow screen."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from browser import settled
from fake_runs import fake
from playwright.sync_api import expect

from kvlab.runs import RunStore

pytestmark = pytest.mark.browser
HOSTILE = "![x](http://evil.test/a.png) <script>document.title='evil'</script><img src=http://evil.test/b.png onerror=alert(1)> $x$"
OWN = [f"{i:016x}" for i in (0xA1, 0xA2, 0xA3)]


@pytest.fixture
def store(runs_home: Path) -> RunStore:
    """Three runs of the server, hostile in all their words, that a search for "libraryrun" finds."""
    found, made = RunStore(runs_home / "runs"), fake("evict")
    for run in OWN:
        asked = {"prompt": f"libraryrun {HOSTILE}", "question": HOSTILE, "seed": 0, "temperature": 0.0}
        found.save({**made.manifest, "id": run, "text": HOSTILE, "model": HOSTILE, "title": f"Made {run[-2:]}", "request": asked}, made.trace)
    return found


def opened(page: Any, server: str) -> None:
    page.goto(f"{server}/library?lib_find=libraryrun&lib_from=own", wait_until="commit")
    expect(page.locator(".library .run")).to_have_count(len(OWN))
    settled(page)


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_runs_are_ticked_by_keyboard_compared_and_deleted_after_a_question(page: Any, server: str, store: RunStore) -> None:
    opened(page, server)
    expect(page.get_by_text("<script>").first).to_be_visible()  # hostile words are words
    ground = page.locator(".library .runs")
    for scheme, colour in (("dark", "rgb(22, 25, 28)"), ("light", "rgb(255, 255, 255)")):
        page.emulate_media(color_scheme=scheme)
        expect(ground).to_have_css("background-color", colour)
    for number, run in enumerate(OWN[:2], 1):
        page.get_by_role("checkbox", name=f"Choose Made {run[-2:]}").focus()
        page.keyboard.press("Space")
        page.get_by_text(f"{number} ticked").wait_for()
    link = page.get_by_role("link", name="Compare 2")
    expect(link).to_have_attribute("href", re.compile(f"cmp=({OWN[0]},{OWN[1]}|{OWN[1]},{OWN[0]})"))
    page.get_by_role("button", name=re.compile(f"Details: Made {OWN[0][-2:]}")).click()
    expect(page.locator("dd", has_text=OWN[0])).to_be_visible()
    page.locator(".st-key-library-delete").get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("Delete 2 runs for good?").wait_for()
    assert store.holds(OWN[0]), "asked first"
    page.get_by_role("button", name="Delete 2 runs").click()
    page.get_by_text("2 runs deleted.").wait_for()
    expect(page.locator(".library .run")).to_have_count(1)
    assert not store.holds(OWN[0]) and store.holds(OWN[2])
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelector('[data-testid=stMain]').scrollWidth <= 390")
    page.get_by_role("link", name=re.compile(f"Look inside: Made {OWN[2][-2:]}")).click()
    page.wait_for_url(re.compile(f"/inside\\?run={OWN[2]}"))
    page.locator(".inside .tok").first.wait_for()


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_a_bundle_goes_out_and_comes_in_again(page: Any, server: str, store: RunStore, tmp_path: Path) -> None:
    opened(page, server)
    before = store.load(OWN[0])
    page.get_by_role("checkbox", name=f"Choose Made {OWN[0][-2:]}").check()
    page.get_by_text("1 ticked").wait_for()
    with page.expect_download() as got:
        page.get_by_role("button", name="Bundle of 1 run").click()
    got.value.save_as(tmp_path / "runs.zip")
    assert f"{OWN[0]}/trace.npz" in zipfile.ZipFile(tmp_path / "runs.zip").namelist()
    page.get_by_role("button", name="Export", exact=True).click()
    with page.expect_download() as got:
        page.get_by_role("button", name="Report, one HTML page").click()
    got.value.save_as(tmp_path / "report.html")
    report = page.context.new_page()
    report.set_content((tmp_path / "report.html").read_text())
    report.get_by_role("heading", name=f"Run {OWN[0]}").wait_for()
    expect(report.locator("pre", has_text="<script>").last).to_be_visible()
    assert report.title() != "evil"
    report.close()
    store.delete(OWN[0])
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Import", exact=True).click()
    page.locator("input[type=file]").set_input_files(tmp_path / "runs.zip")
    page.get_by_text("1 run is in your list, ticked.").wait_for()
    again = store.load(OWN[0])
    assert again.manifest == before.manifest and again.trace.equal(before.trace)
