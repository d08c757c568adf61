"""What is fed when: a sample's questions as exchanges with a cache, in each of the modes of `plan.MODES`."""

from __future__ import annotations

from dataclasses import dataclass

from kvlab.models import LM
from kvlab.tasks import Sample


@dataclass(frozen=True)
class Exchange:
    """Token ids: `prompt` is read and compressed (none: the cache as it is), then `question` fed and kept whole, then an answer written.

    `fresh`: the prompt starts a new cache. What was written is taken back before the next exchange.
    """

    prompt: tuple[int, ...]
    question: tuple[int, ...]
    fresh: bool


def exchanges(lm: LM, sample: Sample, mode: str, template: bool) -> list[Exchange]:
    """One exchange for each question. Turns are plain text: a chat template has no place for a right answer that the model did not give."""
    if mode == "turns":
        return _turns(lm, sample)
    rendered = [lm.render(sample.context, question, template) for question in sample.questions]
    if mode == "aware":
        return [Exchange((*context, *question), (), True) for context, question in rendered]
    return [Exchange(tuple(context) if i == 0 else (), tuple(question), i == 0) for i, (context, question) in enumerate(rendered)]


def _turns(lm: LM, sample: Sample) -> list[Exchange]:
    plain = lambda text: tuple(lm.encode(text, special=False))  # noqa: E731
    found = [Exchange((*lm.encode(sample.context), *plain(sample.questions[0])), (), True)]
    found += [Exchange(plain(golden(sample, i - 1) + sample.questions[i]), (), False) for i in range(1, len(sample.questions))]
    return found


def golden(sample: Sample, question: int) -> str:
    """The right answer as text: all references where the metric wants all of them, else the first."""
    references = sample.references[question]
    return " " + (", ".join(references) if sample.metric.startswith("contains_all") else references[0])
