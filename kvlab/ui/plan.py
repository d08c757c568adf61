"""From the form to lanes: what will run, in which order, with which bytes predicted. Plain objects, no widgets."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kvlab.engine import Request, check_length
from kvlab.method import Method
from kvlab.registry import make, registry
from kvlab.runs import id_of
from kvlab.ui import estimate
from kvlab.ui.estimate import Sizes
from kvlab.ui.service import Card

SOURCE_WORDS = {"code": "", "mixed": "partly reconstructed from the paper", "recon": "reconstructed from the paper, no official code"}


@dataclass(frozen=True)
class Pick:
    """One chosen lane: a method or composition by name, with its knobs."""

    name: str
    knobs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """One lane as it will run. `predicted` and `full`: bytes at every step. `acts`: when the method works; `about`: what it does.
    `run`: the id that its run will have, or has."""

    name: str
    title: str
    setting: str
    note: str
    about: str
    acts: str
    request: Request
    run: str
    formula: tuple[str, str]
    predicted: list[int]
    full: list[int]


@dataclass(frozen=True)
class Plan:
    """All lanes of one press of Run, the full cache first."""

    model: str
    sizes: Sizes
    lanes: tuple[Planned, ...]

    @property
    def signature(self) -> str:
        """Equal for equal settings: results of other settings are marked."""
        said = repr([self.model, [sorted((k, str(v)) for k, v in vars(lane.request).items()) for lane in self.lanes]])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def ordered(names: Sequence[str]) -> str:
    """The name of a composition: the one that drops first, as it acts first."""
    return "+".join(sorted(names, key=lambda name: not registry()[name]().budget_knob))


@functools.cache
def partners(name: str) -> tuple[str, ...]:
    """Methods that can run together with this one."""
    found = []
    for other in registry():
        if other in (name, "full"):
            continue
        try:
            make(ordered([name, other]))
        except ValueError:
            continue
        found.append(other)
    return tuple(found)


def words(method: Method) -> str:
    """The setting of a lane: its budget, then the knobs of members without one, two at most of each."""
    said = []
    for part in method.members:
        if part.budget_knob:
            budget = part.budget
            said.append(f"{budget.amount * 100:g} % kept" if budget.unit == "fraction" else f"{budget.amount:,.0f} tokens kept in each head")
        else:
            said += [f"{name.replace('_', ' ')} {value}" for name, value in list(part.knobs().items())[:2]]
    return ", ".join(said)


def acts(method: Method) -> str:
    """When the members act, in words."""
    said = dict.fromkeys(part.phases() for part in method.members)
    said.pop("nothing", None)
    return ", ".join(said)


def plan(card: Card, shared: dict[str, Any], sizes: Sizes, picks: Sequence[Pick], budget: str) -> Plan:
    """All lanes. `shared`: fields that every request has. Raises ValueError with a sentence for what cannot run."""
    check_length(card.lm, sizes.asked, sizes.new)
    full = estimate.full(card.geometry, sizes)
    lanes = [planned(card, shared, sizes, pick, budget, full) for pick in (Pick("full"), *picks)]
    return Plan(card.lm.name, sizes, tuple(lanes))


def planned(card: Card, shared: dict[str, Any], sizes: Sizes, pick: Pick, budget: str, full: list[int]) -> Planned:
    """One lane."""
    method = make(pick.name, budget, pick.knobs)
    if reason := method.refuses(card.geometry):
        raise ValueError(reason)
    exact = estimate.settled(method, card.geometry, sizes)
    request = Request(method=method, **shared)
    notes = [SOURCE_WORDS[method.source], "calibrates first, once per model" if "calibration" in method.needs else ""]
    return Planned(
        name=method.name,
        title=method.title,
        setting=words(exact) if pick.name != "full" else "the reference",
        note=", ".join(filter(None, notes)),
        about=" ".join((type(part).__doc__ or "").split("\n")[0] for part in method.members),
        acts=acts(method),
        request=request,
        run=id_of(card.lm.revision, card.dtype, request),
        formula=estimate.formula(exact, card.geometry, sizes),
        predicted=estimate.predicted(exact, card.geometry, sizes),
        full=full,
    )
