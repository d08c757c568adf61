"""Needle maps: what is found, by length of the haystack and depth of the needle, a panel per method on one scale."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from kvlab.plots.looks import blank, label, percent
from kvlab.ui.palette import colour, ramp

COLUMNS = ("method", "title", "budget", "length", "depth", "score")
WIDTH, ROW, TOP, GAP = 1100, 204, 100, 48
FITS = (26, 17)
"""Pixels a cell needs, across and down, to hold its number."""


def needles(samples: pd.DataFrame, scheme: str = "light", width: int = WIDTH) -> go.Figure:
    """Mean score by length and depth, a panel per method and budget, the full cache first; darker is more, and the number stands in its cell.

    `samples` has a row per sample: method, title, budget, length (tokens), depth (0 to 1, the beginning is 0), score (0 to 1). Cells that were
    not measured stay empty. Raises ValueError for tables without these columns.
    """
    samples = _checked(samples)
    panels = _panels(samples)
    lengths, depths = sorted(samples["length"].unique()), sorted(samples["depth"].unique())
    across = min(len(panels), 3 if len(panels) in (3, 5, 6, 9) else 4)
    down = math.ceil(len(panels) / across)
    figure = blank(scheme, _finding(samples), _setting(samples), TOP + down * (ROW + GAP) + 40, needles_alt(samples), TOP)
    inner, high = width - 64 - 96, figure.layout.height - TOP - 56
    cell = (inner / across * 0.9 / len(lengths), ROW / len(depths))
    plain = {"type": "category", "showgrid": False, "fixedrange": True, "ticks": ""}
    for i, (name, mean, cells) in enumerate(panels):
        column, row = i % across, i // across
        axis = "" if i == 0 else str(i + 1)
        left, top = column / across, 1 - (row * (ROW + GAP) + 24) / high
        figure.update_layout({
            f"xaxis{axis}": {"domain": [left, left + 0.9 / across], "anchor": f"y{axis}", **plain, "categoryarray": [f"{n:,}" for n in lengths],
                             "showticklabels": i + across >= len(panels)},
            f"yaxis{axis}": {"domain": [top - ROW / high, top], "anchor": f"x{axis}", **plain, "categoryarray": [percent(d) for d in depths],
                             "showticklabels": column == 0, "autorange": "reversed"},
        })  # fmt: skip
        figure.add_heatmap(**_cells(cells, lengths, depths, cell), xaxis=f"x{axis}", yaxis=f"y{axis}", coloraxis="coloraxis", name=name)
        _gaps(figure, cells, lengths, depths, axis, scheme)
        said = {"xref": f"x{axis} domain", "yref": f"y{axis} domain", "yanchor": "bottom", "yshift": 4, "scheme": scheme}
        label(figure, name, 0, 1, token="ink", weight=600, size=13, xanchor="left", **said)
        label(figure, percent(mean), 1, 1, token="text", size=13, xanchor="right", **said)
    _frame(figure, scheme)
    return figure


def _checked(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples that have a depth and a score, or ValueError."""
    if missing := [name for name in COLUMNS if name not in samples]:
        raise ValueError(f"The table of samples lacks {', '.join(missing)}.")
    found = samples[samples["score"].notna() & samples["depth"].notna()]
    if found.empty:
        raise ValueError("There are no samples with a depth to draw. Run a sweep of a needle task.")
    return found


def _panels(samples: pd.DataFrame) -> list[tuple[str, float, pd.DataFrame]]:
    """(name, mean score, cells) of each method and budget, the full cache first."""
    found = []
    for (method, title, budget), rows in samples.groupby(["method", "title", "budget"], sort=False, dropna=False):
        name = title if method == "full" else title + _kept(budget)
        cells = rows.groupby(["depth", "length"])["score"].agg(["mean", "size"])
        found.append((name, float(rows["score"].mean()), cells, method != "full"))
    return [entry[:3] for entry in sorted(found, key=lambda entry: entry[3])]


def _kept(budget: object) -> str:
    """A budget behind a name: shares as percent, tokens and bytes as they are written, nothing where there is none."""
    if budget is None or budget != budget or str(budget) in ("1", "1.0", ""):
        return ""
    text = str(budget)
    return f", {percent(float(text))} kept" if text.replace(".", "", 1).isdigit() else f", {text} kept"


