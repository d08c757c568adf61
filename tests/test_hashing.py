"""HATA: codes and how they agree, what is read by them, how their matrices are learned. The card's worked examples, and plain references beside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import tiny
from torch import Tensor

from kvlab.calibration import artefact
from kvlab.methods.quantization._capture import captured
from kvlab.methods.retrieval import _hash
from kvlab.methods.retrieval._hash import HashTraining, Lesson, labels, lesson, loss
from kvlab.methods.retrieval.hata import HATA, agreement, encode, set_bits
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.session import Session
from kvlab.store import Pages
from kvlab.trace import NEVER, Recorder, Trace

PROMPT, STEPS = 80, 5
IDS = torch.randint(128, (1, PROMPT), generator=torch.Generator().manual_seed(5))
WRITTEN = torch.randint(128, (STEPS,), generator=torch.Generator().manual_seed(6))
RANDOM = {"epochs": 0, "dense": 0}
"""Random codes in all layers."""


def read_of(session: Session) -> tuple[Session, Tensor]:
    """The prompt, read, and a random query for what comes next: [1, Hq, 1, D]."""
    session.prefill(IDS)
    session.cache.phase = Phase("decode")
    geometry = session.lm.geometry
    return session, torch.randn(1, geometry.query_heads, 1, geometry.head_dim, generator=torch.Generator().manual_seed(1))


def pages(session: Session, q: Tensor, layer: int = 1) -> Pages:
    return session.method.read(session.cache.layers[layer], q, torch.tensor([[PROMPT]]))


def traced(lm: LM, method: HATA) -> Trace:
    recorder = Recorder(lm.geometry.layers, lm.geometry.kv_heads, PROMPT + STEPS)
    session = Session(lm, method, recorder=recorder)
    session.prefill(IDS)
    for token in WRITTEN:
        recorder.step(session.cache, int(token), 0.0, 0.0)
        session.decode(token[None])
    return recorder.trace([*IDS[0].tolist(), *WRITTEN.tolist()], PROMPT, PROMPT)


# codes


def plain_bits(x: Tensor, matrix: Tensor) -> list[bool]:
    """One row's bits, one after the other."""
    return [float(x.double() @ column.double()) > 0 for column in matrix.T]


def plain_scores(q: Tensor, k: Tensor, matrices: Tensor, norm: bool) -> Tensor:
    """The card's score, bit by bit: q [Hq, D], k [H, T, D], matrices [H, D, bits] -> [H, T]."""
    heads, slots, bits, group = *k.shape[:2], matrices.shape[-1], len(q) // len(k)
    out = torch.zeros(heads, slots)
    for h in range(heads):
        for t in range(slots):
            mine = plain_bits(k[h, t], matrices[h])
            for g in range(group):
                ham = sum(a != b for a, b in zip(plain_bits(q[h * group + g], matrices[h]), mine, strict=True))
                out[h, t] += 1 - 2 * ham / bits
            out[h, t] *= float(k[h, t].norm()) if norm else 1
    return out


