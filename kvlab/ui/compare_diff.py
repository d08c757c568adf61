"""The answers of two runs laid against each other: words, what is the same, what is gone, what is new, and where the first token differs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvlab.runs import StoredRun


@dataclass(frozen=True)
class Word:
    """Tokens `start` to `end` (not included) of an answer that read as one: the digits of a number, the pieces of a word. `gap`: white space before it."""

    text: str
    start: int
    end: int
    gap: bool


def _kind(piece: str) -> str:
    text = piece.strip()
    if re.fullmatch(r"\d+", text):
        return "number"
    return "letters" if re.fullmatch(r"[^\W\d_]+(?:['\u2019-][^\W\d_]*)*", text) else ""


def words(pieces: Sequence[str]) -> list[Word]:
    """Answers in words: a token joins the one before it when no white space stands between and both are digits, or both letters."""
    found: list[Word] = []
    for i, piece in enumerate(pieces):
        kind, gap = _kind(piece), piece[:1].isspace() or (i > 0 and pieces[i - 1][-1:].isspace())
        if found and kind and not gap and kind == _kind(pieces[i - 1]):
            last = found.pop()
            found.append(Word(last.text + piece.rstrip(), last.start, i + 1, last.gap))
        else:
            found.append(Word(piece.strip() or piece, i, i + 1, gap and bool(piece.strip())))
    return found


def answer(run: StoredRun) -> list[str]:
    """Text of each written token."""
    return run.manifest["pieces"][run.trace.asked :][: len(run.trace.written)]


def cut(run: StoredRun) -> bool:
    """Whether the answer stopped because it had to, not because the model ended it."""
    return run.manifest["status"] == "stopped" or len(run.trace.written) == run.manifest["request"].get("max_new_tokens")


def common(run: StoredRun, reference: StoredRun) -> int:
    """Steps that both answers can be compared over: where the shorter one was cut off, nothing is known of what it would have written."""
    short, long = sorted((run, reference), key=lambda one: len(one.trace.written))
    return len(short.trace.written) if cut(short) else len(long.trace.written)


def first_difference(run: StoredRun, reference: StoredRun) -> int | None:
    """The first step at which the two wrote different tokens, or one had ended; None where they agree as far as both go."""
    mine, theirs = run.trace.written, reference.trace.written
    for step in range(common(run, reference)):
        if step >= len(mine) or step >= len(theirs) or mine[step] != theirs[step]:
            return step
    return None


def diff(run: StoredRun, reference: StoredRun) -> list[dict[str, Any]]:
    """The run's answer against the reference's, word by word.

    Each part is `kind` same, added, removed or beyond (written after the other was cut off), `text`, `gap` (white space before it) and `at`: the steps
    [first, after last] of the run itself, for what is removed those of the reference.
    """
    end = common(run, reference)
    mine, theirs = (words(answer(one)[:end]) for one in (run, reference))
    parts: list[dict[str, Any]] = []
    put = lambda kind, some: parts.extend({"kind": kind, "text": w.text, "gap": w.gap, "at": [w.start, w.end]} for w in some)  # noqa: E731
    for what, a, b, c, d in difflib.SequenceMatcher(None, [w.text for w in theirs], [w.text for w in mine], autojunk=False).get_opcodes():
        if what == "equal":
            put("same", mine[c:d])
        else:
            put("removed", theirs[a:b])
            put("added", mine[c:d])
    rest = words(answer(run))
    put("beyond", [w for w in rest if w.start >= end])
    return parts


def agreement(run: StoredRun) -> tuple[int, int] | None:
    """Steps at which the full cache, on the run's own text, would have chosen the run's token, and of how many; None without a stored reference."""
    t = run.trace
    return (int((t.top == t.written).sum()), len(t.written)) if t.top.size else None
