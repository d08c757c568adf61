"""Names at the lines of a trade-off figure, instead of a legend."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go

from kvlab.plots.labels import Box, Point, Segment, place
from kvlab.plots.looks import label, look
from kvlab.plots.points import single
from kvlab.plots.scales import Scale
from kvlab.ui.palette import colour

Pixels = Callable[[float, float], Point]
"""From data to pixels of the plot."""


def name_lines(
    figure: go.Figure, groups: list[pd.DataFrame], best: pd.DataFrame, xs: Scale, ys: Scale, page: tuple[int, int], scheme: str
) -> None:
    """Write each method's name at its line, as if the figure were `page` pixels wide and high; `groups` are the rows of each, `best` those on the front.

    Where no place is free the name stays in the hover and in the table.
    """
    margin = figure.layout.margin
    across, up = page[0] - margin.l - margin.r, page[1] - margin.t - margin.b

    def pixels(x: float, y: float) -> tuple[float, float]:
        return xs.share(x) * across, ys.share(y) * up

    ordered = sorted(groups, key=lambda rows: (-rows["front"].sum(), rows["axis"].iloc[0] == "reference"))
    curves = [rows[~single(rows)] if (~single(rows)).any() and rows["source"].iloc[0] == "measured" else rows for rows in ordered]
    names = [rows["title"].iloc[0] + (" (imported)" if rows["source"].iloc[0] == "imported" else "") for rows in ordered]
    lines = [[pixels(x, y) for x, y in zip(rows["x"], rows["mean"], strict=True)] for rows in curves]
    alone = [pixels(row["x"], row["mean"]) for rows in groups for _, row in rows[single(rows)].iterrows()]
    said = _notes(figure, groups, best, xs, ys, pixels, scheme)
    spots = place(names, lines, Box(4, 4, across - 2, up - 2), alone, said, _rules(groups, best, xs, pixels))
    for rows, name, spot in zip(curves, names, spots, strict=True):
        if spot is None:
            continue
        row, mark = rows.iloc[spot.index], look(rows["method"].iloc[0], rows["axis"].iloc[0], scheme)
        hue = colour("text", scheme) if row["axis"] == "reference" else mark.fill
        away = {"showarrow": True, "arrowhead": 0, "arrowwidth": 1, "arrowcolor": hue, "standoff": 7, "ax": spot.dx, "ay": -spot.dy}
        offset = away if spot.leader else {"xshift": spot.dx, "yshift": spot.dy}
        label(figure, name, xs.at(row["x"]), ys.at(row["mean"]), scheme, hue=hue, weight=600, size=13, xanchor=spot.anchor, yanchor="middle", **offset)


def _notes(figure: go.Figure, groups: list[pd.DataFrame], best: pd.DataFrame, xs: Scale, ys: Scale, pixels: Pixels, scheme: str) -> list[Box]:
    """Two small words that name the staircase and the band; returns where they stand."""
    taken = []
    if not best.empty:
        first, falls = best.iloc[0], best["better"].iloc[0] == "lower"
        end, side = (ys.high, "top") if falls else (ys.low, "bottom")
        label(figure, "Pareto front", xs.at(first["x"]), ys.at(end), scheme, token="ink", xanchor="left", yanchor=side, xshift=6, yshift=-4 if falls else 4)
        left, bottom = pixels(first["x"], end)
        taken.append(Box(left, bottom - 24 if falls else bottom, left + 90, bottom if falls else bottom + 24))
    for rows in groups:
        row = rows.iloc[0]
        if row["axis"] == "reference" and rows["tall"].iloc[0]:
            side = {"xref": "paper", "xanchor": "left", "yanchor": "bottom", "xshift": 8, "yshift": 2}
            label(figure, "full cache, its interval", 0, ys.at(row["low"]), scheme, token="small", **side)
            bottom = pixels(row["x"], row["low"])[1]
            taken.append(Box(0, bottom, 150, bottom + 20))
    return taken


def _rules(groups: list[pd.DataFrame], best: pd.DataFrame, xs: Scale, pixels: Pixels) -> list[Segment]:
    """The staircase and the dashed line, which labels should not cross either."""
    found = []
    for here, there in pairwise([*zip(best["x"], best["mean"], strict=True), (xs.high, best["mean"].iloc[-1])] if len(best) else []):
        corner = (there[0], here[1])
        found += [(pixels(*here), pixels(*corner)), (pixels(*corner), pixels(*there))]
    for rows in groups:
        if rows["axis"].iloc[0] == "reference":
            found.append((pixels(xs.low, rows["mean"].iloc[0]), pixels(xs.high, rows["mean"].iloc[0])))
    return found
