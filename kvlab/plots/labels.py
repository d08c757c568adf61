"""Where names go beside their lines, so that a figure needs no legend: a search over a few places, in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]
Segment = tuple[Point, Point]
LETTER, LINE = 6.9, 16.0
"""Pixels of a letter's width and of a line's height at 13 px, semibold."""
NEAR, FAR = 11, 34
"""Pixels between a mark and its label: beside it, or away from it with a thin leader."""
TOO_MUCH = 100.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def grown(self, by: float) -> Box:
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)

    def holds(self, p: Point) -> bool:
        return self.left <= p[0] <= self.right and self.bottom <= p[1] <= self.top

    def meets(self, other: Box) -> bool:
        return self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top

    def within(self, other: Box) -> bool:
        return self.left >= other.left and self.right <= other.right and self.bottom >= other.bottom and self.top <= other.top

    def crossed(self, a: Point, b: Point) -> bool:
        """Whether the segment a-b touches the box (Liang and Barsky's clipping)."""
        start, end = 0.0, 1.0
        for origin, delta, low, high in ((a[0], b[0] - a[0], self.left, self.right), (a[1], b[1] - a[1], self.bottom, self.top)):
            if delta == 0:
                if not low <= origin <= high:
                    return False
                continue
            enter, leave = sorted(((low - origin) / delta, (high - origin) / delta))
            start, end = max(start, enter), min(end, leave)
        return start <= end


@dataclass(frozen=True)
class Place:
    """A label's place: the mark it belongs to, its offset in pixels (y upwards), which side of the text that is, and whether a leader helps."""

    index: int
    dx: float
    dy: float
    anchor: str  # left, center or right: the side of the text at the offset
    leader: bool


def place(
    names: Sequence[str], lines: Sequence[Sequence[Point]], area: Box, more: Sequence[Point] = (), taken: Sequence[Box] = (), rules: Sequence[Segment] = ()
) -> list[Place | None]:
    """A place for each name beside its own line, in this order; None where no place is free.

    `lines` are the marks of each name in pixels, by rising x; `more` are further marks and `rules` further lines to stay off; `taken` are boxes
    already written.
    """
    marks = [p for line in lines for p in line] + list(more)
    segments = [pair for line in lines for pair in pairwise(line)] + list(rules)
    boxes, found = list(taken), []
    for name, line in zip(names, lines, strict=True):
        best, cost, where = None, TOO_MUCH, None
        for spot, start in _spots(line):
            box = _box(name, line[spot.index], spot)
            total = start + _cost(box, line, marks, segments, boxes, area) if start < cost else TOO_MUCH
            if total < cost:
                best, cost, where = spot, total, box
        found.append(best)
        if where:
            boxes.append(where)
    return found


_BESIDE = (
    (NEAR, 0, "left", 0.0), (0, NEAR + 4, "center", 0.3), (-NEAR, 0, "right", 0.3), (0, -NEAR - 4, "center", 0.4), (NEAR - 2, NEAR, "left", 0.2),
    (NEAR - 2, -NEAR, "left", 0.2), (2 - NEAR, NEAR, "right", 0.3), (2 - NEAR, -NEAR, "right", 0.3),
)  # fmt: skip
_AWAY = ((FAR, FAR, "left"), (-FAR, FAR, "right"), (FAR, -FAR, "left"), (-FAR, -FAR, "right"), (2 * FAR, 0, "left"), (-2 * FAR, 0, "right"))


def _spots(line: Sequence[Point]) -> list[tuple[Place, float]]:
    """Places to try and what each costs before looking: the line's end first, then its start, then between."""
    last, spots = len(line) - 1, []
    for index in range(len(line)):
        base = 0.0 if index == last else 0.6 if index == 0 else 1.0
        spots += [(Place(index, dx, dy, anchor, False), base + extra) for dx, dy, anchor, extra in _BESIDE]
        spots += [(Place(index, dx, dy, anchor, True), base + 4.0) for dx, dy, anchor in _AWAY]
    return spots


def _box(name: str, mark: Point, spot: Place) -> Box:
    width = LETTER * len(name) + 2
    left = mark[0] + spot.dx - {"left": 0, "center": width / 2, "right": width}[spot.anchor]
    bottom = mark[1] + spot.dy - LINE / 2
    return Box(left, bottom, left + width, bottom + LINE)


def _cost(box: Box, line: Sequence[Point], marks: Sequence[Point], segments: Sequence[Segment], boxes: Sequence[Box], area: Box) -> float:
    if not box.within(area) or any(box.grown(2).meets(other) for other in boxes):
        return TOO_MUCH
    wide = box.grown(5)
    own = set(line)
    covered = sum(6.0 if p in own else 9.0 for p in marks if box.grown(3).holds(p))
    close = sum(0.7 for p in marks if p not in own and wide.grown(6).holds(p))
    crossed = sum(0.8 if a in own and b in own else 1.6 for a, b in segments if box.grown(1).crossed(a, b))
    return covered + close + crossed
