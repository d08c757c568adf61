"""The worked examples of the eviction cards that reach across layers, learn something first, or read released tokens again."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import tiny
from test_eviction import IDS, Hand, Notes, units

from kvlab.attention import softmax_rows
from kvlab.cache import LayerKV
from kvlab.codecs.planes import Planes, row_bytes
from kvlab.engine import kept_positions
from kvlab.geometry import Geometry
from kvlab.methods.eviction._cascade import by_position, heads_left, tokens_left
from kvlab.methods.eviction._controller import ControllerTraining, Weights, agreement, importance, labels
from kvlab.methods.eviction._tasks import TaskClassifier, _features
from kvlab.methods.eviction.windowkv import group_budgets, window_scores, windows_kept
from kvlab.models import LM
from kvlab.onward import _Gate, gates, right_aligned
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.seen import Seen
from kvlab.session import Session
from kvlab.store import Store
from kvlab.trace import NEVER, Recorder

LARGE = Geometry("large", 32, 32, 8, 128, (None,) * 32, 2, 131_072, True)


def lens(session: Session) -> list[list[int]]:
    return [[len(head) for head in layer] for layer in kept_positions(session)]


# FastKV


def test_fastkv_counts_of_the_card() -> None:
    method = make("fastkv", "0.1")
    assert [method.place(i, LARGE) for i in (0, 15, 16, 31)] == [-15, 0, 1, 16]
    assert method.through(1000) == 200 and {method.count(i, 1000, LARGE) for i in range(32)} == {100}
    truncated = make("fastkv", "0.3", {"rate": 0.4})
    assert [truncated.count(i, 1000, LARGE) for i in (15, 16)] == [300, 299]
    assert make("fastkv", "0.3").through(1000) == 300, "what the budget keeps has to arrive"


def test_fastkv_lets_through_what_the_prompts_end_looks_at() -> None:
    notes = Notes()
    session = Session(tiny(), make("fastkv", "0.1", {"rate": 0.4, "depth": 0.67}), recorder=notes)
    session.prefill(IDS[:1])
    seen = [seen for _, seen in notes.seen["prefill"]]
    assert [s.q.shape[2] for s in seen] == [96, 96, 38]
    went = seen[2].q_pos[0].tolist()
    assert went == sorted(set(went)) and went[-8:] == list(range(88, 96))
    assert seen[2].view.pos[0, 0].tolist() == went, "the layer above holds these and no others"
    votes = seen[1].weights(8)[0, :, :, :88].sum(1)
    smooth = torch.nn.functional.max_pool1d(votes, 7, stride=1, padding=3).sum(0)
    assert went[:-8] == sorted(smooth.topk(30).indices.tolist())
    assert all(set(head) <= set(went) for head in kept_positions(session)[2]) and lens(session) == [[10, 10], [10, 10], [9, 9]]


def test_fastkv_above_computes_what_a_shorter_prompt_at_true_positions_would() -> None:
    """The layer above, by hand: its keys and values of the tokens that went on, from their hidden states and their true positions."""
    notes, lm = Notes(), tiny()
    Session(lm, make("fastkv", "0.5", {"depth": 0.67}), recorder=notes).prefill(IDS[:1])
    went = notes.seen["prefill"][2][1].q_pos[0].long()
    whole = Notes()
    Session(lm, make("full"), recorder=whole).prefill(IDS[:1])
    mine, theirs = notes.seen["prefill"][2][1], whole.seen["prefill"][2][1]
    assert len(went) == 48
    # below, nothing was dropped yet: the hidden states are the full cache's, and so are queries, keys and values
    assert torch.allclose(mine.q, theirs.q[:, :, went], atol=1e-5) and torch.allclose(mine.view.v, theirs.view.v[:, :, went], atol=1e-5)
    assert torch.allclose(mine.view.k, theirs.view.k[:, :, went], atol=1e-5)


@pytest.mark.parametrize("budget", ["0.25", "12t"])
def test_fastkv_that_lets_everything_through_is_snapkv(budget: str) -> None:
    found = []
    for name, knobs in (("fastkv", {"rate": 1.0}), ("snapkv", {"window": 8, "kernel": 7, "pool": "max"})):
        session = Session(tiny(), make(name, budget, knobs))
        found.append((session.prefill(IDS[:1]), session.decode(IDS[1, :1]), kept_positions(session)))
    assert all(torch.equal(a, b) for a, b in zip(found[0][:2], found[1][:2], strict=True)) and found[0][2] == found[1][2]


@pytest.mark.parametrize(("budget", "rate"), [("0.15", 0.4), ("0.3", 0.4), ("0.5", 0.2), ("0.05", 0.1), ("20t", 0.5), ("1.0", 0.2), ("60t", 0.3)])
def test_fastkv_holds_what_its_formula_says(budget: str, rate: float) -> None:
    session = Session(tiny(), make("fastkv", budget, {"rate": rate, "depth": 0.34}))
    session.prefill(IDS[:1])
    for n in range(3):
        assert session.cache.nbytes() == predicted_bytes(session.method, tiny().geometry, 96 + n, 96)
        session.decode(IDS[1, n : n + 1])


def test_fastkv_marks_what_never_arrived_as_gone_and_counts_it_as_seen() -> None:
    recorder = Recorder(3, 2, 96)
    session = Session(tiny(), make("fastkv", "0.25", {"depth": 0.34}), recorder=recorder)
    session.prefill(IDS[:1])
    assert [[h.nonzero()[0].tolist() for h in layer] for layer in recorder.left_at == NEVER] == kept_positions(session)
    assert {layer.get_seq_length() for layer in session.cache.layers} == {96}


def test_fastkv_leaves_a_run_beside_it_alone() -> None:
    lm, method = tiny(), make("fastkv", "0.25", {"depth": 0.34})
    alone, beside, other = (Session(lm, method) for _ in range(3))
    want = alone.prefill(IDS[:1])
    other.cache.shorten(torch.arange(96)[None] > 90)
    with gates(lm.model, other.cache):  # as another thread's call has it
        assert torch.equal(beside.prefill(IDS[:1]), want) and lens(beside) == lens(alone)
        assert _Gate(0, beside.cache)(lm.model, ()) is None, "torch may call a hook without kwargs while another thread hangs it up"
    assert other.cache.onward.fresh is not None, "nobody took its tokens"


def test_fastkv_drops_above_what_earlier_chunks_left_there() -> None:
    notes = Notes()
    session = Session(tiny(), make("fastkv", "0.25", {"depth": 0.34}), chunk=32, recorder=notes)
    session.prefill(IDS[:1])
    assert lens(session) == [[24, 24]] * 3
    above = [head for layer in kept_positions(session)[1:] for head in layer]
    assert all(head == above[0] for head in above), "what went through is the budget: all heads above hold the same"
    arrived = notes.seen["prefill"][1][1].q_pos[0].tolist()
    assert arrived == [p for p in above[0] if p >= 64]


def test_rows_of_a_batch_stand_at_the_right() -> None:
    mask = torch.tensor([[True, False, True, True], [False, False, False, True]])
    assert right_aligned(mask).tolist() == [[0, 2, 3], [-1, -1, 3]]
    assert right_aligned(torch.zeros(1, 3, dtype=torch.bool)).shape == (1, 0)


def test_votes_of_heads_meet_at_their_positions() -> None:
    pos = torch.tensor([[[0, 2, -1], [1, 2, 3]]], dtype=torch.int32)
    assert by_position(torch.tensor([[[1.0, 2.0, 9.0], [3.0, 4.0, 5.0]]]), pos, 4).tolist() == [[1, 3, 6, 5]]


# SpAtten


def test_spatten_schedules_fall_and_meet_the_budget() -> None:
    left = tokens_left(250, 1000, 32, 0.15, 0.5)
    assert left[:4] == [1000] * 4 and left[4:] == sorted(left[4:], reverse=True) and abs(sum(left) - 32 * 250) <= 16
    assert abs(left[-1] / left[4] - 0.5) < 0.01
    assert abs(sum(tokens_left(900, 1000, 12, 0, 0.5)) - 12 * 900) <= 6 and tokens_left(900, 1000, 12, 0, 0.5)[0] == 1000
    assert tokens_left(5, 5, 3, 0.15, 0.5) == [5, 5, 5] and tokens_left(2, 5, 1, 0.15, 0.5) == [2] and min(tokens_left(1, 100, 6, 0.15, 0.5)) == 1
    assert [heads_left(8, i, 10, 0.75) for i in range(10)] == [8, 8, 8, 8, 7, 7, 7, 7, 6, 6]


def test_spatten_sums_are_one_for_every_query_and_head() -> None:
    session = Session(tiny(), make("spatten", "1.0", {"heads": 1.0, "msb": 0}))
    session.prefill(IDS[:1])
    assert abs(float(session.cache.layers[0].store.sums.sum()) - 3 * 4 * 96) < 1e-2
    want = sum(seen.weights(96)[0].sum((0, 1)) for seen in prompt_seen())
    assert torch.allclose(session.cache.layers[0].store.sums[0], want, atol=1e-3)
    session.decode(IDS[1, :1])
    assert abs(float(session.cache.layers[0].store.sums.sum()) - 3 * 4 * 97) < 1e-2


def prompt_seen() -> list:
    notes = Notes()
    Session(tiny(), make("full"), recorder=notes).prefill(IDS[:1])
    return [seen for _, seen in notes.seen["prefill"]]


def test_spatten_is_a_cascade_while_reading_and_while_writing() -> None:
    notes = Notes()
    session = Session(tiny(layers=6), make("spatten", "0.5", {"heads": 1.0}), recorder=notes)
    session.prefill(IDS[:1])
    counts = tokens_left(48, 96, 6, 0.15, 0.5)
    assert [seen.q.shape[2] for _, seen in notes.seen["prefill"]] == [96, *counts[:-1]], "what was dropped is not computed above"
    for n in range(5):
        kept = kept_positions(session)
        assert [len(layer[0]) for layer in kept] == counts and all(layer[0] == layer[1] and layer[0][-1] == 95 + n for layer in kept)
        assert all(set(above[0]) <= set(below[0]) for below, above in itertools.pairwise(kept))
        session.decode(IDS[1, n : n + 1])


def test_spatten_keeps_what_got_the_most_in_all_layers_below() -> None:
    seen = prompt_seen()[0]
    got = seen.weights(96)[0].sum((0, 1))
    session = Session(tiny(), make("spatten", "0.4", {"heads": 1.0, "dense": 0.0}))
    session.prefill(IDS[:1])
    count = tokens_left(38, 96, 3, 0.0, 0.5)[0]
    assert kept_positions(session)[0][0] == sorted([*got[:95].topk(count - 1).indices.tolist(), 95])


def test_spatten_drops_the_heads_with_the_smallest_outputs_from_the_layers_above() -> None:
    notes = Notes()
    session = Session(tiny(heads=4), make("spatten", "1.0", {"heads": 0.5, "msb": 0}), recorder=notes)
    session.prefill(IDS[:1])
    assert [sum(len(head) > 0 for head in layer) for layer in kept_positions(session)] == [4, 3, 2]
    seen = [seen for _, seen in notes.seen["prefill"]]
    sizes = [torch.stack([(s.weights(96) @ s.view.v.repeat_interleave(2, dim=1))[0, 2 * h : 2 * h + 2].abs().sum() for h in range(4)]) for s in seen]
    gone = [[h for h, head in enumerate(layer) if not head] for layer in kept_positions(session)]
    assert gone[1] == [int(sizes[0].argmin())]
    assert float(seen[1].view.v[0, gone[1]].abs().max()) == 0, "a head that is gone adds nothing"
    left = [h for h in range(4) if h not in gone[1]]
    assert gone[2] == sorted([*gone[1], min(left, key=lambda h: float(sizes[0][h] + sizes[1][h]))])
    session.decode(IDS[1, :1])
    again = [[h for h, head in enumerate(layer) if not head] for layer in kept_positions(session)]
    assert again == gone
    assert session.cache.nbytes() == predicted_bytes(session.method, tiny(heads=4).geometry, 97, 96)


def test_planes_come_back_within_half_a_step_and_the_high_one_within_sixteen() -> None:
    rows = torch.randn(50, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-0.5, 2, 50)[:, None]
    for bits in (4, 6, 8, 10, 12):
        held = Planes.of(rows, bits)
        step = held.scale
        assert float(((held.decode() - rows).abs() / step).max()) <= 0.5 + 2 ** (bits + 3) * 2**-11 and held.tensors()[0].shape[1] == 24 * bits // 8
        apart = (held.decode() - held.coarse().decode()) / step
        assert float(apart.min()) > -0.01 and float(apart.max()) < 15.01 and float(apart.max()) > 10, "low bits are unsigned and share the scale"
        mask = torch.arange(50) % 3 == 0
        assert torch.equal(held.keep(mask).decode(), held.decode()[mask])
        index = torch.randperm(100, generator=torch.Generator().manual_seed(1))
        assert torch.equal(held.join(held, index).decode(), torch.cat([held.decode()] * 2)[index])
        assert sum(t.nbytes for t in held.tensors()) == 50 * row_bytes(24, bits)
    small = rows * 1e-3
    assert float(((Planes.of(small, 12).decode() - small).abs() / small.abs().amax(1, keepdim=True)).max()) < 2**-11, "the scale of 16 bits is no float16"
    assert torch.equal(Planes.of(torch.zeros(2, 8), 4).decode(), torch.zeros(2, 8))


@pytest.mark.parametrize(("rows", "fetches"), [([0.5, 0.3, 0.2], False), ([0.05] * 20, True)])
def test_spatten_fetches_low_bits_where_nothing_stands_out(rows: list[float], fetches: bool) -> None:
    n, q = len(rows), torch.tensor([rows]).log()[None]
    keys = units(0, n, n)
    hand = Hand(make("spatten", "1.0", {"heads": 1.0, "msb": 4}), size=n).feed("prefill", torch.zeros(1, n - 1, n), keys[None, :-1])
    hand.feed("decode", torch.cat([q * 0, q], 1)[:, 1:], keys[None, -1:])
    seen = hand.notes.seen["decode"][0][1]
    exact = hand.layer.store.view()
    read = softmax_rows(seen.q, exact, seen.q_pos, seen.rules)
    assert torch.allclose(seen.weights(1), read, atol=2e-3) == fetches  # the new key is not coded yet when it is read
    before = hand.layer.store.nbytes() - hand.layer.store.sums.nbytes
    assert seen.view.touched < before + 4 * 2 * n * 4
    assert float(seen.weights(1).sum()) == pytest.approx(1, abs=1e-5)


def test_spatten_reads_the_values_of_the_strongest_entries_only() -> None:
    rows = [0.4, 0.1, 0.3, 0.2]
    keys, values = units(0, 4, 4), torch.tensor([[1.0], [10.0], [100.0], [1000.0]]).expand(-1, 4)
    hand = Hand(make("spatten", "1.0", {"heads": 1.0, "msb": 0, "values": 0.5})).feed("prefill", torch.zeros(1, 3, 4), keys[None, :3], values[None, :3])
    hand.feed("decode", torch.tensor([[rows]]).log(), keys[None, 3:], values[None, 3:])
    view = hand.notes.seen["decode"][0][1].view
    assert view.v[0, 0, :, 0].tolist() == [1, 0, 100, 0], "weights are not renormalised: .4 * 1 + .3 * 100"
    assert view.touched == 4 * (4 * 4 * 2 + 4) + 3 * 4 - 2 * 4 * 4


# ADORE


def test_adore_that_rebuilds_nothing_and_asks_attention_drops_as_tova_with_one_list_for_all_layers() -> None:
    session = Session(tiny(), make("adore", "20t", {"controller": "attention", "rebuild": 0, "sinks": 0, "recent": 1}))
    session.prefill(IDS[:1])
    got = sum(seen.weights(1)[0, :, 0].mean(0) for seen in prompt_seen())
    assert kept_positions(session) == [[sorted([*got[:95].topk(19).indices.tolist(), 95])] * 2] * 3
    session.decode(IDS[1, :1])
    kept = kept_positions(session)
    assert all(head == kept[0][0] and len(head) == 20 and head[-1] == 96 for layer in kept for head in layer)


def test_adore_reads_a_token_again_whose_past_is_held_and_gets_what_it_was() -> None:
    """The worked example: token 5 of 10 was released; read again beside token 10 it gets its own keys and values, and so do the logits."""
    notes, lm = Notes(), tiny()
    session = Session(lm, make("adore", "1.0", {"controller": "attention"}), recorder=notes)
    session.prefill(IDS[:1, :10])
    whole = Session(lm, make("full"))
    whole.prefill(IDS[:1, :10])
    for layer in session.cache.layers:
        layer.store.keep(layer.store.valid() & (layer.store.pos() != 5))
    logits, want = session.decode(IDS[1, :1]), whole.decode(IDS[1, :1])
    assert notes.seen["decode"][0][1].q_pos.tolist() == [[5, 10]] and torch.allclose(logits, want, atol=1e-4)
    for mine, theirs in zip(session.cache.layers, whole.cache.layers, strict=True):
        order = mine.store.pos()[0, 0].argsort()
        for ours, full in ((mine.store.view().k, theirs.store.view().k), (mine.store.view().v, theirs.store.view().v)):
            assert torch.allclose(ours[:, :, order], full, atol=1e-4)
        assert mine.store.pos()[0, 0][order].tolist() == list(range(11)) and mine.get_seq_length() == 11


@pytest.mark.parametrize("controller", ["trained", "attention"])
def test_adore_holds_a_constant_number_and_reads_again_at_true_positions(controller: str) -> None:
    notes = Notes()
    session = Session(tiny(), make("adore", "24t", {"controller": controller, "rebuild": 4, "passages": 8, "steps": 20}), recorder=notes)
    session.prefill(IDS[:1])
    again = 0
    for n in range(8):
        before = set(kept_positions(session)[0][0])
        session.decode(IDS[1, n : n + 1])
        asked = notes.seen["decode"][-1][1].q_pos[0].tolist()
        assert asked[-1] == 96 + n and len(asked) <= 5 and not before & set(asked) and asked == sorted(asked)
        again += len(asked) - 1
        kept = kept_positions(session)
        assert all(head == kept[0][0] and len(head) == 24 for layer in kept for head in layer)
        assert {0, 1, 2, 3, *range(89 + n, 97 + n)} <= set(kept[0][0])
        assert session.cache.nbytes() == predicted_bytes(session.method, tiny().geometry, 97 + n, 96)
    assert again > 0 or controller == "attention"
    assert session.cache.layers[0].store.ids[0].tolist() == [*IDS[0].tolist(), *IDS[1, :8].tolist()]


def test_adore_never_lets_a_token_read_again_look_at_later_ones() -> None:
    notes = Notes()
    session = Session(tiny(), make("adore", "24t", {"rebuild": 4, "passages": 8, "steps": 20}), recorder=notes)
    session.prefill(IDS[:1])
    for n in range(8):
        session.decode(IDS[1, n : n + 1])
    for _, seen in notes.seen["decode"]:
        later = seen.view.pos[:, :, None] > seen.q_pos[:, None, :, None]
        assert float((seen.weights(9) * later).abs().max()) == 0


def test_adore_marks_a_token_read_again_as_held() -> None:
    recorder = Recorder(3, 2, 120)
    session = Session(tiny(), make("adore", "24t", {"rebuild": 4, "passages": 8, "steps": 20}), recorder=recorder)
    session.prefill(IDS[:1])
    for n in range(6):
        session.decode(IDS[1, n : n + 1])
        held = [[h[: 97 + n].nonzero()[0].tolist() for h in layer] for layer in recorder.left_at == NEVER]
        assert held == kept_positions(session)


class Looks(Recorder):
    """Beside recording, notes which entries of each layer a step found in the store: step -> [L, H, P] bool."""

    def __init__(self, layers: int, heads: int, positions: int) -> None:
        super().__init__(layers, heads, positions)
        self.found: dict[int, np.ndarray] = {}

    def attended(self, layer: LayerKV, store: Store, seen: Seen) -> None:
        super().attended(layer, store, seen)
        found = self.found.setdefault(seen.phase.step, np.zeros(self.left_at.shape, bool))
        for head, row in enumerate(store.pos()[0].expand(found.shape[1], -1).tolist()):
            found[layer.index, head, [p for p in row if p >= 0]] = True


@pytest.mark.parametrize(
    "name, budget, knobs",
    [("adore", "24t", {"rebuild": 4, "passages": 8, "steps": 20}), ("spatten", "0.5", {}), ("fastkv", "0.25", {"depth": 0.34, "rate": 0.5, "window": 4})],
)
def test_a_trace_says_of_every_step_what_the_stores_held(name: str, budget: str, knobs: dict) -> None:
    """Also of tokens that never came to a layer, and of those that left and were read again."""
    recorder = Looks(3, 2, 120)
    session = Session(tiny(), make(name, budget, knobs), recorder=recorder)
    for n in range(-1, 6):
        session.decode(IDS[1, n : n + 1]) if n >= 0 else session.prefill(IDS[:1])
        recorder.step(session.cache, 0, 0.0, 0.0)
    trace = recorder.trace([*IDS[0].tolist(), *IDS[1, :6].tolist()], 96, 96)
    assert all(np.array_equal(trace.held(step), recorder.found[step][..., : len(trace.ids)]) for step in range(7))
    assert (len(trace.away) > 0) == (name == "adore")
    assert all((trace.left_at[layer, head, p] > left) and left < back for layer, head, p, left, back in trace.away)


def test_adores_controller_is_the_librarys_gru_token_by_token() -> None:
    weights, gru = Weights.new(6, 8, 4), torch.nn.GRU(6, 8, batch_first=True)
    with torch.no_grad():
        for name, tensor in zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), weights[:4], strict=True):
            getattr(gru, name).copy_(tensor)
    x = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(0))
    q, k, last = weights.run(x, torch.zeros(1, 8))
    states, _ = gru(torch.nn.functional.layer_norm(x, (6,)))
    assert torch.allclose(q, states @ weights.q.mT, atol=1e-6) and torch.allclose(k, states @ weights.k.mT, atol=1e-6)
    state, found = torch.zeros(1, 8), []
    for t in range(5):
        one, _, state = weights.run(x[:, t : t + 1], state)
        found.append(one)
    assert torch.allclose(torch.cat(found, 1), q, atol=1e-6) and torch.allclose(state, last, atol=1e-6)


def test_adores_labels_are_the_most_attended_of_the_past() -> None:
    attention = torch.tensor([[1.0, 0, 0], [0.3, 0.7, 0], [0.2, 0.5, 0.3]])
    assert labels(attention, 1).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert labels(attention, 2).int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert labels(attention, 1, near=1).int().tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]


def test_adores_controller_learns_what_the_model_looks_at(bundled: LM) -> None:
    job = ControllerTraining(passages=12, length=96, most=16, steps=50)
    with torch.no_grad():
        embedded, wanted = dataclasses.replace(job, passages=6).data(bundled, 1)  # passages it has not seen
        trained, fresh = Weights.of(job.calibrate(bundled), torch.device("cpu")), Weights.new(embedded.shape[-1], job.hidden, job.size)
        recent = torch.arange(96).expand(6, 96, 96) / 96
        right = [agreement(importance(*w.run(embedded, torch.zeros(6, job.hidden))[:2]), wanted, 16, 8) for w in (fresh, trained)]
    assert right[1] > right[0] + 0.1 and right[1] > agreement(recent, wanted, 16, 8)


def test_adores_controller_ends_the_same_twice() -> None:
    job = ControllerTraining(passages=4, length=24, most=4, hidden=8, size=4, steps=6, batch=2)
    first, second = (job.calibrate(tiny()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


# WindowKV


def test_windowkv_budgets_of_the_card() -> None:
    assert group_budgets(2048, 4, 8, 14) == [2926, 2341, 1756, 1170]
    assert group_budgets(100, 1, 8, 14) == [100]


def test_windowkv_drops_whole_windows() -> None:
    cases = {(8, 4, 2): 2, (9, 3, 2): 2, (9, 9, 2): 5, (9, 1, 8): 1, (9, 0, 8): 0, (16, 3, 8): 0, (3, 9, 8): 1}
    assert {case: windows_kept(*case) for case in cases} == cases


def test_windowkv_scores_by_the_best_half_or_by_all() -> None:
    votes = torch.tensor([[[0.8, 0.0, 0.1, 0.1, 0.4, 0.4, 0.3, 0.3, 0.9, 7.0], [0.2, 0, 0, 0, 0, 0, 0, 0, 0.1, 7]]])
    review = torch.tensor([9])
    average, best = (window_scores(votes, review, 4, torch.tensor([gathers]))[0] for gathers in (True, False))
    assert torch.allclose(average, torch.tensor([0.15, 0.175, 0.5])) and torch.allclose(best, torch.tensor([(0.45 + 0.1) / 2, 0.2, 0.5]))


def windowed(strategy: str, budget: str = "48t", **knobs: object) -> tuple[list[list[list[int]]], list]:
    notes = Notes()
    session = Session(tiny(layers=4), make("windowkv", budget, {"strategy": strategy, "size": 8, "group": 2, "beta": 3, **knobs}), recorder=notes)
    session.prefill(IDS[:1])
    return kept_positions(session), [seen for _, seen in notes.seen["prefill"]]


@pytest.mark.parametrize(("strategy", "suffix"), [("max", 32), ("average", 16)])
def test_windowkv_keeps_the_same_whole_windows_in_a_group_and_its_first_layer_chooses(strategy: str, suffix: int) -> None:
    kept, seen = windowed(strategy)
    assert all(head == layer[0] for layer in kept for head in layer) and kept[0] == kept[1] and kept[2] == kept[3] and kept[0] != kept[2]
    for layer in (0, 2):
        stay = windows_kept(96 - suffix, group_budgets(48 - suffix, 2, 2, 3)[layer // 2], 8)
        votes = seen[layer].weights(suffix)[0].sum(1)[:, : 96 - suffix].unflatten(1, (-1, 8))
        scores = (votes.mean(-1) if strategy == "average" else votes.topk(4, dim=-1).values.mean(-1)).mean(0)
        want = sorted(8 * w + i for w in scores.topk(stay).indices.tolist() for i in range(8))
        assert kept[layer][0] == [*want, *range(96 - suffix, 96)]


def by_the_card(votes: torch.Tensor, budget: int, size: int, strategy: str) -> list[int]:
    """What stays of the review part, window by window: `votes` [Hq, n] are what its tokens got from the suffix."""
    heads, n = votes.shape
    windows = [votes[:, i : i + size] for i in range(0, n, size)]  # the last one may be shorter
    if strategy == "average":
        scores = [float(window.mean()) for window in windows]
    else:
        scores = [sum(float(head.topk(min(size // 2, head.numel())).values.mean()) for head in window) / heads for window in windows]
    drop = max(0, math.ceil((n - budget) / size))
    if drop * size >= n:
        return []
    stay = sorted(sorted(range(len(windows)), key=scores.__getitem__)[drop:])
    return [position for window in stay for position in range(window * size, min(window * size + size, n))]


@pytest.mark.parametrize("strategy", ["max", "average"])
def test_windowkv_is_the_cards_algorithm_also_where_the_last_window_is_short(strategy: str) -> None:
    """Kept or dropped, the short window counts as a whole one; kept, a layer holds fewer tokens and fewer bytes than its windows have."""
    suffix, short = {"max": 32, "average": 16}[strategy], set()
    for size, length in itertools.product((5, 7), (80, 83, 87, 96)):
        notes = Notes()
        lm = tiny(layers=4)
        session = Session(lm, make("windowkv", "44t", {"strategy": strategy, "size": size, "group": 2, "beta": 3}), recorder=notes)
        session.prefill(IDS[:1, :length])
        seen, kept, review = [seen for _, seen in notes.seen["prefill"]], kept_positions(session), length - suffix
        for layer, budget in zip((0, 2), group_budgets(44 - suffix, 2, 2, 3), strict=True):
            want = by_the_card(seen[layer].weights(suffix)[0].sum(1)[:, :review], budget, size, strategy)
            assert kept[layer] == kept[layer + 1] == [[*want, *range(review, length)]] * 2
            last = review % size > 0 and review - 1 in want
            short |= {last} if review % size else set()
            slots = size * (-(-review // size) - math.ceil((review - budget) / size)) - last * (-review % size) + suffix
            assert session.cache.layers[layer].store.nbytes() == slots * lm.geometry.slot_bytes
    assert short == {True, False}


def test_windowkv_folds_layers_left_over_into_the_last_group() -> None:
    kept, _ = windowed("average", group=3)
    assert all(layer == kept[0] for layer in kept), "four layers, groups of three: one group"


def test_windowkv_learns_to_tell_finding_from_gathering(bundled: LM) -> None:
    learned = TaskClassifier(prompts=60).calibrate(bundled)
    right = []
    for i, (ids, label) in enumerate(TaskClassifier(prompts=90)._prompts(bundled)):
        if i >= 60:  # prompts it has not seen
            features = _features(bundled, ids)
            right.append(int((features @ learned["tasks weight"].mT + learned["tasks bias"]).argmax()) == label)
    assert sum(right) >= 0.9 * len(right)


def test_windowkv_uses_what_the_classifier_says() -> None:
    lm = tiny(layers=4)
    for label, strategy in ((0, "max"), (1, "average")):
        bias = torch.tensor([1.0, 0.0] if label == 0 else [0.0, 1.0])
        method = make("windowkv", "48t", {"size": 8, "group": 2, "beta": 3, "prompts": 8})
        session = Session(lm, method)
        session.cache.artefact = {"tasks weight": torch.zeros(2, 32), "tasks bias": bias}
        session.prefill(IDS[:1])
        assert kept_positions(session) == windowed(strategy)[0]


def test_windowkv_without_texts_says_what_to_do() -> None:
    bare = dataclasses.replace(tiny(), tokenizer=None, revision="")
    with pytest.raises(ValueError, match="Set its strategy to max or average"):
        Session(bare, make("windowkv"))
    Session(bare, make("windowkv", None, {"strategy": "max"}))


# KVCrush in blocks


def test_kvcrush_compares_blocks_by_their_better_tokens() -> None:
    # three tokens that fill no block, then five blocks of four; ten of the twenty tokens are the better half
    words = ["1110", "0101", "1010", "0001", "1100"]
    weights = [0.1] * 3 + [2.0 + 0.01 * i if word[i % 4] == "1" else 1.0 for i, word in enumerate(w for w in words for _ in range(4))]
    method = make("kvcrush", "16t", {"form": "blocks", "block": 4, "window": 1, "kernel": 1, "share": 0.67, "anchor": "alternating"})
    queries = torch.cat([torch.zeros(1, 23, 24), torch.tensor([*weights, 1.0]).log()[None, None]], dim=1)
    hand = Hand(method, size=24).feed("prefill", queries, units(0, 24, 24)[None])
    # room for three blocks: the best one is 0; of 1 (distance 0), 3 (1), 4 (2), 2 (4) every second stands for the rest
    assert hand.kept == [[0, 1, 2, *range(3, 7), *range(7, 11), *range(19, 23), 23]]


@pytest.mark.parametrize(("budget", "prompt"), [("0.3", 96), ("0.5", 61), ("13t", 90), ("5t", 40), ("1.0", 50), ("0.9", 33)])
def test_kvcrush_in_blocks_holds_what_its_formula_says(budget: str, prompt: int) -> None:
    session = Session(tiny(), make("kvcrush", budget, {"form": "blocks", "block": 8, "window": 4}))
    session.prefill(IDS[:1, :prompt])
    assert session.cache.nbytes() == predicted_bytes(session.method, tiny().geometry, prompt, prompt)
    kept = kept_positions(session)
    assert all(layer[0] == layer[1] and len(layer[0]) == session.method.kept(prompt, prompt) for layer in kept)


def test_kvcrush_in_blocks_without_representatives_keeps_the_best_blocks() -> None:
    knobs = {"form": "blocks", "block": 8, "window": 4, "kernel": 1, "share": 0.0}
    notes = Notes()
    session = Session(tiny(), make("kvcrush", "40t", knobs), recorder=notes)
    session.prefill(IDS[:1])
    for (_, seen), layer in zip(notes.seen["prefill"], kept_positions(session), strict=True):
        sums = seen.weights(4)[0, :, :, :92].sum((0, 1))[4:].view(11, 8).sum(1)
        want = sorted(4 + 8 * b + i for b in sums.topk(4).indices.tolist() for i in range(8))
        assert layer[0] == [0, 1, 2, 3, *want, 92, 93, 94, 95]
