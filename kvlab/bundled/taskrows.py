"""The third part of training: samples of the tasks themselves (`kvlab.tasks`), from other seeds and with other words.

The tasks' own builders make them, so that the wording is the tasks'; every word the tasks keep for themselves is replaced by one of the training
lists. Digits, UUIDs and random strings need no list: another seed makes other ones.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from kvlab.bundled.forms import Count
from kvlab.bundled.words import Words
from kvlab.tasks import find
from kvlab.tasks.base import Sample
from kvlab.tasks.words import KEYS, NAMES, NOUNS

IN_TEXT_ORDER = {"ruler_niah_multivalue", "ruler_cwe"}
"""Tasks whose several answers are trained in the order of the text: the order they are listed in is nowhere to be seen."""


@lru_cache(maxsize=1)
def _kept() -> tuple[dict[str, str], re.Pattern[str]]:
    """Word -> name of its list in `Words`, and what finds these words."""
    lists = {"adjectives": KEYS.adjectives, "nouns": KEYS.nouns + NOUNS, "names": NAMES + KEYS.names, "cities": KEYS.cities}
    kinds = {word: kind for kind, listed in lists.items() for word in listed}
    return kinds, re.compile(rf"\b({'|'.join(sorted(kinds, key=len, reverse=True))})\b", re.IGNORECASE)


class Swap:
    """Replaces the tasks' words; the same word by the same other one within a sample, different ones by different ones."""

    def __init__(self, rng: random.Random, words: Words) -> None:
        self.rng, self.words, self.other, self.taken = rng, words, {}, set()

    def __call__(self, text: str) -> str:
        return _kept()[1].sub(self._one, text)

    def _one(self, found: re.Match[str]) -> str:
        word = found.group()
        kinds, _ = _kept()
        kind = kinds.get(word) or kinds.get(word.lower()) or kinds[word.capitalize()]
        if word not in self.other:
            listed = getattr(self.words, kind)
            new = self.rng.choice(listed)
            while new in self.taken:
                new = self.rng.choice(listed)
            self.taken.add(new)
            self.other[word] = new
        return self.other[word]


def target(name: str, sample: Sample, question: str, answers: tuple[str, ...]) -> str:
    """What the model should write after a question, as the bundled forms write answers."""
    if name.startswith("longgen"):
        return "\n".join(f"Answer_{i}: The answer is {number}." for i, number in (a.split("=") for a in answers))
    if name in IN_TEXT_ORDER:
        answers = tuple(sorted(answers, key=sample.context.find))
    if question.endswith('"'):
        return f'{answers[0]}".'
    if name == "scbench_many_shot":
        return f" {answers[0]}"
    return f" {', '.join(answers)}."


def pieces(name: str, rng: random.Random, length: int, words: Words, count: Count) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces of the context and (question, target) pairs of one sample of at most `length` tokens (before the words are swapped).

    Raises `kvlab.tasks.base.TooLong` if the task does not fit.
    """
    sample = find(name).build(rng, rng.randrange(1 << 20), length, count)
    swap = Swap(rng, words)
    pairs = [(swap(q), swap(target(name, sample, q, a))) for q, a in zip(sample.questions, sample.references, strict=True)]
    return re.findall(r"[^.,\n]+[.,\n]*|[.,\n]+", swap(sample.context)), pairs
