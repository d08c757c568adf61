"""Seeded generators of retrieval documents: a context, questions about it and their answers.

Every form returns a `Sample`. Context and questions are kept apart, so that a
cache can be filled (and compressed) with the context before a question is
known. A question ends in an answer prefix (as RULER does), for instance

    "\\nQuestion: What is the code of the green falcon?\\nAnswer: The code of the green falcon is"

and the text to generate is " 291644." - a full stop always ends the answer.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kvlab.bundled.words import NOISE, TIMES, TRAIN, VERBS, Words, digits, entity, noun, pseudo_word

Count = Callable[[str], int]


@dataclass(frozen=True)
class Sample:
    """One document. `answers[i]` lists the references that must all be in the answer to question i."""

    form: str
    context: str
    questions: list[str]
    answers: list[list[str]]
    targets: list[str]  # exact text after each question, such as " 291644."
    needles: list[str]  # the sentence of the context that answers each question
    pieces: list[str] = field(repr=False, default_factory=list)  # "".join(pieces) == context


@dataclass(frozen=True)
class Fact:
    """`text` is the sentence in the context; question + target is how it is asked for."""

    text: str
    question: str
    target: str
    answers: tuple[str, ...]
    key: str


def estimate(text: str) -> int:
    """Rough token count, for callers without a tokenizer at hand (about 4 characters a token)."""
    return len(text) // 4 + 1


def _ask(what: str, prefix: str) -> str:
    return f"\nQuestion: {what}?\nAnswer:{prefix}"


def _attribute_fact(rng: random.Random, words: Words, who: str) -> Fact:
    attribute, value = rng.choice(
        (
            ("code", digits(rng, 6)),
            ("code", digits(rng, 6)),
            ("number", digits(rng, 3)),
            ("number", digits(rng, rng.choice((3, 4, 5, 7)))),
            ("owner", words.pick(rng, words.names)),
            ("city", words.pick(rng, words.cities)),
            ("password", pseudo_word(rng)),
            ("friend", noun(rng, words)),
        )
    )
    prefix = f" The {attribute} of the {who} is"
    return Fact(
        f"{prefix} {value}.",
        _ask(f"What is the {attribute} of the {who}", prefix),
        f" {value}.",
        (value,),
        f"{attribute} {who}",
    )


def _person_fact(rng: random.Random, words: Words, who: str) -> Fact:
    name = words.pick(rng, words.names)
    kind = rng.randrange(3)
    if kind == 0:
        prefix, value = f" {name} put the {who} in the", words.pick(rng, words.places)
        what, key = f"Where did {name} put the {who}", f"put {name} {who}"
    elif kind == 1:
        prefix, value = f" {name} lives in", words.pick(rng, words.cities)
        what, key = f"Where does {name} live", f"lives {name}"
    else:
        prefix, value = f" {name} likes to eat", words.pick(rng, words.foods)
        what, key = f"What does {name} like to eat", f"eat {name}"
    return Fact(f"{prefix} {value}.", _ask(what, prefix), f" {value}.", (value,), key)


def fact(rng: random.Random, words: Words, like: str | None = None) -> Fact:
    """A random fact; `like` (an entity) makes a confusable one that shares its noun or adjective."""
    who = entity(rng, words)
    if like and rng.random() < 0.3:
        adjective, _, name = like.partition(" ")
        who = f"{adjective} {noun(rng, words)}" if rng.random() < 0.5 else (
            f"{words.pick(rng, words.adjectives)} {name}"
        )
    return _attribute_fact(rng, words, who) if rng.random() < 0.7 else _person_fact(rng, words, who)


def filler_sentence(rng: random.Random) -> str:
    """A grammatical sentence of training words that states no fact that is asked for."""
    return (
        f" The {entity(rng, TRAIN)} {rng.choice(VERBS)} the {entity(rng, TRAIN)} {rng.choice(TIMES)}."
    )


def _filler(rng: random.Random, kind: str, natural: list[str]) -> Callable[[], str]:
    if kind == "noise":
        return lambda: f" {NOISE}"
    if kind == "natural" and natural:
        lines = iter(_natural_lines(rng, natural))
        return lambda: next(lines)
    return lambda: filler_sentence(rng)


def _natural_lines(rng: random.Random, natural: list[str]):
    while True:
        for line in rng.choice(natural).split("\n"):
            if line.strip():
                yield "\n" + line[:300]


def _insert(rng: random.Random, filler: list[str], facts: list[str], depth: float | None) -> list[str]:
    """Facts put between filler pieces, in order, at random places or all at one depth (0 to 1)."""
    if depth is None:
        places = sorted(rng.randrange(len(filler) + 1) for _ in facts)
    else:
        places = [round(depth * len(filler))] * len(facts)
    pieces = list(filler)
    for place, text in zip(reversed(places), reversed(facts), strict=True):
        pieces.insert(place, text)
    return pieces


def _sample(rng: random.Random, form: str, pieces: list[str], asked: list[Fact]) -> Sample:
    rng.shuffle(asked)
    if pieces and pieces[0][:1] in " \n":
        pieces = [pieces[0][1:], *pieces[1:]]
    return Sample(
        form,
        "".join(pieces),
        [a.question for a in asked],
        [list(a.answers) for a in asked],
        [a.target for a in asked],
        [a.text.strip() for a in asked],
        pieces,
    )


def _distinct(rng: random.Random, words: Words, make: Callable[[], Fact], room: int, count: Count,
              most: int = 10_000) -> list[Fact]:
    """Facts with different keys, until `room` tokens or `most` facts are used; at least one."""
    found: dict[str, Fact] = {}
    used = misses = 0
    while len(found) < most and misses < 20:
        new = make()
        if new.key in found:
            misses += 1
            continue
        used += count(new.text)
        if found and used > room:
            break
        found[new.key] = new
    return list(found.values())


def _fill(make: Callable[[], str], room: int, count: Count) -> list[str]:
    pieces, used = [], 0
    while True:
        piece = make()
        used += count(piece)
        if used > room:
            return pieces
        pieces.append(piece)


def _room(size: int, questions: int, each: int = 26) -> int:
    """Tokens left for the context of a document of `size` tokens with some questions."""
    return max(size - questions * each - 2, size // 3)


def facts(rng, size, words, count, questions, **_) -> Sample:
    """Nothing but facts about different things: multi-key recall."""
    keys: list[str] = []

    def make() -> Fact:
        new = fact(rng, words, keys[-1] if keys else None)
        keys.append(" ".join(new.key.split(" ")[-2:]))
        return new

    found = _distinct(rng, words, make, _room(size, questions), count)
    asked = rng.sample(found, min(questions, len(found)))
    return _sample(rng, "facts", [f.text for f in found], asked)


def needle(rng, size, words, count, questions, depth=None, kind=None, natural=(), keys=None) -> Sample:
    """One to four facts in filler (`kind`: sentences, noise or natural), some of them asked for."""
    kind = kind or rng.choice(("sentences", "sentences", "noise", "natural"))
    keys = keys or rng.randint(1, 4)
    found = _distinct(rng, words, lambda: fact(rng, words), size // 3, count, keys)
    room = _room(size, min(questions, len(found))) - sum(count(f.text) for f in found)
    filler = _fill(_filler(rng, kind, list(natural)), room, count)
    pieces = _insert(rng, filler, [f.text for f in found], depth)
    return _sample(rng, "needle", pieces, rng.sample(found, min(questions, len(found))))


def listing(rng, size, words, count, questions, **_) -> Sample:
    """A key-value list, one "- river = 644" a line."""
    word_values = rng.random() < 0.3
    pairs = rng.random() < 0.3

    def make() -> Fact:
        key = entity(rng, words) if pairs else noun(rng, words)
        value = noun(rng, words) if word_values else digits(rng, rng.choice((3, 3, 4, 6)))
        return Fact(
            f"\n- {key} = {value}",
            _ask(f"What is the value of {key}", f" {key} ="),
            f" {value}.",
            (value,),
            key,
        )

    found = _distinct(rng, words, make, _room(size, questions, 20), count)
    pieces = ["\nList:", *(f.text for f in found)]
    return _sample(rng, "list", pieces, rng.sample(found, min(questions, len(found))))


def _variable(rng: random.Random, words: Words, letters: bool) -> str:
    if letters:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(5))
    return noun(rng, words)


def chain(rng, size, words, count, questions, hops=None, letters=None, **_) -> Sample:
    """Variables set to a number or to another variable; answers write the whole chain out."""
    letters = rng.random() < 0.2 if letters is None else letters
    taken: set[str] = set()

    def name() -> str:
        for _ in range(50):
            new = _variable(rng, words, letters)
            if new not in taken:
                break
        else:
            new = pseudo_word(rng)
        taken.add(new)
        return new

    lines: list[list[str]] = []
    asked: list[Fact] = []
    room = _room(size, questions, 30)
    share = rng.choice((0.3, 0.6, 1.0))
    used = 0
    while (not lines or used < share * room - 40) and len(taken) < 3 * len(words.nouns) // 4:
        text, last = _chain_lines(rng, name, hops or rng.randint(0, 3))
        used += sum(count(t) for t in text)
        lines.append(text)
        asked.append(last)
    pieces = _merge(rng, lines)
    filler = _fill(_filler(rng, rng.choice(("sentences", "noise")), []), room - used, count)
    pieces = _insert(rng, ["\n" + f[1:] for f in filler], pieces, None)
    return _sample(rng, "chain", pieces, rng.sample(asked, min(questions, len(asked))))


def _chain_lines(rng: random.Random, name: Callable[[], str], hops: int) -> tuple[list[str], Fact]:
    value = digits(rng, rng.choice((3, 5)))
    names = [name() for _ in range(hops + 1)]
    text = [f"\nVAR {names[0]} = {value}"]
    text += [f"\nVAR {new} = VAR {old}" for old, new in itertools.pairwise(names)]
    steps = "".join(f" VAR {n} =" for n in reversed(names[:-1]))
    ask = _ask(f"What is the value of VAR {names[-1]}", f" VAR {names[-1]} =")
    return text, Fact(text[-1], ask, f"{steps} {value}.", (value,), names[-1])


def _merge(rng: random.Random, lists: list[list[str]]) -> list[str]:
    """Lists interleaved at random, each in its own order."""
    order = [i for i, items in enumerate(lists) for _ in items]
    rng.shuffle(order)
    queues = [iter(items) for items in lists]
    return [next(queues[i]) for i in order]


def ruler(rng, size, words, count, questions, values=None, kind=None, natural=(), keys=None,
          depth=None, **_) -> Sample:
    """RULER's needles: "One of the special magic numbers for green-falcon is: 2916447."."""
    values = values or rng.choice((1, 1, 1, 1, 2, 3))
    kind = kind or rng.choice(("sentences", "noise", "natural", "needles"))
    keys = keys or rng.choice((1, 2, 4))
    room = _room(size, min(questions, keys), 40)

    def make() -> Fact:
        key = f"{words.pick(rng, words.adjectives)}-{noun(rng, words)}"
        found = [digits(rng, 7) for _ in range(values)]
        text = "|".join(f" One of the special magic numbers for {key} is: {v}." for v in found)
        what = "is the special magic number" if values == 1 else "are all the special magic numbers"
        prefix = what.partition("special")[2]
        verb = "is:" if values == 1 else "are:"
        ask = _ask(f"What {what} for {key} mentioned in the provided text",
                   f" The special{prefix} for {key} mentioned in the provided text {verb}")
        return Fact(text, ask, " " + ", ".join(found) + ".", tuple(found), key)

    most = 10_000 if kind == "needles" else keys
    found = _distinct(rng, words, make, room if kind == "needles" else size // 2, count, most)
    needles = _merge(rng, [f.text.split("|") for f in found])
    if kind != "needles":
        room -= sum(count(n) for n in needles)
        needles = _insert(rng, _fill(_filler(rng, kind, list(natural)), room, count), needles, depth)
    return _sample(rng, "ruler", needles, rng.sample(found, min(questions, len(found))))


def copy(rng, size, words, count, questions, **_) -> Sample:
    """A random sequence of words and numbers, to be written again."""
    def word() -> str:
        kind = rng.random()
        if kind < 0.3:
            return " " + digits(rng, rng.choice((3, 3, 6)))
        return " " + (noun(rng, words) if kind < 0.6 else words.pick(rng, words.every()))

    pieces = _fill(word, (size - 12) // 2, count)
    text = "".join(pieces)
    ask = "\nQuestion: What is the text?\nAnswer: Text:"
    return _sample(rng, "copy", [" Text:", *pieces, "."], [Fact(text, ask, text + ".", (text.strip(),), "")])


FORMS = {"facts": facts, "needle": needle, "list": listing, "chain": chain, "ruler": ruler, "copy": copy}


def make(form: str, seed: int | str, size: int, words: Words = TRAIN, count: Count = estimate,
         questions: int = 4, **options) -> Sample:
    """One `Sample` of about `size` tokens (questions included), the same for the same arguments."""
    rng = random.Random(f"{form}-{seed}")
    return FORMS[form](rng, size, words, count, questions, **options)
