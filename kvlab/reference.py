"""The same text through the full cache: what it would have looked at and written where this run stood."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from kvlab.cache import LayerKV
from kvlab.method import Method
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.seen import Seen
from kvlab.session import Session
from kvlab.store import Store
from kvlab.trace import Silent, Trace


class _Rows(Silent):
    """Keeps the weights of the last `steps` queries, mean over the query heads of a KV head."""

    def __init__(self, steps: int, layers: int, heads: int) -> None:
        self.steps, self.heads, self.rows = steps, heads, [None] * layers

    def attended(self, layer: LayerKV, store: Store, seen: Seen) -> None:
        if seen.phase.kind != "prefill":
            return
        rows = seen.weights(self.steps)[0].unflatten(0, (self.heads, -1)).mean(1)
        out = np.zeros((*rows.shape[:2], int(layer.cache.tokens[0])), np.float16)
        out[..., seen.view.pos[0, 0].cpu().numpy()] = rows.cpu().numpy()
        self.rows[layer.index] = out


def replay(lm: LM, trace: Trace, logits: np.ndarray, chunk: int = 1024) -> Trace:
    """Feed the run's own text to the full cache in one go. `logits` [S, V] are the run's; adds `full`, `kl` and `top` to the trace."""
    steps = len(trace.written)
    rows = _Rows(steps, lm.geometry.layers, lm.geometry.kv_heads)
    session = Session(lm, Method(), recorder=rows)
    ids = torch.tensor([trace.ids.tolist()], device=lm.device)
    body = max(0, ids.shape[1] - max(steps, min(chunk, ids.shape[1])))
    for start in range(0, body, chunk):
        session.forward(ids[:, start : min(start + chunk, body)], Phase("chunk"))
    theirs = session.forward(ids[:, body:], Phase("prefill"), last=steps)[0].float().log_softmax(-1)
    ours = torch.from_numpy(logits).to(theirs).log_softmax(-1)
    kl = (theirs.exp() * (theirs - ours)).sum(-1)
    full = np.stack(rows.rows).transpose(2, 0, 1, 3) if trace.attention.size else trace.full
    return dataclasses.replace(trace, full=full, kl=kl.cpu().numpy().astype(np.float32), top=theirs.argmax(-1).int().cpu().numpy())
