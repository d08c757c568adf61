"""What the Compare page says first: title, sentence and figures, computed from the runs and never claiming more than one prompt can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kvlab.runs import StoredRun
from kvlab.ui.compare import Lineup, is_full
from kvlab.ui.compare_diff import first_difference
from kvlab.ui.head import Figure, Words
from kvlab.ui.inside import WANTED

TIE = 0.1
"""Bits from the full cache below which a step counts as a near tie: the two next-token distributions can hardly be told apart."""

NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six")


@dataclass(frozen=True)
class Story:
    """Title, sentence, figures; the step to begin with and the token to follow (-1: none)."""

    title: str
    sentence: Words
    figures: list[Figure]
    step: int
    token: int


def bits(run: StoredRun) -> np.ndarray:
    """[S] distance from the full cache in bits, on the run's own text; empty where no reference is stored."""
    return np.maximum(run.trace.kl.astype(np.float64), 0) / math.log(2)


def size(n: float) -> str:
    """Bytes in words."""
    return f"{n / 2**10:,.0f} KiB" if n < 10 * 2**20 else f"{n / 2**20:,.1f} MiB"


def budget(run: StoredRun) -> str:
    """What the run was allowed and what it kept, in a line."""
    m, t = run.manifest, run.trace
    asked, share = m["budget"]["asked"], m["budget"]["realised"]["fraction"]
    coded = t.bits[:, t.held(len(t.written) - 1)] if t.bits.any() else np.zeros(0)
    mean = f"{coded[coded > 0].mean():.1f}".removesuffix(".0") if (coded > 0).any() else ""
    held = "every entry held" if share > 0.995 else f"{100 * share:.0f} % of entries held"
    words = [f"budget {asked}" if asked else "", held, f"{mean} bits" if mean else ""]
    return ", ".join(word for word in words if word)


def setting(line: Lineup) -> str:
    """The line above the title: what the runs share."""
    asked = [run.manifest["request"] for run in line.runs]
    how = "greedy" if not any(a.get("temperature") for a in asked) else f"sampled, seed {asked[0].get('seed', 0)}"
    alike = len({(a.get("temperature"), a.get("seed"), a.get("top_k"), a.get("top_p")) for a in asked}) == 1
    ref = line.reference
    tokens = ref.manifest["prompt_tokens"] + ref.manifest["question_tokens"]
    return " · ".join([
        f"Same prompt of {tokens:,} tokens", how if alike else "sampled in different ways", ref.manifest["model"],
        f"reference: {line.name(ref)}, {size(ref.manifest['bytes']['resident'])}", "one prompt: not a rate",
    ])  # fmt: skip


def story(line: Lineup) -> Story:
    """What these runs show."""
    first = {run.id: first_difference(run, line.reference) for run in line.others}
    same = [run for run in line.others if first[run.id] is None]
    apart = sorted((run for run in line.others if first[run.id] is not None), key=lambda run: (first[run.id], -_far(run, first[run.id])))
    token = next((found for run in apart if (found := wanted_token(run, first[run.id])) >= 0), -1)
    sentence = _sentence(line, apart, first)
    return Story(_title(line, len(same)), sentence, _figures(line, same), first[apart[0].id] if apart else 0, token)


def _title(line: Lineup, same: int) -> str:
    n, ref = len(line.others), line.reference
    smaller = all(run.manifest["bytes"]["resident"] < ref.manifest["bytes"]["resident"] for run in line.others)
    what = f"{NUMBERS[n]} {'smaller ' if smaller else 'other '}cache{'s' * (n > 1)}"
    whose = "the full cache" if is_full(ref.manifest) else line.name(ref)
    if n == 1:
        return f"{what}, {'the same answer' if same else 'another answer'}"
    if same in (0, n):
        return f"{what}, and {'every one' if same else 'none'} answers as {whose} does"
    return f"{what}, {NUMBERS[same].lower()} of which answer{'s' * (same == 1)} as {whose} does"


def _far(run: StoredRun, step: int) -> float:
    """Bits from the full cache at a step; 0 where that is not stored."""
    far = bits(run)
    return float(far[step]) if step < len(far) else 0.0


def _sentence(line: Lineup, apart: list[StoredRun], first: dict[str, int | None]) -> Words:
    if not apart:
        return (("No ", False), ("◆", True), (": no answer leaves the reference. Compare in the maps what each one kept to get there.", False))
    if not is_full(line.reference.manifest) or not any(run.trace.kl.size for run in apart):
        far = " Hills are still the distance from the full cache." if any(run.trace.kl.size for run in apart) else ""
        leaves = f" is the first token that differs: {line.name(apart[0])} leaves {line.name(line.reference)} at step {first[apart[0].id]}."
        return (("A ", False), ("◆", True), (leaves + far, False))
    hills = [run for run in apart if _far(run, first[run.id]) >= TIE]
    ties = [run for run in apart if run not in hills and run.trace.kl.size]
    said: list[tuple[str, bool]] = []
    if hills:
        step = first[hills[0].id]
        said += [("A ", False), ("◆ on a hill", True), (" is something lost: ", False), (line.name(hills[0]), True),
                 (f" leaves at step {step}, {_far(hills[0], step):.1f} bits from the full cache. ", False)]  # fmt: skip
    if ties:
        said += [("A ", False), ("◆ on a flat line", True), (f" is a near tie between two words: {line.name(ties[0])} at step {first[ties[0].id]}.", False)]
    return tuple(said)


def _figures(line: Lineup, same: list[StoredRun]) -> list[Figure]:
    if not same:
        return []
    least = min(same, key=lambda run: run.manifest["bytes"]["resident"])
    held, full = least.manifest["bytes"]["resident"], least.manifest["bytes"]["full"]
    return [("Fewest bytes with that answer", line.name(least), "", f" {size(held)} of {size(full)}")]


def wanted_token(run: StoredRun, step: int) -> int:
    """The token the full cache wants most at `step` among those the run no longer holds in some head; -1 if it wants none of them."""
    t = run.trace
    if step >= len(t.full):
        return -1
    lost = np.where(t.gone(step), t.full[step], 0)[..., : t.asked]
    return int(lost.max((0, 1)).argmax()) if lost.size and lost.max() > WANTED else -1
