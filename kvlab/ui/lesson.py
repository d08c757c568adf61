"""A lesson as the browser gets it: sentences filled from stored data, pictures, right answers computed. Pure but for reading files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvlab import lessons
from kvlab.lessons import Lesson, Step
from kvlab.ui import lesson_points, lesson_scenes, lesson_sums
from kvlab.ui.lesson_data import Scene, Sources

SCENES: dict[str, Callable[..., Scene]] = {
    **{name: getattr(lesson_scenes, name) for name in ("reading", "lost", "kept", "passage", "sizes", "numbers", "cells", "drift")},
    **{name: getattr(lesson_sums, name) for name in ("growth", "steps", "parts", "shared", "users", "again", "regions", "lopsided", "rounding")},
    **{name: getattr(lesson_points, name) for name in ("scores", "depth", "tradeoff", "paired", "tasks", "single")},
}
"""Name in `show: {scene: ...}` -> what makes it."""


def scene(step: Step, src: Sources) -> Scene:
    """The step's facts and picture. Raises ValueError with a sentence when what it shows is not stored."""
    said = dict(step.show)
    name = said.pop("scene")
    if name not in SCENES:
        raise ValueError(f"There is no scene {name}; there are {', '.join(SCENES)}.")
    try:
        return SCENES[name](src, **said)
    except TypeError as error:
        raise ValueError(f"The scene {name} cannot be drawn with {', '.join(said) or 'nothing'}: {error}.") from None


def built(lesson: Lesson, src: Sources) -> dict[str, Any]:
    """The lesson as plain JSON. A step whose data are missing says so in its `problem` and keeps its place."""
    return {"id": lesson.id, "number": lesson.number, "title": lesson.title, "live": lesson.live, "steps": [_step(step, src) for step in lesson.steps]}


def _step(step: Step, src: Sources) -> dict[str, Any]:
    try:
        made = scene(step, src)
        return _filled(step, made)
    except (ValueError, FileNotFoundError) as error:
        return {"title": lessons.bare(step.title), "text": [], "problem": str(error), "picture": None, "table": [], "link": "", "runs": []}


def _filled(step: Step, made: Scene) -> dict[str, Any]:
    f = made.facts
    said = {"title": lessons.fill(step.title, f), "text": lessons.pieces(step.text, f), "reveal": lessons.pieces(step.reveal, f), "picture": made.picture,
            "table": made.table, "link": made.link, "runs": list(made.runs), "source": step.source, "doubts": lessons.broken(step, f)}  # fmt: skip
    if q := step.question:
        values = [f[value] if isinstance(value, str) else value for value in q.values]
        said["question"] = {
            "ask": lessons.fill(q.ask, f),
            "choices": [lessons.fill(choice, f) for choice in q.choices],
            "answer": int(f[q.answer]),
            "values": values,
        }
    return said


def plain(pieces: list[tuple[str, bool]]) -> str:
    """A sentence without its marks."""
    return "".join(text for text, _ in pieces)


def place(params: Mapping[str, str], steps: int) -> int:
    """The step of a link, counted from 0: `step=3` is 2. Outside it is brought to the nearest end, unreadable it is the first."""
    text = params.get("step", "")
    return max(0, min(int(text) - 1, steps - 1)) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def link(lesson: str, step: int, present: bool = False) -> str:
    """The address of a step, counted from 0."""
    return f"learn?lesson={lesson}&step={step + 1}" + ("&present=1" if present else "")
