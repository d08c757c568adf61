"""The Run page in a browser: tokens arrive, Cancel keeps a part, a reload finds the job again, strangers' text stays text."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import settled
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

TEXT = (
    "Nobody had seen the cold puzzle in the shed. The code of the green falcon is 2916. It was a busy morning near the shed. "
    "The code of the silver ribbon is 8644. Hugo left the blue orchid in the park. "
)
PATIENCE = 300_000  # milliseconds: a run on a machine that is busy with other things
QUESTION = "Question: What is the code of the green falcon?\nAnswer: The code of the green falcon is"
HOSTILE = (
    "![x](http://evil.test/a.png) <script>window.bad=1</script><img src=x onerror='window.bad=1'> $\\frac{1}{2}$ "
    "\u202eright to left\u202c :material/home: "
)


def opened(page: Any, address: str) -> Any:
    page.goto(address + "/run")
    page.get_by_role("heading", name="Run", exact=True).wait_for()
    settled(page)
    return page


def write(page: Any, text: str, question: str = "") -> None:
    page.get_by_role("radio", name="Write").click()
    settled(page)
    box = page.get_by_role("textbox", name="Text", exact=True)
    box.fill(text)
    box.press("Tab")
    settled(page)
    box = page.get_by_role("textbox", name="Question")
    box.fill(question)
    box.press("Tab")
    settled(page)


def choose(page: Any, *names: str) -> None:
    """Exactly these methods; what is right already is left alone."""
    pills = page.locator("[data-testid='stButtonGroup'] button[aria-pressed]")
    pressed = page.locator("[data-testid='stButtonGroup'] button[aria-pressed='true']")
    while other := [text for text in pressed.all_inner_texts() if not any(name in text for name in names)]:
        pressed.filter(has_text=other[0]).first.click()
        settled(page)
        expect(pressed.filter(has_text=other[0])).to_have_count(0)
    for name in names:
        pill, more = pills.filter(has_text=name).first, pills.filter(has_text=re.compile(r"^\s*\+ \d+")).first
        while not pill.count():  # folded behind "+ 9"
            folded = pills.count()
            more.click()
            pills.nth(folded).wait_for()
        if pill.get_attribute("aria-pressed") == "false":
            pill.click()
            settled(page)
        expect(pill).to_have_attribute("aria-pressed", "true")


def new_tokens(page: Any, count: int) -> None:
    box = page.get_by_label("New tokens")
    if not box.is_visible():
        page.get_by_text("Generation", exact=True).click()
    box.wait_for()
    box.fill(str(count))
    box.press("Enter")
    settled(page)


def run(page: Any) -> None:
    page.locator(".st-key-do-run button").click()


def lanes(page: Any, state: str) -> Any:
    return page.locator(f"article.{state}")


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_own_prompt_under_two_methods_then_look_inside(page, server):
    opened(page, server)
    write(page, TEXT, QUESTION)
    choose(page, "SnapKV", "KIVI")
    new_tokens(page, 6)
    lanes(page, "planned").nth(2).wait_for()
    run(page)
    page.locator("article.done >> nth=2").wait_for(timeout=PATIENCE)
    page.wait_for_function("location.search.includes('run=')")  # the finished runs are in the address: nothing more is to come
    settled(page)
    for lane in lanes(page, "done").all():
        assert 1 <= lane.locator(".text > span").count() <= 6  # a model that has answered stops
        said = lane.inner_text()
        assert all(word in said for word in ("nominal", "predicted", "held by tensors, measured", "peak", "entries kept"))
    page.locator("article svg.chart[aria-label*='bytes held'] >> nth=2").wait_for()
    link = lanes(page, "done").nth(1).get_by_role("link", name="Look inside")
    address = link.get_attribute("href")
    link.click()
    page.wait_for_url(f"**/{address}*")
    page.locator(".inside .tok").first.wait_for()
    settled(page)
    page.go_back()
    page.locator("article.done >> nth=2").wait_for()
    page.wait_for_function("location.search.includes('job=') && !location.pathname.includes('inside')")
    expect(page.get_by_role("textbox", name="Question")).to_have_value(QUESTION)


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_cancel_keeps_a_part_and_a_reload_finds_the_job(page, server, endless):
    opened(page, server)
    box = page.get_by_role("combobox", name="Model")
    box.fill(str(endless))
    box.press("Enter")
    page.get_by_text("1 layers, ").wait_for()
    write(page, TEXT, QUESTION)
    choose(page, "SnapKV")
    new_tokens(page, 1024)
    run(page)
    page.locator("article.running .text > span >> nth=2").wait_for(timeout=PATIENCE)
    page.wait_for_function("location.search.includes('job=')")
    page.reload()
    page.get_by_role("heading", name="Run", exact=True).wait_for()
    page.locator("article.running .text > span >> nth=2").wait_for(timeout=PATIENCE)
    expect(page.get_by_role("textbox", name="Question")).to_have_value(QUESTION)
    page.locator(".st-key-do-cancel button").click()
    lanes(page, "stopped").nth(1).wait_for(timeout=PATIENCE)
    lanes(page, "stopped").filter(has_text="stopped at token").get_by_role("link", name="Look inside").wait_for()
    lanes(page, "stopped").filter(has_text="cancelled before it began").wait_for()
    expect(page.locator(".st-key-do-run button")).to_be_enabled()
    expect(page.locator(".st-key-do-cancel button")).to_be_disabled()
    page.get_by_role("link", name="Library", exact=True).click()
    page.locator(".library .run", has_text="partial, stopped after").first.wait_for()


@pytest.mark.parametrize("scheme", ["dark"], indirect=True)
def test_a_hostile_prompt_stays_text(page, server):
    opened(page, server)
    write(page, HOSTILE + TEXT, HOSTILE)
    choose(page, "SnapKV")
    new_tokens(page, 3)
    run(page)
    page.locator("article.done >> nth=1").wait_for(timeout=PATIENCE)
    page.wait_for_function("location.search.includes('run=')")
    settled(page)
    assert page.evaluate("window.bad") is None
    assert page.locator("[data-testid='stApp'] img[src*='evil'], [data-testid='stApp'] .katex").count() == 0
    write(page, "one\x00two")
    page.get_by_text("NUL character at place 4").first.wait_for()
