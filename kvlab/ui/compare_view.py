"""The component of the Compare page. Text strip, scrubber, colours and the reading of a run are the parts of Look inside, on the same typed arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import streamlit as st

from kvlab.ui.component import WEB
from kvlab.ui.palette import css

PARTS = ("inside_dom", "picture", "cells", "steps", "inside_data", "inside_strip", "inside_scrubber", "compare_lane", "compare_map", "compare_tracks",
         "compare_column", "compare_sets", "compare_main")  # fmt: skip


def script() -> str:
    """The JavaScript of the view: its parts in one module, in the order they need each other."""
    return "\n".join((WEB / f"{part}.js").read_text() for part in PARTS)


def style() -> str:
    """Its style sheet, after the table of colours and the sheet of Look inside."""
    return css() + (WEB / "inside.css").read_text() + (WEB / "compare.css").read_text()


@functools.cache
def _registered() -> Callable[..., Any]:
    return st.components.v2.component("kvlab_compare", js=script(), css=style(), html="<div></div>")


def compare(data: bytes, key: str, on_change: Callable[[], None]) -> None:
    """Draw a payload of `kvlab.ui.compare_data`. On release `st.session_state[key].view` is {step, token} and `on_change` is called first."""
    _registered()(data=data, key=key, on_view_change=on_change)
