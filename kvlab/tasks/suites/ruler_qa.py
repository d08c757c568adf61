"""RULER's question answering over documents (2024, arXiv 2404.06654), with invented facts. Card: layers_system_eval.md (`qa_synth`).

RULER asks questions of SQuAD (qa_1) and HotpotQA (qa_2) over shuffled documents; those may not be shipped. Here every document states
facts about one invented thing or person: qa_1 takes one of them, qa_2 goes through a person. Titles say synthetic. RULER's bare
"Answer:" is followed by the beginning of the sentence to complete, as in every form of the bundled model, and its instruction stands
before the documents only.
"""

from __future__ import annotations

import functools
import random

from kvlab.bundled.words import digits
from kvlab.tasks import essay
from kvlab.tasks.base import Sample, Task, Tokens, fit, room
from kvlab.tasks.suites.ruler_niah import SOURCE
from kvlab.tasks.words import KEYS, NAMES

_INTRO = "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\nThe following are given documents.\n"


def _thing(rng: random.Random, taken: set[str]) -> str:
    while True:
        who = f"{rng.choice(KEYS.adjectives)} {rng.choice(KEYS.nouns)}"
        if who not in taken:
            taken.add(who)
            return who


def _facts(rng: random.Random, owner: str) -> dict[str, str]:
    """Attribute -> value of one thing."""
    return {"code": digits(rng, 6), "owner": owner, "city": rng.choice(KEYS.cities), "number": digits(rng, 3)}


def _about_thing(rng: random.Random, who: str, facts: dict[str, str]) -> str:
    sentences = [f" The {attribute} of the {who} is {value}." for attribute, value in facts.items()]
    rng.shuffle(sentences)
    return "".join((essay.sentence(rng), *sentences, essay.sentence(rng)))


def _about_person(rng: random.Random, name: str, city: str) -> str:
    return "".join((essay.sentence(rng), f" {name} lives in {city}.", essay.sentence(rng)))


def _build(hops: int, rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    taken: set[str] = set()
    who, name = _thing(rng, taken), rng.choice(NAMES)
    facts, home = _facts(rng, name), rng.choice(KEYS.cities)
    gold = [_about_thing(rng, who, facts)]
    if hops == 2:
        gold.append(_about_person(rng, name, home))
        ask, answer = f"\nQuestion: Where does the owner of the {who} live?\nAnswer: The owner of the {who} lives in", home
    else:
        attribute = rng.choice(list(facts))
        answer = facts[attribute]
        ask = f"\nQuestion: What is the {attribute} of the {who}?\nAnswer: The {attribute} of the {who} is"
    others = [n for n in NAMES if n != name]
    rng.shuffle(others)
    new = room(f" {answer}.", tokens, 32)

    def make(rng: random.Random, units: int) -> Sample:
        seen, documents = set(taken), list(gold)
        for i in range(units):
            if hops == 2 and i % 2 and i // 2 < len(others):
                documents.append(_about_person(rng, others[i // 2], rng.choice(KEYS.cities)))
            else:
                thing = _thing(rng, seen)
                documents.append(_about_thing(rng, thing, _facts(rng, rng.choice(others))))
        rng.shuffle(documents)
        text = "".join(f"\n\nDocument {i}:\n{document[1:]}" for i, document in enumerate(documents, 1))
        return Sample(_INTRO + text[1:], (ask,), ((answer,),), "contains_any", new)

    return fit(make, rng, length, tokens)


TASKS = (
    Task("ruler_qa_1", 1, "RULER question answering 1 (synthetic facts)", "Answers from the one document that states the fact.", SOURCE,
         functools.partial(_build, 1)),
    Task("ruler_qa_2", 1, "RULER question answering 2 (synthetic facts)", "Joins two documents: who owns a thing, and where the owner lives.", SOURCE,
         functools.partial(_build, 2)),
)  # fmt: skip
