"""The last runs of this session, for the Start page: what its jobs left behind, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvlab.jobs import Group
from kvlab.plots.looks import size
from kvlab.ui.start import answer, named

MOST = 8


def last_runs(groups: Sequence[Group]) -> dict[str, Any]:
    """The stored runs of these groups, every run once, and how many lanes are still at work. Jobs in the background are no lanes."""
    jobs = [job for group in groups for job in group.jobs if not job.background]
    found = {job.result["id"]: job.result for job in jobs if job.result}
    return {"live": sum(job.live for job in jobs), "rows": [row(m) for m in list(found.values())[:MOST]]}


def row(m: dict[str, Any]) -> dict[str, Any]:
    """One run of the list."""
    held = f"{size(m['bytes']['resident'])} of {size(m['bytes']['full'])} held"
    early = "" if m["status"] == "done" else "stopped early, "
    return {**named(m), "run": m["id"], "answer": answer(m), "said": f"{early}{m['prompt_tokens']:,} tokens, {held}"}
