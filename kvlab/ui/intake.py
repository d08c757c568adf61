"""How points come to the Trade-offs page: a file that a visitor brings, and the command of a sweep."""

from __future__ import annotations

import hashlib

import streamlit as st

from kvlab.ui import imported
from kvlab.ui.form import problem

COMMAND = (
    "python -m kvlab sweep --methods full,streamingllm,snapkv,keydiff,kivi,snapkv+kivi --budgets 0.5,0.25,0.125 "
    "--tasks niah,recall --lengths 256 --samples 20"
)


def bring() -> None:
    """Import of a table of points."""
    state = st.session_state
    st.html('<p class="kv-small">A points.csv of a sweep, or a table with its columns. It stays in this session, marked as imported.</p>')
    file = st.file_uploader("Points, CSV", type=["csv"], key="trade-file", max_upload_size=5)
    if file is None:
        return
    data = file.getvalue()
    if state.get("trade_file") != (key := hashlib.sha256(data).hexdigest() + file.name):
        state["trade_file"], state["trade_problem"] = key, ""
        try:
            state.setdefault("trade_imports", {})[file.name] = imported.read_import(data, file.name)
        except ValueError as error:
            state["trade_problem"] = str(error)
        else:
            state["trade-sweep"] = f"imported: {file.name}"
            st.rerun()
    if state.get("trade_problem"):
        problem(state["trade_problem"])


def new_sweep() -> None:
    st.html('<p class="kv-small">A sweep runs from the command line, goes on where it stopped, and appears here when it is written.</p>')
    st.code(COMMAND, language="bash", wrap_lines=True)
