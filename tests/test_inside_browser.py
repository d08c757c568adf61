"""Look inside in a real browser: scrubbing without Python, one selection in all parts, links, themes, a narrow screen, hostile text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from browser import settled
from fake_runs import fake
from test_inside import HOSTILE

from kvlab.runs import RunStore

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def stored(runs_home: Path) -> dict[str, str]:
    """Kind of made run -> its id in the server's store."""
    store, ids = RunStore(runs_home / "runs"), {}
    for kind in ("evict", "read", "merge"):
        run = fake(kind)
        ids[kind] = store.save(run.manifest, run.trace)
    for name, run in {"long": fake("evict", long=30), "hostile": fake("evict", pieces=HOSTILE + [" a"] * 12)}.items():
        run.manifest["id"] = f"{len(name):x}" * 16
        ids[name] = store.save(run.manifest, run.trace)
    return ids


def look(page: Any, server: str, run: str, **params: Any) -> None:
    """Open the page of a run and wait until the component has drawn."""
    page.goto(f"{server}/inside?" + "&".join(f"{k}={v}" for k, v in {"run": run, **params}.items()), wait_until="commit")
    page.get_by_role("link", name="Look inside").wait_for()  # our own navigation, on a server that nobody has visited yet too
    page.locator(".inside .tok").first.wait_for()
    settled(page)


def params(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


def test_scrubbing_stays_in_the_browser_until_release(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"], step=1)
    rail = page.get_by_role("slider", name="Step of the answer")
    assert rail.get_attribute("aria-valuenow") == "1" and "Missing attention" in rail.get_attribute("aria-valuetext")
    rail.focus()
    page.keyboard.down("ArrowRight")
    page.keyboard.down("ArrowRight")
    assert rail.get_attribute("aria-valuenow") == "3"
    page.wait_for_timeout(600)
    assert params(page)["step"] == "1", "the link is written on release, not while a key is down"
    page.keyboard.up("ArrowRight")
    page.wait_for_url(re.compile("step=3"))
    page.keyboard.press("End")
    page.wait_for_url(re.compile("step=7"))
    page.keyboard.press("PageDown")  # as in every slider: up is more
    page.wait_for_url(re.compile("step=0"))


def test_one_selection_lights_up_everywhere_and_the_link_restores_it(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"], step=2)
    token = page.locator(".tok[data-p='35']")
    token.hover()
    assert "hovered" in token.get_attribute("class") and page.locator(".column:not(.locked)").is_visible()
    assert "“2”" in page.locator(".map .sub").first.inner_text()
    before = page.url
    token.click()
    page.wait_for_url(re.compile("tok=35"))
    assert page.url != before and "Locked token" in page.locator(".token h2").inner_text()
    page.get_by_role("radio", name=re.compile("L1 · H1")).click()
    page.wait_for_url(re.compile("L=1&H=1"))
    assert "evicted at step 0" in page.locator(".token dl").inner_text()
    page.locator(".tok[data-p='38']").click(modifiers=["Shift"])
    page.wait_for_url(re.compile("tok=35-38"))
    assert "2916" in page.locator(".span h2").inner_text().replace(" ", "")
    link = page.url
    fresh = page.context.new_page()
    fresh.set_default_timeout(120_000)
    fresh.goto(link, wait_until="commit")
    fresh.locator(".tok.locked[data-p='35']").wait_for()
    assert fresh.get_by_role("radio", checked=True).get_attribute("data-r") == "3"
    assert fresh.get_by_role("slider", name="Step of the answer").get_attribute("aria-valuenow") == "2"


def test_kinds_of_loss_are_said_in_words(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["read"])
    assert "held, not read" in page.locator(".balance").inner_text() and "attention not read" in page.locator(".heads .sub").inner_text()
    look(page, server, stored["merge"])
    assert "merged away" in page.locator(".balance").inner_text() and "merged into" in page.locator(".token dl").inner_text()


def test_long_text_is_folded_and_opens(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["long"])
    assert page.locator(".tok").count() < 600 and page.locator(".mini").is_visible()
    first = page.locator(".gap").first
    shown = page.locator(".tok").count()
    first.click()
    assert page.locator(".tok").count() > shown


def test_hostile_text_is_shown_as_text(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["hostile"])
    text = page.locator(".text").inner_text()
    assert "<img src=x onerror=alert(1)>" in text and "![x](http://example.invalid/a.png)" in text and "U+202E" in text and "␇" in text
    assert page.locator(".text img, .text script").count() == 0


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_narrow_screen_never_scrolls_sideways(page: Any, server: str, stored: dict[str, str]) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for kind in ("evict", "long"):
        look(page, server, stored[kind])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.querySelector(\"[data-testid='stMain']\").scrollWidth") <= 390


def test_theme_reaches_the_canvas(page: Any, server: str, stored: dict[str, str], scheme: str) -> None:
    look(page, server, stored["evict"])
    ink = page.locator(".probes i").first.evaluate("node => getComputedStyle(node).color")
    assert ink == {"light": "rgb(22, 24, 27)", "dark": "rgb(237, 239, 241)"}[scheme]
    blue = {"light": "36,104,176", "dark": "103,171,238"}[scheme]
    found = page.locator(".cells").first.evaluate(
        """(canvas) => { const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height); const seen = new Set();
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 90) seen.add([data[i], data[i + 1], data[i + 2]].join()); return [...seen]; }"""
    )
    near = [c for c in found if max(abs(int(a) - int(b)) for a, b in zip(c.split(","), blue.split(","), strict=True)) < 4]
    assert near, "held entries are drawn in the theme's blue"
