"""Decode kernels on a CUDA device: microseconds, bytes read per second and error of one layer's attention, and tokens per second of a model.

Shapes are Llama-3.1-8B's. One call is captured in a CUDA graph and replayed; before every replay a buffer larger than the L2 cache is
written. Times are medians. Bytes read are those of the tensors a call must read, so a rate above that of a copy would be an error.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.bench._llama import whole_model
from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.bitmap import Bitmap, largest
from kvlab.codecs.each import Each
from kvlab.engine import versions
from kvlab.kernels import reference
from kvlab.kernels.segments import Segment
from kvlab.methods.quantization.fp8 import Float8
from kvlab.rows import Raw, Rows, storage_bytes

HEADS, GROUP, SIZE = 8, 4, 128
"""KV heads, query heads for each, channels."""
PERIOD = 35 * 128
"""Rows made at random; longer caches repeat them. No length measured is a multiple, so every head sees them in an order of its own."""
PAGE = 16
REPLAYS = 30


def makers() -> dict[str, Callable[[Tensor], tuple[Rows, Rows]]]:
    """How keys and values are held, by name: rows [N, D] -> both."""
    affine = lambda bits, tokens, channels: lambda x: (TokenGroups.of(x, bits, tokens), ChannelGroups.of(x, bits, channels))  # noqa: E731
    fp8 = lambda x: Each.of(x, torch.tensor([[len(x)]], device=x.device), Float8("e4m3", "token"), x.dtype)  # noqa: E731
    sparse = lambda x: Bitmap.of(x, largest(x, 39))  # noqa: E731
    return {
        "fp16": lambda x: (Raw(x), Raw(x)),
        "fp16, uneven heads": lambda x: (Raw(x), Raw(x)),
        "fp16, a quarter of the pages": lambda x: (Raw(x), Raw(x)),
        "fp8": lambda x: (fp8(x), fp8(x)),
        "int8": affine(8, 128, SIZE),
        "int4": affine(4, 128, SIZE),
        "int2": affine(2, 128, SIZE),
        "int4, groups of 32": affine(4, 32, 32),
        "int2, groups of 32": affine(2, 32, 32),
        "bitmap, 70 % zeros": lambda x: (sparse(x), sparse(x)),
    }


def long(rows: Rows, count: int) -> Rows:
    """The first `count` rows of `rows` repeated; every tensor is its own."""
    total = len(rows.tensors()[0])

    def extend(x: Tensor) -> Tensor:
        need = count * len(x) // total
        return x.repeat(-(-need // len(x)), 1)[:need].clone()

    return each_tensor(rows, extend)


def each_tensor(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    """`rows` with all tensors changed."""
    if isinstance(rows, Each):
        return replace(rows, held=tuple(change(x) for x in rows.held))
    return replace(rows, **{name: change(x) for name, x in vars(rows).items() if isinstance(x, Tensor)})


def segment(name: str, tokens: int, batch: int, device: str) -> Segment:
    """The cache `name` with `tokens` slots in every head, or that many on average."""
    units = batch * HEADS
    base = torch.randn(2, PERIOD, SIZE, generator=torch.Generator().manual_seed(0)).to(device, torch.float16)
    k, v = long(makers()[name](base[0])[0], units * tokens), long(makers()[name](base[1])[1], units * tokens)
    whole = Segment.even(k, v, units, tokens)
    if "uneven" in name:  # from a quarter to seven quarters
        share = torch.linspace(0.25, 1.75, HEADS, device=device).repeat(batch)
        lens = (share * tokens).long()
        lens[-1] += units * tokens - lens.sum()
        return Segment.ragged(k, v, lens)
    if "pages" in name:
        chosen = torch.rand(units, tokens // PAGE, generator=torch.Generator().manual_seed(1)).argsort(1)[:, : tokens // PAGE // 4]
        return replace(whole, pages=chosen.sort(1).values.to(device, torch.int32), page=PAGE, longest=tokens // 4)
    return whole


def bytes_read(segment: Segment) -> int:
    """Of keys, values, scales and page numbers."""
    held = storage_bytes([*segment.k.tensors(), *segment.v.tensors()])
    if segment.pages is None:
        return held
    return held * segment.pages.shape[1] * segment.page // segment.longest // 4 + segment.pages.nbytes


def part(rows: Rows, start: int, stop: int) -> Rows:
    """Rows start..stop-1; both lie on borders of groups."""
    total = len(rows.tensors()[0])
    return each_tensor(rows, lambda x: x[start * len(x) // total : stop * len(x) // total])


def error(q: Tensor, out: Tensor, segment: Segment) -> float:
    """Largest difference to the plain reference over the first and the last unit of `out` [U, G, D]."""
    worst = 0.0
    for unit in (0, len(q) - 1):
        start, length = int(segment.k_rows[unit]), int(segment.lens[unit])
        border = -(-(start + length) // 128) * 128
        origin = start // 128 * 128
        k, v = (part(rows, origin, min(border, len(rows.tensors()[0]))) for rows in (segment.k, segment.v))
        first = segment.k_rows[unit : unit + 1] - origin
        pages = None if segment.pages is None else segment.pages[unit : unit + 1]
        alone = replace(segment, k=k, v=v, k_rows=first, v_rows=first, lens=segment.lens[unit : unit + 1], starts=segment.starts[unit : unit + 1], pages=pages)
        plain = reference.attend(q[unit : unit + 1], [alone], SIZE**-0.5)
        worst = max(worst, float((out[unit : unit + 1].float() - plain).abs().max()))
    return worst


class Clock:
    """Median microseconds of one call: a CUDA graph, replayed with cold caches."""

    def __init__(self) -> None:
        self.flush = torch.empty(512 * 2**20, dtype=torch.uint8, device="cuda")

    def time(self, call: Callable[[], Any]) -> float:
        for _ in range(3):  # compiles, and warms the allocator up
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        taken = []
        for _ in range(REPLAYS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()
            begin.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            taken.append(begin.elapsed_time(end) * 1000)
        return float(torch.tensor(taken).median())

    def copy_rate(self) -> float:
        """GB/s of a copy from device to device, read and written."""
        source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return 2 * source.nbytes / self.time(lambda: target.copy_(source)) / 1000


def others(segment: Segment, q: Tensor, batch: int) -> dict[str, Callable[[], Tensor]]:
    """Attention of other libraries over the raw cache of `segment`."""
    group, size = q.shape[1:]
    k, v = (rows.data.view(batch, HEADS, -1, size) for rows in (segment.k, segment.v))
    grouped = q.view(batch, HEADS, group, size)
    found = {"torch SDPA": lambda: F.scaled_dot_product_attention(grouped, k, v, scale=size**-0.5)}
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_with_kvcache

        # its layout is slots before heads; an unmeasured copy
        kt, vt, one = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous(), q.view(batch, 1, HEADS * group, size)
        found["flash-attn"] = lambda: flash_attn_with_kvcache(one, kt, vt, softmax_scale=size**-0.5)
    return found


def row(name: str, us: float, read: int, copy: float, worst: float | None) -> dict[str, Any]:
    rate = read / us / 1000
    return {"cache": name, "us": round(us, 1), "GB_read": round(read / 1e9, 4), "GB_s": round(rate), "of_copy": round(rate / copy, 3), "max_error": worst}


def setting(tokens: int, batch: int, clock: Clock, copy: float) -> list[dict[str, Any]]:
    """All caches at one length and batch."""
    from kvlab.kernels.launch import attend

    q = torch.randn(batch * HEADS, GROUP, SIZE, generator=torch.Generator().manual_seed(2)).to("cuda", torch.float16)
    rows = []
    for name in makers():
        cache = segment(name, tokens, batch, "cuda")
        call = lambda cache=cache: attend(q, [cache], SIZE**-0.5)  # noqa: E731
        rows.append(row(name, clock.time(call), bytes_read(cache), copy, error(q, call(), cache)))
        if name == "fp16":
            rows += [row(other, clock.time(theirs), bytes_read(cache), copy, None) for other, theirs in others(cache, q, batch).items()]
        del cache, call
        torch.cuda.empty_cache()
    times = {found["cache"]: found["us"] for found in rows}
    for found in rows:
        found |= {"times_fp16": round(times["fp16"] / found["us"], 2), "times_sdpa": round(times["torch SDPA"] / found["us"], 2)}
    return [{"tokens": tokens, "batch": batch} | found for found in rows]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384, 32768, 131072], help="multiples of 128")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--model-tokens", type=int, nargs="*", default=[32768, 131072], help="lengths of the whole-model decode; none: leave it out")


@torch.no_grad()
def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Every length with every batch, then a whole model."""
    if not torch.cuda.is_available():
        raise ValueError("bench kernels measures a CUDA device, and torch finds none on this machine.")
    if odd := [tokens for tokens in args.tokens if tokens < 128 or tokens % 128]:
        raise ValueError(f"bench kernels takes multiples of 128 tokens, not {odd[0]}.")
    import triton

    clock = Clock()
    copy = clock.copy_rate()
    device = torch.cuda.get_device_properties(0)
    return {
        "what": "one layer's decode attention with Llama-3.1-8B shapes; times_fp16 and times_sdpa: how many times as fast as those",
        "copy_GB_s": round(copy),
        "layers": [found for tokens in args.tokens for batch in args.batch for found in setting(tokens, batch, clock, copy)],
        "model": [found for tokens in args.model_tokens for found in whole_model(tokens)],
        "setting": {"heads": HEADS, "group": GROUP, "size": SIZE, "replays": REPLAYS, "page": PAGE, "flushed": clock.flush.nbytes},
        "machine": {"device": device.name, "memory": device.total_memory, "multiprocessors": device.multi_processor_count, "clock": _clock()},
        "versions": versions() | {"triton": triton.__version__, "cuda": torch.version.cuda},
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m kvlab bench kernels --tokens {' '.join(map(str, args.tokens))} --batch {' '.join(map(str, args.batch))}",
    }


def _clock() -> str:
    # as the driver's own tool tells it; torch needs a package of NVIDIA's for that
    try:
        asked = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,clocks.max.sm", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "not known"
