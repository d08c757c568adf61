"""The forms of the second part of training: RULER's other tasks, pass keys, and the words for them.

RULER's wording (card layers_system_eval.md, part D), but for "Question:" and "Answer:" around
it. They are kept apart from `forms.FORMS`, because the tokenizer was built from those.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from kvlab.bundled import natural
from kvlab.bundled.forms import Count, Fact, Sample, _ask, _distinct, _fill, _filler, _insert, _merge, _room, _sample, _variable, facts
from kvlab.bundled.words import HELD_OUT, TRAIN, Words, digits, noun


@lru_cache(maxsize=1)
def wide() -> Words:
    """The training lists, each widened by the words of the training docstrings (about 5,000): keys of any shape, cut in any way."""
    held = {word.lower() for word in HELD_OUT.every()}
    seen = {w for text in natural.documents(False) for w in re.findall(r"\b[a-z]{3,11}\b", text)}
    found = sorted(seen - held)
    capitals = tuple(word.capitalize() for word in found)
    return replace(
        TRAIN, adjectives=TRAIN.adjectives * 8 + tuple(found), nouns=TRAIN.nouns * 8 + tuple(found), names=TRAIN.names * 8 + capitals,
        cities=TRAIN.cities * 8 + capitals, places=TRAIN.places * 8 + tuple(found), foods=TRAIN.foods * 8 + tuple(found),
        pseudo_share=0.25, blend_share=0.2,
    )  # fmt: skip


def narrow(rng: random.Random, words: Words) -> Words:
    """A few words of each list, so that the keys of a document share their parts and are easily confused."""
    few = lambda listed, least, most: tuple(rng.sample(listed, rng.randint(least, most)))  # noqa: E731
    return replace(
        words, adjectives=few(words.adjectives, 5, 25), nouns=few(words.nouns, 8, 40), names=few(words.names, 8, 25), pseudo_share=0.0, blend_share=0.0
    )


def uuid(rng: random.Random) -> str:
    """Thirty-two hex digits in five groups."""
    text = f"{rng.getrandbits(128):032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def joined(keys: list[str]) -> str:
    """ "a", "a, and b" or "a, b, and c", as RULER writes it."""
    return keys[0] if len(keys) == 1 else ", ".join(keys[:-1]) + f", and {keys[-1]}"


def many(keys: list[str], kind: str = "numbers") -> tuple[str, str]:
    """RULER's question and answer prefix for all values of some keys."""
    told = f"special magic {kind} for {joined(keys)} mentioned in the provided text"
    return f"What are all the {told}", f" The {told} are:"


def one(key: str, kind: str = "number") -> tuple[str, str]:
    """RULER's question and answer prefix for the one value of a key."""
    told = f"special magic {kind} for {key} mentioned in the provided text"
    return f"What is the {told}", f" The {told} is:"


def multi(rng, size, words, count, questions, natural=(), **_) -> Sample:
    """Several values of one key, or the values of several keys, asked for at once."""
    valued = rng.random() < 0.5
    keys = _distinct(rng, words, lambda: _key(rng, words), 10_000, count, 1 if valued else rng.randint(4, 6))
    values = {k.key: [digits(rng, 7) for _ in range(rng.choice((2, 3, 4, 4)) if valued else 1)] for k in keys}
    needles = _merge(rng, [[f" One of the special magic numbers for {k} is: {v}." for v in found] for k, found in values.items()])
    asked = list(values) if valued else rng.sample(list(values), rng.randint(2, 4))
    target = [v for k in asked for v in values[k]]
    if valued:  # in the order of the text
        target.sort(key=lambda v: next(i for i, n in enumerate(needles) if n.endswith(f"{v}.")))
    what, prefix = many(asked)
    fact = Fact("|".join(needles), _ask(what, prefix), " " + ", ".join(target) + ".", tuple(target), asked[0])
    kind = rng.choice(("sentences", "noise", "natural"))
    room = _room(size, 1, 60 + 7 * len(target)) - sum(count(n) for n in needles)
    return _sample(rng, "multi", _insert(rng, _fill(_filler(rng, kind, list(natural)), room, count), needles, None), [fact])


def _key(rng: random.Random, words: Words) -> Fact:
    key = f"{words.pick(rng, words.adjectives)}-{noun(rng, words)}"
    return Fact(key, "", "", (), key)


def uuids(rng, size, words, count, questions, natural=(), **_) -> Sample:
    """RULER's needles whose values, and at times keys, are uuids."""
    both = rng.random() < 0.4
    room = _room(size, 1, 130 if both else 90)

    def make() -> Fact:
        key = uuid(rng) if both else _key(rng, words).key
        value = uuid(rng)
        ask = _ask(*one(key, "uuid"))
        return Fact(f" One of the special magic uuids for {key} is: {value}.", ask, f" {value}.", (value,), key)

    found = _distinct(rng, words, make, room, count, 10_000 if both else rng.choice((1, 1, 4)))
    needles = [f.text for f in found]
    if not both:
        kind = rng.choice(("sentences", "noise", "natural"))
        needles = _insert(rng, _fill(_filler(rng, kind, list(natural)), room - sum(map(count, needles)), count), needles, None)
    return _sample(rng, "uuids", needles, rng.sample(found, 1))


