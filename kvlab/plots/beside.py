"""The papers' claims beside what was measured here: two panels with scales of their own, never one."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from kvlab.claims import mark as mark_words
from kvlab.claims import title as title_of
from kvlab.plots.looks import blank, label, look, percent, rgba
from kvlab.plots.points import panel, single
from kvlab.plots.words import custom, hover
from kvlab.registry import registry
from kvlab.ui.palette import colour

TOP, ROW = 140, 26
NAME, TEXT, CLAIMED, MARK, RIGHT, SPAN, MEASURED = 0.0, 0.105, (0.355, 0.50), 0.575, 0.615, 0.79, (0.80, 1.0)
"""Columns as shares of the width: left the names, what is claimed, its scale, the confidence mark; right the names, the bytes, the scale."""
LONG = 52
"""Letters of a claim that fit before its scale; hover and table have all of them."""


def claims(claims: pd.DataFrame, points: pd.DataFrame, scheme: str = "light", most: int = 3) -> go.Figure:
    """Left what the papers say, right what was measured here, for the methods of `points`; at most `most` claims of each.

    `claims` is `kvlab.claims.load()`. A claim with a baseline stands at its share of that baseline, the paper's own; any other is a sentence. The
    measured points (one task, as for `quality`) stand at their share of the full cache's score, a row per method, the larger mark the more bytes.
    Nothing is averaged across the two.
    """
    said, seen = _said(claims, points, most), _seen(points)
    rows = max(len(said), seen["method"].nunique(), 1)
    height = TOP + ROW * rows + 60
    figure = blank(scheme, "What the papers say, and what was measured here", "different models, tasks and settings: read each side by itself",
                   height, claims_alt(claims, points), TOP)  # fmt: skip
    figure.update_layout(margin={"l": 28, "r": 36, "b": 60})
    figure.add_shape(type="rect", xref="paper", yref="paper", x0=-0.012, x1=MARK + 0.012, y0=-46 / (ROW * rows), y1=1 + 52 / (ROW * rows), line_width=0,
                     fillcolor=colour("sunken", scheme), layer="below")  # fmt: skip
    _axis(figure, "", CLAIMED, rows, _top(said["share"]), "score, % of its own baseline", scheme)
    _axis(figure, "2", MEASURED, rows, _top(seen["share"]), "score, % of the full cache's", scheme)
    here = f"Measured here: {points['task'].iloc[0]}, {points['model'].iloc[0]}"
    at = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    for x, words, more in ((NAME, "Claimed by the papers, not measured here", "a cross: a score at its share of the paper's own baseline"),
                           (RIGHT, here, "a mark per setting, the larger the more of the full cache's bytes")):  # fmt: skip
        label(figure, words, x, 1, scheme, token="ink", weight=600, size=14, yshift=26, **at)
        label(figure, more, x, 1, scheme, token="small", yshift=8, **at)
    _claimed(figure, said, scheme)
    _measured(figure, seen, points, scheme)
    return figure


def _said(claims: pd.DataFrame, points: pd.DataFrame, most: int) -> pd.DataFrame:
    """The claims of the methods in `points`, those with a baseline first."""
    names = list(dict.fromkeys(part for method in points["method"] for part in method.split("+")))
    found = claims[claims["system"].isin(names)].copy()
    found["share"] = (found["low"] / found["base"]).where(found["better"] == "higher", found["base"] / found["low"])
    found.loc[found["metric"] == "share of full performance", "share"] = found["low"] / 100
    order = {name: i for i, name in enumerate(names)}
    found = found.assign(order=found["system"].map(order), bare=found["share"].isna()).sort_values(["order", "bare"], kind="stable")
    return found.groupby("system", sort=False).head(most).reset_index(drop=True)


def _seen(points: pd.DataFrame) -> pd.DataFrame:
    """The measured points at their share of the full cache's score, most bytes first within a method."""
    table = panel(points, "resident")
    table = table[table["source"] == "measured"]
    full = table.loc[table["axis"] == "reference", "mean"]
    if full.empty or full.iloc[0] <= 0:
        raise ValueError("The points hold no full cache with a score above 0, so there is nothing to compare with.")
    higher = table["better"].iloc[0] == "higher"
    shares = {f"{name} share": table[name] / full.iloc[0] if higher else full.iloc[0] / table[name] for name in ("mean", "low", "high")}
    table = table.assign(**shares, share=shares["mean share"])
    table = table[table["axis"] != "reference"]
    order = {name: i for i, name in enumerate(dict.fromkeys(table["method"]))}
    return table.assign(order=table["method"].map(order)).sort_values(["order", "resident"], ascending=[True, False]).reset_index(drop=True)


def _top(shares: pd.Series) -> float:
    return max(1.08, float(shares.max()) * 1.05) if shares.notna().any() else 1.08


def _axis(figure: go.Figure, name: str, domain: tuple[float, float], rows: int, high: float, words: str, scheme: str) -> None:
    ticks = {"tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0", "", "50", "", "100 %"]}
    figure.update_layout({
        f"xaxis{name}": {"domain": domain, "range": [-0.05, high], "fixedrange": True, "anchor": f"y{name}", **ticks},
        f"yaxis{name}": {"range": [rows - 0.4, -0.6], "anchor": f"x{name}", "visible": False, "fixedrange": True},
    })  # fmt: skip
    figure.add_shape(type="line", xref=f"x{name}", yref="paper", x0=1, x1=1, y0=0, y1=1, layer="below",
                     line={"color": colour("reference", scheme), "width": 1.2, "dash": "6px,4px"})  # fmt: skip
    label(figure, words, 0, 0, scheme, token="small", xref=f"x{name} domain", yref="paper", xanchor="left", yanchor="top", yshift=-24)


