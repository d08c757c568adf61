"""Long answers, in the form of LongGenBench as SCOPE uses it (arXiv 2412.13649). Card: layers_system_eval.md, from the authors' code.

One prompt holds K numbered questions that are answered one after the other, so most tokens are written, not read. The questions are
synthetic: a number to copy or a small sum. Answers are paired with questions by their number; the released scorer's pairing by order is
the metric `longgen`.
"""

from __future__ import annotations

import functools
import random

from kvlab.tasks.base import Sample, Task, Tokens, fit, room

SOURCE = "LongGenBench in SCOPE, arXiv 2412.13649 (synthetic questions)"
_SHOWN = 3
_INTRO = 'Answer every question as "Answer_i:" and end each answer with "The answer is" and its number.\n'


def _copy(rng: random.Random) -> tuple[str, int]:
    number = rng.randrange(100, 1000)
    return f"Write {number} again.", number


def _add(rng: random.Random) -> tuple[str, int]:
    a, b = rng.randrange(1, 10), rng.randrange(10, 90)
    return f"Add {a} to {b}.", a + b


_KINDS = {"copy": _copy, "add": _add}


def _questions(items: list[tuple[str, int]], first: int) -> str:
    return "".join(f"\nQuestion_{i}: {text}" for i, (text, _) in enumerate(items, first))


def _answers(items: list[tuple[str, int]], first: int) -> str:
    return "".join(f"\nAnswer_{i}: The answer is {number}." for i, (_, number) in enumerate(items, first))


def _build(kind: str, rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    shown = [_KINDS[kind](rng) for _ in range(_SHOWN)]

    def make(rng: random.Random, units: int) -> Sample:
        asked = [_KINDS[kind](rng) for _ in range(units)]
        first = _SHOWN + 1
        context = f"{_INTRO}\nExamples:{_questions(shown, 1)}{_answers(shown, 1)}\n\nFollowing questions:{_questions(asked, first)}"
        golds = tuple(f"{i}={number}" for i, (_, number) in enumerate(asked, first))
        new = room(_answers(asked, first), tokens)
        return Sample(context, ("\n\nFollowing answers:\n",), (golds,), "longgen_index", new, lines=True, about=(("questions", units),))

    return fit(make, rng, length, tokens, least=2)


TASKS = tuple(
    Task(f"longgen_{kind}", 2, f"Long answers: {title}", f"Answers a long row of questions in one go; each asks to {title}.", SOURCE,
         functools.partial(_build, kind))
    for kind, title in (("copy", "copy a number"), ("add", "add two numbers"))
)  # fmt: skip
