"""The worked examples of the eviction cards whose methods decide across steps, layers or groups of tokens."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny
from test_eviction import IDS, Hand, Notes, logs, units
from torch import Tensor

from kvlab.engine import kept_positions
from kvlab.methods.eviction.dynamickv import layer_counts, rebalanced
from kvlab.methods.eviction.graphkv import decayed, share_of
from kvlab.methods.eviction.kvcrush import representatives
from kvlab.methods.eviction.prefixkv import common_cut, forgotten
from kvlab.methods.eviction.roco import leaving, mean_std
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.session import Session


def prompt_weights(ids: Tensor) -> list[Tensor]:
    """Of each layer of the tiny model: the weights [H, T, T] of a prompt under the full cache, mean over the query heads of a KV head."""
    notes = Notes()
    Session(tiny(), make("full"), recorder=notes).prefill(ids)
    return [seen.by_kv_head(seen.weights(ids.shape[1]), "mean")[0] for _, seen in notes.seen["prefill"]]


# RoCo


def test_roco_spares_what_varies() -> None:
    rows = torch.tensor([[0.5, 0.1, 0.5, 0.1], [0.05] * 4, [0, 0.16, 0, 0], [0.1] * 4])
    mean, std = mean_std(rows.sum(1), rows.square().sum(1), torch.tensor(4))
    assert torch.allclose(mean, torch.tensor([0.3, 0.05, 0.04, 0.1])) and torch.allclose(std, torch.tensor([0.2, 0, 0.0693, 0]), atol=1e-4)
    everyone = torch.ones(1, 1, 4, dtype=torch.bool)
    gone = leaving(mean[None, None], std[None, None], everyone, torch.tensor([[2]]), torch.tensor([[1]]))
    assert gone.flatten().tolist() == [False, True, False, False]
    alone = leaving(mean[None, None], std[None, None], everyone, torch.tensor([[4]]), torch.tensor([[1]]))
    assert alone.flatten().tolist() == [False, False, True, False]  # by the mean only


def roco_by_hand(weights: Tensor, budget: int, stride: int, sinks: int, newest: int, rho: float) -> list[int]:
    """Positions one head keeps of a prompt with the weights [T, T]."""
    seen = {j: weights[j:, j].double() for j in range(len(weights))}
    mean, std = ({j: float(f(w)) for j, w in seen.items()} for f in (torch.mean, lambda w: w.std(correction=0)))
    held = list(range(min(budget, len(weights))))
    for start in range(budget, len(weights), stride):
        held += range(start, min(start + stride, len(weights)))
        surplus = len(held) - budget
        free = [j for j in held[:-newest] if j >= sinks]
        scope = sorted(free, key=std.get)[: max(budget - int(rho * budget) - sinks, surplus)]
        gone = sorted(scope, key=mean.get)[:surplus]
        held = [j for j in held if j not in gone]
    return held


@pytest.mark.parametrize("stride", [1, 7, 64])
def test_roco_goes_through_a_prompt_in_strides(stride: int) -> None:
    session = Session(tiny(), make("roco", "40t", {"stride": stride, "rho": 0.3}))
    session.prefill(IDS[:1])
    want = [[roco_by_hand(head, 40, stride, 4, 10, 0.3) for head in layer] for layer in prompt_weights(IDS[:1])]
    assert kept_positions(session) == want


def test_roco_goes_on_counting_and_lets_one_go_for_each_written() -> None:
    rows = [[1.0], [0.9, 0.1], [0.6, 0.1, 0.3], [0.1, 0.1, 0.1, 0.7]]
    knobs = {"sinks": 0, "newest": 1, "rho_decode": 0.5}
    hand = Hand(make("roco", "4t", knobs), size=5).feed("prefill", logs(rows, 5)[None], units(0, 4, 5)[None])
    assert hand.kept == [[0, 1, 2, 3]]
    hand.feed("decode", torch.tensor([[0.1, 0.2, 0.1, 0.2, 0.4]]).log()[None], units(4, 5, 5)[None])
    # of 1, 2 and 0, 3, whose weights vary most, only the former can leave: .125 on average against .1667
    assert torch.allclose(hand.notes.scores[0][0, 0], torch.tensor([2.7 / 5, 0.5 / 4, 0.5 / 3, 0.9 / 2, 0.4]))
    assert hand.kept == [[0, 2, 3, 4]]
    assert torch.allclose(hand.layer.store.tag("roco sum"), torch.tensor([2.7, 0.5, 0.9, 0.4]))
    assert torch.allclose(hand.layer.store.tag("roco squares"), torch.tensor([2.19, 0.11, 0.53, 0.16]))


def test_roco_counts_over_chunks_as_over_one_piece() -> None:
    q, k = torch.randn(2, 2, 30, 8, generator=torch.Generator().manual_seed(0))
    knobs = {"stride": 4}
    whole = Hand(make("roco", "16t", knobs), heads=2, size=8).feed("prefill", q, k)
    pieces = Hand(make("roco", "16t", knobs), heads=2, size=8).feed("chunk", q[:, :13], k[:, :13]).feed("prefill", q[:, 13:], k[:, 13:])
    assert pieces.kept == whole.kept and torch.allclose(pieces.notes.scores[0], whole.notes.scores[0])


@pytest.mark.parametrize("budget", [1, 3, 6, 12])
def test_roco_holds_a_budget_smaller_than_what_it_protects(budget: int) -> None:
    session = Session(tiny(), make("roco", f"{budget}t"))
    session.prefill(IDS[:1, :40])
    session.decode(IDS[0, 40:41])
    kept = kept_positions(session)
    assert all(len(head) == budget and head[-1] == 40 for layer in kept for head in layer)
    assert session.cache.nbytes() == predicted_bytes(session.method, tiny().geometry, 41, 40)


# SCOPE


def scope(budget: str, **knobs: object) -> Session:
    """One after a prompt of 20 tokens, of which each head kept the budget."""
    session = Session(tiny(), make("scope", budget, {"window": 4, **knobs}))
    session.prefill(IDS[:1, :20])
    return session


def written(session: Session) -> list[list[list[int]]]:
    return [[[p for p in head if p >= 20] for head in layer] for layer in kept_positions(session)]


def test_scope_slides_over_the_answer_and_leaves_the_prompt_alone() -> None:
    session = scope("10t", decode=6, recent=2)
    prompt, held = kept_positions(session), []
    assert all(len(head) == 10 for layer in prompt for head in layer)
    for token in range(12):
        session.decode(IDS[1, token : token + 1])
        held.append({len(head) for layer in kept_positions(session) for head in layer})
        for before, now, layer in zip(prompt, kept_positions(session), written(session), strict=True):
            assert [[p for p in head if p < 20] for head in now] == before
            assert all(head[-2:] == list(range(20, 21 + token))[-2:] for head in layer)
    assert held == [{10 + min(n, 6)} for n in range(1, 13)]
    assert len({str(head) for layer in written(session) for head in layer}) > 1


def test_scope_keeps_what_the_current_query_looks_at() -> None:
    hand = Hand(make("scope", "1.0", {"decode": 3, "recent": 1, "window": 1}), size=7).feed("prefill", torch.zeros(1, 2, 7), units(0, 2, 7)[None])
    for i in range(2, 5):
        hand.feed("decode", torch.zeros(1, 1, 7), units(i, i + 1, 7)[None])
    assert hand.kept == [[0, 1, 2, 3, 4]]
    # the prompt gets the least attention and stays; of 2, 3, 4 the one looked at least goes
    hand.feed("decode", torch.tensor([[0.01, 0.02, 0.3, 0.1, 0.4, 0.1, 1.0]]).log()[None], units(5, 6, 7)[None])
    assert hand.kept == [[0, 1, 2, 4, 5]]
    hand.feed("decode", torch.tensor([[0.01, 0.02, 0.1, 1.0, 0.2, 0.3, 0.1]]).log()[None], units(6, 7, 7)[None])
    assert hand.kept == [[0, 1, 4, 5, 6]]


def sizes(strategy: str, steps: int = 100) -> list[int]:
    """Tokens of the answer held after each step, by the formula: r = 10, W = 40, delta = 3."""
    method = make("scope", "20t", {"strategy": strategy, "decode": 40, "recent": 10, "delta": 3})
    return [int(method.kept(21 + t, 20)) - 20 for t in range(steps)]


def test_scope_budgets_of_the_card() -> None:
    adaptive, pauses = sizes("adaptive"), sizes("discontinuous")
    assert adaptive[:10] == list(range(1, 11)) and (adaptive[30], adaptive[90], adaptive[99]) == (20, 40, 40)  # the authors' would be 43 by then
    chosen = [t for t in range(1, 100) if pauses[t] <= pauses[t - 1]]
    assert chosen == list(range(16, 100, 4))
    assert [pauses[t] for t in chosen] == [min(40, 10 + t // 3) for t in chosen]


@pytest.mark.parametrize("strategy", ["slide", "adaptive", "discontinuous"])
def test_scope_holds_what_its_formula_says(strategy: str) -> None:
    session = scope("0.5", strategy=strategy, decode=8, recent=2, delta=2)
    for n in range(1, 24):
        session.decode(IDS[1, n : n + 1])
        assert {len(head) for layer in kept_positions(session) for head in layer} == {session.method.kept(20 + n, 20)}
        assert session.cache.nbytes() == predicted_bytes(session.method, tiny().geometry, 20 + n, 20)


def test_scope_counts_afresh_in_every_turn() -> None:
    session = scope("10t", strategy="discontinuous", decode=8, recent=1, delta=3)
    for n in range(3):  # ends in the middle of a pause
        session.decode(IDS[1, n : n + 1])
    session.prefill(IDS[1:2, 40:56])
    lens = []
    for n in range(9):
        session.decode(IDS[1, n : n + 1])
        lens.append(len(kept_positions(session)[0][0]))
    assert lens == [session.method.kept(40 + n, 39) for n in range(9)] and lens[0] == 11


def test_scope_with_more_recent_tokens_than_its_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="recent is a part of decode"):
        make("scope", "0.5", {"decode": 16})


# DynamicKV


def table(*rows: list[float]) -> tuple[list[Tensor], list[Tensor]]:
    """Scores [1, 1, T] for each layer, and masks that leave all of them free."""
    scores = [torch.tensor(row)[None, None] for row in rows]
    return scores, [torch.ones_like(score, dtype=torch.bool) for score in scores]


def test_dynamickv_budgets_of_the_card() -> None:
    scores, free = table([0.9, 0.8, 0.7, 0.1, 0.1, 0.1], [0.5, 0.2, 0.1, 0.1, 0, 0])
    assert layer_counts(scores, free, torch.tensor([2]), 2).tolist() == [[3, 1]]
    assert rebalanced(scores, free, torch.tensor([2]), 10, 4).tolist() == [[3, 1]]


def test_dynamickv_takes_back_but_does_not_give_back() -> None:
    scores, free = table([0.1] * 12, [0.9] * 4 + [0.0] * 8, [0.01] * 12, [0.0] * 12)
    # of two layers' best four all are the second's: the first gets nothing, the model's whole budget goes to the second
    assert rebalanced(scores, free, torch.tensor([2]), 10, 2).tolist() == [[0, 4, 0, 0]]
    # without that round the first keeps half: of four layers' best eight it has four
    assert rebalanced(scores, free, torch.tensor([2]), 10, 4).tolist() == [[4, 4, 0, 0]]
    assert rebalanced(scores, free, torch.tensor([2]), 1.5, 4).tolist() == [[3, 3, 0, 0]]


def test_dynamickv_keeps_the_budget_and_the_best_of_each_layer() -> None:
    notes = Notes()
    session = Session(tiny(), make("dynamickv", "20t"), recorder=notes)
    session.prefill(IDS[:1])
    kept = kept_positions(session)
    assert sum(len(layer[0]) for layer in kept) == 3 * 20 and len({len(layer[0]) for layer in kept}) > 1
    joined = torch.cat([notes.scores[i][0, :, :88].flatten() for i in range(3)])
    best = joined.argsort(descending=True)[: 12 * 3 * 2] // (2 * 88)
    won = best.bincount(minlength=3)
    assert [len(layer[0]) - 8 for layer in kept] == [36 * int(won[0]) // 72, 36 * int(won[1]) // 72, 36 - sum(36 * int(n) // 72 for n in won[:2])]
    for i, layer in enumerate(kept):
        for h, head in enumerate(layer):
            top = notes.scores[i][0, h, :88].argsort(descending=True)[: len(head) - 8]
            assert head == [*sorted(top.tolist()), *range(88, 96)]
    assert not any("dynamickv" in layer.state for layer in session.cache.layers)


# PrefixKV


def test_prefixkv_thresholds_of_the_card() -> None:
    sums = [torch.tensor([row]).double().cumsum(-1) for row in ([0.6, 0.2, 0.1, 0.05, 0.05], [0.2] * 5)]
    held, none = torch.tensor([[5, 5]]), torch.tensor([0])
    found = [forgotten(sums, held, torch.tensor([p]).double(), none).tolist() for p in (0.0, 0.5, 0.7, 1.0)]
    assert found == [[[4, 4]], [[4, 2]], [[3, 1]], [[0, 0]]]
    assert forgotten(sums, held, torch.tensor([0.5]).double(), torch.tensor([2])).tolist() == [[2, 0]]


def test_prefixkv_finds_the_threshold_that_meets_the_budget() -> None:
    attention = [torch.tensor([row]) for row in ([0.1, 0.6, 0.05, 0.2, 0.05], [0.2] * 5)]
    held, none = torch.tensor([[5, 5]]), torch.tensor([0])
    assert common_cut(attention, held, torch.tensor([2]), none).tolist() == [[4, 2]]
    assert common_cut(attention, held, torch.tensor([3]), none).tolist() == [[3, 1]]
    assert common_cut(attention, held, torch.tensor([5]), none).tolist() == [[0, 0]]
    # all but the protected ones go: no threshold takes the token it ends at
    assert common_cut(attention, held, torch.tensor([4]), torch.tensor([4])).tolist() == [[1, 1]]
    assert common_cut(attention, held, torch.tensor([2]), torch.tensor([2])).tolist() == [[3, 3]]


def test_prefixkv_gives_like_layers_like_budgets() -> None:
    torch.manual_seed(3)
    one, other = torch.rand(1, 40), torch.rand(1, 40) ** 8
    first, second, third = common_cut([one, one, other], torch.full((1, 3), 40), torch.tensor([10]), torch.tensor([2]))[0].tolist()
    assert abs(first - second) <= 1 and third > first and first + second + third == 90


def test_prefixkv_keeps_the_same_tokens_in_all_heads_and_the_budget_in_all() -> None:
    session = Session(tiny(), make("prefixkv", "20t"))
    session.prefill(IDS[:1])
    kept = kept_positions(session)
    assert sum(len(layer[0]) for layer in kept) == 3 * 20 and len({len(layer[0]) for layer in kept}) > 1
    shares = []
    for layer, weights in zip(kept, prompt_weights(IDS[:1]), strict=True):
        assert layer[0] == layer[1] and layer[0][0] == 0 and layer[0][-1] == 95
        got = weights.sum(1).mean(0)
        best = 1 + got[1:95].argsort(descending=True)[: len(layer[0]) - 2]
        assert layer[0][1:-1] == sorted(best.tolist())
        shares.append(float(got[got.argsort(descending=True)[: len(layer[0])]].sum() / got.sum()))
    assert max(shares) - min(shares) < 0.03  # one token more or less
    assert session.cache.nbytes() == 3 * 20 * tiny().geometry.slot_bytes  # no number of the prompt is left behind


def test_prefixkv_drops_at_a_fixed_place_while_text_is_written() -> None:
    session = Session(tiny(), make("prefixkv", "40t", {"distance": 5}))
    session.prefill(IDS[:1, :80])
    before = kept_positions(session)
    stayed = [len(layer[0]) for layer in before]
    for n in range(1, 30):
        session.decode(IDS[1, n : n + 1])
        for i, layer in enumerate(kept_positions(session)):
            assert len(layer[0]) == stayed[i] * (80 + n) // 80
            gone = 80 + n - len(layer[0]) - (80 - stayed[i])
            text = [*before[i][0], *range(80, 80 + n)]
            assert layer[0] == text[: stayed[i] - 5] + text[stayed[i] - 5 + gone :]


def test_prefixkv_with_little_left_drops_in_the_middle() -> None:
    session = Session(tiny(), make("prefixkv", "6t"))
    session.prefill(IDS[:1, :60])
    before = kept_positions(session)
    session.decode(IDS[0, 60:61])
    for old, new in zip(before, kept_positions(session), strict=True):
        assert new[0] == [*(p for i, p in enumerate(old[0]) if i != len(old[0]) // 2), 60]


# GraphKV


FIGURE = [0.1, 0.6, 0.3, 1.2, 0.3, 0.7, 1.1]
LIKE_4 = {1: 0.10, 2: 0.21, 3: 0.16, 5: 0.40, 6: 0.50}
LIKE_7 = {1: 0.05, 2: 0.03, 3: 0.70, 5: 0.23, 6: 0.60}


def figure() -> tuple[Tensor, Tensor]:
    """Queries and keys [8, 8]: seven tokens with the figure's scores and likenesses to tokens 4 and 7, then one that votes."""
    keys = torch.zeros(8, 8)
    keys[3, 0] = keys[6, 1] = keys[7, 7] = 1
    for axis, (token, a) in enumerate(LIKE_4.items(), start=2):
        keys[token - 1, 0], keys[token - 1, 1] = a, LIKE_7[token]
        keys[token - 1, axis] = (1 - a**2 - LIKE_7[token] ** 2) ** 0.5
    query = torch.linalg.solve(keys, torch.tensor([*FIGURE, 1.0]).log())
    return torch.cat([torch.zeros(7, 8), query[None]]), keys


