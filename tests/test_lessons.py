"""Lessons without a browser: what is refused, what sentences are filled with, whether the shipped data still carry every lesson, and the page."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from alone import html as said
from alone import page_alone
from fake_runs import fake

from kvlab import lessons
from kvlab.lessons import Lesson, Step, broken, fill, folder, holds, names, pieces, read, shown
from kvlab.registry import registry
from kvlab.runs import RunStore, StoredRun
from kvlab.trace import NEVER
from kvlab.ui import lesson_scenes, lesson_sums, lesson_thumb
from kvlab.ui.inside import missing
from kvlab.ui.lesson import SCENES, built, link, place, plain, scene
from kvlab.ui.lesson_data import Sources, answer_span, nearest, spans
from kvlab.ui.lesson_view import script, style

FILES = sorted(folder().glob("*.yaml"))
HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script> **bold** {facts} $x$"


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources()


def minimal(**changes: Any) -> dict[str, Any]:
    step = {"title": "A", "text": "B", "show": {"scene": "growth"}, **changes}
    return {"title": "T", "about": "U", "live": "1_single_needle", "steps": [step] * 4}


ASK = {"ask": "Which?", "choices": ["a", "b"], "answer": "choice"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"title": "T"}, "about is missing"),
        ({**minimal(), "colour": "red"}, "colour is none of"),
        ({**minimal(), "steps": []}, "4 to 7 steps, this one 0"),
        ({**minimal(), "title": 3}, "title is not a str"),
        (["a"], "expected names and values"),
        (minimal(show={}), "step 1: show has no scene"),
        (minimal(question=ASK), "a question needs a reveal"),
        (minimal(question={**ASK, "choices": ["a"]}, reveal="r"), "two to four choices"),
        (minimal(question={**ASK, "values": [1]}, reveal="r"), "2 choices and 1 values"),
        (minimal(needs={"share is large": "x"}), "'share is large' is no condition"),
        (minimal(text=None), "text is not a str"),
    ],
)
def test_a_lesson_that_is_wrong_is_refused_in_words(tmp_path: Path, said: Any, words: str) -> None:
    path = tmp_path / "1_made.yaml"
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        read(path)
    assert "1_made.yaml" in str(error.value)


def test_names_of_files_and_broken_yaml_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sinks.yaml").write_text("")
    with pytest.raises(ValueError, match="named <number>_<id>"):
        read(tmp_path / "sinks.yaml")
    (tmp_path / "1_a.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        read(tmp_path / "1_a.yaml")


def test_sentences_are_filled_and_facts_stay_text() -> None:
    facts = {"share": 0.5, "tiny": 0.0123, "size": 3 * 2**20, "n": 1234, "times": 3.04, "word": HOSTILE, "kl": 0.00002, "zero": 0.0}
    assert fill("{share:%} {tiny:%} {size:size} {n} {times:x} {kl} {zero}", facts) == "50 % 1.2 % 3.0 MiB 1,234 3 under 0.001 0"
    assert pieces("a **{word}** b", facts) == [("a ", False), (HOSTILE, True), (" b", False)]
    with pytest.raises(ValueError, match="asks for other"):
        fill("{other}", facts)
    assert [shown(v, "size") for v in (100, 2048, 200 * 1024)] == ["100 bytes", "2.0 KiB", "200 KiB"]
    assert lessons.bare("One budget, {heads} heads") == "One budget, heads"


def test_conditions_compare_facts_and_numbers() -> None:
    facts = {"a": 1, "b": 2.5, "word": "old"}
    assert holds("a < b", facts) and holds("a >= 1", facts) and holds("b == 2.5", facts) and not holds("a > b", facts) and not holds("a != 1", facts)
    step = Step("t", "x", {"scene": "growth"}, needs=(("a > b", "a is {a} and no longer above {b}."), ("a < b", "fine")))
    assert broken(step, facts) == ["a is 1 and no longer above 2.5."] and names(step) == {"a", "b"}


def test_there_are_eight_lessons_in_order_and_every_preset_and_scene_exists(sources: Sources) -> None:
    found = lessons.lessons()
    assert [lesson.number for lesson in found] == list(range(1, 9)) and len({lesson.id for lesson in found}) == 8
    for lesson in found:
        assert lesson.live in sources.presets
        for step in lesson.steps:
            said = step.show
            assert said["scene"] in SCENES and said.get("preset", lesson.live) in sources.presets
            methods = [*said.get("methods", []), said.get("method", "full")]
            assert all(part in registry() for method in methods for part in method.split("+"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_stored_data_still_carry_the_lesson(path: Path, sources: Sources) -> None:
    """After a new model or new runs, this says in words which step has lost its point."""
    store, lesson = RunStore(Path("nowhere")), read(path)
    for number, step in enumerate(lesson.steps, 1):
        where = f"{path.name}, step {number} ({step.title})"
        made = scene(step, sources)
        assert names(step) <= made.facts.keys(), f"{where} asks for {names(step) - made.facts.keys()}, which {step.show['scene']} does not measure"
        assert not broken(step, made.facts), f"{where}: {' '.join(broken(step, made.facts))}"
        assert made.table and made.picture["kind"], where
        assert all(store.holds(run) for run in made.runs), where
        if step.question:
            assert made.facts[step.question.answer] in range(len(step.question.choices)), where
        for words in (fill(step.title, made.facts), plain(pieces(step.text, made.facts)), plain(pieces(step.reveal, made.facts))):
            assert len(words) <= 190, f"{where}: too long for the back row: {words}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_result_is_written_down(path: Path) -> None:
    for step in read(path).steps:
        written = re.sub(r"\{[^}]*\}", "", step.reveal)
        assert not re.search(r"\d", written), f"{path.name}, {step.title}: a figure in the reveal is not computed: {written}"


class Changed(Sources):
    """The stored runs, but one method's run is another's: what a new model might do."""

    def __init__(self, method: str, as_: str) -> None:
        super().__init__()
        self.swap = {method: as_}

    def run(self, preset: str, method: str) -> StoredRun:
        return super().run(preset, self.swap.get(method, method))


def test_a_lesson_follows_its_data() -> None:
    """StreamingLLM that keeps everything: the computed answer turns over, and the lesson says that its point has gone."""
    step = next(step for step in read(folder() / "3_sinks.yaml").steps if step.show["scene"] == "passage")
    before, after = (scene(step, src) for src in (Sources(), Changed("streamingllm", "full")))
    assert (before.facts["right"], after.facts["right"]) == (0, 1)
    assert not broken(step, before.facts) and any("answers the early fact" in words for words in broken(step, after.facts))
    made = built(replace(read(folder() / "3_sinks.yaml"), steps=(step,)), Changed("streamingllm", "full"))["steps"][0]
    assert made["question"]["answer"] == 1 and made["doubts"]


def test_a_step_without_its_run_says_so_and_keeps_its_place(sources: Sources) -> None:
    step = Step("What {n} heads keep", "x", {"scene": "kept", "preset": "8_story", "method": "snapkv"})
    made = built(Lesson("a", 1, "A", "", "8_story", (step,)), sources)["steps"][0]
    assert made["title"] == "What heads keep" and "No run of snapkv on the preset 8_story" in made["problem"]
    for wrong, words in (({"scene": "nothing"}, "There is no scene nothing"), ({"scene": "kept", "colour": 1}, "cannot be drawn with colour")):
        with pytest.raises(ValueError, match=words):
            scene(Step("t", "x", wrong), sources)


class One(Sources):
    """Every question is answered by one made run."""

    def __init__(self, run: StoredRun) -> None:
        super().__init__()
        self.only = run
        self.presets = {"made": {"id": "made", "answer": "2916"}}

    def run(self, preset: str, method: str) -> StoredRun:
        return self.only


def test_kept_counts_what_the_trace_holds() -> None:
    run = fake("evict")
    t, made = run.trace, lesson_scenes.kept(One(run), "made", "evict", rows="uneven")
    counts = t.held(0).sum(-1)
    rows = {row["label"]: row for row in made.picture["rows"]}
    for label, row in rows.items():
        layer, head = (int(n) for n in re.findall(r"\d+", label))
        assert row["value"] == counts[layer, head] == sum(b - a for a, b, _ in row["spans"])
    assert [row["entries held"] for row in made.table] == counts.ravel().tolist()
    f = made.facts
    start, end = answer_span(run, "2916")
    assert "".join(run.manifest["pieces"][start:end]) == "2916"
    assert f["survives"] == int((t.left_at[..., start:end] > 0).all(-1).sum()) < f["heads"] == 6
    assert f["missing"] == pytest.approx(missing(t).mean(), abs=1e-6) and f["most"] >= f["least"]
    layers = lesson_scenes.kept(One(run), "made", "evict")
    assert len(layers.picture["rows"]) == 3 and layers.picture["marks"][0]["word"] == "2916"


def test_lost_finds_the_entry_that_was_wanted_and_gone() -> None:
    run = fake("evict")
    made = lesson_scenes.lost(One(run), "made", "evict")
    wanted = run.trace.prompt - 5
    assert made.facts["head"] == "L1 · H1" and made.facts["target"] == "2" and made.facts["differs"] == 1 and f"tok={wanted}" in made.link
    assert wanted in made.picture["gone"] and any(label["at"] == wanted for label in made.picture["labels"])
    assert [share for at, share in made.picture["up"] if at == wanted] == pytest.approx([float(run.trace.full[1, 1, 1, wanted])], abs=1e-3)


def test_cells_tell_fewer_bits_from_entries_not_read() -> None:
    low = lesson_scenes.cells(One(fake("bits")), "made", "bits")
    assert low.facts["bits"] == 3 and 0 < low.facts["coded"] < 1 and low.facts["unread"] == 0
    heights = {span[3] for row in low.picture["rows"] for span in row["spans"]}
    assert heights == {round(3 / 32, 3), 1.0}
    read_ = lesson_scenes.cells(One(fake("read")), "made", "read")
    assert 0.2 < read_.facts["unread"] < 0.8 and {span[4] for row in read_.picture["rows"] for span in row["spans"]} == {0, 1}


def test_attention_by_region_adds_up(sources: Sources) -> None:
    facts = lesson_sums.regions(sources).facts
    assert facts["first"] + facts["middle"] + facts["last"] == pytest.approx(1, abs=0.01)
    assert facts["choice"] == int(np.argmax([facts["first"], facts["middle"], facts["last"]]))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_stays_within_half_a_step(bits: int, sources: Sources) -> None:
    made = lesson_sums.rounding(sources, bits)
    pairs = np.array([[row["value"], row[f"{bits} bits"]] for row in made.table])
    step = (pairs[:, 0].max() - pairs[:, 0].min()) / (2**bits - 1)
    assert np.abs(pairs[:, 0] - pairs[:, 1]).max() <= step / 2 + 0.01 and len(made.picture["levels"]) == 2**bits
    assert lesson_sums.rounding(sources, bits, 40).facts["times"] > 2


def test_spans_nearest_and_links() -> None:
    assert spans(np.array([0, 1, 1, 0.5, 0, 0, 1])) == [[1, 3, 1.0], [3, 4, 0.5], [6, 7, 1.0]] and spans(np.zeros(3)) == []
    assert [nearest(v, [1, 2, 4]) for v in (0.1, 1.9, 100)] == [0, 1, 2]
    assert [place({"step": s}, 5) for s in ("1", "3", "99", "0", "-2", "x", "", "³")] == [0, 2, 4, 0, 0, 0, 0, 0]
    assert link("sinks", 2) == "learn?lesson=sinks&step=3" and link("sinks", 0, True).endswith("step=1&present=1")


def test_the_browser_gets_text_only_and_colours_from_the_table() -> None:
    code, sheet = script(), style().split("}\n", 1)[1]
    assert "innerHTML" not in code and "insertAdjacent" not in code
    assert not re.search(r"#[0-9A-Fa-f]{3,8}\b", sheet), "a colour of its own"
    assert all(f"function {name}(" in code for name in ("el", "svg", "textWidth"))


opened = functools.partial(page_alone, "learn.py")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a lesson must not load a model")

    monkeypatch.setattr("kvlab.models.load", refuse)
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))


@pytest.mark.usefixtures("no_model")
def test_the_page_lists_opens_and_keeps_progress() -> None:
    at = opened()
    assert said(at).count("<li>") == 8 and "learn?lesson=cache&amp;step=1" in said(at)
    at.query_params["lesson"], at.query_params["step"] = "cache", "3"
    at.run()
    assert not at.exception and at.session_state["lesson_start"]["step"] == 2
    at.query_params.clear()
    at.run()
    assert "1 of 5 steps seen" in said(at) and "learn?lesson=cache&amp;step=3" in said(at)


@pytest.mark.usefixtures("no_model")
def test_the_small_pictures_show_what_is_held_and_give_no_answer_away(sources: Sources) -> None:
    row = {"spans": [[0, 10, 1.0], [90, 100, 0.5]]}
    held = lesson_thumb.thumb([{"picture": {"kind": "tracks", "n": 100, "rows": [row]}}])
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%;[^>]*--held\);opacity:([\d.]+)", held) == [("0.00", "10.00", "1.00"), ("90.00", "10.00", "0.50")]
    guessed = {"question": {"ask": "?"}, "picture": {"kind": "text", "hide": "states", "parts": [{"t": "a", "share": 1.0}]}}
    assert lesson_thumb.thumb([guessed]) == "" and lesson_thumb.thumb([{**guessed, "question": None}])
    made = {lesson.id: lesson_thumb.thumb(built(lesson, sources)["steps"]) for lesson in lessons.lessons()}
    assert all(made.values()) and len(set(made.values())) == 8 and sum(map(len, made.values())) < 150_000


def test_unknown_lessons_and_steps_are_said_or_mended() -> None:
    assert "There is no lesson of that name" in said(opened(lesson=HOSTILE))
    assert opened(lesson="sinks", step="99").session_state["lesson_start"]["step"] == 5
    assert "stHeader" in said(opened(lesson="sinks", step="2", present="1"))


def test_broken_lessons_are_an_error_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "1_a.yaml").write_text("title: T")
    monkeypatch.setattr(lessons, "folder", lambda: tmp_path)
    assert "about is missing" in said(opened())


def test_never_is_what_the_scenes_take_it_for() -> None:
    assert (fake("full").trace.left_at == NEVER).all() and lesson_scenes.kept(One(fake("full")), "made", "full").facts["share"] == 1
