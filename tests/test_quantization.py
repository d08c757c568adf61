"""KIVI, Mustafar and ThinK: the small numbers of their cards, decoding against plain loops over a full cache, and what they run with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from conftest import plain, tiny
from test_codecs import gauss, plain_group
from torch import Tensor

from kvlab.attention import Rules
from kvlab.cache import LayerKV
from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.bitmap import Bitmap, largest
from kvlab.codecs.channels import Channels
from kvlab.engine import kept_positions
from kvlab.method import Compose, Method
from kvlab.methods.channels.think import key_energy, query_energy, strongest
from kvlab.methods.sparsity.mustafar import kept_values
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.seen import Seen
from kvlab.session import Session
from kvlab.store import View
from kvlab.trace import NEVER, Recorder

IDS = torch.randint(0, 128, (1, 512), generator=torch.Generator().manual_seed(7))
SMALL = {"bits": 4, "group": 8, "residual": 16}


def feed(lm: LM, method: Method, prompt: int, steps: int = 0, question: int = 0, **options: Any) -> tuple[Session, Tensor]:
    """A run over fixed tokens: the session and the logits of the prompt's end, of the question if there is one, and of every step."""
    session = Session(lm, method, **options)
    logits = [session.prefill(IDS[:, :prompt], question=question > 0)]
    if question:
        logits.append(session.ask(IDS[:, prompt : prompt + question]))
    logits += [session.decode(IDS[:, at]) for at in range(prompt + question, prompt + question + steps)]
    return session, torch.cat(logits)


def coded(layer: LayerKV, name: str) -> list[int]:
    """Coded slots of each head in the first row of the batch."""
    return (layer.store.columns[name].lens() - layer.store.raw_lens(name))[0].tolist()


def half(lm: LM) -> LM:
    """The same weights in bfloat16."""
    return LM.wrap(plain(lm).to(torch.bfloat16), name="half", revision="half")


# KIVI


def test_kivi_keys_wait_for_a_block_and_values_slide() -> None:
    session, _ = feed(tiny(layers=1), make("kivi", knobs={"group": 32, "residual": 128}), 300)
    layer = session.cache.layers[0]
    assert coded(layer, "k") == [256, 256] and layer.store.raw_lens("k").tolist() == [[44, 44]]
    assert coded(layer, "v") == [172, 172] and layer.store.raw_lens("v").tolist() == [[128, 128]]
    for at in range(300, 384):
        assert coded(layer, "k") == [256, 256]
        session.decode(IDS[:, at])
    assert coded(layer, "k") == [384, 384] and layer.store.raw_lens("k").tolist() == [[0, 0]]
    assert coded(layer, "v") == [256, 256] and layer.store.raw_lens("v").tolist() == [[128, 128]]
    assert [len(layer.store.columns[name].parts) for name in "kv"] == [1, 1]


def test_a_prompt_as_long_as_the_window_codes_keys_but_no_values() -> None:
    for prompt, keys in ((15, 0), (16, 16), (17, 16)):
        layer = feed(tiny(layers=1), make("kivi", knobs=SMALL), prompt)[0].cache.layers[0]
        assert coded(layer, "k") == [keys] * 2 and coded(layer, "v") == [max(0, prompt - 16)] * 2


def test_keys_want_groups_along_the_tokens() -> None:
    keys = gauss(64, 32)
    keys[:, 3] = 50
    by_channel = (TokenGroups.of(keys, 2, 32).decode() - keys).square()
    by_token = (ChannelGroups.of(keys, 2, 32).decode() - keys).square()
    assert by_channel[:, 3].max() == 0
    assert float(by_channel.mean()) == pytest.approx(0.15, abs=0.04) and float(by_token.mean()) == pytest.approx(5.4, rel=0.2)
    assert by_token.mean() > 10 * by_channel.mean()


def test_eight_bits_barely_move_the_scores() -> None:
    q, k = gauss(64, 128, seed=1), gauss(256, 128, seed=2)
    moved = (q @ (TokenGroups.of(k, 8, 32).decode() - k).T / 128**0.5).abs()
    assert moved.max() < 3e-2 and moved.mean() < 5e-3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_kivi_holds_the_bytes_of_the_card_in_sixteen_bits(bits: int) -> None:
    lm, prompt, steps, size, group, residual = half(tiny()), 150, 20, 16, 8, 64
    method = make("kivi", knobs={"bits": bits, "group": group, "residual": residual})
    session, _ = feed(lm, method, prompt, steps)
    tokens = prompt + steps
    keys, values = tokens // residual * residual, tokens - residual
    per_head = keys * size * bits // 8 + keys // group * size * 4 + (tokens - keys) * size * 2
    per_head += values * size * bits // 8 + values * (size // group) * 4 + (tokens - values) * size * 2
    assert session.cache.nbytes() == 3 * (2 * per_head + 4 * tokens) == predicted_bytes(method, lm.geometry, tokens, prompt)


