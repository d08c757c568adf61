"""Heads of different worth: the profile that tells them apart, the methods that use it, and the worked examples of their cards."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import plain, tiny
from torch import Tensor

from kvlab.attention import QUERY_BLOCK, Rules
from kvlab.cache import KVCache
from kvlab.calibration import artefact, find, key
from kvlab.engine import kept_positions
from kvlab.geometry import Geometry
from kvlab.method import Method
from kvlab.methods.heads._gates import DuoGates, hidden, mixed, streaming
from kvlab.methods.heads._gates import plain as full_hidden
from kvlab.methods.heads._split import split, widths
from kvlab.methods.heads.adakv import BASES
from kvlab.methods.heads.headkv import capacities, fitted, shares
from kvlab.methods.heads.razorattention import TAG, folded, retrieval_heads
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.predict import predicted_bytes
from kvlab.profile import SCORES, HeadProfile, by_kv_head, main, placed
from kvlab.profile_plot import alt, figure, twin
from kvlab.profile_scores import Repeats, copies, repeats, rests
from kvlab.registry import make
from kvlab.session import Session
from kvlab.trace import NEVER, Recorder, Silent

PROMPT, STEPS = 96, 4
IDS = torch.randint(0, 128, (1, PROMPT), generator=torch.Generator().manual_seed(11))
WRITTEN = torch.randint(0, 128, (STEPS,), generator=torch.Generator().manual_seed(12))
SHORT = {"steps": 6, "size": 64}  # of DuoAttention's training


def played(lm: LM, method: Method, table: dict[str, Tensor] | None = None, ids: Tensor = IDS, steps: int = STEPS) -> tuple[Session, Tensor]:
    """A run, with an artefact made by hand if there is a `table`, and its logits [1 + steps, V]."""
    session = Session(lm, method, recorder=Recorder(lm.geometry.layers, lm.geometry.kv_heads, ids.shape[1] + steps))
    session.cache.artefact = table or session.cache.artefact
    logits = [session.prefill(ids), *(session.decode(token[None]) for token in WRITTEN[:steps])]
    return session, torch.cat(logits)


def held(session: Session) -> Tensor:
    """Slots of every head: [L, H]."""
    return torch.stack([layer.store.lens()[0].expand(2) for layer in session.cache.layers])


# the profile


def test_a_head_that_attends_to_what_followed_is_an_induction_head_and_no_echo() -> None:
    period, offset = 5, 1
    rows = torch.zeros(1 + 4 * period, 1 + 4 * period)
    for query in range(len(rows)):
        rows[query, max(0, query - period + 1)] = 1
    echo, after = repeats(rows, 0, period, offset)
    assert echo == 0 and after == 3 * period  # every query from the second repetition on, and no other
    rows = torch.eye(len(rows)).roll(2 * period, 0).tril()
    echo, after = repeats(rows, 0, period, offset)
    assert echo == 2 * period and after == 0


def test_echo_and_induction_by_the_definition_on_random_attention() -> None:
    period, offset, times = 7, 2, 3
    rows = torch.rand(3, offset + times * period, offset + times * period).tril()
    echo = after = torch.zeros(3)
    for i in range(offset + period, rows.shape[1]):
        for back in range(period, i - offset + 1, period):
            echo, after = echo + rows[:, i, i - back], after + rows[:, i, i - back + 1]
    for found, want in zip(repeats(rows, 0, period, offset), (echo, after), strict=True):
        assert torch.allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("period", [85, 86, 129])
def test_blocks_of_queries_add_up_to_the_whole_map(period: int) -> None:
    lm, ids = tiny(), torch.arange(period).remainder(128).repeat(3)[None]
    assert ids.shape[1] + 1 >= QUERY_BLOCK or period == 85
    heard = Repeats(period, 0)
    whole: list[Tensor] = []

    class Listener(Silent):
        def attended(self, layer: object, store: object, seen: object) -> None:
            heard.attended(layer, store, seen)
            whole.append(seen.weights(ids.shape[1])[0])

    Session(lm, Method(), recorder=Listener()).forward(ids, Phase("prefill"))
    for sums, rows in zip(heard.found, whole, strict=True):
        for found, want in zip(sums, repeats(rows, 0, period), strict=True):
            assert torch.allclose(found, want, rtol=1e-4)


def test_a_copy_counts_where_the_strongest_entry_is_in_the_needle_and_is_what_is_written() -> None:
    ids, chosen = torch.tensor([5, 6, 7, 8, 9]), torch.tensor([7, 8, 6])
    rows = torch.zeros(2, 3, 5)
    rows[0, 0, 2] = rows[0, 1, 3] = rows[0, 2, 3] = 0.9  # twice the token that is written, then another one
    rows[1, 0, 0] = rows[1, 1, 4] = rows[1, 2, 1] = 0.9  # outside, outside, right but outside
    assert copies(rows, ids, chosen, 2, 4).tolist() == [1.0, 0.0]
    assert copies(rows, ids, chosen, 1, 5).tolist() == [0.5, 0.25]


def test_reasoning_counts_attention_among_as_many_entries_as_the_needle_has() -> None:
    rows = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]])  # two written tokens
    # the two strongest: 0 and 2, then 3 and 2. The needle is at 2 and 3
    assert float(rests(rows, 2, 4)) == pytest.approx((0.3 + 0.4 + 0.3) / 2)


def test_needles_are_found_by_their_text(bundled: LM) -> None:
    for lm in (tiny(), bundled):
        job = HeadProfile(prompts=4)
        for prompt in (*job.needles(lm), *job.chains(lm)):
            needle, answer = lm.decode(prompt.ids[prompt.start : prompt.stop]), lm.decode(prompt.ids[-prompt.answer :])
            assert needle.strip(" .\n").split()[-1] in answer and len(prompt.ids) > prompt.stop > prompt.start
    prompt = placed(tiny(), "One. Two is 2. Three.", "Two is 2.", " Two is", " 2.")
    assert tiny().decode(prompt.ids[prompt.start : prompt.stop]).strip() == "Two is 2." and prompt.answer == 3


def test_the_profile_of_random_weights_finds_no_answer_and_says_so() -> None:
    table = artefact(make("headkv"), tiny())
    assert table["answered"].tolist() == [0, 0] and not table["retrieval"].any() and not table["reasoning"].any()
    assert all(table[name].shape == (3, 4) for name in SCORES)
    assert (table["echo"] > 0).all() and (table["induction"] > 0).all()
    assert torch.equal(shares(table["retrieval"]), torch.full((3, 4), 1 / 12, dtype=torch.float64))


def test_the_profile_of_the_bundled_model_finds_heads_that_copy(bundled: LM) -> None:
    table = HeadProfile(prompts=4, size=256, drawn=64).calibrate(bundled)
    assert table["asked"].tolist() == [4, 4] and table["answered"].min() >= 3
    best = table["retrieval"].flatten().topk(5).indices
    assert table["retrieval"].flatten()[best].min() > 10 * table["retrieval"].median().clamp(min=1e-3)
    # heads that copy from needles copy from random text as well
    assert table["induction"].flatten()[best].mean() > 10 * table["induction"].median()


def test_three_methods_share_one_artefact_and_gates_depend_on_their_training_only() -> None:
    lm = tiny(layers=2)
    names = {key(make(name, "0.3", knobs), lm) for name, knobs in (("headkv", {"beta": 2}), ("headkvr2", {}), ("razorattention", {"sinks": 1}))}
    assert len(names) == 1 and names.pop().startswith("profile-")
    assert find(make("headkvr2"), lm) is None
    artefact(make("headkv"), lm)
    assert find(make("razorattention"), lm) == find(make("headkvr2"), lm) != None  # noqa: E711
    gates = [key(make("duoattention", "0.3", knobs), lm) for knobs in ({}, {"recent": 7}, {"steps": 7})]
    assert gates[0] == gates[1] != gates[2]
    with pytest.raises(ValueError, match="no tokenizer"):
        HeadProfile().calibrate(dataclasses.replace(lm, tokenizer=None))


def test_a_model_too_small_for_any_prompt_gets_even_tables() -> None:
    lm = tiny()
    small = dataclasses.replace(lm, geometry=dataclasses.replace(lm.geometry, context=40))
    assert (DuoGates(steps=4).calibrate(small)["gates"] == 1).all()
    table = HeadProfile(prompts=4).calibrate(small)
    assert table["asked"].tolist() == [4, 4] and table["answered"].tolist() == [0, 0] and (table["induction"] > 0).all()


def test_gates_are_trained_where_answers_are_written(bundled: LM) -> None:
    for ids, answers in DuoGates(steps=2).documents(bundled):
        places = answers.nonzero()[:, 0]
        told = bundled.decode(ids[places + 1].tolist())
        assert told.count(".") == bundled.decode(ids.tolist()).count("Question:") >= 3
        assert all(word in bundled.decode(ids[: int(places[0])].tolist()) for word in told.replace(".", " ").split())


def test_query_heads_reduce_to_kv_heads() -> None:
    table = torch.tensor([[1.0, 3.0, 0.0, 8.0]])
    assert by_kv_head(table, 2, "mean").tolist() == [[2, 4]] and by_kv_head(table, 2, "max").tolist() == [[3, 8]]


def test_the_picture_its_words_and_its_table() -> None:
    table = {name: torch.rand(3, 4, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(SCORES)}
    table["echo"] = torch.zeros(3, 4)
    light, dark = figure(table), figure(table, "dark")
    assert all(torch.equal(torch.tensor(grid.z), table[name]) for name, grid in zip(SCORES, light.data, strict=True))
    assert light.data[0].colorscale != dark.data[0].colorscale and light.layout.meta["alt"] == alt(table)
    place = int(table["induction"].argmax())
    assert f"Induction is strongest in layer {place // 4} head {place % 4}" in alt(table) and "Echo is 0 in every head" in alt(table)
    rows = twin(table, 2)
    assert len(rows) == 12 and rows[7]["KV head"] == 1 and rows[7]["query head"] == 3
    assert rows[7]["induction"] == round(float(table["induction"][1, 3]), 4)


def test_the_command_makes_the_table_and_the_picture(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture = tmp_path / "heads.html"
    assert main(["--model", str(hub), "--picture", str(picture)]) == 0
    assert "answered: 0 of 32 needles" in capsys.readouterr().out and 'aria-label="Four grids' in picture.read_text()
    assert main(["--model", str(hub), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {*SCORES, "answered", "asked"}


# HeadKV

BETAS = [1.005, 1.01, 1.1, 1.2, 1.5, 2, 5, 10]


@pytest.mark.parametrize("beta", BETAS)
def test_headkv_capacities(beta: float) -> None:
    assert (capacities(torch.full((2, 3), 1 / 6), 37, beta) == 37).all()
    share = shares(torch.rand(4, 8, generator=torch.Generator().manual_seed(3)) ** 6)
    found = capacities(share, 120, beta)
    assert abs(int(found.sum()) - 120 * 32) <= 16
    assert int(found.min()) >= 120 - int(120 // beta)  # the larger beta, the larger the equal part


def test_headkv_one_head_with_the_whole_table() -> None:
    share = torch.zeros(2, 2)
    share[0, 0] = 1
    assert capacities(share, 10, 2).tolist() == [[25, 5], [5, 5]]
    assert int(120 // 1.005) == 119
    assert shares(torch.tensor([[1.0, 3.0]]), 2.0).tolist() == [[0.1, 0.9]]


def test_headkv_a_full_head_loses_its_surplus_and_the_window_always_stays() -> None:
    lm, table = tiny(groups=1, layers=2), {"retrieval": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}
    session, _ = played(lm, make("headkv", "18t", {"beta": 2}), table, IDS[:, :20], steps=0)
    assert held(session).tolist() == [[20, 13], [13, 13]]  # 25 + 8 would be 33
    assert all(set(range(12, 20)) <= set(head) for layer in kept_positions(session) for head in layer)
    session, _ = played(lm, make("headkv", "18t", {"beta": 2, "surplus": "shared"}), table, IDS[:, :20], steps=0)
    assert held(session).tolist() == [[20, 18], [17, 17]]  # 12 of 40 for the first, 28 for three
    session, _ = played(lm, make("headkv", "18t", {"beta": 2, "surplus": "shared"}), table, IDS[:, :18], steps=0)
    assert (held(session) == 18).all()


def test_headkv_what_one_head_cannot_use_goes_to_the_others() -> None:
    assert fitted(torch.tensor([25.0, 5, 5, 5]), 12, 40).tolist() == [12, 10, 9, 9]
    assert fitted(torch.tensor([9.0, 3, 0, 0]), 7, 20).tolist() == [7, 7, 3, 3]
    assert fitted(torch.full((3,), 1 / 3), 5, 15).tolist() == [5, 5, 5] and fitted(torch.full((3,), 4.0), 5, 12).tolist() == [4, 4, 4]
    for seed, room, total in ((0, 40, 700), (1, 9, 200), (2, 100, 31)):
        wanted = torch.rand(24, generator=torch.Generator().manual_seed(seed)) ** 8 * 50
        found = fitted(wanted, room, total)
        assert int(found.sum()) == total and int(found.max()) <= room and (found[wanted.argsort()].diff() >= 0).all()


@pytest.mark.parametrize("budget", ["0.5", "0.15"])
def test_headkv_holds_what_was_asked_for_however_uneven_the_table(budget: str) -> None:
    lm, method, table = tiny(), make("headkv", budget, {"surplus": "shared"}), {"retrieval": torch.zeros(3, 4)}
    table["retrieval"][2, 1] = table["retrieval"][0, 2] = 0.25
    session, _ = played(lm, method, table)
    want, count = predicted_bytes(method, lm.geometry, PROMPT + STEPS, PROMPT), method.budget.tokens(PROMPT)
    assert int(held(session).sum()) == 6 * (count + STEPS) and len(held(session).unique()) > 1
    assert 0.99 * want <= session.cache.nbytes() <= want


def test_headkv_an_even_table_is_snapkv() -> None:
    lm, table = tiny(groups=1), {"retrieval": torch.ones(3, 2)}
    mine, got = played(lm, make("headkv", "0.3"), table)
    theirs, want = played(lm, make("snapkv", "0.3", {"window": 8, "kernel": 7, "pool": "max"}))
    assert kept_positions(mine) == kept_positions(theirs) and torch.equal(got, want)


@pytest.mark.parametrize("budget", ["0.2", "0.5"])
def test_headkv_holds_what_the_table_says(budget: str) -> None:
    lm, method = tiny(), make("headkvr2", budget)
    table = {"reasoning": torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) ** 3}
    session, _ = played(lm, method, table)
    count = method.budget.tokens(PROMPT) - 8
    each = by_kv_head(capacities(shares(table["reasoning"]), count, 1.01).double(), 2, "mean").round()
    want = each.clamp(max=PROMPT - 8) + 8 + STEPS
    assert torch.equal(held(session), want.long()) and len(set(want.flatten().tolist())) > 2
    uneven = sum(len(set(layer)) > 1 for layer in want.tolist())
    assert uneven and session.cache.nbytes() == int(want.sum()) * (2 * 16 * 4 + 4) + uneven * 3 * 2 * 8  # rows, positions, lengths of three columns


def test_headkv_query_heads_are_averaged_before_smoothing() -> None:
    q = torch.zeros(2, 1, 6)
    q[0, 0, 0], q[1, 0, 3] = 2.0, 1.9
    geometry = Geometry("hand", 1, 2, 1, 6, (None,), 4, 4096, True)
    cache = KVCache(make("headkv", "4t", {"window": 1, "kernel": 3, "beta": 1}), geometry, 1, Silent(), artefact={"retrieval": torch.ones(1, 2)})
    cache.phase, cache.tokens = Phase("prefill"), torch.tensor([6])
    query = torch.cat([torch.zeros(2, 5, 6), q], dim=1)[None]
    cache.layers[0].step(query, torch.eye(6)[None, None], torch.eye(6)[None, None], torch.arange(6, dtype=torch.int32)[None], False, Rules(1.0))
    # the peaks at 0 and 3 spread to their neighbours: 0 and 1 first, then the earliest of 2, 3 and 4
    assert cache.layers[0].store.pos().flatten().tolist() == [0, 1, 2, 5]


# one budget, two kinds of heads


def test_whole_heads_leave_the_others_what_they_need() -> None:
    assert split(50, 100, 10, 10, 20) == (3, 200)  # 3 * 100 + 7 * 28.6
    assert split(50, 100, 10, 2, 20) == (2, 300)
    assert split(10, 100, 10, 10, 20) == (0, 100)
    assert split(100, 100, 10, 3, 20) == (10, 0)
    for count, tokens, heads, whole, least in ((17, 61, 6, 6, 5), (30, 31, 4, 4, 30), (1, 9, 3, 3, 4), (8, 9, 7, 1, 2)):
        found = widths(count, tokens, list(range(heads))[::-1], whole, least)
        assert int(found.sum()) == count * heads and int(found.max()) <= tokens and int(found.min()) >= min(least, count)


# RazorAttention


def hand(compensation: str, keys: Tensor, values: Tensor, budget: str, **knobs: object) -> KVCache:
    """One layer with one head that is no retrieval head, fed keys and values [T, D]."""
    method = make("razorattention", budget, {"induction": 0, "echo": 0, "sinks": 2, "recent": 1, "compensation": compensation, **knobs})
    geometry = Geometry("hand", 1, 1, 1, keys.shape[1], (None,), 4, 4096, True)
    table = {name: torch.zeros(1, 1) for name in ("induction", "echo")}
    cache = KVCache(method, geometry, 1, Silent(), artefact=table)
    fed(cache, "prefill", torch.zeros_like(keys), keys, values)
    cache.prompt = cache.tokens
    return cache


def fed(cache: KVCache, kind: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """New tokens, [t, D] each; the output of attention [t, D]."""
    pos = torch.arange(len(k), dtype=torch.int32)[None] + cache.tokens.int()
    cache.phase, cache.tokens = Phase(kind), cache.tokens + len(k)
    return cache.layers[0].step(q[None, None], k[None, None], v[None, None], pos, False, Rules(0.5))[0, 0]


def test_razor_equal_middle_tokens_are_stood_for_exactly() -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(12, 4), torch.randn(12, 4)
    keys[2:9], values[2:9] = keys[2], values[2]
    q, k, v = torch.randn(3, 1, 4).unbind()
    want = torch.softmax((q @ torch.cat([keys, k]).T) * 0.5, -1) @ torch.cat([values, v])
    got = {how: fed(hand(how, keys, values, "6t"), "decode", q, k, v) for how in ("weighted", "plain", "none")}
    assert torch.allclose(got["weighted"], want, atol=1e-6)
    assert not torch.allclose(got["plain"], want, atol=1e-2) and not torch.allclose(got["none"], want, atol=1e-2)


def test_razor_the_formula_with_different_middle_tokens() -> None:
    torch.manual_seed(1)
    keys, values = torch.randn(11, 4), torch.randn(11, 4)
    q, k, v = torch.randn(3, 1, 4).unbind()
    cache = hand("weighted", keys, values, "6t")
    assert cache.layers[0].store.pos().flatten().tolist() == [0, 1, 2, 8, 9, 10]  # 2 stands for 2 to 7
    stay = torch.tensor([0, 1, 8, 9, 10])
    logits = torch.cat([keys[stay], keys[2:8].mean(0, keepdim=True), k]) @ q[0] * 0.5
    mass = logits.exp() * torch.tensor([1.0] * 5 + [6, 1])
    want = (mass / mass.sum()) @ torch.cat([values[stay], values[2:8].mean(0, keepdim=True), v])
    assert torch.allclose(fed(cache, "decode", q, k, v)[0], want, atol=1e-6)


def test_razor_folding_one_by_one_is_the_mean_of_all() -> None:
    x = torch.randn(1, 1, 9, 4)
    mean, count = x[:, :, 0], torch.ones(1, 1)
    for i in range(1, 9):
        mean, count = folded(torch.stack([mean, x[:, :, i]], 2), torch.stack([count, torch.ones(1, 1)], -1)), count + 1
    assert torch.allclose(mean, x.mean(2), atol=1e-6)
    torch.manual_seed(2)
    keys, values = torch.randn(15, 4), torch.randn(15, 4)
    cache = hand("weighted", keys[:10], values[:10], "6t", fold=True)
    for i in range(10, 15):
        fed(cache, "decode", torch.randn(1, 4), keys[i : i + 1], values[i : i + 1])
    store = cache.layers[0].store
    assert store.pos().flatten().tolist() == [0, 1, 2, 12, 13, 14] and store.tag(TAG).flatten().tolist() == [0, 0, 10, 0, 0, 0]
    assert torch.allclose(store.view().k[0, 0, 2], keys[2:12].mean(0), atol=1e-5)
    assert torch.allclose(store.view().v[0, 0, 2], values[2:12].mean(0), atol=1e-5)


def test_razor_takes_heads_by_induction_and_then_by_echo() -> None:
    induction, echo = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.0, 0.3]]), torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, 0.1]])
    assert retrieval_heads(induction, echo, 0.34, 0.01) == [1, 2, 4]
    assert retrieval_heads(induction, echo, 0.01, 0) == [1] and retrieval_heads(induction, echo, 0, 0) == []


def test_razor_a_kv_head_counts_by_its_best_query_head_and_what_left_went_into_one_token() -> None:
    lm, table = tiny(), {"induction": torch.zeros(3, 4), "echo": torch.zeros(3, 4)}
    table["induction"][1, 3] = table["echo"][1, 3] = 1
    method = make("razorattention", "0.5", {"recent": 8})
    session, _ = played(lm, method, table)
    slots = held(session) - STEPS
    assert slots.sum() == 6 * 48 and slots[1, 1] == PROMPT and sorted(slots.flatten().tolist()) == [38, 38, 38, 39, 39, PROMPT]
    full, _ = played(lm, make("full"))
    trace = session.recorder.trace([*IDS[0].tolist(), *WRITTEN.tolist()], PROMPT, PROMPT)
    for layer, head in ((0, 0), (2, 1)):
        left = trace.left_at[layer, head, :PROMPT] != NEVER
        assert set(trace.merged_into[layer, head, :PROMPT][left]) == {4}
        gone = torch.tensor([4, *left.nonzero()[0]])
        store, want = session.cache.layers[layer].store, full.cache.layers[layer].store.view().k[0, head, gone].mean(0)
        assert torch.allclose(store.view().k[0, head, 4], want, atol=1e-5) and store.tag(TAG)[0, head, 4] == len(gone)


# DuoAttention


@pytest.mark.parametrize("tokens", [1, 5, 23, 64])
def test_duo_closed_gates_are_a_streaming_mask_and_open_ones_the_full_cache(tokens: int) -> None:
    lm, ids = tiny(), IDS[0, :tokens]
    near = streaming(torch.arange(tokens), 3, 7)
    assert near.sum(-1).tolist() == [min(i + 1, 7) + min(3, max(0, i - 6)) for i in range(tokens)]
    bias = torch.zeros(1, 1, tokens, tokens).masked_fill(~near, torch.finfo(torch.float32).min)
    with torch.no_grad():
        want = plain(lm).get_decoder()(input_ids=ids[None], attention_mask=bias).last_hidden_state[0]
        assert torch.allclose(hidden(lm, ids, torch.zeros(3, 2), 3, 7), want, atol=1e-4)
        assert torch.allclose(hidden(lm, ids, torch.ones(3, 2), 3, 7), full_hidden(lm, ids), atol=1e-4)


def test_duo_mixed_weights_with_a_sink_logit() -> None:
    torch.manual_seed(0)
    logits, sink, near = torch.randn(1, 2, 4, 6), torch.tensor([0.3, -1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 1), torch.rand(4, 6) < 0.6
    whole = torch.cat([logits, sink], -1).softmax(-1)[..., :-1]
    inside = torch.cat([logits.masked_fill(~near, -math.inf), sink], -1).softmax(-1)[..., :-1]
    got = mixed(whole, near, torch.tensor([0.25, 1.0]), True)
    assert torch.allclose(got[:, 0], 0.25 * whole[:, 0] + 0.75 * inside[:, 0], atol=1e-6) and torch.allclose(got[:, 1], whole[:, 1], atol=1e-6)


def test_duo_training_is_repeatable_and_leaves_the_weights_alone() -> None:
    lm, job = tiny(), DuoGates(steps=8, size=64)
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    with torch.no_grad():
        first, second = job.calibrate(lm)["gates"], job.calibrate(lm)["gates"]
    assert torch.equal(first, second) and first.shape == (3, 2) and (first < 1).any() and (first >= 0).all()
    assert all(weight.grad is None for weight in lm.model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())


def test_duo_gates_that_cost_nothing_stay_open_and_those_nobody_needs_close() -> None:
    lm = tiny()
    # with a window longer than any text, streaming is full attention: the price alone counts
    assert (DuoGates(steps=30, size=64, recent=512).calibrate(lm)["gates"] < 0.1).all()
    assert (DuoGates(steps=5, size=64, recent=512, sparse=0).calibrate(lm)["gates"] > 0.999).all()


def test_duo_without_retrieval_heads_is_streamingllm() -> None:
    lm, knobs = tiny(), {"sinks": 4, "recent": 40} | SHORT
    mine, got = played(lm, make("duoattention", "0.25", knobs))
    theirs, want = played(lm, make("streamingllm", "0.25", {"sinks": 4, "renumber": False}))
    assert kept_positions(mine) == kept_positions(theirs) and torch.allclose(got, want, atol=1e-5)


def test_duo_the_largest_gates_keep_everything_and_the_window_slides() -> None:
    lm, table = tiny(), {"gates": torch.tensor([[0.1, 0.9], [0.5, 0.0], [1.0, 0.2]])}
    session, _ = played(lm, make("duoattention", "0.5", {"sinks": 4, "recent": 8} | SHORT), table)
    kept, seen = kept_positions(session), PROMPT + STEPS
    assert kept[2][0] == kept[0][1] == list(range(seen))
    assert kept[1][1] == kept[0][0] == [*range(4), *range(seen - 20, seen)]
    assert sum(len(head) for layer in kept for head in layer) == 6 * 48 + 2 * STEPS


# Ada-KV over any scorer


@pytest.mark.parametrize("base", list(BASES))
def test_adakv_with_nothing_to_share_out_is_its_base(base: str) -> None:
    lm = tiny()
    knobs = {"keydiff": {"block": 0}, "snapkv": {"window": 8, "kernel": 7, "pool": "max"}, "pyramidkv": {"pool": "max"}, "qfilters": {"window": 8}}
    mine, _ = played(lm, make("adakv", "0.25", {"base": base, "alpha": 1, "window": 8}), steps=0)
    theirs, _ = played(lm, make(base, "0.25", knobs.get(base, {})), steps=0)
    assert kept_positions(mine) == kept_positions(theirs)


@pytest.mark.parametrize("base", list(BASES))
def test_adakv_keeps_the_best_of_a_layer_whatever_the_scores_are(base: str) -> None:
    lm = tiny()
    session, _ = played(lm, make("adakv", "0.25", {"base": base, "alpha": 0, "window": 8}), steps=0)
    first = 4 if base == "expectedattention" else 0
    last = 8 if base in ("snapkv", "pyramidkv", "qfilters") else 0
    for i, layer in enumerate(session.cache.layers):
        scores, left = torch.from_numpy(session.recorder.score[i]).float(), torch.from_numpy(session.recorder.left_at[i] != NEVER)
        judged = slice(first, PROMPT - last)
        assert not left[:, :first].any() and not left[:, PROMPT - last :].any()
        best, rest = scores[:, judged][~left[:, judged]], scores[:, judged][left[:, judged]]
        assert (best.numel() or base == "pyramidkv") and (best >= rest.max()).all()  # a pyramid's top layer may have room for the window alone
        assert base == "pyramidkv" or int(layer.store.lens().sum()) in (24, 2 * 24)  # one list for both heads, or one each


def test_adakv_at_half_holds_half_the_bytes(bundled: LM) -> None:
    ids = torch.randint(3, 3000, (1, 600), generator=torch.Generator().manual_seed(0))
    for base in ("snapkv", "knorm"):
        session = Session(bundled, make("adakv", "0.5", {"base": base}))
        session.prefill(ids)
        assert session.cache.nbytes() <= 0.51 * bundled.geometry.full_bytes(600)
        assert len({int(n) for layer in session.cache.layers for n in layer.store.lens().flatten()}) > 6  # uneven indeed
