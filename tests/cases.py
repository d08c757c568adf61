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


SHORT: dict[str, Any] = {"passages": 2, "length": 40}
"""Calibration that is over at once."""

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
    Case("adakv", "0.25", {"base": "pyramidkv", "window": 8}, full=("1.0", {}), drops=True, formula=0.02),
    # a tie in every head, as for Knorm itself: the heads keep the same tokens and share one list of positions
    Case("adakv", "0.25", {"base": "knorm"}, full=("1.0", {}), drops=True, formula=0.03),
    Case("adakv", "0.25", {"base": "keydiff"}, full=("1.0", {}), drops=True, formula=0.02),
    Case("adakv", "0.25", {"base": "expectedattention"}, full=("1.0", {}), drops=True, formula=0.02),
    Case("adakv", "0.25", {"base": "qfilters", "window": 8}, full=("1.0", {}), drops=True, formula=0.02),
    # in a layer whose heads are all of one kind the heads share one list of positions, and the table alone knows which layers these are
    # a surplus that is lost leaves less than the formula says: test_heads.py holds what the table says
    Case("headkv", "0.25", {"surplus": "shared"}, full=("1.0", {}), drops=True, formula=0.02),
    Case("headkvr2", "0.25", {"surplus": "shared"}, full=("1.0", {}), drops=True, formula=0.02),
    Case("headkvr2+kivi", "0.5", {"surplus": "shared", "bits": 4, "group": 8, "residual": 16}, formula=0.02),
    Case("razorattention", "0.5", {"recent": 8}, full=("1.0", {}), formula=0.03),
    Case("razorattention", "0.5", {"recent": 8, "fold": True}, full=("1.0", {}), formula=0.03),
    Case("razorattention", "0.5", {"recent": 8, "compensation": "none"}, full=("1.0", {}), drops=True, formula=0.03),
    # each head flushes at its own length, and how many are whole the profile knows
    Case("razorattention+kivi", "0.5", {"recent": 8, "bits": 4, "group": 8, "residual": 16}, formula=0.09),
    Case("duoattention", "0.5", {"sinks": 4, "recent": 8, "steps": 6, "size": 64}, full=("1.0", {"steps": 6, "size": 64}), drops=True, formula=0.03),
    # the gates know which layers have heads of one kind, which share one list of positions; groups count their rows once some have left
    Case("duoattention+kivi", "0.5", {"sinks": 4, "recent": 8, "steps": 6, "size": 64, "bits": 4, "group": 8, "residual": 16}, formula=0.035),
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
    # quantizers: at 8 bits the logits of the full cache but for rounding. Those have a standard deviation of 1.6, and the largest error of all is bounded.
    # A float of 8 bits with 3 of them for the mantissa is off by up to 1/16 of every number, whatever its scale: five times as coarse as 255 even steps
    Case("fp8", None, {"window": 8}, full=(None, {"scale": "token"}), bound=0.5),
    Case("fp8", None, {"scale": "token", "form": "e5m2", "sinks": 2}, full=(None, {"scale": "token"}), bound=0.5),
    Case("quarot", None, {"group": 8}, full=(None, {"bits": 8}), bound=0.1),
    Case("turboquant", None, {"window": 8}, full=(None, {"k_bits": 8, "v_bits": 8}), bound=0.1),
    Case("turboquant", None, {"product": True, "k_bits": 3, "sinks": 3}, full=(None, {"k_bits": 8, "v_bits": 8}), bound=0.1),
    Case("rotatekv", None, {"group": 8, **SHORT}, full=(None, {"bits": 8, "clip": 1, "group": 8, **SHORT}), bound=0.1),
    # levels and ranges of keys learned from 512 tokens: what lies outside them on other text is clipped, but for the outliers
    Case("kvquant", None, {"window": 8, **SHORT}, full=(None, {"bits": 8, "outliers": 0.1, "passages": 8, "length": 64}), bound=0.15),
    Case("bfp", None, {"block": 8, **SHORT}, full=(None, {"bits": 8, **SHORT}), bound=0.1),
    Case("bfp", None, {"block": 8, "sort": "weights", "values": False, "sinks": 2}, full=(None, {"bits": 8, "sort": "weights"}), bound=0.1),
    Case("cq", None, {"bits": 4, "window": 8, **SHORT}, full=(None, {"bits": 4, "window": 128, **SHORT})),
    Case("resq", None, {**SHORT}, full=(None, {"low": 8, **SHORT}), bound=0.1),
    Case("quantizedcache", None, {"group": 8, "residual": 4}, full=(None, {"bits": 8}), bound=0.1),
    Case("quantizedcache", None, {"group": 8, "residual": 4, "axis_key": "channel"}, full=(None, {"bits": 8, "group": 8, "axis_key": "channel"}), bound=0.1),
    # of a prompt in chunks only the last chunk's queries are probed
    Case("zipcache", None, {"gap": 3}, full=(None, {"high": 8, "low": 8}), bound=0.1, chunked=False),
    Case("mikv", None, full=(None, {"share": 1})),
    Case("mikv", None, {"share": 0.3, "high": 8, "low": 3, "group": 8, "balance": False}, full=(None, {"low": 8}), bound=0.1),
    Case("gear", None, {"group": 8, "gap": 8}, full=(None, {"bits": 8, "group": 8, "gap": 8}), bound=0.1),
    Case("gear", None, {"group": 8, "gap": 16, "rank": 0, "later_rank": 0, "outliers": 0}, full=(None, {"bits": 8, "group": 8, "gap": 8}), bound=0.1),
    Case("ostquant", None, {"steps": 3, **SHORT}, full=(None, {"bits": 8, "steps": 3, **SHORT}), bound=0.1),
    Case("csr", None, {"window": 8, "terms": 3, "atoms": 32, "steps": 3, **SHORT}, full=(None, {"terms": 16, "atoms": 40, "width": 16, **SHORT}), bound=0.01),
    Case("csr", None, {"terms": 2, "atoms": 40, "width": 16, "sinks": 2, "steps": 0, **SHORT}),
    # how long a stream gets is up to the picture; without loss, 8 bits of one range for all tokens of a channel are left
    Case("vcllm", None, {"codec": "h264", "window": 8, "chunk": 4}, full=(None, {"codec": "ffv1", "window": 8}), bound=0.15, formula=0.15),
    Case("aquakv", None, {"buffer": 16, **SHORT}, full=(None, {"buffer": 256, **SHORT})),
    # compositions over methods that drop at a prompt's end: what is left is coded, to the byte; in heads that keep different tokens too
    Case("snapkv+rotatekv", "0.5", {"snapkv.window": 8, "group": 8, "sinks": 0, **SHORT}),
    Case("snapkv+resq", "0.5", {"snapkv.window": 8, **SHORT}),
    Case("snapkv+gear", "0.5", {"window": 8, "group": 8, "gap": 8}),
    # heads that drop different tokens while text is written share vectors of codes, which stay as long as one of them needs them
    Case("lagkv+kvquant", "0.5", {"lag": 12, "lagkv.sinks": 4, "kvquant.sinks": 1, **SHORT}, formula=0.03),
    Case("lagkv+turboquant", "0.5", {"lag": 12, "lagkv.sinks": 4, "turboquant.sinks": 0}),
    Case("kvmerger", "0.25", full=("1.0", {})),
    Case("cam", "0.25", full=("1.0", {})),
    Case("cam", "0.25", {"host": "h2o", "draw": False, "neighbours": 4}, full=("1.0", {"host": "h2o"})),
    Case("d2o", "0.25", {"whole": 1, "whole_last": 0}, full=("1.0", {})),
    Case("ems", "0.25", {"window": 4}, full=("1.0", {})),
    Case("less", "0.25", {"passages": 2, "length": 16, "epochs": 1, "hidden": 8}, full=("1.0", {"passages": 2, "length": 16, "epochs": 1, "hidden": 8})),
    Case("less", "0.25", {"host": "window", "rank": 3, "passages": 2, "length": 16, "epochs": 1, "hidden": 8}),
    # how often a token comes again is up to the text: the formula says what it costs when none does
    Case("mergear", None, {"alike": 0.3}, full=(None, {"alike": 1.1}), formula=0.4),
    Case("quest", None, {"page": 4, "dense": 1}, full=(None, {"share": 1})),
    Case("hata", None, {"dense": 1, "bits": 32, "epochs": 2, **SHORT}, full=(None, {"share": 1, "bits": 32, "epochs": 0})),
    Case("hata", None, {"dense": 0, "share": 0.1, "norm": False, "sinks": 2, "recent": 3, "epochs": 0}, full=(None, {"share": 1, "norm": False, "epochs": 0})),
    Case("snapkv+hata", "0.5", {"window": 8, "dense": 0, "bits": 64, "epochs": 0}),
    Case("adakv+hata", "0.25", {"window": 8, "dense": 0, "bits": 32, "epochs": 0}, formula=0.03),
    Case("infllm", None, {"sinks": 3, "local": 20, "block": 5, "blocks": 3, "best": 2}, full=(None, {"local": 128})),
    Case("infllm", None, {"sinks": 0, "local": 9, "block": 8, "blocks": 0, "best": 1}),
    # of a prompt in one piece attention is counted on what was left of it
    Case("snapkv+infllm", "0.5", {"snapkv.window": 8, "sinks": 3, "local": 20, "block": 5, "blocks": 3, "best": 2}, chunked=False),
    Case("xkv", None, {"group": 2}, full=(None, {"key_rank": 1, "value_rank": 1})),
    Case("palu", None, {"block": 4, **SHORT}, full=(None, {"share": 1, **SHORT}), bound=1e-4),
    Case("palu", None, {"heads": 1, "search": "uniform", "block": 4, "bits": 4, "window": 5, "sinks": 2, **SHORT},
         full=(None, {"share": 1, "heads": 1, "search": "uniform", **SHORT}), bound=1e-4),
    Case("kvsharer", None, {"share": 0.34, "threshold": -1, "passages": 4, "length": 16}, full=(None, {"threshold": 1.05, "passages": 4, "length": 16})),
    Case("clusterkv", None, {"size": 4, "sinks": 4, "window": 3, "dense": 1}, full=(None, {"share": 1})),
    Case("snapkv+clusterkv", "0.5", {"snapkv.window": 8, "size": 4, "sinks": 4, "clusterkv.window": 3, "dense": 1}),
    Case("magicpig", None, {"bits": 3, "tables": 9, "recent": 8}, full=(None, {"bits": 0})),
    Case("snapkv+magicpig", "0.5", {"window": 8, "bits": 3, "tables": 9, "recent": 8}),
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
    Case("kvcrush", "0.5", {"window": 8, "form": "blocks", "block": 4}, full=("1.0", {}), drops=True, formula=0.03),
    # the layers above read fewer tokens, and of a prompt in chunks only the last chunk gets shorter
    Case("fastkv", "0.25", {"depth": 0.34, "rate": 0.5}, full=("1.0", {}), chunked=False),
    # what a layer drops no layer above computes, chunk or no chunk
    Case("spatten", "0.5", {}, full=("1.0", {"heads": 1.0, "msb": 0}), chunked=False),
    # 12 + 4 bits under a scale that is rounded to float16
    Case("spatten", "0.5", {"msb": 6, "values": 0.5}, full=("1.0", {"heads": 1.0, "msb": 12, "threshold": 1.0}), bound=0.01, chunked=False),
    Case("spatten", "0.25", {"heads": 0.5, "values": 0.5, "msb": 0}, chunked=False),
    Case("adore", "0.25", {"rebuild": 2, "passages": 4, "steps": 3}, full=("1.0", {"passages": 4, "steps": 3})),
    Case("adore", "0.25", {"controller": "attention", "rebuild": 2}, full=("1.0", {})),
    # whole windows: the text says whether the last one, which may be short, stays, and the classifier how long the suffix is
    Case("windowkv", "0.5", {"size": 4, "group": 1, "beta": 2, "prompts": 16}, full=("1.0", {"prompts": 16}), drops=True, formula=0.04),
    Case("windowkv", "0.5", {"size": 2, "group": 2, "strategy": "average"}, full=("1.0", {}), drops=True, formula=0.05),
]
