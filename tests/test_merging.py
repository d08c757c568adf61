"""CaM, D2O, EMS, LESS and the duplicate-token collapse: the worked examples of the cards, plain references, and what the trace says."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from test_axes import IDS, PROMPT, STEPS, WRITTEN, play, traced
from torch import Tensor

from kvlab.attention import Rules, attend, slot_logits, softmax_rows
from kvlab.calibration import artefact, sample
from kvlab.cli import main
from kvlab.engine import kept_positions
from kvlab.merge import Next, add, following, host_keeps, leaving, mean_of, nearest, spread, total
from kvlab.method import Method
from kvlab.methods.merging._less import Lesson, answered, fit, fresh, lesson, loss, phi, played, projection_of, psi, show
from kvlab.methods.merging.cam import chance
from kvlab.methods.merging.d2o import D2O, density, layer_counts
from kvlab.methods.merging.ems import global_local, pooled_keys
from kvlab.methods.merging.less import Absorbing
from kvlab.methods.merging.mergear import collapse
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.seen import Seen
from kvlab.session import Session
from kvlab.store import Extra, Store, View
from kvlab.trace import NEVER, Silent

SMALL = {"passages": 3, "length": 24, "epochs": 2, "hidden": 8}
CASES = {
    "cam": {}, "d2o": {"whole": 1, "whole_last": 0}, "ems": {"window": 8, "alike": 0.0}, "less": SMALL, "mergear": {"alike": 0.3},
}  # fmt: skip
DROPPERS = [name for name in CASES if name != "mergear"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some(*shape: int, share: float = 0.5, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def store_of(k: Tensor, v: Tensor) -> Store:
    """A raw store of `k` and `v` [B, H, T, D] at positions 0, 1, ..."""
    store = Store()
    store.append(k, v, torch.arange(k.shape[2], dtype=torch.int32).expand(len(k), -1))
    return store


# routers and combiners against loops


@pytest.mark.parametrize("slots, share", [(1, 0.5), (7, 0.0), (7, 1.0), (13, 0.6), (300, 0.95)])
def test_the_nearest_is_the_one_a_loop_finds(slots: int, share: float) -> None:
    keys, gone = noise(2, 3, slots, 5), some(2, 3, slots, share=share)
    takes = ~gone & some(2, 3, slots, share=0.7, seed=1)
    slot, real = leaving(gone)
    target, alike = nearest(keys, slot, takes)
    for b, h in np.ndindex(2, 3):
        listed = [int(s) for s, r in zip(slot[b, h], real[b, h], strict=True) if r]
        assert listed == gone[b, h].nonzero()[:, 0].tolist()
        assert not gone[b, h][slot[b, h][~real[b, h]]].any()
        for e, s in enumerate(listed):
            others = takes[b, h].nonzero()[:, 0].tolist()
            cosines = dict(zip(others, torch.cosine_similarity(keys[b, h, s], keys[b, h, others], dim=-1).tolist(), strict=True))
            assert float(alike[b, h, e]) == pytest.approx(max(cosines.values(), default=-math.inf), abs=1e-5)
            assert not cosines or cosines[int(target[b, h, e])] == pytest.approx(max(cosines.values()), abs=1e-5)


@pytest.mark.parametrize("most", [1, 3, 50])
@pytest.mark.parametrize("slots, share", [(1, 1.0), (9, 0.5), (9, 1.0), (31, 0.8)])
def test_values_are_spread_as_a_loop_does(slots: int, share: float, most: int) -> None:
    x, votes, gone = noise(2, 2, slots, 3), noise(2, 2, slots, seed=1).abs(), some(2, 2, slots, share=share)
    takes = ~gone & some(2, 2, slots, share=0.8, seed=2)
    slot, real = leaving(gone)
    weight = noise(*slot.shape, seed=3).abs() * real
    near = following(takes, slot, most)
    got, means = spread(x, slot, weight, near), mean_of(votes, near)
    for b, h in np.ndindex(2, 2):
        want = torch.zeros(slots, 3, dtype=torch.float64)
        for e, s in enumerate(slot[b, h].tolist()):
            behind = [t for t in range(s + 1, slots) if takes[b, h, t]][:most]
            assert int(near.count[b, h, e]) == len(behind) or not real[b, h, e]
            if real[b, h, e]:
                assert float(means[b, h, e]) == pytest.approx(float(votes[b, h, behind].mean()) if behind else 0)
            for t in behind:
                want[t] += weight[b, h, e] * x[b, h, s] / len(behind)  # the actual number, not `most`
        assert torch.allclose(got[b, h], want)


def test_rows_are_added_up_where_they_go() -> None:
    x, slot = noise(1, 2, 6, 4), torch.tensor([[[5, 4, 0], [1, 2, 3]]])
    target, weight = torch.tensor([[[3, 3, 1], [0, 0, 5]]]), noise(1, 2, 3, seed=1)
    want, sums = torch.zeros(1, 2, 6, 4), torch.zeros(1, 2, 6)
    for h, e in np.ndindex(2, 3):
        want[0, h, target[0, h, e]] += weight[0, h, e] * x[0, h, slot[0, h, e]]
        sums[0, h, target[0, h, e]] += weight[0, h, e]
    assert torch.allclose(add(x, slot, target, weight), want) and torch.allclose(total(weight, target, 6), sums)


def test_policies_keep_what_they_say() -> None:
    pos, count, tokens = torch.arange(8, dtype=torch.int32).expand(1, 1, 8), torch.tensor([4]), torch.tensor([8])
    votes = torch.tensor([[[1.0, 0, 9, 0, 5, 0, 0, 0]]])
    assert host_keeps("window", None, pos, tokens, count, 1, 0.5).nonzero()[:, 2].tolist() == [0, 5, 6, 7]
    assert host_keeps("h2o", votes, pos, tokens, count, 1, 0.5).nonzero()[:, 2].tolist() == [2, 4, 6, 7]


# CaM


def row(value: float) -> Tensor:
    return torch.full((1, 1, 1), value)


def test_cam_a_value_goes_to_the_next_entry() -> None:
    v, slot = noise(1, 1, 3, 4), torch.tensor([[[0]]])
    near = following(torch.tensor([[[False, True, True]]]), slot, 1)
    assert torch.allclose(v + spread(v, slot, row(1.0), near).float(), torch.stack([v[0, 0, 0], v[0, 0, 0] + v[0, 0, 1], v[0, 0, 2]])[None, None])
    assert (spread(v, slot, row(0.0), near) == 0).all()


@pytest.mark.parametrize("votes, want", [([2.0, 4, 4, 4], 0.5), ([9.0, 1, 1, 1], 1), ([0.0, 0, 0, 0], 0), ([3.0, 0, 0, 0], 1)])
def test_cam_the_chance_is_attention_over_that_of_those_behind(votes: list[float], want: float) -> None:
    slot = torch.tensor([[[0]]])
    near = following(torch.tensor([[[False, True, True, True]]]), slot, 2)
    assert float(chance(torch.tensor([[votes]]), slot, near)) == want
    nobody = Next(near.order, near.real, near.first, torch.zeros_like(near.count))
    assert float(chance(torch.tensor([[votes]]), slot, nobody)) == 0


def test_cam_lots_are_seeded() -> None:
    lm = tiny()
    first, again, other = (play(lm, make("cam", "0.25", {"seed": seed}))[1] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_cam_without_merging_only_drops() -> None:
    lm, theirs = tiny(), make("streamingllm", "0.25", {"renumber": False})
    ours = Session(lm, make("cam", "0.25", {"prompt": False}))
    assert torch.equal(ours.prefill(IDS), Session(lm, theirs).prefill(IDS))
    whole = play(lm, Method())[0].cache.layers[0].store.view()
    held = ours.cache.layers[0].store.view()
    assert torch.equal(held.v, whole.v[:, :, held.pos[0, 0].long()])


def test_cam_merges_one_entry_a_step_into_those_behind_it() -> None:
    lm, method = tiny(layers=1), make("cam", "20t", {"neighbours": 3, "draw": False, "prompt": False})
    session = Session(lm, method)
    session.prefill(IDS)
    before, votes = session.cache.layers[0].store.view(), session.cache.layers[0].store.tag("cam")
    session.decode(WRITTEN[:1])
    after, now = session.cache.layers[0].store.view(), session.cache.layers[0].store.tag("cam")
    assert before.pos[0, 0].tolist() == [0, 1, 2, 3, *range(64, 80)] and after.pos[0, 0].tolist() == [0, 1, 2, 3, *range(65, 81)]
    assert now.shape == votes.shape == (1, 2, 20)  # the accumulated score of what left went with it
    given = (after.v[0, :, 4:7] - before.v[0, :, 5:8]) / before.v[0, :, 4:5]  # of position 64 to 65, 66, 67
    assert torch.allclose(given, given[:, :1, :1].expand_as(given), atol=1e-3) and (given > 0).all() and (given <= 1 / 3 + 1e-3).all()
    assert torch.equal(after.v[0, :, 7:19], before.v[0, :, 8:]) and torch.equal(after.k[0, :, 4:19], before.k[0, :, 5:])


# D2O


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_d2o_shares_follow_the_softmax_and_add_up(layers: int) -> None:
    dense = torch.rand(2, layers, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counts = layer_counts(dense, torch.tensor([25, 10]), torch.tensor([100, 61]))
    assert counts.sum(1).tolist() == [25 * layers, 10 * layers]
    ratio = layers * 0.25 * (-dense[0]).softmax(0)  # of 100 tokens; nothing exceeds 1
    assert (counts[0] / 100 - ratio).abs().max() < 0.0101 and float(ratio.sum()) == pytest.approx(layers * 0.25)


def test_d2o_no_layer_gets_more_than_there_is() -> None:
    counts = layer_counts(torch.tensor([[0.0, 9, 9]]), torch.tensor([50]), torch.tensor([60]))
    assert counts.tolist() == [[60, 45, 45]]
    assert layer_counts(torch.tensor([[0.0, 1]]), torch.tensor([60]), torch.tensor([60])).tolist() == [[60, 60]]


def test_d2o_density_is_scaled_variance() -> None:
    votes = torch.tensor([[[1.0, 1, 1, 9], [0, 4, 0, 9], [0, 2, 0, 9]]])
    valid = torch.tensor([[[True, True, True, False]]]).expand(-1, 3, -1)  # the last is a hole
    variances = [np.var(head[:3]) for head in votes[0].tolist()]
    want = np.mean([(x - min(variances)) / (max(variances) - min(variances)) for x in variances])
    assert float(density(votes, valid)) == pytest.approx(want)
    assert float(density(votes[:, :1], valid[:, :1])) == 0  # one head: nothing to scale by


def test_d2o_an_identical_key_gives_the_plain_mean() -> None:
    lm, method = tiny(layers=1, heads=1), D2O(whole=0, whole_last=0, recent=0.5, sinks=0).with_budget(make("snapkv", "2t").budget)
    session = Session(lm, method)
    session.prefill(IDS[:, :2])
    layer = session.cache.layers[0]
    keys, values = torch.tensor([[[[3.0, 4.0], [0.0, 1.0], [3.0, 4.0]]]]), torch.tensor([[[[1.0, 5.0], [2.0, 2.0], [3.0, -1.0]]]])
    layer.store = store_of(keys, values)
    layer.store.tag("d2o", torch.tensor([[[5.0, 1.0, 0.0]]]))  # the heavy one stays, beside the latest: position 1 leaves
    layer.state.pop("d2o.threshold", None)
    session.cache.tokens = torch.tensor([3])
    method._cut(layer)
    assert layer.store.pos().tolist() == [[[0, 2]]]
    cosine = 0.8  # of (0, 1) and (3, 4); ties go to the first
    assert torch.allclose(layer.store.view().k[0, 0, 0], (keys[0, 0, 0] + cosine * keys[0, 0, 1]) / 2)
    layer.store = store_of(keys[:, :, [0, 2, 1]], values[:, :, [0, 2, 1]])
    layer.store.tag("d2o", torch.tensor([[[5.0, 1.0, 0.0]]]))
    layer.state.pop("d2o.threshold")
    method._cut(layer)
    assert torch.equal(layer.store.view().k[0, 0, 0], keys[0, 0, 0]) and torch.equal(layer.store.view().v[0, 0, 0], torch.tensor([2.0, 2.0]))


def test_d2o_the_threshold_is_a_running_mean() -> None:
    lm, method = tiny(layers=1), D2O()
    layer = Session(lm, method).cache.layers[0]
    everyone = torch.ones(1, 2, 2, dtype=torch.bool)
    assert method._alike_enough(layer, torch.tensor([[[0.7, 0.9], [0.8, 0.8]]]), everyone).tolist() == [[False, True]]  # heads agree on 0.75 and 0.85
    assert float(layer.state["d2o.threshold"]) == pytest.approx(0.8)
    assert method._alike_enough(layer, torch.tensor([[[0.4, 0.8], [0.4, 0.8]]]), everyone).tolist() == [[False, True]]
    assert float(layer.state["d2o.threshold"]) == pytest.approx(0.7)
    method._alike_enough(layer, torch.zeros(1, 2, 0), everyone[..., :0])
    assert float(layer.state["d2o.threshold"]) == pytest.approx(0.7)  # nobody left


def test_d2o_whole_layers_keep_everything_and_the_rest_the_budget_on_average() -> None:
    session = play(tiny(layers=6, heads=4), make("d2o", "0.25"))[0]  # with two heads the scaled variances are always 0 and 1
    held = [len(head) for layer in kept_positions(session) for head in layer[:1]]
    assert held[:2] == [PROMPT + STEPS] * 2 and held[5] == PROMPT + STEPS
    assert sum(held[2:5]) == 3 * 20 and len(set(held[2:5])) > 1
    assert all("d2o" not in session.cache.layers[i].store.columns for i in (0, 1, 5))


# EMS


def test_ems_takes_the_larger_of_both_sums() -> None:
    scores = global_local(torch.tensor([[[8.0, 1, 1]]]), torch.tensor([[[0.1, 0.1, 0.8]]]), torch.ones(1, 1, 3, dtype=torch.bool))
    assert scores[0, 0].tolist() == pytest.approx([0.8, 0.1, 0.8])
    assert global_local(torch.ones(1, 1, 2), torch.full((1, 1, 2), 0.5), torch.zeros(1, 1, 2, dtype=torch.bool)).tolist() == [[[0.5, 0.5]]]


def ems(alike: float, **more: float) -> tuple[Session, np.ndarray, np.ndarray]:
    session, trace = traced(tiny(), make("ems", "0.5", {"alike": alike, "window": 8, **more}))
    return session, trace.left_at[..., :PROMPT] != NEVER, trace.merged_into[..., :PROMPT]


def test_ems_above_one_nothing_merges_and_below_minus_one_all_candidates_do() -> None:
    session, left, into = ems(1.1)
    assert (into == -1).all() and {len(head) for layer in kept_positions(session) for head in layer} == {40} and left.any()
    whole = play(tiny(), Method())[0].cache.layers[0].store.view()
    held = session.cache.layers[0].store.view()
    assert torch.equal(held.v[0, 0, :30], whole.v[0, 0, held.pos[0, 0, :30].long()])  # what stayed is what it was
    _, left, into = ems(-1.1, merged=8)  # as many candidates as leave
    assert ((into >= 0) == left).all() and left.sum(-1).min() >= 40
    assert not np.take_along_axis(left, np.maximum(into, 0), 2)[(into >= 0) & (into < PROMPT)].all()


def test_ems_members_count_by_their_scores_and_keys_keep_their_length() -> None:
    keys = torch.tensor([[[[3.0, 4.0], [6.0, 8.0], [1.0, 0.0]]]])
    slot, target = torch.tensor([[[1]]]), torch.tensor([[[0]]])
    own, weight = torch.tensor([[[0.75, 1.0, 1.0]]]), torch.tensor([[[0.25]]])
    assert torch.allclose(pooled_keys(keys, slot, target, own, weight)[0, 0, 0], torch.tensor([3.0, 4.0]))  # the same direction: unchanged
    turned = pooled_keys(keys, torch.tensor([[[2]]]), target, own, weight)[0, 0, 0]
    assert float(turned.norm()) == pytest.approx(5) and float(turned[1] / turned[0]) == pytest.approx(0.6 / 0.7)
    session = Session(tiny(layers=1, heads=1), make("ems", "2t", {"window": 1, "alike": 0.5}))
    session.prefill(IDS[:, :2])
    layer, method = session.cache.layers[0], session.method
    keys, values = torch.tensor([[[[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0], [5.0, 8.0], [0.0, 0.0]]]])
    layer.store = store_of(keys, values)
    session.cache.tokens = torch.tensor([3])
    seen = layer.refreshed(fake_seen(layer, 3))
    method._cut(layer, seen, torch.tensor([[[3.0, 1.0, 0.0]]]))
    assert layer.store.pos().tolist() == [[[0, 2]]]
    assert torch.allclose(layer.store.view().k[0, 0, 0], torch.tensor([3.0, 4.0]))
    assert torch.allclose(layer.store.view().v[0, 0, 0], torch.tensor([2.0, 2.0]))  # (3 * v0 + 1 * v1) / 4
    assert layer.store.tag("ems").tolist() == [[[4.0, 0.0]]]  # it inherits the score


def fake_seen(layer: object, slots: int) -> object:
    """What a method would see after a call of one query: only its slots matter here."""
    return Seen(noise(1, 2, 1, 2), torch.tensor([[slots - 1]], dtype=torch.int32), layer.store.view(), Rules(0.5), Phase("decode", step=1))


def test_ems_only_the_next_best_may_merge() -> None:
    _, left, into = ems(-1.1, merged=0.25)
    first = left & (into >= 0)
    assert (first.sum(-1) < left.sum(-1)).all() and (first.sum(-1) >= 8).all()  # a quarter of 32 centres at the prompt's end


# LESS


def plain_out(q: Tensor, k: Tensor, v: Tensor, read: Tensor, sums: Tensor, mass: Tensor, scaling: float) -> Tensor:
    """The formula as it stands, for one KV head per query head: everything [B, H, ...], float64."""
    q, k, v, read, sums, mass = (x.double() for x in (q, k, v, read, sums, mass))
    e = (q @ k.mT * scaling).exp()
    return (e @ v + read @ sums) / (e.sum(-1, keepdim=True) + read @ mass[..., None])


class Listener(Silent):
    """Hands what each layer saw to a function."""

    def __init__(self, heard: Callable[[Seen], None]) -> None:
        self.heard = heard

    def attended(self, layer: object, store: object, seen: Seen) -> None:
        self.heard(seen)


def state_of(reads: object, sums: Tensor, mass: Tensor) -> Extra:
    store = Absorbing()
    store.sums, store.mass = sums, mass
    return Extra(lambda q: reads(q).log() + mass.log()[:, :, None], store.sums / mass.clamp(min=1e-30)[..., None])


@pytest.mark.parametrize("t", [1, 3, 300])
def test_less_rows_of_the_state_in_the_softmax_are_the_formula(t: int) -> None:
    q, k, v = noise(2, 3, t, 8), noise(2, 3, 11, 8, seed=1), noise(2, 3, 11, 8, seed=2)
    sums, mass = noise(2, 3, 4, 8, seed=3), noise(2, 3, 4, seed=4).abs()
    sums[0, 0, 1], mass[0, 0, 1] = 0, 0  # a row that has taken nothing
    reads = lambda q: (q[..., :4] * 3).abs()  # noqa: E731
    view = View(k, v, torch.zeros(2, 1, 11, dtype=torch.int32), False, extra=state_of(reads, sums, mass))
    got = attend(q, view, torch.zeros(2, t, dtype=torch.int32), Rules(0.3), fresh=False)
    assert torch.allclose(got.double(), plain_out(q, k, v, reads(q), sums, mass, 0.3), atol=1e-5)


def test_less_the_state_stands_beside_a_sink_and_behind_a_softcap() -> None:
    q, k, v, at = noise(1, 2, 3, 8), noise(1, 2, 5, 8, seed=1), noise(1, 2, 5, 8, seed=2), torch.zeros(1, 3, dtype=torch.int32)
    sums, mass, sinks = noise(1, 2, 4, 8, seed=3), noise(1, 2, 4, seed=4).abs(), torch.tensor([0.5, -1.0])
    reads, view = (lambda q: q[..., :4].abs()), View(k, v, torch.zeros(1, 1, 5, dtype=torch.int32), False)
    e, read = (torch.tanh(q @ k.mT * 0.3 / 2) * 2).exp(), reads(q)
    want = (e @ v + read @ sums) / (e.sum(-1, keepdim=True) + read @ mass[..., None] + sinks.exp().view(1, 2, 1, 1))
    got = attend(q, view._replace(extra=state_of(reads, sums, mass)), at, Rules(0.3, softcap=2.0, sinks=sinks), False)
    assert torch.allclose(got, want, atol=1e-5)


def test_less_members_that_act_later_still_see_the_state() -> None:
    heard = []
    listener = Listener(None)
    listener.attended = lambda layer, store, seen: heard.append(layer.refreshed(seen).view.extra)
    session = Session(tiny(layers=1), make("less", "16t", SMALL), recorder=listener)
    session.prefill(IDS)
    session.decode(WRITTEN[:1])
    assert heard[0] is None and heard[1].v.shape == (1, 2, 8, 16)


def test_less_an_empty_state_changes_nothing() -> None:
    q, k, v, pos = noise(1, 2, 5, 8), noise(1, 2, 7, 8, seed=1), noise(1, 2, 7, 8, seed=2), torch.zeros(1, 1, 7, dtype=torch.int32)
    view = View(k, v, pos, False)
    state = state_of(lambda q: q[..., :3].abs(), torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3))
    at = torch.zeros(1, 5, dtype=torch.int32)
    assert torch.allclose(attend(q, view._replace(extra=state), at, Rules(0.3), False), attend(q, view, at, Rules(0.3), False), atol=1e-6)


def test_less_perfect_maps_give_dense_attention() -> None:
    q, k, v, at = noise(1, 2, 3, 8), noise(1, 2, 9, 8, seed=1), noise(1, 2, 9, 8, seed=2), torch.full((1, 3), 9, dtype=torch.int32)
    pos = torch.arange(9, dtype=torch.int32)[None, None]
    gone = k[:, :, :4]
    store = Absorbing()
    store.absorb(torch.eye(4).expand(1, 2, 4, 4), v[:, :, :4])  # psi: a row for each
    perfect = state_of(lambda q: (q @ gone.mT * 0.3).exp(), store.sums, store.mass)
    rest = View(k[:, :, 4:], v[:, :, 4:], pos[..., 4:], False, extra=perfect)
    assert torch.allclose(attend(q, rest, at, Rules(0.3), False), attend(q, View(k, v, pos, False), at, Rules(0.3), False), atol=1e-6)
    weights = softmax_rows(q, rest, at, Rules(0.3))
    assert weights.shape == (1, 2, 3, 5) and (weights.sum(-1) < 1).all()  # the rest is the state's


def test_less_absorbs_key_and_value_in_any_order() -> None:
    maps, k, v = fresh(2, 4, 8, 16, 3, 0, "cpu"), noise(1, 2, 2, 8), noise(1, 2, 2, 8, seed=1)
    weight = psi(k, maps)
    first, other, both = Absorbing(), Absorbing(), Absorbing()
    first.absorb(weight[:, :, :1], v[:, :, :1])
    assert torch.allclose(first.sums, weight[:, :, 0, :, None] * v[:, :, :1]) and torch.equal(first.mass, weight[:, :, 0])
    first.absorb(weight[:, :, 1:], v[:, :, 1:])
    other.absorb(weight[:, :, 1:], v[:, :, 1:])
    other.absorb(weight[:, :, :1], v[:, :, :1])
    both.absorb(weight, v)
    for store in (other, both):
        assert torch.allclose(first.sums, store.sums) and torch.allclose(first.mass, store.mass)
    assert (weight >= 0).all() and (phi(noise(1, 4, 5, 8), maps) >= 0).all()


def test_less_maps_are_the_cards_formulas() -> None:
    maps = {name: noise(*tensor.shape, seed=i) for i, (name, tensor) in enumerate(fresh(1, 1, 4, 6, 2, 0, "cpu").items())}
    x, gelu = noise(1, 5, 4), torch.nn.functional.gelu
    assert torch.allclose(phi(x, maps)[0], gelu(gelu(x[0] @ maps["q_in"][0]) @ maps["q_out"][0]).abs())
    u = maps["k_size"][0].abs() * gelu(gelu(x[0] @ maps["k_in"][0]) @ maps["k_out"][0])
    assert torch.allclose(psi(x, maps)[0], (u + (u @ maps["k_mix"][0]) * maps["k_gain"][0]).abs())


@pytest.mark.parametrize("groups", [1, 2])
def test_less_plays_the_policy_as_a_run_would(groups: int) -> None:
    lm, n, found = tiny(groups, layers=1), 24, []
    show(lm, IDS[:, :n], Listener(lambda seen: found.append(played(slot_logits(seen.q, seen.view, seen.q_pos, seen.rules), "h2o", 8, 4, 0.5, 2))))
    run = Session(lm, make("h2o", "8t"))
    run.prefill(IDS[:, :1])
    for i in range(1, n):
        now = run.cache.layers[0].store.pos().expand(-1, 2, -1)
        assert [sorted([*head, i]) for head in now[0].tolist()] == [head.nonzero()[:, 0].tolist() for head in found[0][0, :, i]]
        run.decode(IDS[0, i : i + 1])


def school(lm: LM, **knobs: object) -> tuple[Lesson, Tensor, object]:
    """What layer 0 is trained on, its projection, and the method."""
    method, found = make("less", None, SMALL | {"length": 40, "passages": 4} | knobs), []
    show(lm, sample(lm, method.passages, method.length), Listener(lambda seen: found.append(lesson(seen, method))))
    return found[0], projection_of(lm.model, 0, lm.geometry.query_heads * lm.geometry.head_dim), method


def test_less_training_shows_what_a_run_computes() -> None:
    x, _, _ = school(tiny(layers=1))
    maps = {name: tensor * 40 for name, tensor in fresh(2, 4, 16, 8, 3, 1, "cpu").items()}
    got = answered(x, maps)
    reads, weights = phi(x.q.transpose(0, 1), maps), psi(x.k.transpose(0, 1), maps)
    for h, n, t in [(0, 0, 0), (3, 2, 7), (1, 3, 33)]:
        gone = x.gone[h // 2, n, t]
        sums, mass = weights[n, h // 2, gone].mT @ x.v[h // 2, n, gone], weights[n, h // 2, gone].sum(0)
        read = reads[n, h, t]
        want = (x.kept[h, n, t] / x.scale[h, n, t] + read @ sums) / (1 / x.scale[h, n, t] + read @ mass)
        assert gone.any() and torch.allclose(got[h, n, t], want, atol=1e-5)


def test_less_training_lowers_the_error_and_repeats() -> None:
    lm = tiny(layers=1)
    x, projection, method = school(lm)
    start = fresh(2, 4, 16, 16, 4, 0, "cpu")
    first, again = (fit(x, start, projection, 12, 0) for _ in range(2))
    held_out = x.some(torch.arange(1))
    assert float(loss(held_out, first, projection)) < 0.97 * float(loss(held_out, start, projection))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(parameter.grad is not None for parameter in lm.model.parameters())
    dropped = (x.kept - x.out).permute(1, 2, 0, 3).flatten(2) @ projection
    assert float(loss(x, start, projection)) == pytest.approx(float(dropped.square().mean()), rel=0.01)  # untrained maps say next to nothing
    for name, tensor in artefact(method, lm).items():
        assert torch.equal(tensor, artefact(method, lm)[name]) and name.startswith("less.0.")


def test_less_the_state_is_of_constant_size_and_counts() -> None:
    lm, method = tiny(), make("less", "16t", SMALL)
    session = Session(lm, method)
    session.prefill(IDS)
    sizes = []
    for token in WRITTEN:
        store = session.cache.layers[1].store
        sizes.append(sum(t.untyped_storage().nbytes() for t in store.tensors()))
        assert store.sums.shape == (1, 2, 8, 16) and store.mass.shape == (1, 2, 8) and {store.sums.dtype, store.mass.dtype} == {torch.float32}
        mass = store.mass.clone()
        session.decode(token[None])
        assert (session.cache.layers[1].store.mass >= mass).all() and (session.cache.layers[1].store.mass > mass).any()
    slots = 16 * (2 * 2 * 16 * 4 + 2 * 4 + 2 * 4)  # keys and values, positions, scores
    assert set(sizes) == {slots + 4 * 2 * 8 * 17}


def test_less_the_state_takes_part_in_attention() -> None:
    lm = tiny()
    _, trace = traced(lm, make("less", "16t", SMALL))
    told = trace.attention.sum(-1, dtype=np.float32)
    assert np.allclose(told[0], 1, atol=0.02) and (told[1:] < 1.01).all()
    blind = Session(lm, make("less", "16t", SMALL))
    blind.prefill(IDS)
    for layer in blind.cache.layers:
        layer.store.mass, layer.store.sums = torch.zeros_like(layer.store.mass), torch.zeros_like(layer.store.sums)
    seeing = Session(lm, make("less", "16t", SMALL))
    seeing.prefill(IDS)
    for layer in seeing.cache.layers:  # untrained maps are timid: speak up
        layer.store.mass, layer.store.sums = layer.store.mass * 1e6, layer.store.sums * 1e6
    assert not torch.allclose(blind.decode(WRITTEN[:1]), seeing.decode(WRITTEN[:1]), atol=1e-3)


def test_less_makes_and_stores_its_artefact_by_itself(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))
    (tmp_path / "prompt.txt").write_text("A short text that is long enough to lose some of its tokens on the way.")
    command = ["run", "--prompt-file", str(tmp_path / "prompt.txt"), "--method", "less", "--budget", "0.5", "--model", str(hub), "--max-new-tokens", "3"]
    for knob, value in SMALL.items():
        command += ["--set", f"{knob}={value}"]
    assert main(command) == 0
    made = list((tmp_path / "calibration").iterdir())
    assert len(made) == 1 and made[0].name.startswith("less-")
    first, written = capsys.readouterr().out.splitlines()[0], made[0].stat().st_mtime_ns
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[0] == first and made[0].stat().st_mtime_ns == written


# duplicate-token collapse


def plain_collapse(keys: Tensor, ids: list[int], alike: float, distance: int) -> list[int]:
    """One head, every slot new."""
    held: list[int] = []
    target = []
    for t, token in enumerate(ids):
        near = [s for s in held if ids[s] == token and t - s <= distance]
        cosines = [float(torch.cosine_similarity(keys[s], keys[t], dim=0)) for s in near]
        best = near[int(np.argmax(cosines))] if near and max(cosines) > alike else t
        target.append(best)
        held += [t] * (best == t)
    return target


@pytest.mark.parametrize("alike, distance", [(-1.1, 1000), (-1.1, 5), (0.2, 1000), (0.2, 9), (1.1, 1000)])
def test_collapse_is_what_a_loop_does(alike: float, distance: int) -> None:
    t = 40
    keys, ids = noise(1, 3, t, 4), torch.randint(6, (t,), generator=torch.Generator().manual_seed(2))
    each = lambda x: x.expand(1, 3, t)  # noqa: E731
    everyone = torch.ones(1, 3, t, dtype=torch.bool)
    target = collapse(keys, each(ids.float()), each(torch.arange(t)), everyone, everyone, alike, distance)
    assert target[0].tolist() == [plain_collapse(keys[0, h], ids.tolist(), alike, distance) for h in range(3)]


def repeated(**knobs: object) -> Session:
    session = Session(tiny(layers=1), make("mergear", None, {"alike": -1.1, **knobs}))
    session.prefill(torch.tensor([[7, 9, 7, 9]]))
    return session


def test_collapse_a_b_a_b_keeps_two() -> None:
    whole = Session(tiny(layers=1), Method())
    whole.prefill(torch.tensor([[7, 9, 7, 9]]))
    full = whole.cache.layers[0].store.view()
    for counted in (True, False):
        store = repeated(counted=counted).cache.layers[0].store
        assert store.pos().tolist() == [[[0, 1]]]
        number = store.tag("bias").exp() if counted else store.tag("mergear.others") + 1
        assert torch.allclose(number, torch.full((1, 2, 2), 2.0))
        assert torch.allclose(store.view().v, full.v.unflatten(2, (2, 2)).mean(2)) and torch.equal(store.view().k, full.k[:, :, :2])
    assert len(repeated(distance=1).cache.layers[0].store) == 4
    assert len(repeated(alike=1.1).cache.layers[0].store) == 4


def test_collapse_of_identical_keys_is_exact_when_they_count() -> None:
    k, v, q = noise(1, 2, 2, 8), noise(1, 2, 4, 8, seed=1), noise(1, 4, 1, 8, seed=2)
    at, pos = torch.tensor([[9]], dtype=torch.int32), torch.arange(4, dtype=torch.int32)[None, None]
    dense = attend(q, View(k.repeat(1, 1, 2, 1), v, pos, False), at, Rules(0.3), False)
    merged = View(k, v.unflatten(2, (2, 2)).mean(2), pos[..., :2], False, bias=torch.full((1, 2, 2), math.log(2)))
    assert torch.allclose(attend(q, merged, at, Rules(0.3), False), dense, atol=1e-6)
    assert torch.allclose(attend(q, merged._replace(bias=None), at, Rules(0.3), False), dense, atol=1e-6)  # all count alike: no difference
    uneven = merged._replace(bias=torch.tensor([0.0, 2.0]).expand(1, 2, 2))
    assert not torch.allclose(attend(q, uneven, at, Rules(0.3), False), dense, atol=1e-3)
    three = attend(q, View(k[:, :, [0, 1, 0]], v[:, :, :3], pos[..., :3], False), at, Rules(0.3), False)
    mean = torch.stack([(v[:, :, 0] + v[:, :, 2]) / 2, v[:, :, 1]], dim=2)
    counted = View(k, mean, pos[..., :2], False, bias=torch.tensor([math.log(2), 0.0]).expand(1, 2, 2))
    assert torch.allclose(attend(q, counted, at, Rules(0.3), False), three, atol=1e-6)


def test_collapse_goes_on_while_text_is_written() -> None:
    session = repeated()
    for token, want in ((9, [0, 1]), (5, [0, 1, 5]), (5, [0, 1, 5]), (7, [0, 1, 5])):
        session.decode(torch.tensor([token]))
        assert session.cache.layers[0].store.pos()[0, 0].tolist() == want
    assert session.cache.layers[0].store.tag("bias").exp()[0, 0].round().tolist() == [3, 3, 2]
    assert session.cache.layers[0].get_seq_length() == 8


def test_collapse_bytes_are_those_of_the_entries_left() -> None:
    lm, method = tiny(), make("mergear", None, {"alike": -1.1})
    session, trace = traced(lm, method)
    left = len(set(IDS[0].tolist()) | set(WRITTEN.tolist()))
    assert {len(head) for layer in kept_positions(session) for head in layer} == {left}
    assert session.cache.nbytes() == 3 * method.layer_bytes(left, lm.geometry)
    gone = trace.left_at != NEVER
    assert ((trace.merged_into >= 0) == gone).all() and (trace.ids[trace.merged_into[gone]] == np.broadcast_to(trace.ids, gone.shape)[gone]).all()


# all of them


@pytest.mark.parametrize("name", DROPPERS)
@pytest.mark.parametrize("budget", ["0.25", "31t", "0.9"])
def test_predicted_bytes_are_the_measured_ones(name: str, budget: str) -> None:
    lm, method = tiny(), make(name, budget, CASES[name])
    assert predicted_bytes(method, lm.geometry, PROMPT + STEPS, PROMPT) == play(lm, method)[0].cache.nbytes()


@pytest.mark.parametrize("name", DROPPERS)
def test_the_trace_says_who_left_and_into_which(name: str) -> None:
    lm = tiny()
    trace = traced(lm, make(name, "0.25", CASES[name] | ({"neighbours": 5} if name == "cam" else {})))[1]
    left, into = trace.left_at != NEVER, trace.merged_into
    assert (into[~left] == -1).all() and (left.any() and not np.isnan(trace.score[left]).any())
    if name == "less":
        assert (into == -1).all()  # a state is no position
        return
    merged = np.argwhere(into >= 0)
    assert 0.1 < len(merged) / left.sum() <= 1
    for layer, head, pos in merged:
        target = into[layer, head, pos]
        assert trace.left_at[layer, head, target] > trace.left_at[layer, head, pos]  # it was held when it took it
        assert name != "cam" or target > pos


PAIRS = [f"{name}+kivi" for name in CASES]
PAIRS += ["kivi+cam", "kivi+d2o", "cam+think", "quest+mergear", "snapkv+mergear", "mergear+h2o", "ems+quest", "less+kvsharer"]
OTHERS = {
    "kivi": {"bits": 4, "group": 8, "residual": 16}, "quest": {"page": 4, "dense": 0, "share": 0.5}, "think": {"think.recent": 8},
    "kvsharer": {"kvsharer.passages": 2, "share": 0.3, "threshold": -1},
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_they_run_with_members_of_other_axes(pair: str) -> None:
    lm, names = tiny(layers=4), pair.split("+")
    knobs = {key: value for name in names for key, value in (CASES | OTHERS).get(name, {}).items()}
    budget = "0.5" if make(pair).budget_knob else None
    session, logits = play(lm, make(pair, budget, knobs))
    assert torch.isfinite(logits).all() and session.cache.nbytes() < lm.geometry.full_bytes(PROMPT + STEPS) * 1.2
    if "kivi" in names:
        assert all(layer.store.raw_lens("k").max() < len(layer.store) for layer in session.cache.layers if len(layer.store) > 24)
    assert torch.isfinite(session.prefill(IDS)).all()


def test_coded_entries_take_nothing() -> None:
    lm = tiny(layers=1)
    session = Session(lm, make("cam+kivi", "0.5", {"group": 8, "residual": 16, "bits": 4, "draw": False}))
    session.prefill(IDS)
    store = session.cache.layers[0].store
    coded = int((store.lens() - store.raw_lens("v")).min())
    before = store.view().v
    session.decode(WRITTEN[:1])
    after = session.cache.layers[0].store.view()
    still = after.pos[0, 0, : coded - 1].tolist()
    assert coded > 8 and still == [0, 1, 2, 3, *range(45, 45 + coded - 5)]
    assert torch.equal(after.v[:, :, 4 : coded - 1], before[:, :, 5:coded])


def test_an_attended_page_keeps_its_weight() -> None:
    lm = tiny(layers=1)
    both = Session(lm, make("quest+mergear", None, {"page": 4, "dense": 0, "share": 1, "alike": -1.1}))
    alone = Session(lm, make("mergear", None, {"alike": -1.1}))
    for session in (both, alone):
        session.prefill(IDS)
    store = both.cache.layers[0].store
    picked = store.select(torch.arange(math.ceil(len(store) / 4)).expand(1, 4, -1))  # every page
    assert torch.allclose(picked.bias[0, 0][picked.pos[0, 0] >= 0].sort().values, store.view().bias[0, 0].sort().values)
    assert torch.equal(both.decode(WRITTEN[:1]), alone.decode(WRITTEN[:1]))
