"""The worked examples of the eviction cards, with keys and queries made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny
from torch import Tensor

from kvlab.attention import Rules
from kvlab.cache import KVCache, LayerKV
from kvlab.engine import kept_positions
from kvlab.geometry import Geometry
from kvlab.method import Method
from kvlab.methods.eviction.lagkv import scatter
from kvlab.methods.eviction.streamingllm import gaps
from kvlab.phase import Phase
from kvlab.registry import make
from kvlab.seen import Seen
from kvlab.session import Session
from kvlab.trace import Silent

IDS = torch.randint(0, 128, (2, 96), generator=torch.Generator().manual_seed(7))


class Notes(Silent):
    """Keeps what a method decided on, per layer, and what its scoring passes saw."""

    def __init__(self) -> None:
        self.scores: dict[int, Tensor] = {}
        self.seen: dict[str, list[tuple[int, Seen]]] = {}

    def attended(self, layer: LayerKV, store: object, seen: Seen) -> None:
        self.seen.setdefault(seen.phase.kind, []).append((layer.index, seen))

    def left(self, layer: LayerKV, mask: Tensor, scores: Tensor | None, into: Tensor | None) -> None:
        self.scores[layer.index] = scores


class Hand:
    """One layer without a model: attention over q, k, v of the test's choosing."""

    def __init__(self, method: Method, heads: int = 1, size: int = 4, groups: int = 1) -> None:
        geometry = Geometry("hand", 1, heads * groups, heads, size, (None,), 4, 4096, True)
        self.notes = Notes()
        self.cache = KVCache(method, geometry, 1, self.notes)
        self.layer: LayerKV = self.cache.layers[0]

    def feed(self, kind: str, q: Tensor, k: Tensor, v: Tensor | None = None) -> Hand:
        """New tokens: q [Hq, t, D], k and v [H, t, D]; attention weights are the softmax of q times k, unscaled."""
        t, cache = k.shape[1], self.cache
        pos = torch.arange(t, dtype=torch.int32)[None] + cache.tokens[:, None].int()
        cache.phase, cache.tokens = Phase(kind), cache.tokens + t
        self.layer.step(q[None], k[None], (k if v is None else v)[None], pos, False, Rules(1.0))
        cache.finish()
        if kind == "prefill":
            cache.prompt = cache.tokens
        return self

    @property
    def kept(self) -> list[list[int]]:
        """Positions held by each head."""
        heads = self.layer.store.lens().shape[1]
        return [[p for p in head if p >= 0] for head in self.layer.store.pos()[0].expand(heads, -1).tolist()]


def logs(rows: list[list[float]], size: int) -> Tensor:
    """Queries [t, size] whose attention over the keys e0, e1, ... is `rows`, up to each row's sum."""
    return torch.tensor([[math.log(w) for w in row] + [0.0] * (size - len(row)) for row in rows])


def units(first: int, last: int, size: int) -> Tensor:
    """Keys e_first .. e_(last - 1): [n, size]."""
    return torch.eye(size)[first:last]


# StreamingLLM


@pytest.mark.parametrize("renumber", [True, False])
def test_streamingllm_keeps_sinks_and_the_latest(renumber: bool) -> None:
    session = Session(tiny(), make("streamingllm", "5t", {"sinks": 2, "renumber": renumber}))
    session.prefill(IDS[:1, :10])
    assert kept_positions(session) == [[[0, 1, 7, 8, 9]] * 2] * 3
    session.decode(IDS[0, 10:11])
    assert kept_positions(session) == [[[0, 1, 8, 9, 10]] * 2] * 3


def test_streamingllm_with_a_budget_below_its_sinks_keeps_the_newest_token() -> None:
    session = Session(tiny(), make("streamingllm", "2t"))
    session.prefill(IDS[:1, :10])
    assert kept_positions(session) == [[[0, 9]] * 2] * 3


def test_gaps_close_towards_the_query() -> None:
    pos = torch.tensor([[[0, 1, 7, 8, 9, 10]], [[0, 1, 2, 3, -1, -1]]], dtype=torch.int32)
    assert (pos + gaps(pos, torch.tensor([10, 3])))[0, 0].tolist() == [5, 6, 7, 8, 9, 10]
    assert gaps(pos, torch.tensor([10, 3]))[1].tolist() == [[0] * 6]


