"""What surrounds the kernels: stores cut into segments, the way back to torch, code made for devices that are not there, and the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_kernels import by_hand, coded_store, gauss, held
from transformers import LlamaConfig

from kvlab import kernels
from kvlab.attention import Rules
from kvlab.bench import _llama
from kvlab.bench import kernels as bench
from kvlab.cli import main
from kvlab.codecs.affine import ChannelGroups
from kvlab.codecs.each import Each
from kvlab.kernels import reference
from kvlab.kernels.segments import Segment, segments
from kvlab.methods.quantization.fp8 import Float8
from kvlab.rows import Raw
from kvlab.store import Pages, Store

pytest.importorskip("triton", reason="Triton is there on Linux only.")


# segments


@pytest.mark.parametrize("uneven", [False, True])
def test_a_store_in_segments_is_the_store(uneven: bool) -> None:
    q, store = gauss(2, 6, 1, 32), coded_store(uneven)
    found = segments(store)
    assert store.even != uneven
    assert torch.equal(torch.stack([s.lens.long() for s in found]).sum(0), store.lens().flatten())
    out = reference.attend(q.reshape(4, 3, 32), found, 0.2).view(2, 6, 1, 32)
    assert (out - by_hand(q, store)).abs().max() < 1e-3  # the view is rounded to float16, the segments are not


def test_keys_and_values_may_be_coded_up_to_different_slots() -> None:
    found = segments(coded_store(False))
    assert [(type(s.k).__name__, type(s.v).__name__, s.longest) for s in found] == [
        ("TokenGroups", "ChannelGroups", 118), ("TokenGroups", "Raw", 10), ("Raw", "Raw", 25),
    ]  # fmt: skip
    assert found[1].k_rows.tolist() == [118, 246, 374, 502] and found[1].v_rows.tolist() == [0, 35, 70, 105]


def test_what_the_kernels_do_not_read_goes_to_torch() -> None:
    q, plain = gauss(2, 4, 1, 32), Rules(0.2)
    thinned, per_token, weighed, padded = (coded_store(False) for _ in range(4))
    thinned.keep(torch.arange(153) % 2 == 0 + torch.zeros(2, 2, 1, dtype=torch.int64))  # groups of keys lost rows
    per_token.code("k", 2, lambda rows, lens: ChannelGroups.of(rows, 4, 32))
    weighed.tag("bias", torch.zeros(2, 2, 153))
    padded.append(gauss(2, 2, 1, 32), gauss(2, 2, 1, 32), torch.tensor([[153], [-1]], dtype=torch.int32), padded=True)
    wide = Store()
    wide.append(gauss(2, 2, 9, 32), gauss(2, 2, 9, 32), torch.arange(9, dtype=torch.int32).expand(2, -1))
    wide.code("v", 5, lambda rows, lens: Each.of(rows, lens, Float8("e5m2", "one"), rows.dtype))
    for store in (thinned, per_token, weighed, padded, wide):
        assert kernels.decode(q, store, plain) is None
    pages = Pages(torch.zeros(2, 4, 1, dtype=torch.int32), 16, coded_store(False).view)
    assert kernels.decode(q, coded_store(False), plain, pages) is None  # groups of keys are tiles, pages are not
    for rules in (Rules(0.2, softcap=30.0), Rules(0.2, sinks=torch.zeros(4)), Rules(0.2, window=100)):
        assert kernels.decode(q, coded_store(False), rules) is None

    class Other(Store):
        def view(self):
            return super().view()

    other = Other()
    other.append(gauss(2, 2, 5, 32), gauss(2, 2, 5, 32), torch.arange(5, dtype=torch.int32).expand(2, -1))
    assert kernels.decode(q, other, plain) is None
    assert not kernels.wanted(q)  # on a CPU nobody asks


@pytest.mark.parametrize(("units", "longest", "count"), [(8, 100, 1), (8, 32768, 29), (8, 4096, 7), (256, 32768, 1), (20, 100_000, 12)])
def test_slices_fill_the_device_and_no_more(units: int, longest: int, count: int) -> None:
    """132 multiprocessors take 264 programs. 8 heads: 33 slices would fill them, and 29 are 85 % of that; 4096 slots make at most 8."""
    from kvlab.kernels.launch import slices

    assert slices(units, longest, cores=132) == count


# ahead of time


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and multiplications joined to additions, which Triton is about to switch off by default."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")


@pytest.mark.parametrize(
    ("kind", "capability", "core", "most"),
    [
        ("raw", 90, "mma", 4.0), ("float8", 90, "mma", 4.7), ("int4-128", 90, "wgmma", 4.8), ("int2-128", 90, "wgmma", 5.5),
        ("int4-32", 90, "mma", 8.0), ("sparse", 90, "mma", 16.0), ("raw", 80, "mma", 4.0), ("int4-128", 80, "mma", 5.6),
    ],
)  # fmt: skip
def test_compiled_for_a_device_that_is_not_there(kind: str, capability: int, core: str, most: float, compiler: None) -> None:
    """`most`: instructions of the main loop for each cached number. Counted, not timed."""
    from kvlab.kernels.ahead import compiled

    rows = gauss(256, 128, dtype=torch.bfloat16)
    values = kind if kind in ("raw", "float8", "sparse") else kind[:5] + ("D" if kind.endswith("128") else "32")
    made = compiled(gauss(2, 4, 128, dtype=torch.bfloat16), Segment.even(held(kind, rows, "k"), held(values, rows, "v"), 2, 128), capability)
    assert core in made.tensor_core() and made.asynchronous() and made.spills() == 0
    assert made.shared <= (227 if capability == 90 else 163) * 1024
    assert 1 < made.per_number() <= most


@pytest.mark.parametrize(("size", "most"), [(16, 5.0), (4, 5.0)])
def test_compiled_for_pages(size: int, most: float, compiler: None) -> None:
    """One list for each query head, as Quest chooses: finding the slots of a page comes on top of reading them."""
    from kvlab.kernels.ahead import compiled

    rows = Raw(gauss(256, 128, dtype=torch.bfloat16))
    segment = replace(Segment.even(rows, rows, 2, 128), pages=torch.zeros(8, 3, dtype=torch.int32), page=size)
    made = compiled(gauss(8, 1, 128, dtype=torch.bfloat16), segment, 90)
    assert "mma" in made.tensor_core() and made.asynchronous() and made.spills() == 0
    assert 1 < made.per_number() <= most


def test_the_merge_compiles_too(compiler: None) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from kvlab.kernels.split import merge

    types = dict.fromkeys(("acc", "top", "total"), "*fp32") | {"out": "*bf16", "slices": "i32", "heads": "i32", "D": "constexpr", "W": "constexpr"}
    made = compile(ASTSource(merge, types, {"D": 80, "W": 128}), target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
    assert "st.global" in made.asm["ptx"]


# the benchmark


def test_without_a_gpu_the_benchmark_says_so(capsys: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("This machine has a CUDA device.")
    assert main(["bench", "kernels"]) == 2
    assert capsys.readouterr().err == "kvlab: bench kernels measures a CUDA device, and torch finds none on this machine.\n"


@pytest.mark.parametrize("name", ["fp16, uneven heads", "fp16, a quarter of the pages", "fp8", "int2", "int4, groups of 32", "bitmap, 70 % zeros"])
def test_the_benchmark_compares_with_the_rows_of_the_same_head(name: str) -> None:
    cache, q = bench.segment(name, 256, 2, "cpu"), gauss(16, 4, 128)
    out = reference.attend(q, [cache], 128**-0.5)
    assert bench.error(q, out, cache) < 1e-5 < 1e-2 < bench.error(q, out.roll(1, 0), cache)
    assert int(cache.lens.sum()) == 16 * 256
    full = 2 * 16 * 256 * 128 * 2
    shares = {"fp16, uneven heads": 1, "fp16, a quarter of the pages": 0.25, "fp8": 65 / 128, "int2": 18 / 128, "int4, groups of 32": 40 / 128}
    shares |= {"bitmap, 70 % zeros": (39 * 2 + 16) / 256}
    assert bench.bytes_read(cache) == pytest.approx(full * shares[name], rel=1e-3)


@pytest.mark.parametrize("name", _llama.CACHES)
def test_a_whole_model_decodes_over_a_filled_cache(name: str) -> None:
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    session = _llama.filled(_llama.random_model(config, "cpu", torch.float32), name, 256)
    assert _llama.steps(session, 2) > 0
    layer, kept = session.cache.layers[0], 64 if "snapkv" in name else 256
    assert int(layer.store.lens()[0, 0]) == kept + 3 and int(session.cache.tokens[0]) == 259
    assert bool(layer.store.columns["k"].parts) == ("kivi" in name)


# on a device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="Needs a CUDA device, and torch finds none.")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["raw", "float8", "int8-64", "int4-128", "int4-32", "int2-64", "sparse"])
def test_kernel_on_the_device(kind: str, dtype: torch.dtype) -> None:
    from kvlab.kernels.launch import attend

    rows = gauss(2 * 1280, 128, dtype=dtype).cuda()
    values = kind if kind in ("raw", "float8", "sparse") else kind[:5] + "D"
    found, q = [Segment.even(held(kind, rows, "k"), held(values, rows, "v"), 2, 1280)], gauss(2, 4, 128, dtype=dtype).cuda()
    worst = (attend(q, found, 0.1).float() - reference.attend(q, found, 0.1)).abs().max()
    assert worst <= (2e-3 if dtype == torch.float16 else 1e-2)
