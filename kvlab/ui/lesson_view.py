"""The lesson as a component: its steps drawn in the browser, registered once per server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.ui.palette import css

WEB = Path(__file__).parent / "web"
PARTS = ("inside_dom", "picture", "lesson_pictures", "lesson_main")


def script() -> str:
    """The JavaScript of a lesson: its parts in one module, in the order they need each other."""
    return "\n".join((WEB / f"{part}.js").read_text() for part in PARTS)


def style() -> str:
    """Its style sheet, after the table of colours."""
    return css() + (WEB / "lesson.css").read_text()


@functools.cache
def _registered() -> Callable[..., Any]:
    return st.components.v2.component("kvlab_lesson", js=script(), css=style(), html="<div></div>")


def lesson(data: dict[str, Any], key: str, on_change: Callable[[], None]) -> None:
    """Draw a lesson (`kvlab.ui.lesson.built`) from the step in `data["view"]`. On a move `st.session_state[key].view` is the new view."""
    _registered()(data=data, key=key, on_view_change=on_change)
