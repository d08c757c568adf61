"""Where the bytes are: one bar per method, stacked by part, over a thin bar of the full cache."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from kvlab.plots.looks import blank, faded, label, percent, plain_key, size
from kvlab.plots.scales import bytes_scale
from kvlab.ui.palette import colour

PARTS = {
    "raw": ("full-precision entries", "held", ""), "codes": ("codes", "held", ""), "scales": ("scales and zeros", "small", ""),
    "window": ("full-precision window", "held-soft", ""), "index": ("index", "text", "."), "positions": ("positions", "edge", ""),
}  # fmt: skip
"""Part -> (its words, colour token, Plotly pattern). Codes are held too: the same blue at 60 %."""
ROW, TOP = 46, 124


def parts(bytes_by_part: pd.DataFrame, scheme: str = "light") -> go.Figure:
    """Measured bytes by part, a horizontal bar per method, with the full cache as a thin reference under each.

    `bytes_by_part` has a row per method and part: method, title, part (raw, codes, scales, window, index, positions), bytes, full (bytes of the
    full cache). Raises ValueError for unknown parts or missing columns.
    """
    table = _checked(bytes_by_part)
    names = list(dict.fromkeys(table["title"]))
    totals = table.groupby("title", sort=False)["bytes"].sum()
    fulls = table.groupby("title", sort=False)["full"].max()
    figure = blank(scheme, _finding(totals, fulls), "measured on the tensors really held", TOP + ROW * len(names) + 56, parts_alt(table), TOP)
    xs = bytes_scale([*fulls, *totals], log=False)
    figure.update_layout(barmode="stack", bargap=0.5, margin_r=120, showlegend=True, legend={**plain_key(scheme), "y": 1.02})
    figure.update_xaxes(**xs.layout(), fixedrange=True)
    figure.update_yaxes(autorange="reversed", tickfont={"size": 13, "color": colour("ink", scheme)}, fixedrange=True, showgrid=False, ticklabelstandoff=8,
                        categoryorder="array", categoryarray=[escape(name) for name in names])  # fmt: skip
    for part, rows in sorted(table.groupby("part", sort=False), key=lambda group: list(PARTS).index(group[0])):
        _part(figure, part, rows, scheme)
    for i, name in enumerate(names):
        figure.add_shape(type="rect", x0=0, x1=fulls[name], y0=i + 0.34, y1=i + 0.38, line_width=0, fillcolor=colour("reference", scheme), name="full cache")
        label(figure, size(totals[name]), totals[name], i, scheme, token="ink", weight=600, size=13, xanchor="left", xshift=8, yshift=0)
        label(figure, percent(totals[name] / fulls[name]), 1, i, scheme, token="text", size=13, xref="paper", xanchor="right", xshift=96)
    label(figure, "of the full cache", 1, 1, scheme, token="small", xref="paper", yref="paper", xanchor="right", yanchor="bottom", xshift=96, yshift=6)
    figure.add_scatter(x=[None], y=[None], mode="lines", name="the full cache", line={"color": colour("reference", scheme), "width": 2}, meta="key")
    return figure


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    if missing := [name for name in ("method", "title", "part", "bytes", "full") if name not in table]:
        raise ValueError(f"The table of parts lacks {', '.join(missing)}.")
    if unknown := sorted(set(table["part"]) - set(PARTS)):
        raise ValueError(f"There is no part {unknown[0]!r}. Parts are {', '.join(PARTS)}.")
    if table.empty:
        raise ValueError("There are no bytes to draw.")
    return table[table["bytes"] > 0]


def _part(figure: go.Figure, part: str, rows: pd.DataFrame, scheme: str) -> None:
    words, token, dots = PARTS[part]
    hue, ground = colour(token, scheme), colour("panel", scheme)
    edge = {"color": {"window": colour("held", scheme), "index": hue}.get(part, ground), "width": 1}
    said = [f"{escape(row.title)}<br>{words}: {size(row.bytes)}, {percent(row.bytes / row.full)} of the full cache" for row in rows.itertuples()]
    fill = {"pattern": {"shape": dots, "fgcolor": hue, "bgcolor": ground, "size": 4, "solidity": 0.4}} if dots else {}
    figure.add_bar(y=[escape(title) for title in rows["title"]], x=rows["bytes"], orientation="h", name=words, meta=part, hovertext=said, hoverinfo="text",
                   marker={"color": faded(hue, scheme, 0.6) if part == "codes" else hue, "line": edge, **fill})  # fmt: skip


def _finding(totals: pd.Series, fulls: pd.Series) -> str:
    least = (totals / fulls).idxmin()
    return f"{least} holds {percent(totals[least] / fulls[least])} of the full cache's bytes, everything counted"


def parts_alt(bytes_by_part: pd.DataFrame) -> str:
    """One sentence for a reader who cannot see the bars."""
    table = _checked(bytes_by_part)
    said = [f"{title} {size(rows['bytes'].sum())}, of them " + ", ".join(f"{PARTS[p][0]} {size(b)}" for p, b in zip(rows["part"], rows["bytes"], strict=True))
            for title, rows in table.groupby("title", sort=False)]  # fmt: skip
    return "Bytes held by part: " + "; ".join(said) + "."


def parts_table(bytes_by_part: pd.DataFrame) -> pd.DataFrame:
    """The table twin: a row per method, bytes in a column per part, their sum, and the full cache."""
    table = _checked(bytes_by_part)
    wide = table.pivot_table(index="title", columns="part", values="bytes", aggfunc="sum", fill_value=0, sort=False)
    wide = wide[[part for part in PARTS if part in wide]]
    return wide.assign(held=wide.sum(axis=1), full=table.groupby("title")["full"].max()).rename_axis("Method").reset_index()
