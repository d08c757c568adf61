"""Merging, retrieval, shared factors and shared layers: the worked examples of the cards, and what the trace says of them."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from conftest import tiny
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.calibration import artefact, sample
from kvlab.method import Method
from kvlab.methods.channels.xkv import factor, rank_of
from kvlab.methods.merging.kvmerger import KVMerger, merged, plan, similarity
from kvlab.methods.retrieval.quest import Quest, bounds, upper
from kvlab.methods.sharing.kvsharer import rooted
from kvlab.models import LM
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.session import Session
from kvlab.trace import NEVER, Recorder, Silent, Trace

PROMPT, STEPS = 80, 5
IDS = torch.randint(128, (1, PROMPT), generator=torch.Generator().manual_seed(5))
WRITTEN = torch.randint(128, (STEPS,), generator=torch.Generator().manual_seed(6))


def play(lm: LM, method: Method, **options: object) -> tuple[Session, Tensor]:
    """A run over fixed tokens and its logits [1 + STEPS, V]."""
    session = Session(lm, method, **options)
    logits = [session.prefill(IDS), *(session.decode(token[None]) for token in WRITTEN)]
    return session, torch.cat(logits)


def traced(lm: LM, method: Method) -> tuple[Session, Trace]:
    """A run with its trace: one step per written token."""
    recorder = Recorder(lm.geometry.layers, lm.geometry.kv_heads, PROMPT + STEPS)
    session = Session(lm, method, recorder=recorder)
    session.prefill(IDS)
    for token in WRITTEN:
        recorder.step(session.cache, int(token), 0.0, 0.0)
        session.decode(token[None])
    return session, recorder.trace([*IDS[0].tolist(), *WRITTEN.tolist()], PROMPT, PROMPT)


# KVMerger


def test_kvmerger_a_threshold_above_one_merges_nothing() -> None:
    lm = tiny()
    session, logits = play(lm, KVMerger(threshold=1.1).with_budget(make("snapkv", "0.25").budget))
    assert torch.equal(logits, play(lm, Method())[1])
    assert all(len(layer.store) == PROMPT + STEPS for layer in session.cache.layers)


def test_kvmerger_identical_neighbours_become_themselves() -> None:
    keys = torch.tensor([1.0, 2.0]).expand(1, 1, 4, 2).clone()
    keys[0, 0, 3] = torch.tensor([5.0, -1.0])
    made = plan(keys, torch.tensor([[[True, True, False, False]]]), torch.tensor([[[0.1, 0.4, 0.2, 0.3]]]))
    assert made.pivot.tolist() == [[[1, 1, 1, 3]]]
    assert torch.allclose(merged(keys, made)[0, 0, [1, 3]], keys[0, 0, [1, 3]])


def test_kvmerger_gaussian_weights() -> None:
    keys, values = torch.tensor([[[[0.0], [1.0]]]]), torch.tensor([[[[10.0], [20.0]]]])
    made = plan(keys, torch.tensor([[[True, False]]]), torch.tensor([[[0.9, 0.1]]]))
    assert made.weight[0, 0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), math.exp(-1) / (1 + math.exp(-1))])
    assert merged(keys, made)[0, 0, 0].item() == pytest.approx(0.269, abs=1e-3)
    assert merged(values, made)[0, 0, 0].item() == pytest.approx(12.69, abs=1e-2)


def test_kvmerger_keeps_one_slot_per_run_in_order() -> None:
    torch.manual_seed(0)
    keys, votes = torch.randn(2, 3, 12, 8), torch.rand(2, 3, 12)
    linked = torch.rand(2, 3, 12) < 0.5
    linked[..., -1] = False
    made = plan(keys, linked, votes)
    stays = made.pivot == torch.arange(12)
    assert torch.equal(stays.sum(-1), 12 - linked.sum(-1))
    # pivots lie in their own run: the slots between a slot and its pivot are all linked
    for (b, h, slot), pivot in zip(np.ndindex(2, 3, 12), made.pivot.flatten().tolist(), strict=True):
        assert linked[b, h, min(slot, pivot) : max(slot, pivot)].all()
        assert votes[b, h, pivot] >= votes[b, h, slot]


def test_kvmerger_ties_go_to_the_first() -> None:
    made = plan(torch.randn(1, 1, 3, 4), torch.tensor([[[True, True, False]]]), torch.ones(1, 1, 3))
    assert made.pivot.tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize("budget", ["1t", "3t", "0.25", "0.5", "0.9"])
def test_kvmerger_meets_its_budget_and_merges_into_neighbours(budget: str) -> None:
    lm, method = tiny(), make("kvmerger", budget)
    session, trace = traced(lm, method)
    want = method.budget.tokens(PROMPT)
    left = trace.left_at[..., :PROMPT] != NEVER
    assert (PROMPT - left.sum(-1) == want).all()
    assert ((trace.merged_into[..., :PROMPT] >= 0) == left).all()
    for layer, head, pos in np.argwhere(left):
        into = trace.merged_into[layer, head, pos]
        between = left[layer, head, min(pos, into) : max(pos, into) + 1]
        assert not left[layer, head, into] and between.sum() == between.size - 1
    if want > 1:  # a single slot may be at one place in all heads, and then needs one list of positions only
        assert predicted_bytes(method, lm.geometry, PROMPT + STEPS, PROMPT) == session.cache.nbytes()


def test_kvmerger_leaves_the_protected_and_the_rest_exact() -> None:
    lm = tiny()
    session, whole = play(lm, make("kvmerger", "0.5"))[0], play(lm, Method())[0]
    for mine, theirs in zip(session.cache.layers, whole.cache.layers, strict=True):
        ours, full = mine.store.view(), theirs.store.view()
        pos = ours.pos[0, 0].long()
        same = (ours.k[0, 0] == full.k[0, 0, pos]).all(-1)
        assert pos[:4].tolist() == [0, 1, 2, 3] and same[:4].all()  # the sinks
        recent = slice(-STEPS - 10, -STEPS)  # written tokens may differ: they saw another cache
        assert pos[recent].tolist() == list(range(PROMPT - 10, PROMPT)) and same[recent].all()
        assert not same.all()


def test_kvmerger_similarity_is_of_neighbours() -> None:
    keys = torch.tensor([[[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]]])
    assert similarity(keys).tolist() == [[[1.0, 0.0, -1.0]]]


# Quest


def test_quest_bounds_every_product_of_a_page() -> None:
    torch.manual_seed(0)
    q, keys = torch.randn(2, 6, 1, 8), torch.randn(2, 3, 21, 8)
    score = upper(q, *bounds(keys, 4))
    exact = (q.view(2, 3, 2, 8) @ keys.mT).flatten(1, 2)  # [B, Hq, T]
    assert score.shape == (2, 6, 6)
    assert (score.repeat_interleave(4, -1)[..., :21] >= exact - 1e-5).all()
    assert torch.allclose(upper(q, *bounds(keys, 1)), exact, atol=1e-5)


def test_quest_pages_stay_true_however_slots_come_and_go() -> None:
    torch.manual_seed(0)
    lm, method = tiny(), Quest(page=4, dense=0, share=0.5)
    session = Session(lm, method, chunk=7)
    session.prefill(IDS[:, :30])
    session.ask(IDS[:, 30:39])
    for token in WRITTEN:
        session.decode(token[None])
    store = session.cache.layers[1].store
    for _ in range(2):
        for head in range(2):
            held = store.view().k[0, head, : int(store.lens()[0, head])]
            for page, slots in enumerate(held.split(4)):
                assert torch.equal(store.high[0, head, page], slots.amax(0)) and torch.equal(store.low[0, head, page], slots.amin(0))
        store.keep(torch.rand(1, 2, len(store)) < 0.7)  # uneven heads
        store.append(torch.randn(1, 2, 3, 16), torch.randn(1, 2, 3, 16), torch.arange(60, 63, dtype=torch.int32)[None])


def test_quest_with_pages_of_one_reads_the_highest_products() -> None:
    lm, method = tiny(), Quest(page=1, dense=0, share=0.1)
    session = Session(lm, method)
    session.prefill(IDS)
    layer = session.cache.layers[1]
    q = torch.randn(1, 4, 1, 16)
    session.cache.phase = session.cache.phase.__class__("decode")
    view = method.read(layer, q, torch.tensor([[PROMPT]])).view()
    best = (q.view(1, 2, 2, 16) @ layer.store.view().k.mT).flatten(1, 2).topk(8).indices
    assert torch.equal(view.pos.sort(-1).values, best.int().sort(-1).values)
    assert all(torch.equal(view.k[0, h], layer.store.view().k[0, h // 2, view.pos[0, h].long()]) for h in range(4))


def test_quest_reads_whole_pages_rounded_down() -> None:
    lm = tiny()
    session = Session(lm, Quest(page=16, dense=0, share=0.99))
    session.prefill(torch.cat([IDS, IDS[:, :20]], 1))  # 100 slots and B = 99: 6 of 7 pages
    session.cache.phase = session.cache.phase.__class__("decode")
    view = session.method.read(session.cache.layers[0], torch.randn(1, 4, 1, 16), torch.tensor([[100]])).view()
    assert {96, 84} >= set((view.pos >= 0).sum(-1).flatten().tolist())


def test_quest_scores_the_newest_page_as_any_other() -> None:
    """As the authors' evaluation code: nothing is read whatever its score, so a query that points away from its own key does not read it."""
    session = Session(tiny(), Quest(page=4, dense=0, share=0.3))
    session.prefill(IDS)
    session.cache.phase = session.cache.phase.__class__("decode")
    layer, newest = session.cache.layers[1], []
    keys = layer.store.view().k.repeat_interleave(2, dim=1)
    for sign in (-1, 1):
        read = session.method.read(layer, sign * keys[:, :, -4:].mean(2, keepdim=True), torch.tensor([[PROMPT - 1]]))
        assert read.lists.shape == (1, 4, int(PROMPT * 0.3) // 4) and (read.lists.diff() > 0).all()
        newest.append((read.lists == PROMPT // 4 - 1).any(-1).all())
    assert newest == [False, True]


def test_quest_reads_everything_where_it_should() -> None:
    lm = tiny()
    trace = traced(lm, Quest(page=4, share=0.25, dense=1))[1]
    read = trace.read[:, :, :, : PROMPT + STEPS]
    held = np.stack([trace.held(step) for step in range(STEPS)])
    assert np.array_equal(read[0], held[0])  # the prompt's last query
    assert np.array_equal(read[:, 0], held[:, 0])  # the dense layer
    counts = read[1:, 1:].sum(-1)
    assert (counts < held[1:, 1:].sum(-1)).all() and (counts >= 20).all() and (read <= held).all()
    assert (trace.touched[1:] < trace.resident[1:]).all()
    assert not (trace.left_at != NEVER).any()
    assert np.allclose(trace.attention.sum(-1, dtype=np.float32), 1, atol=0.02)
    assert (trace.attention[~read] == 0).all()


def test_quest_bytes_read() -> None:
    lm, method = tiny(groups=1, layers=1), Quest(page=8, share=0.5, dense=0)
    session = Session(lm, method)
    session.prefill(IDS)
    session.cache.phase = session.cache.phase.__class__("decode")
    view = method.read(session.cache.layers[0], torch.randn(1, 2, 1, 16), torch.tensor([[PROMPT]])).view()
    index = 2 * 10 * 2 * 16 * 4  # two bounds for 10 pages and 2 heads of 16 channels
    assert view.touched == index + (2 * 2 * PROMPT * 16 * 4 + 4 * PROMPT) // 2
    assert session.cache.nbytes() == index + 2 * 2 * PROMPT * 16 * 4 + 4 * PROMPT == predicted_bytes(method, lm.geometry, PROMPT, PROMPT)


# xKV


def test_xkv_a_shared_column_space_needs_one_factor() -> None:
    torch.manual_seed(0)
    space = torch.randn(40, 4)
    one, two = space @ torch.randn(4, 10), space @ torch.randn(4, 10)
    left, right = factor(torch.cat([one, two], 1), 4)
    assert torch.allclose(left @ right, torch.cat([one, two], 1), atol=1e-4)
    alone = [a @ b for a, b in (factor(one, 2), factor(two, 2))]
    assert (torch.cat(alone, 1) - torch.cat([one, two], 1)).norm() > 1


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_xkv_factors_are_the_best_of_their_rank(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    values = torch.linalg.svdvals(matrix)
    for rank in (1, 5, 12):
        left, right = factor(matrix, rank)
        assert (left @ right - matrix).norm() == pytest.approx(float(values[rank:].norm()), abs=1e-4)


def test_xkv_falls_back_where_factors_are_larger() -> None:
    assert rank_of(1.0, 40, 20) == 0 and rank_of(0.5, 40, 20) == 10 and rank_of(0.125, 1, 64) == 0
    lm = tiny()
    session, logits = play(lm, make("xkv", knobs={"key_rank": 1, "value_rank": 1}))
    assert not any(part.coded for layer in session.cache.layers for part in layer.store.columns["k"].parts)
    assert torch.equal(logits, play(lm, Method())[1])


def test_xkv_at_full_rank_rebuilds_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvlab.methods.channels.xkv.rank_of", lambda share, tokens, width: min(tokens, width))
    lm = tiny()
    session, logits = play(lm, make("xkv", knobs={"group": 2}))
    assert all(part.coded for layer in session.cache.layers for part in layer.store.columns["k"].parts)
    whole, want = play(lm, Method())
    for mine, theirs in zip(session.cache.layers, whole.cache.layers, strict=True):
        for ours, full in zip(mine.store.view()[:2], theirs.store.view()[:2], strict=True):
            assert torch.allclose(ours, full, atol=1e-4)
    assert torch.allclose(logits, want, atol=1e-3)


def test_xkv_the_prompt_is_read_exactly_and_layers_share_one_factor() -> None:
    lm, method = tiny(layers=5), make("xkv", knobs={"group": 2})
    session, logits = play(lm, method)
    want = play(lm, Method())[1]
    assert torch.equal(logits[0], want[0]) and not torch.allclose(logits[1], want[1], atol=1e-3)
    owned = [[part.rows.blocks[0].tokens.data_ptr() for part in layer.store.columns["v"].parts] for layer in session.cache.layers]
    assert owned[0] == owned[1] and owned[2] == owned[3] and len({*map(tuple, owned)}) == 3
    width = 2 * 2 * 16
    ranks = [rank_of(0.125, PROMPT, w) for w in (width, width, width // 2)]
    keys = sum(4 * r * (PROMPT + w) + 4 * PROMPT for r, w in zip(ranks, (width, width, width // 2), strict=True))
    ranks = [rank_of(0.1875, PROMPT, w) for w in (width, width, width // 2)]
    values = sum(4 * r * (PROMPT + w) for r, w in zip(ranks, (width, width, width // 2), strict=True))
    later = 5 * STEPS * 2 * 2 * 16 * 4
    assert session.cache.nbytes() == keys + values + later + 5 * 4 * (PROMPT + STEPS)
    assert predicted_bytes(method, lm.geometry, PROMPT + STEPS, PROMPT) == session.cache.nbytes()


def test_xkv_the_trace_shows_bits_per_value() -> None:
    trace = traced(tiny(), make("xkv", knobs={"group": 3}))[1]
    # rank 10 of 80 slots by 96 channels, rank 15 for values: 32 bits * rank / 96
    assert (trace.bits[0, ..., :PROMPT] == 3).all() and (trace.bits[1, ..., :PROMPT] == 5).all()
    # the query that wrote token 0 still saw all of it exactly
    assert (trace.coded_at[..., :PROMPT] == 1).all() and (trace.bits[..., PROMPT:] == 0).all()


def test_xkv_rows_can_leave() -> None:
    session = play(tiny(), make("xkv"))[0]
    store = session.cache.layers[0].store
    before, mask = store.view(), torch.rand(1, 2, len(store)) < 0.5
    store.keep(mask)
    for head in range(2):
        count = int(mask[0, head].sum())
        for old, new in zip(before[:2], store.view()[:2], strict=True):
            assert torch.allclose(new[0, head, :count], old[0, head][mask[0, head]], atol=1e-6)


# KVSharer


def test_kvsharer_resolves_chains() -> None:
    assert rooted(rooted([0, 1, 2], 1, 0), 2, 1) == [0, 0, 0]
    assert rooted(rooted([0, 1, 2, 3], 3, 2), 2, 1) == [0, 1, 1, 1]
    owners = list(range(6))
    for follower, leader in ((5, 4), (4, 3), (3, 0)):
        owners = rooted(owners, follower, leader)
    assert owners == [0, 1, 2, 0, 0, 0]


SHORT = {"passages": 4, "length": 16}


def owners_of(lm: LM, **knobs: object) -> list[int]:
    return artefact(make("kvsharer", knobs=SHORT | knobs), lm)["owners"].tolist()


def test_kvsharer_shares_as_many_layers_as_asked() -> None:
    lm = tiny(layers=6)
    owners = owners_of(lm, share=0.5, threshold=-1)
    assert len(set(owners)) == 3 and all(owner <= layer and owners[owner] == owner for layer, owner in enumerate(owners))
    assert owners_of(lm, share=0.5, threshold=1.01) == list(range(6))
    assert owners_of(lm, share=0) == list(range(6))
    assert owners_of(lm, share=0.5, threshold=-1, order="similar") != owners


def test_kvsharer_takes_the_most_unlike_pair_first() -> None:
    lm = tiny(layers=4)
    ids = sample(lm, **SHORT)
    cache = KVCache(Method(), lm.geometry, len(ids), Silent(), lm.device)
    with torch.no_grad():
        lm.model.get_decoder()(input_ids=ids, position_ids=torch.arange(16).expand_as(ids), past_key_values=cache, use_cache=True)
    means = [[x.mean(0) for x in layer.store.view()[:2]] for layer in cache.layers]
    apart = {(i, j): sum((a - b).norm(dim=-1).mean() for a, b in zip(means[i], means[j], strict=True)) for i in range(4) for j in range(i)}
    far, near = max(apart, key=apart.get), min(apart, key=apart.get)
    for order, (follower, leader) in (("dissimilar", far), ("similar", near)):
        owners = owners_of(lm, share=0.25, threshold=-1, order=order)
        assert owners[follower] == leader and len(set(owners)) == 3


def test_kvsharer_a_follower_stores_nothing_and_reads_its_leader() -> None:
    lm, method = tiny(layers=5), make("kvsharer", knobs=SHORT | {"share": 0.4, "threshold": -1})
    session, trace = traced(lm, method)
    full = lm.geometry.full_bytes(PROMPT + STEPS)
    assert session.cache.nbytes() * 5 == full * 3  # (L - S) / L
    assert predicted_bytes(method, lm.geometry, PROMPT + STEPS, PROMPT) == session.cache.nbytes()
    followers = [layer for layer in session.cache.layers if layer.follows]
    assert len(followers) == 2 and all(layer.store.empty and not layer.follows.store.empty for layer in followers)
    assert (trace.left_at == NEVER).all() and np.allclose(trace.attention.sum(-1, dtype=np.float32), 1, atol=0.02)


def test_kvsharer_the_trace_of_a_follower_is_its_leaders() -> None:
    lm = tiny(layers=5)
    session, trace = traced(lm, make("kvsharer+snapkv", "0.25", SHORT | {"share": 0.4, "threshold": -1, "window": 8}))
    for layer, owner in enumerate(session.cache.owners):
        assert np.array_equal(trace.left_at[layer], trace.left_at[owner]) and (trace.left_at[layer] != NEVER).any()


def test_kvsharer_entries_leave_after_all_readers_read_them() -> None:
    lm, knobs = tiny(layers=5), SHORT | {"share": 0.4, "threshold": -1}
    alone = Session(lm, make("kvsharer", knobs=knobs)).prefill(IDS)
    assert torch.equal(Session(lm, make("kvsharer+snapkv", "0.25", knobs)).prefill(IDS), alone)


def test_kvsharer_without_a_tokenizer_uses_seeded_ids() -> None:
    lm = tiny()
    bare = LM(lm.name, lm.model, None, lm.geometry, lm.revision)
    ids = sample(bare, 3, 8)
    assert ids.shape == (3, 8) and torch.equal(ids, sample(bare, 3, 8)) and not torch.equal(ids, sample(lm, 3, 8))
    with pytest.raises(ValueError, match="too few"):
        sample(lm, 100_000, 64)


# together


@pytest.mark.parametrize("name", ["quest+snapkv", "quest+kivi", "kvmerger+kivi", "kvsharer+xkv", "kvsharer+quest", "xkv+quest", "kvmerger+quest"])
def test_they_run_with_members_of_other_axes(name: str) -> None:
    lm = tiny(layers=4)
    knobs = SHORT | {"page": 4, "dense": 0, "share": 0.5, "threshold": -1, "window": 8, "group": 8, "residual": 16}
    names = name.split("+")
    known = {key: value for key, value in knobs.items() if any(hasattr(make(part), key) for part in names)}
    budget = "0.5" if {"snapkv", "kvmerger"} & set(names) else None
    session, logits = play(lm, make(name, budget, known))
    assert torch.isfinite(logits).all() and session.cache.nbytes() < lm.geometry.full_bytes(PROMPT + STEPS) * 1.3
    again = session.prefill(IDS)
    assert torch.isfinite(again).all()


def test_an_artefact_is_made_whole_by_threads_at_once() -> None:
    lm, found = tiny(layers=4, seed=7), []
    threads = [threading.Thread(target=lambda: found.append(owners_of(lm, threshold=-1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(owners == found[0] for owners in found)


def test_nothing_is_kept_of_a_model_without_a_revision() -> None:
    lm = tiny(layers=4)
    nameless = LM(lm.name, lm.model, lm.tokenizer, lm.geometry, "")
    other = LM(lm.name, tiny(layers=6).model, lm.tokenizer, tiny(layers=6).geometry, "")
    assert len(owners_of(nameless, share=0.3)) == 4 and len(owners_of(other, share=0.3)) == 6
