"""Lessons as data: each a file of `data/lessons`, read and checked here. Knows nothing of screens and measures nothing.

A lesson has steps, a step has a title, a sentence, one picture (a scene with its arguments), and perhaps a question. Sentences are templates over
the facts that the scene finds in stored data, so no figure is written down: `{share:%}`, `{held:size}`, `{ratio:x}`, `{count}`. Two stars around
words make them key words. `answer` names the fact that holds the index of the right choice. `needs` are conditions over facts, each with the
sentence that says which point of the lesson has gone when it no longer holds.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kvlab.models import DATA

Facts = Mapping[str, Any]
Pieces = list[tuple[str, bool]]
"""A sentence in pieces; the second part says whether a piece is a key word."""

FEWEST, MOST = 4, 7
"""Steps of a lesson."""
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne}
_HOLE = re.compile(r"\{(\w+)(?::(%|size|x))?\}")
_NEED = re.compile(r"(\w+) (<=|>=|==|!=|<|>) (-?[\d.]+|\w+)")


@dataclass(frozen=True)
class Question:
    """Asked before the result shows. `answer`: name of the fact that is the index of the right choice; `values`: where each choice lies on the picture's
    axis, numbers or names of facts, for the line that stays after the reveal."""

    ask: str
    choices: tuple[str, ...]
    answer: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Step:
    """One claim, one sentence, one picture, at most one question. `reveal` is said after it, or at once where nothing is asked."""

    title: str
    text: str
    show: dict[str, Any]
    reveal: str = ""
    question: Question | None = None
    needs: tuple[tuple[str, str], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Lesson:
    """`live` names the preset that the Run page is filled with."""

    id: str
    number: int
    title: str
    about: str
    live: str
    steps: tuple[Step, ...]


def folder() -> Path:
    """Where the lessons lie."""
    return DATA / "lessons"


def lessons(place: Path | None = None) -> list[Lesson]:
    """Every lesson in `place`, by number. Raises ValueError naming the file and the step."""
    return sorted((read(path) for path in (place or folder()).glob("*.yaml")), key=lambda lesson: lesson.number)


def read(path: Path) -> Lesson:
    """The lesson in the file `<number>_<id>.yaml`. Raises ValueError with a sentence."""
    named = re.fullmatch(r"(\d+)_([a-z-]+)", path.stem)
    if not named:
        raise ValueError(f"{path.name}: a lesson's file is named <number>_<id>.yaml, the id in small letters.")
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    top = _take(said, path.name, {"title": str, "about": str, "live": str, "steps": list})
    if not FEWEST <= len(top["steps"]) <= MOST:
        raise ValueError(f"{path.name}: a lesson has {FEWEST} to {MOST} steps, this one {len(top['steps'])}.")
    steps = tuple(_step(step, f"{path.name}, step {number}") for number, step in enumerate(top["steps"], 1))
    return Lesson(named[2], int(named[1]), top["title"], top["about"], top["live"], steps)


def _step(said: Any, where: str) -> Step:
    given = _take(said, where, {"title": str, "text": str, "show": dict}, {"reveal": str, "question": dict, "needs": dict, "source": str})
    if "scene" not in given["show"]:
        raise ValueError(f"{where}: show has no scene.")
    if "question" in given:
        given["question"] = _question(given["question"], where)
        if "reveal" not in given:
            raise ValueError(f"{where}: a question needs a reveal.")
    for need in given.get("needs", {}):
        if not _NEED.fullmatch(need):
            raise ValueError(f"{where}: {need!r} is no condition such as 'share > 0.5'.")
    return Step(**{**given, "needs": tuple(given.get("needs", {}).items())})


def _question(said: Any, where: str) -> Question:
    given = _take(said, f"{where}, question", {"ask": str, "choices": list, "answer": str}, {"values": list})
    count = len(given["choices"])
    if not 2 <= count <= 4 or not all(isinstance(choice, str) for choice in given["choices"]):
        raise ValueError(f"{where}: a question has two to four choices, all of them text.")
    if len(given.get("values", given["choices"])) != count:
        raise ValueError(f"{where}: {count} choices and {len(given['values'])} values.")
    return Question(given["ask"], tuple(given["choices"]), given["answer"], tuple(given.get("values", ())))


def _take(said: Any, where: str, must: dict[str, type], may: dict[str, type] | None = None) -> dict[str, Any]:
    """`said` with exactly these keys and kinds. Raises ValueError naming the first that is wrong."""
    if not isinstance(said, dict):
        raise ValueError(f"{where}: expected names and values.")
    known = {**must, **(may or {})}
    for name in must:
        if name not in said:
            raise ValueError(f"{where}: {name} is missing.")
    for name, value in said.items():
        if name not in known:
            raise ValueError(f"{where}: {name} is none of {', '.join(known)}.")
        if not isinstance(value, known[name]):
            raise ValueError(f"{where}: {name} is not a {known[name].__name__}.")
    return dict(said)


def names(step: Step) -> set[str]:
    """Every fact that a step asks for."""
    texts = [step.title, step.text, step.reveal]
    conditions = [_NEED.fullmatch(need) for need, _ in step.needs]
    found = {word for c in conditions if c for word in (c[1], c[3]) if not _number(word)}
    if step.question:
        texts += [step.question.ask, *step.question.choices]
        found |= {step.question.answer, *(value for value in step.question.values if isinstance(value, str))}
    return found | {hole[1] for text in texts for hole in _HOLE.finditer(text)}


def pieces(template: str, facts: Facts) -> Pieces:
    """The sentence with its facts. Stars are read in the template alone: a fact may hold any text."""
    return [(fill(part, facts), bool(i % 2)) for i, part in enumerate(template.split("**")) if part]


def fill(template: str, facts: Facts) -> str:
    """Facts in their places. Raises ValueError for a fact that is not there."""

    def value(hole: re.Match[str]) -> str:
        if hole[1] not in facts:
            raise ValueError(f"The sentence {template!r} asks for {hole[1]}, which its picture does not measure.")
        return shown(facts[hole[1]], hole[2])

    return _HOLE.sub(value, template)


def shown(value: Any, kind: str | None = None) -> str:
    """A fact in words: "%" a share, "size" bytes, "x" a factor, otherwise as it is, whole numbers with their thousands."""
    if kind == "%":
        return f"{100 * value:.0f} %" if value >= 0.095 or value < 0.0005 else f"{100 * value:.1f} %"
    if kind == "size":
        return size(value)
    if kind == "x":
        return f"{value:.1f}".removesuffix(".0")
    if isinstance(value, float):
        return f"{value:.3g}" if value == 0 or abs(value) >= 0.001 else "under 0.001"
    return f"{value:,}" if isinstance(value, int) else str(value)


def size(count: float) -> str:
    """Bytes in words."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= step:
            return f"{count / step:,.0f} {unit}" if count >= 100 * step else f"{count / step:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def bare(template: str) -> str:
    """The template without its facts, for a title whose facts are missing."""
    return " ".join(_HOLE.sub("", template).split())


def broken(step: Step, facts: Facts) -> list[str]:
    """The sentences of the conditions that do not hold."""
    return [fill(words, facts) for need, words in step.needs if not holds(need, facts)]


def holds(need: str, facts: Facts) -> bool:
    """Whether a condition such as "share > 0.5" or "a >= b" is true."""
    left, sign, right = _NEED.fullmatch(need).groups()  # type: ignore[union-attr]
    return bool(COMPARE[sign](facts[left], float(right) if _number(right) else facts[right]))


def _number(word: str) -> bool:
    return word.lstrip("-").replace(".", "", 1).isdigit()
