"""SCOPE (2024, arXiv 2412.13649). Card: methods/eviction.md, from the authors' code.

Prompt and answer have budgets of their own. What was kept of the prompt stays for good; of the tokens written, the latest stay, beside
those the current query looks at most. Three strategies say how that second budget grows and how often a choice is made.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.budget import Budget
from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.eviction.snapkv import check_kernel, snap_scores
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


@dataclass(frozen=True)
class Scope(Dropper):
    """A budget for the prompt, and a second one for what is written: long answers do not push the prompt out."""

    name = "scope"
    title = "SCOPE"
    paper = "Wu et al., arXiv 2412.13649"
    year = 2024
    source = "mixed"
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, every=1)
    departs = (
        "The prompt is cut by SnapKV's votes; the authors also offer other methods there. "
        "The budget grows every `delta` steps, where the authors derive that from the answer's length, and stops at `decode`. "
        "Each turn's budget starts afresh, and weights are averaged over the query heads of a KV head."
    )

    strategy: str = knob("slide", "The answer's budget: all at once, growing, or growing with pauses.", choices=("slide", "adaptive", "discontinuous"))
    decode: int = knob(512, "Most tokens of the answer that stay.", 1, 8192, 1)
    recent: int = knob(256, "Of these, the latest, whatever attention they get.", 1, 4096, 1)
    delta: int = knob(15, "Steps after which a growing budget takes one token more; with pauses, also the steps between two choices.", 1, 1024, 1)
    window: int = knob(8, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)
    kernel: int = knob(7, "Width of the smoothing of their votes along the tokens, odd.", 1, 63, 2)
    pool: str = knob("avg", "How votes of neighbours are combined.", choices=("avg", "max"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self)
        if self.recent > self.decode:
            raise ValueError(f"scope: recent is a part of decode, so {self.recent} is too many of {self.decode}. Lower recent or raise decode.")

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        if seen.phase.kind == "prefill":
            count, scores = layer.target(self.budget), snap_scores(seen, self.window, self.kernel, self.pool)
            layer.state.pop("scope", None)
            layer.keep(keep_top(scores, count, seen.valid(), protect(seen.pos(), layer.tokens(), last=count.clamp(max=self.window))), scores)
            return
        pos, prompt = seen.pos(), layer.cache.prompt
        written = pos >= prompt.view(-1, 1, 1)
        held, passed = written[:, 0].sum(-1).tolist(), layer.state.get("scope", [0] * len(pos))
        steps = (layer.tokens() - prompt - 1).tolist()
        plans = [self._plan(*numbers) for numbers in zip(steps, held, passed, strict=True)]
        layer.state["scope"] = [passed for _, passed in plans]
        if any(stay < have for (stay, _), have in zip(plans, held, strict=True)):
            stay = torch.tensor([stay for stay, _ in plans], device=pos.device)
            self._select(layer, seen, written, stay)

    def _select(self, layer: LayerKV, seen: Seen, written: Tensor, stay: Tensor) -> None:
        """Keep `stay` [B] of the `written` slots: the latest, and those the current query looks at most."""
        scores = torch.where(written, seen.by_kv_head(seen.weights(1)[:, :, 0], "mean"), torch.nan)
        latest = protect(seen.pos(), layer.tokens(), last=stay.clamp(max=self.recent))
        layer.keep((seen.valid() & ~written) | keep_top(scores, stay, written, latest), scores)

    def _plan(self, step: int, held: int, passed: int) -> tuple[int, int]:
        """Written slots that stay after `step` (0: the first), and for how many steps a choice has been put off: `held` and `passed` before."""
        limit = self.decode if self.strategy == "slide" else min(self.decode, self.recent + step // self.delta)
        if held < limit:
            return held, passed
        if self.strategy == "discontinuous" and passed < self.delta:
            return held, passed + 1
        return limit, 0

    def kept(self, tokens: int, prompt: int) -> float:
        held = passed = 0
        for step in range(tokens - prompt):
            held, passed = self._plan(step, held + 1, passed)
        return self.budget.tokens(prompt) + held

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        if slots < first + later:  # tokens of the answer left, head by head: a list of positions for each
            return self.with_budget(Budget(1, "tokens")).layer_bytes(slots, geometry)
        # where only the window stays of a prompt, all heads keep the same tokens and share one list of positions
        return slots * geometry.slot_bytes if first <= self.window else self.layer_bytes(slots, geometry)
