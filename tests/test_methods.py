"""The generic checks: every line of `cases.py` goes through all of them, on tiny models with random weights."""

from __future__ import annotations

import copy
import functools
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, Case
from conftest import plain, tiny
from torch import Tensor
from transformers import AttentionInterface

from kvlab.cache import LayerKV
from kvlab.codecs.account import PARTS, by_part
from kvlab.engine import kept_positions
from kvlab.method import Method
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.predict import predicted_bytes
from kvlab.registry import make, registry
from kvlab.session import Session
from kvlab.store import View
from kvlab.trace import NEVER, Recorder

PROMPT, STEPS = 96, 5
IDS = torch.randint(0, 128, (4, 256), generator=torch.Generator().manual_seed(1))
TEXT = IDS[:1, :PROMPT]
FORCED = IDS[1, :STEPS]
CLOSE = 1e-4


def name(case: Case) -> str:
    return "-".join([case.method, *([case.budget] if case.budget else []), *(f"{k}={v}" for k, v in case.knobs.items())])


def those(keep: Callable[[Case], bool] = lambda case: True) -> Any:
    """The cases a check is for."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=name(case)) for case in CASES if keep(case)])


def build(case: Case) -> Method:
    return make(case.method, case.budget, case.knobs)


def one_shot(case: Case) -> bool:
    """Whether nothing happens after the end of a prompt."""
    return not any(part.schedule.every for part in build(case).members)


@dataclass(frozen=True)
class Run:
    """What a run left: its session and the logits of the prompt's end and of every step, [1 + STEPS, B, V]."""

    session: Session
    logits: Tensor

    @property
    def layers(self) -> list[LayerKV]:
        return self.session.cache.layers


def play(lm: LM, method: Method, ids: Tensor = TEXT, forced: Tensor = FORCED, real: Tensor | None = None, **options: Any) -> Run:
    """A prompt, then the same tokens for everybody: comparisons never hang on a close argmax."""
    session = Session(lm, method, batch=ids.shape[0], **options)
    logits = [session.prefill(ids, real)]
    logits += [session.decode(token.expand(ids.shape[0])) for token in forced]
    return Run(session, torch.stack(logits))


@functools.cache
def usual(case: Case, groups: int = 2) -> Run:
    """The run of a case that most checks look at, recorded. Looking changes nothing: tensors are never written in place."""
    lm = tiny(groups)
    return play(lm, build(case), recorder=Recorder(lm.geometry.layers, lm.geometry.kv_heads, PROMPT + STEPS))


@functools.cache
def whole(groups: int = 2, window: int | None = None) -> Run:
    """The full cache on the common text."""
    return play(tiny(groups, window=window), make("full"))


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def rows_at(layer: LayerKV, head: int) -> dict[int, tuple[Tensor, Tensor]]:
    """Position -> (key, value) as attention would get them, first row of the batch."""
    view = layer.store.view()
    pos = view.pos.expand(-1, view.k.shape[1], -1)[0, head].tolist()
    return {p: (view.k[0, head, slot], view.v[0, head, slot]) for slot, p in enumerate(pos) if p >= 0}


# what is kept, and what comes of it


@those(lambda case: case.full is not None)
def test_a_full_budget_equals_the_full_cache(case: Case) -> None:
    budget, knobs = case.full
    run, want = play(tiny(), make(case.method, budget, knobs)), whole()
    assert kept_positions(run.session) == kept_positions(want.session)
    if case.bound == 0:
        for mine, theirs in zip(run.layers, want.layers, strict=True):
            ours, full = mine.store.view(), theirs.store.view()
            assert torch.equal(ours.k[:, :, :PROMPT], full.k[:, :, :PROMPT]) and torch.equal(ours.v[:, :, :PROMPT], full.v[:, :, :PROMPT])
    assert gap(run.logits, want.logits) <= max(case.bound, CLOSE)


@dataclass(frozen=True)
class Masked(Method):
    """A full cache that hides, in every layer and head, what a trace says had left. The plain reference of all that only drop."""

    left_at: np.ndarray = field(default=None, compare=False)

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View:
        view = layer.store.view()
        left = torch.from_numpy(self.left_at[layer.index].astype(np.int64))
        pos = view.pos[0].expand(left.shape[0], -1)
        gone = left.gather(1, pos.long()) <= layer.cache.phase.step
        return View(view.k, view.v, torch.where(gone, -1, pos)[None], True)


