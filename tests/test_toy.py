"""The toys of the method cards: each is played again, and what it shows is compared with what the stores held at that moment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kvlab import toy
from kvlab.cache import LayerKV
from kvlab.registry import registry
from kvlab.seen import Seen
from kvlab.store import Store
from kvlab.trace import Recorder


class Watcher(Recorder):
    """Beside recording, reads every store itself whenever a step looks at it. `here` and `bits` are laid out as a toy's."""

    def __init__(self, layers: int, heads: int, positions: int) -> None:
        super().__init__(layers, heads, positions)
        self.here = np.zeros((toy.STEPS + 1, layers, heads, positions), bool)
        self.own = np.ones(layers, bool)
        self.coded_as = np.zeros((2, toy.STEPS + 1, layers, heads, positions), np.uint8)

    def attended(self, layer: LayerKV, store: Store, seen: Seen) -> None:
        super().attended(layer, store, seen)
        if seen.phase.writes or seen.phase.kind == "chunk":
            self.own[layer.index] = layer.follows is None
            for head in range(self.here.shape[2]):
                self._read(store, (seen.phase.step, layer.index, head), store.pos()[0].expand(self.here.shape[2], -1)[head].tolist())

    def _read(self, store: Store, at: tuple[int, int, int], pos: list[int]) -> None:
        self.here[at][[p for p in pos if p >= 0]] = True
        for which, name in enumerate("kv"):
            slot = 0
            for part in store.columns[name].parts:
                count = int(part.lens[0, at[2]])
                if part.coded:
                    self.coded_as[(which, *at)][pos[slot : slot + count]] = max(1, round(part.rows.bits))
                slot += count


@pytest.mark.parametrize("name", registry())
def test_the_picture_is_what_the_stores_hold_and_the_shipped_one_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Watcher] = []
    monkeypatch.setattr(toy, "Recorder", lambda *sizes: made.append(Watcher(*sizes)) or made[-1])
    played, watched = toy.play(name), made[0]
    held = np.isin(played.kind, (toy.HELD, toy.UNREAD, toy.ELSEWHERE))
    assert np.array_equal(held, watched.here)
    assert np.array_equal((played.kind == toy.ELSEWHERE).any((0, 2, 3)), ~watched.own)
    assert np.array_equal(np.where(held, played.bits, 0), watched.coded_as)
    assert (played.into >= 0)[(played.kind == toy.MERGED).any(0)].all()
    shipped = toy.shipped()[name]  # made anew with: python -m kvlab.toy
    assert shipped.knobs == played.knobs
    for array in ("kind", "into", "bits", "held", "full"):
        assert np.array_equal(getattr(shipped, array), getattr(played, array)), array
    assert np.abs(shipped.glow.astype(int) - played.glow).max() <= 1


def test_every_method_shows_what_it_is_about() -> None:
    """A toy in which a method does nothing teaches nothing: entries leave, merge, are coded, are not read, or lie elsewhere."""
    idle = []
    for name, one in toy.shipped().items():
        acts = np.isin(one.kind, (toy.EVICTED, toy.MERGED, toy.UNREAD, toy.ELSEWHERE)).any() or one.bits.any()
        idle += [] if acts else [name]
    assert idle == ["full"]


def test_the_toy_model_has_the_habits_it_is_given() -> None:
    full = toy.shipped()["full"]
    later = full.glow[1:, :, :, 0] / 255  # roots of the attention that written tokens give to the first one
    assert (later**2).mean() > 2 / toy.PROMPT
    words = f"{toy.TEXT} {toy.WRITTEN}".split()
    like = [p for p in range(toy.PROMPT) if words[p] == "falcon"]
    step = words.index("falcon", toy.PROMPT) - toy.PROMPT + 1
    others = [p for p in range(1, toy.PROMPT) if p not in like]
    row = (full.glow[step] / 255.0) ** 2
    assert row[..., like].mean() > row[..., others].mean()


def test_knobs_are_made_small_and_never_larger() -> None:
    for name, kind in registry().items():
        made, usual = toy.method(name), kind()
        for knob, value in toy.changed(made).items():
            own = f"{name}.{knob}" in toy.SMALL
            if knob != "budget" and not own:
                assert value < getattr(usual, knob), (name, knob)


def test_playing_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    toy.play("random")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_method_that_takes_no_such_model_has_a_sentence_in_place_of_a_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ValueError("Two layers are too few.")

    monkeypatch.setattr(toy, "shipped", dict)
    monkeypatch.setattr(toy, "play", refuse)
    toy.of.cache_clear()
    assert toy.of("snapkv") == "Two layers are too few."
    toy.of.cache_clear()


def test_what_is_saved_loads_back_equal(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = toy.shipped()["kivi"]
    toy.save({"kivi": one}, tmp_path / "toys.npz")
    monkeypatch.setattr(toy, "FILE", tmp_path / "toys.npz")
    again = toy.shipped.__wrapped__()["kivi"]
    assert again.knobs == one.knobs and all(np.array_equal(getattr(again, a), getattr(one, a)) for a in toy.ARRAYS)
