"""Scores of one answer against its references: pure functions (answer, references) -> float in [0, 1], by name in `METRICS`.

They follow the benchmarks' released scorers, quirks included, because their published figures were made with them; a difference is
said where it is. With several references the best one counts, unless a docstring says otherwise. Card: layers_system_eval.md, part D.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from rouge_score.rouge_scorer import RougeScorer

from kvlab.tasks import scorers

Metric = Callable[[str, Sequence[str]], float]
_CJK = "".join(chr(c) for c in (*range(0x3001, 0x3012), *range(0xFF01, 0xFF10), *range(0xFF1A, 0xFF20), *range(0x2013, 0x2028)))


def contains_all(answer: str, references: Sequence[str]) -> float:
    """RULER's `all`: share of the references that are case-insensitive substrings."""
    return sum(r.lower() in answer.lower() for r in references) / len(references)


def contains_all_rounded(answer: str, references: Sequence[str]) -> float:
    """SCBench's variable tracking: `contains_all`, each sample rounded to two decimals."""
    return round(contains_all(answer, references), 2)


def contains_any(answer: str, references: Sequence[str]) -> float:
    """RULER's `part`: 1 if any reference is a case-insensitive substring."""
    return float(any(r.lower() in answer.lower() for r in references))


def substring(answer: str, references: Sequence[str]) -> float:
    """SCBench's retrieval tasks: 1 if a reference is a substring, case and all."""
    return float(any(r in answer for r in references))


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the whole answer equals a reference, but for case and white space at its ends."""
    return float(any(answer.strip().lower() == r.strip().lower() for r in references))


def exact_sentence(answer: str, references: Sequence[str]) -> float:
    """`exact` on the answer up to its first full stop or line end: for models that write on."""
    return exact(re.split(r"\.(?:\s|$)|\n", answer.lstrip(), maxsplit=1)[0], references)


def normalised(text: str) -> str:
    """LongBench's: lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _overlap(answer: list[str], reference: list[str]) -> float:
    same = sum((Counter(answer) & Counter(reference)).values())
    return 2 * same / (len(answer) + len(reference)) if same else 0.0  # the harmonic mean of precision and recall


def f1(answer: str, references: Sequence[str]) -> float:
    """Token F1 of LongBench and InfiniteBench, after `normalised`."""
    return max(_overlap(normalised(answer).split(), normalised(r).split()) for r in references)


def f1_zh(answer: str, references: Sequence[str]) -> float:
    """Character F1 of SCBench and InfiniteBench for Chinese. LongBench segments words (jieba) instead, so its own figures differ."""
    return max(_overlap(_characters(answer), _characters(r)) for r in references)


def _characters(text: str) -> list[str]:
    return [c for c in text.lower() if not c.isspace() and c not in string.punctuation and c not in _CJK]


class _Characters:
    """A tokenizer for `RougeScorer`: one token a character."""

    def tokenize(self, text: str) -> list[str]:
        return _characters(text)


def _rouge(kind: str, answer: str, references: Sequence[str], tokenizer: _Characters | None = None) -> float:
    scorer = RougeScorer([kind], tokenizer=tokenizer)
    return max(scorer.score(reference, answer)[kind].fmeasure for reference in references)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """F measure of the longest common subsequence of words (rouge-score). LongBench takes another package, whose weighting differs."""
    return _rouge("rougeL", answer, references)


def rouge_lsum(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L of a summary, line by line (rouge-score): SCBench and InfiniteBench."""
    return _rouge("rougeLsum", answer, references)


def rouge_l_zh(answer: str, references: Sequence[str]) -> float:
    """`rouge_l` on characters. LongBench segments words (jieba) instead, so its own figures differ."""
    return _rouge("rougeL", answer, references, _Characters())


def _first_line(metric: Metric) -> Metric:
    """LongBench scores some few-shot tasks on the first line alone."""
    return lambda answer, references: metric(answer.lstrip("\n").split("\n")[0], references)


METRICS: dict[str, Metric] = {
    m.__name__: m
    for m in (
        contains_all, contains_all_rounded, contains_any, substring, exact, exact_sentence, f1, f1_zh, rouge_l, rouge_lsum, rouge_l_zh,
        scorers.passkey, scorers.passkey_prefix, scorers.passkey_lcs, scorers.choice, scorers.code_debug, scorers.count, scorers.classes,
        scorers.edit_sim, scorers.repo_function, scorers.first_number, scorers.last_integer, scorers.words, scorers.math_calc,
        scorers.longgen, scorers.longgen_index,
    )
}  # fmt: skip
METRICS |= {f"{m.__name__}_first_line": _first_line(m) for m in (f1, rouge_l, scorers.classes)}