def test_streamingllm_attends_as_if_positions_were_places_in_the_cache() -> None:
    notes = Notes()
    session = Session(tiny(), make("streamingllm", "8t", {"sinks": 2}), recorder=notes)
    session.prefill(IDS[:1, :40])
    notes.seen.clear()
    for token in IDS[0, 40:43]:
        stores = [layer.store.snapshot() for layer in session.cache.layers]
        session.decode(token[None])
        for (index, seen), old in zip(notes.seen.pop("decode"), stores, strict=True):
            rope = session.cache.ropes[index]
            places = torch.arange(9).view(1, 1, 9)
            before_rope = rope.unrotate(torch.cat([old.view().k, seen.view.k[:, :, -1:]], dim=2), seen.view.pos)
            query = rope.rotate(rope.unrotate(seen.q, seen.q_pos[:, None]), torch.full((1, 1, 1), 8))
            keys = rope.rotate(before_rope, places).repeat_interleave(2, dim=1)
            want = (query @ keys.transpose(-1, -2) * seen.rules.scaling).softmax(-1)
            assert torch.allclose(seen.weights(1), want, atol=1e-5)
            true = rope.rotate(before_rope, seen.view.pos).repeat_interleave(2, dim=1)
            assert not torch.allclose((seen.q @ true.transpose(-1, -2) * seen.rules.scaling).softmax(-1), want, atol=1e-3)


# H2O


ROWS = [[1.0], [0.9, 0.1], [0.6, 0.1, 0.3], [0.1, 0.1, 0.1, 0.7]]


def test_h2o_keeps_the_heaviest_and_the_latest_and_goes_on_counting() -> None:
    hand = Hand(make("h2o", "2t"), size=5).feed("prefill", logs(ROWS, 5)[None], units(0, 4, 5)[None])
    assert torch.allclose(hand.notes.scores[0], torch.tensor([2.6, 0.3, 0.4, 0.7]))
    assert hand.kept == [[0, 3]]
    # the next query looks at tokens 0, 3 and itself
    hand.feed("decode", torch.tensor([[0.2, 1.0, 1.0, 0.3, 0.5]]).log()[None], units(4, 5, 5)[None])
    assert torch.allclose(hand.notes.scores[0], torch.tensor([2.8, 1.0, 0.5]))
    assert hand.kept == [[0, 4]]
    assert torch.allclose(hand.layer.store.tag("h2o"), torch.tensor([2.8, 0.5]))


def test_h2o_counts_over_chunks_as_over_one_piece() -> None:
    q, k = logs(ROWS, 4)[None], units(0, 4, 4)[None]
    hand = Hand(make("h2o", "2t")).feed("chunk", q[:, :1], k[:, :1]).feed("chunk", q[:, 1:3], k[:, 1:3])
    assert hand.kept == [[0, 1, 2]]
    hand.feed("prefill", q[:, 3:], k[:, 3:])
    assert torch.allclose(hand.notes.scores[0], torch.tensor([2.6, 0.3, 0.4, 0.7])) and hand.kept == [[0, 3]]


def test_h2o_without_a_recent_share_lets_the_newest_go() -> None:
    hand = Hand(make("h2o", "2t", {"recent": 0.0}), size=5).feed("prefill", logs(ROWS, 5)[None], units(0, 4, 5)[None])
    hand.feed("decode", torch.tensor([[0.6, 1.0, 1.0, 0.3, 0.1]]).log()[None], units(4, 5, 5)[None])
    assert hand.kept == [[0, 3]]


def test_h2o_padding_neither_gives_nor_gets() -> None:
    session = Session(tiny(), make("h2o", "1.0"), batch=2)
    real = torch.ones_like(IDS)
    real[1, :35] = 0
    session.prefill(IDS, real)
    session.decode(IDS[:, 0])
    for layer in session.cache.layers:
        sums = layer.store.tag("h2o").sum(-1)
        # every query hands out one unit of attention
        assert torch.allclose(sums, torch.tensor([97.0, 62.0])[:, None].expand(2, 2), atol=1e-3)


