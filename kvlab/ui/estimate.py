"""What a lane will cost, before it runs: bytes at every step by formula, the formula with its numbers, seconds from earlier runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kvlab.geometry import Geometry
from kvlab.method import Method
from kvlab.predict import predicted_bytes, settle
from kvlab.runs import RunStore


@dataclass(frozen=True)
class Sizes:
    """Tokens of a run: of the prompt that is compressed, of the question fed after it, and those to be written."""

    prompt: int
    question: int
    new: int

    @property
    def asked(self) -> int:
        return self.prompt + self.question

    @property
    def total(self) -> int:
        return self.asked + self.new

    @property
    def seen(self) -> int:
        """Positions in the cache when the last token is chosen; that token itself is never fed."""
        return self.total - 1


def settled(method: Method, geometry: Geometry, sizes: Sizes) -> Method:
    """The method as the engine will run it. Raises ValueError when its budget in bytes cannot be met."""
    return settle(method, geometry, sizes.total, sizes.prompt)


def predicted(method: Method, geometry: Geometry, sizes: Sizes) -> list[int]:
    """Bytes held at every step, by formula; `method` is settled."""
    return [predicted_bytes(method, geometry, sizes.asked + step, sizes.prompt) for step in range(sizes.new)]


def full(geometry: Geometry, sizes: Sizes) -> list[int]:
    """Bytes of the full cache at every step."""
    return [geometry.full_bytes(sizes.asked + step) for step in range(sizes.new)]


def formula(method: Method, geometry: Geometry, sizes: Sizes) -> tuple[str, str]:
    """The prediction at the last step as one product with its numbers, in two lines: what is counted, what one of it weighs."""
    slots = method.kept(sizes.seen, sizes.prompt)
    budget = next((part.budget for part in method.members if part.budget_knob), None)
    kept = budget.tokens(sizes.prompt) if budget else sizes.prompt
    parts = f"({kept:,} kept + {sizes.question:,} asked + {sizes.new - 1:,} written)" if kept + sizes.question + sizes.new - 1 == slots else f"{slots:,.0f}"
    total = predicted_bytes(method, geometry, sizes.seen, sizes.prompt)
    windows = sum(geometry.slot_bytes * min(sizes.seen, window - 1) for window in geometry.windows if window is not None)
    each = (total - windows) / max(1, geometry.open_layers * slots)
    layers = f"{geometry.open_layers} layers {TIMES} {parts} slots"
    weight = f"{TIMES} {_slot(method, geometry, each)}" + (f" + {size(windows)} in sliding windows" if windows else "")
    return layers, weight


def _slot(method: Method, geometry: Geometry, each: float) -> str:
    """What one slot of a layer weighs: spelt out when it is raw keys, values and positions, else beside the raw weight."""
    raw = 0 if geometry.latent else 2 * geometry.kv_heads * geometry.head_dim * geometry.itemsize
    if raw and round(each) - raw in (4, 4 * geometry.kv_heads) and abs(each - round(each)) < 1e-6:
        return f"(2 {TIMES} {geometry.kv_heads} heads {TIMES} {geometry.head_dim} {TIMES} {geometry.itemsize} B + {round(each) - raw} B position)"
    return f"{each:,.1f} B a slot, raw it is {geometry.slot_bytes:,} B"


@dataclass(frozen=True)
class Speed:
    """Medians of earlier runs: seconds per prompt token and per written token, and how many runs they come from."""

    prefill: float
    decode: float
    runs: int

    def seconds(self, sizes: Sizes) -> float:
        """Of one lane: the prompt is read twice, the second time by the full cache, to compare with."""
        return 2 * self.prefill * sizes.asked + self.decode * sizes.new


def recent(store: RunStore, most: int = 40) -> list[dict[str, Any]]:
    """The numbers of the newest own runs that time estimates need."""
    files = sorted(store.folder.glob("[0-9a-f]*/manifest.json"), key=lambda p: p.stat().st_mtime, reverse=True)[:most]
    wanted = ("model", "method", "seconds", "prompt_tokens", "question_tokens", "tokens", "status", "versions")
    return [{key: said[key] for key in wanted} for said in (json.loads(file.read_text()) for file in files)]


def speed(runs: Iterable[dict[str, Any]], model: str, device: str, method: str) -> Speed | None:
    """Medians over runs of this model on this kind of device: of this method if it ran before, else of any. None if there is none."""
    mine = [r for r in runs if r["model"] == model and r["versions"].get("device", "").startswith(device) and r["status"] == "done" and len(r["tokens"]) > 1]
    mine = [r for r in mine if r["method"] == method] or mine
    if not mine:
        return None
    prefill = statistics.median(r["seconds"]["prefill"] / max(1, r["prompt_tokens"] + r["question_tokens"]) for r in mine)
    return Speed(prefill, statistics.median(r["seconds"]["decode_per_token"] for r in mine), len(mine))


TIMES = "\u00d7"
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def unit(count: float) -> tuple[int, str]:
    """The unit in which `count` bytes are told: divisor and name."""
    return next(((d, n) for d, n in UNITS if count >= 10 * d), (1, "B") if count < 1024 else UNITS[-1])


def size(count: float, of: tuple[int, str] | None = None, name: bool = True) -> str:
    """Bytes for the screen, in `of` units if given: three figures or all digits before the point."""
    divisor, word = of or unit(count)
    value = count / divisor
    said = f"{value:,.0f}" if value >= 100 or divisor == 1 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{said} {word}" if name else said


def duration(seconds: float) -> str:
    """Seconds in words; below one there is no use in figures."""
    if seconds < 1:
        return "less than 1 s"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
