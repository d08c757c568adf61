"""The Compare page without a browser: which runs stand side by side, how answers and kept sets are compared, what is said, and what travels."""

from __future__ import annotations

import functools
import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from alone import html, page_alone
from compare_runs import WORDS, saying
from fake_runs import fake
from streamlit.testing.v1 import AppTest

from kvlab import presets
from kvlab.runs import RunStore, StoredRun
from kvlab.trace import NEVER
from kvlab.ui import compare_sets, compare_start, compare_tables
from kvlab.ui.compare import MOST, Asked, groups, lineup, mixed
from kvlab.ui.compare_data import body, payload
from kvlab.ui.compare_diff import diff, first_difference, words
from kvlab.ui.compare_words import story
from kvlab.ui.finding import plain

HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script><img src=x onerror=alert(1)>"
OTHER = [" VAR", " cup", " =", " 9", "."]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """An empty store that the page reads too, with nothing shipped."""
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))
    monkeypatch.setattr("kvlab.runs.DATA", tmp_path / "none")
    return RunStore()


@pytest.fixture
def runs(store: RunStore) -> dict[str, StoredRun]:
    """The full cache, one run that answers alike, one that loses something at step 1, and one with fewer bits that leaves at step 3 on a near tie."""
    made = {
        "full": saying(WORDS, "full", "Full cache"), "alike": saying(WORDS, "same", "Alike"), "lost": saying(OTHER, "evict", "Lost", kl=2.0),
        "tie": saying([*WORDS[:3], " 7", "."], "bits", "Tie", kl=0.001),
    }  # fmt: skip
    for run in made.values():
        store.save(run.manifest, run.trace)
    return made


def asked(*runs: StoredRun, **more: object) -> Asked:
    return Asked(tuple(run.id for run in runs), **more)


def test_words_keep_numbers_and_names_together():
    found = words([" VAR", " bo", "sa", " =", " 525", "170", ".", "\n", "x", "9", "<|eos|>"])
    assert [w.text for w in found] == ["VAR", "bosa", "=", "525170", ".", "\n", "x", "9", "<|eos|>"]
    assert [(w.start, w.end) for w in found][:4] == [(0, 1), (1, 3), (3, 4), (4, 6)] and found[3].gap and not found[4].gap
    assert words([]) == [] and [w.text for w in words(["1 ", "2"])] == ["1", "2"], "white space at a token's end parts numbers as well"


@pytest.mark.parametrize("seed", range(12))
def test_a_diff_rebuilds_both_answers(seed: int):
    rng = np.random.default_rng(seed)
    mine, theirs = ([f" {'abc'[i]}" for i in rng.integers(0, 3, rng.integers(1, 8))] for _ in range(2))
    a, b = saying(mine, "evict"), saying(theirs, "full")
    parts = diff(a, b)
    assert [p["text"] for p in parts if p["kind"] in ("same", "added")] == [w.strip() for w in mine]
    assert [p["text"] for p in parts if p["kind"] in ("same", "removed")] == [w.strip() for w in theirs]
    plainly = next((i for i in range(max(len(mine), len(theirs))) if mine[i : i + 1] != theirs[i : i + 1]), None)
    assert first_difference(a, b) == plainly


def test_what_comes_after_a_cut_is_no_difference():
    full, stopped = saying(WORDS, "full"), saying(WORDS[:2], "evict", cut=True)
    assert first_difference(stopped, full) is None and [p["kind"] for p in diff(stopped, full)] == ["same", "same"]
    assert [p["kind"] for p in diff(full, stopped)] == ["same", "same", "beyond", "beyond", "beyond"]
    assert first_difference(saying(WORDS[:2], "evict"), full) == 2, "an answer that ended by itself differs where it ended"


def test_overlap_is_that_of_plain_sets():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 2, 29)) < 0.4, rng.random((3, 2, 29)) < 0.7
    got = compare_sets.overlap(a, b, [0, 2])
    mine, theirs = ({at for at in product((0, 2), range(2), range(29)) if s[at]} for s in (a, b))
    assert got.shared == pytest.approx(len(mine & theirs) / len(mine | theirs))
    for layer, only, both, other in got.layers:
        pick = [{at for at in s if at[0] == layer} for s in (mine, theirs)]
        assert (only, both, other) == (len(pick[0] - pick[1]), len(pick[0] & pick[1]), len(pick[1] - pick[0]))
    empty = np.zeros_like(a)
    assert compare_sets.overlap(empty, empty, [0]).shared == 1.0 and compare_sets.overlap(a, empty, [0]).shared == 0.0


