"""Conversations of different lengths: what users whose lengths are spread need on average, and in all but five of a hundred moments.

Users are taken as independent draws from the mix, their sum as normal: right for many users, rough for a handful. An estimate, and called so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kvlab.method import Method
from kvlab.planner.memory import Demand, before_cut, one_user, workspace

BUSY = 1.645
"""Standard deviations above the mean that a normal sum exceeds in 5 of 100 moments."""
MOST = 8
HOW = "Write lengths with their shares, such as 4k 70%, 16k 25%, 64k 5% (k: 1,024 tokens)."


@dataclass(frozen=True)
class Length:
    """`share` in (0, 1] of the users have conversations of `tokens`, prompt and answer."""

    tokens: int
    share: float


def parse(text: str, written: int) -> tuple[Length, ...]:
    """The mix, shortest first; () of an empty text. Raises ValueError with a sentence."""
    found = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        match = re.fullmatch(r"(\d{1,8})\s*(k?)\s*[: ]\s*(\d{1,3}(?:\.\d+)?)\s*%?", part, re.IGNORECASE)
        if not match:
            raise ValueError(f"Cannot read the length {part[:40]!r}. {HOW}")
        found.append(Length(int(match[1]) * (1024 if match[2] else 1), float(match[3]) / 100))
    if len(found) > MOST:
        raise ValueError(f"At most {MOST} lengths are drawn, not {len(found)}. Put the nearest ones together.")
    if found and abs(sum(one.share for one in found) - 1) > 0.005:
        raise ValueError(f"The shares of the lengths add up to {100 * sum(one.share for one in found):g} %, not to 100 %. {HOW}")
    if short := [one for one in found if one.tokens <= written or not one.share]:
        raise ValueError(f"A length of {short[0].tokens:,} tokens leaves no prompt, as {written:,} are written, or has no share. {HOW}")
    return tuple(sorted(found, key=lambda one: one.tokens))


@dataclass(frozen=True)
class Spread:
    """One setting under a mix, bytes. each: of a user of every length; mean and deviation of one user; left: for caches; scores: of a user's step."""

    method: Method
    mix: tuple[Length, ...]
    each: tuple[float, ...]
    left: float
    scores: float

    @property
    def mean(self) -> float:
        return sum(one.share * count for one, count in zip(self.mix, self.each, strict=True))

    @property
    def deviation(self) -> float:
        return math.sqrt(max(0.0, sum(one.share * count**2 for one, count in zip(self.mix, self.each, strict=True)) - self.mean**2))

    @property
    def shares(self) -> list[float]:
        """Of all bytes, those of the users of each length."""
        return [one.share * count / self.mean for one, count in zip(self.mix, self.each, strict=True)]

    def busy(self, users: int) -> float:
        """Bytes of the caches of `users` that are not exceeded in 95 of 100 moments."""
        return users * self.mean + BUSY * self.deviation * math.sqrt(users)

    @property
    def users(self) -> int:
        """The most users whose `busy` caches and scores fit: the root of n (mean + scores) + BUSY deviation sqrt(n) = left. None where the longest
        conversation does not fit alone."""
        if max(self.each) + self.scores > self.left:
            return 0
        slope, spread = self.mean + self.scores, BUSY * self.deviation
        return int(((math.sqrt(spread**2 + 4 * slope * self.left) - spread) / (2 * slope)) ** 2 + 1e-9)


def spread(method: Method, demand: Demand, mix: Sequence[Length]) -> Spread:
    """A setting under the mix; room is kept for the longest prompt before its cut. The method must not refuse the model."""
    longest = replace(demand, context=max(one.tokens for one in mix))
    chunk, scores = workspace(longest)
    left = demand.usable - demand.weights - chunk - before_cut(method, longest)
    return Spread(method, tuple(mix), tuple(one_user(method, demand, one.tokens) for one in mix), left, scores)
