"""InfLLM: what stands for a block, which blocks are read, and where what is far is read. Plain references beside each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import Method
from kvlab.methods.retrieval.infllm import Blocks, InfLLM, by_head, representatives
from kvlab.phase import Phase
from kvlab.predict import predicted_bytes
from kvlab.registry import make
from kvlab.seen import Seen
from kvlab.session import Session
from kvlab.store import Store
from kvlab.trace import NEVER, Recorder, Silent

PROMPT, STEPS = 80, 5
IDS = torch.randint(128, (1, PROMPT), generator=torch.Generator().manual_seed(5))
WRITTEN = torch.randint(128, (STEPS,), generator=torch.Generator().manual_seed(6))
SMALL = InfLLM(sinks=3, local=20, block=5, blocks=2, best=2)
COMPLETE = (PROMPT - 20 - 3) // 5  # 11 blocks, and 2 tokens that fill none yet


def read(session: Session, method: InfLLM, layer: int = 1) -> tuple[LayerKV, Tensor]:
    """The prompt, read, and a random query at its last position: [1, Hq, 1, D]."""
    session.prefill(IDS)
    session.cache.phase = Phase("decode")
    geometry = session.lm.geometry
    return session.cache.layers[layer], torch.randn(1, geometry.query_heads, 1, geometry.head_dim, generator=torch.Generator().manual_seed(1))


def plain_local(session: Session, layer: int, window: int) -> Tensor:
    """Attention each prompt token got from those less than `window` behind it, query by query: [H, T]."""
    keep: list[Tensor] = []


    class Rows(Silent):
        def attended(self, at: LayerKV, store: Store, seen: Seen) -> None:
            keep.extend([seen.weights(PROMPT)] if at.index == layer else [])

    Session(session.lm, Method(), recorder=Rows()).prefill(IDS)
    rows, out = keep[0][0], torch.zeros(2, PROMPT)
    for q in range(PROMPT):
        for k in range(max(0, q - window + 1), q + 1):
            out[:, k] += rows[:, q, k].view(2, -1).mean(1)
    return out


def test_a_block_is_represented_by_the_keys_with_the_highest_scores() -> None:
    torch.manual_seed(0)
    keys, score, block = torch.randn(2, 3, 23, 4), torch.rand(2, 3, 23), torch.randint(-1, 5, (2, 3, 23))
    block[0, 0, block[0, 0] == 2] = 1  # a block without slots
    found = representatives(keys, block, score, 4, 3)
    assert found.shape == (2, 3, 4, 4) and (found[0, 0, 2] == 0).all()
    for b, h, n in np.ndindex(2, 3, 4):
        mine = sorted((t for t in range(23) if block[b, h, t] == n), key=lambda t, b=b, h=h: -float(score[b, h, t]))[:3]
        assert torch.allclose(found[b, h, n], keys[b, h, mine].mean(0) if mine else torch.zeros(4), atol=1e-6)


def test_numbers_find_their_positions() -> None:
    x, pos, at = torch.tensor([[[1.0, 2, 3]]]), torch.tensor([[[4, -1, 2]]]), torch.tensor([[[2, 3, 4, -1, 9]]])
    assert by_head(x, pos, at).tolist() == [[[3, 0, 1, 0, 0]]]


@pytest.mark.parametrize("chunk", [1024, 7])
def test_attention_in_the_window_is_counted_and_stands_for_blocks(chunk: int) -> None:
    session = Session(tiny(), SMALL, chunk=chunk)
    layer, _ = read(session, SMALL)
    store, local = layer.store, plain_local(session, 1, 20)
    assert torch.allclose(store.tag("local")[0], local, atol=1e-5)
    plain = layer.rope.unrotate(store.view().k, store.pos())[0]
    assert store.heads.shape == (1, 2, COMPLETE, 16)
    for h, n in np.ndindex(2, COMPLETE):
        at = torch.arange(3 + 5 * n, 8 + 5 * n)
        assert torch.allclose(store.heads[0, h, n], plain[h, at[local[h, at].topk(2).indices]].mean(0), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_what_is_far_is_read_at_the_edge_of_the_window(groups: int) -> None:
    session = Session(tiny(groups), SMALL)
    layer, q = read(session, SMALL)
    p, store = PROMPT - 1, layer.store
    view, held = SMALL.read(layer, q, torch.tensor([[p]])), store.view()
    # one list for all heads: the first, the two best blocks by all heads together, the tokens that fill none, the window
    edge = layer.rope.rotate(layer.rope.unrotate(q, torch.tensor([[[p]]])), torch.tensor([[[19]]]))[0, :, 0]
    score = sum(store.heads[0, h // groups].float() @ edge[h] for h in range(2 * groups))
    want = [0, 1, 2, *(t for n in sorted(score.topk(2).indices.tolist()) for t in range(3 + 5 * n, 8 + 5 * n)), *range(3 + 5 * COMPLETE, PROMPT)]
    assert view.pos[0].tolist() == [want, want]
    # logits: the window at true positions, all else with the query at the window's edge and keys without a position
    plain = layer.rope.unrotate(held.k, held.pos)
    for h in range(2 * groups):
        near = held.k[0, h // groups, want] @ q[0, h, 0]
        far = plain[0, h // groups, want] @ edge[h]
        expected = torch.where(torch.tensor(want) > p - 20, near, far)
        assert torch.allclose(view.k[0, h // groups] @ q[0, h, 0], expected, atol=1e-4)
    assert torch.equal(view.k[0, :, -20:], held.k[0, :, -20:]) and torch.equal(view.v[0], held.v[0, :, want])


def decoded(method: Method) -> Tensor:
    session = Session(tiny(), method)
    return torch.cat([session.prefill(IDS), *(session.decode(token[None]) for token in WRITTEN)])


def test_dense_only_while_all_is_in_the_window() -> None:
    full = decoded(Method())
    assert torch.equal(decoded(InfLLM(local=PROMPT + STEPS)), full)
    # one step more and the oldest token is turned, though nothing is left out
    clamped = decoded(InfLLM(local=PROMPT + STEPS - 1, sinks=16))
    assert torch.allclose(clamped[:-1], full[:-1], atol=1e-4) and not torch.allclose(clamped[-1], full[-1], atol=1e-4)
    # nor is it dense when all blocks are read: they stand elsewhere
    assert not torch.allclose(decoded(InfLLM(local=20, block=5, blocks=512))[1:], full[1:], atol=1e-2)


def test_the_trace_says_what_was_read() -> None:
    lm = tiny()
    recorder = Recorder(lm.geometry.layers, lm.geometry.kv_heads, PROMPT + STEPS)
    session = Session(lm, SMALL, recorder=recorder)
    session.prefill(IDS)
    for token in WRITTEN:
        recorder.step(session.cache, int(token), 0.0, 0.0)
        session.decode(token[None])
    trace = recorder.trace([*IDS[0].tolist(), *WRITTEN.tolist()], PROMPT, PROMPT)
    assert np.array_equal(trace.read[0], trace.held(0))  # the prompt's last query
    for step in range(1, STEPS):
        rest = (PROMPT + step - 23) % 5
        assert (trace.read[step].sum(-1) == 3 + 2 * 5 + rest + 20).all() and trace.read[step][..., :3].all()
        assert (trace.read[step] == trace.read[step][:, :1]).all()  # all heads of a layer alike
    assert (trace.attention[~trace.read] == 0).all() and not (trace.left_at != NEVER).any()
    assert (trace.touched[1:] < trace.resident[1:]).all()


def test_bytes_held_and_read() -> None:
    lm = tiny(layers=1)
    session = Session(lm, SMALL)
    layer, q = read(session, SMALL, 0)
    index, slots = COMPLETE * 2 * 16 * 4, PROMPT * (2 * 2 * 16 * 4 + 4 + 2 * 4)
    assert session.cache.nbytes() == index + slots == predicted_bytes(SMALL, lm.geometry, PROMPT, PROMPT)
    assert SMALL.read(layer, q, torch.tensor([[PROMPT - 1]])).touched == index + slots * (3 + 2 * 5 + 2 + 20) // PROMPT


def test_blocks_stay_what_they_are_when_slots_leave() -> None:
    torch.manual_seed(0)
    session = Session(tiny(), SMALL)
    layer, q = read(session, SMALL)
    store: Blocks = layer.store
    store.keep(torch.rand(1, 2, PROMPT) < 0.6)  # uneven heads
    assert not store.even and store.heads.shape[2] == COMPLETE
    plain, pos, local = layer.rope.unrotate(store.view().k, store.pos().clamp(min=0)), store.pos()[0], store.tag("local")[0]
    for h, n in np.ndindex(2, COMPLETE):
        at = ((pos[h] >= 3 + 5 * n) & (pos[h] < 8 + 5 * n)).nonzero()[:, 0]
        best = at[local[h, at].topk(min(2, len(at))).indices]
        assert torch.allclose(store.heads[0, h, n], plain[0, h, best].mean(0) if len(at) else torch.zeros(16), atol=1e-5)
    view = SMALL.read(layer, q, torch.tensor([[PROMPT - 1]]))
    blocks = [{(p - 3) // 5 for p in row if 3 <= p < 3 + 5 * COMPLETE} for row in view.pos[0].tolist()]
    assert len(blocks[0] | blocks[1]) == 2


@pytest.mark.parametrize("name", ["snapkv+infllm", "infllm+kivi", "kvmerger+infllm", "kvsharer+infllm", "kvzip+infllm", "adakv+infllm"])
def test_it_runs_with_members_of_other_axes(name: str) -> None:
    lm, names = tiny(layers=4), name.split("+")
    knobs = {
        "infllm.sinks": 3, "infllm.local": 20, "infllm.block": 5, "infllm.blocks": 2, "kivi.group": 8, "kivi.residual": 16, "snapkv.window": 8,
        "adakv.window": 8, "kvsharer.passages": 4, "kvsharer.length": 16, "kvsharer.share": 0.5, "kvsharer.threshold": -1,
    }  # fmt: skip
    method = make(name, "0.5" if {"snapkv", "kvmerger", "kvzip", "adakv"} & set(names) else None, {k: v for k, v in knobs.items() if k.split(".")[0] in names})
    session = Session(lm, method)
    logits = torch.cat([session.prefill(IDS), *(session.decode(token[None]) for token in WRITTEN)])
    assert torch.isfinite(logits).all() and session.cache.nbytes() < lm.geometry.full_bytes(PROMPT + STEPS) * 1.2
    view = method.read(session.cache.layers[-1], torch.randn(1, 4, 1, 16), torch.tensor([[PROMPT + STEPS - 1]]))
    assert view is not None and (view.pos > PROMPT + STEPS - 1 - 20).any()


def test_scoring_passes_are_not_counted_as_attention() -> None:
    """With KVzip the prompt's queries come again after its passages: each is counted once."""
    alone, both = (Session(tiny(), make(name, budget, {"sinks": 3, "local": 20})) for name, budget in (("infllm", None), ("infllm+kvzip", "1.0")))
    for session in (alone, both):
        session.prefill(IDS)
    assert torch.allclose(*(session.cache.layers[1].store.tag("local") for session in (alone, both)), atol=1e-5)
