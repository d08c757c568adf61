"""Plan in a real browser: a change answers in the link and in the figures, formulas unfold, evidence leads on, dark ink, a narrow screen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fake_sweep as fake
import pytest
from browser import settled

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def swept(runs_home: Path) -> str:
    """A made-up sweep of the server in which some settings meet a low floor."""
    points, samples = fake.sweep(("kvlist",), (256,))  # a task of which nothing is shipped
    return fake.write(runs_home / "sweeps" / "planned", points, samples).name


def look(page: Any, server: str, **params: Any) -> None:
    page.goto(f"{server}/plan?" + "&".join(f"{name}={value}" for name, value in params.items()), wait_until="commit")
    page.locator(".kv-pl-row").nth(1).wait_for()
    page.locator(".st-key-card-plan-errors .js-plotly-plot").wait_for()  # the last part of the page
    settled(page)


@pytest.mark.parametrize("scheme", ["dark"], indirect=True)
def test_a_change_answers_and_its_link_restores_it(page: Any, server: str) -> None:
    look(page, server, shape="llama-3.1-8b", gpu="l4", context=8192, users=4, compress="kivi")
    line = page.locator(".kv-pl-bar u").first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert line == "rgb(237, 239, 241)", "the GPU's line is the ink of the theme"
    users = page.get_by_label("Users at once")
    users.fill("9")
    users.press("Enter")
    page.wait_for_url(re.compile("users=9"))
    page.get_by_text("at 9 users").first.wait_for()
    settled(page)
    summary = page.locator(".kv-pl .kv-how summary").nth(1)
    summary.focus()
    page.keyboard.press("Enter")
    page.locator(".kv-pl .kv-how[open] dd").nth(1).wait_for()
    assert "9 users = " in page.locator(".kv-pl .kv-how[open] dd").nth(1).inner_text()
    title = page.locator(".kv-head h1").inner_text()
    fresh = page.context.new_page()
    fresh.set_default_timeout(120_000)
    fresh.goto(page.url, wait_until="commit")
    fresh.locator(".kv-head h1", has_text=title).wait_for()
    assert fresh.get_by_role("img", name=re.compile("KIVI: .* weights")).count() == 1, "a bar says its figures"


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_evidence_leads_to_its_point_and_a_narrow_screen_never_scrolls_sideways(page: Any, server: str, swept: str) -> None:
    look(page, server, shape="gemma-2-9b", gpu="h100", floor=1, compress="kivi", formulas=1, evidence="kvlist")
    row = page.locator(".kv-pl-table tr", has_text=f"sweep {swept}").first
    row.wait_for()
    assert "not on this one" in row.inner_text()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelector('[data-testid=stMain]').scrollWidth <= 390 && document.documentElement.scrollWidth <= 390")
    row.get_by_role("link", name="Trade-offs").click()
    page.wait_for_url(re.compile(rf"/tradeoffs\?.*sweep={swept}.*point=\w+"))
    page.locator(".kv-pt-head").wait_for()


@pytest.mark.parametrize("scheme", ["light"], indirect=True)
def test_a_pasted_config_is_text_and_gets_its_plan_or_its_sentence(page: Any, server: str) -> None:
    look(page, server, shape="llama-3.1-8b")
    page.get_by_role("button", name="Paste").click()
    area = page.get_by_label("config.json", exact=True)
    area.fill('{"model_type": "<img src=x onerror=alert(1)>"}')
    page.get_by_role("button", name="Use this config").click()
    page.get_by_text("is no family that transformers knows").wait_for()
    assert page.locator("img[src='x']").count() == 0
    area.fill('{"model_type": "qwen3", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 8, "head_dim": 32, '
              '"num_key_value_heads": 2, "vocab_size": 999, "max_position_embeddings": 32768}')  # fmt: skip
    page.get_by_role("button", name="Use this config").click()
    page.wait_for_url(re.compile("shape=config-"))
    page.get_by_text(re.compile("parameters; 5 layers; 8 query and 2 KV heads of 32")).wait_for()
