"""What a method may look at after attention: the queries of this call, the slots, and weights computed only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kvlab.attention import QUERY_BLOCK, Rules, softmax_rows
from kvlab.phase import Phase
from kvlab.store import Pages, View


@dataclass(frozen=True)
class Seen:
    """`q` [B, Hq, t, D] after RoPE at `q_pos` [B, t]; `slots`: the view they attended to, or what makes one when it is first looked at."""

    q: Tensor
    q_pos: Tensor
    slots: View | Pages | Callable[[], View]
    rules: Rules
    phase: Phase

    @property
    def view(self) -> View:
        """The slots. A view of coded slots is made here and once, as most who encode never look at it."""
        if not isinstance(self.slots, View):
            object.__setattr__(self, "slots", self.slots.view() if isinstance(self.slots, Pages) else self.slots())
        return self.slots

    @property
    def groups(self) -> int:
        """Query heads per KV head."""
        return self.q.shape[1] // self.view.k.shape[1]

    def weights(self, rows: int) -> Tensor:
        """Attention weights of the last `rows` queries: [B, Hq, min(rows, t), T] float32."""
        rows = min(rows, self.q.shape[2])
        return softmax_rows(self.q[:, :, -rows:], self.view, self.q_pos[:, -rows:], self.rules)

    def by_kv_head(self, x: Tensor, how: str) -> Tensor:
        """Reduce the query heads of each KV head: [B, Hq, ...] -> [B, H, ...] by "mean", "max" or "sum"."""
        grouped = x.unflatten(1, (-1, self.groups))
        return grouped.amax(2) if how == "max" else getattr(grouped, how)(2)

    def column_sums(self, how: str = "mean") -> Tensor:
        """Attention each slot got, summed over all real queries of this call: [B, H, T] float32. Block by block, never [t, T] at once."""
        total = None
        for start in range(0, self.q.shape[2], QUERY_BLOCK):
            stop = start + QUERY_BLOCK
            rows = softmax_rows(self.q[:, :, start:stop], self.view, self.q_pos[:, start:stop], self.rules)
            part = (rows * self.real[:, None, start:stop, None]).sum(2)
            total = part if total is None else total + part
        # reduced once: the largest of sums is not the sum of each block's largest
        return self.by_kv_head(total, how)

    @property
    def real(self) -> Tensor:
        """[B, t] bool: queries that are tokens, not padding."""
        return self.q_pos >= 0

    def valid(self) -> Tensor:
        """[B, H, T] bool: slots that hold a token."""
        return (self.view.pos >= 0).expand(-1, self.view.k.shape[1], -1)

    def pos(self) -> Tensor:
        """[B, H, T] int32 true positions, -1 for holes."""
        return self.view.pos.expand(-1, self.view.k.shape[1], -1)
