"""The Methods page without a browser: every card is made from its class, the field holds every method, filters count right, links say what they mean."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import fake_sweep
import numpy as np
import pytest
from alone import html, page_alone
from streamlit.testing.v1 import AppTest

from kvlab import claims, toy
from kvlab.method import Method, knob
from kvlab.phase import Schedule
from kvlab.predict import predicted_bytes
from kvlab.registry import make, registry
from kvlab.ui import methods_card as card
from kvlab.ui import methods_facts as facts
from kvlab.ui import methods_view as view
from kvlab.ui import sweeps

HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script> $x$ `code`"


@dataclass(frozen=True)
class Strange(Method):
    __doc__ = HOSTILE
    name = "strange"
    title = HOSTILE
    paper = HOSTILE
    departs = HOSTILE
    needs = ("weights", "moonlight")
    schedule = Schedule(chunks=True, every=3, probes=True)

    depth: int = knob(3, HOSTILE, 1, 2_000_000, 1)

    def compress(self, layer, seen) -> None: ...

    def read(self, layer, q, q_pos) -> None: ...


opened = functools.partial(page_alone, "methods.py")


@pytest.mark.parametrize("name", registry())
def test_every_card_says_what_its_class_says(name: str) -> None:
    kind = registry()[name]
    told = card.story(kind) + card.knobs(kind, toy.of(name)) + card.formula(kind()) + card.timeline(kind()) + card.claimed(name)
    plain = unescape(re.sub(r"<[^>]+>", "", told))
    for knob_row in facts.knob_rows(kind):
        assert all(text.replace("`", "") in plain.replace("`", "") for text in knob_row)
    assert kind.departs.replace("`", "") in plain and kind.paper.split(",")[0] in plain and facts.SOURCES[kind.source] in plain
    if not facts.formula(kind()).why:
        expected = predicted_bytes(kind(), facts.SHAPE, facts.SHAPE_SIZES.seen, facts.SHAPE_SIZES.prompt)
        assert f"{expected:,} B" in plain
    assert card.ways(kind, []).count(f"run?methods={name}") == 1


def test_the_timeline_is_what_the_schedule_answers() -> None:
    said = dict((what, columns) for what, _, columns in facts.timeline(Strange()))
    assert said["drops, merges or encodes"] == (1, 2, 4, 7, 10)  # chunks, the scoring pass, tokens 3 and 6
    assert said["chooses what is looked at"] == (1, 2, 3, *range(5, 13))
    assert facts.timeline(make("full")) == []
    assert facts.when(make("snapkv")) == (3,) and facts.acts(make("snapkv")) == ["at the prompt's end"]
    assert facts.acts(make("kvsharer")) == ["when the cache is built"] and facts.acts(make("quest")) == ["at every read"]


def test_needs_are_what_is_declared_and_what_hooks_say() -> None:
    assert facts.needs(Strange()) == ["weights", "two passes", "moonlight"]
    assert "two passes" in facts.needs(make("kvzip")) and facts.needs(make("full")) == []


def test_the_field_holds_every_method_once_with_its_toy() -> None:
    header, body = view._field()
    cards = [one for band in header["bands"] for one in band["cards"]]
    assert sorted(one["name"] for one in cards) == sorted(registry())
    at = header["arrays"]["kind"]
    kinds = np.frombuffer(body, np.uint8, at["size"], at["at"]).reshape(-1, *toy.shipped()["full"].kind.shape)
    for one in cards:
        assert np.array_equal(kinds[one["toy"]], toy.of(one["name"]).kind)
    sent = view.packed(header, body)
    length = int.from_bytes(sent[:4], "little")
    assert (4 + length) % 8 == 0 and json.loads(sent[4 : 4 + length])["stamp"] == header["stamp"] and sent[4 + length :] == body


def test_filters_count_their_cards() -> None:
    header, _ = view._field()
    for key, _, choices in header["filters"]:
        cards = [one for band in header["bands"] for one in band["cards"]]
        for value, _, count in choices:
            assert count == sum(value in one[key] for one in cards) > 0
    assert dict((value, n) for value, _, n in header["filters"][0][2])["sharing"] == sum(kind.axis == "sharing" for kind in registry().values())


def test_a_method_without_a_toy_has_a_card_in_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    real = toy.of
    monkeypatch.setattr(toy, "of", lambda name: "Two layers are too few." if name == "h2o" else real(name))
    view._field.cache_clear()
    places = {one["name"]: one["toy"] for band in view._field()[0]["bands"] for one in band["cards"]}
    view._field.cache_clear()
    assert places["h2o"] == -1 and sorted(place for place in places.values() if place >= 0) == list(range(len(registry()) - 1))
    assert "Two layers" in card.no_toy("Two layers are too few.")


def test_texts_of_a_method_are_never_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strange, "axis", "eviction")
    said = card.story(Strange) + card.knobs(Strange, "none") + card.formula(Strange()) + card.timeline(Strange()) + card.ways(Strange, [Strange])
    assert "<script" not in said and "&lt;script&gt;" in said


def test_what_a_sweep_measured_stands_on_the_card_with_its_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sweeps, "DATA", tmp_path / "data")
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    fake_sweep.write(tmp_path / "home" / "sweeps" / "made", *fake_sweep.sweep(("niah",), (256,)))
    swept = sweeps.stored("made")
    said = card.evidence(registry()["snapkv"], swept)
    row = swept.points[swept.points["method"] == "snapkv"].iloc[0]
    assert f"{row['mean']:.3g} [{row['low']:.3g}, {row['high']:.3g}]" in said and "tradeoffs?sweep=made&amp;methods=snapkv" in said
    assert "No stored sweep" in card.evidence(registry()["cam"], swept) and "No stored sweep" in card.evidence(registry()["snapkv"], None)


def test_claims_are_those_of_the_list_and_say_where_they_were_read() -> None:
    rows = claims.load()
    mine = rows[rows["system"] == "h2o"]
    found = facts.claimed("h2o")
    assert len(found) == len(mine) > 0
    for (claim, where), row in zip(found, mine.to_dict("records"), strict=True):
        assert row["score"] in claim and row["metric"] in claim and claims.mark(row["source"]) in where


def test_the_page_opens_on_the_field_on_a_card_and_on_a_name_nobody_has() -> None:
    assert "ways to hold less" in html(opened())
    one = opened(m="snapkv")
    assert "SnapKV" in html(one) and "run?methods=snapkv" in html(one) and "Bytes by formula" in html(one)
    lost = opened(m="<b>none</b>")
    assert "There is no method" in html(lost) and "<b>none</b>" not in html(lost)


def test_both_pages_have_their_table() -> None:
    at = opened()
    at.toggle(key="methods_table").set_value(True).run()
    assert len(at.dataframe[0].value) == len(registry())
    at = opened(m="kivi")
    at.toggle(key="methods_steps").set_value(True).run()
    table, one = at.dataframe[0].value, toy.of("kivi")
    assert list(table["bytes held"]) == one.held.tolist() and list(table["tokens"]) == [toy.PROMPT + step for step in range(toy.STEPS + 1)]


def test_a_link_chooses_the_method_on_the_run_page_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def script() -> None:
        from kvlab.ui import form

        form.begin()

    at = AppTest.from_function(script, default_timeout=200)
    at.query_params["methods"] = "h2o kivi"  # as the server reads h2o+kivi
    at.run()
    assert not at.exception
    assert at.session_state["run-pick-axis-drop"] == ["h2o"] and at.session_state["run-with-h2o"] == ["kivi"]
    at.session_state["run-pick-axis-drop"] = ["tova"]
    at.run()
    assert at.session_state["run-pick-axis-drop"] == ["tova"]
    at.query_params["methods"] = "nothing"
    at.run()
    assert "There is no method" in html(at)
