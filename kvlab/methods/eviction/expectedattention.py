"""Expected Attention (2025, arXiv 2510.00636). Card: methods/eviction.md, from NVIDIA/kvpress, which is the authors' code.

The queries to come are taken for normally distributed: mean and covariance are those of the prompt's queries before rotation, turned by
the average rotation of the next `future` positions. The attention each key can expect of them, times the length of its value, is the score.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import Scorer, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import protect


def moments(queries: Tensor, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count [B, 1, 1], sum [B, Hq, D] and sum of outer products [B, Hq, D, D] of `queries` [B, Hq, t, D] where `taken` [B, t]. float64.

    Sums in double precision: the prompt may come in chunks, and a covariance is a small difference of large numbers.
    """
    x = (queries * taken[:, None, :, None]).double()
    return taken.sum(1).view(-1, 1, 1), x.sum(2), x.mT @ x


@dataclass(frozen=True)
class ExpectedAttention(Scorer):
    """Keeps what the queries of the next positions are expected to read, judged by the prompt's queries."""

    name = "expectedattention"
    title = "Expected Attention"
    paper = "Devoto et al., arXiv 2510.00636"
    year = 2025
    needs = ("queries", "rope")
    schedule = Schedule(prefill=True, chunks=True)
    departs = (
        "Queries are turned back from the ones attention used instead of being computed again from hidden states. First tokens are protected by a mask, "
        "not by a large score. In a later turn only the new prompt's queries count."
    )

    future: int = knob(512, "Positions after the prompt whose queries are expected.", 1, 8192, 1)
    sinks: int = knob(4, "First tokens that always stay and whose queries do not count.", 0, 64, 1)
    covariance: bool = knob(True, "Let the queries' spread count, and not their mean alone.")
    values: bool = knob(True, "Weigh the expected attention by the length of the value.")

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        found = moments(layer.rope.unrotate(seen.q, seen.q_pos[:, None]), seen.q_pos >= self.sinks)
        if "expected" in layer.state:
            found = tuple(old + new for old, new in zip(layer.state["expected"], found, strict=True))
        layer.state["expected"] = found
        if seen.phase.kind == "prefill":
            super().compress(layer, seen)
            del layer.state["expected"]

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        logits = self._logits(layer, seen)
        judged = (seen.pos() >= self.sinks).repeat_interleave(seen.groups, dim=1)
        weights = logits.masked_fill(~judged, torch.finfo(torch.float32).min).softmax(-1)
        scores = seen.by_kv_head(weights, "mean")
        return scores * seen.view.v.float().norm(dim=-1) if self.values else scores

    def _logits(self, layer: LayerKV, seen: Seen) -> Tensor:
        """Expected logit of each key, [B, Hq, T] float32: the logarithm of the mean of exp(q k) over normally distributed q."""
        turn = torch.stack([layer.rope.average(int(n) + torch.arange(self.future, device=seen.q.device), seen.q.shape[3]) for n in layer.tokens()])
        n, total, outer = layer.state["expected"]
        mean = total / n.clamp(min=1)
        keys, scale = seen.view.k.float()[:, :, None], seen.rules.scaling
        expected = (mean.float() @ turn).unflatten(1, (-1, seen.groups))
        logits = (keys @ expected[..., None])[..., 0] * scale
        if self.covariance:
            spread = (outer / n.clamp(min=1)[..., None] - mean[..., None] * mean[..., None, :]).float()
            spread = (turn.mT[:, None] @ spread @ turn[:, None]).unflatten(1, (-1, seen.groups))
            logits = logits + ((keys @ spread) * keys).sum(-1) * (scale**2 / 2)
        return logits.flatten(1, 2)

    def protected(self, layer: LayerKV, seen: Seen, count: Tensor) -> Tensor:
        return protect(seen.pos(), layer.tokens(), first=count.clamp(max=self.sinks))
