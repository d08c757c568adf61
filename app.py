"""kvlab's dashboard: the frame around all pages. Start it with: streamlit run app.py"""

from __future__ import annotations

from html import escape

import streamlit as st

from kvlab.ui import access, links, style
from kvlab.ui.service import first_model, service


def status() -> None:
    """Device, model and queue, in the free corner of the navigation."""
    s = service()
    running, waiting = s.jobs.counts()
    queue = f"Running, {waiting} {'lane waits' if waiting == 1 else 'lanes wait'}" if running else "Queue empty"
    model = st.session_state.get("run-model") or first_model()
    name = "kvlab tiny" if model == "bundled" else model.rstrip("/").rsplit("/", 1)[-1]
    dot = f'<i class="{"on" * bool(running)}"></i>'
    st.html(f'<div class="kv-strip"><span>{dot}{escape(s.device.upper())}</span><span>{escape(name)}</span><span>{queue}</span></div>')


st.session_state["framed"] = True
st.set_page_config(page_title="kvlab", layout="wide")
st.html(style.block() + style.BRAND)
PAGES = [
    st.Page("pages/start.py", title="Start", default=True),
    st.Page("pages/run.py", title="Run", url_path="run"),
    st.Page("pages/inside.py", title="Look inside", url_path="inside"),
    st.Page("pages/compare.py", title="Compare", url_path="compare"),
    st.Page("pages/tradeoffs.py", title="Trade-offs", url_path="tradeoffs"),
    st.Page("pages/plan.py", title="Plan", url_path="plan"),
    st.Page("pages/learn.py", title="Lessons", url_path="learn"),
    st.Page("pages/library.py", title="Library", url_path="library"),
    st.Page("pages/methods.py", title="Methods", url_path="methods"),
]
page = st.navigation(PAGES, position="top")
with st.container(key="strip"):
    links.listen()
    access.arrive()
    st.fragment(status, run_every=5.0 if sum(service().jobs.counts()) else None)()
page.run()