def test_graphkv_gives_what_the_figure_shows() -> None:
    q, k = figure()
    knobs = {"window": 1, "kernel": 1, "sources": 0.5, "near": 0.2}  # two sources, two neighbours each
    hand = Hand(make("graphkv", "4t", knobs), size=8).feed("prefill", q[None], k[None])
    assert torch.allclose(hand.notes.scores[0][0, 0, :7] * (sum(FIGURE) + 1), torch.tensor([0.1, 0.6, 0.09, 1.2, 0.18, -0.07, 1.1]), atol=1e-5)
    assert hand.kept == [[1, 3, 6, 7]]
    assert Hand(make("snapkv", "4t", {"window": 1, "kernel": 1}), size=8).feed("prefill", q[None], k[None]).kept == [[3, 5, 6, 7]]


def test_graphkv_takes_new_sources_in_a_second_round() -> None:
    q, k = figure()
    knobs = {"window": 1, "kernel": 1, "sources": 0.3, "near": 0.1, "rounds": 2}  # one source, one neighbour
    hand = Hand(make("graphkv", "4t", knobs), size=8).feed("prefill", q[None], k[None])
    # 4 takes half of 6; then 7, the next best, takes from 3, which is most like it
    assert torch.allclose(hand.notes.scores[0][0, 0, :7] * (sum(FIGURE) + 1), torch.tensor([0.1, 0.6, 0.09, 1.2, 0.3, 0.35, 1.1]), atol=1e-5)


