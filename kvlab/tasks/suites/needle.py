"""Needle in a haystack: one fact in filler, at a depth. Card: layers_system_eval.md, after gkamradt/LLMTest_NeedleInAHaystack.

The facts are those the bundled model was trained to look up, about things it was never trained on. Answers are compared with the
reference as a substring, not by a judging model as the original does.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator

from kvlab.bundled import forms, natural
from kvlab.tasks import essay
from kvlab.tasks.base import Sample, Task, Tokens, fit, room
from kvlab.tasks.words import KEYS

DEPTHS = tuple(i / 10 for i in range(11))
CARD = "gkamradt/LLMTest_NeedleInAHaystack; layers_system_eval.md"


def depth(index: int) -> float:
    """Depth of sample `index`: eleven samples in a row have all eleven depths, the first few are far apart."""
    return DEPTHS[index * 7 % len(DEPTHS)]


def at_depth(filler: list[str], needle: str, where: float) -> str:
    """Filler with the needle put between its sentences at `where` (0: first, 1: last)."""
    place = round(where * len(filler))
    return "".join([*filler[:place], needle, *filler[place:]]).lstrip()


def essays(rng: random.Random) -> Iterator[str]:
    """Endless sentences of the essay grammar."""
    while True:
        yield essay.sentence(rng)


def docstrings(rng: random.Random) -> Iterator[str]:
    """Endless lines of the held-out docstrings, a line break before each."""
    while True:
        for line in rng.choice(natural.documents(True)).split("\n"):
            if line.strip():
                yield "\n" + line[:300]


def _build(filler: Callable[[random.Random], Iterator[str]], rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    fact, where, seed = forms.fact(rng, KEYS), depth(index), rng.random()

    def make(rng: random.Random, units: int) -> Sample:
        lines = filler(random.Random(seed))
        context = at_depth([next(lines) for _ in range(units)], fact.text, where)
        return Sample(
            context, (fact.question,), (fact.answers,), max_new_tokens=room(fact.target, tokens), about=(("depth", where), ("needle", fact.text.strip()))
        )

    return fit(make, rng, length, tokens)


TASKS = (
    Task("niah", 1, "Needle in a haystack", "Finds one fact in essay-like filler, at eleven depths.", CARD, functools.partial(_build, essays)),
    Task("niah_docstrings", 1, "Needle in docstrings", "Finds one fact in Python's own documentation, at eleven depths.", CARD,
         functools.partial(_build, docstrings)),
)
