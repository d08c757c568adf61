"""A page run by itself through AppTest, without the frame of app.py around it."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest

PAGES = Path(__file__).parent.parent / "pages"


def page_alone(name: str, **params: str) -> AppTest:
    """The page of this file name, opened with these parameters in its address. Fails if the page raises."""
    at = AppTest.from_file(str(PAGES / name), default_timeout=200)
    at.session_state["framed"] = True  # as app.py leaves it
    for key, value in params.items():
        at.query_params[key] = value
    at.run()
    assert not at.exception
    return at


def html(at: AppTest) -> str:
    """All HTML the page wrote."""
    return " ".join(part.proto.body for part in at.get("html"))


def link(at: AppTest) -> dict[str, str]:
    """The parameters of the page's address."""
    return {name: value[0] if isinstance(value, list) else value for name, value in at.query_params.items()}
