"""A page opened by its own address, before the frame of `app.py` was drawn."""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager


def framed() -> None:
    """Call first in a page that may be linked to: on a fresh server Streamlit takes pages/ for an app of the old kind until app.py has spoken once."""
    if "framed" not in st.session_state:
        PagesManager.uses_pages_directory = False
        st.rerun()