def test_graphkv_over_keys_with_nothing_in_common_is_its_base() -> None:
    q = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(5))
    knobs = {"window": 2, "kernel": 1}
    graph, base = (Hand(make(name, "8t", knobs), size=16).feed("prefill", q, units(0, 16, 16)[None]) for name in ("graphkv", "snapkv"))
    assert graph.kept == base.kept and torch.equal(graph.notes.scores[0], base.notes.scores[0])


def test_graphkv_adds_nothing_for_keys_that_point_away() -> None:
    keys = torch.tensor([[1.0, 0], [-1.0, 0], [0.6, 0.8]])[None, None]
    source = torch.tensor([[[True, False, False]]])
    scores = decayed(torch.ones(1, 1, 3), keys, source, ~source, torch.tensor([2]))
    assert torch.allclose(scores, torch.tensor([1.0, 1.0, 0.4]))


def test_graphkv_over_norms_lets_near_copies_go() -> None:
    keys = torch.tensor([[1.0, 0.0], [1.1, 0.0], [0.0, 2.0], [3.0, 3.0], [1.0, 1.0]])[None]
    knobs = {"base": "knorm", "window": 1, "sources": 0.5, "near": 0.25}
    hand = Hand(make("graphkv", "3t", knobs), size=2).feed("prefill", torch.zeros(1, 5, 2), keys)
    assert torch.allclose(hand.notes.scores[0][0, 0, :4], torch.tensor([18**0.5 - 1, 0, 18**0.5 - 2, 0]), atol=1e-3)
    assert hand.kept == [[0, 2, 4]]


