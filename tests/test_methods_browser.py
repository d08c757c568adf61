"""Methods in a real browser: one step moves every map, a filter is in the link, a card opens and plays, and Try it fills the form of Run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from browser import settled
from playwright.sync_api import expect

from kvlab import toy
from kvlab.registry import registry

pytestmark = [pytest.mark.browser, pytest.mark.parametrize("scheme", ["light"], indirect=True)]
MANY = str(len(registry()))


def painted(canvas: Any) -> str:
    return canvas.evaluate("canvas => canvas.toDataURL()")


def test_the_field_steps_sifts_and_leads_to_a_card(page: Any, server: str) -> None:
    page.goto(f"{server}/methods", wait_until="commit")
    page.get_by_text(f"{MANY} methods", exact=True).wait_for()
    settled(page)
    assert page.locator(".mini").count() == len(registry())
    rail = page.get_by_role("slider")
    canvas = page.locator(".mini", has_text="TOVA").locator("canvas")
    last = painted(canvas)
    rail.focus()
    rail.press("Home")
    expect(rail).to_have_attribute("aria-valuenow", "0")
    assert painted(canvas) != last
    rail.press("End")
    expect(rail).to_have_attribute("aria-valuenow", str(toy.STEPS))
    assert painted(canvas) == last
    page.get_by_label("Find a method by name, author or word").fill("xiao streamingllm")
    page.get_by_text(f"1 of {MANY} methods", exact=True).wait_for()
    page.wait_for_url(re.compile("q=xiao"))
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelector('[data-testid=stMain]').scrollWidth <= 390")
    page.locator(".mini:not(.off)").click()
    page.wait_for_url(re.compile(r"methods\?m=streamingllm"))
    page.locator(".entries").wait_for()


def test_a_link_restores_a_filter(page: Any, server: str) -> None:
    page.goto(f"{server}/methods?axis=merging", wait_until="commit")
    count = sum(kind.axis == "merging" for kind in registry().values())
    page.get_by_text(f"{count} of {MANY} methods", exact=True).wait_for()
    assert page.locator(".mini:not(.off)").count() == count


def test_a_card_plays_its_toy_and_try_it_fills_the_form(page: Any, server: str) -> None:
    page.goto(f"{server}/methods?m=tova", wait_until="commit")
    rail = page.get_by_role("slider", name="Step of the text that is written")
    rail.wait_for()
    page.get_by_role("link", name="Try it").wait_for()
    settled(page)
    one = toy.of("tova")
    rail.focus()
    for step in (2, 3):
        rail.press("ArrowRight")
        held = int((one.kind[step] == toy.HELD).sum())
        page.get_by_role("img", name=re.compile(rf"at step {step}: {held} of .* entries held")).wait_for()
    page.get_by_role("button", name="Play the steps").click()
    expect(rail).to_have_attribute("aria-valuenow", str(toy.STEPS))
    page.get_by_role("link", name="Try it").click()
    page.wait_for_url(re.compile(r"/run\?methods=tova"))
    chosen = page.get_by_role("button", name="TOVA", exact=False).and_(page.locator("[aria-pressed='true'], [aria-checked='true']"))
    chosen.first.wait_for()
