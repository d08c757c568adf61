"""How things look in a figure: one mark per method, an empty figure in a scheme, and the small helpers they share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from kvlab.registry import registry
from kvlab.ui.marks import marker, shape
from kvlab.ui.palette import AXIS_TOKEN, colour, plotly_template

SERIF = "Source Serif, Georgia, serif"
SANS = "Source Sans, sans-serif"
SYMBOL = {
    "square": "square", "cross": "cross", "hexagon": "hexagon", "pentagon": "pentagon", "diamond": "diamond", "down": "triangle-down", "circle": "circle",
    "up": "triangle-up", "left": "triangle-left", "right": "triangle-right", "star": "star", "star4": "star-diamond", "star6": "hexagram",
    "octagon": "octagon", "hourglass": "hourglass", "bowtie": "bowtie", "saltire": "x", "tall": "diamond-tall", "wide": "diamond-wide",
    "northeast": "triangle-ne", "southeast": "triangle-se", "southwest": "triangle-sw", "northwest": "triangle-nw", "star3": "star-triangle-up",
}  # fmt: skip
"""Shape of `kvlab.ui.marks` -> Plotly's name for it."""
FADED = 0.45
"""Opacity of what is dominated."""
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


@dataclass(frozen=True)
class Look:
    """One method's mark: Plotly symbol, fill and edge colour. A composed method has its second part's hue as edge."""

    symbol: str
    fill: str
    edge: str

    @property
    def composed(self) -> bool:
        return self.fill != self.edge


def look(method: str, axis: str, scheme: str) -> Look:
    """The mark of a method or of a composition such as snapkv+kivi; of a name kvlab does not know (imported tables) by its axis and its name."""
    if any(part in registry() for part in method.split("+")):
        mark = marker(method)
        return Look(SYMBOL[mark["shape"]], colour(mark["fill"], scheme), colour(mark["edge"], scheme))
    hue = colour(AXIS_TOKEN.get(axis, "small"), scheme)
    return Look(SYMBOL[shape(method)], hue, hue)


def faded(hue: str, scheme: str, share: float = FADED) -> str:
    """`hue` at `share` opacity on the panel, as an opaque colour: marks that overlap stay readable."""
    ground = colour("panel", scheme)
    mixed = (round(share * int(hue[i : i + 2], 16) + (1 - share) * int(ground[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{part:02X}" for part in mixed)


def rgba(hue: str, opacity: float) -> str:
    """`hue` with an opacity, for fills that must let the grid through."""
    return f"rgba({', '.join(str(int(hue[i : i + 2], 16)) for i in (1, 3, 5))}, {opacity})"


def halo(scheme: str) -> str:
    """A text shadow in the panel's colour, so that a label can be read across lines. More than two layers darken the ground: each rounds down."""
    return ", ".join([f"0 0 3px {colour('panel', scheme)}"] * 2)


def blank(scheme: str, title: str, subtitle: str, height: int, alt: str, top: int = 92) -> go.Figure:
    """An empty figure: template of the scheme, the finding in serif with one line under it, its alt sentence in `layout.meta`.

    `title` and `subtitle` are plain text. A page that has a heading of its own takes them away with `figure.update_layout(title=None)`.
    """
    figure = go.Figure(layout={"template": plotly_template(scheme), "height": height, "autosize": True, "meta": {"alt": alt, "scheme": scheme}})
    figure.update_layout(
        font_family=SANS, barcornerradius=0, margin={"l": 64, "r": 24, "t": top, "b": 56}, dragmode=False,
        title={
            "text": escape(title), "x": 0, "xref": "container", "y": 1, "yref": "container", "xanchor": "left", "yanchor": "top",
            "pad": {"l": 20, "t": 16}, "font": {"family": SERIF, "size": 20, "weight": 600, "color": colour("ink", scheme)},
            "subtitle": {"text": escape(subtitle), "font": {"family": SANS, "size": 13, "color": colour("small", scheme)}},
        },
    )  # fmt: skip
    return figure


def label(figure: go.Figure, text: str, x: float, y: float, scheme: str, **more: object) -> None:
    """A word in the figure, escaped: colour token `token` or a ready `hue`, with a halo; the rest is Plotly's annotation."""
    hue = more.pop("hue", None) or colour(str(more.pop("token", "text")), scheme)
    font = {"size": more.pop("size", 12), "color": hue, "weight": more.pop("weight", 400), "shadow": halo(scheme)}
    figure.add_annotation(**{"text": escape(text), "x": x, "y": y, "showarrow": False, "font": font, "align": "left", **more})


def key(figure: go.Figure, entries: list[tuple[str, str, str]], scheme: str, y: float, above: int = 0) -> None:
    """A quiet row at the top right that says what the shapes mean: (glyph, its colour, words)."""
    said = [f'<span style="color:{hue}">{glyph}</span>&nbsp;' + escape(text).replace(" ", "&nbsp;") for glyph, hue, text in entries]
    words = "&nbsp;&nbsp;&nbsp;&nbsp;".join(said)
    figure.add_annotation(text=words, x=1, y=y, xref="paper", yref="paper", xanchor="right", yanchor="bottom", yshift=above, showarrow=False,
                          font={"size": 12, "color": colour("small", scheme)})  # fmt: skip


def plain_key(scheme: str) -> dict[str, Any]:
    """Plotly's legend as one quiet row above the plot, for figures in which names do not fit at the marks."""
    return {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "itemclick": False, "itemdoubleclick": False, "traceorder": "normal",
            "font": {"size": 12, "color": colour("text", scheme)}, "bgcolor": "rgba(0,0,0,0)"}  # fmt: skip


def unit(largest: float) -> tuple[int, str]:
    """The unit in which `largest` bytes read best: (bytes in one, name)."""
    return next((size, name) for size, name in UNITS if largest >= size or size == 1)


def size(count: float) -> str:
    """Bytes for a person: "94 KiB", "2.4 MiB"."""
    one, name = unit(count)
    return f"{_short(count / one)} {name}"


def percent(share: float) -> str:
    """0.2 -> "20 %"; small shares keep a digit."""
    return f"{100 * share:.0f} %" if share >= 0.095 or share <= 0 else f"{100 * share:.1f} %"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 or value == int(value) else f"{value:.1f}"


def log_ticks(low: float, high: float, most: int = 11) -> list[float]:
    """Round numbers in [low, high] for a log axis: the finest of three series that gives no more than `most`."""
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= most:
            break
    return found or linear_ticks(low, high, 4)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers in [low, high], at most `most`."""
    raw = (high - low) / most
    step = next(s * 10.0**p for p in (math.floor(math.log10(raw)), math.floor(math.log10(raw)) + 1) for s in (1, 2, 2.5, 5) if s * 10.0**p >= raw)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