# SnapKV


def test_snapkv_with_one_voter_keeps_its_largest_weights_and_the_window() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    hand = Hand(make("snapkv", "5t", {"window": 1, "kernel": 1}), heads=2, size=8).feed("prefill", q, k)
    weights = (q[:, -1:] @ k.transpose(-1, -2)).softmax(-1)[:, 0, :-1]
    assert hand.kept == [[*sorted(row.topk(4).indices.tolist()), 11] for row in weights]


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_snapkv_smooths_only_the_tokens_before_the_window(pool: str) -> None:
    # the window looks at itself most; none of that may reach the token just before it
    q = logs([[1.0] * 6] * 5 + [[0.3, 0.2, 0.1, 0.05, 0.05, 9.3]], 6)[None]
    hand = Hand(make("snapkv", "3t", {"window": 1, "kernel": 3, "pool": pool}), size=6).feed("prefill", q, units(0, 6, 6)[None])
    smoothed = {"avg": [0.5, 0.6, 0.35, 0.2, 0.1, 0.0], "max": [0.9, 0.9, 0.6, 0.3, 0.15, 0.0]}[pool]
    assert torch.allclose(hand.notes.scores[0][0, 0], torch.tensor(smoothed) / 30, atol=1e-6)
    assert hand.kept == [[0, 1, 5]]


@pytest.mark.parametrize("method", ["snapkv", "adakv"])
def test_an_even_kernel_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="kernel is an odd number, not 4"):
        make(method, "0.5", {"kernel": 4})


# Ada-KV


@pytest.mark.parametrize(("alpha", "kept"), [(0.0, [[0, 1, 2, 3], [0, 3]]), (0.5, [[0, 1, 3], [0, 1, 3]]), (1.0, [[0, 1, 3], [0, 1, 3]])])
def test_adakv_shares_by_the_scores(alpha: float, kept: list[list[int]]) -> None:
    # both rows add up to 3, so that the softmax leaves the scores of the two heads comparable
    q = torch.stack([logs([[1.0] * 4] * 3 + [row], 4) for row in ([0.9, 0.8, 0.7, 0.6], [0.3, 0.2, 0.1, 2.4])])
    knobs = {"alpha": alpha, "window": 1, "kernel": 1}
    hand = Hand(make("adakv", "3t", knobs), heads=2).feed("prefill", q, units(0, 4, 4).expand(2, -1, -1))
    assert torch.allclose(hand.notes.scores[0][0, :, :3] * 3, torch.tensor([[0.9, 0.8, 0.7], [0.3, 0.2, 0.1]]))
    assert hand.kept == kept


def test_adakv_holds_what_its_heads_keep_and_no_more() -> None:
    session = Session(tiny(), make("adakv", "0.3", {"window": 8, "alpha": 0.0}))
    session.prefill(IDS[:1])
    lens = [layer.store.lens()[0] for layer in session.cache.layers]
    assert [int(n.sum()) for n in lens] == [2 * round(0.3 * 96)] * 3  # without an even share nothing is rounded
    assert any(int(n[0]) != int(n[1]) for n in lens)
    for layer, n in zip(session.cache.layers, lens, strict=True):
        ragged = 3 * 8 * 2 if int(n[0]) != int(n[1]) else 0
        assert layer.store.nbytes() == int(n.sum()) * (2 * 16 * 4 + 4) + ragged


# Random


def test_random_draws_are_the_seed_and_differ_between_layers_and_heads() -> None:
    def kept(seed: int = 0, shared: bool = False) -> list[list[list[int]]]:
        session = Session(tiny(), make("random", "0.25", {"seed": seed, "shared": shared}))
        session.prefill(IDS[:1])
        return kept_positions(session)

    assert kept() == kept() != kept(seed=1)
    assert all(len(head) == 24 for layer in kept() for head in layer)
    assert len({str(head) for layer in kept() for head in layer}) == 6
    assert len({str(head) for layer in kept(shared=True) for head in layer}) == 3


def test_random_protects_what_it_is_told_to() -> None:
    session = Session(tiny(), make("random", "0.25", {"sinks": 4, "recent": 8}))
    session.prefill(IDS[:1])
    assert all({*range(4), *range(88, 96)} <= set(head) and len(head) == 24 for layer in kept_positions(session) for head in layer)