def variables(rng, size, words, count, questions, **_) -> Sample:
    """RULER's variable tracking: name all variables that hold a value, in the order they were set."""
    value = str(rng.randint(10_000, 99_998))
    names = [_variable(rng, words, True) for _ in range(5)]
    lines = [f"\nVAR {names[0]} = {value}"] + [f"\nVAR {new} = VAR {old}" for old, new in itertools.pairwise(names)]
    ask = _ask(f"Find all variables that are assigned the value {value} in the text above.", "")[: -len("?\nAnswer:")]
    told = f" According to the chain(s) of variable assignment in the text above, 5 variables are assigned the value {value}, they are:"
    fact = Fact("|".join(lines), f"{ask}\nAnswer:{told}", " " + ", ".join(names) + ".", tuple(names), value)
    room = _room(size, 1, 130) - sum(map(count, lines))
    filler = ["\n" + f[1:] for f in _fill(_filler(rng, rng.choice(("noise", "noise", "sentences")), []), room, count)]
    return _sample(rng, "variables", _insert(rng, filler, lines, None), [fact])


def frequent(rng, size, words, count, questions, **_) -> Sample:
    """RULER's frequent words: the three most frequent of many invented words (the noise "..." apart)."""
    room = _room(size, 1, 60)
    names = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6)) for _ in range(max(6, size // 50))]
    total = max(12, room // 5)
    bag = [name if rank else "..." for rank, name in enumerate(names) for _ in range(max(int(total * (rank + 1) ** -2.0 / 1.645), 1))]
    rng.shuffle(bag)
    top = names[1:4]
    ask = _ask("What are the three most frequently appeared words in the above coded text", "")
    told = " According to the coded text above, the three most frequently appeared words are:"
    fact = Fact(" ".join(bag), ask + told, " " + ", ".join(top) + ".", tuple(top), "")
    return _sample(rng, "frequent", [f" {word}" for word in bag], [fact])


def common(rng, size, words, count, questions, **_) -> Sample:
    """RULER's common words: the ten words of a numbered list that occur six times, among others that occur once."""
    room = _room(size, 1, 90)
    top = [f.key for f in _distinct(rng, words, lambda: _word(rng, words), 10_000, count, 10)]
    rest = [f.key for f in _distinct(rng, words, lambda: _word(rng, words), max(40, room // 4), count)]
    often = rng.choice((4, 6, 10)) if size > 400 else 2
    bag = top * often + [w for w in rest if w not in top][: max(4, room // 8 - 10 * often)]
    rng.shuffle(bag)
    ask = _ask("What are the 10 most common words in the above list", "")
    told = " The top 10 words that appear most often in the list are:"
    first = sorted(top, key=bag.index)
    fact = Fact(" ".join(bag), ask + told, " " + ", ".join(first) + ".", tuple(first), "")
    return _sample(rng, "common", [f" {i + 1}. {word}" for i, word in enumerate(bag)], [fact])


def _word(rng: random.Random, words: Words) -> Fact:
    word = noun(rng, words)
    return Fact(word, "", "", (), word)


def passkey(rng, size, words, count, questions, natural=(), **_) -> Sample:
    """A long number said twice in noise."""
    key = digits(rng, rng.choice((5, 10, 32, 64, 64)))
    text = f" The pass key is {key}. Remember it. {key} is the pass key."
    fact = Fact(text, _ask("What is the pass key", " The pass key is"), f" {key}.", (key,), "")
    room = _room(size, 1, 50) - count(text)
    kind = rng.choice(("noise", "noise", "sentences", "natural"))
    return _sample(rng, "passkey", _insert(rng, _fill(_filler(rng, kind, list(natural)), room, count), [text], None), [fact])


def documents(rng, size, words, count, questions, **_) -> Sample:
    """Facts in numbered documents, as the contexts of question answering come."""
    sample = facts(rng, size - size // 6, words, count, questions)  # room for the headings
    pieces, number = [], 0
    for i, piece in enumerate(sample.pieces):
        if i % 4 == 0:
            number += 1
            pieces.append(f"\nDocument {number}:\n")
        pieces.append(piece.lstrip() if i % 4 == 0 else piece)
    return replace(sample, form="documents", pieces=pieces, context="".join(pieces))


FORMS: dict[str, Callable[..., Sample]] = {
    "multi": multi, "uuids": uuids, "variables": variables, "frequent": frequent, "common": common, "passkey": passkey, "documents": documents,
}  # fmt: skip


def make(form: str, seed: int | str, size: int, words: Words, count: Count, questions: int = 4, **options) -> Sample:
    """One `Sample` of a form of this file, the same for the same arguments."""
    return FORMS[form](random.Random(f"{form}-{seed}"), size, words, count, questions, **options)
