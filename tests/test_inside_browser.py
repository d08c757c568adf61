"""Look inside in a real browser: scrubbing without Python, one selection in all parts, links, themes, hostile text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from browser import WIRES, settled
from conftest import save_tiny
from fake_runs import fake
from playwright.sync_api import expect
from test_inside import HOSTILE

from kvlab.engine import Request, run
from kvlab.models import load
from kvlab.registry import make
from kvlab.runs import RunStore, manifest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def stored(runs_home: Path) -> dict[str, str]:
    """Kind of made run -> its id in the server's store."""
    store, ids = RunStore(runs_home / "runs"), {}
    for kind in ("evict", "read", "merge"):
        made = fake(kind)
        ids[kind] = store.save(made.manifest, made.trace)
    for name, made in {"long": fake("evict", long=30), "hostile": fake("evict", pieces=HOSTILE + [" a"] * 12)}.items():
        made.manifest["id"] = f"{len(name):x}" * 16
        ids[name] = store.save(made.manifest, made.trace)
    return ids


@pytest.fixture(scope="module")
def lost(runs_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real run of a tiny model that lost most of its prompt: it can be run again."""
    lm = load(str(save_tiny(tmp_path_factory.mktemp("letters"), template=False)), device="cpu")
    request = Request("The code of the falcon is 2916. Hugo left the orchid.", make("knorm", "0.2"), max_new_tokens=4, stop_at_end=False, compare=True)
    result = run(lm, request)
    return RunStore(runs_home / "runs").save(manifest(lm, request, result), result.trace)


def look(page: Any, server: str, run: str, **params: Any) -> None:
    """Open the page of a run and wait until the component has drawn."""
    page.goto(f"{server}/inside?" + "&".join(f"{k}={v}" for k, v in {"run": run, **params}.items()), wait_until="commit")
    page.get_by_role("link", name="Look inside").wait_for()  # our own navigation, on a server that nobody has visited yet too
    page.locator(".inside .tok").first.wait_for()
    settled(page)


def params(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(page.url).query).items()}


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_scrubbing_stays_in_the_browser_until_release(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"], step=1)
    rail = page.get_by_role("slider", name="Step of the answer")
    expect(rail).to_have_attribute("aria-valuenow", "1")
    expect(rail).to_have_attribute("aria-valuetext", re.compile("Missing attention"))
    rail.focus()
    asked = WIRES[page].asked
    page.keyboard.down("ArrowRight")
    page.keyboard.down("ArrowRight")
    expect(rail).to_have_attribute("aria-valuenow", "3")
    page.wait_for_timeout(600)
    assert WIRES[page].asked == asked, "Python is asked for nothing while a key is down"
    assert params(page)["step"] == "1", "the link is written on release, not while a key is down"
    page.keyboard.up("ArrowRight")
    page.wait_for_url(re.compile("step=3"))
    page.keyboard.press("End")
    page.wait_for_url(re.compile("step=7"))
    page.keyboard.press("PageDown")  # as in every slider: up is more
    page.wait_for_url(re.compile("step=0"))


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_one_selection_lights_up_everywhere_and_the_link_restores_it(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"], step=2)
    token = page.locator(".tok[data-p='35']")
    token.hover()
    expect(token).to_have_class(re.compile("hovered"))
    page.locator(".column:not(.locked)").wait_for()
    expect(page.locator(".map .sub").first).to_contain_text("“2”")
    before = page.url
    token.click()
    page.wait_for_url(re.compile("tok=35"))
    assert page.url != before
    expect(page.locator(".token h2")).to_have_text("Locked token")
    page.get_by_role("radio", name=re.compile("L1 · H1")).click()
    page.wait_for_url(re.compile("L=1&H=1"))
    expect(page.locator(".token dl")).to_contain_text("evicted at step 0")
    page.locator(".tok[data-p='38']").click(modifiers=["Shift"])
    page.wait_for_url(re.compile("tok=35-38"))
    expect(page.locator(".span h2")).to_contain_text("2916")
    link = page.url
    fresh = page.context.new_page()
    fresh.set_default_timeout(120_000)
    fresh.goto(link, wait_until="commit")
    fresh.locator(".tok.locked[data-p='35']").wait_for()
    expect(fresh.locator(".cell[aria-checked='true']")).to_have_attribute("data-r", "3")
    expect(fresh.get_by_role("slider", name="Step of the answer")).to_have_attribute("aria-valuenow", "2")


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_kinds_of_loss_are_said_in_words(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["read"])
    expect(page.locator(".balance")).to_contain_text("held, not read")
    expect(page.locator(".heads .sub")).to_contain_text("attention not read")
    look(page, server, stored["merge"])
    expect(page.locator(".balance")).to_contain_text("merged away")
    expect(page.locator(".token dl")).to_contain_text("merged into")


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_long_text_is_folded_and_opens(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["long"])
    page.locator(".mini").wait_for()
    shown = page.locator(".tok").count()  # the text is built in one go: where one token is, all are
    assert shown < 600
    page.locator(".gap").first.click()
    page.locator(".tok").nth(shown).wait_for(state="attached")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.scrollWidth <= 390 && document.querySelector('[data-testid=stMain]').scrollWidth <= 390")


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_hostile_text_is_shown_as_text(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["hostile"])
    text = page.locator(".text").inner_text()
    assert "<img src=x onerror=alert(1)>" in text and "![x](http://example.invalid/a.png)" in text and "U+202E" in text and "␇" in text
    assert page.locator(".text img, .text script").count() == 0


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_theme_reaches_the_canvas(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"])
    for scheme, ink, blue in (("light", "rgb(22, 24, 27)", (36, 104, 176)), ("dark", "rgb(237, 239, 241)", (103, 171, 238))):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator(".probes i").first).to_have_css("color", ink)
        cells = page.locator(".cells").first.element_handle()
        page.wait_for_function(  # held entries are drawn in the theme's blue
            """([canvas, blue]) => { const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 90 && blue.every((part, k) => Math.abs(part - data[i + k]) < 4)) return true;
            return false; }""",
            arg=[cells, blue],
        )


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_heads_are_coloured_by_the_metric_one_chooses(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"], step=2)
    cell, choice = page.locator(".cell[data-r='3']"), page.get_by_label("Colour the heads by")
    expect(cell).to_have_attribute("aria-label", re.compile("missing attention"))
    before = cell.locator("span").inner_text()
    for metric, words in (("share kept", "of the entries kept"), ("spread of attention", "entropy"), ("attention on the first 4", "first 4 tokens")):
        choice.select_option(label=metric)
        expect(cell).to_have_attribute("aria-label", re.compile(words))
        expect(page.locator(".heads .sub")).to_contain_text(words)
        expect(cell.locator("i")).to_have_class("kept")  # blue, not the hatch of what is lost
    choice.select_option(label="missing attention")
    expect(cell.locator("span")).to_have_text(before)


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_a_tracked_span_stays_while_other_tokens_are_locked(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"], step=0)
    page.locator(".tok[data-p='35']").click()
    page.wait_for_url(re.compile("tok=35"))
    page.locator(".tok[data-p='38']").click(modifiers=["Shift"])
    page.wait_for_url(re.compile("tok=35-38"))
    expect(page.locator(".span dl")).to_contain_text("all together")  # attention on several tokens, added up
    shares = [float(share) for share in re.findall(r"([\d.]+) %", page.locator(".span dd").last.inner_text())]
    assert len(shares) == 3 and shares[0] >= shares[2] >= shares[1]  # sum, most, mean
    page.get_by_role("button", name="Track this span").click()
    page.wait_for_url(re.compile("track=35-38"))
    page.locator(".tok[data-p='2']").click()
    page.wait_for_url(re.compile("tok=2&"))
    expect(page.locator(".span h2")).to_contain_text("Tracked span 2916")
    expect(page.locator(".span canvas")).to_have_attribute("aria-label", re.compile(r"Held by layer at step 0: L0 \d"))
    said = page.locator(".span svg").get_attribute("aria-label")
    page.get_by_role("slider", name="Step of the answer").press("End")
    expect(page.locator(".span svg")).not_to_have_attribute("aria-label", said)


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_protect_and_rerun_shows_both_answers(page: Any, server: str, runs_home: Path, lost: str) -> None:
    look(page, server, lost, tok=3, step=0)
    page.get_by_role("button", name="Protect and rerun").click()
    page.get_by_role("link", name="Compare both").wait_for()
    expect(page.locator(".st-key-card-again")).to_contain_text("on top of the budget")
    page.get_by_role("link", name="Look inside the new run").click()
    page.wait_for_url(lambda url: lost not in url and "run=" in url)
    page.locator(".inside .tok").first.wait_for()
    page.locator(".tok[data-p='3']").hover()
    expect(page.locator(".map .sub").first).to_contain_text("held")


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_an_address_that_another_page_left_is_put_right(page: Any, server: str, stored: dict[str, str]) -> None:
    look(page, server, stored["evict"], job="0" * 32)
    page.wait_for_function("!location.search.includes('job=') && location.search.includes('run=')")
