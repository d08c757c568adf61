"""A lesson in one small picture for the list: the drawing of its first step that has one, without words.

Only what the step shows before its question is answered, so that no result is given away. Boxes and cut-out boxes of HTML, because a page's
HTML may hold no SVG.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

WIDE, HIGH, EDGE = 300.0, 74.0, 2.0
BINS, MOST_ROWS = 140, 12
COLOURS = {"reference": "var(--reference)", "lost": "var(--lost)", "ink": "var(--ink)", "predicted": "var(--edge)"}
"""Of a series by its look; every other look is drawn as held."""

Picture = Mapping[str, Any]


def thumb(steps: Sequence[Mapping[str, Any]]) -> str:
    """The first of the lesson's pictures (as `kvlab.ui.lesson.built` gives them) that can be told small; "" if there is none."""
    for step in steps:
        picture = step.get("picture") or {}
        if (draw := DRAWN.get(picture.get("kind", ""))) and (marks := draw(picture, step.get("question") is None)):
            return f'<div class="kv-thumb" style="height:{HIGH:g}px" aria-hidden="true">{marks}</div>'
    return ""


def _tracks(p: Picture, told: bool) -> str:
    """Who is held, a row for each layer or head."""
    rows = p["rows"][:MOST_ROWS]
    pitch, across = (HIGH - 2 * EDGE) / len(rows), WIDE / BINS
    marks = []
    for i, row in enumerate(rows):
        y, high = EDGE + i * pitch, 0.74 * pitch
        marks.append(_rect(0, y + high / 2, WIDE, 0.6, "var(--hairline)"))
        for start, end, (shade, tall) in _runs(row["spans"], p["n"]):
            part = high * max(0.3, tall)
            marks.append(_rect(start * across, y + high - part, (end - start) * across, part, "var(--held)", shade))
    return "".join(marks)


def _runs(spans: Sequence[Sequence[float]], n: int) -> Iterator[tuple[int, int, tuple[float, float]]]:
    """First and last column of `BINS`, shade and height of every stretch that looks alike."""
    shades, heights = np.zeros(BINS), np.zeros(BINS)
    for span in spans:
        start, end, level, tall, idle = (*span, 1, 0)[:5] if len(span) == 3 else span
        covered = np.clip(np.minimum(np.arange(1, BINS + 1) * n / BINS, end) - np.maximum(np.arange(BINS) * n / BINS, start), 0, None) * BINS / n
        shades += covered * (0.12 if idle else level)
        heights = np.where(covered > 0, np.maximum(heights, tall), heights)
    looks = [(round(float(shade), 1), float(tall)) for shade, tall in zip(shades, heights, strict=True)]
    start = 0
    for look, same in itertools.groupby(looks):
        end = start + len(list(same))
        if look[0]:
            yield start, end, look
        start = end


def _text(p: Picture, told: bool) -> str:
    """A line of prose as blocks: darker where it is read more, or held by more heads. Nothing where that is the question."""
    if p.get("hide") and not told:
        return ""
    parts, x, y, marks = p["parts"], 0.0, EDGE, []
    shades = [part.get("read", part.get("share", 0.0)) for part in parts]
    most = max(shades, default=0) or 1
    for part, shade in zip(parts, shades, strict=True):
        wide = 3.2 * max(1, len(part["t"]))
        if x + wide > WIDE:
            x, y = 0.0, y + 12
        if y > HIGH - 9:
            break
        marks.append(_rect(x, y, wide, 8, "var(--held)", 0.14 + 0.86 * shade / most))
        x += wide + 2.5
    return "".join(marks)


def _curve(p: Picture, told: bool) -> str:
    """The series that are there before the reveal, all of them where nothing is asked; a line with a light area below it, but for many settings."""
    given = [s for s in p["series"] if (told or s.get("given")) and s.get("look") != "soft"]
    x, y = ((p[axis]["min"], p[axis]["max"] - p[axis]["min"] or 1) for axis in "xy")
    at = lambda q: (WIDE * (q[0] - x[0]) / x[1], HIGH - EDGE - (HIGH - 2 * EDGE) * (q[1] - y[0]) / y[1])  # noqa: E731
    marks = [_rect(0, HIGH - EDGE, WIDE, 1, "var(--edge)")] if given else []
    for s in given:
        points, hue = [at(q) for q in s["points"]], _hue(s)
        if s.get("line"):
            marks += [_line(points, hue)] if s.get("mark") else [_line(points, hue, HIGH, 0.12), _line(points, hue)]
        if s.get("dots") or s.get("mark"):
            marks += [_rect(a - 2, b - 2, 4, 4, hue) for a, b in points]
    return "".join(marks)


def _hue(series: Mapping[str, Any]) -> str:
    mark = series.get("mark")
    return f"var(--{mark['fill']})" if mark else COLOURS.get(series.get("look", ""), "var(--held)")


def _line(points: Sequence[tuple[float, float]], hue: str, tall: float = 2, opacity: float = 0.75) -> str:
    """A line of 2 pixels, or the area below it: a box that is cut along the points and back beneath them."""
    there = [f"{100 * x / WIDE:.1f}% {y:.1f}px" for x, y in points]
    back = [f"{100 * x / WIDE:.1f}% {min(HIGH, y + tall):.1f}px" for x, y in reversed(points)]
    return f'<i style="inset:0;background:{hue};opacity:{opacity};clip-path:polygon({",".join(there + back)})"></i>'


def _rect(x: float, y: float, wide: float, high: float, fill: str, opacity: float = 1) -> str:
    across = f"left:{100 * x / WIDE:.2f}%;width:{100 * wide / WIDE:.2f}%"
    return f'<i style="{across};top:{y:.1f}px;height:{high:.1f}px;background:{fill};opacity:{opacity:.2f}"></i>'


DRAWN: dict[str, Callable[[Picture, bool], str]] = {"tracks": _tracks, "text": _text, "curve": _curve}
