"""Look inside without a browser: the payload against the trace, the finding, the tables, and the page in every state."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from alone import page_alone
from conftest import tiny
from fake_runs import STEPS, fake
from safetensors.torch import save_file
from streamlit.testing.v1 import AppTest

import kvlab.ui.inside as inside
from kvlab import runs
from kvlab.engine import Request
from kvlab.engine import run as run_engine
from kvlab.presets import presets
from kvlab.profile import SCORES
from kvlab.registry import make
from kvlab.runs import RunStore, StoredRun, manifest, run_id
from kvlab.trace import NEVER
from kvlab.ui import again, head_profile
from kvlab.ui.component import script, style
from kvlab.ui.finding import finding, plain
from kvlab.ui.inside import View, block, entries_csv, first_difference, head_table, missing, payload, token_table, unread, wanted
from kvlab.ui.opening import first_run
from kvlab.ui.palette import RAMP, TOKENS, axis_colour, css, plotly_template, ramp

KINDS = ("evict", "merge", "bits", "read", "alone", "same", "full")
HOSTILE = ["<img src=x onerror=alert(1)>", " ![x](http://example.invalid/a.png)", " $x^2$", " :material/home:", " </style><script>alert(1)</script>"]
HOSTILE += ["\x07", " \u202eevil"]


def read(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """A payload as the browser reads it."""
    size = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + size])
    body = data[4 + size :]
    return header, {name: np.frombuffer(body, a["kind"], a["size"], a["at"]) for name, a in header["arrays"].items()}


@pytest.mark.parametrize("kind", KINDS)
def test_payload_holds_the_numbers_of_the_trace(kind: str) -> None:
    run = fake(kind)
    t = run.trace
    header, arrays = read(payload(block(run), View(1, 1, 1, 3), (3,), 7))
    assert (header["L"], header["H"], header["P"], header["S"], header["every"]) == (*t.left_at.shape, STEPS, 1)
    assert header["view"] == {"step": 1, "layer": 1, "head": 1, "token": 3, "until": -1, "track": -1, "till": -1}
    assert header["named"] == [3] and header["arrival"] == 7
    assert header["pieces"] == run.manifest["pieces"] and header["first"] == first_difference(t)
    assert all(a["at"] % 8 == 0 for a in header["arrays"].values())
    assert np.array_equal(arrays["left"].reshape(t.left_at.shape), t.left_at)
    assert np.array_equal(arrays["attention"].view(np.float16).reshape(t.attention.shape), t.attention)
    assert np.array_equal(arrays["born"], t.born) and np.array_equal(arrays["rank"].reshape(t.rank.shape), t.rank)
    assert ("full" in arrays) == bool(t.full.size) and ("into" in arrays) == (kind == "merge") and ("bits" in arrays) == (kind == "bits")
    if t.full.size:
        assert np.array_equal(arrays["missing"].reshape(STEPS, 3, 2), missing(t))
        for step in range(STEPS):
            listed = arrays.get("lost", np.zeros(0, int))[arrays["lost_from"][step] : arrays["lost_from"][step + 1]]
            assert np.array_equal(listed, np.flatnonzero((t.full[step] > inside.WANTED) & (t.left_at <= step)))


def test_an_entry_that_came_back_travels_with_the_steps_it_was_away() -> None:
    run = fake("same")
    t = dataclasses.replace(run.trace, away=np.array([[1, 0, 2, 3, 6]], np.int32))
    _, arrays = read(payload(block(dataclasses.replace(run, trace=t)), View(), (), 7))
    assert arrays["away"].tolist() == [2 * t.left_at.shape[2] + 2, 3, 6]
    assert [bool(t.gone(s)[1, 0, 2]) for s in range(STEPS)] == [s in (3, 4, 5) or t.left_at[1, 0, 2] <= s for s in range(STEPS)]


def test_header_keeps_arrays_aligned_whatever_its_length() -> None:
    made = block(fake())
    for n in range(8):
        data = payload(made, View(), tuple(range(n)))
        assert (4 + int.from_bytes(data[:4], "little")) % 8 == 0


def test_what_was_not_read_is_told_from_what_is_gone() -> None:
    t = fake("read").trace
    header, arrays = read(payload(block(fake("read")), View()))
    bits = np.unpackbits(arrays["unread"].reshape(STEPS, 3, 2, -1), axis=-1, bitorder="little")[..., : header["P"]].astype(bool)
    assert np.array_equal(bits, unread(t)) and bits.any()
    by_hand = sum(float(t.full[2, 1, 1, p]) for p in range(t.born[2]) if not t.read[2, 1, 1, p])
    assert missing(t)[2, 1, 1] == pytest.approx(by_hand, abs=1e-3)
    assert not t.missing().any(), "a retrieval method evicts nothing"


def test_a_head_that_read_all_has_nothing_unread() -> None:
    run = fake("read")
    run.trace.read[3, 0, 0] = False  # as recorded when a layer attends to everything
    assert not unread(run.trace)[3, 0, 0].any() and unread(run.trace)[3, 0, 1].any()


def test_long_runs_travel_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake("evict")
    monkeypatch.setattr(inside, "HALF_LIMIT", run.trace.attention.size // 4)
    header, arrays = read(payload(block(run), View()))
    assert header["every"] == 2 and arrays["attention"].dtype == np.uint8
    back = (arrays["attention"].reshape(-1, *run.trace.attention.shape[1:]) / 255.0) ** 2
    assert np.abs(back - run.trace.attention[::2]).max() < 0.005


def test_view_round_trips_through_a_link_and_survives_nonsense() -> None:
    t = fake().trace
    start = View(1, 1, 1, 35)
    for view in (View(5, 2, 0, 7), View(5, 2, 0, 7, 9), View(0, 0, 0), View(1, 0, 0, 2, -1, 5, 8)):
        assert View.of(view.params(), t, start) == view
    assert View.of({}, t, start) == start
    assert View.of({"step": "-3", "L": "zwei", "H": "99999", "tok": "1e9"}, t, start) == View(1, 1, 1, -1)
    assert View.of({"track": "9-3"}, t, start).track == View.of({"track": "x"}, t, start).track == -1
    assert View.of({"step": "٣", "tok": "5-<b>"}, t, start).until == -1


def test_finding_names_the_entry_that_was_planted() -> None:
    run = fake("evict")
    found = finding(run)
    token = run.trace.prompt - 5
    assert found.title == "One wanted digit is gone, and the answer differs"
    assert (found.view.step, found.view.layer, found.view.head, found.view.token) == (1, 1, 1, token)
    kept = int((run.trace.left_at[1, 1, : run.trace.prompt] == NEVER).sum())
    said = plain(found.sentence)
    assert said.startswith("The full cache reads 2 (60 % of head L1 · H1 at step 1). That head dropped it after the prompt")
    assert (f"at rank 40 where the head kept {kept}" in said) == (kept < 40)


@pytest.mark.parametrize(
    ("kind", "title", "said"),
    [
        ("merge", "One wanted digit is merged away, and the answer differs", "That head merged the entry after the prompt into"),
        ("bits", "A different token at step 1, with every wanted entry held", "the cells are lower"),
        ("read", "No loss that one prompt can show: the same 8 tokens", "held but not read"),
        ("same", "No loss that one prompt can show: the same 8 tokens", "Lower the budget until a hatched cell appears."),
        ("full", "The full cache: every entry held", "first token"),
        ("empty", "Stopped before the first token", "nothing to look into"),
    ],
)
def test_finding_by_situation(kind: str, title: str, said: str) -> None:
    found = finding(fake(kind))
    assert found.title == title and said in plain(found.sentence)


def test_without_a_reference_the_title_is_the_setting() -> None:
    found = finding(fake("alone"))
    assert re.fullmatch(r"Made alone, \d+ % of entries kept", found.title) and "full cache" not in plain(found.sentence)


def test_no_difference_is_claimed_where_none_is_stored() -> None:
    run = fake("evict")
    run.trace.top[:] = run.trace.written
    found = finding(run)
    assert "differs" not in found.title and "the same 8 tokens" in found.title


def test_tables_and_csv_say_what_the_pictures_show() -> None:
    run = fake("evict")
    t = run.trace
    heads = head_table(run, 2)
    assert [h["entries held"] for h in heads] == t.held(2).sum(-1).ravel().tolist()
    rows = token_table(run, View(1, 1, 1))
    assert len(rows) == t.born[1] and rows[t.prompt - 5]["evicted at step"] == 0 and rows[t.prompt - 5]["full cache reads, %"] == pytest.approx(60, abs=1)
    parsed = list(csv.DictReader(io.StringIO(entries_csv(run))))
    assert len(parsed) == t.left_at.size
    gone = {(int(r["layer"]), int(r["kv_head"]), int(r["position"])) for r in parsed if r["left_at_step"]}
    assert gone == {tuple(map(int, i)) for i in np.argwhere(t.left_at != NEVER)}
    assert wanted(t, 1)[1, 1, t.prompt - 5]


def test_csv_is_never_a_formula() -> None:
    run = fake("full", pieces=["=1+1", "+2", "-3", "@x", "word"])
    tokens = [row["token"] for row in csv.DictReader(io.StringIO(entries_csv(run)))][:5]
    assert tokens == ["'=1+1", "'+2", "'-3", "'@x", "word"]


def test_style_sheet_and_table_of_colours_agree() -> None:
    found = {name: (light, dark) for name, light, dark in re.findall(r"--([a-z-]+): light-dark\((#\w{6}), (#\w{6})\);", css())}
    assert found == TOKENS
    used = set(re.findall(r"var\(--([a-z-]+)", style())) - {"share", "n", "gap", "st-font", "st-heading-font"}
    assert used <= set(TOKENS), used - set(TOKENS)
    for theme in ("light", "dark"):
        assert plotly_template(theme)["layout"]["colorway"][0] == axis_colour("eviction", theme)
    assert len(ramp("dark")) == len(RAMP) == 10 and ramp("dark")[0] == TOKENS["panel"][1]


def test_no_text_becomes_markup_and_nothing_is_fetched() -> None:
    code = script()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|import\(|XMLHttpRequest", code)
    assert set(re.findall(r"https?://[^\"'`\s)]+", code + style())) <= {"http://www.w3.org/2000/svg"}


# the page


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunStore:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))
    return RunStore()


def opened(stored: StoredRun | None, store: RunStore, **params: str) -> AppTest:
    """The page with a run stored and asked for."""
    if stored is not None:
        params["run"] = store.save(stored.manifest, stored.trace)
    return page_alone("inside.py", **params)


def shown(at: AppTest) -> str:
    """All HTML the page wrote."""
    return "\n".join(element.proto.body for element in at.get("html"))


def test_page_without_runs(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "DATA", store.folder)  # nothing is shipped
    at = opened(None, store)
    assert "No run is open" in shown(at) and "Make a run first" in shown(at)


def test_page_with_a_bad_id_says_so_and_offers_runs(store: RunStore) -> None:
    run = fake("same")
    store.save(run.manifest, run.trace)
    at = opened(None, store, run="../../etc/passwd")
    assert "That is not the id of a run" in shown(at)
    assert f'href="inside?run={run.id}"' in shown(at)


def test_page_without_a_run_in_its_address_opens_what_the_first_preset_suggests(store: RunStore) -> None:
    at, first = opened(None, store), presets()[0]
    run = store.load(first_run(store.list()))
    assert run.manifest["request"]["prompt"] == first["context"] and run.manifest["method"] == first["suggest"]["method"]
    assert finding(run).title in shown(at) and all(f'href="inside?run={m["id"]}"' in shown(at) for m in store.list())


@pytest.mark.parametrize("kind", KINDS)
def test_page_shows_the_finding_of_a_run(store: RunStore, kind: str) -> None:
    run = fake(kind)
    text = shown(opened(run, store))
    assert finding(run).title in text and "Held by tensors, measured" in text and "reconstructed from its paper" in text


def test_page_of_a_run_stopped_before_its_first_token(store: RunStore) -> None:
    assert "Stopped before the first token" in shown(opened(fake("empty"), store))


def test_page_tables_follow_the_link(store: RunStore) -> None:
    at = opened(fake("evict"), store, step="3", L="0", H="1")
    at.toggle(key="inside_table").set_value(True).run()
    assert not at.exception and len(at.dataframe) == 2
    assert at.dataframe[0].value["entries held"].tolist() == fake("evict").trace.held(3).sum(-1).ravel().tolist()
    assert "Step 3, head L0 · H1" in shown(at)


def test_page_escapes_hostile_text(store: RunStore) -> None:
    run = fake("evict", pieces=HOSTILE + [" a"] * 12)
    run.manifest.update(title="<script>alert(2)</script>", model="<img src=x>")
    run.manifest["tops"][1] = "<img src=x onerror=alert(3)>"
    text = shown(opened(run, store))
    assert "<script>alert" not in text and "<img" not in text and "&lt;script&gt;alert(2)" in text


@pytest.mark.parametrize("there", [True, False])
def test_the_head_profile_is_drawn_when_it_is_asked_for(there: bool, store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "profile.safetensors"
    save_file({**{name: torch.rand(3, 4) for name in SCORES}, "answered": torch.tensor([3, 2]), "asked": torch.tensor([4, 4])}, path)
    asked = []
    monkeypatch.setattr(head_profile, "find", lambda method, lm: asked.append(method.name) or (path if there else None))
    at = opened(fake(), store)
    assert not at.get("plotly_chart") and not asked, "nothing is read before the part is opened"
    at.session_state["inside_profile"] = True
    at.run()
    assert not at.exception and asked == ["headkv"]
    assert len(at.get("plotly_chart")) == there and any("python -m kvlab profile" in code.value for code in at.code) == (not there)
    assert ("is strongest in layer" in shown(at)) == there


def test_a_run_is_asked_for_again_with_what_was_protected() -> None:
    lm = tiny()
    before = run_engine(lm, Request("abcdefghij klmnop qrstu vwxyz", make("knorm", "0.2"), max_new_tokens=3, stop_at_end=False, seed=3))
    said = manifest(lm, Request("abcdefghij klmnop qrstu vwxyz", make("knorm", "0.2"), max_new_tokens=3, stop_at_end=False, seed=3), before)
    request = again.request_of(said, 12, 14)
    assert request.pinned == (12, 13, 14) and request.compare and (request.seed, request.max_new_tokens) == (3, 3) and str(request.method.budget) == "0.2"
    after = run_engine(lm, request)
    assert all({12, 13, 14} <= set(head) for layer in after.kept for head in layer)
    assert not all({12, 13, 14} <= set(head) for layer in before.kept for head in layer), "without protection some head drops one"
    assert (after.trace.left_at[..., 12:15] == NEVER).all() and after.bytes["resident"] >= before.bytes["resident"]
    assert run_id(lm, request) != said["id"] and again.request_of({**said, "request": vars(request)}, 0, 0).pinned == (0, 12, 13, 14)


@pytest.mark.parametrize(
    ("change", "span", "sentence"),
    [
        ({"method": "kivi", "knobs": {}}, (0, 1), "drops nothing"), ({"method": "cam", "knobs": {}}, (0, 1), "merges entries"),
        ({"request": {}}, (0, 1), "without its prompt"), ({}, (5, 2), "Only tokens of the prompt"), ({}, (0, 9999), "Only tokens of the prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_protected_is_a_sentence(change: dict, span: tuple[int, int], sentence: str) -> None:
    said = {"method": "knorm", "knobs": {}, "budget": {"asked": "0.5"}, "request": {"prompt": "a"}, "prompt_tokens": 20, "question_tokens": 3}
    with pytest.raises(ValueError, match=sentence):
        again.request_of(said | change, *span)


@pytest.mark.parametrize("name", ["snapkv", "h2o", "adakv", "streamingllm", "snapkv+kivi"])
def test_pinned_entries_stay_in_every_head(name: str) -> None:
    lm, ask = tiny(), Request("abcdefghij klmnop qrstu vwxyz 0123456789", make(name, "0.2"), max_new_tokens=4, chunk=16, stop_at_end=False, attention=False)
    pinned = run_engine(lm, dataclasses.replace(ask, pinned=(7, 12)))
    assert all({7, 12} <= set(head) for layer in pinned.kept for head in layer)
    with pytest.raises(ValueError, match="positions 0 to 39; 40 is none"):
        run_engine(lm, dataclasses.replace(ask, pinned=(40,)))


def test_true_bits_and_side_bytes_reach_the_browser() -> None:
    result = run_engine(tiny(), Request("abcdefghij klmnop " * 4, make("snapkv+kivi", "0.5"), max_new_tokens=2, stop_at_end=False))
    assert 2 < result.bytes["bits_per_value"] < 32 and result.bytes["side"] == 0
    run = fake("bits")
    run.manifest["bytes"] |= {"bits_per_value": 5.25, "side": 2048}
    header, _ = read(payload(block(run), View()))
    assert header["bytes"]["bits_per_value"] == 5.25 and header["bytes"]["side"] == 2048 and header["noPin"]