@pytest.mark.parametrize(("base", "like"), [("snapkv", "snapkv"), ("pyramidkv", "pyramidkv")])
def test_graphkv_holds_as_much_as_its_base(base: str, like: str) -> None:
    lens = []
    for name, knobs in (("graphkv", {"base": base}), (like, {})):
        session = Session(tiny(), make(name, "20t", {"window": 8, **knobs}))
        session.prefill(IDS[:1])
        lens.append([[len(head) for head in layer] for layer in kept_positions(session)])
    assert lens[0] == lens[1]


def test_a_share_of_tokens_is_rounded_up_and_not_by_floating_point() -> None:
    assert share_of(torch.tensor([30, 31, 0]), 0.1).tolist() == [3, 4, 0]


# KVCrush


WORDS = ["1111", "0101", "1010", "0001", "0100", "1011"]


@pytest.mark.parametrize(("count", "picked"), [(3, [1, 4, 5]), (0, []), (1, [1]), (2, [0, 1]), (6, [0, 1, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])])
def test_kvcrush_representatives_of_the_card(count: int, picked: list[int]) -> None:
    bits = torch.tensor([[[word[h] == "1" for word in WORDS] for h in range(4)]])
    anchor = torch.tensor([[False, True, False, True]])
    mask = representatives(bits, anchor, torch.ones(1, 6, dtype=torch.bool), torch.tensor([count]))
    assert mask[0].nonzero().flatten().tolist() == picked


