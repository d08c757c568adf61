"""Attention over uneven heads as they are held, against attention over their padded view, at awkward sizes."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny
from torch import Tensor

from kvlab import packed
from kvlab.attention import Rules, attend
from kvlab.codecs.each import Each
from kvlab.kernels import reference
from kvlab.kernels.segments import segments
from kvlab.methods.quantization.fp8 import Float8
from kvlab.registry import make
from kvlab.session import Session
from kvlab.store import Store

PLAIN = Rules(0.3)


def uneven(lens: list[list[int]], fresh: int, size: int = 5, dtype: torch.dtype = torch.float32) -> Store:
    """A store whose head (b, h) was cut to the last lens[b][h] of its slots, and got `fresh` tokens since."""
    kept = torch.tensor(lens)
    (batch, heads), total = kept.shape, int(kept.max()) + 1
    made = torch.Generator().manual_seed(total)
    rows = lambda n: torch.randn(batch, heads, n, size, generator=made).to(dtype)  # noqa: E731
    where = lambda a, b: torch.arange(a, b, dtype=torch.int32).expand(batch, -1)  # noqa: E731
    store = Store()
    store.append(rows(total), rows(total), where(0, total))
    store.keep(torch.arange(total).expand(batch, heads, -1) >= total - kept[..., None])
    for at in range(total, total + fresh):
        store.append(rows(1), rows(1), where(at, at + 1))
    return store


def query(store: Store, group: int, dtype: torch.dtype = torch.float32) -> Tensor:
    batch, heads = store.lens().shape
    size = store.view().k.shape[3]
    return torch.randn(batch, heads * group, 1, size, generator=torch.Generator().manual_seed(group)).to(dtype)


def padded(q: Tensor, store: Store, rules: Rules = PLAIN) -> Tensor:
    return attend(q, store.view(), torch.full((q.shape[0], 1), 10_000, dtype=torch.int32), rules, fresh=False)


SIZES = [
    ([[3, 7]], 0, 1), ([[3, 7]], 1, 2), ([[1, 0, 9, 2]], 2, 3), ([[64, 1]], 33, 1), ([[0, 1]], 1, 4), ([[5, 5], [5, 2]], 1, 2), ([[9], [4], [1]], 3, 2),
]  # fmt: skip


@pytest.mark.parametrize(("lens", "fresh", "group"), SIZES)
def test_heads_as_they_are_held_equal_their_padded_view(lens: list[list[int]], fresh: int, group: int) -> None:
    store = uneven(lens, fresh)
    q, before = query(store, group), store.nbytes()
    assert packed.wanted(q, store)
    out = packed.decode(q, store, PLAIN)
    assert out.shape == q.shape and (out - padded(q, store)).abs().max() < 1e-6
    assert store.nbytes() == before, "what was made to attend is not held"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_16_bits_only_the_result_is_rounded(dtype: torch.dtype) -> None:
    store = uneven([[70, 3], [20, 41]], 6, 8, dtype)
    q = query(store, 2, dtype)
    out, exact = packed.decode(q, store, PLAIN), reference.attend(q.reshape(4, 2, 8), segments(store), 0.3).view(2, 4, 1, 8)
    assert out.dtype == dtype and (out - exact.to(dtype)).abs().max() <= 2 * torch.finfo(dtype).eps


def test_a_second_cut_leaves_several_parts_or_one_and_the_same_result() -> None:
    store = uneven([[30, 11]], 4)
    twin = store.snapshot()
    store.keep((torch.arange(len(store)) % 3 > 0).expand(1, 2, -1))
    for kept in (store, twin):
        q = query(kept, 2)
        assert (packed.decode(q, kept, PLAIN) - padded(q, kept)).abs().max() < 1e-6


def test_what_is_coded_masked_weighed_or_cut_in_two_ways_goes_the_plain_way() -> None:
    coded, weighed, holes, merged = (uneven([[3, 7]], 2, 8) for _ in range(4))
    coded.code("v", 2, lambda rows, lens: Each.of(rows, lens, Float8("e4m3", "token"), rows.dtype))
    weighed.tag("bias", torch.zeros(1, 2, 9))
    holes.append(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8), torch.tensor([[-1]], dtype=torch.int32), padded=True)
    merged.replace_raw("k", merged.view().k)  # keys in one part, values in a part and an open one
    for store in (coded, weighed, holes, merged):
        assert packed.decode(query(store, 1), store, PLAIN) is None
    store = uneven([[3, 7]], 2, 8)
    for rules in (Rules(0.3, softcap=30.0), Rules(0.3, sinks=torch.zeros(2)), Rules(0.3, window=5)):
        assert packed.decode(query(store, 1), store, rules) is None


def test_it_is_asked_for_one_query_over_uneven_heads_only() -> None:
    store = uneven([[3, 7]], 1)
    assert not packed.wanted(query(store, 1).expand(-1, -1, 2, -1), store)
    assert not packed.wanted(query(store, 1), uneven([[4, 4]], 1))
    assert not packed.wanted(query(store, 1).requires_grad_(), store)


@pytest.mark.parametrize("method", ["adakv", "adakv+kivi"])
def test_a_model_writes_the_same_either_way(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, whole = [], packed.decode
    monkeypatch.setattr(packed, "decode", lambda *given: taken.append(whole(*given)) or taken[-1])
    coded = {"group": 8, "residual": 16} if "kivi" in method else {}

    def written() -> Tensor:
        session = Session(tiny(), make(method, "0.3", {"window": 8, **coded}))
        session.prefill(torch.arange(96)[None] % 120)
        return torch.stack([session.decode(torch.tensor([token])) for token in (5, 9, 77)])

    logits = written()
    assert len(taken) == 3 * 3 and all((out is None) == bool(coded) for out in taken)
    monkeypatch.setattr(packed, "wanted", lambda q, store: False)
    assert (logits - written()).abs().max() < 1e-5 and len(taken) == 9
