"""The Start page in a real browser: maps in the theme's colours, ways that lead where they say, help that closes."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from browser import settled

from kvlab.presets import presets

pytestmark = pytest.mark.browser
APART = """(canvas, blue) => { const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); let best = 255;
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) best = Math.min(best, Math.max(...blue.map((part, k) => Math.abs(part - data[i + k]))));
  return best; }"""
"""How far the nearest pixel of a canvas is from a colour."""
LIGHT = pytest.mark.parametrize("scheme", ["light"], indirect=True)


def start(page: Any, server: str) -> None:
    """Open the page and wait until its last card has its map."""
    page.goto(server, wait_until="commit")
    page.get_by_role("link", name="Look inside").first.wait_for()
    page.locator(".preset canvas").nth(len(presets()) - 1).wait_for()
    settled(page)


@LIGHT
def test_maps_are_drawn_and_open_leads_into_the_run(page: Any, server: str) -> None:
    """The canvas takes its colours from the theme, also when that changes; the way into a stored run works without a model: only a browser shows both."""
    start(page, server)
    for scheme, blue in (("light", (36, 104, 176)), ("dark", (103, 171, 238))):  # held entries are drawn in the theme's blue
        page.emulate_media(color_scheme=scheme)
        end = time.monotonic() + 30
        while (apart := page.locator(".preset canvas").first.evaluate(APART, blue)) >= 4 and time.monotonic() < end:
            page.wait_for_timeout(100)
        assert apart < 4, scheme
    assert page.locator(".field svg polygon, .field svg circle").count() > 0
    way = page.get_by_role("link", name=f"Open: {presets()[0]['title']}")
    run = re.search(r"run=([0-9a-f]{16})", way.get_attribute("href"))[1]
    way.click()
    page.wait_for_url(re.compile(f"/inside\\?run={run}"))
    page.locator(".inside .tok").first.wait_for()


@LIGHT
def test_run_again_fills_the_form_and_the_session_lists_nothing_yet(page: Any, server: str) -> None:
    """A link with a preset, followed in the browser, reaches the form of the same session."""
    start(page, server)
    page.get_by_text("This session has run nothing yet.").wait_for()
    chosen = presets()[2]
    page.get_by_role("link", name=f"Run again here: {chosen['title']}").click()
    page.wait_for_url(re.compile(f"/run\\?preset={chosen['id']}"))
    question = page.get_by_label("Question", exact=True)
    question.wait_for()
    page.wait_for_function("([node, text]) => node.value === text", arg=[question.element_handle(), chosen["question"]])
    settled(page)
    page.get_by_role("button", name=re.compile("^Run")).wait_for()


@LIGHT
def test_the_introduction_closes_and_stays_closed(page: Any, server: str) -> None:
    """What a visitor closed lives in the browser: a reload, which is a new session, must not bring it back."""
    start(page, server)
    page.get_by_text("New here?").wait_for()
    page.get_by_role("button", name="Close").click()
    page.get_by_text("New here?").wait_for(state="hidden")
    start(page, server)
    again = page.get_by_role("button", name="What is this?")
    again.wait_for()
    assert not page.get_by_text("New here?").is_visible()
    again.press("Enter")
    page.get_by_text("New here?").wait_for()
