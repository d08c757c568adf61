"""Which runs the Compare page lays side by side: read from the address, checked, named or hidden. Pure functions over stored runs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from kvlab.runs import RunStore, StoredRun, failure

MOST = 6
"""Runs that one screen still holds; sweeps of more belong to Trade-offs."""


@dataclass(frozen=True)
class Asked:
    """The address: ids of the runs, the pinned reference ("": none), the seed of the blind order (None: names as usual), and whether it is revealed."""

    ids: tuple[str, ...] = ()
    ref: str = ""
    blind: int | None = None
    revealed: bool = False

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Asked:
        """Read `cmp`, `ref` and `blind`; what cannot be read counts as missing."""
        ids = tuple(dict.fromkeys(part.strip() for part in params.get("cmp", "").split(",") if part.strip()))
        seed, _, rest = params.get("blind", "").partition(".")
        readable = seed.isascii() and seed.isdigit() and len(seed) < 10
        return cls(ids, params.get("ref", ""), int(seed) if readable else None, readable and rest == "open")

    def params(self) -> dict[str, str]:
        """The address again, without its empty parts."""
        blind = "" if self.blind is None else f"{self.blind}.open" if self.revealed else f"{self.blind}"
        return {name: value for name, value in (("cmp", ",".join(self.ids)), ("ref", self.ref), ("blind", blind)) if value}

    def link(self, **more: Any) -> str:
        """The relative address of this page."""
        return "compare?" + urlencode({**self.params(), **more}, safe=",")


@dataclass(frozen=True)
class Lineup:
    """Runs on one prompt. `columns`: those drawn, in their order; the reference is among them unless it is the full cache. `letters`: id -> A, B, ..."""

    reference: StoredRun
    columns: tuple[StoredRun, ...]
    letters: Mapping[str, str]
    asked: Asked

    @property
    def hidden(self) -> bool:
        """Whether the names are hidden."""
        return self.asked.blind is not None and not self.asked.revealed

    @property
    def runs(self) -> tuple[StoredRun, ...]:
        """The reference and all columns, each once, the reference first."""
        return (self.reference, *self.others)

    @property
    def others(self) -> tuple[StoredRun, ...]:
        """The columns that are held against the reference."""
        return tuple(run for run in self.columns if run.id != self.reference.id)

    def name(self, run: StoredRun) -> str:
        """What a run is called on screen: its letter while names are hidden; its budget too where two runs are of one method."""
        m = run.manifest
        if self.hidden and not is_full(m):
            return f"Run {self.letters[run.id]}"
        twins = sum(other.manifest["title"] == m["title"] for other in self.runs) > 1
        return f"{m['title']} {m['budget']['asked'] or ''}".rstrip() if twins else m["title"]


def is_full(manifest: Mapping[str, Any]) -> bool:
    """Whether a run is the full cache."""
    return manifest["axis"] == "reference"


def prompt_of(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two runs must share to be laid side by side: the model, the text and the question."""
    asked = manifest["request"]
    return manifest["model"], manifest["versions"].get("model_revision"), asked.get("prompt"), asked.get("question"), asked.get("template", True)


def candidates(listed: Iterable[Mapping[str, Any]], manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Stored runs on the same prompt, finished or stopped after some tokens; the full cache first, then by title and budget."""
    found = {m["id"]: m for m in listed if prompt_of(m) == prompt_of(manifest) and m["tokens"]}
    return sorted(found.values(), key=lambda m: (not is_full(m), m["title"], str(m["budget"]["asked"])))


def groups(listed: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Stored runs by prompt, where there are at least two; those with the most runs first."""
    prompts = dict.fromkeys(map(prompt_of, listed))
    found = [candidates(listed, next(m for m in listed if prompt_of(m) == prompt)) for prompt in prompts]
    return sorted((runs for runs in found if len(runs) > 1), key=len, reverse=True)


def mixed(runs: Sequence[Mapping[str, Any]], most: int = MOST) -> list[Mapping[str, Any]]:
    """At most `most` of them, as different as they can be: one of each axis before a second of any; their order stays."""
    turns: dict[str, int] = {}
    ranked = []
    for place, m in enumerate(runs):
        turns[m["axis"]] = turns.get(m["axis"], -1) + 1
        ranked.append((turns[m["axis"]], place))
    return [runs[place] for place in sorted(place for _, place in sorted(ranked)[:most])]


def lineup(store: RunStore, asked: Asked) -> Lineup:
    """Load what the address names. Raises ValueError with a sentence for anything that cannot be laid side by side."""
    if len(asked.ids) > MOST:
        raise ValueError(f"The link names {len(asked.ids)} runs, and {MOST} fit side by side. Leave some out; Trade-offs shows any number.")
    runs = [store.load(run) for run in asked.ids]
    reference = _reference(store, runs, asked)
    if reference.id not in asked.ids and not is_full(reference.manifest):
        raise ValueError(f"The reference {reference.id} is not among the runs of this link. Pin one of them, or a full cache of the same prompt.")
    for run in runs:
        _check(run, reference)
    columns = [run for run in runs if run.id != reference.id or not is_full(run.manifest)]
    if asked.blind is not None:
        random.Random(asked.blind).shuffle(columns)
    if not [run for run in columns if run.id != reference.id]:
        raise ValueError("One run alone cannot be compared. Choose at least one more on the same prompt.")
    letters = iter("ABCDEF")
    named = {run.id: "full" if is_full(run.manifest) else next(letters) for run in columns}
    return Lineup(reference, tuple(columns), {reference.id: "full", **named}, asked)


def _reference(store: RunStore, runs: Sequence[StoredRun], asked: Asked) -> StoredRun:
    """The pinned run; else the full cache among them, or the stored one of the same prompt; else the first."""
    if asked.ref:
        return next((run for run in runs if run.id == asked.ref), None) or store.load(asked.ref)
    full = next((run for run in runs if is_full(run.manifest)), None)
    if full is None:
        stored = candidates(store.list(), runs[0].manifest)
        full = store.load(stored[0]["id"]) if stored and is_full(stored[0]) else runs[0]
    return full


def _check(run: StoredRun, reference: StoredRun) -> None:
    """Raise ValueError with a sentence when a run cannot stand beside the reference."""
    a, b = run.trace, reference.trace
    for one in (run, reference):
        if not len(one.trace.written):
            how = f"failed before its first token. {said} It" if (said := failure(one.manifest)) else "stopped before its first token: it"
            raise ValueError(f"The run {one.id} ({one.manifest['title']}) {how} has no answer to compare. Leave it out.")
    if run.manifest["model"] != reference.manifest["model"] or a.left_at.shape[:2] != b.left_at.shape[:2]:
        raise ValueError(f"The run {run.id} ({run.manifest['title']}) is of another model than {reference.id}. Only runs of one model can be compared.")
    if not np.array_equal(a.ids[: a.asked], b.ids[: b.asked]):
        raise ValueError(f"The run {run.id} ({run.manifest['title']}) answers another prompt than {reference.id}. Only runs on one prompt can be compared.")
