"""Compare in a real browser: one scrubber without Python, one token lit everywhere, a reference pinned by a click, hidden names, hostile text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import WAIT, settled
from compare_runs import WORDS, saying
from fake_runs import fake
from test_inside import HOSTILE

from kvlab.runs import RunStore, StoredRun

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("scheme", ["light"], indirect=True)]
EIGHT = [*WORDS, " and", " more"]
OTHER = [" VAR", " cup", *EIGHT[2:]]


@pytest.fixture(scope="module")
def stored(runs_home: Any) -> dict[str, StoredRun]:
    """Made runs in the server's store: the full cache, one that answers alike, one that differs at step 1, one with fewer bits, one with hostile text."""
    made = {
        "full": saying(EIGHT, "full", "Full cache"), "alike": saying(EIGHT, "same", "Alike"), "lost": saying(OTHER, "evict", "Lost", kl=2.0),
        "bits": saying(EIGHT, "bits", "Bits"),
    }  # fmt: skip
    for number, name in enumerate(("hostile", "hostile full")):
        run = saying([" <script>alert(1)</script>", f" {number}"], "full" if number else "same", HOSTILE[0])
        prompt = fake("evict", pieces=HOSTILE + [" a"] * (run.trace.prompt - len(HOSTILE))).manifest["pieces"][: run.trace.asked]
        run.manifest["pieces"] = [*prompt, *run.manifest["pieces"][run.trace.asked :]]
        run.manifest["request"]["prompt"] = "hostile"
        made[name] = run
    store = RunStore(runs_home / "runs")
    for run in made.values():
        store.save(run.manifest, run.trace)
    return made


def look(page: Any, server: str, runs: list[StoredRun], more: str = "") -> None:
    """Open the page of these runs and wait until all columns are drawn."""
    page.goto(f"{server}/compare?cmp={','.join(run.id for run in runs)}{more}", wait_until="commit")
    page.get_by_role("link", name="Compare").first.wait_for()
    page.locator(".compare .tok").first.wait_for()
    settled(page)


def columns(page: Any) -> list[str]:
    return page.locator("h3.run-name").all_inner_texts()


def test_one_scrubber_moves_all_maps_and_python_hears_of_the_release(page: Any, server: str, stored: dict[str, StoredRun]) -> None:
    shown = [stored[name] for name in ("alike", "lost", "bits")]
    look(page, server, [stored["full"], *shown], "&step=0")
    rail = page.get_by_role("slider", name="Step of the answer")
    rail.focus()
    said = lambda: page.locator(".pool canvas").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")  # noqa: E731
    held = lambda step: [f"{run.manifest['title']}: {int(run.trace.held(step).sum()):,} of" for run in shown]  # noqa: E731
    for key, step in (("ArrowRight", 1), ("End", 7), ("ArrowLeft", 6), ("ArrowLeft", 5), ("Home", 0), ("End", 7), ("ArrowLeft", 6)):
        page.keyboard.down(key)
        assert rail.get_attribute("aria-valuenow") == str(step)
        assert [text.split(" of ")[0] + " of" for text in said()] == held(step), "stepping back and forth counts what a fresh count would"
    assert "step=0" in page.url, "the link is written on release"
    page.keyboard.up(key)
    page.wait_for_url(re.compile("step=6"))


def test_a_token_lights_up_in_all_columns_and_the_link_restores_it(page: Any, server: str, stored: dict[str, StoredRun]) -> None:
    look(page, server, [stored["full"], stored["alike"], stored["lost"]], "&step=1")
    token = page.locator(".compare .tok[data-p='35']")
    token.hover()
    page.locator(".map-says").first.get_by_text("“2” held by").wait_for()
    assert page.locator(".map-says").get_by_text("“2” held by").count() == 2 and page.locator(".line:not(.locked):visible").count() == 2
    page.locator(".word", has_text="525170").first.hover()
    page.locator(".word.lit").nth(1).wait_for()
    assert page.locator(".word.lit").all_inner_texts() == ["525170", "525170"]
    token.click()
    page.wait_for_url(re.compile("tok=35"))
    fresh = page.context.new_page()
    fresh.set_default_timeout(WAIT)
    fresh.goto(page.url, wait_until="commit")
    fresh.locator(".tok.locked[data-p='35']").wait_for()
    assert "“2916” held" in fresh.locator(".facts").first.inner_text() and fresh.locator(".line.locked:visible").count() == 2


def test_the_diff_says_what_differs_and_one_click_pins_another_reference(page: Any, server: str, stored: dict[str, StoredRun]) -> None:
    look(page, server, [stored["full"], stored["alike"], stored["lost"]], "&step=4")
    lost = page.locator(".column-card", has=page.get_by_role("heading", name="Lost"))
    assert lost.locator("del").all_inner_texts() == ["\u2212pen"] and lost.locator("ins").all_inner_texts() == ["+cup"]
    assert lost.locator(".diamond").count() == 1 and page.locator(".diamond").count() == 1
    lost.get_by_role("button", name="◆ step 1").click()
    page.wait_for_url(re.compile("step=1"))
    page.get_by_role("link", name="Pin as reference: Lost").click()
    page.get_by_text("this is the reference").wait_for()
    settled(page)
    assert page.locator(".corner h2").inner_text() == "Lost writes" and columns(page) == ["Full cache", "Alike", "Lost"]
    assert page.locator("ins").all_inner_texts() == ["+pen", "+pen"]
    page.locator(".meet[aria-pressed='false']").first.click()
    page.locator(".pair-says", has_text="one of them kept everything").wait_for()


def test_names_are_hidden_and_revealed_where_they_stand(page: Any, server: str, stored: dict[str, StoredRun]) -> None:
    runs = [stored[name] for name in ("full", "alike", "lost", "bits")]
    look(page, server, runs, "&blind=3")
    text = page.locator("[data-testid='stMain']").inner_text()
    assert columns(page) == ["Run A", "Run B", "Run C"] and not any(run.manifest["title"] in text for run in runs[1:])
    answers = page.locator(".answer").all_inner_texts()
    page.get_by_role("button", name="Reveal names").click()
    page.get_by_role("button", name="Hide names").wait_for()
    page.get_by_role("heading", name="Alike").wait_for()
    assert sorted(columns(page)) == ["Alike", "Bits", "Lost"] and page.locator(".answer").all_inner_texts() == answers


def test_hostile_text_and_a_narrow_screen(page: Any, server: str, stored: dict[str, StoredRun]) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    look(page, server, [stored["hostile"], stored["hostile full"]])
    assert "<script>alert(1)</script>" in page.locator(".answer").first.inner_text() and "U+202E" in page.locator(".text").inner_text()
    assert page.locator(".compare img, .compare script").count() == 0
    assert page.evaluate("document.querySelector(\"[data-testid='stMain']\").scrollWidth") <= 390
    page.get_by_text("Show as table").click()
    page.get_by_text("Overlap by layer").wait_for()
    settled(page)
    assert page.evaluate("document.querySelector(\"[data-testid='stMain']\").scrollWidth") <= 390
    page.goto(f"{server}/compare", wait_until="commit")
    page.locator(".column-card").nth(1).wait_for()  # a preset, without being asked for one
    page.get_by_role("button", name="Other prompts").click()
    page.locator(".kv-offer", has_text="Compare 2 runs").first.click()
    page.wait_for_url(re.compile("cmp="))
    page.locator(".column-card").first.wait_for()
