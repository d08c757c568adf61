"""One small panel per task, the same bytes below each other: where a method is good at one task and poor at the next."""

from __future__ import annotations

import math
from html import escape
from itertools import product

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kvlab.plots import words
from kvlab.plots.looks import FADED, blank, faded, label, look, plain_key, rgba
from kvlab.plots.points import AXES, check, comparable, curves, pareto, shown, single
from kvlab.plots.scales import bytes_scale, is_share, quality_scale, score, share_scale
from kvlab.plots.words import custom, hover
from kvlab.ui.palette import colour

ROW, ONE, TOP = 236, 330, 128
"""Pixels of a row of panels, of a row that is the only one, and above the first."""


def tasks(points: pd.DataFrame, scheme: str = "light", x: str = "share", log: bool = True) -> go.Figure:
    """Quality against measured bytes, a panel per task (and per length and mode where there are several), with one key above all of them.

    `points` as for `quality`, of one model. The methods on a panel's front are drawn in full, the others faded; every interval is a hairline.
    """
    table = check(points)
    if len(models := table["model"].unique()) > 1:
        raise ValueError(f"This figure shows one model at a time, and the points have {len(models)}: {', '.join(map(str, models[:4]))}. Choose one of them.")
    table = table.assign(x=shown(table, x))
    panels = [rows for _, rows in table.groupby(["task", "length", "mode"], sort=False, dropna=False)]
    across = min(len(panels), 3 if len(panels) in (3, 5, 6, 9) else 4)
    down = math.ceil(len(panels) / across)
    high = TOP + (down * ROW if down > 1 else ONE) + 56
    figure = blank(scheme, _finding(panels, x), f"{table['model'].iloc[0]} · {len(panels)} tasks · {len(table)} points", high, words.alt(points, x), TOP)
    grid = make_subplots(rows=down, cols=across, horizontal_spacing=0.05, vertical_spacing=0.2 / down, figure=go.Figure())
    figure.update_layout({name: axis for name, axis in grid.layout.to_plotly_json().items() if "axis" in name})
    xs = (share_scale if x == "share" else bytes_scale)(table["x"], log)
    for i, rows in enumerate(panels):
        _panel(figure, rows, i, xs, x, scheme, bottom=i + across >= len(panels), several=len(panels) > table["task"].nunique())
    figure.update_traces(showlegend=False)
    _legend(figure, table, scheme)
    label(figure, AXES[x] + (" (log)" if log else "") + " →", 1, 0, scheme, token="ink", weight=600, size=13, xref="paper", yref="paper", xanchor="right",
          yanchor="top", yshift=-30)  # fmt: skip
    return figure


def _finding(panels: list[pd.DataFrame], x: str) -> str:
    """How many tasks each method stands on the front of, said of the one that does most often."""
    fronts = [set(pareto(rows[comparable(rows) & (rows["axis"] != "reference")], x)["title"]) for rows in panels]
    counts = pd.Series([title for front in fronts for title in front], dtype=str).value_counts()
    if counts.empty or len(panels) == 1:
        return "Quality against measured bytes, task by task"
    first = sorted(counts[counts == counts.iloc[0]].index)
    number = "every task" if counts.iloc[0] == len(panels) else f"{counts.iloc[0]} of {len(panels)} tasks"
    if len(first) > 2:
        return f"{len(first)} methods stand on the front of {number}"
    return f"On the front of {number}: {' and '.join(first)}"


