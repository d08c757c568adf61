"""Running a plan: what is left to do, one measured item after another, each put into the store at once. Here, or on Ray (`cluster.py`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kvlab import samples
from kvlab.models import LM
from kvlab.runs import RunStore
from kvlab.sweep.measure import Measure, Measured
from kvlab.sweep.plan import Group, Plan, Setting
from kvlab.tasks import Sample, find


@dataclass(frozen=True)
class Work:
    """A group with the settings that are still to be measured, and the sample they share. `keep`: store the run behind the point."""

    group: Group
    settings: tuple[Setting, ...]
    sample: Sample
    keep: bool


@dataclass
class Sweep:
    """A plan on a model, over a store. `keep`: the first sample of every point stores its run. `share` off: the naive sweep."""

    lm: LM
    plan: Plan
    store: RunStore
    keep: bool = True
    share: bool = True
    command: str = ""
    _made: dict[tuple[str, int, int], list[Sample]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = self.plan.items(self.lm)

    def left(self) -> dict[Group, tuple[Setting, ...]]:
        """Settings not yet in the store, by group, in the plan's order."""
        done = samples.done(self.store.folder)
        found: dict[Group, list[Setting]] = {}
        for item, (group, setting) in self.items.items():
            if item not in done:
                found.setdefault(group, []).append(setting)
        return {group: tuple(settings) for group, settings in found.items()}

    def task(self, group: Group, settings: tuple[Setting, ...]) -> Work:
        """The work of a group. Raises ValueError when the task does not fit into the length."""
        key = group.task, group.length, group.seed
        if key not in self._made:
            count = lambda text: len(self.lm.encode(text, special=False))  # noqa: E731
            self._made[key] = find(group.task).samples(self.plan.samples, group.length, group.seed, count)
        first = group.sample == 0 and group.seed == self.plan.seeds[0]
        return Work(group, settings, self._made[key][group.sample], self.keep and first)

    def here(self, left: dict[Group, tuple[Setting, ...]]) -> Iterator[Measured]:
        """Measure on this machine, one after the other; every item is in the store when it comes out."""
        for group, settings in left.items():
            task = self.task(group, settings)
            for measured in measure(self.lm, self.plan, task, self.share, self.command, self.has_run):
                yield self.save(measured)

    def has_run(self, run: str) -> bool:
        """Whether a run is stored already."""
        return self.store.holds(run)

    def save(self, measured: Measured) -> Measured:
        """Put an item into the store: its run first, so that no row points to nothing."""
        if measured.run is not None:
            self.store.save(*measured.run)
        samples.add(self.store.folder, measured.rows)
        return measured

    def rows(self) -> list[dict]:
        """All rows of the plan that are measured, in its order."""
        return samples.rows(self.store.folder, self.items)


def measure(lm: LM, plan: Plan, task: Work, share: bool, command: str, stored: Callable[[str], bool]) -> Iterator[Measured]:
    """The items of one group, one by one."""
    work = Measure(lm, plan, task.group, task.sample, share, command)
    for setting in task.settings:
        yield work(setting, task.keep, stored)


def probes(left: dict[Group, tuple[Setting, ...]]) -> dict[Group, tuple[Setting, ...]]:
    """Three settings on one sample of each task, length and mode: what to measure first where nothing is known of the time it takes."""
    kind = lambda group: (group.task, group.length, group.mode)  # noqa: E731
    found = {}
    for group, settings in left.items():
        found.setdefault(kind(group), (group, settings[:: -(-len(settings) // 3)]))
    return dict(found.values())


def size(left: dict[Group, tuple[Setting, ...]]) -> int:
    """Items in it."""
    return sum(map(len, left.values()))


def expected_seconds(left: dict[Group, tuple[Setting, ...]], rows: list[dict]) -> float | None:
    """Seconds by earlier rows of the same model, device and length: of the same task and method if there are any, else of the nearest kin.

    None when some length was never measured.
    """
    levels = (("task", "length", "mode", "method"), ("task", "length", "mode"), ("length", "method"), ("length",))
    items = itertools.groupby(sorted(rows, key=lambda row: row["item"]), key=lambda row: row["item"])
    spent: dict[tuple, list[float]] = {}
    for same in (list(of) for _, of in items):
        for names in levels:
            spent.setdefault((names, *(same[0][name] for name in names)), []).append(sum(row["seconds"] for row in same))
    total = 0.0
    for group, settings in left.items():
        for setting in settings:
            said = {"task": group.task, "length": group.length, "mode": group.mode, "method": setting.method.name}
            known = next((spent[key] for names in levels if (key := (names, *(said[name] for name in names))) in spent), None)
            if known is None:
                return None
            total += sum(known) / len(known)
    return total