@pytest.mark.parametrize("groups", [1, 2, 4])
@those(lambda case: case.drops)
def test_decoding_equals_a_full_cache_under_the_recorded_mask(case: Case, groups: int) -> None:
    run = usual(case, groups)
    left_at = run.session.recorder.left_at
    replay = play(tiny(groups), Masked(left_at=left_at))
    assert gap(run.logits, replay.logits) < CLOSE
    assert kept_positions(run.session) == [[np.nonzero(head == NEVER)[0].tolist() for head in layer] for layer in left_at]


@those(lambda case: case.drops)
def test_kept_rows_are_exact_copies_in_the_order_of_their_positions(case: Case) -> None:
    run, want = usual(case), whole()
    for mine, theirs in zip(run.layers, want.layers, strict=True):
        assert not mine.store.empty
        for head in range(tiny().geometry.kv_heads):
            ours, full = rows_at(mine, head), rows_at(theirs, head)
            assert list(ours) == sorted(ours)
            # of the prompt: what is written later depends on what was dropped
            assert all(torch.equal(k, full[p][0]) and torch.equal(v, full[p][1]) for p, (k, v) in ours.items() if p < PROMPT)


@those(lambda case: case.nests)
def test_a_larger_budget_keeps_a_superset(case: Case) -> None:
    kept = [kept_positions(play(tiny(), make(case.method, b, case.knobs), forced=FORCED[:0]).session) for b in ("0.2", "0.4", "0.8")]
    for smaller, larger in itertools.pairwise(kept):
        assert all(set(a) <= set(b) for low, high in zip(smaller, larger, strict=True) for a, b in zip(low, high, strict=True))
    assert kept[0] != kept[2]


@pytest.mark.parametrize("groups", [1, 4])
@those()
def test_any_number_of_queries_per_kv_head(case: Case, groups: int) -> None:
    assert torch.isfinite(usual(case, groups).logits).all()


# bytes


