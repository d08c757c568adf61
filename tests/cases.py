"""The table of cases. One line for a method buys it all the generic checks of `test_methods.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)  # a case is itself: checks remember its runs
class Case:
    """`method` and `budget` as on the command line, `knobs` small enough for a prompt of 96 tokens.

    full: a setting (budget, knobs) under which it must equal the full cache: the same positions, and logits within `bound` or 1e-4,
    whichever is larger. bound 0: the prompt's rows are equal bit for bit.
    drops: it only drops, so decoding equals a full cache under the recorded mask, and kept rows are exact copies.
    nests: a larger budget keeps a superset (one-shot top-k).
    formula: largest relative gap between predicted and measured bytes after prompts of three lengths and five steps (0: equal to the byte);
    for those that only drop, after a second turn too.
    chunked: whether a prefill in chunks must leave the same cache as one in one piece.
    """

    method: str
    budget: str | None = None
    knobs: dict[str, Any] = field(default_factory=dict)
    full: tuple[str | None, dict[str, Any]] | None = None
    bound: float = 0.0
    drops: bool = False
    nests: bool = False
    formula: float = 0.0
    chunked: bool = True


CASES = [
    Case("full", full=(None, {}), drops=True),
    Case("snapkv", "0.25", {"window": 8}, full=("1.0", {}), drops=True, nests=True),
    Case("random", "0.25", full=("1.0", {}), drops=True, nests=True),
    Case("random", "0.25", {"shared": True, "sinks": 4, "recent": 8}, full=("1.0", {}), drops=True, nests=True),
    Case("streamingllm", "0.25", full=("1.0", {})),
    Case("streamingllm", "0.25", {"renumber": False}, full=("1.0", {}), drops=True, nests=True),
    Case("h2o", "0.25", full=("1.0", {}), drops=True),
    Case("lagkv", "0.5", {"lag": 8, "sinks": 4}, full=("1.0", {}), drops=True, nests=True),
    Case("kvzip", "0.25", {"chunk": 40}, full=("1.0", {}), drops=True, nests=True),
    Case("kvzip", "0.25", {"level": "uniform"}, full=("1.0", {}), drops=True, nests=True),
    Case("kvzip", "0.52", {"level": "head", "sinks": 1}, full=("1.0", {}), drops=True, nests=True, formula=0.03),
    Case("adakv", "0.25", {"window": 8}, full=("1.0", {}), drops=True, formula=0.02),
    Case("kivi", None, {"bits": 4, "group": 8, "residual": 16}, full=(None, {"residual": 128})),
    Case("mustafar", None, {"window": 8, "block": 16}, full=(None, {"k_sparsity": 0, "v_sparsity": 0, "window": 8, "block": 16})),
    Case("think", None, {"recent": 8, "window": 8}, full=(None, {"ratio": 0})),
    Case("snapkv+think", "0.5", {"window": 8, "recent": 8}),
    Case("lagkv+mustafar", "0.5", {"lag": 12, "sinks": 4, "window": 8, "block": 1}),
    Case("snapkv+kivi", "0.5", {"window": 8, "bits": 4, "group": 8, "residual": 16}),
    # how many entries leave which group of a coded cache is up to the text
    Case("h2o+kivi", "0.5", {"group": 8, "residual": 16}, formula=0.02),
    # each head flushes at its own length, and the formula knows their mean only
    Case("adakv+kivi", "0.5", {"window": 8, "bits": 4, "group": 8, "residual": 16}, formula=0.09),
    Case("kvmerger", "0.25", full=("1.0", {})),
    Case("quest", None, {"page": 4, "dense": 1}, full=(None, {"share": 1})),
    Case("xkv", None, {"group": 2}, full=(None, {"key_rank": 1, "value_rank": 1})),
    Case("kvsharer", None, {"share": 0.34, "threshold": -1, "passages": 4, "length": 16}, full=(None, {"threshold": 1.05, "passages": 4, "length": 16})),
    Case("tova", "0.25", full=("1.0", {}), drops=True, nests=True),
    # the tiny model normalises its keys to one length: all tokens tie, and all heads keep the same ones and share one list of positions
    Case("knorm", "0.25", full=("1.0", {}), drops=True, nests=True, formula=0.03),
    Case("keydiff", "0.25", {"block": 16}, full=("1.0", {}), drops=True),
    Case("pyramidkv", "0.25", full=("1.0", {}), drops=True),
    Case("expectedattention", "0.25", {"future": 32}, full=("1.0", {}), drops=True, nests=True),
    Case("qfilters", "0.25", {"window": 8, "passages": 4, "length": 16, "rows": 40}, full=("1.0", {"passages": 4, "length": 16}), drops=True, nests=True),
    Case("roco", "0.25", {"stride": 8}, full=("1.0", {}), drops=True),
    Case("scope", "0.25", {"decode": 3, "recent": 1}, full=("1.0", {}), drops=True, nests=True),
    Case("scope", "0.25", {"strategy": "discontinuous", "decode": 8, "recent": 1, "delta": 1}, full=("1.0", {"recent": 8}), drops=True, nests=True),
    Case("dynamickv", "0.25", {"every": 2}, full=("1.0", {}), drops=True),
    # each layer grows with the text and rounds for itself, and the formula knows their mean only
    Case("prefixkv", "0.25", full=("1.0", {}), drops=True, formula=0.05),
    Case("graphkv", "0.25", {"window": 8}, full=("1.0", {}), drops=True),
    Case("graphkv", "0.25", {"window": 8, "base": "pyramidkv", "rounds": 2}, full=("1.0", {}), drops=True),
    # Qwen3's keys all have the same norm while its weights are random: a tie in every head, and one list of positions for all of them
    Case("graphkv", "0.25", {"window": 8, "base": "knorm"}, full=("1.0", {}), drops=True, formula=0.02),
    Case("kvcrush", "0.25", {"window": 8}, full=("1.0", {}), drops=True),
]
