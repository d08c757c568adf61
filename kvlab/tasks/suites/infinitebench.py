"""InfiniteBench's synthetic tasks (2024, arXiv 2402.13718), scaled down, and the 64-digit passkey of LagKV (2025, arXiv 2504.04704).

Cards: layers_system_eval.md, from the authors' generator; the 64-digit passkey is a reconstruction on top of it. Sizes follow the length
asked for instead of 128K tokens. Questions stand between "\\nQuestion:" and "\\nAnswer:", as in every form of the bundled model.
"""

from __future__ import annotations

import functools
import random
import statistics

from kvlab.bundled.words import NOISE, digits
from kvlab.tasks.base import Sample, Task, Tokens, fit, room
from kvlab.tasks.suites.needle import at_depth, depth
from kvlab.tasks.suites.ruler_niah import new_uuid

SOURCE = "InfiniteBench, arXiv 2402.13718"
_INTRO = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about it.\n"


def _hidden(name: str, value: str, metric: str, index: int, rng: random.Random, length: int, tokens: Tokens) -> Sample:
    """A value that stands twice in one sentence, at a depth of repeated noise."""
    where, sentence = depth(index), f"\nThe {name} is {value}. Remember it. {value} is the {name}."
    ask = f"\nQuestion: What is the {name}?\nAnswer: The {name} is"
    new = room(f" {value}.", tokens)

    def make(rng: random.Random, units: int) -> Sample:
        context = _INTRO + at_depth([f"\n{NOISE}"] * units, sentence, where)
        return Sample(context, (ask,), ((value,),), metric, new, about=(("depth", where),))

    return fit(make, rng, length, tokens)


def _passkey(size: int, metric: str, rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    return _hidden("pass key", digits(rng, size), metric, index, rng, length, tokens)


def repeated_digits(rng: random.Random) -> str:
    """Five random digits, then five times a digit doubled in place: ten digits with repeats."""
    found = [str(rng.randrange(10)) for _ in range(5)]
    while len(found) < 10:
        place = rng.randrange(len(found))
        found.insert(place, found[place])
    return "".join(found)


def _number(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    return _hidden("sequence of digits", repeated_digits(rng), "passkey", index, rng, length, tokens)


def json_pairs(pairs: list[tuple[str, str]]) -> str:
    """Keys and values as one line of JSON."""
    return "{" + ", ".join(f'"{key}": "{value}"' for key, value in pairs) + "}"


def pair_question(key: str) -> str:
    """Asks for the value of a key, up to its opening quotation mark."""
    return f'\nQuestion: What is the value of the key "{key}"?\nAnswer: The value of the key "{key}" is "'


def _kv(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    gold = new_uuid(rng), new_uuid(rng)
    new = room(gold[1] + '".', tokens)

    def make(rng: random.Random, units: int) -> Sample:
        where = rng.random()
        pairs = [(new_uuid(rng), new_uuid(rng)) for _ in range(units)]
        pairs.insert(int(where * (units + 1)), gold)
        context = f"Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{json_pairs(pairs)}"
        return Sample(context, (pair_question(gold[0]),), ((gold[1],),), "words", new, about=(("depth", round(where, 2)),))

    return fit(make, rng, length, tokens)


FINDS = ("largest", "second largest", "third largest", "smallest", "second smallest", "third smallest", "median")


def find_answer(numbers: list[int], what: str) -> str:
    """The number asked for; second and third are among different values. A median between two numbers ends in .5."""
    if what == "median":
        return f"{statistics.median(numbers):g}"
    ordered = sorted(set(numbers), reverse="largest" in what)
    return str(ordered[("second" in what) + 2 * ("third" in what)])


def find_question(what: str) -> str:
    """Asks for one of `FINDS` in a list of numbers."""
    name = "median" if what == "median" else f"{what} number"
    return f"\nQuestion: What is the {name} of the list?\nAnswer: The {name} of the list is"


def find_range(rng: random.Random, what: str) -> tuple[int, int]:
    """Smallest and largest number of a list: 0 to 99, narrowed by at most a fifth on the side that is asked for."""
    return rng.randint(0, 20) if "smallest" in what else 0, rng.randint(80, 99) if "largest" in what else 99


def _find(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    what = FINDS[index % len(FINDS)]
    low, high = find_range(rng, what)

    def make(rng: random.Random, units: int) -> Sample:
        numbers = [rng.randint(low, high) for _ in range(units)]
        answer = find_answer(numbers, what)
        return Sample(f"List: {numbers}", (find_question(what),), ((answer,),), "first_number", room(f" {answer}.", tokens), about=(("asked", what),))

    return fit(make, rng, length, tokens, least=10)


def _functions(rng: random.Random, calls: int, x: int, units: int) -> tuple[list[str], str, int]:
    """Texts of functions in levels that call the level before, the name of one on the last level, and its value at `x`."""
    values: list[dict[str, int]] = []  # per level, name -> what the function adds to x
    names = [f"func_{i}" for i in rng.sample(range(10 * (units + calls + 1)), units + calls + 1)]
    texts = {}
    for i, name in enumerate(names):
        level = i % (calls + 1)
        add = rng.choice([c for c in range(-12, 18) if c])
        inner, below = "x", 0
        if level:
            inner, below = rng.choice(list(values[level - 1].items()))
        if level == len(values):
            values.append({})
        values[level][name] = below + add
        call = f"{inner}(x)" if level else "x"
        texts[name] = f"\ndef {name}(x):\n    return {call} {'+' if add > 0 else '-'} {abs(add)}\n"
    asked = names[calls]
    order = list(texts.values())
    rng.shuffle(order)
    return order, asked, x + values[calls][asked]


def _run(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    calls, x = 1 + index % 3, rng.randint(0, 10)

    def make(rng: random.Random, units: int) -> Sample:
        texts, asked, value = _functions(rng, calls, x, units)
        while value < 0:  # read as the first number, which has no sign
            texts, asked, value = _functions(rng, calls, x, units)
        ask = f"\nQuestion: What is the value of {asked}({x})?\nAnswer: The value of {asked}({x}) is"
        return Sample("".join(texts)[1:], (ask,), ((str(value),),), "first_number", room(f" {value}.", tokens), about=(("calls", calls),))

    return fit(make, rng, length, tokens)


TASKS = (
    Task("passkey64", 1, "64-digit passkey", "Writes a 64-digit key out of noise; the share of digits before the first error counts.",
         "LagKV, arXiv 2504.04704 (reconstruction)", functools.partial(_passkey, 64, "passkey_prefix")),
    Task("infinite_passkey", 1, "InfiniteBench passkey", "Finds five digits in noise.", SOURCE, functools.partial(_passkey, 5, "passkey")),
    Task("infinite_number", 1, "InfiniteBench number", "Finds ten digits with repeats in noise.", SOURCE, _number),
    Task("infinite_kv", 1, "InfiniteBench key-value", "Finds the UUID that belongs to a UUID.", SOURCE, _kv),
    Task("infinite_math_find", 1, "InfiniteBench Math.Find", "Finds the largest, smallest or middle number of a list.", SOURCE, _find),
    Task("infinite_code_run", 1, "InfiniteBench Code.Run", "Follows one to three calls between small functions and adds up.", SOURCE, _run),
)  # fmt: skip
