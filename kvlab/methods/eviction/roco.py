"""RoCo, robust cache omission (2024, arXiv 2402.06262). Card: methods/eviction.md, from the authors' EasyKV.

Every slot remembers the mean and the standard deviation of the attention it got from the queries since its own. Slots whose attention
varies most are out of reach; of the others, those with the lowest mean leave. A mean does not grow with age as a sum does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.attention import QUERY_BLOCK, softmax_rows
from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.eviction.h2o import last_slots
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top

TAGS = ("roco sum", "roco squares")


def moments(seen: Seen) -> tuple[Tensor, Tensor]:
    """Sums over this call's real queries of each slot's weight and of its square, both [B, H, T] float32.

    A weight is the mean over the query heads of a KV head, taken before it is squared.
    """
    first = second = torch.zeros(seen.valid().shape, device=seen.q.device)
    for start in range(0, seen.q.shape[2], QUERY_BLOCK):
        block = slice(start, start + QUERY_BLOCK)
        rows = softmax_rows(seen.q[:, :, block], seen.view, seen.q_pos[:, block], seen.rules)
        rows = seen.by_kv_head(rows, "mean") * seen.real[:, None, block, None]
        first, second = first + rows.sum(2), second + rows.square().sum(2)
    return first, second


def mean_std(first: Tensor, second: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over `count` observations, from their sum and the sum of their squares."""
    mean = first / count
    return mean, (second / count - mean.square()).clamp(min=0).sqrt()  # rounding may leave less than nothing


def leaving(mean: Tensor, std: Tensor, free: Tensor, scope: Tensor, count: Tensor) -> Tensor:
    """Mask [B, H, T] of the `count` slots with the lowest mean among the `scope` free ones with the lowest deviation; both [B, H] int."""
    return keep_top(-mean, count, keep_top(-std, scope, free))


@dataclass(frozen=True)
class RoCo(Dropper):
    """Lets go of tokens that get little attention on average, unless that attention varies."""

    name = "roco"
    title = "RoCo"
    paper = "Ren and Zhu, arXiv 2402.06262"
    year = 2024
    source = "mixed"
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "A prompt is attended to in full, and its strides are gone through at its end with the statistics of all its queries. "
        "One budget holds for prompt and answer, so prompt tokens may leave while text is written, the first ones excepted. "
        "Where a budget is small the newest tokens are never taken into reach."
    )

    rho: float = knob(0.1, "Share of the budget out of reach for its varying attention, while a prompt is cut.", 0, 0.9, 0.05)
    rho_decode: float = knob(0.3, "The same while text is written.", 0, 0.9, 0.05)
    stride: int = knob(64, "Tokens of a prompt that come, and go, at a time.", 1, 1024, 1)
    sinks: int = knob(4, "First tokens that always stay.", 0, 64, 1)
    newest: int = knob(10, "Last tokens that have not been looked at often enough to be judged.", 0, 512, 1)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        sums = [layer.store.tag(tag) + new for tag, new in zip(TAGS, moments(seen), strict=True)]
        for tag, values in zip(TAGS, sums, strict=True):
            layer.store.tag(tag, values)
        if seen.phase.kind == "chunk":
            return
        # every query since a slot's own has been counted, so its age is the number of its observations
        mean, std = mean_std(*sums, layer.tokens().view(-1, 1, 1) - seen.pos())
        layer.keep(self._strides(mean, std, seen, layer.target(self.budget)), mean)

    def _strides(self, mean: Tensor, std: Tensor, seen: Seen, count: Tensor) -> Tensor:
        """Mask of what stays: the text passes by in order, and after every stride each head is back at `count` [B] slots."""
        alive, place = seen.valid(), seen.valid().long().cumsum(-1)
        prompt, sinks = seen.phase.kind == "prefill", (count - 1).clamp(max=self.sinks)
        first = seen.pos() < sinks.view(-1, 1, 1)
        share = self.rho if prompt else self.rho_decode
        scope = count - (count * share).long() - (sinks if prompt else 0)
        end = count
        while bool((alive.sum(-1) > count[:, None]).any()):
            end = end + self.stride
            here = alive & (place <= end.view(-1, 1, 1))
            surplus = (here.sum(-1) - count[:, None]).clamp(min=0)
            free = here & ~first & ~last_slots(here, (count - sinks).clamp(max=self.newest))
            alive = alive & ~leaving(mean, std, free, torch.maximum(scope[:, None], surplus), surplus)
        return alive

    def kept(self, tokens: int, prompt: int) -> float:
        return self.budget.limit(tokens, prompt)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        alike = slots <= self.sinks + self.newest  # all that stays is protected, and every head protects the same
        held = slots * geometry.slot_bytes if alike else super().layer_bytes(slots, geometry)
        return held + slots * 2 * 4 * geometry.kv_heads