def reachable(thing: Any, seen: set[int]) -> list[Tensor]:
    """Every tensor a store can reach, found without asking it: through attributes, lists and dictionaries of kvlab's own objects."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, dict):
        inside = list(thing.values())
    elif isinstance(thing, list | tuple):
        inside = list(thing)
    elif type(thing).__module__.startswith("kvlab.") and not isinstance(thing, LayerKV | Method):
        # an even part could do without its lengths: they are a convenience, not part of what is held
        even = getattr(thing, "even", None) is not None and hasattr(thing, "rows")
        inside = [value for key, value in vars(thing).items() if not (even and key == "lens")]
    else:
        return []
    return [tensor for part in inside for tensor in reachable(part, seen)]


def sum_of_storages(tensors: list[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@those()
def test_bytes_are_the_sum_of_the_storages_held(case: Case) -> None:
    run = usual(case)
    held = reachable([layer.store for layer in run.layers], set())
    assert run.session.cache.nbytes() == sum_of_storages(held) > 0
    parts = by_part(run.session.cache)
    assert sum(parts.values()) == run.session.cache.nbytes() and set(parts) <= set(PARTS), "every byte is of one part"
    coded = any(part.coded for layer in run.layers if layer.follows is None for name in "kv" for part in layer.store.columns[name].parts)
    assert ("codes" in parts) == coded and ("raw" in parts) != coded and parts["positions"] > 0


@those()
def test_nothing_large_hides_outside_the_stores(case: Case) -> None:
    run = usual(case)
    hidden = reachable([run.session.cache.state, *(layer.state for layer in run.layers)], set())
    assert sum_of_storages(hidden) <= 0.02 * run.session.cache.nbytes()


@pytest.mark.parametrize("length", [PROMPT, 64, 41])
@those()
def test_bytes_follow_the_formula(case: Case, length: int) -> None:
    method, lm = build(case), tiny()
    run = usual(case) if length == PROMPT else play(lm, method, TEXT[:, :length])
    want = predicted_bytes(method, lm.geometry, length + STEPS, length)
    assert abs(run.session.cache.nbytes() - want) <= case.formula * want


# how it is fed


@those()
def test_a_left_padded_batch_equals_its_rows_alone(case: Case) -> None:
    lm, method = tiny(), build(case)
    short = 61
    both = IDS[2:4, :PROMPT]
    real = torch.ones_like(both)
    real[1, : PROMPT - short] = 0
    run = play(lm, method, both, real=real)
    for row, ids in enumerate((both[:1], both[1:, PROMPT - short :])):
        alone = play(lm, method, ids)
        assert gap(run.logits[:, row], alone.logits[:, 0]) < CLOSE, f"row {row}"


@those()
def test_a_question_after_compression_is_kept_whole(case: Case) -> None:
    lm, method, question = tiny(), build(case), IDS[2:3, :7]
    at_once = Session(lm, method)
    at_once.prefill(TEXT, question=True)
    logits = at_once.ask(question)
    assert torch.isfinite(logits).all()
    if not one_shot(case):
        return
    assert all(set(range(PROMPT, PROMPT + 7)) <= set(head) for layer in kept_positions(at_once) for head in layer)
    singly = Session(lm, method)
    singly.prefill(TEXT, question=True)
    for i in range(question.shape[1]):
        last = singly.ask(question[:, i : i + 1])
    assert gap(logits, last) < CLOSE


@those(lambda case: case.chunked)
def test_a_prompt_in_chunks_leaves_the_same_cache(case: Case) -> None:
    lm, method = tiny(), build(case)
    want, run = usual(case), play(lm, method, chunk=32)
    assert kept_positions(run.session) == kept_positions(want.session)
    assert run.session.cache.nbytes() == want.session.cache.nbytes()
    assert gap(run.logits, want.logits) < (CLOSE if case.drops else 1e-2)


@those()
def test_a_second_turn_is_compressed_too(case: Case) -> None:
    lm, method = tiny(), build(case)
    run = play(lm, method)
    before = run.session.cache.nbytes()
    run.session.prefill(IDS[2:3, :64])
    after, tokens = run.session.cache.nbytes(), PROMPT + STEPS + 64
    if before < 0.9 * lm.geometry.full_bytes(PROMPT + STEPS):
        assert after - before < 0.9 * lm.geometry.full_bytes(64)
    if case.drops:
        want = predicted_bytes(method, lm.geometry, tokens, tokens)
        assert abs(after - want) <= case.formula * want


@those()
def test_a_prompt_of_one_token_works(case: Case) -> None:
    run = play(tiny(), build(case), TEXT[:, :1])
    assert torch.isfinite(run.logits).all()
    assert run.session.cache.tokens.tolist() == [1 + STEPS]


@those()
def test_the_length_is_tokens_seen(case: Case) -> None:
    run = usual(case)
    assert {layer.get_seq_length() for layer in run.layers} == {PROMPT + STEPS}
    assert run.session.cache.get_seq_length() == PROMPT + STEPS


# sliding windows


@functools.cache
def prompt_only(window: int) -> Run:
    return play(tiny(window=window), make("full"), forced=FORCED[:0])


@those()
def test_sliding_layers_are_left_to_their_window(case: Case) -> None:
    lm, window = tiny(window=24), 24
    recorder = Recorder(3, 2, PROMPT)
    run, want = play(lm, build(case), forced=FORCED[:0], recorder=recorder), prompt_only(window)
    assert lm.geometry.windows == (None, window, window)
    for mine, theirs in zip(run.layers[1:], want.layers[1:], strict=True):
        assert mine.store.pos().flatten().tolist() == list(range(PROMPT - window + 1, PROMPT))
        assert torch.equal(mine.store.view().k, theirs.store.view().k) and torch.equal(mine.store.view().v, theirs.store.view().v)
    assert (recorder.left_at[1:] == NEVER).sum(2).tolist() == [[window - 1] * 2] * 2


@pytest.mark.parametrize("chunk", [1024, 32, 7])
@pytest.mark.parametrize("window", [None, 24])
def test_the_full_cache_equals_transformers(window: int | None, chunk: int) -> None:
    lm = tiny(window=window)
    run = play(lm, make("full"), chunk=chunk)
    with torch.no_grad():
        logits = plain(lm)(torch.cat([TEXT, FORCED[None]], dim=1)).logits[0, PROMPT - 1 :]
    assert gap(run.logits[:, 0], logits) < CLOSE


# runs side by side, and what they leave behind


@those()
def test_four_runs_at_once_equal_four_runs_alone(case: Case) -> None:
    lm, method = tiny(), build(case)
    side_by_side([functools.partial(play, lm, method, IDS[i : i + 1, :PROMPT], FORCED[:2]) for i in range(4)])


def test_four_methods_at_once_on_one_model_equal_each_alone() -> None:
    side_by_side([functools.partial(play, tiny(), make(name, "0.3")) for name in ("snapkv", "h2o", "adakv", "snapkv+kivi")])


def side_by_side(runs: list[Callable[[], Run]]) -> None:
    """Each in a thread of its own, and then each alone: the same numbers."""
    together: dict[int, Run] = {}
    threads = [threading.Thread(target=lambda i=i, run=run: together.update({i: run()})) for i, run in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, run in enumerate(runs):
        alone = run()
        assert gap(alone.logits, together[i].logits) < 1e-5
        assert kept_positions(alone.session) == kept_positions(together[i].session)


@those()
def test_the_same_run_twice_gives_the_same_numbers(case: Case) -> None:
    first, second = usual(case), play(tiny(), build(case))
    assert torch.equal(first.logits, second.logits)
    assert kept_positions(first.session) == kept_positions(second.session)


def belongings(model: torch.nn.Module) -> dict[str, tuple[list[str], int]]:
    """Of every module: the names of its attributes, and how many hooks hang on it."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return {name: (sorted(vars(module)), sum(len(getattr(module, hook)) for hook in hooks)) for name, module in model.named_modules()}


