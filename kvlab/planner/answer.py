"""The whole answer of the Plan page as plain objects: a bill per chosen setting, and the list of settings with what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvlab.method import Method
from kvlab.planner.deploy import Badge, badges
from kvlab.planner.evidence import VERDICTS, Evidence, Setting, settling
from kvlab.planner.memory import Bill, Demand, bill, most_users, one_user
from kvlab.planner.roofline import Step, step
from kvlab.registry import make

MOST = 6
"""Chosen methods at most: more bars than these cannot be read."""


@dataclass(frozen=True)
class Row:
    """One bar: the full cache or a chosen method."""

    method: Method
    bill: Bill
    step: Step


def verdict_of(lines: Sequence[Line], method: Method) -> Line | None:
    """The line of a chosen method in the list; None for the full cache."""
    return next((line for line in lines if line.method == method), None)


@dataclass(frozen=True)
class Line:
    """One setting of the list: what it would hold here, and the evidence that decides, if there is any."""

    method: Method
    verdict: str
    evidence: Evidence | None
    own: bool  # the evidence is of the planned model
    each: float
    users: int
    fits: bool
    badges: list[Badge]


def chosen(names: Sequence[str], keep: float) -> list[Method]:
    """The methods by name or composition, those that drop with this kept fraction. Raises ValueError with a sentence."""
    if len(names) > MOST:
        raise ValueError(f"At most {MOST} methods are drawn, not {len(names)}. Take some away.")
    return [make(name, f"{keep:g}") for name in dict.fromkeys(names)]


def rows(methods: Sequence[Method], demand: Demand, bandwidth: float, peak: float) -> tuple[list[Row], list[tuple[str, str]]]:
    """The full cache and each method that takes the model; the others with their reasons. `bandwidth` in bytes/s, `peak` in operations/s, of one GPU."""
    drawn = [Row(method, bill(method, demand), step(method, demand, bandwidth, peak)) for method in [make("full"), *_taking(methods, demand)]]
    return drawn, [(method.title, reason) for method in methods if (reason := method.refuses(demand.geometry))]


def _taking(methods: Sequence[Method], demand: Demand) -> list[Method]:
    return [method for method in methods if not method.refuses(demand.geometry)]


def lines(found: Mapping[Setting, list[Evidence]], methods: Sequence[Method], demand: Demand, task: str, floor: float) -> list[Line]:
    """The chosen methods and every measured setting that the model takes: what meets the floor first, then by bytes, the least first.

    A setting of which nothing was measured on this task stands after those that were and meet it, before those below it.
    """
    every = {**{Setting(method): [] for method in methods if method.name != "full"}, **found}
    made = [_line(setting.method, all_of, demand, task, floor) for setting, all_of in every.items() if not setting.method.refuses(demand.geometry)]
    return sorted(made, key=lambda line: (VERDICTS.index(line.verdict), not line.own, line.each, line.method.name))


def _line(method: Method, all_of: Sequence[Evidence], demand: Demand, task: str, floor: float) -> Line:
    evidence = settling(all_of, demand.shape.repo, task, floor)
    verdict = evidence.verdict(floor) if evidence else "unmeasured"
    most = most_users(method, demand)
    own = evidence is not None and evidence.model == demand.shape.repo
    return Line(method, verdict, evidence, own, one_user(method, demand), most, most >= demand.users, badges(method))
