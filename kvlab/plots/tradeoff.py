"""Quality against measured bytes: marks, lines, the stepped front, the full cache as a dashed line with its band."""

from __future__ import annotations

from itertools import product

import pandas as pd
import plotly.graph_objects as go

from kvlab.plots import words
from kvlab.plots.looks import FADED, Look, blank, faded, key, label, look, rgba, size
from kvlab.plots.naming import name_lines
from kvlab.plots.points import AXES, comparable, curves, panel, pareto, single
from kvlab.plots.scales import Scale, bytes_scale, is_share, quality_scale, score, share_scale
from kvlab.plots.words import custom, hover
from kvlab.ui.marks import GROUPS
from kvlab.ui.palette import AXIS_TOKEN, colour

WIDTH, HEIGHT = 956, 612
"""Pixels for which labels are placed; the figure itself fills the width it is given."""
MARK, ON_FRONT = 10, 14
NAMES = {"axis-drop": "drops entries", "axis-bits": "fewer bits", "axis-merge": "merges entries", "axis-read": "reads less", "axis-channels": "fewer channels",
         "axis-share": "shares layers"}  # fmt: skip


def quality(
    points: pd.DataFrame, scheme: str = "light", x: str = "resident", front: bool = True, log: bool = True, chosen: str | None = None, width: int = WIDTH
) -> go.Figure:
    """One task's quality against measured bytes, a mark per point with its run id as `customdata[0]`.

    `points` are of one model, task, length and mode (columns: `kvlab.plots.points.COLUMNS`); `x` is resident, peak, read_per_step (bytes) or share
    (percent of the full cache); `chosen` is the run id of the selected point. Raises ValueError with a sentence for tables that do not fit.
    """
    table = panel(points, x)
    xs = (share_scale if x == "share" else bytes_scale)(table["x"], log)
    ys = quality_scale(table)
    best = pareto(table[comparable(table)], x)
    figure = blank(scheme, words.finding(table, x), words.setting(table), HEIGHT, words.alt(points, x), top=118)
    _axes(figure, table, xs, ys, x, scheme)
    _reference(figure, table, xs, ys, scheme)
    if front:
        _front(figure, best, xs, ys, scheme)
    tall = [(ys.share(high) - ys.share(low)) * HEIGHT > 40 for low, high in zip(table["low"], table["high"], strict=True)]
    series = _series(figure, table.assign(front=front & table.index.isin(best.index), tall=tall), scheme)
    _key(figure, table, scheme)
    name_lines(figure, series, best if front else best[:0], xs, ys, (width, HEIGHT), scheme)
    if chosen is not None:
        _chosen(figure, table, chosen, xs, ys, x, scheme)
    return figure


def _axes(figure: go.Figure, table: pd.DataFrame, xs: Scale, ys: Scale, x: str, scheme: str) -> None:
    figure.update_xaxes(**xs.layout(), showgrid=False, showline=True, ticks="outside", ticklen=4, tickcolor=colour("edge", scheme), fixedrange=True)
    figure.update_yaxes(**ys.layout(), fixedrange=True)
    bold = {"scheme": scheme, "token": "ink", "weight": 600, "size": 13, "xref": "paper", "yref": "paper"}
    label(figure, words.measure(table), 0, 1, xanchor="left", yanchor="bottom", yshift=8, **bold)
    label(figure, AXES[x] + (" (log)" if xs.log else "") + " →", 1, 0, xanchor="right", yanchor="top", yshift=-30, **bold)


def _reference(figure: go.Figure, table: pd.DataFrame, xs: Scale, ys: Scale, scheme: str) -> None:
    """The full cache: a band for its interval, a dashed line for its mean, and both named at the right."""
    for _, row in table[table["axis"] == "reference"].iterrows():
        if row["n"] > 1:
            figure.add_shape(type="rect", x0=0, x1=1, xref="paper", y0=row["low"], y1=row["high"], line_width=0, layer="below",
                             fillcolor=rgba(colour("reference-band", scheme), 0.14))  # fmt: skip
        figure.add_shape(type="line", x0=0, x1=1, xref="paper", y0=row["mean"], y1=row["mean"], layer="below",
                         line={"color": colour("reference", scheme), "width": 1.2, "dash": "6px,4px"})  # fmt: skip


