"""The worked examples of more eviction cards; keys and queries made by hand as in `test_eviction.py`."""

from __future__ import annotations

import copy
import functools
import itertools
import math

import pytest
import torch
from conftest import tiny
from test_eviction import IDS, Hand, Notes, logs, units

from kvlab.cache import KVCache
from kvlab.calibration import artefact, sample
from kvlab.engine import kept_positions
from kvlab.method import Method
from kvlab.methods.eviction.keydiff import unlikeness
from kvlab.methods.eviction.pyramidkv import pyramid
from kvlab.methods.eviction.qfilters import direction
from kvlab.models import LM
from kvlab.predict import predicted_bytes, settle
from kvlab.registry import make
from kvlab.rope import ropes
from kvlab.session import Session

# TOVA


def last_query(*rows: list[float]) -> torch.Tensor:
    """Queries [Hq, t, t] that look evenly at all keys, but for the last of each head."""
    t = len(rows[0])
    return torch.stack([logs([[1.0] * t] * (t - 1) + [row], t) for row in rows])


@pytest.mark.parametrize("heads", [1, 2])
def test_tova_averages_over_all_heads_before_it_chooses(heads: int) -> None:
    q = last_query([0.5, 0.1, 0.4], [0.1, 0.3, 0.6])
    hand = Hand(make("tova", "2t"), heads=heads, size=3, groups=2 // heads).feed("prefill", q, units(0, 3, 3).expand(heads, -1, -1))
    assert torch.allclose(hand.notes.scores[0], torch.tensor([0.3, 0.2, 0.5]).expand(1, heads, -1))
    assert hand.kept == [[0, 2]] * heads
    assert hand.layer.store.pos().shape[1] == 1


def test_tova_forgets_earlier_queries_and_protects_nothing() -> None:
    hand = Hand(make("tova", "2t"), size=4).feed("prefill", last_query([0.5, 0.1, 0.4, 0.0001])[..., :4][:, -3:], units(0, 3, 4)[None])
    assert hand.kept == [[0, 2]]
    hand.feed("decode", torch.tensor([0.3, 1.0, 0.6, 0.1]).log()[None, None], units(3, 4, 4)[None])
    assert hand.kept == [[0, 2]]
    hand.feed("decode", torch.tensor([0.1, 1.0, 0.6, 0.3]).log()[None, None], units(3, 4, 4)[None])
    assert hand.kept == [[2, 4]]


# Knorm


def test_knorm_keeps_the_smallest_keys() -> None:
    keys = units(0, 3, 3) * torch.tensor([[3.0], [1.0], [2.0]])
    hand = Hand(make("knorm", "2t"), size=3).feed("prefill", torch.zeros(1, 3, 3), keys[None])
    assert hand.kept == [[1, 2]]


@functools.cache
def uneven() -> LM:
    """The tiny model with a key norm that is not all ones, as after training: its keys differ in length."""
    model = copy.deepcopy(tiny().model)
    torch.manual_seed(0)
    for layer in model.model.layers:
        torch.nn.init.uniform_(layer.self_attn.k_norm.weight, 0.5, 1.5)
    return LM.wrap(model)


def test_knorm_keeps_the_same_in_a_batch_in_chunks_and_alone() -> None:
    alone, chunks, batch = (Session(uneven(), make("knorm", "0.25"), **options) for options in ({}, {"chunk": 20}, {"batch": 2}))
    real = torch.ones_like(IDS)
    real[0, :35] = 0
    alone.prefill(IDS[:1, 35:])
    chunks.prefill(IDS[:1, 35:])
    batch.prefill(IDS, real)
    assert kept_positions(alone) == kept_positions(chunks) == kept_positions(batch)
    assert len({str(head) for layer in kept_positions(alone) for head in layer}) == 6
    full = Session(uneven(), make("full"))
    full.prefill(IDS[:1, 35:])
    for mine, layer in zip(kept_positions(alone), full.cache.layers, strict=True):
        for head, lengths in zip(mine, layer.store.view().k[0].norm(dim=-1), strict=True):
            others = [p for p in range(61) if p not in head]
            assert len(head) == 15 and lengths[head].max() <= lengths[others].min() + 1e-3


def test_equal_keys_are_a_tie_and_the_earlier_stays() -> None:
    pos, key = torch.arange(40), torch.randn(1, 1, 16).expand(1, 40, 16)
    turned = ropes(tiny())[0].rotate(key, pos[None])
    assert len(set(turned[0].norm(dim=-1).tolist())) > 1
    hand = Hand(make("knorm", "5t"), size=16).feed("prefill", torch.zeros(1, 40, 16), turned)
    assert hand.kept == [[0, 1, 2, 3, 4]]


def test_knorm_leaves_the_first_layers_whole_and_the_formula_knows() -> None:
    method, lm = make("knorm", "0.25", {"skip": 1}), uneven()
    session = Session(lm, method)
    session.prefill(IDS[:1])
    session.decode(IDS[0, :1])
    assert [[len(head) for head in layer] for layer in kept_positions(session)] == [[97] * 2, [25] * 2, [25] * 2]
    assert session.cache.nbytes() == predicted_bytes(method, lm.geometry, 97, 96)


# KeyDiff


def test_keydiff_prefers_the_odd_key() -> None:
    keys = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    hand = Hand(make("keydiff", "1t", {"block": 0}), size=2).feed("prefill", torch.zeros(1, 4, 2), keys[None])
    # the mean direction is (3, 1) / 4
    assert torch.allclose(hand.notes.scores[0], -torch.tensor([3.0, 3, 3, 1]) / math.sqrt(10))
    assert hand.kept == [[3]]


def test_keydiff_knows_no_length() -> None:
    torch.manual_seed(0)
    keys, among = torch.randn(1, 2, 9, 4), torch.ones(1, 2, 9, dtype=torch.bool)
    longer = keys.clone()
    longer[0, 1, 4] *= 10
    assert torch.allclose(unlikeness(keys, among), unlikeness(longer, among), atol=1e-6)


@pytest.mark.parametrize("block", [0, 2, 3, 8])
def test_keydiff_goes_through_the_prompt_in_blocks(block: int) -> None:
    torch.manual_seed(1)
    keys, count = torch.randn(12, 4), 5
    stays = list(range(count))
    step = block or 12
    for start in range(count, 12, step):
        among = stays + list(range(start, min(12, start + step)))
        lengths = keys[among].norm(dim=1, keepdim=True)
        cosines = torch.cosine_similarity(keys[among], (keys[among] / lengths).mean(0), dim=-1)
        stays = sorted(among[i] for i in cosines.argsort()[:count].tolist())
    hand = Hand(make("keydiff", f"{count}t", {"block": block})).feed("prefill", torch.zeros(1, 12, 4), keys[None])
    assert hand.kept == [stays]


# PyramidKV


def test_pyramid_of_the_card() -> None:
    slots = pyramid(128, 10_000, window=8, beta=20, layers=32)
    assert slots[0] == 234 + 8 and slots[31] == 17 + 8 and {a - b for a, b in itertools.pairwise(slots)} == {7}
    assert sum(slots) - 32 * 8 == 4016
    assert pyramid(137, 10_000, 8, 20, 32)[31] == 35 + 8 and pyramid(138, 10_000, 8, 20, 32)[31] == 6 + 8


@pytest.mark.parametrize(
    ("count", "tokens", "slots"),
    [
        (64, 60, [60] * 4),  # everything fits
        (64, 64, [64] * 4),
        (64, 100, [64] * 4),  # less than twice the scored budget: SnapKV
        (64, 112, [112, 80, 48, 16]),  # the lowest layer would get more than there is: high 104, low 8, step 32
        (8, 100, [8] * 4),  # only the window
        (1, 100, [1] * 4),
    ],
)
def test_pyramid_at_its_edges(count: int, tokens: int, slots: list[int]) -> None:
    assert pyramid(count, tokens, window=8, beta=20, layers=4) == slots


def test_a_single_layer_has_no_pyramid() -> None:
    assert pyramid(20, 100, window=8, beta=20, layers=1) == [20]


@pytest.mark.parametrize("budget", ["0.25", "0.35", "0.6", "9t", "3t"])
def test_pyramidkv_holds_its_pyramid_and_the_formula_knows(budget: str) -> None:
    method, lm = make("pyramidkv", budget, {"beta": 2}), tiny()
    session = Session(lm, method)
    session.prefill(IDS[:1])
    want = pyramid(method.budget.tokens(96), 96, 8, 2, 3)
    kept = kept_positions(session)
    assert [[len(head) for head in layer] for layer in kept] == [[n] * 2 for n in want]
    assert all(set(range(96 - min(8, n), 96)) <= set(head) for layer, n in zip(kept, want, strict=True) for head in layer)
    assert session.cache.nbytes() == predicted_bytes(method, lm.geometry, 96, 96)


def test_a_pyramid_is_predicted_beside_another_method_and_for_a_budget_in_bytes() -> None:
    lm = tiny()
    method = make("pyramidkv+mustafar", "0.25", {"beta": 2, "mustafar.window": 8})
    session = Session(lm, method)
    session.prefill(IDS[:1])
    assert session.cache.nbytes() == predicted_bytes(method, lm.geometry, 96, 96)
    settled = settle(make("pyramidkv", "20000B", {"beta": 2}), lm.geometry, 96, 96)
    session = Session(lm, settled)
    session.prefill(IDS[:1])
    assert 0.9 * 20000 < session.cache.nbytes() == predicted_bytes(settled, lm.geometry, 96, 96) <= 20000


def test_pyramidkv_leaves_windowed_layers_out_of_the_pyramid() -> None:
    lm = tiny(window=24)
    session = Session(lm, make("pyramidkv", "0.25"))
    session.prefill(IDS[:1])
    # one open layer, so no slope
    assert [len(layer[0]) for layer in kept_positions(session)] == [24, 23, 23]


# Expected Attention


def expected(prompt: int = 60, **knobs: object) -> tuple[Notes, list]:
    """Scores of a run, and for each layer the queries and slots of its prompt."""
    notes = Notes()
    session = Session(tiny(), make("expectedattention", "0.25", knobs), recorder=notes)
    session.prefill(IDS[:1, :prompt])
    return notes, [(seen, session.cache.ropes[index]) for index, seen in notes.seen["prefill"]]


def test_expected_attention_of_one_position_is_that_of_the_mean_query_there() -> None:
    notes, layers = expected(future=1, covariance=False, values=False)
    for index, (seen, rope) in enumerate(layers):
        mean = rope.unrotate(seen.q, seen.q_pos[:, None])[:, :, 4:].mean(2, keepdim=True)
        turned = rope.rotate(mean, torch.tensor([[[60]]]))
        keys = seen.view.k[:, :, 4:].repeat_interleave(2, dim=1)
        want = (turned @ keys.mT * seen.rules.scaling).softmax(-1)[:, :, 0].unflatten(1, (2, 2)).mean(2)
        assert torch.allclose(notes.scores[index][..., 4:], want, atol=1e-5)


def test_expected_attention_equals_the_formula_of_the_card() -> None:
    notes, layers = expected(future=7, sinks=3)
    rotary = tiny().model.get_decoder().rotary_emb
    cos, sin = (x[0].double() for x in rotary(torch.zeros(1), torch.arange(60, 67)[None]))
    half = torch.zeros(16, 16, dtype=torch.float64)  # rotates the halves: (a, b) -> (-b, a)
    half[:8, 8:], half[8:, :8] = -torch.eye(8), torch.eye(8)
    turn = sum(torch.diag(c) + torch.diag(s) @ half for c, s in zip(cos, sin, strict=True)) / 7
    for index, (seen, rope) in enumerate(layers):
        q = rope.unrotate(seen.q, seen.q_pos[:, None])[0, :, 3:].double()
        for head in range(2):
            weights = []
            for x in q[2 * head : 2 * head + 2]:
                mean, spread = turn @ x.mean(0), turn @ torch.cov(x.T, correction=0) @ turn.T
                keys = seen.view.k[0, head, 3:].double()
                weights.append((keys @ mean / 4 + ((keys @ spread) * keys).sum(1) / (2 * 16)).softmax(0))
            want = (weights[0] + weights[1]) / 2 * seen.view.v[0, head, 3:].double().norm(dim=1)
            assert torch.allclose(notes.scores[index][0, head, 3:].double(), want, rtol=1e-3, atol=1e-5)


def test_expected_attention_weighs_by_the_length_of_values() -> None:
    (with_values, layers), (without, _) = expected(values=True), expected(values=False)
    seen = layers[0][0]  # later layers look at the same prompt too, as it is cut after they read it
    assert torch.allclose(with_values.scores[0], without.scores[0] * seen.view.v.norm(dim=-1), atol=1e-6)
    assert torch.allclose(without.scores[0].sum(-1), torch.ones(1, 2), atol=1e-5)  # a softmax without the sinks


@pytest.mark.parametrize("prompt", [1, 3, 4, 5, 60])
def test_expected_attention_keeps_its_first_tokens(prompt: int) -> None:
    session = Session(tiny(), make("expectedattention", "0.5"))
    session.prefill(IDS[:1, :prompt])
    count = max(1, round(0.5 * prompt))
    for layer in kept_positions(session):
        assert all(len(head) == count and set(range(min(4, count))) <= set(head) for head in layer)
    assert all(layer.state == {} for layer in session.cache.layers)


# Q-Filters


def test_a_filter_points_towards_the_queries() -> None:
    torch.manual_seed(0)
    queries = torch.randn(500, 4) * 0.1 + torch.tensor([3.0, 0, 0, 0])
    assert torch.allclose(direction(queries), torch.tensor([1.0, 0, 0, 0]), atol=0.02)
    assert torch.allclose(direction(-queries), -direction(queries))


def test_a_filter_is_the_first_singular_vector_signed_by_most_queries() -> None:
    torch.manual_seed(0)
    queries = torch.randn(3, 200, 8) + torch.randn(3, 1, 8)
    for mine, rows in zip(direction(queries), queries, strict=True):
        u, _, v = torch.linalg.svd(rows, full_matrices=False)
        assert torch.allclose(mine, v[0] * (1 if int((u[:, 0] > 0).sum()) > 100 else -1), atol=1e-4)


def test_qfilters_drops_the_key_behind_the_queries_first_and_keeps_the_window() -> None:
    keys = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [-2, 0]])
    hand = Hand(make("qfilters", "3t", {"window": 1}), size=2)
    hand.cache.artefact = {"filters": torch.tensor([[[1.0, 0.0]]])}
    hand.feed("prefill", torch.zeros(1, 4, 2), keys[None])
    assert hand.notes.scores[0].tolist() == [[[1, -1, 0, -2]]] and hand.kept == [[0, 2, 3]]
    hand.feed("decode", torch.zeros(1, 1, 2), torch.tensor([[[-3.0, 0]]]))
    assert hand.kept == [[0, 2, 4]]


