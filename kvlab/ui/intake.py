"""How points come to the Trade-offs page: a file that a visitor brings."""

from __future__ import annotations

import hashlib

import streamlit as st

from kvlab.ui import imported
from kvlab.ui.form import problem


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