def test_chance_is_what_random_sets_of_the_same_sizes_share():
    rng, size = np.random.default_rng(1), (1, 3, 400)
    sets = [np.stack([[rng.permutation(400) < n for n in sizes]]) for sizes in ((40, 100, 300), (200, 20, 390))]
    told = compare_sets.overlap(*sets, [0]).chance
    shuffled = [rng.permuted(s, axis=-1) for s in sets for _ in range(1)]
    found = np.mean([compare_sets.overlap(rng.permuted(sets[0], axis=-1), shuffled[1], [0]).shared for _ in range(60)])
    assert sets[0].shape == size and told == pytest.approx(found, abs=0.01)


def test_kept_sets_are_of_the_prompt_and_leave_windows_out():
    run = saying(WORDS, "evict")
    t = run.trace
    assert np.array_equal(compare_sets.kept(run), t.left_at[..., : t.asked] == NEVER)
    run.manifest["geometry"]["windows"] = [None, 8, None]
    assert compare_sets.open_layers(run) == [0, 2]
    assert [row[0] for row in compare_sets.overlaps([run, run])[0, 1].layers] == [0, 2]


def test_the_address_goes_there_and_back():
    for said in (Asked(), Asked(("a" * 16, "b" * 16), "a" * 16, 7, True), Asked(("a" * 16,), blind=0)):
        assert Asked.of(said.params()) == said
    assert Asked.of({"cmp": " x,, x,y ", "blind": "-3"}) == Asked(("x", "y")) and Asked.of({"blind": "²"}).blind is None


def test_the_full_cache_is_the_reference_until_another_is_pinned(store: RunStore, runs: dict[str, StoredRun]):
    line = lineup(store, asked(runs["lost"], runs["full"], runs["alike"]))
    assert line.reference.id == runs["full"].id and [line.name(run) for run in line.columns] == ["Lost", "Alike"]
    alone = lineup(store, asked(runs["lost"]))
    assert alone.reference.id == runs["full"].id, "the stored full cache of the same prompt stands in"
    pinned = lineup(store, asked(runs["lost"], runs["full"], runs["alike"], ref=runs["alike"].id))
    assert [run.id for run in pinned.columns] == [runs["lost"].id, runs["full"].id, runs["alike"].id] and len(pinned.others) == 2
    assert pinned.letters[runs["lost"].id] == line.letters[runs["lost"].id] == "A", "pinning moves no letter"


def test_what_cannot_stand_side_by_side_is_refused_in_a_sentence(store: RunStore, runs: dict[str, StoredRun]):
    other = saying(WORDS, "same", "Elsewhere", long=2)
    stopped, small = fake("empty"), saying(WORDS, "same", "Small", layers=2)
    foreign = saying(WORDS, "same", "Foreign")
    foreign.manifest["model"] = "another"
    for run in (other, stopped, small, foreign):
        store.save(run.manifest, run.trace)
    full = runs["full"]
    for wrong, words_ in ((asked(full, other), "another prompt"), (asked(full, stopped), "first token"), (asked(full, small), "another model"),
                          (asked(full, foreign), "another model"), (asked(full), "One run alone"), (asked(runs["lost"], full, ref=other.id), "not among"),
                          (Asked(tuple(f"{i:016x}" for i in range(MOST + 1))), "names 7 runs"), (Asked(("0" * 16,)), "not stored"),
                          (Asked(("../../etc",)), "not the id")):  # fmt: skip
        with pytest.raises(ValueError, match=words_) as told:
            lineup(store, wrong)
        assert str(told.value).endswith(".")


