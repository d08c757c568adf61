"""The one table of colours: for style sheets, for Plotly, for Python. A colour has one meaning and keeps it on every page."""

from __future__ import annotations

from typing import Any

TOKENS: dict[str, tuple[str, str]] = {
    "page": ("#FAFAF8", "#0F1113"),  # behind everything
    "panel": ("#FFFFFF", "#16191C"),  # cards, bottom bar, navigation
    "sunken": ("#F3F3EF", "#1D2124"),  # tracks, current page, selected row, hover of a control
    "hairline": ("#E4E4DE", "#292E33"),  # grid, borders of cards
    "edge": ("#CDCDC5", "#3D444B"),  # borders of controls, evicted cells
    "ink": ("#16181B", "#EDEFF1"),  # titles, values; what you selected or may press
    "text": ("#454A52", "#BBC1C8"),  # running text
    "small": ("#666C76", "#939AA4"),  # labels, units, axes: the lightest text allowed
    "held": ("#2468B0", "#67ABEE"),  # what the compressed cache has
    "held-soft": ("#DCE8F5", "#1B3147"),  # the full-precision part of a byte stack
    "lost": ("#BC4514", "#FF9260"),  # evicted yet wanted, missing attention, a token that differs
    "lost-soft": ("#FBEBE2", "#3A2419"),  # ground under the hatch and under a differing token
    "reference": ("#767C86", "#8D95A0"),  # the full cache: lines and bars, never text
    "reference-band": ("#A9AEB6", "#626973"),  # its interval, at 14 %
    "axis-drop": ("#6D4BC3", "#AD95F5"),
    "axis-bits": ("#9A6700", "#DFAB3C"),
    "axis-merge": ("#8F1D62", "#F5A9D2"),
    "axis-read": ("#0B7D74", "#2EA89C"),
    "axis-channels": ("#445708", "#D3DE86"),
    "axis-share": ("#5E3420", "#B98A6C"),
}
"""Name -> (light, dark)."""

AXIS_TOKEN = {
    "reference": "reference",
    "eviction": "axis-drop",
    "heads": "axis-drop",
    "prefill": "axis-drop",
    "merging": "axis-merge",
    "retrieval": "axis-read",
    "quantization": "axis-bits",
    "channels": "axis-channels",
    "sparsity": "axis-channels",
    "sharing": "axis-share",
}
"""Folder of a method (`kvlab.method.AXES`) -> the token of its hue. Identity only, never a quantity."""

RAMP = ("#EDF3FA", "#DCE8F5", "#C4D9EF", "#A6C5E6", "#82ADDB", "#5C92CC", "#2468B0", "#1C5592", "#154274", "#0E2F55")
"""Ten steps for maps on a light panel, little to much."""


def colour(name: str, theme: str) -> str:
    """The colour of token `name` ("held", "axis-drop", ...) in `theme` "light" or "dark"; anything else counts as light."""
    return TOKENS[name][theme == "dark"]


def axis_colour(axis: str, theme: str) -> str:
    """The hue of a method's axis; `axis` is the folder's name, of a composed method its first part."""
    return colour(AXIS_TOKEN[axis], theme)


def ramp(theme: str) -> tuple[str, ...]:
    """The ten steps of `RAMP`; on a dark panel reversed, starting from the panel itself."""
    return (TOKENS["panel"][1], *RAMP[:0:-1]) if theme == "dark" else RAMP


def css(selector: str = ":root, :host") -> str:
    """The table as custom properties `--held`, `--axis-drop`, ... that follow the page's theme through light-dark()."""
    lines = "\n".join(f"  --{name}: light-dark({light}, {dark});" for name, (light, dark) in TOKENS.items())
    return f"{selector} {{\n{lines}\n}}\n"


def plotly_template(theme: str) -> dict[str, Any]:
    """A Plotly template of this theme, as a plain dict for `layout.template`: clear ground, hairline grid, 12 px labels, no legend.

    Give every trace its own colour: the colourway is only a net under those that forget.
    """
    c = {name: colour(name, theme) for name in TOKENS}
    axis = {
        "gridcolor": c["hairline"], "linecolor": c["edge"], "zerolinecolor": c["hairline"], "gridwidth": 1, "zeroline": False,
        "tickfont": {"size": 12, "color": c["small"]}, "title": {"font": {"size": 12, "color": c["small"]}}, "automargin": True,
    }  # fmt: skip
    steps = ramp(theme)
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "Source Sans, sans-serif", "size": 13, "color": c["text"]},
            "colorway": [c[name] for name in TOKENS if name.startswith("axis-")],
            "colorscale": {"sequential": [[i / 9, step] for i, step in enumerate(steps)]},
            "xaxis": axis, "yaxis": axis, "showlegend": False, "hovermode": "closest",
            "hoverlabel": {"bgcolor": c["panel"], "bordercolor": c["edge"], "font": {"size": 13, "color": c["ink"]}},
            "margin": {"l": 56, "r": 16, "t": 8, "b": 44},
        }
    }  # fmt: skip
