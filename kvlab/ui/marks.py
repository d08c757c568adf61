"""Who is who: the hue of a method's axis, a shape of its own, and the groups in which the axes stand on screen. Identity, never a quantity."""

from __future__ import annotations

import re

from kvlab.method import Method
from kvlab.registry import registry
from kvlab.ui.palette import AXIS_TOKEN

SHAPES = ("square", "cross", "hexagon", "pentagon", "diamond", "down", "circle", "up")
KNOWN = {"snapkv": "diamond", "lagkv": "down", "adakv": "circle", "streamingllm": "up", "keydiff": "hexagon", "tova": "pentagon"}
"""Shapes that are fixed, so that much used methods look the same when others join; the rest go round."""
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


def marker(name: str) -> dict[str, str]:
    """Shape, fill and edge (colour tokens) of a method or of a composition such as snapkv+kivi: fill from its first part, edge from the second."""
    parts = [part for part in name.split("+") if part in registry()]
    hues = [AXIS_TOKEN[registry()[part].axis] for part in parts] or ["reference"]
    if hues[0] == "reference":
        return {"shape": "square", "fill": "reference", "edge": "reference"}
    siblings = [kind.name for kind in groups()[hues[0]]]
    free = [name for name in siblings if name not in KNOWN]
    shape = KNOWN.get(parts[0]) or SHAPES[free.index(parts[0]) % len(SHAPES)]
    return {"shape": shape, "fill": hues[0], "edge": hues[1] if len(hues) > 1 else hues[0]}
