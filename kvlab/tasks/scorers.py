"""Scores with rules of one benchmark's own: how a key, a letter, a number or a list of answers is read out of what a model wrote.

All are metrics as in `kvlab.tasks.metrics`, which lists them. Quirks of the released scorers are kept and named.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_ANSWERS = re.compile(r"Answer_([0-9]+):.*?answer is ([0-9]+)", re.DOTALL)


def runs(answer: str) -> list[str]:
    """Maximal runs of digits, in order."""
    return re.findall(r"[0-9]+", answer)


def passkey(answer: str, references: Sequence[str]) -> float:
    """InfiniteBench's passkey and number: 1 if the first run of digits equals a reference."""
    return float((runs(answer) or [""])[0] in references)


def passkey_prefix(answer: str, references: Sequence[str]) -> float:
    """Partial credit of a long key: digits of the first run that are right before the first error, over the key's length."""
    run = (runs(answer) or [""])[0]
    return max(same_start(run, key) / len(key) for key in references)


def passkey_lcs(answer: str, references: Sequence[str]) -> float:
    """Longest common subsequence of the first run of digits and the key, over the key's length."""
    run = (runs(answer) or [""])[0]
    return max(_lcs(run, key) / len(key) for key in references)


def same_start(a: Sequence, b: Sequence) -> int:
    """Items at the start that are equal."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _lcs(a: str, b: str) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def choice(answer: str, references: Sequence[str]) -> float:
    """SCBench's multiple choice; references are the letter and, if wanted, the option's text.

    A first character among ABCD decides, so that "Answer: B" counts as A; then what follows "answer is" and the like; then the first
    word among ABCD (any part of "ABCD" is such a word).
    """
    answer = answer.strip()
    if not answer or answer[0] in "ABCD":
        return float(answer[:1] in references)
    if answer in references:
        return 1.0
    answer = re.sub(" +", " ", re.sub(r"[\n\"'.,?!{}]", " ", answer))
    for prefix in ("answer is:", "answer:", "answer is", "option is"):
        if prefix in answer:
            after = answer[answer.find(prefix) + len(prefix) + 1 :]
            return float(any(after.startswith(r) for r in references))
    return float(next((word for word in answer.split() if word in "ABCD"), "") in references)


def code_debug(answer: str, references: Sequence[str]) -> float:
    """InfiniteBench's Code.Debug; references are the function's name and the letter of its option."""
    name, letter = references
    if answer[:2] in (f"{letter}.", f"{letter}:"):
        return 1.0
    answer = re.sub(" +", " ", re.sub(r"[\n`'\"*-]|[Oo]ption", " ", answer.strip()))
    for prefix in ("answer is:", "is:", "answer:"):
        if prefix in answer:
            return float(answer[answer.find(prefix) + len(prefix) + 1 :].startswith((letter, name)))
    return 0.0


def count(answer: str, references: Sequence[str]) -> float:
    """LongBench's counting and passage retrieval: share of the integers in the answer that equal the number in the reference."""
    found = runs(answer)
    return max(sum(n == (runs(r) or [""])[0] for n in found) for r in references) / len(found) if found else 0.0


def split_golds(references: Sequence[str]) -> tuple[list[str], list[str]]:
    """References written as (gold, ..., "", other, ...): the golds, and what they are told apart from."""
    golds, others = list(references), []
    if "" in golds:
        cut = golds.index("")
        golds, others = golds[:cut], golds[cut + 1 :]
    return golds, others


def classes(answer: str, references: Sequence[str]) -> float:
    """LongBench's classification; references are the golds, an empty string, and all class names.

    1 / (class names found in the answer) if the gold is among them. Names that are part of the gold are taken out while the list is
    walked, which skips the one after each: the released scorer does so.
    """
    golds, names = split_golds(references)

    def score(gold: str) -> float:
        found = [name for name in names if name in answer]
        for name in found:
            if name in gold and name != gold:
                found.remove(name)
        return 1 / len(found) if gold in found else 0.0

    return max(score(gold) for gold in golds)


def edit_sim(answer: str, references: Sequence[str]) -> float:
    """LongBench's code completion: similarity in whole percent of the first line that is no comment and no fence."""
    lines = (line for line in answer.lstrip("\n").split("\n") if not any(mark in line for mark in ("`", "#", "//")))
    line = next(lines, "")
    return max(round(100 * difflib.SequenceMatcher(None, line, r).ratio()) / 100 for r in references)


def repo_function(answer: str, references: Sequence[str]) -> float:
    """SCBench's Code.RepoQA at threshold 0.8; references are the function, an empty string, and the other functions asked of its repository.

    1 if the first code block (or the whole answer) is closer to the function than to any other, with a smoothed sentence BLEU of at
    least 0.8 on words. The released scorer also cuts the first function out of the block with a parser.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # half a second, for this metric alone

    block = re.search(r"^```\w*\s*\n(.*?)^```", answer.strip(), re.DOTALL | re.MULTILINE)
    written = (block.group(1) if block else answer).split()
    if not written:
        return 0.0
    (gold, *_), others = split_golds(references)

    def bleu(function: str) -> float:
        return sentence_bleu([function.split()], written, smoothing_function=SmoothingFunction().method4)

    best = bleu(gold)
    return float(best >= 0.8 and all(best >= bleu(other) for other in others))


def first_number(answer: str, references: Sequence[str]) -> float:
    """Math.Find: 1 if the first number equals a reference as a number; its fraction is cut off where the reference has none."""
    found = re.search(r"[0-9]+(?:\.[0-9]+)?", answer)
    if not found:
        return 0.0
    number = found.group()
    return float(any(float(number if "." in r else number.partition(".")[0]) == float(r) for r in references))


def last_integer(answer: str, references: Sequence[str]) -> float:
    """Code.Run: 1 if the last word is the integer of a reference."""
    words = re.sub(r"[\n.`'\":]", " ", answer).split()
    try:
        return float(int(words[-1]) in [int(r) for r in references])
    except (IndexError, ValueError):
        return 0.0


def words(answer: str, references: Sequence[str]) -> float:
    """InfiniteBench's KV: 1 if a reference is one of the answer's words, punctuation taken as space."""
    found = re.sub(r"[\n:\"'.,?!{}]", " ", answer).split()
    return float(any(r in found for r in references))


def math_calc(answer: str, references: Sequence[str]) -> float:
    """Math.Calc: running values right before the first error, over their number. All references count; minus signs are not read."""
    return same_start([n.lstrip("0") or "0" for n in runs(answer)], references) / len(references)


def longgen(answer: str, references: Sequence[str]) -> float:
    """LongGenBench: "Answer_i: ... answer is <digits>" paired with the references in the order they are written. All references count.

    References are "i=number". A skipped answer shifts all later ones: the released scorer does so.
    """
    found = [number for _, number in _ANSWERS.findall(answer)]
    golds = [r.partition("=")[2] for r in references]
    return sum(a == b for a, b in zip(found, golds, strict=False)) / len(golds)


def longgen_index(answer: str, references: Sequence[str]) -> float:
    """As `longgen`, paired by the number after "Answer_"; the first answer to a question counts. All references count."""
    found: dict[str, str] = {}
    for part in re.split(r"(?=Answer_[0-9]+:)", answer):
        if match := _ANSWERS.match(part):
            found.setdefault(*match.groups())
    return sum(found.get(i) == number for i, _, number in (r.partition("=") for r in references)) / len(references)
