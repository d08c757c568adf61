"""What a task hands to a run: samples of a context, questions about it, the references and the metric that compares them.

Context and questions are kept apart, so that a cache can be filled (and compressed) before a question is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

Tokens = Callable[[str], int]  # number of tokens of a text, without special tokens
SPECIAL = 2  # tokens left free for those a tokenizer puts around a text
SLACK = 4  # tokens an answer may take beyond its reference: a quotation mark, "and", a line end


@dataclass(frozen=True)
class Sample:
    """One context with what is asked about it (`questions`), or with the text that follows it (`continuation`)."""

    context: str
    questions: tuple[str, ...] = ()  # each ends in its answer prefix; fed after the context
    references: tuple[tuple[str, ...], ...] = ()  # per question
    metric: str = "contains_all"  # a name in kvlab.tasks.metrics.METRICS: (answer, references) -> float in [0, 1]
    max_new_tokens: int = 32  # per question
    continuation: str = ""  # set instead of questions: scored teacher-forced (perplexity, KL, top-1 agreement)
    lines: bool = field(default=False, repr=False)  # an answer has several lines: a line's end that a model ends its answers with ends a line only
    about: tuple[tuple[str, float | str], ...] = ()  # such as (("depth", 0.5),)

    def size(self, tokens: Tokens) -> int:
        """Tokens of context, questions, answers at their longest and continuation together, special tokens included."""
        asked = sum(tokens(q) + self.max_new_tokens for q in self.questions)
        return SPECIAL + tokens(self.context) + asked + (tokens(self.continuation) if self.continuation else 0)


@dataclass(frozen=True)
class Task:
    """A named generator of samples. `version` grows whenever the same arguments would give other samples or other scores.

    `build(rng, index, length, tokens)` makes sample number `index`. The random numbers depend on the task, its version, the seed
    and the index alone, so more samples or longer ones start from the same draw.
    """

    name: str
    version: int
    title: str
    sentence: str  # what it measures
    source: str  # paper or card
    build: Callable[[random.Random, int, int, Tokens], Sample]
    better: str = "higher"
    kind: str = "answers"  # "text": the continuation is scored
    independent: bool = True  # no question needs the answer of an earlier one: each may be asked of the context alone

    def samples(self, count: int, length: int, seed: int, tokens: Tokens) -> list[Sample]:
        """`count` samples of at most `length` tokens each (`Sample.size`). Deterministic; sample i does not depend on `count`.

        Raises ValueError with a sentence if the task does not fit into `length`.
        """
        made = []
        for index in range(count):
            rng = random.Random(f"{self.name} {self.version} {seed} {index}")
            try:
                made.append(self.build(rng, index, length, tokens))
            except TooLong as error:
                raise ValueError(f"{self.name} does not fit into {length} tokens: {error}") from None
        return made


class TooLong(ValueError):
    """Even the smallest sample has more tokens than it may have."""


def fit(make: Callable[[random.Random, int], Sample], rng: random.Random, length: int, tokens: Tokens, least: int = 0, most: int = 1 << 24) -> Sample:
    """The sample of the largest `units` (filler sentences, pairs, ...) that has at most `length` tokens.

    `make(rng, units)` is called with the same random state each time. Searched by doubling and halving, as RULER does, so a sample
    is as long as its units allow. Raises `TooLong` if `least` units are too many.
    """
    state = rng.getstate()

    def made(units: int) -> tuple[Sample, int]:
        rng.setstate(state)
        sample = make(rng, units)
        return sample, sample.size(tokens)

    best, size = made(least)
    if size > length:
        raise TooLong(f"its smallest sample has {size}.")
    low, high = least, min(max(least, 1) * 2, most)
    while high < most and (trial := made(high))[1] <= length:
        best, low, high = trial[0], high, min(high * 2, most)
    while low < high:
        middle = (low + high + 1) // 2
        trial = made(middle)
        if trial[1] <= length:
            best, low = trial[0], middle
        else:
            high = middle - 1
    return best


def room(answer: str, tokens: Tokens, most: int = 1 << 24) -> int:
    """`max_new_tokens` for an answer: its tokens and some slack, at most the benchmark's own limit."""
    return min(tokens(answer) + SLACK, most)