# LagKV


LAG = {"sinks": 4, "lag": 8}


def test_lagkv_leaves_sinks_and_tail_alone_and_stops_there() -> None:
    torch.manual_seed(1)
    k, v = torch.randn(2, 30, 4), torch.randn(2, 30, 4)
    hand = Hand(make("lagkv", "0.5", LAG), heads=2).feed("prefill", torch.randn(2, 30, 4), k, v)
    view = hand.layer.store.view()
    assert view.k.shape[2] == 22 == hand.cache.method.kept(30, 30)
    assert torch.equal(view.k[0, :, :4], k[:, :4]) and torch.equal(view.k[0, :, -10:], k[:, -10:])
    assert torch.equal(view.v[0, :, :4], v[:, :4]) and torch.equal(view.v[0, :, -10:], v[:, -10:])
    for head in hand.kept:
        assert [sum(start <= p < start + 8 for p in head) for start in (4, 12)] == [4, 4]
    assert hand.layer.state["lagkv"] == [12]
    hand.cache.method.compress(hand.layer, Seen(torch.zeros(1, 2, 1, 4), torch.tensor([[29]]), view, Rules(1.0), Phase("decode")))
    assert hand.layer.store.view().k.shape[2] == 22 and hand.layer.state["lagkv"] == [12]


def test_lagkv_length_follows_the_formula_while_text_is_written() -> None:
    torch.manual_seed(1)
    hand = Hand(make("lagkv", "0.25", LAG)).feed("prefill", *torch.randn(2, 1, 30, 4))
    for tokens in range(31, 60):
        hand.feed("decode", *torch.randn(2, 1, 1, 4))
        assert len(hand.kept[0]) == hand.cache.method.kept(tokens, 30)
    assert hand.layer.state["lagkv"] == [4 + 5 * 2]


def test_lagkv_scores_of_the_card() -> None:
    keys = torch.tensor([[1.0, 2.0], [2.0, 0.0], [0.0, 0.0], [2.0, 4.0]])[None]
    hand = Hand(make("lagkv", "0.5", {"sinks": 0, "lag": 2}), size=2).feed("prefill", torch.zeros(1, 4, 2), keys, torch.ones(1, 4, 2))
    # constant values scatter nowhere: half for each token of the partition
    assert torch.allclose(hand.notes.scores[0][0, 0, :2], torch.tensor([0.3302, 0.6698]) + 0.5, atol=1e-4)
    assert hand.notes.scores[0][0, 0, 2:].isnan().all()
    assert hand.kept == [[1, 2, 3]]


def test_lagkv_scores_know_no_scale_and_no_offset() -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 3, 8, 6)
    assert torch.allclose(scatter(x), scatter(x * torch.rand(6).add(0.5) + torch.randn(6)), atol=1e-5)
    assert torch.allclose(scatter(x).sum(-1), torch.ones(2, 2))


# KVzip


def zipped(budget: str, ids: Tensor = IDS[:1, :50], notes: Notes | None = None, **knobs: object) -> Session:
    session = Session(tiny(layers=2), make("kvzip", budget, knobs), recorder=notes)
    session.prefill(ids)
    return session