def test_blind_order_hangs_on_the_seed_and_names_stay_on_the_server(store: RunStore, runs: dict[str, StoredRun]):
    several = asked(*runs.values())
    orders = {tuple(run.id for run in lineup(store, Asked(several.ids, blind=seed)).columns) for seed in range(30)}
    assert len(orders) == 6, "every order of three columns turns up"
    hidden, shown = (lineup(store, Asked(several.ids, blind=5, revealed=open_)) for open_ in (False, True))
    assert [run.id for run in hidden.columns] == [run.id for run in shown.columns] and hidden.letters == shown.letters
    sent = payload(body(hidden), 0, -1)
    assert not any(name in sent for name in (b"Alike", b"Lost", b"Tie", b"axis-", b"inside?run")), "nothing sent names a method"
    assert b"Alike" in payload(body(shown), 0, -1) and "Run A" in plain(story(hidden).sentence) + story(hidden).title + str(story(hidden).figures)
    for make in compare_tables.TABLES.values():
        assert "Alike" not in make(hidden).to_csv() and "Alike" in make(shown).to_csv()


def test_offers_mix_the_axes():
    listed = [{"axis": axis, "n": n} for n, axis in enumerate(["reference", *["eviction"] * 6, "heads", "quantization"])]
    assert [m["n"] for m in mixed(listed, 5)] == [0, 1, 2, 7, 8] and mixed(listed, 20) == listed


def test_the_story_tells_hills_from_ties(store: RunStore, runs: dict[str, StoredRun]):
    r = runs
    told = story(lineup(store, asked(*r.values())))
    assert told.title == "Three smaller caches, one of which answers as the full cache does" and told.step == 1
    said = plain(told.sentence)
    assert "◆ on a hill is something lost: Lost leaves at step 1, 2.9 bits" in said
    assert "◆ on a flat line is a near tie between two words: Tie at step 3" in said
    assert told.figures[0][1] == "Alike" and told.token >= 0
    same = story(lineup(store, asked(r["full"], r["alike"])))
    assert same.title == "One smaller cache, the same answer" and plain(same.sentence).startswith("No ◆") and same.step == 0
    pinned = story(lineup(store, asked(*r.values(), ref=r["lost"].id)))
    assert pinned.title == "Three other caches, and none answers as Lost does"
    assert "near tie" not in plain(pinned.sentence), "the hills are measured from the full cache: they say nothing of another reference"