def _panel(figure: go.Figure, rows: pd.DataFrame, index: int, xs: object, x: str, scheme: str, bottom: bool, several: bool) -> None:
    name = "" if index == 0 else str(index + 1)
    ys = quality_scale(rows)
    figure.update_layout({f"xaxis{name}": {**xs.layout(), "showgrid": False, "showline": True, "showticklabels": bottom, "fixedrange": True}})
    ticks = {**ys.layout(), "fixedrange": True}
    figure.update_layout({f"yaxis{name}": ticks})
    best = set(pareto(rows[comparable(rows)], x).index)
    where = {"xaxis": f"x{name}", "yaxis": f"y{name}"}
    row = rows.iloc[0]
    head = f"{row['task']}, {row['length']:,} tokens, {row['mode']}" if several else str(row["task"])
    said = {"xref": f"x{name} domain", "yref": f"y{name} domain", "yanchor": "bottom", "scheme": scheme}
    label(figure, head + (", lower is better" if row["better"] == "lower" else ""), 0, 1, token="ink", weight=600, size=13, xanchor="left", yshift=4, **said)
    for _, full in rows[rows["axis"] == "reference"].iterrows():
        figure.add_scatter(x=[xs.low, xs.high], y=[full["mean"]] * 2, mode="lines", hoverinfo="skip", meta="reference", **where,
                           line={"color": colour("reference", scheme), "width": 1.2, "dash": "6px,4px"})  # fmt: skip
        label(figure, f"full cache {score(full['mean'], is_share(rows))}", 1, 1, token="small", xanchor="right", yshift=4, **said)
    for _, line in rows[rows["axis"] != "reference"].groupby(["method", "source"], sort=False):
        _line(figure, line.sort_values("x"), rows, best, where, scheme)


def _line(figure: go.Figure, line: pd.DataFrame, rows: pd.DataFrame, best: set[int], where: dict[str, str], scheme: str) -> None:
    mark = look(line["method"].iloc[0], line["axis"].iloc[0], scheme)
    on = [i in best for i in line.index]
    alone = single(line).tolist()
    imported = line["source"].iloc[0] == "imported"
    if not imported:
        strokes = ((mark.fill, None), (mark.edge, "6px,6px")) if mark.composed else ((mark.fill, None),)
        for curve, (hue, dash) in product(curves(line[~single(line)]), strokes):
            figure.add_scatter(x=curve["x"], y=curve["mean"], mode="lines", hoverinfo="skip", meta="line", **where,
                               line={"color": rgba(hue, 0.9 if any(on) else FADED), "width": 1.5, "dash": dash})  # fmt: skip
    hollow = [one or imported for one in alone]
    fill = [colour("panel", scheme) if open_ else mark.fill if front else faded(mark.fill, scheme, 0.55) for open_, front in zip(hollow, on, strict=True)]
    edge = [mark.edge if open_ or front else faded(mark.edge, scheme, 0.55) for open_, front in zip(hollow, on, strict=True)]
    up, down = ((line[end] - line["mean"]).abs().where(~single(line), 0) for end in ("high", "low"))
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": rgba(mark.edge, 0.35), "thickness": 1, "width": 0}
    figure.add_scatter(
        x=line["x"], y=line["mean"], mode="markers", name=line["title"].iloc[0], meta="imported" if imported else "points", customdata=custom(line),
        text=hover(line, rows), hoverinfo="text", error_y=bars, **where,
        marker={"symbol": mark.symbol, "size": [10 if front else 8 for front in on], "color": fill, "opacity": 1,
                "line": {"color": edge, "width": 2 if mark.composed else [int(open_) for open_ in hollow]}},
    )  # fmt: skip


def _legend(figure: go.Figure, table: pd.DataFrame, scheme: str) -> None:
    """One key for all panels: names at the lines do not fit in panels this small."""
    for (method, axis, title), _ in table[table["axis"] != "reference"].groupby(["method", "axis", "title"], sort=False):
        mark = look(method, axis, scheme)
        edge = {"color": mark.edge, "width": 2 if mark.composed else 0}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=escape(title), showlegend=True, meta="key",
                           marker={"symbol": mark.symbol, "size": 10, "color": mark.fill, "line": edge})  # fmt: skip
    figure.update_layout(showlegend=True, legend={**plain_key(scheme), "y": 1 + 26 / (figure.layout.height - TOP - 56)})
