"""Export of a page: tables as CSV, everything as JSON or as one HTML page, and the runs as a bundle. Nothing is made before somebody asks for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from kvlab.runs import RunStore
from kvlab.ui import provenance, report
from kvlab.ui.report import Figure, Table

CHART: dict[str, Any] = {**provenance.saving("figure"), "displayModeBar": "hover"}
"""Plotly's settings for a figure of a page: one button that saves PNG, made in the browser; no logo, and none that sends data away."""


def export_row(
    key: str, title: str, *, tables: Mapping[str, Table] = {}, figures: Mapping[str, Figure] = {}, runs: Sequence[str] = (),
    settings: Mapping[str, Any] = {}, command: str = "",
) -> None:  # fmt: skip
    """A popover "Export" with a button for every file.

    key: of the page, for the widgets. title: of the page's finding, any text. tables, figures: name on the page -> it, or a function that makes it,
    called on the click. runs: ids of the stored runs behind them. settings: what was chosen, with `seed` where there is one. command: what makes
    the figures again; without it the commands of the runs. Names of tables are the page's own words, never a stranger's: they are labels.
    """
    store = RunStore()
    held = functools.cache(lambda: [run for run in dict.fromkeys(runs) if store.holds(run)])
    said = lambda: report.about(title, settings, command, [store.load(run).manifest for run in held()])  # noqa: E731
    made = lambda of: {name: part() if callable(part) else part for name, part in of.items()}  # noqa: E731
    name = provenance.safe(title)
    with st.popover("Export", key=f"export-{key}"):
        for number, (words, table) in enumerate(tables.items()):
            make = lambda table=table: report.csv_text(table() if callable(table) else table, said())  # noqa: E731
            _button(f"{words}, CSV", make, f"{name}-{provenance.safe(words)[6:]}.csv", "text/csv", f"{key}-csv-{number}")
        _button("All as JSON", lambda: report.json_text(said(), made(tables)), f"{name}.json", "application/json", f"{key}-json")
        _button("Report, one HTML page", lambda: report.html_text(said(), made(tables), made(figures)), f"{name}.html", "text/html", f"{key}-html")
        if any(map(store.holds, runs)):
            words = "The run, bundle to import" if len(set(runs)) == 1 else "The runs, bundle to import"
            _button(words, lambda: report.bundle_bytes(store, held()), f"{name}-runs.zip", "application/zip", f"{key}-bundle")
        if figures:
            st.html('<p class="kv-small">The HTML page saves each figure as PNG or SVG.</p>')


def _button(words: str, make: Any, name: str, mime: str, key: str) -> None:
    st.download_button(words, make, name, mime, key=f"get-{key}", on_click="ignore", width="stretch")
