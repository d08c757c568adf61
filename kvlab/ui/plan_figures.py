"""The Plan page's two figures, the roofline of a decode step and predicted against measured bytes, and the tables of everything it draws."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kvlab.planner.answer import Line, Row
from kvlab.planner.evidence import Error
from kvlab.planner.formulas import size
from kvlab.planner.memory import Demand
from kvlab.plots.looks import label, look
from kvlab.ui.palette import colour, plotly_template
from kvlab.ui.plan import words

HEIGHT = 232
FARTHEST = 16
"""Methods in the figure of errors at most."""


def _empty(scheme: str, height: int) -> go.Figure:
    return go.Figure(layout={"template": plotly_template(scheme), "height": height, "margin": {"l": 52, "r": 18, "t": 16, "b": 46}})


def _trace(figure: go.Figure, row: Row, x: float, y: float, scheme: str, hover: str) -> None:
    mark = look(row.method.name, row.method.axis, scheme)
    marker = {"symbol": mark.symbol, "size": 11, "color": mark.fill, "line": {"color": mark.edge, "width": 3 if mark.composed else 0}}
    figure.add_trace(go.Scatter(x=[x], y=[y], mode="markers", marker=marker, name=row.method.title, hovertemplate=hover + "<extra></extra>"))


def roofline(rows: Sequence[Row], bandwidth: float, peak: float, gpus: int, scheme: str) -> go.Figure:
    """Operations a second against operations per byte, both logarithmic: the roof, its corner, and where each setting's decode step stands under it."""
    figure, roof, corner = _empty(scheme, HEIGHT), peak * gpus / 1e12, peak / bandwidth
    steps = [row.step.intensity for row in rows]
    low, high = min([*steps, corner]) / 3, max([*steps, corner]) * 4
    rise = bandwidth * gpus / 1e12
    ink = {"color": colour("ink", scheme), "width": 1.5}
    figure.add_trace(go.Scatter(x=[low, corner, high], y=[low * rise, roof, roof], mode="lines", line=ink, hoverinfo="skip", showlegend=False))
    for row in rows:
        hover = f"{escape(row.method.title)}: {row.step.intensity:.3g} operations a byte, at most {1 / row.step.seconds:,.0f} tokens a second a user"
        _trace(figure, row, row.step.intensity, min(roof, row.step.intensity * rise), scheme, hover)
    middle, slope = (log10(max(steps)) + log10(corner)) / 2, f"bytes bound, {bandwidth * gpus / 1e9:,.0f} GB/s"
    label(figure, slope, middle, middle + log10(rise), scheme, token="small", xanchor="left", yanchor="top", xshift=8)
    label(figure, f"operations bound, {roof:,.0f} TFLOP/s", log10(high), log10(roof), scheme, token="small", xanchor="right", yanchor="bottom", yshift=2)
    figure.update_xaxes(title_text="operations per byte read", **_axis(low, high))
    figure.update_yaxes(title_text="TFLOP/s at most", **_axis(min(low * rise, roof), roof * 3))
    return figure