def _cells(cells: pd.DataFrame, lengths: list, depths: list, cell: tuple[float, float]) -> dict:
    """z, text and hover of one panel's cells."""
    mean = cells["mean"].unstack().reindex(index=depths, columns=lengths)
    count = cells["size"].unstack().reindex(index=depths, columns=lengths)
    fits = cell[0] >= FITS[0] and cell[1] >= FITS[1]
    hover = [[f"{length:,} tokens, needle at {percent(depth)}<br>" + ("not measured" if pd.isna(mean.loc[depth, length]) else
              f"score {percent(mean.loc[depth, length])}, {count.loc[depth, length]:.0f} prompts") for length in lengths] for depth in depths]  # fmt: skip
    return {
        "x": [f"{n:,}" for n in lengths], "y": [percent(d) for d in depths], "z": mean.to_numpy(), "hovertext": hover, "hoverinfo": "text",
        "text": mean.map(lambda m: "" if pd.isna(m) else f"{100 * m:.0f}").to_numpy(), "texttemplate": "%{text}" if fits else None, "textfont": {"size": 12},
        "xgap": 1.5, "ygap": 1.5, "hoverongaps": False,
    }  # fmt: skip


def _gaps(figure: go.Figure, cells: pd.DataFrame, lengths: list, depths: list, axis: str, scheme: str) -> None:
    """A small cross in cells that were not measured: on a dark panel an empty cell looks like a zero."""
    gaps = [(length, depth) for depth in depths for length in lengths if (depth, length) not in cells.index]
    if gaps:
        figure.add_scatter(x=[f"{length:,}" for length, _ in gaps], y=[percent(depth) for _, depth in gaps], mode="markers", meta="gap", hoverinfo="text",
                           text="not measured", marker={"symbol": "x-thin", "size": 6, "line": {"color": colour("small", scheme), "width": 1}},
                           xaxis=f"x{axis}", yaxis=f"y{axis}")  # fmt: skip


def _frame(figure: go.Figure, scheme: str) -> None:
    steps = ramp(scheme)
    scale = [[i / (len(steps) - 1), step] for i, step in enumerate(steps)]
    small = {"size": 12, "color": colour("small", scheme)}
    bar = {"title": {"text": "score", "font": small}, "tickvals": [0, 0.5, 1], "ticktext": ["0", "50", "100 %"], "tickfont": small, "outlinewidth": 0,
           "thickness": 8, "len": 220, "lenmode": "pixels", "x": 1.0, "xpad": 6, "y": 1, "yanchor": "top"}  # fmt: skip
    figure.update_layout(coloraxis={"cmin": 0, "cmax": 1, "colorscale": scale, "colorbar": bar}, margin_r=96, margin_l=64)
    label(figure, "down: depth of the needle · across: tokens of the prompt", 1, 1, scheme, token="small", xref="paper", yref="paper", xanchor="right",
          yanchor="bottom", yshift=14)  # fmt: skip


def _finding(samples: pd.DataFrame) -> str:
    """Said of the method that loses most and of the full cache, by their means."""
    means = samples.groupby(["method", "title"], sort=False)["score"].mean()
    full = [value for (method, _), value in means.items() if method == "full"]
    others = means[[method != "full" for method, _ in means.index]]
    if not full or others.empty:
        return "Where the needle is found"
    worst = others.idxmin()
    return f"The full cache finds {percent(full[0])} of the needles, {worst[1]} {percent(others.min())}"


def _setting(samples: pd.DataFrame) -> str:
    counts = samples.groupby(["method", "budget", "depth", "length"], dropna=False).size()
    many = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    return f"mean score in percent · {many} prompt{'' if counts.max() == 1 else 's'} in each cell" + (": one prompt is not a rate" if counts.max() == 1 else "")


def needles_alt(samples: pd.DataFrame) -> str:
    """One sentence for a reader who cannot see the maps."""
    found = ", ".join(f"{name} {percent(mean)}" for name, mean, _ in _panels(_checked(samples)))
    return f"Needles found by length and depth: {found}."


def needles_table(samples: pd.DataFrame) -> pd.DataFrame:
    """The table twin: mean score and prompts per method, budget, length and depth."""
    found = _checked(samples).groupby(["title", "budget", "length", "depth"], sort=False, dropna=False)["score"].agg(Score="mean", Prompts="size").reset_index()
    return found.rename(columns={"title": "Method", "budget": "Budget", "length": "Tokens", "depth": "Depth"})
