"""The component of the Look inside page: one view of a run drawn in the browser, registered once per server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.ui.palette import css

WEB = Path(__file__).parent / "web"
PARTS = ("inside_dom", "picture", "cells", "steps", "inside_data", "inside_strip", "inside_scrubber", "inside_attention", "inside_map", "inside_side",
         "inside_main")  # fmt: skip


def script() -> str:
    """The JavaScript of the view: its parts in one module, in the order they need each other."""
    return "\n".join((WEB / f"{part}.js").read_text() for part in PARTS)


def style() -> str:
    """Its style sheet, after the table of colours."""
    return css() + (WEB / "inside.css").read_text()


@functools.cache
def _registered() -> Callable[..., Any]:
    return st.components.v2.component("kvlab_inside", js=script(), css=style(), html="<div></div>")


def inside(data: bytes, key: str, on_change: Callable[[], None], on_protect: Callable[[], None]) -> None:
    """Draw a payload of `kvlab.ui.inside.payload`. On release `st.session_state[key].view` is the new view and `on_change` is called first; when a
    span is to be protected, `.protect` is its {"from", "to"} for one rerun and `on_protect` is called first."""
    _registered()(data=data, key=key, on_view_change=on_change, on_protect_change=on_protect)