def _axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with a tick at every power of ten."""
    ticks = [10.0**power for power in range(-6, 9) if low <= 10.0**power <= high]
    return {"type": "log", "range": [log10(low), log10(high)], "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}


def roofline_alt(rows: Sequence[Row]) -> str:
    """The figure in a sentence."""
    first, bounds = rows[0], {row.step.bound for row in rows}
    kind = f"Every step is bound by {bounds.pop()}" if len(bounds) == 1 else "Some steps are bound by memory, some by compute"
    best = min(rows, key=lambda row: row.step.seconds)
    better = f"; {best.method.title} would allow {1 / best.step.seconds:,.0f}" if best is not first else ""
    most = f"With the full cache no engine can write more than {1 / first.step.seconds:,.0f} tokens a second for each user"
    return f"{kind}. {most}{better}. A bound, not a forecast."


def errors(found: Sequence[Error], scheme: str) -> go.Figure:
    """Predicted minus measured bytes, in per cent of the measured ones: a mark for every run (filled) and every sweep point (hollow), a line per method.

    Of more than `FARTHEST` methods those that are off the most; all are in the table.
    """
    names = [one.title for one in sorted(found, key=lambda one: -abs(one.error))]
    names = list(dict.fromkeys(names))[:FARTHEST][::-1]
    found = [one for one in found if one.title in names]
    figure = _empty(scheme, 80 + 24 * len(names))
    most = max([0.1, *(abs(100 * one.error) for one in found)]) * 1.15
    figure.add_vline(x=0, line={"color": colour("reference", scheme), "width": 1.5, "dash": "6px,4px"})
    for kind in ("sweep", "run"):
        mine = [one for one in found if one.where.startswith(kind)]
        marker = {"size": 8, "color": colour("held", scheme) if kind == "run" else "rgba(0,0,0,0)", "line": {"color": colour("held", scheme), "width": 1.5}}
        hover = [f"{escape(one.title)}, {escape(one.where)}: {one.predicted:,.0f} predicted, {one.measured:,.0f} measured" for one in mine]
        figure.add_trace(go.Scatter(x=[100 * one.error for one in mine], y=[one.title for one in mine], mode="markers", marker=marker, text=hover,
                                    hovertemplate="%{text}<extra></extra>", name=kind))  # fmt: skip
    figure.update_xaxes(title_text="predicted above measured, %", range=[-most, most])
    figure.update_yaxes(categoryorder="array", categoryarray=names, tickfont={"color": colour("text", scheme), "size": 12.5})
    return figure


def errors_sentence(found: Sequence[Error]) -> str:
    """How well the formulas were kept, from the stored figures."""
    exact, worst = sum(one.predicted == one.measured for one in found), max(found, key=lambda one: abs(one.error))
    runs = sum(one.where == "run" for one in found)
    if exact == len(found):
        return f"All {len(found):,} figures were predicted to the byte: {runs} stored runs and {len(found) - runs} sweep points."
    methods = len({one.title for one in found})
    drawn = f" Of {methods} methods the {FARTHEST} that are off the most are drawn." if methods > FARTHEST else ""
    return (
        f"{exact:,} of {len(found):,} figures were predicted to the byte ({runs} stored runs, {len(found) - runs} sweep points); "
        f"the farthest is {_off(worst)} % off, {worst.title}.{drawn}"
    )


def _off(one: Error) -> str:
    return f"{abs(100 * one.error):.0f}" if abs(one.error) >= 0.1 else f"{abs(100 * one.error):.2g}"


def bills_table(rows: Sequence[Row], demand: Demand) -> pd.DataFrame:
    """The bars and the roofline as a table; bytes as whole numbers."""
    made = [
        {"Setting": row.method.title, "Detail": "every entry" if row.method.axis == "reference" else words(row.method),
         "Weights, bytes": round(row.bill.weights), "Caches, bytes": round(row.bill.caches), "One user, bytes": round(row.bill.each),
         "Before the cut, bytes": round(row.bill.before),
         "Workspace, bytes": round(row.bill.workspace), "Total, bytes": round(row.bill.total), "Usable, bytes": round(row.bill.usable),
         "Most users": row.bill.users, "Longest context": row.bill.context, "Read a step, bytes": round(row.step.weights + row.step.caches),
         "GFLOP a step": round(row.step.flops / 1e9, 1), "Bound by": row.step.bound, "Least ms a step": round(1e3 * row.step.seconds, 3)}
        for row in rows
    ]  # fmt: skip
    return pd.DataFrame(made).assign(Context=demand.context, Users=demand.users)


def lines_table(lines: Sequence[Line], demand: Demand) -> pd.DataFrame:
    """The list as a table; where nothing was measured the columns of the evidence are empty."""
    made = []
    for line in lines:
        one = line.evidence
        said = {"Sweep": one.sweep, "Of model": one.model, "Task": one.task, "Tokens": one.length, "Samples": one.samples, "Share of full": round(one.share, 4),
                "Low": round(one.low, 4), "High": round(one.high, 4), "Run": one.run} if one else {}  # fmt: skip
        asks = {badge.asks.capitalize(): badge.answer for badge in line.badges}
        made.append({"Setting": line.method.title, "Detail": words(line.method), "Verdict": line.verdict, "Caches here": size(line.each * demand.users),
                     "Most users": line.users, "Fits": line.fits, **said, **asks})  # fmt: skip
    return pd.DataFrame(made)


def errors_table(found: Sequence[Error]) -> pd.DataFrame:
    """Every predicted and measured figure."""
    made = [
        {"Where": one.where, "Method": one.title, "Predicted, bytes": one.predicted, "Measured, bytes": one.measured,
         "Off, %": round(100 * one.error, 4), "Run": one.run}
        for one in found
    ]  # fmt: skip
    return pd.DataFrame(made)
