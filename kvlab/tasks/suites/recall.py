"""The bundled model's own forms: facts, key-value lists and chains of variables, on words and seeds it was never trained on.

Four questions are asked about each context, none needs another's answer. Generators: kvlab.bundled.forms.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kvlab.bundled import forms, words
from kvlab.tasks.base import Sample, Task, Tokens, fit, room
from kvlab.tasks.words import KEYS

QUESTIONS = 4
SOURCE = "kvlab.bundled.forms, held-out words"


def asked(context: str, facts: list[forms.Fact], tokens: Tokens) -> Sample:
    """A sample that asks for these facts of a context."""
    most = max(room(f.target, tokens) for f in facts)
    return Sample(context, tuple(f.question for f in facts), tuple(f.answers for f in facts), max_new_tokens=most)


def _listed(new: Callable[[random.Random, forms.Fact | None], forms.Fact], head: str, rng: random.Random, length: int, tokens: Tokens) -> Sample:
    """As many facts with different keys as fit, some of them asked for."""

    def make(rng: random.Random, units: int) -> Sample:
        ask = random.Random(rng.random())
        found: dict[str, forms.Fact] = {}
        last = None
        while len(found) < units:
            last = new(rng, last)
            found.setdefault(last.key, last)
        facts = ask.sample(list(found.values()), min(QUESTIONS, units))
        return asked((head + "".join(f.text for f in found.values())).lstrip(), facts, tokens)

    return fit(make, rng, length, tokens, least=1)


def _fact(rng: random.Random, last: forms.Fact | None) -> forms.Fact:
    """A fact; now and then one about a thing that shares a word with the fact before. A person's key is a verb and a name: no thing."""
    key = last.key.split(" ") if last else []
    return forms.fact(rng, KEYS, " ".join(key[-2:]) if len(key) > 2 else None)


def _pair(rng: random.Random, last: forms.Fact | None) -> forms.Fact:
    """A line of a key-value list, such as "- green falcon = 291644"."""
    key, value = words.entity(rng, KEYS), words.digits(rng, rng.choice((3, 3, 4, 6)))
    question = f"\nQuestion: What is the value of {key}?\nAnswer: {key} ="
    return forms.Fact(f"\n- {key} = {value}", question, f" {value}.", (value,), key)


def _recall(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    return _listed(_fact, "", rng, length, tokens)


def _kvlist(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    return _listed(_pair, "List:", rng, length, tokens)


def _chain(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    """Chains of two hops; the bundled generator takes a size, which is tried until the sample fits."""
    seed = f"chain {rng.random()}"

    def make(rng: random.Random, size: int) -> Sample:
        made = forms.make("chain", seed, size, KEYS, tokens, QUESTIONS, hops=2, letters=False)
        most = max(room(target, tokens) for target in made.targets)
        return Sample(made.context, tuple(made.questions), tuple(map(tuple, made.answers)), max_new_tokens=most)

    return fit(make, rng, length, tokens, least=min(length // 2, 64), most=2 * length)


TASKS = (
    Task("recall", 1, "Recall of facts", "Looks up four of many short facts; nothing in the context is filler.", SOURCE, _recall),
    Task("kvlist", 1, "Key-value list", "Looks up four lines of a long list of keys and numbers.", SOURCE, _kvlist),
    Task("chain", 1, "Variable chain", "Follows a variable through two assignments to its number, four times.", SOURCE, _chain),
)
