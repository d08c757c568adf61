"""The methods of kvlab that kvpress has too, each with the press and the knobs that make them the same, and why they may still differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kvlab.method import Method
from kvlab.registry import make


@dataclass(frozen=True)
class Pair:
    """`method` with `knobs`, and `press` with `settings`; `base`: press inside a wrapper. every: both go on dropping while they write."""

    method: str
    press: str | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    every: bool = False
    why: str = ""

    def ours(self, budget: float) -> Method:
        """kvlab's method at this kept fraction."""
        return make(self.method, None if self.press is None else str(budget), {name: str(value) for name, value in self.knobs.items()})

    def theirs(self, ratio: float) -> dict[str, Any]:
        """The press and its knobs for the worker; `ratio` is the share it drops."""
        if self.press is None:
            return {"press": None, "knobs": {}}
        if self.base:
            return {"press": self.press, "knobs": {"press": [self.base, {"compression_ratio": ratio, **self.settings}]}}
        return {"press": self.press, "knobs": {"compression_ratio": ratio, **self.settings}}


WINDOW = {"window": 64, "kernel": 5, "pool": "avg"}
THEIR_WINDOW = {"window_size": 64, "kernel_size": 5}

PAIRS = {
    "full": Pair("full"),
    "knorm": Pair(
        "knorm", "KnormPress",
        why="kvlab rounds norms to three decimals, as rotation moves them a little, and gives ties to the earlier token; kvpress takes them as they come. "
            "Entries at the edge of the budget whose norms are alike to three decimals change places.",
    ),
    "tova": Pair("tova", "TOVAPress", every=True, why="kvpress always keeps the newest token; in kvlab, as in the authors' code, it competes."),
    "snapkv": Pair("snapkv", "SnapKVPress", WINDOW, THEIR_WINDOW),
    "keydiff": Pair("keydiff", "KeyDiffPress", {"block": 0}),
    "lagkv": Pair("lagkv", "LagKVPress", {"lag": 128, "sinks": 4}, {"lag_size": 128, "n_sink": 4}),
    "streamingllm": Pair("streamingllm", "StreamingLLMPress", {"sinks": 4, "renumber": False}, {"n_sink": 4}, every=True),
    "pyramidkv": Pair(
        "pyramidkv", "PyramidKVPress", {**WINDOW, "beta": 20}, {**THEIR_WINDOW, "beta": 20},
        why="Budgets of the layers differ. kvlab takes the authors' (KVCache-Factory): the window comes off the budget first, steps between layers are whole "
            "numbers, the window is added to each layer. kvpress counts the window inside a layer's budget and rounds each layer by itself.",
    ),
    "expectedattention": Pair("expectedattention", "ExpectedAttentionPress", {"future": 512, "sinks": 4}, {"n_future_positions": 512, "n_sink": 4}),
    "qfilters": Pair("qfilters", "QFilterPress", {"window": 0}, every=True),
    "adakv": Pair(
        "adakv", "AdaKVPress", {**WINDOW, "base": "snapkv", "alpha": 0.2}, THEIR_WINDOW, base="SnapKVPress",
        why="Two readings of the safeguard. kvlab mixes, as the authors' code does: a head gets alpha of an even share plus 1 - alpha of what it won among the "
            "layer's best. kvpress gives each head its own best alpha share first and lets the rest compete, which moves more entries between heads.",
    ),
}  # fmt: skip
"""By name. `why` is told only where positions were found to differ."""
