"""Fifteen defects that were reproduced in another toolkit for these methods, one test each: here each of them must hold."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import tiny
from test_families import family
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.engine import Request, kept_positions, run
from kvlab.method import Dropper
from kvlab.models import load
from kvlab.phase import Schedule
from kvlab.registry import make, registry
from kvlab.seen import Seen
from kvlab.select import keep_top
from kvlab.session import Session
from kvlab.trace import NEVER, Recorder

IDS = torch.randint(0, 128, (3, 400), generator=torch.Generator().manual_seed(11))


def started(method: str, budget: str | None = None, knobs: dict | None = None, ids: Tensor = IDS[:1, :128], **options: int) -> Session:
    session = Session(tiny(), make(method, budget, knobs), batch=ids.shape[0], **options)
    session.prefill(ids)
    return session


def lengths(session: Session) -> set[int]:
    return {len(head) for layer in kept_positions(session) for head in layer}


@pytest.mark.parametrize("method", ["snapkv", "lagkv", "streamingllm", "h2o"])
def test_01_left_padded_batches_equal_their_rows_alone(method: str) -> None:
    lm, pad, ids = tiny(), 50, IDS[:2, :128]
    real = torch.ones_like(ids)
    real[0, :pad] = 0
    both = Session(lm, make(method, "40t"), batch=2)
    logits = [both.prefill(ids, real), *(both.decode(IDS[:2, 200 + i]) for i in range(4))]
    for row, own in enumerate((ids[:1, pad:], ids[1:])):
        alone = Session(lm, make(method, "40t"))
        singly = [alone.prefill(own), *(alone.decode(IDS[row : row + 1, 200 + i]) for i in range(4))]
        assert max(float((a[row] - b[0]).abs().max()) for a, b in zip(logits, singly, strict=True)) < 1e-4


def test_02_dropping_while_decoding_on_coded_entries_loses_no_token() -> None:
    session = started("h2o+kivi", "300t", {"group": 8, "residual": 16}, IDS[:1, :250])
    for i in range(30):
        session.decode(IDS[:1, 250 + i])
    assert kept_positions(session) == [[list(range(280))] * 2] * 3


def test_03_a_second_question_finds_the_coded_cache_as_it_was() -> None:
    session = started("kivi", None, {"group": 8, "residual": 16})
    moment, before = session.cache.snapshot(), session.cache.nbytes()
    first = session.ask(IDS[1:2, :9])
    for i in range(20):
        session.decode(IDS[1:2, 20 + i])
    assert session.cache.nbytes() > before
    session.cache.restore(moment)
    assert session.cache.nbytes() == before < 0.5 * tiny().geometry.full_bytes(128)
    second = session.ask(IDS[2:3, :9])
    fresh = started("kivi", None, {"group": 8, "residual": 16})
    assert torch.equal(second, fresh.ask(IDS[2:3, :9])) and not torch.equal(first, second)


def test_04_entries_stay_in_the_order_of_their_positions() -> None:
    session = started("snapkv", "0.5", {"window": 16})
    for layer in session.cache.layers:
        pos = layer.store.pos()[0].tolist()
        assert all(head == sorted(head) and len(head) == 64 for head in pos)
    session = started("streamingllm", "64t", {"sinks": 4})
    for i in range(60):
        session.decode(IDS[:1, 128 + i])
    assert kept_positions(session) == [[[0, 1, 2, 3, *range(128, 188)]] * 2] * 3


def test_05_users_of_one_model_do_not_disturb_each_other() -> None:
    alone = started("adakv", "0.25", {"window": 8})
    want = [alone.decode(IDS[:1, 130 + i]) for i in range(4)]
    mine, got = started("adakv", "0.25", {"window": 8}), []
    for i in range(4):
        other = started("snapkv", "0.5", ids=IDS[1:2, : 60 + i])
        got.append(mine.decode(IDS[:1, 130 + i]))
        other.decode(IDS[1:2, 100])
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
    plain = started("full").decode(IDS[:1, 130])
    assert torch.equal(plain, started("full").decode(IDS[:1, 130]))


def test_06_two_methods_at_work_on_one_model_act_on_their_own_run_only() -> None:
    lm = tiny()
    one, other = Session(lm, make("snapkv", "64t")), Session(lm, make("streamingllm", "32t"))
    one.prefill(IDS[:1, :128])
    other.prefill(IDS[:1, :128])
    one.decode(IDS[:1, 200])
    other.decode(IDS[:1, 200])
    assert lengths(one) == {65} and lengths(other) == {32}


@dataclass(frozen=True)
class EveryChunk(Dropper):
    """The latest 32 entries."""

    schedule = Schedule(prefill=True, chunks=True)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        layer.keep(keep_top(seen.pos().float(), 32, seen.valid()))


def test_07_chunks_and_later_turns_are_compressed_too() -> None:
    assert lengths(started("snapkv", "0.5", chunk=32)) == {64} == lengths(started("snapkv", "0.5"))
    session = started("snapkv", "0.5")
    session.prefill(IDS[1:2, :128])
    assert lengths(session) == {128}
    # a method that acts in every chunk bounds the memory while the prompt is read
    recorder = Recorder(3, 2, 256)
    Session(tiny(), EveryChunk(), chunk=32, recorder=recorder).prefill(IDS[:1, :256])
    assert recorder.peak < 0.4 * tiny().geometry.full_bytes(256)


@dataclass(frozen=True)
class PerLayer(Dropper):
    """Fewer entries the higher the layer."""

    schedule = Schedule(prefill=True)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        layer.keep(keep_top(seen.pos().float(), 60 - 20 * layer.index, seen.valid()))


def test_08_layers_of_different_lengths_take_a_question_of_several_tokens() -> None:
    session = Session(tiny(), PerLayer())
    session.prefill(IDS[:1, :128], question=True)
    at_once = session.ask(IDS[1:2, :9])
    assert [len(layer[0]) for layer in kept_positions(session)] == [69, 49, 29]
    session = Session(tiny(), PerLayer())
    session.prefill(IDS[:1, :128], question=True)
    for i in range(9):
        singly = session.ask(IDS[1:2, i : i + 1])
    assert float((at_once - singly).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["Mistral", "Gemma3"])
@pytest.mark.parametrize("method", ["snapkv", "adakv", "h2o"])
def test_09_models_with_sliding_windows_work(name: str, method: str) -> None:
    lm = family(name)
    session = Session(lm, make(method, "10t"))
    logits = [session.prefill(IDS[:1, :64] % 120 + 3), *(session.decode(IDS[:1, 70 + i] % 120 + 3) for i in range(3))]
    assert torch.isfinite(torch.stack(logits)).all()
    for held, window in zip(kept_positions(session), lm.geometry.windows, strict=True):
        assert window is None or {tuple(head) for head in held} == {tuple(range(67 - window + 1, 67))}


def test_10_methods_that_ask_for_weights_and_methods_with_uneven_heads_share_one_attention() -> None:
    for method in ("h2o", "adakv", "snapkv", "streamingllm"):
        session = started(method, "32t")
        assert torch.isfinite(session.decode(IDS[:1, 130])).all()
        slots = [len(head) for layer in kept_positions(session) for head in layer]
        assert sum(slots) <= 3 * 2 * 33
    assert tiny().model.config._attn_implementation == "kvlab"


def test_11_kvzip_compresses_before_the_first_token_is_written() -> None:
    session = started("kvzip", "0.25")
    slots = [len(head) for layer in kept_positions(session) for head in layer]
    assert sum(slots) == 3 * 2 * 32 and session.cache.nbytes() < 0.3 * tiny().geometry.full_bytes(128)
    full = started("full")
    assert not torch.allclose(session.decode(IDS[:1, 130]), full.decode(IDS[:1, 130]), atol=1e-4)


def test_12_a_local_folder_is_enough_for_methods_with_a_scoring_text(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a run tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    lm = load(str(hub), device="cpu")
    result = run(lm, Request("The third door of the harbour office is open. " * 3, make("kvzip", "0.5"), max_new_tokens=3))
    assert result.status == "done" and result.budget["realised"]["fraction"] < 0.6


@pytest.mark.parametrize("tokens", [1, 2, 5, 20])
@pytest.mark.parametrize("method", list(registry()))
def test_13_short_prompts_run_with_default_knobs(method: str, tokens: int) -> None:
    session = Session(tiny(), make(method))
    logits = [session.prefill(IDS[:1, :tokens]), *(session.decode(IDS[:1, 50 + i]) for i in range(2))]
    assert torch.isfinite(torch.stack(logits)).all()


def test_14_compositions_run_or_say_why_not() -> None:
    session = started("adakv+kivi", "0.25", {"group": 8, "residual": 16})
    assert torch.isfinite(session.decode(IDS[:1, 130])).all()
    with pytest.raises(ValueError, match="adakv and h2o cannot run together"):
        make("adakv+h2o")
    # a target while decoding is reached, and more than one question can follow
    session = started("h2o", "24t")
    for turn in range(2):
        session.ask(IDS[1:2, :5])
        for i in range(20):
            session.decode(IDS[:1, 130 + 20 * turn + i])
        assert lengths(session) == {24}


def test_15_what_was_kept_is_on_record() -> None:
    recorder = Recorder(3, 2, 140)
    session = Session(tiny(), make("h2o", "24t"), recorder=recorder)
    session.prefill(IDS[:1, :128])
    for i in range(10):
        session.decode(IDS[:1, 130 + i])
    for layer, heads in enumerate(kept_positions(session)):
        for head, positions in enumerate(heads):
            assert positions == [p for p in range(138) if recorder.left_at[layer, head, p] == NEVER]
            left = recorder.left_at[layer, head, :138]
            assert sorted(set(left.tolist()) - {NEVER}) == list(range(1, 12)), "one entry left at every step"
