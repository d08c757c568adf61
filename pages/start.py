"""Start: three doors, and the presets with their stored runs. No model is loaded here."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from kvlab.ui import start, start_view
from kvlab.ui.export import export_row
from kvlab.ui.framed import framed
from kvlab.ui.head import title_block
from kvlab.ui.service import service, visitor
from kvlab.ui.start_session import last_runs
from kvlab.ui.tradeoffs_view import twin

framed()

SETTING = "See what a KV-cache compression method keeps of your prompt, what it writes then, and what it really costs in bytes"


def tables(rows: pd.DataFrame, points: pd.DataFrame | None) -> None:
    """The pictures in words and numbers."""
    link = {"Run": st.column_config.LinkColumn(display_text="Open")}
    st.dataframe(rows, hide_index=True, alt="Every preset with the run that its map shows", column_config=link)
    if points is not None:
        twin(points.drop(columns="x"), "resident", "start", "Every point of the small figure of Trade-offs")


def page() -> None:
    st.session_state.pop("run_link", None)  # a preset that is opened from here fills the form anew, whatever became of it there
    said = start_view.shown()
    title, sentence, figures = start.opening(said["cards"])
    rows = pd.DataFrame(start.table(said["cards"]))
    with st.container(key="head", horizontal=True, vertical_alignment="bottom"):
        title_block(title, sentence, SETTING, figures=figures)
        shown = st.toggle("Show as table", key="start_table")
        export_row("start", title, tables={"Presets": rows}, runs=[one["run"] for one in said["cards"] if one["run"]], command="python -m kvlab presets")
    if shown:
        tables(rows, start_view.field_points())
    start_view.draw({**said, "session": last_runs(service().jobs.of(visitor()))})


page()
