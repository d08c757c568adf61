"""Links between pages: `<a class="kv-link" href="inside?run=...">` in any `st.html` or component is followed without loading the page anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st


@st.cache_resource
def _component() -> Any:
    """Registered once per server."""
    return st.components.v2.component("kvlab.links", html="", js=(Path(__file__).parent / "links.js").read_text())


def listen() -> None:
    """Draw once per page, in the frame."""
    _component()(key="kv-links")
