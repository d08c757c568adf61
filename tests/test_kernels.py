"""Decode kernels against plain torch in Triton's interpreter, at awkward sizes, and what they become on devices that are not there.

The interpreter is chosen when a kernel is defined and for good, so everything that runs in it does so in a process of its own, once: the
cases below run there and leave their largest error for the test of the same name.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kvlab import kernels
from kvlab.attention import Rules
from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.bitmap import Bitmap, largest
from kvlab.codecs.each import Each
from kvlab.kernels import reference
from kvlab.kernels.segments import Segment
from kvlab.methods.quantization.fp8 import Float8
from kvlab.rows import Raw, Rows
from kvlab.store import Pages, Store

pytest.importorskip("triton", reason="Triton is there on Linux only.")


def gauss(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def float8(rows: Tensor, scale: str, lens: Tensor) -> Each:
    """e4m3 with one scale per token, per head (here: 1/64, 2/64 ...) or none."""
    tables = ((torch.arange(lens.numel()) + 1.0) / 64,) if scale == "head" else ()
    return Each.of(rows, lens.view(1, -1), Float8("e4m3", scale), rows.dtype, tables)


def held(kind: str, rows: Tensor, role: str) -> Rows:
    """`rows` [N, D] as `kind` holds them: raw, float8 (or float8-one), sparse, or int4-32 (bits, and tokens or channels of a group; D: all channels)."""
    if kind == "raw":
        return Raw(rows)
    if kind.startswith("float8"):
        return float8(rows, kind.partition("-")[2] or "token", torch.tensor([[len(rows)]]))
    if kind == "sparse":
        return Bitmap.of(rows, largest(rows, max(1, rows.shape[1] * 3 // 10)))
    bits, group = kind.removeprefix("int").split("-")
    return TokenGroups.of(rows, int(bits), int(group)) if role == "k" else ChannelGroups.of(rows, int(bits), rows.shape[1] if group == "D" else int(group))


@dataclass(frozen=True)
class Case:
    """Units of `lens` rows with `group` query heads each, keys and values held as said, every unit cut into `cuts` slices."""

    keys: str
    values: str
    lens: tuple[int, ...]
    group: int = 4
    size: int = 64
    cuts: int = 1
    dtype: str = "float16"
    spike: float = 1.0  # factor of one channel of the keys, as real models have them
    bound: float = 2e-3

    @property
    def name(self) -> str:
        return f"{self.keys}/{self.values} {self.lens} x{self.group} D{self.size} cut {self.cuts} {self.dtype}"

    def made(self) -> tuple[Tensor, list[Segment]]:
        dtype, lens = getattr(torch, self.dtype), torch.tensor(self.lens)
        k, v = (gauss(sum(self.lens), self.size, seed=seed, dtype=dtype) for seed in (1, 2))
        k[:, 3] *= self.spike
        segment = Segment.ragged(held(self.keys, k, "k"), held(self.values, v, "v"), lens)
        return gauss(len(lens), self.group, self.size, dtype=dtype), [segment]


CASES = [
    # lengths that are no multiple of a tile, one slice and more slices than tiles, a unit with nothing in it, all group sizes
    Case("raw", "raw", (1, 31, 257), group=7, dtype="float32", cuts=3, bound=1e-5),
    Case("raw", "raw", (0, 65, 1), group=1, size=80, cuts=8),
    Case("raw", "raw", (0, 0), group=2, size=32, cuts=2),
    Case("float8", "float8", (31, 257), group=2, cuts=2),
    Case("float8-one", "raw", (1, 130), group=7, size=80),
    Case("int8-32", "int8-D", (64, 96), group=1, size=32, cuts=2),
    Case("int4-32", "int4-D", (32, 288), group=4, size=128, cuts=3),
    Case("int4-16", "int4-16", (0, 16, 80), group=7, size=80, cuts=2),
    Case("int4-128", "int4-32", (256,), group=4, size=128, spike=30.0, bound=5e-3),
    Case("int2-32", "int2-D", (64, 32), group=2, size=128, dtype="float32"),
    Case("int2-32", "int2-32", (96,), group=1, size=32, cuts=2),
    Case("int4-16", "raw", (48,), size=32),  # between the borders of keys and of values
    Case("raw", "int4-D", (47,), size=32),
    Case("sparse", "sparse", (1, 70), group=4, size=80, cuts=2, dtype="float32", bound=1e-5),
    Case("sparse", "sparse", (31,), group=2, size=128),
]


def coded_store(uneven: bool, dtype: torch.dtype = torch.float16) -> Store:
    """What KIVI leaves: keys coded up to one slot, values up to another, then raw ones; with `uneven`, after heads kept different numbers."""
    store = Store()
    store.append(gauss(2, 2, 150, 32, seed=3, dtype=dtype), gauss(2, 2, 150, 32, seed=4, dtype=dtype), torch.arange(150, dtype=torch.int32).expand(2, -1))
    if uneven:
        keep = gauss(2, 2, 150, seed=5) > torch.tensor([-3.0, 0.0, 0.7, 1.5]).view(2, 2, 1)
        store.keep(keep)
    store.code("k", store.raw_lens("k") // 32 * 32, lambda rows, lens: TokenGroups.of(rows, 4, 16))
    store.code("v", (store.raw_lens("v") - 32).clamp(min=0), lambda rows, lens: ChannelGroups.of(rows, 4, 32))
    for step in range(3):
        new = [gauss(2, 2, 1, 32, seed=6 + step + x, dtype=dtype) for x in (0, 50)]
        store.append(*new, torch.full((2, 1), 150 + step, dtype=torch.int32))
    return store


def by_hand(q: Tensor, store: Store) -> Tensor:
    """Attention over the decoded store, head by head, in float32: q [B, Hq, 1, D]."""
    view, lens, out = store.view(), store.lens(), torch.zeros(q.shape)
    for b in range(q.shape[0]):
        for head in range(q.shape[1]):
            h = head * lens.shape[1] // q.shape[1]
            k, v = view.k[b, h, : lens[b, h]].float(), view.v[b, h, : lens[b, h]].float()
            out[b, head] = (q[b, head].float() @ k.T * 0.2).softmax(-1) @ v
    return out


def paged(per_query_head: bool) -> tuple[Tensor, list[Segment]]:
    """Lists of pages of 16 slots: short and full ones, a last page cut off by the end, for each KV head or for each query head."""
    lens, lists = torch.tensor([100, 33]), 6 if per_query_head else 2
    pages = torch.tensor([[6, 0, 3], [2, -1, -1], [1, 2, 4], [0, 1, 2], [2, 0, -1], [1, -1, -1]], dtype=torch.int32)
    segment = Segment.ragged(Raw(gauss(133, 64, seed=1)), Raw(gauss(133, 64, seed=2)), lens)
    segment = replace(segment, longest=48, pages=pages[:lists] if per_query_head else pages[[0, 4]], page=16)
    return gauss(lists, 1 if per_query_head else 4, 64), [segment]


def chosen(store: Store, heads: int, size: int = 8) -> Pages:
    """For each of `heads` lists of every text of a store some of its pages: some short, and the cut off last page of every other head."""
    lens = store.lens().repeat_interleave(heads // store.lens().shape[1], dim=1)
    lists = torch.full((*lens.shape, 4), -1, dtype=torch.int32)
    for i, length in enumerate(lens.flatten().tolist()):
        pages = -(-length // size)
        some = [(i + 5 * n) % pages for n in range(1 + i % 3)] + [pages - 1] * (i % 2)
        lists.view(-1, 4)[i, : len(set(some))] = torch.tensor(sorted(set(some)))
    return Pages(lists, size, lambda: store.view())


def paged_store(uneven: bool, codes: bool) -> Store:
    """Slots in two or three segments of which none begins with a page: left by eviction, coded to eight-bit floats, and then raw ones."""
    store = Store()
    store.append(gauss(2, 2, 75, 32, seed=3), gauss(2, 2, 75, 32, seed=4), torch.arange(75, dtype=torch.int32).expand(2, -1))
    store.keep(gauss(2, 2, 75, seed=5) > torch.tensor([-3.0, 0.0, 0.7, 1.5]).view(2, 2, 1) if uneven else torch.arange(75).expand(2, 2, -1) % 5 > 0)
    if codes:
        store.code("k", store.raw_lens("k") // 2, lambda rows, lens: float8(rows, "token", lens))
        store.code("v", store.raw_lens("v") * 2 // 3, lambda rows, lens: ChannelGroups.of(rows, 4, 16))
    for step in range(5):
        new = [gauss(2, 2, 1, 32, seed=6 + step + x) for x in (0, 50)]
        store.append(*new, torch.full((2, 1), 75 + step, dtype=torch.int32))
    return store


def by_hand_paged(q: Tensor, store: Store, pages: Pages) -> Tensor:
    """Attention over the listed pages of the decoded store, in float32: q [B, Hq, 1, D]."""
    view, lens, out = store.view(), store.lens(), torch.zeros(q.shape)
    for b, head in itertools.product(range(q.shape[0]), range(q.shape[1])):
        h = head * lens.shape[1] // q.shape[1]
        named = pages.lists[b, head * pages.lists.shape[1] // q.shape[1]].tolist()
        slots = [slot for page in named if page >= 0 for slot in range(page * pages.size, (page + 1) * pages.size) if slot < lens[b, h]]
        out[b, head] = (q[b, head].float() @ view.k[b, h, slots].float().T * 0.2).softmax(-1) @ view.v[b, h, slots].float()
    return out


def scaled_by_heads() -> tuple[Tensor, list[Segment]]:
    """e4m3 under one scale for each head, heads of different lengths."""
    lens = torch.tensor([40, 1, 70])
    k, v = (float8(gauss(111, 64, seed=seed), "head", lens) for seed in (1, 2))
    return gauss(3, 2, 64), [Segment.ragged(k, v, lens)]


def error(q: Tensor, found: list[Segment], cuts: list[int]) -> float:
    from kvlab.kernels.launch import attend

    scaling = q.shape[2] ** -0.5
    return float((attend(q, found, scaling, cuts).float() - reference.attend(q, found, scaling)).abs().max())


def interpreted() -> dict[str, Any]:
    """Everything that runs in the interpreter. Memory is poisoned: what a kernel reads and nobody wrote is not a number."""
    from kvlab.kernels import launch

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(2).isnan().all()
    found = {case.name: error(*case.made(), [case.cuts]) for case in CASES}
    found["pages of KV heads"], found["pages of query heads"] = error(*paged(False), [2]), error(*paged(True), [1])
    found["float8 by heads"] = error(*scaled_by_heads(), [2])
    launch.cores = lambda device: 4
    for uneven in (False, True):
        q, store = gauss(2, 6, 1, 32), coded_store(uneven)
        out = kernels.decode(q, store, Rules(0.2))
        found[f"store, uneven {uneven}"] = float((out.float() - by_hand(q, store)).abs().max())
    for (uneven, codes), heads in itertools.product(PAGED, (2, 6)):
        q, store = gauss(2, 6, 1, 32), paged_store(uneven, codes)
        pages = chosen(store, heads)
        out = kernels.decode(q, store, Rules(0.2), pages)
        found[f"paged store, uneven {uneven} coded {codes} lists {heads}"] = float((out.float() - by_hand_paged(q, store, pages)).abs().max())
    for name, knobs in MODELS.items():
        found[f"model {name}"] = through_a_model(name, knobs)
    return found


PAGED = [(False, False), (True, False), (True, True)]
MODELS = {
    "kivi": {"bits": "4", "group": "16", "residual": "16"}, "quest": {"page": "4", "dense": "1", "share": "0.3"},
    "clusterkv": {"size": "4", "sinks": "2", "dense": "1", "share": "0.3"}, "hata": {"epochs": "0", "dense": "1", "share": "0.3"},  # pages of one slot
}  # fmt: skip


def through_a_model(name: str, knobs: dict[str, str]) -> float:
    """Largest difference of logits when a tiny model under a method decodes through the kernels instead of through torch; 99 if it did not."""
    from conftest import tiny

    from kvlab.registry import make
    from kvlab.session import Session

    logits = []
    for route in ("torch", "kernels"):
        session = Session(tiny(layers=2), make(name, None, knobs))
        kernels.wanted = (lambda q: q.shape[2] == 1) if route == "kernels" else (lambda q: False)
        session.prefill(torch.arange(60)[None])
        taken, decode = [], kernels.decode
        kernels.decode = lambda *given, decode=decode, taken=taken: taken.append(decode(*given)) or taken[-1]
        logits.append(torch.stack([session.decode(torch.tensor([token])) for token in (5, 9)]))
        kernels.decode = decode
        if (route == "kernels") != (len(taken) == 4 and all(out is not None for out in taken)):
            return 99.0
    return float((logits[0] - logits[1]).abs().max() / logits[0].std())


@pytest.fixture(scope="session")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Largest errors found in the interpreter, by the name of the case."""
    home = tmp_path_factory.mktemp("interpreter")
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "KVLAB_HOME": str(home)}
    call = [sys.executable, "-c", "import json, test_kernels; print(json.dumps(test_kernels.interpreted()))"]
    done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_kernel_equals_plain_torch(case: Case, errors: dict[str, float]) -> None:
    assert errors[case.name] <= case.bound  # false for NaN too


@pytest.mark.parametrize("name", ["float8 by heads", "pages of KV heads", "pages of query heads", "store, uneven False", "store, uneven True"])
def test_pages_and_stores_equal_plain_torch(name: str, errors: dict[str, float]) -> None:
    assert errors[name] <= 2e-3


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize(("uneven", "codes"), PAGED)
def test_pages_of_a_store_equal_plain_torch(uneven: bool, codes: bool, heads: int, errors: dict[str, float]) -> None:
    assert errors[f"paged store, uneven {uneven} coded {codes} lists {heads}"] <= 2e-3


@pytest.mark.parametrize("name", MODELS)
def test_a_model_writes_the_same_through_the_kernels(name: str, errors: dict[str, float]) -> None:
    assert errors[f"model {name}"] <= 5e-3
