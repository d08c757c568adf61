"""What a lane shows, computed on the server: words, tokens, curves. The browser only draws."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from kvlab.engine import Progress, Token
from kvlab.jobs import Job, JobManager
from kvlab.lanes import Loading
from kvlab.method import Dropper, Method
from kvlab.registry import registry
from kvlab.runs import failure
from kvlab.ui import estimate, marks
from kvlab.ui.plan import Planned

MARKED = 8
"""Differing tokens that get a ground after the first one; the words below the text say the rest."""


def visible(text: str) -> str:
    """A token for the screen: control and direction characters by their code, never acting on the page."""
    said = []
    for letter in text:
        if letter == "\n":
            said.append("\u21b5\n")
        elif unicodedata.category(letter) in ("Cf", "Cc"):
            said.append(f"<{ord(letter):04X}>")
        else:
            said.append(letter)
    return "".join(said)


def first_difference(ids: Sequence[int], reference: Sequence[int] | None) -> int | None:
    """Index of the first token that is not the full cache's; None if there is none so far."""
    return next((i for i, (a, b) in enumerate(zip(ids, reference or (), strict=False)) if a != b), None)


def tokens_view(tokens: Sequence[tuple[int, str]], reference: Sequence[int] | None) -> tuple[list[list[Any]], int | None]:
    """[text, mark] of each token: 0 plain, 2 the first that differs, 1 those right after it that differ as well."""
    ids = [token for token, _ in tokens]
    first = first_difference(ids, reference)
    out, open_ = [], first is not None
    for i, (token, text) in enumerate(tokens):
        mark = 0
        if first is not None and i >= first and open_:
            open_ = i < first + MARKED and i < len(reference) and token != reference[i]
            mark = (2 if i == first else 1) if open_ else 0
        out.append([visible(text) or "\u2423", mark])
    return out, first


def base(planned: Planned) -> dict[str, Any]:
    """The part of a lane that is known before it runs."""
    return {
        "title": planned.title, "setting": planned.setting, "note": planned.note, "marker": marks.marker(planned.name), "reference": planned.name == "full",
        "predicted": planned.predicted, "full": planned.full, "measured": [], "tokens": [], "steps": len(planned.full), "state": "planned",
        "line": f"acts at {planned.acts}" if planned.acts else "", "below": "", "error": "", "detail": "", "run": "", "bytes": [], "stale": False,
        "wait": planned.about, "again": again(planned.request.method.members),
    }  # fmt: skip


def again(members: Sequence[Method | type[Method]]) -> str:
    """What a fall of the measured line means: entries left, or they were packed tighter."""
    return "cuts again" if any(issubclass(m if isinstance(m, type) else type(m), Dropper) for m in members) else "packs again"


def view(planned: Planned, job: Job, reference: Sequence[int] | None, jobs: JobManager, queue_line: str = "") -> dict[str, Any]:
    """A lane of a group in the queue."""
    events = job.events()
    written = [e for e in events if isinstance(e, Token)]
    tokens, first = tokens_view([(e.token, e.text) for e in written], None if planned.name == "full" else reference)
    out = base(planned) | {"state": job.state, "tokens": tokens, "measured": [e.resident for e in written], "error": job.error, "detail": job.detail}
    out["below"] = difference(first, len(written), reference) if planned.name != "full" and reference and written else ""
    if job.state == "queued":
        out["line"] = queue_line or waiting(job, jobs)
    elif job.state == "running":
        out["line"] = "stopping after this token" if job.stop.is_set() else progress(events, written, planned)
    elif job.state == "failed":
        out["line"] = "this lane stopped"
    elif job.result:
        out |= ended(job.result, planned.predicted)
    else:
        out["line"] = "cancelled before it began" if job.started is None else "cancelled before the first token, nothing kept"
    return out


def waiting(job: Job, jobs: JobManager) -> str:
    """Place in the queue and the wait, as far as it is known."""
    place = jobs.place(job)
    said = f"{place.ahead} {'lane' if place.ahead == 1 else 'lanes'} before it"
    return said if place.seconds is None else f"{said}, {estimate.duration(place.seconds)}"