@those()
def test_nothing_stays_behind_in_method_or_model(case: Case) -> None:
    lm, method = tiny(), build(case)
    before, knobs, attentions = belongings(lm.model), copy.deepcopy(method), set(AttentionInterface())
    weights = {key: (tensor.data_ptr(), tensor._version) for key, tensor in lm.model.state_dict(keep_vars=True).items()}
    play(lm, method)
    assert method == knobs and vars(method) == vars(knobs)
    assert belongings(lm.model) == before
    assert set(AttentionInterface()) == attentions
    assert {key: (tensor.data_ptr(), tensor._version) for key, tensor in lm.model.state_dict(keep_vars=True).items()} == weights
    assert not any(isinstance(value, Tensor) for part in method.members for value in vars(part).values())


# pairs


@pytest.mark.parametrize("pair", ["kivi+mustafar", "snapkv+h2o", "adakv+snapkv", "kivi+kivi"])
def test_a_pair_that_cannot_run_together_says_why(pair: str) -> None:
    with pytest.raises(ValueError, match="cannot run together: ") as error:
        make(pair)
    assert all(part in str(error.value) for part in pair.split("+"))


def test_every_pair_either_composes_or_says_why() -> None:
    for first, second in itertools.combinations(registry(), 2):
        try:
            make(f"{first}+{second}")
        except ValueError as error:
            assert "cannot run together: " in str(error) and first in str(error) and second in str(error), f"{first}+{second}: {error}"


def test_a_member_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match=r"no method 'snapvk'\. Did you mean snapkv"):
        make("snapvk+full")


@pytest.mark.parametrize("other, knobs", [("think", {"recent": 8}), ("kivi", {"group": 8, "residual": 16, "bits": 4})])
def test_scoring_passes_delay_the_others_and_do_not_skip_them(other: str, knobs: dict) -> None:
    alone, both = (Session(tiny(), make(name, "0.6", k)) for name, k in (("kvzip", {}), (f"kvzip+{other}", knobs)))
    alone.prefill(TEXT)
    both.prefill(TEXT)
    assert kept_positions(alone) == kept_positions(both)
    assert both.cache.nbytes() < 0.95 * alone.cache.nbytes()


def test_the_phase_is_stated_never_guessed() -> None:
    phases: list[Phase] = []

    @dataclass(frozen=True)
    class Listens(Method):
        def finish(self, cache: Any, phase: Phase) -> None:
            phases.append(phase)

    session = Session(tiny(), Listens(), chunk=40)
    session.prefill(TEXT, question=True)
    session.ask(TEXT[:, :3])
    session.decode(FORCED[:1])
    session.prefill(TEXT[:, :1])
    assert [(p.kind, p.turn, p.step, p.writes) for p in phases] == [
        ("chunk", 0, 0, False), ("chunk", 0, 0, False), ("prefill", 0, 0, False), ("question", 0, 0, True), ("decode", 0, 1, True), ("prefill", 1, 2, True),
    ]  # fmt: skip
