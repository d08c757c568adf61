"""LagKV (2025, arXiv 2504.04704). Card: methods/eviction.md, from the authors' code.

No attention at all: the tokens after the sinks are cut into partitions of `lag`. Each is measured with the ranges its successor spans
in every channel; tokens whose normalised keys and values scatter most stay. The last full partition waits until it has a successor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import Dropper, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top


def scatter(x: Tensor) -> Tensor:
    """Relative scatter of each token under the next partition's ranges: `x` [H, n, lag, D] -> [H, n - 1, lag], a softmax in each partition."""
    x = x.float()
    low, high = x[:, 1:].amin(2, keepdim=True), x[:, 1:].amax(2, keepdim=True)
    span = high - low
    scaled = torch.where(span > 0, (x[:, :-1] - low) / span, 0)  # a constant channel says nothing
    return scaled.std(-1).softmax(-1)


@dataclass(frozen=True)
class LagKV(Dropper):
    """Compares each stretch of tokens with the one that follows it; works with any attention kernel."""

    name = "lagkv"
    title = "LagKV"
    paper = "Liang et al., arXiv 2504.04704"
    year = 2025
    schedule = Schedule(prefill=True, every=1)
    departs = "Kept tokens stay in text order. The budget is the share kept of each finished partition: sinks and the last one to two partitions come on top."

    lag: int = knob(64, "Tokens of a partition.", 2, 2048, 1)
    sinks: int = knob(16, "First tokens that always stay.", 0, 256, 1)
    gamma: float = knob(1.0, "Weight of the values' scatter beside the keys'.", 0, 4, 0.1)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        base = layer.state.get("lagkv", [self.sinks] * len(seen.q))  # slots of each row that are done with
        if seen.view.k.shape[2] - min(base) < 2 * self.lag:  # as at most steps: no need to look at the positions
            return
        valid = seen.valid()
        full = [(held - start) // self.lag for held, start in zip(valid[:, 0].sum(-1).tolist(), base, strict=True)]
        if max(full) < 2:
            return
        mask, scores, moved = valid.clone(), torch.full(valid.shape, torch.nan, device=valid.device), list(base)
        prompts = layer.cache.prompt if seen.phase.kind in ("decode", "question") else layer.tokens()
        for row in (row for row, n in enumerate(full) if n >= 2):
            start, n, keep = base[row], full[row], self._share(int(prompts[row]))
            judged = slice(start, start + (n - 1) * self.lag)
            keys, values = (x[row, :, start : start + n * self.lag].unflatten(1, (n, self.lag)) for x in seen.view[:2])
            found = scatter(keys) + self.gamma * scatter(values)
            mask[row, :, judged] = keep_top(found, keep, torch.ones_like(found, dtype=torch.bool)).flatten(1)
            scores[row, :, judged] = found.flatten(1)
            moved[row] += (n - 1) * keep
        layer.state["lagkv"] = moved
        layer.keep(mask, scores)

    def _share(self, prompt: int) -> int:
        """Tokens that stay of one finished partition."""
        share = self.budget.amount if self.budget.unit == "fraction" else self.budget.tokens(prompt) / prompt
        return int(share * self.lag)

    def kept(self, tokens: int, prompt: int) -> float:
        full, rest = divmod(max(0, tokens - self.sinks), self.lag)
        return tokens if full < 2 else self.sinks + (full - 1) * self._share(prompt) + self.lag + rest
