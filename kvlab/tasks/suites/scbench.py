"""The generated forms of SCBench (2024, arXiv 2412.10319): several questions about one shared context. Card: layers_system_eval.md.

Constructions and scores are SCBench's, sizes follow the length asked for. Every question can be asked alone: in multi-request mode each
starts from the compressed context, in multi-turn mode the earlier questions stand before it with their references as answers.
The wording of questions and the labels of the many-shot toy are ours.
"""

from __future__ import annotations

import random
import string

from kvlab.bundled.words import NOISE, digits, pseudo_word
from kvlab.tasks.base import Sample, Task, Tokens, fit, room
from kvlab.tasks.suites.infinitebench import FINDS, find_answer, find_question, json_pairs, pair_question
from kvlab.tasks.suites.ruler_niah import in_lines, new_uuid, question
from kvlab.tasks.suites.ruler_track import VALUES, assignments, chain
from kvlab.tasks.suites.ruler_track import question as track_question
from kvlab.tasks.words import KEYS, key

SOURCE = "SCBench, arXiv 2412.10319"


def turns(length: int) -> int:
    """Questions about a context of `length` tokens: five as in SCBench, fewer where they would leave no room for the context."""
    return min(max(length // 512, 2), 5)


def _sample(context: str, asked: list[tuple[str, tuple[str, ...]]], metric: str, tokens: Tokens) -> Sample:
    new = max(room(" " + ", ".join(answers) + ".", tokens) for _, answers in asked)
    return Sample(context, tuple(q for q, _ in asked), tuple(a for _, a in asked), metric, new)


def _kv(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    golds = [(new_uuid(rng), new_uuid(rng)) for _ in range(turns(length))]
    asked = [(pair_question(k), (v,)) for k, v in golds]

    def make(rng: random.Random, units: int) -> Sample:
        pairs = golds + [(new_uuid(rng), new_uuid(rng)) for _ in range(units)]
        rng.shuffle(pairs)
        return _sample(f"Extract the value corresponding to the specified key in the JSON object below.\n\n{json_pairs(pairs)}", asked, "substring", tokens)

    return fit(make, rng, length, tokens)


def _string(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits, k=rng.randint(65, 122)))


def _ends_question(gold: str) -> str:
    ends = f'begins with "{gold[:8]}" and ends with "{gold[-8:]}"'
    return f"\nQuestion: Which string {ends}?\nAnswer: The string that {ends} is"


def _prefix_suffix(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    golds = [_string(rng) for _ in range(min(turns(length), 1 + length // 1024))]  # each answer is some 80 tokens
    asked = [(_ends_question(gold), (gold,)) for gold in golds]

    def make(rng: random.Random, units: int) -> Sample:
        lines = golds + [_string(rng) for _ in range(units)]
        rng.shuffle(lines)
        return _sample("Below is a list of strings, one on each line.\n\n" + "\n".join(lines), asked, "substring", tokens)

    return fit(make, rng, length, tokens)


def _track(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    taken: set[str] = set()
    chains, values = [chain(rng, 2, 5, taken) for _ in range(2)], rng.sample(VALUES, 2)
    asked = [(track_question(value, 3), tuple(names)) for names, value in zip(chains, values, strict=True)]

    def make(rng: random.Random, units: int) -> Sample:
        pieces = [f"\n{NOISE}"] * units
        for names, value in zip(chains, values, strict=True):
            pieces, _ = in_lines(rng, pieces, assignments(names, value))
        context = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n" + "".join(pieces)
        return _sample(context, asked, "contains_all_rounded", tokens)

    return fit(make, rng, length, tokens, least=3)


def _find(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    finds = rng.sample(FINDS, 4)
    low, high = rng.randint(0, 20), rng.randint(80, 99)

    def make(rng: random.Random, units: int) -> Sample:
        numbers = [rng.randint(low, high) for _ in range(units)]
        return _sample(f"List: {numbers}", [(find_question(f), (find_answer(numbers, f),)) for f in finds], "first_number", tokens)

    return fit(make, rng, length, tokens, least=10)


def _mix(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    """Two magic numbers in noise, then a JSON object with as many pairs as there are lines; two questions about each."""
    taken: set[str] = set()
    needles = {key(rng, taken): digits(rng, 7) for _ in range(2)}
    golds = [(key(rng, taken), digits(rng, 6)) for _ in range(2)]
    asked = [(question("number", [k], 1), (v,)) for k, v in needles.items()] + [(pair_question(k), (v,)) for k, v in golds]
    rng.shuffle(asked)

    def make(rng: random.Random, units: int) -> Sample:
        used = set(taken)
        lines, _ = in_lines(rng, [f"\n{NOISE}"] * units, [f"\nOne of the special magic numbers for {k} is: {v}." for k, v in needles.items()])
        pairs = golds + [(key(rng, used), digits(rng, 6)) for _ in range(units)]
        rng.shuffle(pairs)
        return _sample(f"{''.join(lines)[1:]}\n\nJSON data:\n{json_pairs(pairs)}", asked, "substring", tokens)

    return fit(make, rng, length, tokens, least=2)


def _many_shot(rng: random.Random, index: int, length: int, tokens: Tokens) -> Sample:
    """Labelled examples: an invented label belongs to each of four adjectives; new nouns are asked for, so the rule must be seen."""
    labels: list[str] = []
    while len(labels) < 4:
        if (label := pseudo_word(rng)) not in labels:
            labels.append(label)
    rule = dict(zip(rng.sample(KEYS.adjectives, 4), labels, strict=True))
    nouns = rng.sample(KEYS.nouns, len(KEYS.nouns))
    asked = [(f"\nItem: {adjective} {nouns.pop()}\nLabel:", (label,)) for adjective, label in rule.items()]

    def make(rng: random.Random, units: int) -> Sample:
        shots = [(adjective, rng.choice(nouns)) for adjective in (*rule, *rng.choices(list(rule), k=units))]
        rng.shuffle(shots)
        return _sample("".join(f"\nItem: {a} {noun}\nLabel: {rule[a]}" for a, noun in shots)[1:], asked, "contains_any", tokens)

    return fit(make, rng, length, tokens)


TASKS = (
    Task("scbench_kv", 1, "SCBench Retr.KV", "Finds the values of several UUIDs in one JSON object.", SOURCE, _kv),
    Task("scbench_prefix_suffix", 1, "SCBench Retr.Prefix-Suffix", "Writes the random strings that have a given beginning and end.", SOURCE, _prefix_suffix),
    Task("scbench_vt", 1, "SCBench Retr.MultiHop", "Names the three variables of each of two chains.", SOURCE, _track),
    Task("scbench_mf", 1, "SCBench Math.Find", "Finds four extremes or the median of one list.", SOURCE, _find),
    Task("scbench_mix", 1, "SCBench mix of needles and key-values", "Two questions about needles in noise and two about a JSON object after it.", SOURCE, _mix),
    Task("scbench_many_shot", 1, "SCBench many-shot (toy)", "Labels new items by a rule that hundreds of examples show.", SOURCE, _many_shot),
)
