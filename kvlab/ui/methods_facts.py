"""What a card of the Methods page says of a method, read from its class: nothing is written here about any single one."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from kvlab import claims
from kvlab.geometry import Geometry
from kvlab.method import AXES, Method, overrides
from kvlab.predict import predicted_bytes
from kvlab.registry import describe, registry
from kvlab.ui import estimate
from kvlab.ui.estimate import Sizes

SOURCES = {"code": "authors' code read", "mixed": "partly reconstructed", "recon": "reconstruction"}
SOURCE_SENTENCES = {
    "code": "Written after the authors' published code, or after the code of a library that ships it.",
    "mixed": "Part of this is kvlab's reconstruction: the paper's text or code does not settle everything.",
    "recon": "A reconstruction: no code of the authors was found, and kvlab filled the gaps from the paper or a summary of it.",
}
NEEDS = {
    "weights": ("attention weights", "Softmax weights of queries it did not choose: fused attention kernels do not return them, so they are computed again."),
    "queries": ("queries", "The queries of the call, to weigh entries or to compute attention rows."),
    "calibration": ("calibration", "An artefact made once for each model, before the first run."),
    "two passes": ("a second pass", "The prompt, or a text about it, is read again to score its entries."),
    "changed model": ("a changed model", "A copy of the model with other weights."),
    "rope": ("rotary positions", "Keys are turned back from their positions."),
    "even heads": ("even heads", "All heads of a layer hold the same tokens, so it does not run beside a method that drops per head."),
    "token positions": ("token positions", "One slot for each token."),
}
"""Name of a need -> its words and what it means. The first names in this order are those to filter by."""

HOOKS = {
    "calibrate": ("calibrates", "once for each model, before the first run"),
    "adapt": ("changes the model", "before a run, on a copy"),
    "store": ("holds entries its own way", "when the cache is built"),
    "owner": ("lets a layer read another's entries", "when the cache is built"),
    "prepare": ("reads the prompt again to score it", "after the prompt, before anything leaves"),
    "recall": ("reads released tokens again", "before a step that asks for them"),
    "read": ("chooses what is looked at", "at every read"),
    "compress": ("drops, merges or encodes", ""),
    "finish": ("decides across layers or closes a block", "after the last layer of a call"),
}
"""Hook of `kvlab.method.Method` -> what it does and when, for a person. When `compress` comes, the schedule says."""

PHASES = ("before", "chunk", "chunk", "prompt's end", "second pass", *(f"step {n}" for n in range(1, 9)))
"""The columns of a timeline: before the run, a prompt in three chunks, a scoring pass, eight written tokens."""
_BEFORE, _CHUNKS, _END, _PASS, _STEPS = 0, range(1, 3), 3, 4, range(5, 13)

SHAPE = Geometry("llama", 32, 32, 8, 128, (None,) * 32, 2, 131_072, rope=True)
SHAPE_SIZES = Sizes(prompt=8192, question=0, new=257)
SHAPE_WORDS = "32 layers, 8 KV heads of 128 channels, 16 bits; 8,192 prompt tokens and 256 written"
"""The shape that byte formulas are shown for: that of a common model of 8 billion parameters."""


def needs(method: Method) -> list[str]:
    """Names in `NEEDS`: what the method declares, and what its hooks say."""
    said = set(method.needs)
    said |= {"two passes"} if method.schedule.probes or overrides(method, "prepare") else set()
    said |= {"changed model"} if overrides(method, "adapt") else set()
    return [name for name in NEEDS if name in said] + sorted(said - NEEDS.keys())


def need_words(name: str) -> str:
    return NEEDS[name][0] if name in NEEDS else name


def timeline(method: Method) -> list[tuple[str, str, tuple[int, ...]]]:
    """(what, when, columns of `PHASES` in which it happens) of each hook the method brings, in the order they come."""
    rows = []
    for hook, (what, when) in HOOKS.items():
        if overrides(method, hook) and (columns := _columns(method, hook)):
            rows.append((what, when or method.schedule.words(), columns))
    return rows


def _columns(method: Method, hook: str) -> tuple[int, ...]:
    if hook == "compress":
        return when(method)
    if hook == "prepare":
        return (_PASS,)
    return (*_CHUNKS, _END, *_STEPS) if hook in ("read", "finish", "recall") else (_BEFORE,)


def when(method: Method) -> tuple[int, ...]:
    """Columns of `PHASES` in which the schedule calls `compress`."""
    plan = method.schedule
    steps = [column for number, column in enumerate(_STEPS, 1) if plan.every and number % plan.every == 0]
    return (*(_CHUNKS if plan.chunks else ()), *((_END,) if plan.prefill else ()), *((_PASS,) if plan.probes else ()), *steps)


def acts(method: Method) -> list[str]:
    """When it acts, in the three words one can filter by."""
    plan = method.schedule
    said = {"at the prompt's end": plan.prefill or plan.probes, "while writing": plan.every > 0, "at every read": overrides(method, "read"),
            "when the cache is built": overrides(method, "owner")}  # fmt: skip
    return [word for word, on in said.items() if on]


def knob_rows(kind: type[Method]) -> list[tuple[str, str, str, str]]:
    """(name, default, range or choices, meaning) of each knob."""
    rows = []
    for knob in describe(kind)["knobs"]:
        low, high = knob["range"]
        span = " or ".join(map(str, knob["choices"])) if knob["choices"] else f"{low:,} to {high:,}" if low is not None and high is not None else ""
        if isinstance(knob["default"], bool):
            span = "yes or no"
        default = ("yes" if knob["default"] else "no") if isinstance(knob["default"], bool) else str(knob["default"])
        rows.append((knob["name"].replace("_", " "), default, "tokens, a share, or bytes" if knob["name"] == "budget" else span, knob["says"]))
    return rows


@dataclass(frozen=True)
class Formula:
    """The byte formula for `SHAPE`: two lines of a product, the bytes they give and those of the full cache; or `why` there is none."""

    lines: tuple[str, str] = ("", "")
    held: int = 0
    full: int = 0
    why: str = ""


def formula(method: Method) -> Formula:
    """What the method's own formula says of the shape, at its defaults."""
    if reason := method.refuses(SHAPE):
        return Formula(why=reason)
    lines = estimate.formula(method, SHAPE, SHAPE_SIZES)
    return Formula(lines, predicted_bytes(method, SHAPE, SHAPE_SIZES.seen, SHAPE_SIZES.prompt), SHAPE.full_bytes(SHAPE_SIZES.seen))