def _claimed(figure: go.Figure, said: pd.DataFrame, scheme: str) -> None:
    for i, row in said.iterrows():
        known = registry().get(row["system"])
        hue = look(row["system"], known.axis if known else "", scheme).fill
        at = {"xref": "paper", "yref": "y", "yanchor": "middle"}
        if i == 0 or said["system"][i - 1] != row["system"]:
            label(figure, title_of(row["system"]), NAME, i, scheme, hue=hue, weight=600, size=13, xanchor="left", **at)
        label(figure, "[" + row["source"].strip("[]").split(" ")[0].strip(",:") + "]", MARK, i, scheme, token="small", xanchor="right", **at)
        if pd.isna(row["share"]):
            label(figure, _cut(_claim(row), LONG + 14), TEXT, i, scheme, token="text", xanchor="left", **at)
            continue
        label(figure, _cut(_claim(row), LONG), TEXT, i, scheme, token="text", xanchor="left", **at)
        said_of = [_claim(row), row["model"], f"{mark_words(row['source'])}, {row['paper']}, card {row['card']}"]
        figure.add_scatter(x=[row["share"]], y=[i], mode="markers", meta="claim", hoverinfo="text",
                           hovertext="<br>".join(escape(part) for part in said_of if part),
                           marker={"symbol": "x-thin", "size": 9, "line": {"color": hue, "width": 2}}, xaxis="x", yaxis="y")  # fmt: skip
        number = row["score"] + (f" of {row['baseline_score']}" if row["baseline_score"] else " %")
        left = row["share"] > 0.6
        label(figure, number, row["share"], i, scheme, token="text", xref="x", yref="y", xanchor="right" if left else "left", xshift=-8 if left else 8)


def _claim(row: pd.Series) -> str:
    """One claim in a few words; the score of one with a baseline is written at its mark."""
    if pd.isna(row["share"]):
        unit = {"": "", "x": "x", "%": " %"}.get(row["unit"], f" {row['unit']}")
        said = " ".join(part for part in (row["metric"] + ":", row["bound"], row["score"] + unit) if part)
        return said + (f" ({row['setting']})" if row["setting"] else "")
    return ", ".join(part for part in (row["setting"], row["task"] or row["metric"], row["model"]) if part)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip(" ,(") + "…"


def _measured(figure: go.Figure, seen: pd.DataFrame, points: pd.DataFrame, scheme: str) -> None:
    for i, (_, rows) in enumerate(seen.groupby("method", sort=False)):
        mark, alone = look(rows["method"].iloc[0], rows["axis"].iloc[0], scheme), single(rows)
        label(figure, rows["title"].iloc[0], RIGHT, i, scheme, hue=mark.fill, weight=600, size=13, xref="paper", yref="y2", xanchor="left")
        most, least = (percent(rows["resident"].iloc[end] / rows["full"].iloc[end]) for end in (0, -1))
        held = most if most == least else f"{most.removesuffix(' %')} to {least}"
        label(figure, held, SPAN, i, scheme, token="small", xref="paper", yref="y2", xanchor="right")
        ends = rows[["low share", "high share"]]
        up, down = ((ends.agg(side, axis=1) - rows["share"]).abs().where(~alone, 0) for side in ("max", "min"))
        bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": rgba(mark.edge, 0.4), "thickness": 1.2, "width": 0}
        figure.add_scatter(
            x=rows["share"], y=[i] * len(rows), mode="markers", meta="measured", customdata=custom(rows),
            hovertext=hover(rows, seen), hoverinfo="text", error_x=bars, xaxis="x2", yaxis="y2",
            marker={"symbol": mark.symbol, "size": [13 - 6 * j / max(1, len(rows) - 1) for j in range(len(rows))], "opacity": 1,
                    "color": [colour("panel", scheme) if one else mark.fill for one in alone],
                    "line": {"color": mark.edge, "width": [2 if mark.composed or one else 0 for one in alone]}},
        )  # fmt: skip


def claims_alt(claims: pd.DataFrame, points: pd.DataFrame) -> str:
    """One sentence for a reader who cannot see the two panels."""
    said, seen = _said(claims, points, 10**6), _seen(points)
    claimed = f"{len(said)} claims that papers make of {said['system'].nunique()} of these methods, not measured here"
    return f"Two separate panels: {claimed}, and {len(seen)} points measured here on {points['task'].iloc[0]}; models and tasks differ between the two."


def claims_table(claims: pd.DataFrame, points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table twins, as separate as the panels: (claimed, measured)."""
    said, seen = _said(claims, points, 10**6), _seen(points)
    claimed = said[["system", "model", "task", "setting", "metric", "bound", "score", "unit", "baseline", "baseline_score", "source", "paper", "card"]]
    here = seen[["title", "setting", "task", "mean", "low", "high", "n", "resident", "full", "run"]]
    return claimed.reset_index(drop=True), here.reset_index(drop=True)
