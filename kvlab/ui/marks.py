"""Who is who: the hue of a method's axis, a shape of its own, and the groups in which the axes stand on screen. Identity, never a quantity."""

from __future__ import annotations

import hashlib
import math
import re

from kvlab.method import Method
from kvlab.registry import registry
from kvlab.ui.palette import AXIS_TOKEN

Outline = tuple[tuple[float, float], ...]


def _ring(corners: int, turn: float = -90, inner: float = 1.0) -> Outline:
    """A regular polygon around 0, the first corner at `turn` degrees (-90 is up); with `inner` < 1 a star: every second corner at that radius."""
    radii = (1.0,) if inner == 1 else (1.0, inner)
    count = corners * len(radii)
    angles = [math.radians(turn + 360 * i / count) for i in range(count)]
    return tuple((round(radii[i % len(radii)] * math.cos(a), 3), round(radii[i % len(radii)] * math.sin(a), 3)) for i, a in enumerate(angles))


def _turned(outline: Outline, degrees: float) -> Outline:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return tuple((round(x * c - y * s, 3), round(x * s + y * c, 3)) for x, y in outline)


_PLUS: Outline = ((-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33), (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33),
                  (-1, -0.33), (-0.33, -0.33))  # fmt: skip
_GLASS: Outline = ((-0.85, -0.85), (0.85, -0.85), (0, 0), (0.85, 0.85), (-0.85, 0.85), (0, 0))

SHAPES: dict[str, Outline] = {
    "circle": (), "square": _ring(4, -45), "diamond": _ring(4), "up": _ring(3), "down": _ring(3, 90), "pentagon": _ring(5), "hexagon": _ring(6, 0),
    "cross": _PLUS,
}  # fmt: skip
"""The plain shapes, for the well known methods: name -> corners in a circle of radius 1, y downwards. The circle has none."""
MORE: dict[str, Outline] = {
    "left": _ring(3, 180), "right": _ring(3, 0), "star": _ring(5, inner=0.42), "star4": _ring(4, inner=0.42), "star6": _ring(6, inner=0.58),
    "octagon": _ring(8, 22.5), "hourglass": _GLASS, "bowtie": _turned(_GLASS, 90), "saltire": _turned(_PLUS, 45),
    "tall": ((0, -1), (0.5, 0), (0, 1), (-0.5, 0)), "wide": ((0, -0.5), (1, 0), (0, 0.5), (-1, 0)), "northeast": ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8)),
    "southeast": ((0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)), "southwest": ((0.8, 0.8), (-0.8, 0.8), (-0.8, -0.8)),
    "northwest": ((-0.8, 0.8), (-0.8, -0.8), (0.8, -0.8)), "star3": _ring(3, inner=0.3),
}  # fmt: skip
"""The shapes of all other methods. All are filled: in a figure a hollow mark means one prompt."""
KNOWN = {
    # drop entries
    "snapkv": "diamond", "lagkv": "down", "adakv": "circle", "streamingllm": "up", "keydiff": "hexagon", "tova": "pentagon", "h2o": "square",
    "expectedattention": "cross",
    # fewer bits
    "kivi": "square", "kvquant": "diamond", "quarot": "circle", "turboquant": "hexagon", "gear": "pentagon", "fp8": "cross", "zipcache": "up",
    "quantizedcache": "down",
    # merge entries
    "cam": "circle", "d2o": "square", "kvmerger": "diamond", "less": "hexagon", "ems": "pentagon", "mergear": "up",
    # keep all, read less
    "quest": "circle", "magicpig": "diamond", "infllm": "square", "shadowkv": "hexagon", "clusterkv": "pentagon", "hata": "up",
    # fewer channels or values
    "think": "square", "mustafar": "cross", "palu": "diamond", "xkv": "hexagon", "eigenattention": "circle", "svdq": "pentagon", "lorc": "up",
    # share across layers
    "kvsharer": "circle", "cla": "square", "mlkv": "diamond", "lckv": "hexagon",
}  # fmt: skip
"""The well known methods; no two of one hue share a shape. A method that is not here has one of `MORE` by its name, whoever else there is."""
GROUPS = {
    "axis-drop": "Drop entries",
    "axis-bits": "Fewer bits",
    "axis-merge": "Merge entries",
    "axis-read": "Keep all, read less",
    "axis-channels": "Fewer channels or values",
    "axis-share": "Share across layers",
}
"""Hue -> its plain words, in the order of the form. Several folders may share a hue."""


def groups() -> dict[str, list[type[Method]]]:
    """Hue -> its methods, the oldest paper first; the full cache belongs to none, it always runs."""
    found: dict[str, list[type[Method]]] = {hue: [] for hue in GROUPS}
    for kind in registry().values():
        if AXIS_TOKEN[kind.axis] in found:
            found[AXIS_TOKEN[kind.axis]].append(kind)
    return {hue: sorted(kinds, key=_published) for hue, kinds in found.items() if kinds}


def _published(kind: type[Method]) -> str:
    """Year and month of the paper as arXiv numbers them; what has no number comes last in its year."""
    number = re.search(r"arXiv (\d{4}\.\d+)", kind.paper)
    return number[1] if number else f"{kind.year % 100:02}99"


def shape(name: str) -> str:
    """The shape of one method, from its name alone: it stays when other methods join."""
    return KNOWN.get(name) or list(MORE)[int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % len(MORE)]


def outline(name: str) -> str:
    """A shape's corners for an SVG polygon of radius 1; nothing for the circle."""
    return " ".join(f"{x:g},{y:g}" for x, y in {**SHAPES, **MORE}[name])


def marker(name: str) -> dict[str, str]:
    """Shape, its outline, fill and edge (colour tokens) of a method or of a composition: of snapkv+kivi the fill is its first part's, the edge its second's."""
    parts = [part for part in name.split("+") if part in registry()]
    hues = [AXIS_TOKEN[registry()[part].axis] for part in parts] or ["reference"]
    own = "square" if hues[0] == "reference" else shape(parts[0])
    return {"shape": own, "outline": outline(own), "fill": hues[0], "edge": hues[1] if len(hues) > 1 and hues[0] != "reference" else hues[0]}