def crush(**knobs: object) -> tuple[list[list[int]], Tensor]:
    """Kept positions of two KV heads, and the weights [4, 11] of the last of twelve queries."""
    q, k = torch.randn(4, 12, 8, generator=torch.Generator().manual_seed(2)), torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(3))
    hand = Hand(make("kvcrush", "7t", {"window": 1, "kernel": 1, **knobs}), heads=2, size=8, groups=2).feed("prefill", q, k)
    weights = (q[:, -1:] @ k.repeat_interleave(2, dim=0).transpose(-1, -2)).softmax(-1)[:, 0, :-1]
    return hand.kept, weights


def test_kvcrush_without_representatives_keeps_the_best_of_all_heads() -> None:
    kept, weights = crush(share=0.0)
    assert kept == [[*sorted(weights.sum(0).topk(6).indices.tolist()), 11]] * 2


@pytest.mark.parametrize("anchor", ["zeros", "ones", "alternating", "majority"])
def test_kvcrush_bits_say_which_heads_would_have_kept_a_token(anchor: str) -> None:
    kept, weights = crush(share=0.5, anchor=anchor)
    best = set(weights.sum(0).topk(3).indices.tolist())
    words = {j: [j in row.topk(3).indices.tolist() for row in weights] for j in range(11) if j not in best}
    votes = [sum(bits) * 2 > len(words) for bits in zip(*words.values(), strict=True)]
    word = {"zeros": [False] * 4, "ones": [True] * 4, "alternating": [False, True] * 2, "majority": votes}[anchor]
    order = sorted(words, key=lambda j: sum(a != b for a, b in zip(words[j], word, strict=True)))
    assert kept == [sorted([*best, order[0], order[2], order[4], 11])] * 2


def test_kvcrush_random_anchors_are_the_seed() -> None:
    def kept(seed: int) -> list[list[list[int]]]:
        session = Session(tiny(), make("kvcrush", "30t", {"window": 4, "share": 0.5, "seed": seed}))
        session.prefill(IDS[:1])
        return kept_positions(session)

    assert kept(0) == kept(0) and any(kept(0) != kept(seed) for seed in (1, 2, 3))
    assert all(layer[0] == layer[1] and len(layer[0]) == 30 for layer in kept(0))