def paper_link(paper: str) -> str:
    """Where the paper is, for the eye: kvlab itself asks nothing of the network. Empty without a number."""
    number = re.search(r"arXiv (\d{4}\.\d+)", paper)
    return f"arxiv.org/abs/{number[1]}" if number else ""


@functools.cache
def _claimed() -> pd.DataFrame:
    return claims.load()


def claimed(name: str) -> list[tuple[str, str]]:
    """(what is claimed, where it was read) for each headline figure of the papers on this system."""
    rows = _claimed()
    return [(_claim(row), f"{row['paper']}, {claims.mark(row['source'])}") for row in rows[rows["system"] == name].to_dict("records")]


def _claim(row: dict) -> str:
    against = f", {row['baseline']} {row['baseline_score']}{_unit(row['unit'])}" if row["baseline"] else ""
    where = "; ".join(filter(None, (row["task"], row["setting"], row["model"])))
    return f"{row['metric']}: {row['bound']} {row['score']}{_unit(row['unit'])}{against} ({where})".replace(":  ", ": ")


def _unit(unit: str) -> str:
    return {"": "", "%": " %", "x": "\u00d7"}.get(unit, f" {unit}")


def measured(name: str, points: pd.DataFrame) -> list[dict[str, str]]:
    """Rows for a table from a sweep's points: task, setting, score with its interval, questions, bytes beside the full cache's; best task first in the file."""
    mine = points[points["method"] == name]
    return [
        {
            "task": f"{row.task}, {int(row.length):,} tokens", "setting": row.setting or "as it comes",
            "score": f"{row.mean:.3g} [{row.low:.3g}, {row.high:.3g}]", "of": f"{int(row.n):,}",
            "bytes": f"{row.resident / row.full:.0%} of {estimate.size(row.full)}",
        }
        for row in mine.itertuples() if row.full and not pd.isna(row.mean)
    ]  # fmt: skip


def first_sentence(kind: type[Method]) -> str:
    """What the class says of itself, in one line."""
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())


def story(kind: type[Method]) -> str:
    """What the file says of how it works: the part of the module's docstring after its head line, first paragraph, reflowed."""
    parts = (sys.modules[kind.__module__].__doc__ or "").strip().split("\n\n")
    return " ".join(parts[1].split()) if len(parts) > 1 else ""


def rows(names: Sequence[str] | None = None) -> list[dict[str, str | int]]:
    """All methods as a table, the picture's twin."""
    found = []
    for name, kind in registry().items():
        if names is None or name in names:
            made = kind()
            found.append({
                "method": kind.title, "name": name, "axis": AXES[kind.axis], "what it does": first_sentence(kind), "acts at": made.phases(),
                "needs": ", ".join(map(need_words, needs(made))) or "nothing", "source": SOURCES[kind.source], "paper": kind.paper, "year": kind.year,
            })  # fmt: skip
    return found