def read(sent: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(sent[:4], "little")
    return json.loads(sent[4 : 4 + length]), sent[4 + length :]


@pytest.mark.parametrize("kind", ["evict", "merge", "bits", "read", "alone"])
def test_what_travels_is_what_was_stored(store: RunStore, runs: dict[str, StoredRun], kind: str):
    run = saying(WORDS, kind, kind)
    store.save(run.manifest, run.trace)
    line = lineup(store, asked(runs["full"], run))
    header, blocks = read(payload(body(line), 2, 5, 9))
    assert header["view"] == {"step": 2, "token": 5} and header["arrival"] == 9 and header["writes"] == WORDS and len(header["pieces"]) == run.trace.asked
    (at, size), t = header["spans"][0], line.columns[0].trace
    about, raw = read(blocks[at : at + size])
    array = lambda name: np.frombuffer(raw, about["arrays"][name]["kind"], about["arrays"][name]["size"], about["arrays"][name]["at"])  # noqa: E731
    assert np.array_equal(array("left"), t.left_at.ravel()) and np.array_equal(array("born"), t.born) and at % 8 == 0
    assert {"bits", "into", "unread"} & set(about["arrays"]) == {"bits": {"bits"}, "merge": {"into"}, "read": {"unread"}}.get(kind, set())
    assert all(place["at"] % 8 == 0 for place in about["arrays"].values()) and about["answer"] == WORDS


def test_tables_hold_every_run_and_every_pair(store: RunStore, runs: dict[str, StoredRun]):
    line = lineup(store, asked(*runs.values()))
    tables = {name: make(line) for name, make in compare_tables.TABLES.items()}
    assert len(tables["The runs"]) == 4 and tables["The runs"]["first difference, step"].isna().sum() == 2
    assert len(tables["Step by step"]) == len(WORDS) and len(tables["Overlap of kept entries"]) == 6
    by_layer = tables["Overlap by layer"].groupby(["first", "second"])["both"].sum()
    assert by_layer.sum() == tables["Overlap of kept entries"]["both"].sum()


opened = functools.partial(page_alone, "compare.py")


def param(at: AppTest, name: str) -> str:
    found = at.query_params[name]
    return found if isinstance(found, str) else found[0]


def test_an_empty_page_offers_what_is_stored(store: RunStore):
    assert "Two runs on one prompt are needed" in html(opened())
    for run in (saying(WORDS, "full", "Full cache"), saying(WORDS, "same", HOSTILE)):
        run.manifest["request"]["question"] = HOSTILE
        store.save(run.manifest, run.trace)
    said = html(opened())
    assert 'href="compare?cmp=' in said and "Compare 2 runs" in said
    assert "<script>" not in said and "<img" not in said and "&lt;script&gt;" in said
    assert len(groups(store.list())) == 1


def test_the_page_opens_with_runs_and_says_what_is_wrong_without(store: RunStore, runs: dict[str, StoredRun]):
    ids = ",".join(run.id for run in runs.values())
    at = opened(cmp=ids)
    assert "one of which answers as the full cache does" in html(at) and at.button(key="compare-blind").label == "Hide names"
    at.button(key="compare-blind").click().run()
    assert not at.exception and at.button(key="compare-blind").label == "Reveal names" and "Alike" not in html(at)
    at.button(key="compare-blind").click().run()
    assert not at.exception and param(at, "blind").endswith(".open") and at.button(key="compare-blind").label == "Hide names"
    assert "cannot be compared" in html(opened(cmp=runs["full"].id)) and "not stored here" in html(opened(cmp=f"{'0' * 16},{ids}"))
    for step in ("99999", "x", ""):
        opened(cmp=ids, step=step, tok="-1")


def test_the_picker_offers_runs_of_this_prompt_and_changes_the_address(store: RunStore, runs: dict[str, StoredRun]):
    other = saying(WORDS, "same", "Elsewhere", long=2)
    other.manifest["request"]["prompt"] = "other"
    store.save(other.manifest, other.trace)
    at = opened(cmp=f"{runs['full'].id},{runs['lost'].id}")
    box = at.multiselect[0]
    assert len(box.options) == 4 and not any("Elsewhere" in option for option in box.options)
    box.set_value([runs["full"].id, runs["alike"].id]).run()
    assert not at.exception and param(at, "cmp") == f"{runs['full'].id},{runs['alike'].id}" and "the same answer" in html(at)


def test_a_label_is_method_budget_and_first_words():
    assert compare_start.label(saying(WORDS, "evict", "Lost").manifest) == "Lost, budget 0.5: VAR pen = 525170."
    assert compare_start.label(saying([" ", "\n"], "full", "Full cache").manifest) == "Full cache"


def test_presets_of_the_page_have_rivals_at_one_budget():
    for preset in presets.presets():
        made = list(presets.requests(preset))
        budgets = {str(part.budget) for r in made for part in r.method.members if part.budget_knob}
        names = [r.method.name for r in made]
        assert len(set(names)) == len(names) and names[0] == "full" and len(budgets) <= 1
        assert (len(names) >= 6) == (preset["id"] in presets.COMPARED)
    assert set(presets.COMPARED) <= {preset["id"] for preset in presets.presets()}


def test_presets_delete_other_runs_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old, new = saying(WORDS, "evict"), saying(WORDS, "full")
    monkeypatch.setattr(presets, "presets", lambda: [{"id": "one"}])
    monkeypatch.setattr(presets, "requests", lambda preset: ["full"])
    result = SimpleNamespace(trace=new.trace, method="full", text="", bytes=new.manifest["bytes"])
    monkeypatch.setattr(presets, "run", lambda lm, request: result)
    monkeypatch.setattr(presets, "manifest", lambda lm, request, result: new.manifest)
    RunStore(tmp_path).save(old.manifest, old.trace)
    (tmp_path / "notes.txt").write_text("mine")
    stored = lambda: {path.parent.name for path in tmp_path.glob("*/manifest.json")}  # noqa: E731
    presets.store_all(None, tmp_path, lambda line: None)
    assert stored() == {old.id, new.id}
    presets.store_all(None, tmp_path, lambda line: None, clean=True)
    assert stored() == {new.id} and (tmp_path / "notes.txt").exists()
