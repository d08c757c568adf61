"""The lane as a component, mounted once per lane: nothing of an unchanged lane is sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from kvlab.ui.palette import css

HERE = Path(__file__).parent


@st.cache_resource
def _component() -> Any:
    """Registered once per server."""
    return st.components.v2.component(
        "kvlab.lane", html="", css=css(":host") + (HERE / "lane.css").read_text(), js=(HERE / "lane.js").read_text(), isolate_styles=True
    )


def draw(lane: dict[str, Any], key: str) -> None:
    """Draw a lane (`kvlab.ui.lane`); its link to Look inside is followed in the browser."""
    last = len(lane["full"]) - 1
    held = lane["measured"][-1] if lane["measured"] else None
    said = f"{held:,} bytes held" if held is not None else f"{lane['predicted'][-1]:,} bytes predicted" if lane["predicted"] else "no bytes known"
    lane = lane | {"spoken": f"{lane['title']}: {said}" + (f", the full cache {lane['full'][-1]:,} at step {last}" if lane["full"] else "")}
    _component()(data=lane, key=key)
