"""Made runs for the Compare page: what is written is chosen, and the kept entries are those of `fake_runs`."""

from __future__ import annotations

import dataclasses

import numpy as np
from fake_runs import fake

from kvlab.runs import StoredRun

WORDS = [" VAR", " pen", " =", " 525", "170", "."]
"""What the full cache writes."""


def saying(words: list[str], kind: str = "same", name: str = "", kl: float = 0.0, cut: bool = False, **options: int) -> StoredRun:
    """A run of `fake(kind)` that writes these tokens and no more (at most 8). `kl`: nats from the full cache at every step. `cut`: it had to stop there."""
    run = fake(kind, **options)
    t, n = run.trace, len(words)
    steps = {f.name: getattr(t, f.name)[:n] for f in dataclasses.fields(t) if f.name in ("born", "logprob", "resident", "touched", "transient", "seconds")}
    ids = np.array([sum(map(ord, w)) for w in words], np.int32)
    positions = t.asked + n - 1
    tokens = {name: getattr(t, name)[..., :positions] for name in ("left_at", "merged_into", "score", "rank", "coded_at", "bits")}
    rows = {name: getattr(t, name)[:n, ..., :positions] for name in ("attention", "full", "read") if getattr(t, name).size}
    trace = dataclasses.replace(t, **steps, **tokens, **rows, ids=np.arange(positions, dtype=np.int32), written=ids, top=ids, kl=np.full(n, kl, np.float32))
    m = {**run.manifest, "tokens": ids.tolist(), "text": "".join(words), "title": name or f"Made {kind}"}
    m["pieces"] = [*m["pieces"][: t.asked], *words]
    m["id"] = f"{sum(i * ord(c) for i, c in enumerate(kind + name + str(words) + str(options), 3)):016x}"
    m["request"] = {"prompt": "made", "question": "?", "temperature": 0.0, "seed": 0, "max_new_tokens": n if cut else 64}
    if kind == "full":
        m["bytes"] = dict.fromkeys(m["bytes"], 2000)
    return StoredRun(m, trace)
