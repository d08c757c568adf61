"""A sweep as jobs for the queue, one for each point: all samples of a setting on a task. The tables are written anew when a point is there."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from kvlab import samples
from kvlab.jobs import Job, Partial
from kvlab.runs import RunStore
from kvlab.shelf import Shelf
from kvlab.sweep.drive import Sweep, expected_seconds
from kvlab.sweep.plan import Group, Plan, Setting
from kvlab.sweep.points import points


class Known(NamedTuple):
    """All of a model that names its measurements: enough to tell what is stored, without its weights."""

    name: str
    revision: str
    dtype: str
    device: torch.device


@dataclass(frozen=True)
class Part:
    """One point: a setting, and every sample it is measured on."""

    setting: Setting
    groups: tuple[Group, ...]

    @property
    def title(self) -> str:
        asked = f" at {self.setting.asked}" if self.setting.asked else ""
        return f"{self.setting.method.title}{asked} on {self.groups[0].task.rpartition('/')[2]}"


@dataclass(frozen=True)
class Cost:
    """A plan before it starts. `seconds`: of what is left, None where nothing like it was measured; `earlier`: the measurements that tell it."""

    parts: tuple[Part, ...]
    left: tuple[int, ...]  # samples that every part still needs
    each: tuple[float | None, ...]  # seconds of every part
    runs: int
    earlier: int

    @property
    def seconds(self) -> float | None:
        return None if None in self.each else sum(self.each)


@dataclass(frozen=True)
class Counted:
    """The event after each sample of a part."""

    done: int
    of: int


def parts(plan: Plan) -> list[Part]:
    """The points of a plan, in the order of its settings; the reference first, so that every picture has it."""
    kinds: dict[tuple[str, int, str], list[Group]] = {}
    for group in plan.groups():
        kinds.setdefault((group.task, group.length, group.mode), []).append(group)
    settings = sorted(plan.settings(), key=lambda setting: setting.method.name != "full")
    return [Part(setting, tuple(groups)) for groups in kinds.values() for setting in settings]


def cost(plan: Plan, model: Known, folder: Path) -> Cost:
    """What is left of a plan, and the time it takes by what was measured on this model and device."""
    left: dict[tuple[Setting, Group], None] = {}
    done = samples.done(folder)
    for item, (group, setting) in plan.items(model).items():
        if item not in done:
            left[setting, group] = None
    rows = [row for row in samples.rows(folder) if row["revision"] == model.revision and row["device"] == str(model.device)]
    found = parts(plan)
    counts, each = [], []
    for part in found:
        mine = {group: (part.setting,) for group in part.groups if (part.setting, group) in left}
        counts.append(len(mine))
        each.append(expected_seconds(mine, rows))
    return Cost(tuple(found), tuple(counts), tuple(each), len(plan.settings()) * sum(1 for _ in plan.groups()), len({row["item"] for row in rows}))


def folder_of(plan: Plan, home: Path) -> Path:
    """Where its tables go: the same plan, the same folder."""
    tasks = [re.sub(r"[^A-Za-z0-9_]+", "-", task.rpartition("/")[2].removesuffix(".jsonl"))[:24] for task in plan.tasks[:4]]
    return home / "-".join([*tasks, hashlib.sha256(plan.command().encode()).hexdigest()[:6]])


def jobs(plan: Plan, known: Cost, shelf: Shelf, store: RunStore, owner: str, folder: Path) -> list[Job]:
    """A job for every point that is not measured yet. They wait behind whatever else their owner asks for."""
    lock = threading.Lock()  # two devices may end a point at the same time
    todo = zip(known.parts, known.left, known.each, strict=True)
    return [Job(owner, part.title, _work(plan, part, shelf, store, folder, lock), seconds, background=True) for part, left, seconds in todo if left]


def _work(plan: Plan, part: Part, shelf: Shelf, store: RunStore, folder: Path, lock: threading.Lock) -> Callable[[Job, str], dict[str, Any]]:
    def work(job: Job, device: str) -> dict[str, Any]:
        sweep = Sweep(shelf.get(plan.model, device), plan, store, command=plan.command())
        left = sweep.left()
        mine = {group: (part.setting,) for group in part.groups if part.setting in left.get(group, ())}
        measured = sweep.here(mine)
        for count in range(len(mine)):
            if job.stop.is_set():
                raise Partial({"samples": count})
            next(measured)
            job.emit(Counted(count + 1, len(mine)))
        with lock:
            write(sweep, folder)
        return {"samples": len(mine)}

    return work


def write(sweep: Sweep, folder: Path) -> None:
    """samples.csv.gz, points.csv and sweep.yaml of all that is measured, each put in place whole."""
    rows = sweep.rows()
    found = points(rows)
    if found.empty:
        return
    folder.mkdir(parents=True, exist_ok=True)
    said = {
        samples.FILE: samples.packed(rows),
        "sweep.yaml": f"# {sweep.command}\n" + yaml.safe_dump(sweep.plan.options(), sort_keys=False),
        "points.csv": found.to_csv(index=False),  # last: with it the sweep is there
    }
    for name, content in said.items():
        draft = folder / f".{name}.part"
        draft.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(draft, folder / name)
