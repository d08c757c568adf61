"""The head profile as a picture and as a table: pure functions of the scores that `kvlab.profile` made."""

from __future__ import annotations

from html import escape
from typing import Any

from plotly.graph_objects import Figure, Heatmap
from plotly.subplots import make_subplots
from torch import Tensor

from kvlab.profile import SCORES
from kvlab.ui.palette import colour, plotly_template, ramp


def figure(table: dict[str, Tensor], theme: str = "light") -> Figure:
    """One grid of layers by query heads for each score, little to much; every grid has a scale of its own."""
    fig = make_subplots(rows=2, cols=2, subplot_titles=[SCORES[name].partition(":")[0] for name in SCORES], horizontal_spacing=0.16, vertical_spacing=0.2)
    steps, layers = ramp(theme), len(table["retrieval"])
    for i, name in enumerate(SCORES):
        row, col = i // 2 + 1, i % 2 + 1
        fig.add_trace(_grid(name, table[name], steps, i), row=row, col=col)
        fig.update_xaxes(title="query head", showgrid=False, row=row, col=col, dtick=_tick(table[name].shape[1]))
        fig.update_yaxes(title="layer", showgrid=False, row=row, col=col, dtick=_tick(layers), range=[-0.5, layers - 0.5])
    fig.update_annotations(font={"size": 13, "color": colour("ink", theme)})
    fig.update_layout(template=plotly_template(theme), height=560, margin={"l": 56, "r": 24, "t": 32, "b": 44}, meta={"alt": alt(table)})
    return fig


def _grid(name: str, scores: Tensor, steps: tuple[str, ...], place: int) -> Heatmap:
    bar = {"thickness": 10, "len": 0.38, "x": (0.43, 1.01)[place % 2], "y": (0.8, 0.2)[place // 2], "outlinewidth": 0, "tickformat": ".2g", "nticks": 4}
    return Heatmap(
        z=scores.tolist(), zmin=0, zmax=max(float(scores.max()), 1e-9), xgap=1, ygap=1, colorbar=bar,
        colorscale=[[i / (len(steps) - 1), step] for i, step in enumerate(steps)],
        hovertemplate=f"layer %{{y}}, query head %{{x}}<br>{name} %{{z:.3f}}<extra></extra>",
    )  # fmt: skip


def page(table: dict[str, Tensor], theme: str = "light") -> str:
    """The picture as an HTML page that needs no network."""
    picture = figure(table, theme).to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False})
    ground = f"margin:24px;background:{colour('panel', theme)};color:{colour('text', theme)};font-family:sans-serif"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Heads</title><body style="{ground}">'
        f'<figure role="img" aria-label="{escape(alt(table))}">{picture}</figure><p>{escape(alt(table))}</p></body></html>'
    )


def _tick(count: int) -> int:
    return max(1, count // 8)


def alt(table: dict[str, Tensor]) -> str:
    """What the picture shows, for those who cannot see it: the strongest heads of every score."""
    layers, heads = table["retrieval"].shape
    said = [f"{SCORES[name].partition(':')[0]} is strongest in {_strongest(table[name])}." for name in SCORES if float(table[name].max()) > 0]
    silent = [SCORES[name].partition(":")[0] for name in SCORES if float(table[name].max()) == 0]
    said += [f"{name} is 0 in every head." for name in silent]
    return f"Four grids of {layers} layers by {heads} query heads. {' '.join(said)}"


def _strongest(scores: Tensor, count: int = 3) -> str:
    best = scores.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return ", ".join(f"layer {i // scores.shape[1]} head {i % scores.shape[1]} ({float(scores.flatten()[i]):.2f})" for i in best)


def twin(table: dict[str, Tensor], kv_heads: int) -> list[dict[str, Any]]:
    """The picture as a table: one row for each head, every score to four digits."""
    layers, heads = table["retrieval"].shape
    return [
        {"layer": i, "query head": j, "KV head": j * kv_heads // heads} | {name: round(float(table[name][i, j]), 4) for name in SCORES}
        for i in range(layers)
        for j in range(heads)
    ]


def lines(table: dict[str, Tensor]) -> list[str]:
    """The profile in a few lines for a terminal: how many prompts count, and the strongest heads."""
    answered, asked = table["answered"].tolist(), table["asked"].tolist()
    said = [f"answered: {answered[0]} of {asked[0]} needles, {answered[1]} of {asked[1]} chains"]
    return said + [f"{name:10} {_strongest(table[name], 5)}" for name in SCORES]
