"""The Plan page without a browser: what a link restores, what is refused with a sentence, that every figure has its formula and every text is escaped."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import fake_sweep as fake
import pytest
from alone import html as said
from alone import link, page_alone
from streamlit.testing.v1 import AppTest

from kvlab.planner import answer, memory
from kvlab.planner.formulas import size
from kvlab.planner.shapes import shape
from kvlab.registry import make
from kvlab.runs import RunStore
from kvlab.ui import plan_bars, plan_words, sweeps
from kvlab.ui.plan_asked import Asked

PAGE = str(Path(__file__).parent.parent / "pages" / "plan.py")
HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script><img src=x onerror=alert(1)> $x$"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No sweep is shipped, and the own ones are in a folder of the test."""
    monkeypatch.setattr(sweeps, "DATA", tmp_path / "data")
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "sweeps"


opened = functools.partial(page_alone, "plan.py")


def test_it_opens_with_an_answer_and_no_model_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("nothing is loaded by looking"))
    at = opened()
    text = said(at)
    assert "The full cache stops at" in text and text.count('class="kv-pl-row"') == 4
    assert "estimate, not measured" in text and "Nothing was measured" in text, "no sweep, no evidence"
    assert text.count("Show formula") == 5, "one for each bar, one for the decode steps"
    assert link(at) == {"shape": "llama-3.1-8b", "gpu": "rtx4090", "context": "16384", "users": "8"}
    assert "python -m kvlab run --model meta-llama/Llama-3.1-8B" in at.code[0].value


def test_a_link_restores_the_view_and_choices_change_the_link() -> None:
    asked = {"shape": "gemma-2-9b", "gpu": "own", "context": "8192", "users": "3", "weights": "8 bit", "gpus": "2", "compress": "kivi h2o", "keep": "40",
             "floor": "75", "formulas": "1", "mem": "60", "bw": "2039", "peak": "312", "usable": "85", "written": "128"}  # fmt: skip
    at = opened(**asked)
    assert link(at) == asked
    assert at.number_input(key="plan-users").value == 3 and at.number_input(key="plan-bw").value == 2039.0 and at.slider(key="plan-keep").value == 40
    assert at.multiselect(key="plan-compress").value == ["kivi", "h2o"] and said(at).count('<details class="kv-how" open>') == 4
    demand = Asked(weights="8 bit", mem=60.0, usable=85, gpus=2).demand(shape("gemma-2-9b"))
    assert demand.usable == 60 * memory.GIB * 0.85 * 2 and f"of {size(demand.usable)}" in said(at) and size(demand.weights) in said(at)
    at.number_input(key="plan-users").set_value(5).run()
    assert not at.exception and link(at)["users"] == "5" and "5 users" in said(at)
    assert opened(gpu="a100-80", mem="60").selectbox(key="plan-gpu").value == "own", "changed figures are no longer those of a data sheet"
    at.selectbox(key="plan-gpu").set_value("l4").run()
    assert at.number_input(key="plan-mem").value == 24.0 and "mem" not in link(at), "a maker's figures need no place in the link"
    at.number_input(key="plan-bw").set_value(123.0).run()
    assert at.selectbox(key="plan-gpu").value == "own" and link(at)["bw"] == "123" and link(at)["mem"] == "24"


def test_a_link_to_nonsense_says_so_and_shows_what_there_is() -> None:
    at = opened(shape="llama-3.1-8b", users="many", mem="1e9", gpu="toaster", weights="<b>", keep="0")
    text = said(at)
    for part in ("users at once &#x27;many&#x27;", "GPU memory in GiB &#x27;1e9&#x27;", "gpu &#x27;toaster&#x27;", "weights &#x27;&lt;b&gt;&#x27;"):
        assert part in text, part
    assert "The full cache" in text and at.number_input(key="plan-users").value == 8


def test_what_cannot_be_planned_is_a_sentence_and_offers_what_can() -> None:
    for params, says in (
        ({"shape": "qwen3-next-80b"}, "12 of its 48 layers hold keys and values"), ({"shape": "../../etc/passwd"}, "There is no model"),
        ({"shape": "config-0123456789ab"}, "not stored here"), ({"compress": "snapkw"}, "Did you mean snapkv"),
        ({"context": "500"}, "so no prompt is left"), ({"shape": "deepseek-v2-lite", "compress": "snapkv"}, "caches latents (MLA)"),
    ):  # fmt: skip
        at = opened(**params)
        assert says in said(at), says
        assert ('href="plan?shape=llama-3.1-8b"' in said(at)) == ("MLA" not in says)


