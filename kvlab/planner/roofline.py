"""A roofline for one decode step: bytes to be read against operations to be done. A bound that no engine beats, never a forecast of its speed.

Williams, Waterman and Patterson, "Roofline", CACM 2009. A step reads every weight that its tokens touch and every byte their caches hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlab.method import Method, overrides
from kvlab.planner.memory import DTYPES, Demand, one_user


@dataclass(frozen=True)
class Step:
    """One decode step for all users: bytes of weights and of caches, operations, the least seconds by either, and who is slower."""

    weights: float
    caches: float
    flops: float
    memory_s: float
    compute_s: float
    fewer: bool  # it reads less than it holds: how much less is measured in runs, no formula says it

    @property
    def seconds(self) -> float:
        return max(self.memory_s, self.compute_s)

    @property
    def bound(self) -> str:
        return "memory" if self.memory_s >= self.compute_s else "compute"

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / (self.weights + self.caches)


def step(method: Method, demand: Demand, bandwidth: float, peak: float) -> Step:
    """The step that writes the last token. `bandwidth` in bytes/s and `peak` in operations/s, each of one GPU."""
    model, users = demand.shape.weights, demand.users
    weights, caches = model.touched(users) * DTYPES[demand.dtype][0], one_user(method, demand) * users
    flops = 2 * model.active * users + attention(method, demand) * users
    fewer = any(overrides(part, "read") for part in method.members)
    return Step(weights, caches, flops, (weights + caches) / (bandwidth * demand.gpus), flops / (peak * demand.gpus), fewer)


def attention(method: Method, demand: Demand) -> float:
    """Operations of one token's attention: two products with every slot it sees, in every query head; of latents over their own width."""
    g, tokens, prompt = demand.geometry, demand.context, demand.prompt
    width = 2 * g.latent[0] + g.latent[1] if g.latent else 2 * g.head_dim
    slots = sum(min(tokens, window - 1) if window else method.layer_kept(i, tokens, prompt, g) for i, window in enumerate(g.windows))
    return 2 * g.query_heads * width * slots
