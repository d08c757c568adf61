"""The frame against plain references: stores of ragged heads, selection, budgets, softmax sums, phases, compositions, the trace."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import plain, tiny
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from kvlab.attention import QUERY_BLOCK, Rules, attend, softmax_rows, visible
from kvlab.bench.frame import BLOCK, figures, kvlab_tokens, one_round, plain_tokens, ratio
from kvlab.budget import Budget
from kvlab.column import PIECES, Column
from kvlab.method import Compose, Dropper, Method, knob
from kvlab.models import LM, adapted
from kvlab.phase import Phase, Schedule
from kvlab.predict import predicted_bytes, settle
from kvlab.registry import describe, make, registry
from kvlab.rows import Raw, ramp, storage_bytes
from kvlab.seen import Seen
from kvlab.select import keep_top, protect, ranks
from kvlab.session import Sampler, Session, Stopped
from kvlab.store import Store, View
from kvlab.trace import NEVER, Recorder, Trace


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# stores against a list of lists


class Plain:
    """The reference of a store: for every (b, h) a list of (position, key, value, tag)."""

    def __init__(self, batch: int, heads: int) -> None:
        self.lists: list[list[list[tuple]]] = [[[] for _ in range(heads)] for _ in range(batch)]

    def append(self, k: Tensor, v: Tensor, pos: Tensor) -> None:
        for b, row in enumerate(self.lists):
            for h, held in enumerate(row):
                held += [(int(pos[b, i]), k[b, h, i].tolist(), v[b, h, i].tolist(), 0.0) for i in range(k.shape[2])]

    def keep(self, mask: Tensor) -> None:
        for b, row in enumerate(self.lists):
            for h, held in enumerate(row):
                row[h] = [entry for entry, stays in zip(held, mask[b, h].tolist(), strict=False) if stays and entry[0] >= 0]

    def tag(self, values: Tensor) -> None:
        for b, row in enumerate(self.lists):
            for h, held in enumerate(row):
                row[h] = [(*entry[:3], float(values[b, h, i])) for i, entry in enumerate(held)]

    def matches(self, store: Store) -> None:
        view, tags = store.view(), store.tag("score")
        pos = view.pos.expand(-1, view.k.shape[1], -1)
        assert store.lens().tolist() == [[len(held) for held in row] for row in self.lists]
        for b, row in enumerate(self.lists):
            for h, held in enumerate(row):
                n = len(held)
                assert pos[b, h, :n].tolist() == [entry[0] for entry in held]
                assert view.k[b, h, :n].tolist() == [entry[1] for entry in held]
                assert view.v[b, h, :n].tolist() == [entry[2] for entry in held]
                assert tags[b, h, :n].tolist() == pytest.approx([entry[3] for entry in held])
                assert (pos[b, h, n:] == -1).all()


@dataclass(frozen=True)
class Halves:
    """A codec of the tests: float16 rows."""

    data: Tensor
    bits: float = 16.0

    def decode(self) -> Tensor:
        return self.data.float()

    def keep(self, mask: Tensor) -> Halves:
        return Halves(self.data[mask])

    def tensors(self) -> list[Tensor]:
        return [self.data]


def halves(rows: Tensor, lens: Tensor) -> Halves:
    return Halves(rows.half())


def grow(store: Store, model: Plain, n: int, start: int, batch: int, heads: int, pad: int = 0) -> None:
    # values that float16 holds exactly, so that coded columns compare equal
    k, v = noise(batch, heads, n, 5, seed=start).half().float(), noise(batch, heads, n, 3, seed=start + 1).half().float()
    pos = torch.arange(start, start + n, dtype=torch.int32).expand(batch, -1).clone()
    if pad:
        pos[0, :pad] = -1
    store.append(k, v, pos, padded=pad > 0)
    model.append(k, v, pos)


@pytest.mark.parametrize("coded", [False, True], ids=["raw", "coded"])
@pytest.mark.parametrize("batch, heads, n", [(1, 1, 1), (1, 2, 7), (2, 3, 31), (3, 1, 64)])
def test_a_store_equals_a_list_of_lists(batch: int, heads: int, n: int, coded: bool) -> None:
    store, model = Store(), Plain(batch, heads)
    pick = torch.Generator().manual_seed(n)
    grow(store, model, n, 0, batch, heads, pad=n // 3)
    model.tag(store.tag("score", noise(batch, heads, n)))
    for turn in range(4):
        mask = torch.rand(batch, heads, len(store), generator=pick) < 0.7
        mask[..., -1] = True
        store.keep(mask)
        model.keep(mask)
        model.matches(store)
        if coded:
            store.code("k", (store.raw_lens("k") * 2 // 3), halves)
            store.code("v", (store.raw_lens("v") // 2), halves)
            model.matches(store)
        grow(store, model, 1 + turn, 100 * (turn + 1), batch, heads)
        model.matches(store)
    moment = store.snapshot()
    before = store.view()
    store.keep(torch.zeros(batch, heads, len(store), dtype=torch.bool).index_fill_(2, torch.tensor([len(store) - 1]), True))
    grow(store, Plain(batch, heads), 2, 900, batch, heads)
    model.matches(moment)
    assert torch.equal(moment.view().k, before.k)


@pytest.mark.parametrize("uneven", [False, True])
def test_positions_that_nobody_looked_at_are_all_there(uneven: bool) -> None:
    store, model = Store(), Plain(1, 2)
    grow(store, model, 6, 0, 1, 2)
    model.tag(store.tag("score"))
    mask = torch.tensor([[[True, False, True, True, False, True], [uneven, True, True, False, True, True]]])
    store.keep(mask)
    model.keep(mask)
    for step in range(PIECES + 3):
        if step == PIECES // 2:
            early, twin, at_that_time = store.view(), store.snapshot(), copy.deepcopy(model)
        grow(store, model, 1, 10 + step, 1, 2)
    model.matches(store)
    at_that_time.matches(twin)
    assert torch.equal(early.pos, twin.pos()) and early.pos.shape[2] == early.k.shape[2]
    assert uneven or store.view().pos is store.columns["pos"].open, "no second tensor that would count as a copy"
    raw = 2 * len(store) * (5 + 3 + 1) * 4 + 2 * len(store) * 4
    assert uneven or store.nbytes() == raw, "as if they had joined at once"


def test_a_snapshot_keeps_the_kind_of_store() -> None:
    class Paged(Store):
        page = 16

    store = Paged()
    store.page = 8
    assert type(store.snapshot()) is Paged and store.snapshot().page == 8


def test_heads_that_keep_the_same_share_one_list_of_positions() -> None:
    store = Store()
    store.append(noise(1, 4, 10, 8), noise(1, 4, 10, 8), torch.arange(10, dtype=torch.int32)[None])
    alike = torch.zeros(1, 4, 10, dtype=torch.bool)
    alike[..., 3:] = True
    store.keep(alike)
    assert store.columns["pos"].dense().shape == (1, 1, 7) and store.nbytes() == 7 * (2 * 4 * 8 * 4 + 4)
    apart = torch.ones(1, 4, 7, dtype=torch.bool)
    for head in range(4):
        apart[0, head, head] = False
    store.keep(apart)
    assert store.columns["pos"].dense().shape == (1, 4, 6) and store.nbytes() == 6 * 4 * (2 * 8 * 4 + 4)


def test_a_slice_that_keeps_a_large_buffer_alive_counts_in_full() -> None:
    large = torch.zeros(1000, 4)
    assert storage_bytes([large[:10]]) == 16_000
    assert storage_bytes([large[:10], large[5:]]) == 16_000
    assert storage_bytes([large[:10].clone()]) == 160
    # what a store takes in it owns: a slice of a projection does not keep the projection alive
    store = Store()
    wide = torch.zeros(1, 2, 100, 4)
    store.append(wide[:, :, :5], wide[:, :, 5:10], torch.arange(5, dtype=torch.int32)[None])
    assert store.nbytes() == 2 * (2 * 5 * 4 * 4) + 5 * 4


def test_dropping_frees_bytes_and_ragged_heads_hold_what_they_keep() -> None:
    store = Store()
    store.append(noise(1, 2, 100, 4), noise(1, 2, 100, 4), torch.arange(100, dtype=torch.int32)[None])
    mask = torch.zeros(1, 2, 100, dtype=torch.bool)
    mask[0, 0, :48] = mask[0, 1, :8] = True
    store.keep(mask)
    lengths = 3 * 2 * 8  # of k, v and pos: one int64 for each head
    assert store.nbytes() == 56 * (2 * 4 * 4 + 4) + lengths
    assert store.lens().tolist() == [[48, 8]] and not store.even


def test_replace_raw_refuses_another_shape() -> None:
    store = Store()
    store.append(noise(1, 2, 6, 4), noise(1, 2, 6, 4), torch.arange(6, dtype=torch.int32)[None])
    store.replace_raw("v", torch.ones(1, 2, 6, 4))
    assert (store.view().v == 1).all()
    with pytest.raises(ValueError, match="raw block of v"):
        store.replace_raw("v", torch.ones(1, 2, 5, 4))


def test_an_empty_column_after_everything_left_takes_new_tokens() -> None:
    column = Column()
    column.append(noise(1, 2, 3, 4))
    column.keep(torch.zeros(1, 2, 3, dtype=torch.bool))
    assert column.tensors() == []
    column.append(noise(1, 2, 1, 4))
    assert column.dense().shape == (1, 2, 1, 4)


def test_ramp_counts_inside_each_owner() -> None:
    owner, rank = ramp(torch.tensor([2, 0, 3]))
    assert owner.tolist() == [0, 0, 2, 2, 2] and rank.tolist() == [0, 1, 0, 1, 2]
    assert Raw(torch.zeros(3, dtype=torch.float16)).bits == 16


# selection


def test_keep_top_gives_ties_to_the_earlier_position() -> None:
    scores, valid = torch.zeros(1, 1, 6), torch.ones(1, 1, 6, dtype=torch.bool)
    assert keep_top(scores, 2, valid)[0, 0].tolist() == [True, True, False, False, False, False]
    scores[0, 0, 4] = 1
    assert keep_top(scores, 2, valid)[0, 0].tolist() == [True, False, False, False, True, False]


def test_keep_top_never_prefers_a_hole_and_counts_protected_slots() -> None:
    scores = torch.tensor([[[9.0, 8, 1, 2, 3, 0]]])
    valid = torch.tensor([[[False, True, True, True, True, True]]])
    last = protect(torch.tensor([[[-1, 0, 1, 2, 3, 4]]]), torch.tensor([5]), last=1)
    assert last[0, 0].tolist() == [False, False, False, False, False, True]
    assert keep_top(scores, 2, valid, last)[0, 0].tolist() == [False, True, False, False, False, True]
    # protection beyond the count stays
    assert keep_top(scores, 1, valid, valid & (scores < 3))[0, 0].tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize("seed", range(3))
def test_keep_top_equals_sorting_by_hand(seed: int) -> None:
    pick = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (2, 3, 17), generator=pick).float()
    valid = torch.rand(2, 3, 17, generator=pick) < 0.8
    protected = torch.rand(2, 3, 17, generator=pick) < 0.1
    count = torch.tensor([5, 9])
    kept = keep_top(scores, count, valid, protected)
    for b in range(2):
        for h in range(3):
            slots = [s for s in range(17) if valid[b, h, s]]
            order = sorted(slots, key=lambda s: (not protected[b, h, s], -float(scores[b, h, s]), s))
            want = set(order[: int(count[b])]) | {s for s in slots if protected[b, h, s]}
            assert set(kept[b, h].nonzero().flatten().tolist()) == want


@pytest.mark.parametrize("count", [0, 1, 6, 20, torch.tensor([0, 7]), torch.tensor([[3, 3, 3], [1, 0, 11]])], ids=str)
@pytest.mark.parametrize("slots", [0, 1, 11])
def test_keep_top_is_ranks_below_the_count(count: torch.Tensor | int, slots: int) -> None:
    pick = torch.Generator().manual_seed(slots)
    scores = torch.tensor([-torch.inf, 0.0, 1.0, 1.5, torch.inf])[torch.randint(0, 5, (2, 3, slots), generator=pick)]
    valid, protected = (torch.rand(2, 3, slots, generator=pick) < share for share in (0.8, 0.3))
    limit = count if isinstance(count, int) else count.view(2, -1, 1)
    for fixed in (protected, torch.zeros_like(protected)):
        want = valid & ((ranks(scores, fixed & valid, valid) < limit) | fixed)
        assert torch.equal(keep_top(scores, count, valid, fixed), want)
    assert torch.equal(keep_top(scores, count, valid), want)


def test_a_score_that_is_no_number_stays_first() -> None:
    scores = torch.tensor([[[1.0, torch.nan, 3.0, torch.nan]]])
    assert keep_top(scores, 3, torch.ones(1, 1, 4, dtype=torch.bool)).flatten().tolist() == [False, True, True, True]


def test_ranks_are_a_permutation() -> None:
    found = ranks(noise(2, 3, 11), torch.zeros(2, 3, 11, dtype=torch.bool), torch.ones(2, 3, 11, dtype=torch.bool))
    assert (found.sort(-1).values == torch.arange(11)).all()


# budgets


@pytest.mark.parametrize(
    "text, amount, unit",
    [("0.25", 0.25, "fraction"), (1, 1, "fraction"), (0.5, 0.5, "fraction"), ("25%", 0.25, "fraction"), ("512t", 512, "tokens"), (" 64 t ", 64, "tokens"),
     ("20MB", 20e6, "bytes"), ("1.5 KiB", 1536, "bytes"), ("800B", 800, "bytes"), ("2GiB", 2 * 1024**3, "bytes"), ("1e-2", 0.01, "fraction")],
)  # fmt: skip
def test_budgets_are_read(text: object, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (pytest.approx(amount), unit)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text, says", [("much", "Cannot read"), ("-1", "Cannot read"), ("0", "kept fraction"), ("12", "For tokens write 12t"),
                                        ("1.5t", "whole number"), ("0t", "whole number"), ("0MB", "above 0"), ("", "Cannot read"),
                                        ("5mb", "Cannot read")])  # fmt: skip
def test_a_budget_that_cannot_be_read_says_what_can(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Budget.parse(text)


def test_a_budget_is_at_least_one_token_and_at_most_all() -> None:
    assert Budget(0.25).tokens(96) == 24 and Budget(0.25).tokens(1) == 1 and Budget(500, "tokens").tokens(96) == 96
    with pytest.raises(ValueError, match="before the run"):
        Budget(1000, "bytes").tokens(96)


def test_a_budget_that_covers_the_prompt_is_predicted_as_the_full_cache(lm: LM) -> None:
    for budget, method in itertools.product(("1.0", "200t", "96t"), ("snapkv", "h2o")):
        session = Session(lm, make(method, budget))
        session.prefill(torch.arange(96)[None])
        assert session.cache.nbytes() == predicted_bytes(session.method, lm.geometry, 96, 96), f"{method} {budget}"


def test_bytes_become_the_most_tokens_that_fit(lm: LM) -> None:
    method, whole = make("snapkv", "1kB"), lm.geometry.full_bytes(100)
    for amount in (whole, whole - 1, whole // 2, whole // 8):
        settled = settle(method.with_budget(Budget(amount, "bytes")), lm.geometry, 100, 90)
        n = settled.budget.amount
        assert predicted_bytes(settled, lm.geometry, 100, 90) <= amount
        assert n == 90 or predicted_bytes(settled.with_budget(Budget(n + 1, "tokens")), lm.geometry, 100, 90) > amount
        assert (n == 90) == (amount == whole)


# attention


def looked(q: Tensor, view: View, q_pos: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Attention by the book, one query at a time: weights and output."""
    b, hq, t, _ = q.shape
    h = view.k.shape[1]
    weights = torch.zeros(b, hq, t, view.k.shape[2])
    pos = view.pos.expand(-1, h, -1)
    for i in range(b):
        for j in range(hq):
            for n in range(t):
                p, at = int(q_pos[i, n]), pos[i, j * h // hq]
                sees = (at >= 0) & (at <= p) & (at > p - rules.window if rules.window else True)
                logits = view.k[i, j * h // hq] @ q[i, j, n] * rules.scaling
                logits = logits if rules.softcap is None else rules.softcap * torch.tanh(logits / rules.softcap)
                e = torch.where(sees, logits.exp(), 0)
                weights[i, j, n] = e / (e.sum() + (rules.sinks[j].exp() if rules.sinks is not None else 0))
    return weights, torch.einsum("bjnt,bjtd->bjnd", weights, view.v.repeat_interleave(hq // h, 1))


@pytest.mark.parametrize("rules", [Rules(0.3), Rules(0.3, window=5), Rules(0.3, softcap=2.0), Rules(0.3, sinks=torch.tensor([0.5, -1.0, 0.0, 2.0]))],
                         ids=["plain", "window", "softcap", "sinks"])  # fmt: skip
@pytest.mark.parametrize("holes", [False, True], ids=["even", "holes"])
@pytest.mark.parametrize("t", [1, 7])
def test_attention_equals_the_book(rules: Rules, holes: bool, t: int) -> None:
    slots = 13
    pos = torch.arange(slots, dtype=torch.int32).expand(2, 2, -1).clone()
    if holes:
        pos[0, 1, ::3] = -1
        pos[1, 0, 2:5] = -1
    view = View(noise(2, 2, slots, 8, seed=1), noise(2, 2, slots, 8, seed=2), pos, holes)
    q, q_pos = noise(2, 4, t, 8, seed=3), torch.arange(slots - t, slots).expand(2, -1)
    weights, out = looked(q, view, q_pos, rules)
    assert torch.allclose(attend(q, view, q_pos, rules, fresh=False), out, atol=1e-5)
    assert torch.allclose(softmax_rows(q, view, q_pos, rules), weights, atol=1e-6)


def test_a_query_of_padding_gives_numbers_not_nan() -> None:
    view = View(noise(1, 1, 4, 8), noise(1, 1, 4, 8), torch.tensor([[[-1, -1, 0, 1]]]), True)
    out = attend(noise(1, 2, 4, 8), view, torch.tensor([[-1, -1, 0, 1]]), Rules(0.3), fresh=False)
    assert torch.isfinite(out).all()


def test_visible_is_a_comparison_of_positions() -> None:
    mask = visible(torch.tensor([[[0, 7, -1, 3]]]), torch.tensor([[3, 8]]), window=5)
    assert mask[0, 0].tolist() == [[True, False, False, True], [False, True, False, False]]


@pytest.mark.parametrize("t", [3, QUERY_BLOCK, 2 * QUERY_BLOCK + 17])
def test_column_sums_equal_dense_softmax_sums(t: int) -> None:
    q, view = noise(2, 4, t, 8), View(noise(2, 2, t, 8, seed=1), noise(2, 2, t, 8, seed=2), torch.arange(t, dtype=torch.int32).expand(2, 1, -1).clone(), True)
    q_pos = torch.arange(t).expand(2, -1).clone()
    view.pos[0, 0, :2] = -1
    q_pos[0, :2] = -1
    seen = Seen(q, q_pos, view, Rules(0.35), Phase("prefill"))
    logits = torch.einsum("bhgtd,bhsd->bhgts", q.unflatten(1, (2, 2)), view.k) * 0.35
    mask = (torch.arange(t)[:, None] >= torch.arange(t)) & (view.pos >= 0)[:, :, None]
    weights = torch.nan_to_num(logits.masked_fill(~mask[:, :, None], -torch.inf).softmax(-1))
    for how, want in (("mean", weights.mean(2)), ("sum", weights.sum(2))):
        assert torch.allclose(seen.column_sums(how), want.sum(2), atol=1e-4)
    assert torch.allclose(seen.column_sums("max"), weights.sum(3).amax(2), atol=1e-4)
    assert torch.allclose(seen.weights(1), weights.flatten(1, 2)[:, :, -1:], atol=1e-5)


def test_slots_hidden_by_hand_equal_transformers_under_the_same_mask() -> None:
    lm, ids = tiny(), torch.randint(0, 128, (1, 40), generator=torch.Generator().manual_seed(3))
    gone = torch.tensor([2, 3, 11, 30])

    @dataclass(frozen=True)
    class Hides(Method):
        def read(self, layer: object, q: Tensor, q_pos: Tensor) -> View:
            view = layer.store.view()
            own = view.pos == q_pos[:, -1:, None]
            hidden = torch.isin(view.pos, gone) & ~own if q.shape[2] == 1 else torch.zeros_like(own)
            return View(view.k, view.v, torch.where(hidden, -1, view.pos), True)

    session = Session(lm, Hides())
    session.prefill(ids[:, :32])
    got = [session.decode(ids[:, i]) for i in range(32, 40)]
    mask = torch.ones(40, 40).tril().bool()
    mask[32:, gone] = False
    with torch.no_grad():
        want = plain(lm)(ids, attention_mask=mask[None, None]).logits[:, 32:]
    assert torch.allclose(torch.stack(got, 1), want, atol=1e-4)


# phases and schedules


@pytest.mark.parametrize(
    "schedule, acts",
    [(Schedule(), ""), (Schedule(prefill=True), "prefill"), (Schedule(chunks=True), "chunk"), (Schedule(probes=True), "probe"),
     (Schedule(every=1), "question d1 d2 d3 d4"), (Schedule(prefill=True, every=2), "prefill question d2 d4")],
)  # fmt: skip
def test_schedules_answer_phases(schedule: Schedule, acts: str) -> None:
    phases = {kind: Phase(kind) for kind in ("chunk", "prefill", "question", "probe")} | {f"d{i}": Phase("decode", step=i) for i in range(1, 5)}
    assert {word for word, phase in phases.items() if schedule.acts(phase)} == set(acts.split())


def test_schedules_are_said_in_words() -> None:
    assert Schedule().words() == "nothing" and Schedule(prefill=True, every=4).words() == "prefill end, every 4 steps"
    assert Phase("prefill", writes=True).next_step == 1 and Phase("prefill").next_step == 0 and Phase("decode", step=3, writes=True).next_step == 4


# compositions and the registry


@dataclass(frozen=True)
class Holds(Method):
    name = "holds"
    title = "Holds"

    def store(self, layer: object) -> Store:
        return Store()


@dataclass(frozen=True)
class Reads(Method):
    name = "reads"
    title = "Reads"

    def read(self, layer: object, q: Tensor, q_pos: Tensor) -> View | None:
        return None


@dataclass(frozen=True)
class Cuts(Dropper):
    name = "cuts"
    title = "Cuts"
    size: int = knob(4, "How much.", 1, 8, 1)
    how: str = knob("mean", "Which way.", choices=("mean", "max"))


@dataclass(frozen=True)
class Even(Method):
    name = "even"
    title = "Even"
    needs = ("even heads",)


@pytest.mark.parametrize(
    "parts, says",
    [((Holds(), Holds()), "holds and holds cannot run together: both decide how entries are held"), ((Reads(), Reads()), "both decide which entries are read"),
     ((Cuts(), Cuts()), "both decide how many entries stay"), ((Even(), Cuts()), "even needs the same entries in every head")],
)  # fmt: skip
def test_members_that_decide_the_same_are_refused(parts: tuple[Method, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Compose(parts)


def test_a_composition_speaks_for_its_members() -> None:
    both = Compose((Cuts(size=2), Holds()))
    assert both.name == "cuts+holds" and both.title == "Cuts + Holds" and both.budget_knob and both.members == (Cuts(size=2), Holds())
    assert both.knobs() == {"cuts.budget": "0.25", "cuts.size": 2, "cuts.how": "mean"}
    assert both.with_budget(Budget(8, "tokens")).kept(100, 90) == 18


def test_a_knob_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="cuts: size lies between 1 and 8, not 9"):
        Cuts(size=9)
    with pytest.raises(ValueError, match="cuts: how is one of mean, max, not min"):
        Cuts(how="min")


@pytest.mark.parametrize(
    "name, knobs, says",
    [("snapkw", {}, "Did you mean snapkv"), ("zzzzzz", {}, "Known: .*full"), ("", {}, "no method"), ("snapkv", {"windw": 3}, "no knob 'windw'.*window"),
     ("snapkv", {"window": "wide"}, "window is a number, not 'wide'"), ("snapkv", {"window": 0}, "lies between 1"),
     ("snapkv", {"window": "8.5"}, "is a number"), ("snapkv", {"window": 8.5}, "whole number")],
)  # fmt: skip
def test_the_registry_refuses_in_a_sentence(name: str, knobs: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(name, None, knobs)


def test_every_method_is_found_and_described() -> None:
    for name, kind in registry().items():
        said = describe(kind)
        assert said["name"] == name and said["title"] and said["paper"] and said["year"] > 1990 and said["about"]
        assert said["source"] in ("code", "mixed", "recon") and all(k["says"] for k in said["knobs"])


def test_knobs_reach_their_method() -> None:
    assert make("snapkv", "64t", {"snapkv.window": "8", "pool": "max"}).knobs() == {"budget": "64t", "window": 8, "kernel": 5, "pool": "max"}
    assert make("full", "0.5") == make("full")


# the trace


def hand_made() -> Trace:
    """Two steps over five positions, one layer, one head: position 1 left before step 1, position 0 before step 0."""
    left = np.full((1, 1, 5), NEVER, np.uint16)
    left[0, 0, 0], left[0, 0, 1] = 0, 1
    full = np.array([[[[0.1, 0.2, 0.3, 0.4, 0]]], [[[0.5, 0.25, 0.1, 0.1, 0.05]]]], np.float16)
    flat = lambda kind: np.zeros(2, kind)  # noqa: E731
    return Trace(
        prompt=4, asked=4, ids=np.arange(5, dtype=np.int32), left_at=left, merged_into=np.full((1, 1, 5), -1, np.int32),
        score=np.full((1, 1, 5), np.nan, np.float16), rank=np.full((1, 1, 5), -1, np.int32), coded_at=left.copy(), bits=np.zeros((2, 1, 1, 5), np.uint8),
        attention=np.zeros(0, np.float16), read=np.zeros(0, bool), written=np.array([7, 8], np.int32), born=np.array([4, 5], np.int32),
        logprob=flat(np.float32),
        resident=flat(np.int64), touched=flat(np.int64), transient=flat(np.int64), seconds=flat(np.float64), peak=9, full=full,
    )  # fmt: skip


def test_held_and_missing_of_a_case_made_by_hand() -> None:
    trace = hand_made()
    assert trace.held(0)[0, 0].tolist() == [False, True, True, True, False]
    assert trace.held(1)[0, 0].tolist() == [False, False, True, True, True]
    assert trace.missing()[:, 0, 0] == pytest.approx([0.1, 0.75], abs=1e-3)


def test_an_entry_that_came_back_was_away_until_then() -> None:
    """Position 1 left before step 0, came back for step 1 and is held since."""
    trace = dataclasses.replace(hand_made(), away=np.array([[0, 0, 1, 0, 1]], np.int32))
    trace.left_at[0, 0, 1] = NEVER
    assert trace.held(0)[0, 0].tolist() == [False, False, True, True, False]
    assert trace.held(1)[0, 0].tolist() == [False, True, True, True, True]
    assert trace.missing()[:, 0, 0] == pytest.approx([0.3, 0.5], abs=1e-3)


def test_a_trace_saves_and_loads_equal(tmp_path: Path) -> None:
    trace = dataclasses.replace(hand_made(), away=np.array([[0, 0, 1, 0, 1]], np.int32))
    trace.save(tmp_path / "t.npz")
    assert Trace.load(tmp_path / "t.npz").equal(trace) and [p.name for p in tmp_path.iterdir()] == ["t.npz"]
    other = dataclasses.replace(trace, left_at=trace.left_at.copy())
    other.left_at[0, 0, 2] = 1
    assert not other.equal(trace) and not hand_made().equal(trace)
    with np.load(tmp_path / "t.npz") as held:
        np.savez(tmp_path / "older.npz", **{name: held[name] for name in held.files if name != "away"})
    assert Trace.load(tmp_path / "older.npz").equal(hand_made())  # from before entries were seen to return
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    (tmp_path / "text.npz").write_text("no zip at all")
    (tmp_path / "half.npz").write_bytes((tmp_path / "t.npz").read_bytes()[:300])
    for name in ("other", "text", "half"):
        with pytest.raises(ValueError, match=rf"{name}\.npz is not a kvlab trace"):
            Trace.load(tmp_path / f"{name}.npz")


def test_a_recorder_notes_who_left_when_and_with_what_score(lm: LM) -> None:
    ids = torch.randint(0, 128, (1, 40), generator=torch.Generator().manual_seed(5))
    recorder = Recorder(3, 2, 44)
    session = Session(lm, make("snapkv", "10t", {"window": 4}), recorder=recorder)
    session.prefill(ids)
    recorder.step(session.cache, 1, -1.0, 0.1)
    session.decode(torch.tensor([1]))
    recorder.step(session.cache, 2, -1.0, 0.1)
    trace = recorder.trace([*ids[0].tolist(), 1], 40, 40)
    assert (trace.left_at[..., :40] == 1).sum() == 3 * 2 * 30 and (trace.left_at == NEVER).sum() == 3 * 2 * 11
    assert trace.held(0).sum() == 3 * 2 * 40 and trace.held(1).sum() == 3 * 2 * 11
    assert np.isfinite(trace.score[..., :40]).all() and (np.sort(trace.rank[..., :40]) == np.arange(1, 41)).all()
    assert trace.attention.shape == (2, 3, 2, 41) and trace.attention.sum(-1) == pytest.approx(1, abs=2e-3)
    assert (trace.attention[1][trace.left_at <= 1] == 0).all() and trace.born.tolist() == [40, 41]
    assert trace.resident.tolist() == [3 * 2 * 10 * (2 * 16 * 4 + 4), 3 * 2 * 11 * (2 * 16 * 4 + 4)] and trace.peak >= trace.resident.max()


def test_a_second_prompt_ends_with_a_step_of_its_own(lm: LM) -> None:
    recorder = Recorder(3, 2, 40)
    session = Session(lm, make("snapkv", "10t", {"window": 4}), recorder=recorder)
    ids, written = torch.arange(37)[None], []
    for call in (lambda: session.prefill(ids[:, :20]), lambda: session.decode(torch.tensor([1])), lambda: session.prefill(ids[:, 20:])):
        call()
        written.append(recorder.step(session.cache, 1, -1.0, 0.1)["born"])
    session.decode(torch.tensor([1]))
    recorder.step(session.cache, 1, -1.0, 0.1)
    assert sorted(recorder.rows) == [0, 1, 2, 3] and written == [20, 21, 38]
    assert [round(float(recorder.rows[step].sum())) for step in range(4)] == [3 * 2] * 4  # each query's weights, none over another's
    assert recorder.rows[1][..., :20].any() and (recorder.rows[1][..., 21:] == 0).all() and recorder.rows[2][..., 21:38].any()


# views of what changed


def test_a_refreshed_view_shows_the_moment_it_was_asked_for_and_decodes_only_if_looked_at(lm: LM) -> None:
    session = Session(lm, make("full"))
    session.prefill(torch.arange(12)[None])
    layer = session.cache.layers[0]
    layer.store.code("k", 8, halves)
    seen = Seen(noise(1, 4, 1, 16), torch.tensor([[11]]), layer.store.view(), Rules(1.0), Phase("decode"))
    mask = torch.arange(12).expand(1, 2, -1) > 2
    layer.keep(mask)
    after = layer.refreshed(seen)
    kept = layer.store.view()
    layer.keep(mask[..., 3:] & (torch.arange(9) > 0))
    assert callable(after.slots) and len(layer.store) == 8
    assert torch.equal(after.view.k, kept.k) and after.pos()[0, 0].tolist() == list(range(3, 12)) and after.view is after.view
    # with nothing to look at, nothing is decoded
    assert callable(layer.refreshed(seen).slots) and layer.refreshed(layer.refreshed(seen)).view.k.shape[2] == 8


def test_a_member_that_only_encodes_costs_no_second_decoding(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = Store.view
    monkeypatch.setattr(Store, "view", lambda store: calls.append(store) or whole(store))
    session = Session(lm, make("snapkv+kivi", "16t", {"window": 8, "group": 8, "residual": 16}))
    session.prefill(torch.arange(60)[None])
    calls.clear()
    session.decode(torch.tensor([1]))
    assert len(calls) == lm.geometry.layers


# what the frame costs


def test_the_two_sides_of_the_benchmark_take_turns_and_write_the_same(lm: LM) -> None:
    turns = []

    def side(name: str, start: int) -> Iterator[int]:
        for i in itertools.count(start):
            turns.append(name)
            yield i

    for turn, first in enumerate(("AB", "BA")):
        turns.clear()
        seconds, written = one_round([side("A", 0), side("B", 100)], 2 * BLOCK + 3, turn, torch.device("cpu"))
        assert "".join(name for name, _ in itertools.groupby(turns)) == {"AB": "ABABA", "BA": "BABAB"}[first]
        assert written == [list(range(2 * BLOCK + 4)), list(range(100, 2 * BLOCK + 104))] and seconds.shape == (2, 2, 2) and (seconds[..., 0] > 0).all()
    ids = torch.randint(0, 128, (1, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        _, (theirs, ours) = one_round([plain_tokens(plain(lm), ids), kvlab_tokens(lm, ids)], 6, 0, torch.device("cpu"))
    assert theirs == ours and len(ours) == 7


def test_ratios_of_the_benchmark_by_hand() -> None:
    assert ratio(np.array([2.0, 4, 3]), np.array([2.0, 2, 2])) == {"median": 1.5, "interval": [1.0, 2.0]}
    seconds = np.array([[[1.0, 3.0], [1.0, 4.0]]] * 4)
    found = figures(seconds)
    assert found["ratio_total"] == {"median": 1.25, "interval": [1.25, 1.25]} and found["ratio_prefill"]["median"] == 1
    assert found["median_s"] == {"transformers": {"prefill": 1.0, "decode": 3.0}, "kvlab": {"prefill": 1.0, "decode": 4.0}}


# changed weights


@dataclass(frozen=True)
class OneHead(Method):
    """Every layer keeps the mean of its KV heads."""

    name = "onehead"
    title = "One head"

    def adapt(self, model: torch.nn.Module) -> None:
        size = model.config.head_dim
        for layer in model.model.layers:
            for proj in (layer.self_attn.k_proj, layer.self_attn.v_proj):
                proj.weight = torch.nn.Parameter(proj.weight.detach().unflatten(0, (-1, size)).mean(0))
        model.config.num_key_value_heads = 1


def test_a_method_that_changes_weights_gets_a_copy_of_its_own(lm: LM) -> None:
    weights = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    session = Session(lm, OneHead())
    logits = session.prefill(torch.arange(40)[None])
    assert session.lm is not lm and session.lm.geometry.kv_heads == 1 and session.lm.revision != lm.revision
    assert session.cache.nbytes() == session.lm.geometry.full_bytes(40) < 0.6 * lm.geometry.full_bytes(40)
    assert torch.isfinite(logits).all()
    assert adapted(session.lm, OneHead()) is session.lm and adapted(lm, make("snapkv")) is lm
    assert lm.geometry.kv_heads == 2 and all(torch.equal(tensor, weights[name]) for name, tensor in lm.model.state_dict().items())


# stopping and sampling


def test_a_stop_takes_effect_between_chunks_and_between_tokens(lm: LM) -> None:
    ids, stop, calls = torch.zeros(1, 64, dtype=torch.int64), threading.Event(), []
    session = Session(lm, make("full"), chunk=16, stop=stop)

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if done == 32:
            stop.set()

    with pytest.raises(Stopped):
        session.prefill(ids, progress=progress)
    assert calls == [16, 32] and session.cache.get_seq_length() == 32 == int(session.cache.tokens)
    stop.clear()
    session = Session(lm, make("full"), stop=stop)
    session.prefill(ids)
    session.decode(ids[0, :1])
    stop.set()
    with pytest.raises(Stopped):
        session.decode(ids[0, :1])
    assert session.cache.get_seq_length() == 65


def test_sampling_goes_through_the_processors_of_transformers_and_repeats_under_a_seed() -> None:
    logits, ids = noise(1, 50), torch.zeros(1, 3, dtype=torch.int64)
    sampler = Sampler(temperature=0.7, top_k=12, top_p=0.8, seed=4)
    drawn = [int(sampler(ids, logits)[0]) for _ in range(64)]
    again = Sampler(temperature=0.7, top_k=12, top_p=0.8, seed=4)
    assert drawn == [int(again(ids, logits)[0]) for _ in range(64)]
    other = Sampler(temperature=0.7, top_k=12, top_p=0.8, seed=5)
    assert drawn != [int(other(ids, logits)[0]) for _ in range(64)]
    open_to = LogitsProcessorList([TemperatureLogitsWarper(0.7), TopKLogitsWarper(12), TopPLogitsWarper(0.8)])(ids, logits).isfinite()[0]
    assert set(drawn) <= set(open_to.nonzero().flatten().tolist()) and len(set(drawn)) > 1
    token, logprob = Sampler()(ids, logits)
    assert int(token) == int(logits.argmax()) and float(logprob) == pytest.approx(float(logits.log_softmax(-1).max()))
