"""ClusterKV and MagicPIG: the worked examples of their cards, plain loops beside what is fast, and what the trace says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from torch import Tensor

from kvlab.attention import Rules, attend
from kvlab.method import Method
from kvlab.methods.retrieval._slots import listed
from kvlab.methods.retrieval.clusterkv import Clustered, ClusterKV, chosen, kmeans, nearest
from kvlab.methods.retrieval.magicpig import Hashed, MagicPIG, chance, codes
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.session import Session
from kvlab.store import View
from kvlab.trace import NEVER, Recorder, Trace

PROMPT, STEPS = 80, 5
IDS = torch.randint(128, (2, PROMPT), generator=torch.Generator().manual_seed(5))
WRITTEN = torch.randint(128, (STEPS,), generator=torch.Generator().manual_seed(6))


def play(lm: LM, method: Method, ids: Tensor = IDS[:1], **options: object) -> tuple[Session, Tensor]:
    """A run over fixed tokens and its logits [1 + STEPS, B, V]."""
    session = Session(lm, method, batch=len(ids), **options)
    logits = [session.prefill(ids), *(session.decode(token.expand(len(ids))) for token in WRITTEN)]
    return session, torch.stack(logits)


def traced(lm: LM, method: Method) -> tuple[Session, Trace]:
    """A run with its trace: one step per written token."""
    recorder = Recorder(lm.geometry.layers, lm.geometry.kv_heads, PROMPT + STEPS)
    session = Session(lm, method, recorder=recorder)
    session.prefill(IDS[:1])
    for token in WRITTEN:
        recorder.step(session.cache, int(token), 0.0, 0.0)
        session.decode(token[None])
    return session, recorder.trace([*IDS[0].tolist(), *WRITTEN.tolist()], PROMPT, PROMPT)


def ready(method: Method, lm: LM | None = None, prompt: int = PROMPT) -> Session:
    """A session after its prompt, about to write."""
    session = Session(lm or tiny(), method)
    session.prefill(IDS[:1, :prompt])
    session.cache.phase = Phase("decode", step=1)
    return session


def read(session: Session, q: Tensor, layer: int = 1) -> View:
    """What queries [1, Hq, 1, D] look at in a layer."""
    found = session.method.read(session.cache.layers[layer], q, torch.tensor([[int(session.cache.tokens[0])]]))
    return found if isinstance(found, View) else found.view()


def heads_of(view: View) -> list[list[int]]:
    """Positions each query head looks at."""
    return [[p for p in head if p >= 0] for head in view.pos[0].tolist()]


# ClusterKV: k-means


def slow_kmeans(x: Tensor, count: int) -> list[Tensor]:
    """The same, one row at a time."""
    centroids = [x[i * len(x) // count] for i in range(count)]
    for _ in range(20):
        home = [max(range(count), key=lambda c, row=row: (float(F.cosine_similarity(row, centroids[c], dim=0)), -c)) for row in x]
        rows = [[row for row, c in zip(x, home, strict=True) if c == own] for own in range(count)]
        centroids = [torch.stack(own).mean(0) if own else old for own, old in zip(rows, centroids, strict=True)]
    return centroids


@pytest.mark.parametrize("tokens, count", [(1, 1), (5, 3), (23, 8), (5, 9), (21, 21), (17, 1)])
def test_kmeans_equals_a_loop_over_rows(tokens: int, count: int) -> None:
    x = torch.randn(tokens, 6, generator=torch.Generator().manual_seed(tokens), dtype=torch.float64)
    assert torch.allclose(kmeans(x, count), torch.stack(slow_kmeans(x, count)), atol=1e-9)


def test_kmeans_belongs_by_direction_and_not_by_distance() -> None:
    x = torch.tensor([[1.0, 0.1], [50.0, 4.0], [0.1, 1.0], [3.0, 40.0]])
    centroids = kmeans(x, 2)
    assert nearest(x, centroids).tolist() == [0, 0, 1, 1]
    assert torch.allclose(centroids, torch.stack([x[:2].mean(0), x[2:].mean(0)]))


def test_kmeans_of_equal_rows() -> None:
    same = kmeans(torch.ones(6, 4), 3)
    assert torch.equal(same, torch.ones(3, 4)) and nearest(torch.ones(6, 4), same).tolist() == [0] * 6  # ties: the first


# ClusterKV: which slots


def slow_chosen(q: Tensor, centroids: Tensor, labels: Tensor, take: Tensor) -> Tensor:
    """Cluster after cluster, slot after slot."""
    out = torch.zeros(q.shape[0], q.shape[1], labels.shape[2], dtype=torch.bool)
    group = q.shape[1] // labels.shape[1]
    for b, head in np.ndindex(*q.shape[:2]):
        h, left = head // group, int(take[b, head // group])
        scores = (centroids[b, h] @ q[b, head, 0]).tolist()
        for cluster in sorted(range(len(scores)), key=lambda c, scores=scores: (-scores[c], c)):
            for slot in (labels[b, h] == cluster + 1).nonzero()[:left, 0].tolist():
                out[b, head, slot], left = True, left - 1
    return out


@pytest.mark.parametrize("tokens, clusters, group", [(1, 1, 1), (23, 5, 2), (37, 12, 3), (16, 30, 1)])
def test_choosing_equals_a_loop_over_clusters(tokens: int, clusters: int, group: int) -> None:
    torch.manual_seed(tokens)
    q, centroids = torch.randn(2, 3 * group, 1, 8), torch.randn(2, 3, clusters, 8)
    labels = torch.randint(0, clusters + 1, (2, 3, tokens))
    for take in (torch.zeros(2, 3, dtype=torch.int64), torch.randint(0, tokens + 1, (2, 3)), torch.full((2, 3), tokens + 9)):
        mine = chosen(q, centroids, labels, take)
        assert torch.equal(mine, slow_chosen(q, centroids, labels, take))
        assert torch.equal(mine.sum(-1), torch.minimum(take, (labels > 0).sum(-1)).repeat_interleave(group, 1))


def test_a_query_takes_the_cluster_it_points_to() -> None:
    """The card's second test: two directions, two clusters, and a budget of just one of them."""
    torch.manual_seed(0)
    way = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 0.0])
    kind = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 1])
    keys = torch.stack([way[k] * (1 + i) for i, k in enumerate(kind.tolist())]) + 0.01 * torch.randn(10, 4)
    centroids = kmeans(keys, 2)
    labels = nearest(keys, centroids) + 1
    q = torch.stack(way)[None, :, None]  # two query heads of one KV head
    for take, want in ((6, kind == 1), (4, kind == 0)):
        slots = chosen(q, centroids[None, None], labels[None, None], torch.tensor([[take]]))
        assert torch.equal(slots[0, int(take == 6)], want)


