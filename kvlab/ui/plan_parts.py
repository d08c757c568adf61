"""What the Plan page reads from disk, once per change, and what it gives away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd
import streamlit as st

from kvlab.planner import evidence
from kvlab.planner.answer import Line, Row
from kvlab.planner.evidence import Error, Evidence, Setting
from kvlab.planner.shapes import Shape
from kvlab.runs import RunStore
from kvlab.ui import plan_figures, sweeps
from kvlab.ui.export import export_row
from kvlab.ui.plan_asked import Asked


def gathered() -> tuple[dict[Setting, list[Evidence]], list[Error]]:
    """The evidence of all stored sweeps, and predicted against measured bytes of their points and of all stored runs.

    A sweep that cannot be read is left out here; Trade-offs says why.
    """
    found = []
    for name in sweeps.folders():
        try:
            found.append(sweeps.stored(name))
        except ValueError:
            continue
    said, points = _gathered(tuple(swept.stamp for swept in found), [(swept.name, swept.points) for swept in found])
    return said, evidence.run_errors(RunStore().list()) + points


@st.cache_resource(max_entries=4, show_spinner=False)
def _gathered(stamps: tuple[str, ...], _points: list[tuple[str, pd.DataFrame]]) -> tuple[dict[Setting, list[Evidence]], list[Error]]:
    return evidence.gathered(_points), evidence.sweep_errors(_points)


def export(asked: Asked, shape: Shape | None, rows: Sequence[Row], lines: Sequence[Line], errors: Sequence[Error]) -> None:
    """The files of this plan: its tables, its figures, and what was asked."""
    if not (shape and rows):
        return
    demand = asked.demand(shape)
    runs = [line.evidence.run for line in lines if line.evidence and line.evidence.run and line.verdict != "below"]
    export_row(
        "plan", "Plan", runs=runs, settings={**asdict(asked), "model": shape.title, "parameters": shape.weights.total},
        tables={"Memory and limits": lambda: plan_figures.bills_table(rows, demand), "Settings and evidence": lambda: plan_figures.lines_table(lines, demand),
                "Predicted and measured": lambda: plan_figures.errors_table(errors)},
        figures={"One decode step under its roof": lambda: plan_figures.roofline(rows, asked.bw * 1e9, asked.peak * 1e12, asked.gpus, "light")},
    )  # fmt: skip