SHORT = {"passages": 4, "length": 16}


def test_qfilters_calibrates_on_the_queries_attention_used() -> None:
    lm = tiny()
    ids, notes = sample(lm, 4, 16), Notes()
    cache = KVCache(Method(), lm.geometry, 4, notes)
    cache.tokens = torch.full((4,), 16)
    with torch.no_grad():
        lm.model(input_ids=ids, position_ids=torch.arange(16).expand(4, -1), past_key_values=cache, use_cache=True)
    found = artefact(make("qfilters", knobs=SHORT), lm)["filters"]
    assert found.shape == (3, 2, 16)
    for index, seen in notes.seen["prefill"]:
        want = direction(seen.q.transpose(0, 1).flatten(1, 2)).unflatten(0, (2, 2)).mean(1)
        assert torch.allclose(found[index], want, atol=1e-3)


def test_qfilters_draws_as_many_queries_as_asked() -> None:
    few, many = (artefact(make("qfilters", knobs=SHORT | {"rows": rows}), tiny())["filters"] for rows in (5, 64))
    assert not torch.allclose(few, many, atol=1e-3)


def test_two_methods_with_artefacts_run_together() -> None:
    knobs = {f"{name}.{knob}": value for name in ("qfilters", "kvsharer") for knob, value in SHORT.items()}
    session = Session(tiny(), make("kvsharer+qfilters", "0.25", knobs | {"share": 0.34, "threshold": -1}))
    session.prefill(IDS[:1])
    assert {len(head) for layer in kept_positions(session) for head in layer} == {24}
    assert len(set(session.cache.owners)) == 2


# budgets while text is written


@pytest.mark.parametrize("name", ["tova", "qfilters"])
@pytest.mark.parametrize(("budget", "slots"), [("0.25", 10), ("45t", 45), ("1.0", 50)])
def test_a_budget_is_held_at_every_step(name: str, budget: str, slots: int) -> None:
    session = Session(tiny(), make(name, budget, SHORT if name == "qfilters" else {}))
    session.prefill(IDS[:1, :40])
    for token in IDS[0, 40:50]:
        session.decode(token[None])
    assert {len(head) for layer in kept_positions(session) for head in layer} == {slots}
    assert session.method.kept(50, 40) == slots