def test_clusters_are_scored_by_product_and_not_by_cosine() -> None:
    centroids = torch.tensor([[[[1.0, 0.0], [9.0, 9.0]]]])
    assert chosen(torch.tensor([[[[1.0, 0.0]]]]), centroids, torch.tensor([[[1, 2]]]), torch.tensor([[1]])).tolist() == [[[False, True]]]


def test_lists_are_in_order_and_filled_up() -> None:
    assert listed(torch.tensor([[[0, 1, 0, 1], [1, 0, 0, 0]]]).bool()).tolist() == [[[1, 3], [0, -1]]]


# ClusterKV: a run


@pytest.mark.parametrize("share, size, sinks", [(0.3, 4, 4), (0.11, 7, 3), (0.9, 16, 0), (0.5, 1, 5), (0.05, 4, 16)])
def test_every_head_reads_just_its_budget_and_the_first_tokens(share: float, size: int, sinks: int) -> None:
    session = ready(ClusterKV(share=share, size=size, sinks=sinks, dense=1))
    store = session.cache.layers[1].store
    assert store.centroids.shape == (1, 2, -(-PROMPT // size), 16)
    labels = store.labels()
    assert (labels[..., :sinks] == 0).all() and (labels[..., sinks:] > 0).all()  # the sizes add up to T - S
    for head in heads_of(read(session, torch.randn(1, 4, 1, 16))):
        assert len(head) == len(set(head)) == max(sinks, round(share * PROMPT)) and set(range(sinks)) <= set(head) and head == sorted(head)


def test_every_key_is_with_the_centroid_it_points_to() -> None:
    store = ready(ClusterKV(size=5, sinks=4, dense=0)).cache.layers[2].store
    keys, labels = store.view().k, store.labels()
    for h in range(2):
        assert torch.equal(labels[0, h, 4:], nearest(keys[0, h, 4:], store.centroids[0, h]) + 1)
        assert torch.allclose(store.centroids[0, h], kmeans(keys[0, h, 4:], 16))


def test_a_budget_of_all_reads_all() -> None:
    lm, want = tiny(), play(tiny(), Method())[1]
    for share in (1, 0.99):
        assert torch.allclose(play(lm, ClusterKV(share=share, size=4, sinks=0, dense=0, window=0))[1][:1], want[:1], atol=1e-5)
    session, logits = play(lm, ClusterKV(share=1, size=4, dense=0))
    assert torch.allclose(logits, want, atol=1e-4) and len(session.cache.layers[0].store) == PROMPT + STEPS
    assert not torch.allclose(play(lm, ClusterKV(share=0.2, size=4, sinks=4, dense=0))[1], want, atol=1e-3)


def test_attention_is_that_of_a_full_cache_which_hides_the_rest() -> None:
    """The plain reference: the same positions, masked in a view of everything, head by head."""
    session = ready(ClusterKV(share=0.3, size=4, sinks=4, dense=0))
    q = torch.randn(1, 4, 1, 16)
    view, whole = read(session, q), session.cache.layers[1].store.view()
    for head, places in enumerate(heads_of(view)):
        want = F.scaled_dot_product_attention(q[:, head], whole.k[:, head // 2, places], whole.v[:, head // 2, places])
        real = view.pos[0, head] >= 0
        mine = F.scaled_dot_product_attention(q[:, head], view.k[:, head, real], view.v[:, head, real])
        assert torch.allclose(mine, want, atol=1e-6)


def test_written_tokens_are_read_until_they_are_clusters() -> None:
    method = ClusterKV(share=0.1, size=4, sinks=4, window=6, dense=0)
    session = ready(method)
    store = session.cache.layers[1].store
    for step in range(1, 15):
        session.decode(WRITTEN[:1] + step)
        store, open_ = session.cache.layers[1].store, step % 6
        assert store.since == open_ and (store.labels()[..., PROMPT:] == 0).sum(-1).tolist() == [[open_, open_]]
        assert store.centroids.shape[2] == 20 + step // 6 * 2
        tokens = PROMPT + step
        newest = set(range(tokens - open_, tokens))
        for head in heads_of(read(session, torch.randn(1, 4, 1, 16))):
            assert len(head) == round(0.1 * tokens) + open_ and newest <= set(head)
    # the second window's tokens belong to its own clusters, numbered on
    assert ((store.labels()[..., PROMPT + 6 : PROMPT + 12] > 22) & (store.labels()[..., PROMPT + 6 : PROMPT + 12] <= 24)).all()
    kept = store.labels()[..., : PROMPT + 6] <= 22
    assert kept.all()


def test_a_window_of_zero_never_clusters_what_is_written() -> None:
    session, _ = play(tiny(), ClusterKV(share=0.1, size=4, sinks=4, window=0, dense=0))
    assert (session.cache.layers[1].store.labels()[..., PROMPT:] == 0).all() and session.cache.layers[1].store.centroids.shape[2] == 20


def test_a_question_longer_than_two_windows() -> None:
    session = Session(tiny(), ClusterKV(share=0.2, size=4, sinks=4, window=9, dense=0))
    session.prefill(IDS[:1], question=True)
    session.ask(IDS[1:, :20])
    store = session.cache.layers[1].store
    assert store.since == 2 and store.centroids.shape[2] == 20 + 2 * 3 and (store.labels()[0, :, -2:] == 0).all() and (store.labels()[0, :, 4:-2] > 0).all()


def test_another_prompt_clusters_everything_anew() -> None:
    session, _ = play(tiny(), ClusterKV(share=0.2, size=4, sinks=4, window=3, dense=0))
    session.prefill(IDS[1:, :33])
    store = session.cache.layers[1].store
    assert store.since == 0 and store.centroids.shape[2] == -(-(PROMPT + STEPS + 33) // 4) and (store.labels()[..., 4:] > 0).all()
    assert torch.allclose(store.centroids[0, 1], kmeans(store.view().k[0, 1, 4:], store.centroids.shape[2]))


def test_rows_of_a_batch_are_clustered_each_by_itself() -> None:
    lm, method = tiny(), ClusterKV(share=0.3, size=4, sinks=4, window=3, dense=0)
    real = torch.ones_like(IDS)
    real[1, :31] = 0
    session = Session(lm, method, batch=2)
    logits = [session.prefill(IDS, real), *(session.decode(token.expand(2)) for token in WRITTEN)]
    for row, start in enumerate((0, 31)):
        alone, want = play(lm, method, IDS[row : row + 1, start:])
        assert torch.allclose(torch.stack(logits)[:, row], want[:, 0], atol=1e-4)
        store = alone.cache.layers[1].store
        clusters = -(-(PROMPT - start) // 4)
        assert torch.allclose(session.cache.layers[1].store.centroids[row, :, :clusters], store.centroids[0, :, :clusters], atol=1e-5)


def test_slots_leave_with_their_cluster_and_heads_may_be_uneven() -> None:
    torch.manual_seed(0)
    session = ready(ClusterKV(share=0.4, size=4, sinks=4, dense=0))
    store = session.cache.layers[1].store
    before, mask = store.labels(), torch.rand(1, 2, PROMPT) < torch.tensor([0.3, 0.8])[:, None]
    store.keep(mask)
    for h in range(2):
        assert torch.equal(store.labels()[0, h, : int(mask[0, h].sum())], before[0, h][mask[0, h]])
    store.append(torch.randn(1, 2, 3, 16), torch.randn(1, 2, 3, 16), torch.arange(PROMPT, PROMPT + 3, dtype=torch.int32)[None])
    session.cache.tokens = session.cache.tokens + 3
    firsts = [int(mask[0, h, :4].sum()) for h in range(2)]
    for head, places in enumerate(heads_of(read(session, torch.randn(1, 4, 1, 16)))):
        h = head // 2
        held = int(mask[0, h].sum()) + 3
        assert len(places) == max(firsts[h], round(0.4 * held)) + 3 and set(range(PROMPT, PROMPT + 3)) <= set(places)
        assert set(places) - set(range(PROMPT, PROMPT + 3)) <= set(mask[0, h].nonzero()[:, 0].tolist())


def test_a_run_can_go_back_to_an_earlier_moment() -> None:
    session = Session(tiny(), ClusterKV(share=0.2, size=4, sinks=4, window=2, dense=0))
    session.prefill(IDS[:1])
    moment, held = session.cache.snapshot(), session.cache.nbytes()
    runs = []
    for _ in range(2):
        runs.append(torch.stack([session.decode(token[None]) for token in WRITTEN]))
        assert session.cache.nbytes() > held
        session.cache.restore(moment)
        assert session.cache.nbytes() == held and session.cache.layers[1].store.centroids.shape[2] == 20
    assert torch.equal(*runs)


def test_the_trace_says_what_was_read_and_what_it_cost() -> None:
    lm = tiny()
    trace = traced(lm, ClusterKV(share=0.2, size=4, sinks=4, window=3, dense=1))[1]
    read_, held = trace.read[..., : PROMPT + STEPS], np.stack([trace.held(step) for step in range(STEPS)])
    assert np.array_equal(read_[0], held[0]) and np.array_equal(read_[:, 0], held[:, 0])  # the prompt's last query; the dense layer
    counts = read_[1:, 1:].sum(-1)
    assert (counts < held[1:, 1:].sum(-1)).all() and (counts >= 16).all() and (read_ <= held).all() and read_[..., :4].all()
    assert (trace.touched[1:] < trace.resident[1:]).all() and not (trace.left_at != NEVER).any()
    assert np.allclose(trace.attention.sum(-1, dtype=np.float32), 1, atol=0.02) and (trace.attention[~trace.read] == 0).all()


def test_bytes_held_and_read_by_hand() -> None:
    lm, method = tiny(groups=1, layers=1), ClusterKV(share=0.5, size=8, sinks=4, dense=0)
    session = ready(method, lm)
    index = 2 * 10 * 16 * 4 + 2 * PROMPT * 4  # ten centroids of 16 channels and a tag for every token, for 2 heads
    slots = 2 * 2 * PROMPT * 16 * 4 + 4 * PROMPT
    assert session.cache.nbytes() == index + slots == predicted_bytes(method, lm.geometry, PROMPT, PROMPT)
    assert read(session, torch.randn(1, 2, 1, 16), 0).touched == index + slots // 2


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_several_query_heads_read_counts_once(groups: int) -> None:
    session = ready(ClusterKV(share=0.3, size=4, sinks=4, dense=0), tiny(groups))
    view, store = read(session, torch.randn(1, 2 * groups, 1, 16)), session.cache.layers[1].store
    seen = [set().union(*heads_of(view)[h * groups : (h + 1) * groups]) for h in range(2)]
    index = store.centroids.nbytes + 2 * PROMPT * 4
    assert view.touched == index + round((store.nbytes() - index) * sum(map(len, seen)) / (2 * PROMPT))


def test_the_first_layers_read_all_and_hold_no_index() -> None:
    layers = ready(ClusterKV(size=4, dense=2)).cache.layers
    assert [isinstance(layer.store, Clustered) for layer in layers] == [False, False, True]
    q = torch.randn(1, 4, 1, 16)
    assert [layer.cache.method.read(layer, q, torch.tensor([[PROMPT]])) is None for layer in layers] == [True, True, False]


# MagicPIG


def pair(p: float) -> Tensor:
    """Two vectors [2, 3] whose signs agree at a random plane with chance `p`."""
    angle = math.pi * (1 - p)
    return torch.tensor([[1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]])


def drawn(draws: int, tables: int, bits: int, size: int = 3) -> Tensor:
    return torch.randn(draws, size, tables * bits, generator=torch.Generator().manual_seed(0))


def test_the_chances_of_the_card() -> None:
    cosine = torch.cos(math.pi * (1 - torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)))
    assert chance(cosine, 10, 150).tolist() == pytest.approx([0.0097, 0.927, 1.0], abs=1e-3)
    assert chance(torch.tensor([1.0000001, -1.0000001]), 3, 5).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("p, bits, tables", [(0.9, 4, 3), (0.7, 3, 9), (0.5, 2, 5), (0.97, 10, 4)])
def test_over_many_planes_the_chance_is_how_often_two_tables_agree(p: float, bits: int, tables: int) -> None:
    x = pair(p)
    found = codes(x, drawn(20_000, tables, bits), bits)  # [20000, 2, tables]
    hits = ((found[:, 0] == found[:, 1]).sum(-1) >= 2).float().mean()
    want = chance(torch.cosine_similarity(x[0], x[1], dim=0), bits, tables)
    assert 0.02 < want < 0.98 and float(hits) == pytest.approx(float(want), abs=0.015)


def test_codes_equal_a_loop_over_planes() -> None:
    x, planes = torch.randn(7, 5), torch.randn(5, 4 * 15)
    want = [[sum(2**i for i in range(15) if float(row @ planes[:, table * 15 + i]) > 0) for table in range(4)] for row in x]
    assert codes(x, planes, 15).tolist() == want and codes(x, planes, 15).dtype == torch.int16


def test_numerator_and_denominator_are_unbiased_and_their_quotient_is_not() -> None:
    """The card's fourth test, on 24 keys, without what is added to a chance before its log."""
    torch.manual_seed(0)
    q, k, v = torch.randn(8), torch.randn(24, 8), torch.randn(24, 3)
    k = k - k.mean(0)
    found = codes(torch.cat([q[None], k]), drawn(60_000, 6, 2, 8), 2)
    sampled = (found[:, :1] == found[:, 1:]).sum(-1) >= 2
    weights = (k @ q / 8**0.5).exp() * sampled / chance(torch.cosine_similarity(q[None], k, dim=-1), 2, 6)
    dense = (k @ q / 8**0.5).softmax(-1) @ v
    apart = weights.mean(0) @ v / weights.mean(0).sum()
    outputs = (weights @ v / weights.sum(-1, keepdim=True).clamp(min=1e-9))[sampled.any(-1)].mean(0)
    assert (apart - dense).norm() < 0.005 * dense.norm() and (outputs - dense).norm() > 0.01 * dense.norm()  # measured: 0.0016 and 0.0117


def slow_magicpig(session: Session, q: Tensor, layer: int = 1) -> tuple[Tensor, list[list[int]]]:
    """The card, step by step and head by head: all keys less their mean, a mask, a correction, one softmax. The output and the positions read."""
    method, store = session.method, session.cache.layers[layer].store
    whole, tokens, group = store.view(), PROMPT, q.shape[1] // 2
    out, places = [], []
    for head in range(q.shape[1]):
        k, v, own = whole.k[0, head // group], whole.v[0, head // group], q[0, head, 0]
        middle = range(method.sinks, tokens - method.recent)
        k = k - k[list(middle)].mean(0)
        logits = k @ own / 4  # 16 channels
        mine, read_ = codes(own, store.planes, method.bits), []
        for slot in range(len(k)):
            if slot not in middle:
                read_.append(slot)
            elif int((codes(k[slot], store.planes, method.bits) == mine).sum()) >= 2:
                p = 1 - math.acos(float(F.cosine_similarity(own, k[slot], dim=0))) / math.pi
                same, tables = p**method.bits, method.tables
                logits[slot] -= math.log(1 - (1 - same) ** tables - tables * same * (1 - same) ** (tables - 1) + 1e-4)
                read_.append(slot)
            else:
                logits[slot] = -math.inf
        out.append(logits.softmax(-1) @ v)
        places.append(read_)
    return torch.stack(out), places


@pytest.mark.parametrize("bits, tables, sinks, recent", [(3, 9, 4, 8), (5, 33, 0, 0), (1, 2, 3, 70), (10, 40, 1, 17)])
@pytest.mark.parametrize("groups", [1, 3])
def test_attention_equals_the_card_step_by_step(groups: int, bits: int, tables: int, sinks: int, recent: int) -> None:
    torch.manual_seed(bits)
    session = ready(MagicPIG(bits=bits, tables=tables, sinks=sinks, recent=recent), tiny(groups))
    session.decode(WRITTEN[:1])
    q = 2 * torch.randn(1, 2 * groups, 1, 16)
    view = read(session, q)
    want, places = slow_magicpig(session, q)
    assert heads_of(view) == places and any(len(head) < PROMPT + 1 for head in places)
    out = attend(q, view, torch.tensor([[PROMPT]]), Rules(0.25), fresh=False)
    assert torch.allclose(out[0, :, 0], want, atol=1e-5)


def test_with_one_plane_and_many_tables_all_is_read_and_the_output_dense() -> None:
    lm = tiny()
    logits, want = (play(lm, method)[1] for method in (MagicPIG(bits=1, tables=400, sinks=4, recent=8, dense=2), Method()))
    assert torch.allclose(logits, want, atol=0.02) and not torch.equal(logits, want)
    assert not torch.allclose(play(lm, MagicPIG(bits=6, tables=8, recent=8))[1], want, atol=0.05)


def test_planes_are_one_tensor_and_their_seed_decides() -> None:
    lm = tiny()
    stores = [layer.store for layer in ready(MagicPIG(bits=3, tables=9, recent=8), lm).cache.layers]
    assert [isinstance(store, Hashed) for store in stores] == [False, True, True] and stores[1].planes is stores[2].planes
    runs = [play(lm, MagicPIG(bits=3, tables=9, recent=8, seed=seed))[1] for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.allclose(runs[0], runs[2], atol=1e-3)


def test_codes_leave_with_their_slots_and_heads_may_be_uneven() -> None:
    torch.manual_seed(0)
    session = ready(MagicPIG(bits=3, tables=9, recent=8))
    store = session.cache.layers[1].store
    before, mask = store.codes.dense(), torch.rand(1, 2, PROMPT) < torch.tensor([0.3, 0.8])[:, None]
    q = torch.randn(1, 4, 1, 16)
    old, snapshot = heads_of(read(session, q)), store.snapshot()
    for kept in (mask, torch.rand(1, 2, int(mask.sum(-1).max())) < 0.5):
        held = [store.pos().expand(1, 2, -1)[0, h][:n].tolist() for h, n in enumerate(store.lens()[0].tolist())]
        store.keep(kept)
        for h in range(2):
            stay = [p for p, stays in zip(held[h], kept[0, h].tolist(), strict=False) if stays]
            early = [p for p in stay if p < PROMPT - 8]
            assert torch.equal(store.codes.dense()[0, h, : len(early)], before[0, h, early]) and store.codes.lens()[0, h] == len(early)
            for head in (2 * h, 2 * h + 1):
                assert heads_of(read(session, q))[head] == [p for p in old[head] if p in stay]
    assert torch.equal(snapshot.codes.dense(), before) and len(snapshot) == PROMPT


def test_a_slot_that_counts_for_several_is_lifted_on_top() -> None:
    session = ready(MagicPIG(bits=3, tables=9, recent=8))
    q, store = torch.randn(1, 4, 1, 16), session.cache.layers[1].store
    before, own = read(session, q), torch.rand(1, 2, PROMPT)
    store.tag("bias", own)
    after = read(session, q)
    assert torch.equal(after.pos, before.pos) and (before.bias > 0.01).any() and (before.bias[..., :4] == 0).all()
    want = own.repeat_interleave(2, 1).gather(2, before.pos.clamp(min=0).long())
    real = before.pos >= 0
    assert torch.allclose((after.bias - before.bias)[real], want[real], atol=1e-5)


def test_rows_of_a_batch_are_hashed_each_by_itself() -> None:
    lm, method = tiny(), MagicPIG(bits=3, tables=9, recent=40)
    real = torch.ones_like(IDS)
    real[1, :50] = 0  # shorter than what is always read
    session = Session(lm, method, batch=2)
    logits = [session.prefill(IDS, real), *(session.decode(token.expand(2)) for token in WRITTEN)]
    assert session.cache.layers[1].store.codes.lens().tolist() == [[40, 40], [0, 0]]
    for row, start in enumerate((0, 50)):
        want = play(lm, method, IDS[row : row + 1, start:])[1]
        assert torch.allclose(torch.stack(logits)[:, row], want[:, 0], atol=1e-4)


def test_another_prompt_is_hashed_with_the_first() -> None:
    session, _ = play(tiny(), MagicPIG(bits=3, tables=9, recent=8))
    planes = session.cache.layers[1].store.planes
    session.prefill(IDS[1:, :33])
    store = session.cache.layers[1].store
    assert store.planes is planes and store.codes.lens().tolist() == [[PROMPT + STEPS + 33 - 8] * 2]
    assert torch.allclose(store.mean, store.view().k[:, :, 4 : PROMPT + STEPS + 25].mean(2, keepdim=True), atol=1e-6)


def test_bytes_held_and_read_of_codes_by_hand() -> None:
    lm, method = tiny(groups=1, layers=2), MagicPIG(bits=3, tables=9, recent=8)
    session = ready(method, lm)
    slots = 2 * 2 * PROMPT * 16 * 4 + 4 * PROMPT
    index = 2 * (PROMPT - 8) * 9 * 2 + 2 * 16 * 4 + 16 * 27 * 4  # codes of 9 tables in 16 bits and a mean for 2 heads; the planes
    assert session.cache.nbytes() == 2 * slots + index == predicted_bytes(method, lm.geometry, PROMPT, PROMPT)
    view = read(session, torch.randn(1, 2, 1, 16))
    assert view.touched == index + round(slots * sum(map(len, heads_of(view))) / (2 * PROMPT))


def test_the_trace_shows_the_sample() -> None:
    trace = traced(tiny(), MagicPIG(bits=4, tables=9, sinks=3, recent=8))[1]
    held = np.stack([trace.held(step) for step in range(STEPS)])
    assert np.array_equal(trace.read[0], held[0]) and np.array_equal(trace.read[:, 0], held[:, 0])
    counts = trace.read[1:, 1:].sum(-1)
    assert (counts < held[1:, 1:].sum(-1)).all() and (counts >= 11).all() and trace.read[..., :3].all() and trace.read[..., PROMPT - 8 : PROMPT].all()
    assert (trace.touched[1:] < trace.resident[1:]).all() and not (trace.left_at != NEVER).any()
    assert np.allclose(trace.attention.sum(-1, dtype=np.float32), 1, atol=0.02) and (trace.attention[~trace.read] == 0).all()


# together


PAIRS = ["snapkv+clusterkv", "clusterkv+snapkv", "kivi+clusterkv", "clusterkv+kivi", "adakv+clusterkv", "h2o+clusterkv", "kvzip+clusterkv"]
PAIRS += ["kvmerger+clusterkv", "kvsharer+clusterkv", "clusterkv+xkv"]
PAIRS += [name.replace("clusterkv", "magicpig") for name in PAIRS]


@pytest.mark.parametrize("name", PAIRS)
def test_they_run_with_members_of_other_axes(name: str) -> None:
    lm, names = tiny(layers=4), name.split("+")
    knobs = {
        "clusterkv": {"size": 4, "dense": 0, "share": 0.3, "sinks": 2, "window": 3}, "kivi": {"group": 8, "residual": 16, "bits": 4}, "snapkv": {"window": 8},
        "adakv": {"window": 8}, "kvsharer": {"passages": 4, "length": 16, "threshold": -1}, "magicpig": {"bits": 4, "tables": 9, "recent": 8},
    }  # fmt: skip
    method = make(name, "0.5" if {"snapkv", "adakv", "h2o", "kvzip", "kvmerger"} & set(names) else None,
                  {f"{part}.{key}": value for part in names for key, value in knobs.get(part, {}).items()})  # fmt: skip
    session, logits = play(lm, method)
    full = play(lm, Method())[1]
    assert torch.isfinite(logits).all() and not torch.allclose(logits[1:], full[1:], atol=1e-3)
    want = predicted_bytes(method, lm.geometry, PROMPT + STEPS, PROMPT)
    assert abs(session.cache.nbytes() - want) <= 0.1 * want
    assert torch.isfinite(session.prefill(IDS[1:])).all()


@pytest.mark.parametrize("name", ["quest+clusterkv", "clusterkv+magicpig"])
def test_two_that_choose_what_is_read_cannot_run_together(name: str) -> None:
    with pytest.raises(ValueError, match="cannot run together: both decide"):
        make(name)
