"""The four scores of the head profile as functions of attention rows, and the recorders that gather such rows from a forward call."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.attention import QUERY_BLOCK, softmax_rows
from kvlab.cache import LayerKV
from kvlab.seen import Seen
from kvlab.trace import Silent


def copies(rows: Tensor, ids: Tensor, chosen: Tensor, start: int, stop: int) -> Tensor:
    """HeadKV's retrieval score of one prompt: `rows` [..., m, T] of attention, `ids` [T] read, `chosen` [m] written -> [...]."""
    best = rows.argmax(-1)
    hits = (best >= start) & (best < stop) & (ids[best] == chosen)
    return hits.float().sum(-1) / (stop - start)


def rests(rows: Tensor, start: int, stop: int) -> Tensor:
    """HeadKV-R2's score of one prompt: attention [..., m, T] on the needle among each row's n strongest entries, over n -> [...]."""
    size = stop - start
    most, where = rows.topk(min(size, rows.shape[-1]), dim=-1)
    return (most * ((where >= start) & (where < stop))).sum((-1, -2)) / size


def repeats(rows: Tensor, first: int, period: int, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Sums over queries of echo and of induction mass: `rows` [..., m, T] of the queries at first, first + 1, ... -> two of [...].

    The tokens from `offset` on repeat every `period`. Queries before the second repetition have no earlier copy and count nothing.
    """
    m, slots = rows.shape[-2:]
    query = torch.arange(first, first + m, device=rows.device)[:, None]
    back = query - torch.arange(slots, device=rows.device)
    later, copy = query >= offset + period, torch.arange(slots, device=rows.device) >= offset
    echo = later & copy & (back > 0) & (back % period == 0)
    after = later & (back >= 0) & (back % period == period - 1) & (back < query - offset)
    return (rows * echo).sum((-1, -2)), (rows * after).sum((-1, -2))


class Rows(Silent):
    """Keeps the attention of the last `count` queries of each layer, [Hq, count, T]."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: list[Tensor] = []

    def attended(self, layer: LayerKV, store: object, seen: Seen) -> None:
        self.found.append(seen.weights(self.count)[0])


class Repeats(Silent):
    """Adds up echo and induction mass of each layer, block by block: the whole map of a long text is never held."""

    def __init__(self, period: int, offset: int) -> None:
        self.period, self.offset = period, offset
        self.found: list[tuple[Tensor, Tensor]] = []

    def attended(self, layer: LayerKV, store: object, seen: Seen) -> None:
        sums = []
        for start in range(0, seen.q.shape[2], QUERY_BLOCK):
            block = slice(start, start + QUERY_BLOCK)
            rows = softmax_rows(seen.q[:, :, block], seen.view, seen.q_pos[:, block], seen.rules)[0]
            sums.append(repeats(rows, start, self.period, self.offset))
        echo, after = zip(*sums, strict=True)
        self.found.append((torch.stack(echo).sum(0), torch.stack(after).sum(0)))
