"""Tasks: what a sweep runs. Every file in `kvlab/tasks/suites/` lists its tasks in `TASKS`; no list to keep.

Files of one's own and published datasets are tasks too: see `kvlab.tasks.local`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from pathlib import Path

from kvlab.tasks import local
from kvlab.tasks.base import Sample, Task

__all__ = ["Sample", "Task", "find", "names"]
FOLDER = Path(__file__).parent / "suites"


@functools.cache
def _tasks() -> dict[str, Task]:
    found: dict[str, Task] = {}
    for file in sorted(FOLDER.glob("[!_]*.py")):
        module = importlib.import_module(f"kvlab.tasks.suites.{file.stem}")
        for task in module.TASKS:
            if task.name in found:
                raise ImportError(f"Two tasks are named {task.name!r}.")
            found[task.name] = task
    return found


def names() -> list[str]:
    """Names of all tasks, in the order of their files."""
    return list(_tasks())


def find(name: str) -> Task:
    """The task of this name, or of a file (`kvlab.tasks.local`). Raises ValueError with a sentence that lists the names."""
    if ":" in name:
        return local.find(name)
    if name not in _tasks():
        near = difflib.get_close_matches(name, _tasks(), 3, 0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"There is no task {name!r}.{hint} Tasks: {', '.join(_tasks())}; or a file, such as own:f1:FILE.jsonl.")
    return _tasks()[name]