def test_reference_geometry_costs_what_the_card_says() -> None:
    llama = dataclasses.replace(tiny().geometry, layers=32, kv_heads=8, head_dim=128, itemsize=2, windows=(None,) * 32)
    positions = 32 * 4096 * 4
    assert predicted_bytes(make("kivi", knobs={"bits": 2, "residual": 128}), llama, 4096, 4096) - positions == 107_479_040


@dataclass(frozen=True)
class Loops(Method):
    """A full cache read through plain loops that do what a coder does: its rule from slots to coded ones, and what becomes of a row."""

    like: Any = None  # (keys [n, D], values [n, D], slots before this call) -> what attention should see

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View:
        view = layer.store.view()
        before = view.k.shape[2] - q.shape[2]
        pairs = [self.like(layer, head, view.k[0, head].clone(), view.v[0, head].clone(), before) for head in range(view.k.shape[1])]
        k, v = (torch.stack(rows)[None] for rows in zip(*pairs, strict=True))
        return View(k, v, view.pos, view.holes)


def kivi_loops(layer: LayerKV, head: int, k: Tensor, v: Tensor, before: int) -> tuple[Tensor, Tensor]:
    bits, group, residual = SMALL.values()
    for start in range(0, before // residual * residual, group):
        for channel in range(k.shape[1]):
            k[start : start + group, channel] = torch.from_numpy(plain_group(k[start : start + group, channel].numpy(), bits, torch.float16))
    for token in range(before - residual):
        v[token] = torch.from_numpy(np.concatenate([plain_group(part, bits, torch.float16) for part in v[token].numpy().reshape(-1, group)]))
    return k, v


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kivi_equals_plain_loops_over_a_full_cache(groups: int) -> None:
    lm = tiny(groups, layers=2)
    run = lambda method: feed(lm, method, 40, steps=9, question=5)[1]  # noqa: E731
    mine, loops, full = run(make("kivi", knobs=SMALL)), run(Loops(like=kivi_loops)), run(Method())
    assert torch.equal(mine[0], full[0])  # attention over a prompt is exact
    assert (mine - loops).abs().max() < 1e-4 < (mine - full).abs().max()


# Mustafar


def test_mustafar_keeps_as_many_values_as_the_threshold_leaves() -> None:
    assert [kept_values(128, s) for s in (0, 0.5, 0.7)] == [128, 65, 40]
    x = gauss(10, 128)
    tau = x.abs().sort(dim=1).values[:, int(0.7 * 128) - 1 :][:, :1]
    assert torch.equal(Bitmap.of(x, largest(x, 40)).decode(), x * (x.abs() >= tau))
    sparse = Bitmap.of(x.half(), largest(x.half(), 40))
    assert sum(t.nbytes for t in sparse.tensors()) == 10 * 96  # 37.5 % of 256


def test_mustafar_thins_blocks_that_left_the_window() -> None:
    session, _ = feed(tiny(layers=1), make("mustafar"), 300)
    layer = session.cache.layers[0]
    assert coded(layer, "k") == coded(layer, "v") == [256, 256] and layer.store.raw_lens("k").tolist() == [[44, 44]]
    short = feed(tiny(layers=1), make("mustafar"), 20)[0].cache.layers[0]
    assert coded(short, "k") == [0, 0]


def mustafar_loops(layer: LayerKV, head: int, k: Tensor, v: Tensor, before: int) -> tuple[Tensor, Tensor]:
    for x in (k, v):
        for token in range(max(0, before - 8) // 4 * 4):
            smallest = sorted(range(16), key=lambda c: float(x[token, c].abs()))[: int(0.5 * 16) - 1]
            x[token, smallest] = 0
    return k, v


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_mustafar_equals_plain_loops_over_a_full_cache(groups: int) -> None:
    lm = tiny(groups, layers=2)
    run = lambda method: feed(lm, method, 40, steps=9, question=5)[1]  # noqa: E731
    mine = run(make("mustafar", knobs={"k_sparsity": 0.5, "v_sparsity": 0.5, "window": 8, "block": 4}))
    assert (mine - run(Loops(like=mustafar_loops))).abs().max() < 1e-4 < (mine - run(Method())).abs().max()


# ThinK


def test_think_ranks_the_channels_of_the_card() -> None:
    k = torch.tensor([[1.0, 2, 0, 1], [1, 0, 2, 1], [1, 2, 1, 0]])[None, None]
    q = torch.tensor([[[9.0, 9, 9, 9], [1, 0, 2, 1], [1, 1, 0, 1]], [[9, 9, 9, 9], [3, 0, 0, 1], [1, 1, 0, 1]]])[None]
    pos = torch.arange(3, dtype=torch.int32)[None]
    seen = Seen(q, pos, View(k, k, pos[:, None], False), Rules(0.5), Phase("prefill"))
    queries, keys = query_energy(seen, 2), key_energy(seen.view)
    assert torch.allclose(queries, torch.tensor([3, 0.5, 1, 1])) and torch.allclose(keys, torch.tensor([1, 8 / 3, 5 / 3, 2 / 3]))
    assert torch.allclose(queries * keys, torch.tensor([3, 4 / 3, 5 / 3, 2 / 3]))
    assert strongest(queries * keys, 2).tolist() == [[[0, 2]]]


def test_think_looks_past_padding() -> None:
    k, q = gauss(1, 1, 5, 4), gauss(1, 2, 5, 4, seed=1)
    pos = torch.arange(5, dtype=torch.int32)[None]
    alone = Seen(q, pos, View(k, k, pos[:, None], False), Rules(0.5), Phase("prefill"))
    pads = torch.full((1, 1, 3, 4), 100.0)
    long = torch.cat([torch.full((1, 3), -1, dtype=torch.int32), pos], dim=1)
    wide, asked = torch.cat([pads, k], dim=2), torch.cat([pads.expand(-1, 2, -1, -1), q], dim=2)
    padded = Seen(asked, long, View(wide, wide, long[:, None], True), Rules(0.5), Phase("prefill"))
    assert torch.allclose(query_energy(padded, 7), query_energy(alone, 5)) and torch.allclose(key_energy(padded.view), key_energy(alone.view))


def test_channels_nobody_uses_leave_first_and_change_nothing() -> None:
    k, q = gauss(20, 8), gauss(3, 8, seed=1)
    k[:, [2, 5]] = 0
    q[:, 6] = 0
    table = strongest((q.square().mean(0) * k.square().mean(0))[None], 5)
    assert table.tolist() == [[0, 1, 3, 4, 7]]
    assert torch.allclose(q @ Channels.of(k, torch.tensor([[20]]), table).decode().T, q @ k.T, atol=1e-6)


def think_loops(ratio: float, recent: int, prompt: int, chosen: dict) -> Any:
    def loops(layer: LayerKV, head: int, k: Tensor, v: Tensor, before: int) -> tuple[Tensor, Tensor]:
        if before:
            gone = [c for c in range(16) if c not in chosen[layer.index, head]]
            assert len(gone) == int(16 * ratio)
            for channel in gone:
                k[: prompt - recent, channel] = 0
        return k, v

    return loops


@dataclass(frozen=True)
class Ranks(Method):
    """Chooses channels at a prompt's end by the norm of what each adds to the scores, query head by query head, and changes nothing."""

    keep: int = 0
    found: dict = field(default_factory=dict)
    schedule = make("think").schedule

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        groups = seen.q.shape[1] // seen.view.k.shape[1]
        for head in range(seen.view.k.shape[1]):
            k, energy = seen.view.k[0, head], []
            for c in range(k.shape[1]):
                parts = [torch.outer(seen.q[0, head * groups + g, -8:, c], k[:, c]).square().sum() for g in range(groups)]
                energy.append(float(sum(parts)))
            self.found[layer.index, head] = sorted(sorted(range(k.shape[1]), key=lambda c: -energy[c])[: self.keep])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_think_equals_plain_loops_over_a_full_cache(groups: int) -> None:
    lm, chosen = tiny(groups, layers=2), {}
    feed(lm, Ranks(keep=10, found=chosen), 40)
    run = lambda method: feed(lm, method, 40, steps=9, question=5)[1]  # noqa: E731
    mine, loops, full = run(make("think", knobs={"recent": 8, "window": 8})), run(Loops(like=think_loops(0.4, 8, 40, chosen))), run(Method())
    assert torch.equal(mine[0], full[0])
    assert (mine - loops).abs().max() < 1e-4 < (mine - full).abs().max()


def test_think_freezes_its_channels_and_leaves_later_tokens_whole() -> None:
    session, _ = feed(tiny(), make("think", knobs={"recent": 8, "window": 8}), 40, steps=30)
    layer = session.cache.layers[1]
    table = layer.store.columns["k"].parts[0].rows.channels
    assert coded(layer, "k") == [32, 32] and coded(layer, "v") == [0, 0]
    session.prefill(IDS[:, 100:120])
    assert coded(layer, "k") == [82, 82] and len(layer.store.columns["k"].parts) == 1
    assert torch.equal(layer.store.columns["k"].parts[0].rows.channels, table)


def test_think_leaves_a_prompt_shorter_than_its_window_whole() -> None:
    session, _ = feed(tiny(), make("think"), 32, steps=3)
    assert coded(session.cache.layers[0], "k") == [0, 0]
    session.prefill(IDS[:, 40:60])
    assert coded(session.cache.layers[0], "k") == [23, 23]


# together


@pytest.mark.parametrize("name", ["h2o+kivi", "streamingllm+kivi", "h2o+mustafar", "lagkv+kivi"])
def test_what_fits_the_budget_is_held_under_a_coder(name: str) -> None:
    """280 tokens fed under a budget of 512: all 280 are there, coded ones and the raw window alike."""
    knobs = {"group": 32, "residual": 128} if "kivi" in name else {"window": 32, "block": 64}
    knobs |= {"lag": 300} if "lagkv" in name else {}
    session, _ = feed(tiny(), make(name, "512t", knobs), 200, steps=80)
    assert all(head == list(range(280)) for layer in kept_positions(session) for head in layer)
    assert all(layer.store.view().k.shape[2] == 280 for layer in session.cache.layers)
    assert coded(session.cache.layers[0], "k") == ([256, 256] if "kivi" in name else [192, 192])


def rows_of(layer: LayerKV, head: int) -> dict[int, tuple[list, list]]:
    """Position -> what is stored of a coded key: its codes, and the scales of its group."""
    part = layer.store.columns["k"].parts[0]
    first = int(part.lens[0, :head].sum())
    pos, owners = layer.store.pos()[0, head].tolist(), part.rows.owners()
    span = range(first, first + int(part.lens[0, head]))
    return {pos[i - first]: (part.rows.codes[i].tolist(), part.rows.scale[owners[i]].tolist()) for i in span}


def test_dropping_from_a_coded_cache_moves_codes_and_nothing_else() -> None:
    session, _ = feed(tiny(), make("h2o+kivi", "0.5", SMALL), 96)
    layer = session.cache.layers[0]
    before = [rows_of(layer, head) for head in range(2)]
    for at in range(96, 104):
        session.decode(IDS[:, at])
    after = [rows_of(layer, head) for head in range(2)]
    for old, new in zip(before, after, strict=True):
        assert len(new) < len(old) and set(new) < set(old)
        assert all(new[p] == old[p] for p in new)


def test_eviction_comes_first_and_what_is_left_is_coded() -> None:
    knobs = {"window": 8}
    dropped = feed(tiny(), make("snapkv", "0.5", knobs), 96)[0].cache.layers
    both = feed(tiny(), make("snapkv+kivi", "0.5", knobs | SMALL), 96)[0].cache.layers
    for plain_layer, layer in zip(dropped, both, strict=True):
        want, view = plain_layer.store.view(), layer.store.view()
        assert torch.equal(want.pos, view.pos)
        for head in range(2):
            k, v = kivi_loops(layer, head, want.k[0, head].clone(), want.v[0, head].clone(), 48)
            assert torch.allclose(view.k[0, head], k, atol=1e-6) and torch.allclose(view.v[0, head], v, atol=1e-6)


def test_each_head_flushes_at_its_own_length() -> None:
    knobs = {"window": 8}
    dropped = feed(tiny(), make("adakv", "0.5", knobs), 96)[0].cache.layers
    both = feed(tiny(), make("adakv+kivi", "0.5", knobs | SMALL), 96)[0].cache.layers
    lens = [layer.store.lens()[0].tolist() for layer in dropped]
    assert any(len(set(heads)) > 1 for heads in lens)
    for plain_layer, layer, heads in zip(dropped, both, lens, strict=True):
        assert coded(layer, "k") == [n // 16 * 16 for n in heads] and coded(layer, "v") == [max(0, n - 16) for n in heads]
        want, view = plain_layer.store.view(), layer.store.view()
        for head, n in enumerate(heads):
            k, v = kivi_loops(layer, head, want.k[0, head, :n].clone(), want.v[0, head, :n].clone(), n)
            assert torch.allclose(view.k[0, head, :n], k, atol=1e-6) and torch.allclose(view.v[0, head, :n], v, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "knobs", "near"),
    [
        ("snapkv+kivi", {"window": 8, **SMALL}, 0),
        ("snapkv+think", {"window": 8, "recent": 8}, 0),
        ("lagkv+mustafar", {"lag": 12, "sinks": 4, "window": 8, "block": 1}, 0),
        ("h2o+kivi", SMALL, 0.02),
    ],
)
@pytest.mark.parametrize(("prompt", "steps"), [(96, 0), (96, 5), (96, 40), (41, 17), (200, 3)])
def test_predicted_bytes_hold_in_compositions(name: str, knobs: dict, near: float, prompt: int, steps: int) -> None:
    method, lm = make(name, "0.5", knobs), tiny()
    session, _ = feed(lm, method, prompt, steps)
    want = predicted_bytes(method, lm.geometry, prompt + steps, prompt)
    # one entry leaves at every step: after many, how many groups of keys are empty is up to the text
    assert abs(session.cache.nbytes() - want) <= (near if steps <= 5 else 5 * near) * want


def test_scoring_passes_end_in_a_coded_prompt_too() -> None:
    """KVzip drops after its passes, in `finish`; what is coded at a prompt's end waits for that."""
    lm = tiny()
    for name, column in (("kvzip+kivi", "v"), ("kvzip+mustafar", "k"), ("kvzip+think", "k")):
        knobs = {"chunk": 40} | ({"window": 8, "block": 4} if "mustafar" in name else {"window": 8, "recent": 8} if "think" in name else SMALL)
        layer = feed(lm, make(name, "0.5", knobs | {"level": "uniform"}), 96)[0].cache.layers[0]
        assert layer.store.lens().tolist() == [[48, 48]] and min(coded(layer, column)) > 0


@pytest.mark.parametrize("pair", ["think+kivi", "kivi+mustafar", "mustafar+think"])
def test_a_column_has_one_coder(pair: str) -> None:
    with pytest.raises(ValueError, match=r"cannot run together: both decide how keys are held"):
        make(pair)


def test_what_cannot_be_grouped_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"residual is a multiple of the group \(32\), not 40"):
        make("kivi", knobs={"residual": 40})
    odd = dataclasses.replace(tiny().geometry, head_dim=80)
    assert "groups of 32 do not divide" in make("kivi").refuses(odd)
    latent = dataclasses.replace(tiny().geometry, latent=(64, 16))
    assert all("latents" in make(name).refuses(latent) for name in ("kivi", "mustafar", "think"))
    assert make("kivi").refuses(tiny().geometry) is None


def test_the_trace_says_what_is_coded_and_since_when() -> None:
    recorder = Recorder(3, 2, 60)
    feed(tiny(), make("kivi", knobs=SMALL), 40, steps=10, recorder=recorder)
    bits, since = recorder.bits[:, 1, 0], recorder.coded_at[1, 0]
    assert bits[0].tolist() == [4] * 48 + [0] * 12 and bits[1].tolist() == [4] * 34 + [0] * 26
    # keys 0..31 and values 0..23 at the prompt's end, keys 32..47 after token 47, which step 8 fed
    assert since[:32].tolist() == [1] * 32 and since[32:48].tolist() == [9] * 16 and since[48:].tolist() == [NEVER] * 12


def test_a_composition_of_instances_runs_as_one_by_name() -> None:
    parts = Compose((make("snapkv", "0.5", {"window": 8}), make("kivi", knobs=SMALL)))
    assert torch.equal(feed(tiny(), parts, 60, 4)[1], feed(tiny(), make("snapkv+kivi", "0.5", {"window": 8, **SMALL}), 60, 4)[1])