def progress(events: Sequence[Any], written: Sequence[Token], planned: Planned) -> str:
    """What a running lane is doing."""
    if written:
        seconds = [e.seconds for e in written[1:]]
        speed = f", {rate(len(seconds) / sum(seconds))} per second" if seconds and sum(seconds) else ""
        return f"token {len(written):,} of {planned.request.max_new_tokens:,}{speed}"
    read = [e for e in events if isinstance(e, Progress)]
    if read and read[-1].done < read[-1].total:
        return f"reading the prompt, {read[-1].done:,} of {read[-1].total:,} tokens"
    if read:
        return "the prompt is read, compressing"
    return "loading the model" if any(isinstance(e, Loading) for e in events) else "reading the prompt"


def rate(per_second: float) -> str:
    """A speed in two figures or more."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}"


def difference(first: int | None, count: int, reference: Sequence[int]) -> str:
    """Whether the text is still the full cache's, in words."""
    if first is not None:
        return f"differs from the full cache since token {first + 1}"
    same = min(count, len(reference))
    return f"same {same:,} tokens as the full cache" if same > 1 else ""


def ended(result: dict[str, Any], predicted: Sequence[int]) -> dict[str, Any]:
    """Speed, link and byte figures of a run that ended; `result` is its manifest."""
    seconds, count = result["seconds"], len(result["tokens"])
    each = seconds["decode_per_token"]
    speed = f", then {rate(1 / each)} tokens per second" if each else ""
    line = f"{count} tokens, prompt read in {seconds['prefill']:.2f} s{speed}"
    realised = result["budget"]["realised"]["fraction"]
    of = estimate.unit(result["bytes"]["full"])
    figures = [[name, estimate.size(result["bytes"][key], of)] for name, key in
               (("nominal", "nominal"), ("predicted", "predicted"), ("held by tensors, measured", "resident"), ("peak", "peak"))]  # fmt: skip
    if any(part in registry() and registry()[part].axis == "retrieval" for part in result["method"].split("+")):
        figures.append(["read per step", estimate.size(result["bytes"]["read_per_step"], of)])
    figures.append(["prediction", missed(result["bytes"]["predicted"], result["bytes"]["resident"])])
    if "bits_per_value" in result["bytes"]:
        figures.append(["bits per value, all counted", f"{result['bytes']['bits_per_value']:.2f}"])
    if result["bytes"].get("side"):
        figures.append(["beside the cache, shared by all runs", estimate.size(result["bytes"]["side"])])
    early = "failed" if failure(result) else result["status"]
    part = f"{early} at token {count}, kept" if count else f"{early} before the first token"
    return {"line": line if early == "done" else part, "run": result["id"],
            "bytes": [*figures, ["entries kept", f"{realised:.0%}"]]}  # fmt: skip


def missed(predicted: float, measured: float) -> str:
    """How far the formula was from what was measured."""
    if round(predicted) == round(measured):
        return "exact"
    share = abs(predicted - measured) / max(1, measured)
    return f"{share:.1%} too {'low' if predicted < measured else 'high'}"


def stored(manifest: dict[str, Any], trace: Any, reference: Sequence[int] | None) -> dict[str, Any]:
    """A lane from the store alone: measured figures, no prediction for each step, because the formula's inputs are not stored."""
    asked, windows = manifest["prompt_tokens"] + manifest["question_tokens"], manifest["geometry"]["windows"]
    pieces = manifest["pieces"][asked:]
    full = manifest["name"] == "full" if "name" in manifest else manifest["method"] == "full"
    tokens, first = tokens_view(list(zip(manifest["tokens"], pieces, strict=True)), None if full else reference)
    steps, seen = len(manifest["tokens"]), asked + len(manifest["tokens"]) - 1
    slot, why = manifest["bytes"]["full"] / max(1, seen), failure(manifest)
    knobs = [f"{name} {value}" for name, value in list(manifest["knobs"].items())[:2]]
    return {
        "title": manifest["title"], "setting": "the reference" if full else ", ".join(knobs), "note": "stored run", "marker": marks.marker(manifest["method"]),
        "reference": full, "predicted": [], "full": [round(slot * (asked + s)) for s in range(steps)] if not any(windows) else [],
        "measured": trace.resident.tolist(), "tokens": tokens, "steps": steps, "state": "failed" if why else manifest["status"],
        "below": difference(first, steps, reference) if reference and not full else "", "error": why, "detail": "", "stale": False,
        "again": again([registry()[name] for name in manifest["method"].split("+") if name in registry()]),
    } | ended(manifest, [])  # fmt: skip
