"""The Start page's component, and what it is given: made once per server from stored files, and anew when they change."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.presets import presets
from kvlab.runs import RunStore
from kvlab.ui import start, start_doors, sweeps
from kvlab.ui.palette import css
from kvlab.ui.sweeps import Swept

WEB = Path(__file__).parent / "web"
PARTS = ("inside_dom", "cells", "start_map", "start_field", "start_doors", "start_main")


def script() -> str:
    """The JavaScript of the page, its parts in one module."""
    return "\n".join((WEB / f"{part}.js").read_text() for part in PARTS)


def style() -> str:
    """Its style sheet, after the table of colours."""
    return css() + (WEB / "start.css").read_text()


@functools.cache
def _registered() -> Callable[..., Any]:
    return st.components.v2.component("kvlab_start", js=script(), css=style(), html="<div></div>")


def shipped() -> RunStore:
    """The runs that came with kvlab, and no others."""
    return RunStore(RunStore().shipped)


def stamps(folder: Path) -> tuple[tuple[str, int], ...]:
    """Every run of a folder with the time it was written."""
    return tuple((path.parent.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("[0-9a-f]*/manifest.json")))


@st.cache_resource(max_entries=2, show_spinner=False)
def contents(folder: str, written: tuple, swept: str) -> dict[str, Any]:
    """All that the component shows. The arguments are the key: which folder, its runs, and the stamp of the sweep."""
    store, said = RunStore(Path(folder)), presets()
    cards = start.cards(said, store)
    points = field_points()
    return {
        "cards": cards,
        "compare": start_doors.compare(said, store.list()),
        "lesson": start_doors.lesson(store, [one["run"] for one in cards if one["run"]]),
        "plan": None if points is None else start_doors.settings(points),
        "field": None if points is None else start_doors.field(points),
    }


def first_sweep() -> Swept | None:
    """The sweep that Trade-offs opens with, if there is one that can be read."""
    try:
        return sweeps.stored(next(iter(sweeps.folders())))
    except (StopIteration, ValueError):
        return None


def field_points() -> pd.DataFrame | None:
    """The points of its first figure."""
    swept = first_sweep()
    return None if swept is None else start_doors.opened(swept)


def shown() -> dict[str, Any]:
    """What the page shows now."""
    store, swept = shipped(), first_sweep()
    return contents(str(store.folder), stamps(store.folder), swept.stamp if swept else "")


def draw(said: dict[str, Any]) -> None:
    _registered()(data=said, key="start")
