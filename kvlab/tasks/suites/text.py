"""Natural text to score: the docstrings of Python's own library that the bundled model was never trained on.

The context is read (and compressed), the continuation is scored token by token; how it is fed is the run's choice. Card: the perplexity
part of layers_system_eval.md. The text depends on the Python version.
"""

from __future__ import annotations

import random
import re

from kvlab.bundled import natural
from kvlab.tasks.base import Sample, Task, Tokens, fit

SHARE = 0.75  # of the words that are read before scoring begins


def _ppl(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    """Documents in random order, one after the other; cut where a word begins."""
    documents = list(natural.documents(True))
    rng.shuffle(documents)
    text = "\n\n".join(documents)[: 12 * length]
    words = [found.start() for found in re.finditer(r"(?<=\S)\s", text)]  # white space goes with the word after it

    def make(rng: random.Random, units: int) -> Sample:
        cut, end = words[int(SHARE * units)], words[units]
        return Sample(text[:cut], continuation=text[cut:end])

    return fit(make, rng, length, tokens, least=8, most=len(words) - 1)


TASKS = (
    Task("ppl", 1, "Perplexity on docstrings", "How well the last quarter of a text is predicted after the rest was read.",
         "Python's standard library, held-out files; layers_system_eval.md", _ppl, better="lower", kind="text"),
)  # fmt: skip
