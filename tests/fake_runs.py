"""Stored runs made of plain arrays, for the pages: every way an entry can leave or be held, without a model."""

from __future__ import annotations

import numpy as np

from kvlab.runs import StoredRun
from kvlab.trace import NEVER, Trace

PROMPT = "Nobody had seen the cold puzzle in the shed . Hugo left the blue orchid . "
PROMPT += "The code of the black puzzle is 4 3 8 6 . The code of the green falcon is 2 9 1 6 ."
WORDS = [w if i == 0 or w.isdigit() or w == "." else " " + w for i, w in enumerate(PROMPT.split())]
QUESTION = [" What", " is", " the", " code", " of", " the", " green", " falcon", "?"]
STEPS = 8


def fake(kind: str = "evict", layers: int = 3, heads: int = 2, long: int = 1, pieces: list[str] | None = None, seed: int = 0) -> StoredRun:
    """One run of 8 steps.

    kind: "evict" (the digit "2" of the falcon's code left head L1 · H1 after the prompt, wanted at 60 %, and step 1 differs), "merge" (the same,
    merged into another), "bits" (2-bit keys, 4-bit values), "read" (all held, half read), "alone" (evictions, no reference), "same" (evictions,
    nothing wanted lost), "full", "empty" (stopped before the first token). `long` repeats the prompt, `pieces` replaces it.
    """
    rng = np.random.default_rng(seed)
    prompt = pieces or WORDS * long
    asked = len(prompt) + len(QUESTION)
    steps = 0 if kind == "empty" else STEPS
    total = asked + max(0, steps - 1)
    shape = layers, heads, total
    born = asked + np.arange(steps)
    left, into = np.full(shape, NEVER, np.uint16), np.full(shape, -1, np.int32)
    wanted = len(prompt) - 5 if pieces is None else 1
    full = rng.random((steps, *shape), np.float32) ** 6
    full[..., 0] += 1
    full *= np.arange(total) < born[:, None, None, None]
    full = full * 0.4 / np.maximum(1e-9, full.sum(-1, keepdims=True))
    full[..., wanted] += 0.6 if kind in ("evict", "merge") else 0.0
    full[..., 0] += 0.6 if kind not in ("evict", "merge") else 0.0
    if kind in ("evict", "merge", "alone", "same"):
        faint = full[:, :, :, : len(prompt)].max(0) < (0.025 if kind == "same" else 0.02)
        drop = faint & (rng.random(faint.shape) < np.linspace(0.25, 0.75, layers * heads).reshape(layers, heads, 1))
        left[..., : len(prompt)][drop] = 0
        if kind in ("evict", "merge"):
            left[1, 1, wanted] = 0
            left[0, 0, 10:14] = 4
    if kind == "merge":
        gone = left != NEVER
        into[gone] = 0
        into[1, 1, wanted] = len(prompt) - 12
    held = left[None] > np.arange(steps)[:, None, None, None]
    run = np.where(held, full, 0)
    run = run / np.maximum(1e-9, run.sum(-1, keepdims=True))
    written = np.arange(100, 100 + steps, dtype=np.int32)
    top = written.copy()
    if kind in ("evict", "merge", "bits") and steps:
        top[1] = 7
    read = rng.random((steps, *shape)) < 0.5 if kind == "read" else np.zeros(0, bool)
    bits = np.zeros((2, *shape), np.uint8)
    coded = np.full(shape, NEVER, np.uint16)
    if kind == "bits":
        bits[0, ..., : len(prompt) - 4], bits[1, ..., : len(prompt) - 4] = 2, 4
        coded[..., : len(prompt) - 4] = 0
    compared = kind not in ("alone", "empty")
    trace = Trace(
        prompt=len(prompt), asked=asked, ids=np.arange(total, dtype=np.int32), left_at=left, merged_into=into,
        score=np.where(left == 0, 0.001, 0.02).astype(np.float16), rank=np.where(left == 0, 40, 3).astype(np.int32), coded_at=coded, bits=bits,
        attention=run.astype(np.float16), read=read, written=written, born=born.astype(np.int32), logprob=np.full(steps, -0.1, np.float32),
        resident=np.full(steps, 1000, np.int64), touched=np.full(steps, 1000, np.int64), transient=np.zeros(steps, np.int64),
        seconds=np.full(steps, 0.01), peak=2000, full=full.astype(np.float16) if compared else np.zeros(0, np.float16),
        kl=np.full(steps, 0.1, np.float32) if compared else np.zeros(0, np.float32), top=top if compared else np.zeros(0, np.int32),
    )  # fmt: skip
    return StoredRun(_manifest(kind, trace, [*prompt, *QUESTION, *[f" a{s}" for s in range(steps)]]), trace)


def _manifest(kind: str, t: Trace, pieces: list[str]) -> dict:
    layers, heads, _ = t.left_at.shape
    axis = {"bits": "quantization", "read": "retrieval", "merge": "merging", "full": "reference"}.get(kind, "eviction")
    kept = float((t.left_at == NEVER).sum(-1).mean())
    size = {"full": 2000, "nominal": 1000, "predicted": 1010, "resident": 1000, "peak": 2100, "read_per_step": 1000.0}
    realised = {"tokens": kept, "fraction": kept / len(t.ids), "bytes": 1000, "bytes_fraction": 0.5}
    return {
        "id": f"{sum(map(ord, kind)):016x}", "created": "2026-01-01T00:00:00Z", "title": f"Made {kind}", "method": kind, "axis": axis, "source": "recon",
        "model": "made", "status": "stopped" if kind == "empty" else "done", "text": "", "tokens": t.written.tolist(), "knobs": {}, "pieces": pieces,
        "tops": [" other" if a != b else f" a{s}" for s, (a, b) in enumerate(zip(t.top, t.written, strict=False))], "kept": [],
        "seconds": {"prefill": 0.1, "decode_per_token": 0.01}, "budget": {"asked": None if kind == "full" else "0.5", "realised": realised}, "bytes": size,
        "prompt_tokens": t.prompt, "question_tokens": t.asked - t.prompt, "versions": {"dtype": "float32"}, "request": {"temperature": 0.0},
        "geometry": {"layers": layers, "kv_heads": heads, "query_heads": 2 * heads, "windows": [None] * layers},
    }  # fmt: skip