def test_kvzip_scores_are_the_largest_weight_over_sinks_chunk_and_request() -> None:
    notes = Notes()
    zipped("0.5", notes=notes, chunk=20, sinks=3)
    passes = notes.seen["probe"]
    assert [seen.phase.kind for _, seen in passes] == ["probe"] * 6  # three chunks, two layers
    for number, (layer, seen) in enumerate(passes):
        low, high = 20 * (number // 2), min(50, 20 * (number // 2) + 20)
        keys, t = seen.view.k[0], seen.q.shape[2]
        assert keys.shape[1] == 50 + t
        for head in range(2):
            subset = [*range(3), *range(max(low, 3), high), *range(50, 50 + t)]
            logits = seen.q[0, 2 * head : 2 * head + 2] @ keys[head, subset].T * seen.rules.scaling
            logits[:, :, -t:] += torch.full((t, t), -torch.inf).triu(1)
            want = logits.softmax(-1).amax((0, 1))[3 : len(subset) - t]
            assert torch.allclose(notes.scores[layer][0, head, max(low, 3) : high], want, atol=1e-5)
    for scores in notes.scores.values():
        assert scores[..., :3].isnan().all() and (scores[..., 3:] >= 0).all() and (scores[..., 3:] <= 1).all()


def test_kvzip_asks_with_a_request_the_lead_and_the_chunk() -> None:
    notes = Notes()
    session = zipped("0.5", notes=notes, chunk=20)
    first, second, third = (seen.q.shape[2] for _, seen in notes.seen["probe"][::2])
    probes = [row[0] for row in session.probes]
    assert (first, second, third) == tuple(len(p.before) + p.stop - p.start for p in probes)
    assert probes[0].before == tuple(session.lm.encode("\n\nNow write out the whole text above again, word for word."))
    assert [p.before[-8:] for p in probes[1:]] == [tuple(IDS[0, 12:20].tolist()), tuple(IDS[0, 32:40].tolist())]


@pytest.mark.parametrize("level", ["pair", "uniform"])
def test_kvzip_keeps_exactly_the_budget(level: str) -> None:
    kept = kept_positions(zipped("7t", IDS[:1, :21], sinks=1, level=level))
    assert sum(len(head) - 1 for layer in kept for head in layer) == 24  # of the card's 80 pairs, at a ratio of 0.3
    assert all(0 in head for layer in kept for head in layer)
    assert (len({len(head) for layer in kept for head in layer}) == 1) == (level == "uniform")


def test_kvzip_drops_whole_heads() -> None:
    notes = Notes()
    session = zipped("11t", IDS[:1, :21], notes, sinks=1, level="head")
    best = {(i, h): float(notes.scores[i][0, h, 1:].max()) for i in range(2) for h in range(2)}
    winners = sorted(best, key=best.get, reverse=True)[:2]
    kept = kept_positions(session)
    assert {(i, h): len(kept[i][h]) for i, h in best} == {at: 21 if at in winners else 1 for at in best}


def test_kvzip_scoring_leaves_the_cache_as_it_was() -> None:
    session, full = zipped("1.0"), Session(tiny(layers=2), make("full"))
    full.prefill(IDS[:1, :50])
    assert session.cache.tokens.tolist() == [50] and session.cache.nbytes() == full.cache.nbytes()
    for mine, theirs in zip(session.cache.layers, full.cache.layers, strict=True):
        held, whole = mine.store.view(), theirs.store.view()
        assert all(map(torch.equal, (held.k, held.v, held.pos), (whole.k, whole.v, whole.pos)))
        assert mine.state == {} and mine.seen == 50


def test_kvzip_takes_what_was_held_before_a_second_prompt_as_it_is() -> None:
    session = zipped("0.5")
    session.decode(IDS[0, 50:51])
    before = kept_positions(session)
    session.prefill(IDS[1:2, :40])
    after = kept_positions(session)
    assert [[[p for p in head if p <= 50] for head in layer] for layer in after] == before
    assert sum(len(head) for layer in after for head in layer) == 4 * round(0.5 * 91)


def test_kvzip_works_without_a_tokenizer() -> None:
    lm = tiny(layers=2)
    bare = type(lm)(lm.name, lm.model, None, lm.geometry, lm.revision)
    session = Session(bare, make("kvzip", "0.5"))
    session.prefill(IDS[:1, :50])
    assert session.probes[0][0].before == () and sum(len(head) for layer in kept_positions(session) for head in layer) == 4 * 25


# budgets while text is written


@pytest.mark.parametrize("name", ["h2o", "streamingllm"])
@pytest.mark.parametrize(("budget", "slots"), [("0.25", 10), ("45t", 45), ("1.0", 50)])
def test_a_budget_is_held_while_text_is_written(name: str, budget: str, slots: int) -> None:
    session = Session(tiny(), make(name, budget))
    session.prefill(IDS[:1, :40])
    for token in IDS[0, 40:50]:
        session.decode(token[None])
    assert {len(head) for layer in kept_positions(session) for head in layer} == {slots}
    assert session.method.kept(50, 40) == slots