@pytest.mark.parametrize("bits", [32, 96])
def test_bit_j_of_word_w_is_the_sign_of_column_32_w_plus_j(bits: int) -> None:
    torch.manual_seed(0)
    x, matrix = torch.randn(3, 7), torch.randn(7, bits)
    x[2] = 0  # not above zero: no bit is set
    words = encode(x, matrix)
    assert words.dtype == torch.int32 and words.shape == (3, bits // 32) and (words[2] == 0).all()
    for row, code in zip(x, words, strict=True):
        assert [bool(int(code[j // 32]) >> j % 32 & 1) for j in range(bits)] == plain_bits(row, matrix)


def test_bits_are_counted_in_words_of_either_sign() -> None:
    words = torch.cat([torch.tensor([0, -1, 1, -(2**31), 2**31 - 1, 0x55555555, -0x55555556]), torch.randint(-(2**31), 2**31, (500,))]).to(torch.int32)
    assert set_bits(words).tolist() == [bin(word & 0xFFFFFFFF).count("1") for word in words.tolist()]


def test_a_key_like_its_queries_scores_as_many_as_they_are_and_its_opposite_as_many_below_zero() -> None:
    torch.manual_seed(0)
    k, matrices = torch.randn(2, 3, 1, 16), torch.randn(3, 16, 64)
    key = encode(k, matrices)
    same, opposite = (encode(sign * k, matrices)[:, :, 0].repeat_interleave(4, dim=1) for sign in (1, -1))
    assert agreement(same, key).flatten().tolist() == [4.0] * 6 and agreement(opposite, key).flatten().tolist() == [-4.0] * 6


@pytest.mark.parametrize("angle", [0.3, math.pi / 2, 2.5])
def test_random_codes_agree_as_the_angle_says(angle: float) -> None:
    torch.manual_seed(0)
    q, k = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    matrix, bits = torch.randn(3, 32 * 1000), 32 * 1000
    found = agreement(encode(q[None, None], matrix), encode(k[None, None, None], matrix))
    assert abs(float(found) - (1 - 2 * angle / math.pi)) < 5 / math.sqrt(bits)  # five standard deviations at most


# what is read


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("norm", [True, False])
def test_each_kv_head_reads_its_best_tokens(groups: int, norm: bool) -> None:
    method = HATA(share=0.17, bits=32, norm=norm, **RANDOM)
    session, q = read_of(Session(tiny(groups), method))
    store, count = session.cache.layers[1].store, int(0.17 * PROMPT)
    held = store.view()
    want = plain_scores(q[0, :, 0], held.k[0], session.cache.artefact["hata"][1].float(), norm)
    assert torch.allclose(store.scores(q)[0], want, rtol=2e-3, atol=1e-4)  # lengths are held in 16 bits
    chosen = pages(session, q)
    assert chosen.size == 1 and chosen.lists.shape == (1, 2, count)
    best = [sorted(range(PROMPT), key=lambda t, row=row: (-float(row[t]), t))[:count] for row in store.scores(q)[0]]
    assert [row.tolist() for row in chosen.lists[0]] == [sorted(row) for row in best]
    view = chosen.view()
    assert torch.equal(view.pos, chosen.lists) and not view.holes
    for h in range(2):
        assert torch.equal(view.k[0, h], held.k[0, h, view.pos[0, h].long()]) and torch.equal(view.v[0, h], held.v[0, h, view.pos[0, h].long()])


def test_the_norm_changes_what_is_read() -> None:
    lists = []
    for norm in (True, False):
        session, q = read_of(Session(tiny(), HATA(share=0.2, norm=norm, **RANDOM)))
        store = session.cache.layers[1].store
        # Qwen3 gives all keys one length: make some longer
        store.replace_raw("k", store.view().k * torch.linspace(0.2, 3, PROMPT)[:, None])
        lists.append(pages(session, q).lists)
    assert not torch.equal(*lists)


def test_first_and_latest_tokens_are_read_within_the_share() -> None:
    session, q = read_of(Session(tiny(), HATA(share=0.1, sinks=2, recent=3, **RANDOM)))
    free = {*range(PROMPT)} - {0, 1, PROMPT - 3, PROMPT - 2, PROMPT - 1}
    store = session.cache.layers[1].store
    for row, scores in zip(pages(session, q).lists[0].tolist(), store.scores(q)[0], strict=True):
        rest = sorted(sorted(free, key=lambda t, s=scores: (-float(s[t]), t))[:3])
        assert row == [0, 1, *rest, PROMPT - 3, PROMPT - 2, PROMPT - 1]
    # a share with room for less: the latest come first
    session, q = read_of(Session(tiny(), HATA(share=0.05, sinks=2, recent=3, **RANDOM)))
    assert all(row == [0, PROMPT - 3, PROMPT - 2, PROMPT - 1] for row in pages(session, q).lists[0].tolist())


def test_codes_stay_with_their_keys_however_slots_come_and_go() -> None:
    torch.manual_seed(0)
    session = Session(tiny(), HATA(share=0.5, bits=64, **RANDOM), chunk=7)
    session.prefill(IDS[:, :30])
    session.ask(IDS[:, 30:39])
    for token in WRITTEN:
        session.decode(token[None])
    store = session.cache.layers[1].store

    def true() -> None:
        keys, filled = store.view().k, store.valid()
        assert torch.equal(store.columns["code"].dense()[filled], store.hash(keys)[filled])
        assert torch.equal(store.columns["norm"].dense()[filled], keys.norm(dim=-1).half()[filled])

    true()
    for _ in range(2):
        store.keep(torch.rand(1, 2, len(store)) < 0.7)  # uneven heads
        true()
        store.append(torch.randn(1, 2, 3, 16), torch.randn(1, 2, 3, 16), torch.arange(60, 63, dtype=torch.int32)[None])
        true()
    store.replace_raw("k", torch.randn_like(store.view().k))
    true()
    assert not store.even


def test_everything_is_read_where_it_should_be() -> None:
    lm = tiny()
    trace = traced(lm, HATA(share=0.25, dense=1, epochs=0))
    held = np.stack([trace.held(step) for step in range(STEPS)])
    read = trace.read[:, :, :, : PROMPT + STEPS]
    assert np.array_equal(read[0], held[0])  # the prompt's last query
    assert np.array_equal(read[:, 0], held[:, 0])  # the dense layer
    for step in range(1, STEPS):
        assert (read[step, 1:].sum(-1) == int((PROMPT + step) * 0.25)).all()
    assert (read <= held).all() and (trace.touched[1:] < trace.resident[1:]).all() and not (trace.left_at != NEVER).any()
    assert np.allclose(trace.attention.sum(-1, dtype=np.float32), 1, atol=0.02) and (trace.attention[~read] == 0).all()


@pytest.mark.parametrize("norm", [True, False])
def test_bytes_held_and_read(norm: bool) -> None:
    lm, method = tiny(layers=1), HATA(share=0.25, bits=64, norm=norm, **RANDOM)
    session, q = read_of(Session(lm, method))
    index = PROMPT * 2 * (8 + 2 * norm)  # 64 bits and a float16 of every key
    raw = 2 * 2 * PROMPT * 16 * 4 + 4 * PROMPT
    assert session.cache.nbytes() == raw + index == predicted_bytes(method, lm.geometry, PROMPT, PROMPT)
    assert pages(session, q, 0).view().touched == index + raw // 4


# learning


def plain_loss(x: Lesson, matrices: Tensor) -> float:
    """The card's loss, item by item, in double precision."""
    soft = lambda rows: 2 / (1 + torch.exp(-0.1 * rows)) - 1  # noqa: E731
    heads, bits = len(matrices), matrices.shape[-1]
    group, items = x.q.shape[1] // heads, int(x.real.sum())
    near, balance, apart = 0.0, 0.0, 0.0
    for h in range(heads):
        w = matrices[h].double()
        for g in range(group):
            total = torch.zeros(bits, dtype=torch.float64)
            for p, t in x.real.nonzero().tolist():
                a, b = soft(x.q[p, h * group + g].double() @ w), soft(x.k[p, t, h].double() @ w)
                near += float(x.label[p, h * group + g, t]) * float((a - b).square().sum())
                total += a + b
            balance += float((total / (items * bits)).square().sum())
        apart += float((w.T @ w - torch.eye(bits)).square().sum())
    return 0.01 * near / items + 1.0 * balance + 2.0 * math.sqrt(apart)


def test_labels_fall_from_twenty_to_one_over_the_best_tenth() -> None:
    scores = torch.tensor([[3.0, 9, 1, 5, 7, 0, 2, 4, 6, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    assert labels(scores, 1).tolist() == [[-1, 20, *[-1] * 8], [*[-1] * 9, 20]]
    assert labels(scores, 3)[0].tolist() == [-1, 20, -1, -1, 1, -1, -1, -1, -1, 10.5]


def test_a_lesson_is_a_query_in_the_second_half_and_the_keys_up_to_it() -> None:
    lm, length = tiny(), 40
    layer = captured(lm, 3, length)[1]
    x = lesson(layer, length, torch.tensor([2, 0]), torch.tensor([25, 39]))
    assert x.real.sum(1).tolist() == [26, 40] and (x.label[0, :, 26:] == 0).all()
    assert torch.equal(x.q[0], layer.q[2 * length + 25]) and torch.equal(x.k[1], layer.k[:length])
    for head in range(4):
        scores = layer.k[2 * length : 2 * length + 26, head // 2] @ x.q[0, head]
        assert torch.equal(x.label[0, head, :26] == 20, scores == scores.max()) and sorted(x.label[0, head, :26].tolist())[-3:] == [-1, 1, 20]


def test_the_loss_is_the_cards() -> None:
    torch.manual_seed(0)
    x = lesson(captured(tiny(), 3, 20)[0], 20, torch.tensor([1, 2]), torch.tensor([13, 19]))
    matrices = torch.randn(2, 16, 32)
    assert float(loss(x, matrices)) == pytest.approx(plain_loss(x, matrices), rel=1e-5)


def test_training_lowers_the_loss_and_random_codes_need_none() -> None:
    lm = tiny()
    drawn, made = (HashTraining(32, epochs, 4, 40).calibrate(lm)["hata"] for epochs in (0, 3))
    assert drawn.shape == (3, 2, 16, 32) and drawn.dtype == torch.float16
    assert torch.equal(HashTraining(32, 3, 4, 40).calibrate(lm)["hata"], made)
    for i, layer in enumerate(captured(lm, 4, 40)):
        x = lesson(layer, 40, torch.arange(4), torch.full((4,), 39))
        assert float(loss(x, made[i].float())) < 0.5 * float(loss(x, drawn[i].float()))


def test_codes_learn_to_agree_where_labels_are_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the labels alone, and with more weight than the authors give them."""
    monkeypatch.setattr(_hash, "APART", 0.0)
    monkeypatch.setattr(_hash, "NEAR", 1.0)
    lm = tiny(groups=1)
    drawn, made = (HashTraining(32, epochs, 4, 40).calibrate(lm)["hata"][1].float() for epochs in (0, 10))
    x = lesson(captured(lm, 4, 40)[1], 40, torch.arange(4), torch.full((4,), 39))

    def lead(matrices: Tensor) -> float:
        """How much more the codes of the best keys agree with the query's than those of the others do."""
        alike = agreement(encode(x.q[:, :, None], matrices)[:, :, 0], encode(x.k.transpose(1, 2), matrices))
        return float(alike[x.label > 0].mean() - alike[x.label < 0].mean())

    assert lead(made) > lead(drawn) + 0.1


def test_matrices_do_not_depend_on_what_is_read_with_them() -> None:
    lm, knobs = tiny(), {"bits": 32, "epochs": 1, "passages": 2, "length": 40}
    first, second = (artefact(make("hata", knobs=knobs | more), lm)["hata"] for more in ({"share": 0.1, "dense": 0}, {"share": 0.5, "norm": False}))
    assert torch.equal(first, second)


def test_layers_with_a_window_are_left_alone() -> None:
    made = HashTraining(32, 1, 2, 40).calibrate(tiny(window=24))["hata"]
    drawn = HashTraining(32, 0, 2, 40).calibrate(tiny(window=24))["hata"]
    assert torch.equal(made[1:], drawn[1:]) and not torch.equal(made[0], drawn[0])


# with others


@pytest.mark.parametrize("name", ["snapkv+hata", "hata+kivi", "kvmerger+hata", "kvsharer+hata", "xkv+hata", "adakv+kivi+hata"])
def test_it_runs_with_members_of_other_axes(name: str) -> None:
    lm = tiny(layers=4)
    knobs = {"kvsharer.passages": 4, "kvsharer.length": 16, "dense": 0, "hata.bits": 32, "hata.share": 0.5, "hata.epochs": 0, "kivi.group": 8, "residual": 16}
    knobs |= {"kvsharer.share": 0.5, "kvsharer.threshold": -1, "adakv.window": 8, "snapkv.window": 8}
    names = name.split("+")
    known = {key: value for key, value in knobs.items() if any(hasattr(make(part), key.split(".")[-1]) and key.split(".")[0] in (part, key) for part in names)}
    session = Session(lm, make(name, "0.5" if {"snapkv", "kvmerger", "adakv"} & set(names) else None, known))
    logits = torch.cat([session.prefill(IDS), *(session.decode(token[None]) for token in WRITTEN)])
    assert torch.isfinite(logits).all() and session.cache.nbytes() < lm.geometry.full_bytes(PROMPT + STEPS) * 1.1
    read = session.cache.layers[-1].follows or session.cache.layers[-1]
    assert int(read.store.columns["code"].lens().sum()) == int(read.store.lens().sum())
