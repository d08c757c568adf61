"""Distance from the full cache step by step: a lane per method, its KL as a hill, a strip of disagreement under it, ◆ at the first difference."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from kvlab.plots.looks import blank, key, label, look, percent, rgba
from kvlab.plots.scales import linear_ticks
from kvlab.ui.palette import colour

COLUMNS = ("method", "title", "axis", "step", "kl", "top1")
LANE, TOP, STRIP = 96, 112, 0.2
"""Pixels of a lane, above the first, and the share of a lane that the strip takes."""


def steps(curves: pd.DataFrame, scheme: str = "light") -> go.Figure:
    """KL to the full cache's next-token distribution (nats) and disagreement per step, a lane per method on one scale.

    `curves` has a row per method, sample and step: method, title, axis, step (0 is the first answer token), kl, top1 (1 where the top token is the
    full cache's), and `sample` where there is more than one prompt; KL is their mean, the strip's height the share that differs, and every
    prompt's first difference has its ◆. Raises ValueError when columns are missing.
    """
    table = _checked(curves)
    lanes = [rows for _, rows in table.groupby("method", sort=False)]
    many = table["sample"].nunique()
    said = "one prompt: a story, not a rate" if many == 1 else f"mean of {many} prompts"
    figure = blank(scheme, _finding(table), said, TOP + LANE * len(lanes) + 56, steps_alt(table), TOP)
    # the highest lane sets the scale of all: a flat lane is then truly flat
    high = max(rows.groupby("step")["kl"].mean().max() for rows in lanes) * 1.1 or 1.0
    last = int(table["step"].max())
    for i, rows in enumerate(lanes):
        _lane(figure, rows, i, len(lanes), high, last, scheme)
    figure.update_layout(margin_l=204, margin_r=28)
    key(figure, [("◆", colour("lost", scheme), "first difference"), ("▨", colour("lost", scheme), "another token than the full cache")], scheme, 1, 10)
    bold = {"scheme": scheme, "token": "ink", "weight": 600, "size": 13, "xref": "paper", "yref": "paper"}
    label(figure, "KL from the full cache, nats", 0, 1, xanchor="left", yanchor="bottom", yshift=10, **bold)
    label(figure, "Step of the answer →", 1, 0, xanchor="right", yanchor="top", yshift=-28, **bold)
    return figure


def first_differences(curves: pd.DataFrame) -> pd.Series:
    """The first step at which the top token is not the full cache's, per method and sample; missing where they never differ."""
    table = _checked(curves)
    return table[table["top1"] < 1].groupby(["method", "sample"], sort=False)["step"].min()


def _checked(curves: pd.DataFrame) -> pd.DataFrame:
    if missing := [name for name in COLUMNS if name not in curves]:
        raise ValueError(f"The table of steps lacks {', '.join(missing)}.")
    if curves.empty:
        raise ValueError("There are no steps to draw.")
    return curves if "sample" in curves else curves.assign(sample=0)


def _lane(figure: go.Figure, rows: pd.DataFrame, index: int, count: int, high: float, last: int, scheme: str) -> None:
    name = "" if index == 0 else str(index + 1)
    mark = look(rows["method"].iloc[0], rows["axis"].iloc[0], scheme)
    mean = rows.groupby("step")[["kl", "top1"]].mean()
    floor = -high * STRIP
    top = 1 - index / count
    ticks, lowest = [t for t in linear_ticks(0, max(last, 1), 12) if t == int(t)], index == count - 1
    figure.update_layout({
        f"xaxis{name}": {"domain": [0, 1], "anchor": f"y{name}", "range": [-0.7, last + 0.7], "showgrid": False, "fixedrange": True,
                         "showticklabels": lowest, "showline": lowest, "tickvals": ticks},
        f"yaxis{name}": {"domain": [top - 0.86 / count, top], "anchor": f"x{name}", "range": [floor * 1.4, high], "fixedrange": True,
                         "tickvals": linear_ticks(0, high, 2)},
    })  # fmt: skip
    where = {"xaxis": f"x{name}", "yaxis": f"y{name}"}
    hover = [f"step {s}: KL {row['kl']:.3g} nats, {percent(1 - row['top1'])} of the prompts differ" for s, row in mean.iterrows()]
    figure.add_scatter(x=mean.index, y=mean["kl"], mode="lines", fill="tozeroy", fillcolor=rgba(mark.fill, 0.16), name=rows["title"].iloc[0], meta="kl",
                       line={"color": mark.fill, "width": 1.5, "shape": "hvh"}, text=hover, hoverinfo="text", **where)  # fmt: skip
    differ = mean[mean["top1"] < 1]
    figure.add_bar(x=differ.index, y=(1 - differ["top1"]) * floor, base=floor * 0.25, width=0.8, hoverinfo="skip", meta="differs", **where,
                   marker={"color": colour("lost-soft", scheme), "line": {"color": colour("lost", scheme), "width": 1},
                           "pattern": {"shape": "/", "fgcolor": colour("lost", scheme), "size": 4, "solidity": 0.35}})  # fmt: skip
    firsts = first_differences(rows)
    said = {"xref": "paper", "yref": f"y{name}", "scheme": scheme, "xanchor": "right", "xshift": -44}
    label(figure, rows["title"].iloc[0], 0, high * 0.72, hue=mark.fill, weight=600, size=13, yanchor="middle", **said)
    label(figure, _words(firsts, rows["sample"].nunique()), 0, high * 0.40, token="small", yanchor="middle", **said)
    _diamonds(figure, firsts, mean, high, where, scheme)


def _diamonds(figure: go.Figure, firsts: pd.Series, mean: pd.DataFrame, high: float, where: dict[str, str], scheme: str) -> None:
    at = firsts.value_counts()
    if len(at):
        said = [f"first difference of {n} prompt{'s' if n > 1 else ''}, step {step}" for step, n in at.items()]
        edge = {"color": colour("panel", scheme), "width": 1.5}
        figure.add_scatter(x=at.index, y=mean.loc[at.index, "kl"], mode="markers", meta="first", text=said, hoverinfo="text", **where,
                           marker={"symbol": "diamond", "size": 11, "color": colour("lost", scheme), "line": edge})  # fmt: skip


def _words(firsts: pd.Series, many: int) -> str:
    if firsts.empty:
        return "no difference"
    if many == 1:
        return f"first difference, step {firsts.iloc[0]}"
    return f"{len(firsts)} of {many} differ, first at step {firsts.min()}"


def _finding(table: pd.DataFrame) -> str:
    """Who keeps the full cache's words longest, of one prompt; of many, the share of prompts that never differ."""
    firsts = first_differences(table)
    methods = table[["method", "title"]].drop_duplicates()
    never = [title for method, title in methods.itertuples(index=False) if method not in firsts.index.get_level_values(0)]
    if never:
        who = " and ".join(never[:2]) if len(never) <= 2 else f"{len(never)} of {len(methods)} methods"
        return f"{who} never differ{'' if len(never) > 1 else 's'} from the full cache here"
    last = firsts.groupby(level=0).min().sort_values().index[-1]
    step = firsts.loc[last].min()
    return f"{methods.set_index('method').loc[last, 'title']} keeps the full cache's tokens longest: {step} step{'' if step == 1 else 's'}"


def steps_alt(curves: pd.DataFrame) -> str:
    """One sentence for a reader who cannot see the lanes."""
    table = _checked(curves)
    said = [f"{rows['title'].iloc[0]} {_words(first_differences(rows), rows['sample'].nunique())}, mean KL {rows['kl'].mean():.2g} nats"
            for _, rows in table.groupby("method", sort=False)]  # fmt: skip
    return "Distance from the full cache per step: " + "; ".join(said) + "."


def steps_table(curves: pd.DataFrame) -> pd.DataFrame:
    """The table twin: mean KL and the share of prompts with the full cache's top token, per method and step."""
    found = _checked(curves).groupby(["title", "step"], sort=False)[["kl", "top1"]].mean().reset_index()
    return found.rename(columns={"title": "Method", "step": "Step", "kl": "KL, nats", "top1": "Same token"})
