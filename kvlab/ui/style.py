"""One block of styles for what Streamlit draws itself. Everything richer lives in components."""

from __future__ import annotations

from pathlib import Path

from kvlab.ui.palette import css

RULES = (Path(__file__).parent / "style.css").read_text()

BRAND = '<div class="kv-brand"><i></i>kvlab</div>'
"""The name in the corner, beside a cache from which two entries are gone."""


def block() -> str:
    """The style element for `st.html`, once per page."""
    return f"<style>{css(':root')}{RULES}</style>"
