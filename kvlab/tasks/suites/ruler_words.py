"""RULER's common and frequent words (2024, arXiv 2404.06654). Card: layers_system_eval.md, from the authors' code.

Ours: the words of the common-words list (our own lists, then invented words), a shuffle for each sample where RULER's is the same for
all, sizes searched word by word, and the question between "\\nQuestion:" and "\\nAnswer:", as in every form of the bundled model. RULER's
frequent-words question also asks for no explanation and to ignore the dots.
"""

from __future__ import annotations

import functools
import math
import random
import string

from kvlab.bundled.words import pseudo_word
from kvlab.tasks.base import Sample, Task, Tokens, TooLong, fit, room
from kvlab.tasks.suites.ruler_niah import SOURCE
from kvlab.tasks.words import ADJECTIVES, NOUNS

COMMON = 10
_CWE_INTRO = "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most often.\n"
_CWE = (
    "\nQuestion: What are the 10 most common words in the above list?"
    "\nAnswer: The top 10 words that appear most often in the list are:"
)
_FWE_INTRO = "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded words. "
_FWE = (
    "\nQuestion: What are the three most frequently appeared words in the above coded text?"
    "\nAnswer: According to the coded text above, the three most frequently appeared words are:"
)
_FWE_NEW = 50  # tokens RULER reserves for the answer; its vocabulary depends on what is left
ALPHA = 2.0
_ZETA = math.pi**2 / 6  # zeta(ALPHA)


def numbered(words: list[str]) -> str:
    """ "1. heron 2. otter 3. heron"."""
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def _vocabulary(rng: random.Random, count: int) -> list[str]:
    """`count` different words: ours, shuffled, then invented ones."""
    found = dict.fromkeys(rng.sample(ADJECTIVES + NOUNS, min(count, len(ADJECTIVES) + len(NOUNS))))
    while len(found) < count:
        found[pseudo_word(rng) + rng.choice(string.ascii_lowercase)] = None
    return list(found)


def _listing(rng: random.Random, words: list[str], common: int, rare: int) -> str:
    """The numbered list in which the first ten words come `common` times and the others `rare` times."""
    repeated = words[:COMMON] * common + words[COMMON:] * rare
    rng.shuffle(repeated)
    return _CWE_INTRO + numbered(repeated)


def _cwe(example: bool, rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    short = length < 4096  # RULER's own limit
    common, rare = (6, 1) if short else (30, 3)
    vocabulary = _vocabulary(rng, max(length // 3, 64))  # a word, its number and a point take three tokens or more
    wanted, head = vocabulary[:COMMON], ""
    if example:
        words = _vocabulary(rng, 20 if short else 40)
        head = f"{_listing(rng, words, *((3, 1) if short else (10, 3)))}{_CWE} {numbered(words[:COMMON])}\n"
    new = room(f" {numbered(wanted)}.", tokens, 120)

    def make(rng: random.Random, units: int) -> Sample:
        text = head + _listing(rng, vocabulary[: COMMON + units], common, rare)
        return Sample(text, (_CWE,), (tuple(wanted),), max_new_tokens=new)

    return fit(make, rng, length, tokens, least=COMMON, most=len(vocabulary) - COMMON)


def copies(total: int, rank: int) -> int:
    """How often the word of a rank (from 1) comes in a coded text of about `total` words."""
    return int(total * rank**-ALPHA / _ZETA)


def _fwe(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    size = (length - _FWE_NEW) // 50
    if size < 4:
        raise TooLong(f"its vocabulary needs {_FWE_NEW + 200}.")
    vocabulary: dict[str, None] = {}
    while len(vocabulary) < size:
        vocabulary["".join(rng.choices(string.ascii_lowercase, k=6))] = None
    ranked = ["...", *list(vocabulary)[1:]]  # the first rank is noise
    wanted = tuple(ranked[1:4])
    new = room(f" {', '.join(wanted)}.", tokens, _FWE_NEW)

    def make(rng: random.Random, units: int) -> Sample:
        words = [word for rank, word in enumerate(ranked, 1) for _ in range(copies(units, rank))]
        rng.shuffle(words)
        return Sample(_FWE_INTRO + " ".join(words), (_FWE,), (wanted,), max_new_tokens=new)

    return fit(make, rng, length, tokens, least=53)  # from here on the fourth rank comes more often than the fifth


TASKS = (
    Task("ruler_cwe", 1, "RULER common words", "Names the ten words that come most often in a long list.", SOURCE, functools.partial(_cwe, False)),
    Task("ruler_cwe_example", 1, "RULER common words, solved example", "Common words with one solved example before the list.", SOURCE,
         functools.partial(_cwe, True)),
    Task("ruler_fwe", 1, "RULER frequent words", "Names the three most frequent words of a coded text.", SOURCE, _fwe),
)  # fmt: skip
