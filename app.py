"""kvlab's dashboard: the frame around all pages. Start it with: streamlit run app.py"""

from __future__ import annotations

from html import escape

import streamlit as st

from kvlab.ui import style
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
# further pages join here, each a line
page = st.navigation(
    [
        st.Page("pages/run.py", title="Run", default=True),
        st.Page("pages/inside.py", title="Look inside", url_path="inside"),
        st.Page("pages/tradeoffs.py", title="Trade-offs", url_path="tradeoffs"),
    ],
    position="top",
)
with st.container(key="strip"):
    st.fragment(status, run_every=1.0 if sum(service().jobs.counts()) else None)()
page.run()
