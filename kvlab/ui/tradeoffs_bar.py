"""The top of Trade-offs: its title with what can be done there, and the choice of what to look at."""

from __future__ import annotations

from typing import Any

import streamlit as st

from kvlab.plots.points import AXES
from kvlab.ui import builder, intake, sweeps
from kvlab.ui import choice as choices
from kvlab.ui.choice import Choice
from kvlab.ui.head import title_block
from kvlab.ui.sweeps import Swept

KEEP: dict[str, Any] = {"persist_state": "session"}
X_WORDS = {"resident": "Bytes held", "share": "Share of full", "peak": "Peak", "read_per_step": "Read per step"}


def head(title: str, sentence: tuple, setting: str, files: Any = None) -> None:
    """The title and its sentence; bring points in, take them away (`files` draws that), measure new ones."""
    with st.container(key="head", horizontal=True, vertical_alignment="bottom"):
        title_block(title, sentence, setting)
        with st.popover("Import points"):
            intake.bring()
        if files:
            files()
        if st.button("New sweep", key="trade-new", type="primary"):
            st.session_state["trade-build"] = not st.session_state.get("trade-build")
    with st.container(key="sweep-now"):  # a place of its own, so that nothing below it moves up and is taken for something else
        builder.panel()
    with st.container(key="sweep-new"):
        if builder.wanted():
            with st.container(border=True, key="card-builder"):
                builder.form()


def bar(found: dict[str, Any], swept: Swept, choice: Choice) -> None:
    """What to look at. Words of tables go into select boxes only, which show them as they are."""
    points = swept.points
    here = {"model": choice.model, "task": choice.task, "length": choice.length}
    with st.container(key="trade-bar", horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Sweep", list(found), key="trade-sweep", width=230, **KEEP)
        if len(models := choices.options(points, "model")) > 1:
            st.selectbox("Model", models, key="trade-model", width=200, **KEEP)
        st.selectbox("Task", choices.options(points, "task", model=choice.model), key="trade-task", width=230, **KEEP)
        lengths = choices.options(points, "length", model=choice.model, task=choice.task)
        st.selectbox("Tokens", lengths, key="trade-length", format_func=lambda n: f"{n:,}", width=110, **KEEP)
        if len(modes := choices.options(points, "protocol", **here)) > 1:
            st.selectbox("Mode", modes, key="trade-mode", format_func=sweeps.mode_words, width=260, **KEEP)
        titles = choices.panel(swept, choice).drop_duplicates("method").set_index("method")["title"]
        hint = "All of them" if len(titles) <= choices.MOST + 1 else f"The {choices.MOST} that lead, of {len(titles)}"
        st.multiselect("Methods", list(titles.index), key="trade-methods", format_func=lambda m: titles.get(m, m), placeholder=hint, **KEEP)


def axis() -> None:
    """Which bytes lie along the figure."""
    st.segmented_control("Horizontal axis", list(AXES), key="trade-x", format_func=X_WORDS.get, label_visibility="collapsed", required=True, **KEEP)