def _front(figure: go.Figure, best: pd.DataFrame, xs: Scale, ys: Scale, scheme: str) -> None:
    """The front as a staircase from the axis to the right edge: between two points nothing was measured."""
    if best.empty:
        return
    worst = ys.high if best["better"].iloc[0] == "lower" else ys.low
    across, up = best["x"].tolist(), best["mean"].tolist()
    figure.add_scatter(x=[across[0], *across, xs.high], y=[worst, *up, up[-1]], mode="lines", hoverinfo="skip", name="Pareto front", meta="front",
                       line={"color": colour("ink", scheme), "width": 1.3, "shape": "hv"})  # fmt: skip


def _series(figure: go.Figure, table: pd.DataFrame, scheme: str) -> list[pd.DataFrame]:
    """A line and its marks per method and source; returns the rows of each. Those with most of the front come last, on top."""
    groups = [rows.sort_values(["x", "mean"]) for _, rows in table.groupby(["method", "source"], sort=False)]
    groups.sort(key=lambda rows: rows["front"].sum())
    for rows in groups:
        mark = look(rows["method"].iloc[0], rows["axis"].iloc[0], scheme)
        strong = rows["front"].mean() >= 0.5
        if rows["source"].iloc[0] == "imported":
            _imported(figure, rows, mark, table, scheme)
            continue
        strokes = ((mark.fill, None), (mark.edge, "8px,8px")) if mark.composed else ((mark.fill, None),)
        for curve, (hue, dash) in product(curves(rows[~single(rows)]), strokes):
            figure.add_scatter(x=curve["x"], y=curve["mean"], mode="lines", hoverinfo="skip", name=rows["title"].iloc[0], meta="line",
                               line={"color": rgba(hue, 0.95 if strong else FADED), "width": 2.2 if strong else 1.5, "dash": dash})  # fmt: skip
        _bars(figure, rows, mark)
        _marks(figure, rows, mark, table, scheme)
    return groups


def _bars(figure: go.Figure, rows: pd.DataFrame, mark: Look) -> None:
    """Intervals: strong on the front, with caps where the mark does not hide them, and hairlines elsewhere."""
    for front, tall, width, caps, opacity in ((True, True, 1.5, 4, 1.0), (True, False, 1.5, 0, 1.0), (False, True, 1, 0, 0.25), (False, False, 1, 0, 0.25)):
        part = rows[(rows["front"] == front) & (rows["tall"] == tall) & ~single(rows) & (rows["axis"] != "reference")]
        if len(part):
            bars = {"type": "data", "symmetric": False, "array": part["high"] - part["mean"], "arrayminus": part["mean"] - part["low"],
                    "color": rgba(mark.edge, opacity), "thickness": width, "width": caps}  # fmt: skip
            figure.add_scatter(x=part["x"], y=part["mean"], mode="markers", marker={"size": 0.1, "opacity": 0}, error_y=bars, hoverinfo="skip", meta="interval")


def _marks(figure: go.Figure, rows: pd.DataFrame, mark: Look, table: pd.DataFrame, scheme: str) -> None:
    ground = colour("panel", scheme)
    alone, on = single(rows).tolist(), rows["front"].tolist()
    full = rows["axis"].iloc[0] == "reference"
    strong = [front or one or full for front, one in zip(on, alone, strict=True)]
    fill = [ground if one or full else mark.fill if much else faded(mark.fill, scheme, 0.55) for one, much in zip(alone, strong, strict=True)]
    edge = [mark.edge if much else faded(mark.edge, scheme, 0.55) for much in strong]
    thick = [3 if mark.composed else 1.5 if one or full else 0 for one in alone]
    figure.add_scatter(
        x=rows["x"], y=rows["mean"], mode="markers", name=rows["title"].iloc[0], meta="points",
        customdata=custom(rows), text=hover(rows, table), hoverinfo="text",
        marker={"symbol": mark.symbol, "size": [ON_FRONT if front else MARK for front in on], "color": fill, "opacity": 1,
                "line": {"color": edge, "width": thick}},
    )  # fmt: skip


