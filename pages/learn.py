"""Lessons: eight short ones that replay stored runs. No model is loaded here."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from kvlab.lessons import Lesson, lessons
from kvlab.ui.export import export_row
from kvlab.ui.form import problem
from kvlab.ui.framed import framed
from kvlab.ui.head import title_block
from kvlab.ui.lesson import built, link, place
from kvlab.ui.lesson_data import Sources, stamp
from kvlab.ui.lesson_list import cards
from kvlab.ui.lesson_thumb import thumb
from kvlab.ui.lesson_view import lesson as draw

framed()

STILL = '<style>[data-testid="stElementContainer"]:has(> .st-key-lesson), .st-key-lesson { opacity: 1 !important; transition: none !important }</style>'
"""A step is on screen before Python hears of it: nothing fades meanwhile."""
BARE = '<style>[data-testid="stHeader"], .st-key-strip, .kv-brand { display: none }</style>'
LOOK = (("Guess first. Each result comes from a ", False), ("stored run", True), (" that you can open, so what you see was measured.", False))


@st.cache_resource(max_entries=16, show_spinner=False)
def made(lesson: Lesson, data: str) -> dict[str, Any]:
    """The lesson filled from the shipped data; `data` changes when they do."""
    return built(lesson, Sources())


def small(lesson: Lesson, data: str) -> str:
    """Its small picture; "" where what it shows is no longer true of the shipped data, which the lesson itself then says."""
    try:
        return thumb(made(lesson, data)["steps"])
    except ValueError:
        return ""


def progress() -> dict[str, dict[str, Any]]:
    """Lesson -> steps seen and guesses, for this session."""
    return st.session_state.setdefault("learned", {})


def overview(found: list[Lesson], said: str = "") -> None:
    """All lessons, with what was seen of each."""
    title_block("Eight short lessons", (*(((f"{said} ", False),) if said else ()), *LOOK), "No model is loaded, nothing waits for a GPU")
    st.html(cards(found, progress(), {lesson.id: small(lesson, stamp()) for lesson in found}))


def files(data: dict[str, Any]) -> None:
    """The tables and the runs of the lesson, to take away."""
    steps = [step for step in data["steps"] if step["table"]]
    runs = sorted({run for step in steps for run in step["runs"]})
    tables = {f"Step {number}, {step['title']}": pd.DataFrame(step["table"]) for number, step in enumerate(steps, 1)}
    export_row("learn", f"Lesson {data['number']}: {data['title']}", tables=tables, runs=runs, settings={"lesson": data["id"]})


def page() -> None:
    try:
        found = lessons()
    except ValueError as error:
        title_block("Lessons", (("The lessons cannot be read.", False),))
        return problem(str(error))
    asked, params, state = st.query_params.get("lesson", ""), st.query_params, st.session_state
    lesson = next((one for one in found if one.id == asked), None)
    if lesson is None:
        return overview(found, "There is no lesson of that name; here are all." if asked else "")
    kept = progress().setdefault(lesson.id, {"seen": [], "guesses": {}})
    here = (lesson.id, place(params, len(lesson.steps)))
    if state.get("lesson_known") != here:  # a link was opened: the browser goes there
        state["lesson_arrival"] = state.get("lesson_arrival", 0) + 1
        state["lesson_known"] = here
        state.pop("lesson_start", None)
    if "lesson_start" not in state or not (state.get("lesson") or {}).get("view"):  # not drawn yet, or not since another page was
        state["lesson_start"] = {"step": here[1], "guesses": dict(kept["guesses"])}
    if here[1] not in kept["seen"]:
        kept["seen"].append(here[1])

    def moved() -> None:
        view = state["lesson"].view
        step = max(0, min(int(view["step"]), len(lesson.steps) - 1))
        kept["guesses"] = {str(name): int(value) for name, value in view["guesses"].items()}
        state["lesson_known"] = (lesson.id, step)
        params["step"] = str(step + 1)

    data = made(lesson, stamp())
    after = found[(found.index(lesson) + 1) % len(found)]
    onward = {"words": f"Lesson {after.number}: {after.title}", "href": link(after.id, 0)} if after.number > 1 else {"words": "All lessons", "href": "learn"}
    present = params.get("present") == "1"
    st.html(STILL + BARE * present)
    draw({"lesson": data, "view": state["lesson_start"], "arrival": state["lesson_arrival"], "present": present, "onward": onward}, "lesson", moved)
    if not present:
        files(data)


page()
