"""RULER's variable tracking (2024, arXiv 2404.06654). Card: layers_system_eval.md, from the authors' code.

One chain of five variables in repeated noise: the first is set to a number, each other one to the one before. RULER puts one solved
example before every text; `ruler_vt_example` does so, `ruler_vt` does not, because the example alone takes some 500 tokens. The
question stands between "\\nQuestion:" and "\\nAnswer:", as in every form of the bundled model; RULER's blanks at line ends are left out.
"""

from __future__ import annotations

import functools
import itertools
import random
import string

from kvlab.bundled.words import NOISE
from kvlab.tasks.base import Sample, Task, Tokens, fit, room
from kvlab.tasks.suites.ruler_niah import SOURCE, in_lines

HOPS = 4
VALUES = range(10000, 99999)
_INTRO = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
_EXAMPLE_LINES = 15  # about 500 tokens, as RULER's example


def chain(rng: random.Random, hops: int, letters: int, taken: set[str]) -> list[str]:
    """Names of `hops` + 1 variables of upper-case letters, none of them taken before."""
    names: list[str] = []
    while len(names) <= hops:
        name = "".join(rng.choices(string.ascii_uppercase, k=letters))
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def assignments(names: list[str], value: int) -> list[str]:
    """The lines that set the first variable to the value and each other one to the one before it."""
    return [f"\nVAR {names[0]} = {value}", *(f"\nVAR {new} = VAR {old}" for old, new in itertools.pairwise(names))]


def question(value: int, count: int) -> str:
    """RULER's question with its answer prefix."""
    return (
        f"\nQuestion: Find all variables that are assigned the value {value} in the text above."
        "\nAnswer: According to the chain(s) of variable assignment in the text above, "
        f"{count} variables are assigned the value {value}, they are:"
    )


def _text(rng: random.Random, lines: int, names: list[str], value: int) -> str:
    pieces, _ = in_lines(rng, [f"\n{NOISE}"] * lines, assignments(names, value))
    return _INTRO + "".join(pieces).lstrip()


def _build(example: bool, rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    names, (value, other) = chain(rng, HOPS, 5, set()), rng.sample(VALUES, 2)
    head = ""
    if example:
        solved = chain(rng, HOPS, 3, set())
        head = f"{_text(rng, _EXAMPLE_LINES, solved, other)}{question(other, HOPS + 1)} {', '.join(solved)}\n\n"
    new = room(f" {', '.join(names)}.", tokens)

    def make(rng: random.Random, units: int) -> Sample:
        return Sample(head + _text(rng, units, names, value), (question(value, HOPS + 1),), (tuple(names),), max_new_tokens=new)

    return fit(make, rng, length, tokens, least=HOPS)


TASKS = (
    Task("ruler_vt", 1, "RULER variable tracking", "Names all five variables of one chain that was scattered in noise.", SOURCE,
         functools.partial(_build, False)),
    Task("ruler_vt_example", 1, "RULER variable tracking, solved example", "Variable tracking with one solved example before the text.", SOURCE,
         functools.partial(_build, True)),
)  # fmt: skip