def _imported(figure: go.Figure, rows: pd.DataFrame, mark: Look, table: pd.DataFrame, scheme: str) -> None:
    """The method's shape as a thin outline with a cross in it: not measured here, so no line and no place on the front."""
    figure.add_scatter(
        x=rows["x"], y=rows["mean"], mode="markers", name=f"{rows['title'].iloc[0]}, imported", meta="imported", customdata=custom(rows),
        text=hover(rows, table), hoverinfo="text",
        marker={"symbol": mark.symbol, "size": 13, "color": colour("panel", scheme), "line": {"color": mark.edge, "width": 1}},
    )  # fmt: skip
    figure.add_scatter(x=rows["x"], y=rows["mean"], mode="markers", hoverinfo="skip", meta="cross",
                       marker={"symbol": "x-thin", "size": 6, "line": {"color": mark.edge, "width": 1.5}})  # fmt: skip


def _key(figure: go.Figure, table: pd.DataFrame, scheme: str) -> None:
    """What the colours and the odd marks mean, for those that are there."""
    hues = {AXIS_TOKEN.get(axis, "small") for axis in table["axis"]}
    entries = [("●", colour(hue, scheme), NAMES[hue]) for hue in GROUPS if hue in hues]
    if table["method"].str.contains("+", regex=False).any():
        entries.append(("⬢", colour("small", scheme), "edge: the second method"))
    if single(table).any():
        entries.append(("○", colour("text", scheme), "one prompt: not a rate"))
    if (table["source"] == "imported").any():
        entries.append(("⊗", colour("text", scheme), "imported, not measured here"))
    key(figure, entries, scheme, 1, 8)


def _chosen(figure: go.Figure, table: pd.DataFrame, run: str, xs: Scale, ys: Scale, x: str, scheme: str) -> None:
    """The selected point: a ring, dotted droppers, and its values in ink pills on both axes."""
    found = table[table["run"].astype(str) == run]
    if found.empty:
        return
    row, ink = found.iloc[0], colour("ink", scheme)
    dots = {"color": ink, "width": 1, "dash": "2px,3px"}
    figure.add_scatter(x=[row["x"], row["x"], xs.low], y=[ys.low, row["mean"], row["mean"]], mode="lines", line=dots, hoverinfo="skip", meta="droppers")
    figure.add_scatter(x=[row["x"]], y=[row["mean"]], mode="markers", hoverinfo="skip", meta="ring",
                       marker={"symbol": "circle-open", "size": 26, "color": ink, "line": {"color": ink, "width": 2}})  # fmt: skip
    _make_room(figure, row, xs, ys)
    across = f"{row['x']:.0f} %" if x == "share" else size(row["x"])
    pill = {"showarrow": False, "font": {"size": 12, "color": colour("panel", scheme), "weight": 600, "shadow": "none"}, "bgcolor": ink, "borderpad": 4}
    figure.add_annotation(text=across, x=xs.at(row["x"]), y=0, yref="paper", yanchor="top", yshift=-4, **pill)
    figure.add_annotation(text=score(row["mean"], is_share(table)), x=0, xref="paper", y=ys.at(row["mean"]), xanchor="right", **pill)


def _make_room(figure: go.Figure, row: pd.Series, xs: Scale, ys: Scale) -> None:
    """Take away the words of ticks that a pill would half cover."""
    for scale, value, near, update in ((xs, row["x"], 0.045, figure.update_xaxes), (ys, row["mean"], 0.04, figure.update_yaxes)):
        update(ticktext=["" if abs(scale.share(t) - scale.share(value)) < near else text for t, text in zip(scale.ticks, scale.texts, strict=True)])
