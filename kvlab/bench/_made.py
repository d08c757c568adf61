"""Made-up runs of the sizes that `bench ui` measures: plain arrays with evictions at every step, and attention with what it wants but lost."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvlab.runs import RunStore
from kvlab.trace import NEVER, Trace

ASKED = 8  # tokens of the question


def trace(layers: int, heads: int, positions: int, steps: int, seed: int = 0, drop: float = 0.6, reads: bool = True, compared: bool = True) -> Trace:
    """A run over `positions` seen positions and `steps` written tokens. A share `drop` of the prompt leaves, half of it at step 0 and the rest
    spread over all steps; each row of attention reads the first token, the last ones and a few chosen entries, some of which have left.
    reads: keep the rows of this run; compared: those of the full cache."""
    rng, shape = np.random.default_rng(seed), (layers, heads, positions)
    asked = positions - steps + 1
    prompt = max(1, asked - ASKED)
    left = np.full(shape, NEVER, np.uint16)
    chance = rng.random((layers, heads, prompt), np.float32)
    left[..., :prompt][chance < drop] = rng.integers(1, steps, int((chance < drop).sum()))
    left[..., :prompt][chance < drop / 2] = 0
    left[..., 0] = NEVER
    born = asked + np.arange(steps)
    full = np.zeros((steps, *shape), np.float16)
    full[..., 0] = 0.4
    for s in range(steps):
        full[s, ..., max(0, int(born[s]) - 40) : born[s]] += np.float16(0.01)
    if prompt > 1:
        chosen = rng.integers(1, prompt, (layers, heads, 4))
        np.put_along_axis(full, np.broadcast_to(chosen, (steps, layers, heads, 4)), np.float16(0.05), -1)
    run = full.copy()
    for s in range(steps):
        run[s][left <= s] = 0
    flat, none = (lambda n, kind: np.full(steps, n, kind)), np.zeros(0, np.float16)
    return Trace(
        prompt=prompt, asked=asked, ids=np.arange(positions, dtype=np.int32), left_at=left, merged_into=np.full(shape, -1, np.int32),
        score=np.full(shape, np.nan, np.float16), rank=np.full(shape, -1, np.int32), coded_at=np.full(shape, NEVER, np.uint16),
        bits=np.zeros((2, *shape), np.uint8), attention=run if reads else none, read=np.zeros(0, bool), written=np.arange(steps, dtype=np.int32),
        born=born.astype(np.int32), logprob=flat(-0.1, np.float32), resident=flat(1000, np.int64), touched=flat(1000, np.int64),
        transient=flat(0, np.int64), seconds=flat(0.01, np.float64), peak=2000, full=full if compared else none,
        kl=rng.random(steps, np.float32) if compared else np.zeros(0, np.float32), top=np.arange(steps if compared else 0, dtype=np.int32),
    )  # fmt: skip


def save(store: RunStore, number: int, title: str, t: Trace, axis: str = "eviction") -> str:
    """Store it under a title; the id."""
    layers, heads, positions = t.left_at.shape
    pieces = ["The", *[f" word{p % 97}" for p in range(1, positions + 1)]]
    kept = float((t.left_at == NEVER).sum(-1).mean())
    size = {"full": 2000, "nominal": 1000, "predicted": 1010, "resident": 1000, "peak": 2100, "read_per_step": 1000.0}
    manifest: dict[str, Any] = {
        "id": f"{number:016x}", "created": "2026-01-01T00:00:00Z", "title": title, "method": "full" if axis == "reference" else "snapkv", "axis": axis,
        "source": "code", "model": "made", "status": "done", "text": "", "tokens": t.written.tolist(), "knobs": {}, "pieces": pieces,
        "tops": pieces[t.asked :] if t.top.size else [], "kept": [], "seconds": {"prefill": 0.1, "decode_per_token": 0.01},
        "budget": {"asked": "0.5", "realised": {"tokens": kept, "fraction": kept / positions, "bytes": 1000, "bytes_fraction": 0.5}}, "bytes": size,
        "prompt_tokens": t.prompt, "question_tokens": t.asked - t.prompt, "versions": {"dtype": "float32"},
        "request": {"temperature": 0.0, "prompt": "made", "question": ""},
        "geometry": {"layers": layers, "kv_heads": heads, "query_heads": 2 * heads, "windows": [None] * layers},
    }  # fmt: skip
    return store.save(manifest, t)


def big(store: RunStore, layers: int = 28, heads: int = 8, positions: int = 2048, steps: int = 64) -> tuple[str, str]:
    """Two runs on one prompt of the size that scrubbing is promised for."""
    first = save(store, 1, "Made 1", trace(layers, heads, positions, steps))
    return first, save(store, 2, "Made 2", trace(layers, heads, positions, steps, seed=1, drop=0.8, reads=False))


def square(store: RunStore, positions: int = 2048) -> str:
    """A run of one layer, one head and as many steps as positions: its rows of attention are one map of `positions` x `positions`."""
    return save(store, 3, "Made square", trace(1, 1, positions, positions, drop=0.0, compared=False))