def test_a_pasted_config_is_planned_and_kept_for_its_link(home: Path) -> None:
    config = {**json.loads((Path(PAGE).parent.parent / "data" / "configs" / "llama-3.1-8b.json").read_text())["config"], "num_hidden_layers": 7, "x": HOSTILE}
    at = opened()
    at.text_area(key="plan-text").set_value(json.dumps(config))
    at.button(key="plan-use").click().run()
    assert not at.exception and "Pasted llama config" in said(at) and "7 layers" in said(at) and "evil" not in said(at)
    key = link(at)["shape"]
    assert "--model MODEL" in at.code[0].value and "7 layers" in said(opened(shape=key))
    at.text_area(key="plan-text").set_value('{"model_type": "' + "<img src=x>" + '"}')
    at.button(key="plan-use").click().run()
    assert "is no family that transformers knows" in said(at) and "<img" not in said(at) and link(at)["shape"] == key


def test_evidence_is_said_to_be_of_its_own_model(home: Path) -> None:
    points, samples = fake.sweep(("niah",), (256,))
    fake.write(home / "made", points, samples)
    at = opened(floor="1", compress="snapkv")
    text = said(at)
    assert "measured on the bundled model, not on this one: niah, 20 samples, 256 tokens" in text
    assert "scores are not carried over" in text and 'href="tradeoffs?sweep=made&amp;task=niah' in text
    own = said(opened(shape="bundled", weights="float32", context="200", written="20", floor="1", compress="snapkv"))
    assert "measured on this model: niah" in own and "scores are not carried over" not in own


def listed(at: AppTest) -> int:
    """Settings in the list, those that are folded among them."""
    folded = [int(found[1]) for one in at.expander if (found := re.match(r"(\d+) more of the list", one.label))]
    return said(at).count('<tr class="kv-v-') + sum(folded)


def test_the_floor_sorts_and_hides(home: Path) -> None:
    fake.write(home / "made")
    strict, loose = opened(floor="100", compress="snapkv"), opened(floor="1", compress="snapkv")
    assert listed(strict) < listed(loose) and said(loose).count('<tr class="kv-v-') == 10, "ten at once"
    hidden = int(re.search(r"(\d+) measured settings? below the floor", said(strict))[1])
    shown = listed(strict)
    strict.toggle(key="plan-below").set_value(True).run()
    assert listed(strict) == shown + hidden and link(strict)["below"] == "1"


def test_predicted_and_measured_bytes_stand_side_by_side() -> None:
    from fake_runs import fake as run_of

    made = run_of("evict")
    run = made.manifest
    run["bytes"] |= {"predicted": 1100, "resident": 1000}
    RunStore().save(run, made.trace)
    at = opened()
    assert "10 % off" in said(at) or "figures were predicted to the byte" in said(at)
    assert any(json.loads(part.proto.spec)["layout"]["xaxis"].get("title", {}).get("text") == "predicted above measured, %" for part in at.get("plotly_chart"))


def test_tables_hold_what_the_bars_show() -> None:
    at = opened(compress="kivi")
    demand = Asked(compress=("kivi",)).demand(shape("llama-3.1-8b"))
    bars, _ = answer.rows([make("kivi")], demand, 1e12, 1e14)
    from kvlab.ui.plan_figures import bills_table

    table = bills_table(bars, demand)
    assert table["Total, bytes"].tolist() == [round(row.bill.total) for row in bars] and table["Most users"].tolist() == [row.bill.users for row in bars]
    assert all(size(row.bill.total) in said(at) for row in bars)


def test_names_are_escaped_and_words_follow_the_figures() -> None:
    demand = Asked().demand(shape("llama-3.1-8b"))
    rows, _ = answer.rows([make("snapkv", 0.25)], demand, 1e12, 1e14)
    lines = answer.lines({}, [make("snapkv", 0.25)], demand, "", 0.9)
    drawn = plan_bars.bars(rows, lines, demand, True)
    assert drawn.count('role="img" aria-label="') == 2 and "score not measured" in drawn
    small = Asked(users=1, context=1024)
    fits, _ = answer.rows([], small.demand(shape("llama-3.1-8b")), 1e12, 1e14)
    assert plan_words.title(shape("llama-3.1-8b"), small, fits, []).startswith("The full cache holds 1 user at 1,024 tokens, and ")
    assert "The weights alone need" in plan_words.title(shape("llama-3.1-70b"), Asked(), *big())


def big() -> tuple[list[answer.Row], list[answer.Line]]:
    return answer.rows([], Asked().demand(shape("llama-3.1-70b")), 1e12, 1e14)[0], []


def test_lengths_that_differ_have_a_card_and_a_wrong_one_is_a_sentence() -> None:
    at = opened(mix="4k 70%, 8k 30%", users="16")
    assert not at.exception and "4,096 tokens, 70 %" in said(at) and "of the full cache&#x27;s bytes" in said(at).replace("'", "&#x27;")
    assert link(at)["mix"] == "4k 70%, 8k 30%"
    at.text_input(key="plan-mix").set_value("4k <b>").run()
    assert not at.exception and "Cannot read the length" in said(at) and 'class="kv-mx-row"' not in said(at)
    at.text_input(key="plan-mix").set_value("").run()
    assert "The full cache stops at" in said(at) and "mix" not in link(at)
