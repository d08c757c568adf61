"""A visitor's own questions: a JSONL file kept under `KVLAB_HOME`/tasks, so that a sweep can read it by its name, `own:METRIC:FILE`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from kvlab.runs import default_folder
from kvlab.tasks import Task, local
from kvlab.ui.upload import LIMIT, decoded

NAME = re.compile(r"[\w-]{1,40}-[0-9a-f]{12}")
"""What a kept file is called, without its ending: never what the visitor called it."""


def folder() -> Path:
    return default_folder().parent / "tasks"


def keep(data: bytes, name: str) -> str:
    """Write the file, once, and return its short name. Raises ValueError with a sentence for what is no task."""
    if len(data) > LIMIT:
        raise ValueError(f"The file has {len(data):,} bytes; at most {LIMIT:,} are read. Split it.")
    text, _ = decoded(data)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name.rpartition(".")[0]).strip("-")[:24] or "questions"
    short = f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    path = folder() / f"{short}.jsonl"
    if not path.exists():
        folder().mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(text, encoding="utf-8")
        try:
            local.load(draft)
        except ValueError as error:
            draft.unlink()
            raise ValueError(str(error).replace(draft.name, "The file")) from None
        draft.rename(path)
    return short


def task(short: str, metric: str = "contains") -> Task:
    """The task of a kept file. Raises ValueError with a sentence."""
    if not NAME.fullmatch(short) or not (path := folder() / f"{short}.jsonl").exists():
        raise ValueError("That file of questions is not here any more. Upload it again.")
    return local.load(path, metric)


def count(short: str) -> int:
    """Questions in a kept file."""
    return sum(bool(line.strip()) for line in (folder() / f"{short}.jsonl").read_text(encoding="utf-8").split("\n"))
