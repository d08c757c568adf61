"""Compare: two to six stored runs on one prompt, under one scrubber."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import streamlit as st

from kvlab.runs import RunStore
from kvlab.ui import access, opening
from kvlab.ui.compare import Asked, Lineup, lineup
from kvlab.ui.compare_data import body, payload
from kvlab.ui.compare_start import offers, picker
from kvlab.ui.compare_tables import TABLES
from kvlab.ui.compare_view import compare
from kvlab.ui.compare_words import Story, setting, story
from kvlab.ui.export import export_row
from kvlab.ui.framed import framed
from kvlab.ui.head import caption, title_block

framed()


@st.cache_resource(max_entries=8, show_spinner=False)
def opened(asked: Asked, home: str) -> tuple[Lineup, Story, tuple[dict[str, Any], bytes]]:
    """The runs of an address with what they show and the bytes the browser gets; `home` tells two run folders apart."""
    line = lineup(RunStore(), asked)
    return line, story(line), body(line)


def number(name: str, default: int, end: int) -> int:
    """A whole number of the address, brought to its nearest end; anything unreadable counts as missing."""
    text = st.query_params.get(name, "").partition("-")[0]
    return max(0, min(int(text), end - 1)) if text.isascii() and text.isdigit() and len(text) < 10 else default


def start(problem: str = "") -> None:
    """No runs are open: say why, and offer what can be compared."""
    listed = access.runs(RunStore())
    cards = offers(listed)
    ready = "<a " in cards
    advice = "Choose a prompt whose runs are stored: nothing has to load." if ready else "Two runs on one prompt are needed. Make them on the page Run."
    title_block("These runs cannot be compared" if problem else "Compare methods on one prompt", ((f"{problem} " if problem else "", False), (advice, False)))
    st.html(cards)


def blind(line: Lineup) -> None:
    """One button: hide the names and shuffle the columns, or reveal them where they are."""
    asked = line.asked
    words, after = ("Reveal names", f"{asked.blind}.open") if line.hidden else ("Hide names", str(random.randrange(10**6)))
    if st.button(words, key="compare-blind", type="primary" if line.hidden else "secondary"):
        st.query_params["blind"] = after
        st.rerun()


def page() -> None:
    asked = Asked.of(st.query_params)
    if not asked.ids:
        asked = replace(asked, ids=opening.first_compared(access.runs(RunStore())))
    if not asked.ids:
        return start()
    try:
        line, found, made = opened(asked, str(RunStore().folder))
    except ValueError as error:
        return start(str(error))
    state, steps = st.session_state, max(len(run.trace.written) for run in line.runs)
    view = (number("step", found.step, steps), number("tok", found.token if "step" not in st.query_params else -1, line.reference.trace.asked))
    if state.get("compare_known") != (asked, view):  # a link was opened, or a lesson moved on: the browser goes there
        state["compare_arrival"] = state.get("compare_arrival", 0) + 1
        state["compare_start"] = state["compare_known"] = (asked, view)

    def released() -> None:
        now = state["compare"].view
        state["compare_known"] = (asked, (int(now["step"]), int(now["token"])))
        st.query_params.update({"cmp": ",".join(asked.ids), "step": str(int(now["step"])), "tok": str(int(now["token"]))})
        if now["token"] < 0:
            st.query_params.pop("tok", None)

    with st.container(key="head", horizontal=True, vertical_alignment="bottom"):
        title_block(found.title, found.sentence, setting(line), figures=found.figures)
        if not line.hidden:
            listed = access.runs(RunStore())
            with st.popover("Change runs"):
                picker(line, listed)
            with st.popover("Other prompts"):
                st.html(offers(listed))
        blind(line)
        shown = st.toggle("Show as table", key="compare_table")
        if not line.hidden:
            tables = {name: lambda make=make: make(line) for name, make in TABLES.items()}
            asked_for = {"runs": ",".join(asked.ids), "reference": line.reference.id, "seed": line.reference.manifest["request"].get("seed")}
            export_row("compare", found.title, tables=tables, runs=[r.id for r in line.runs], settings=asked_for)
    if shown:
        for name, make in TABLES.items():
            st.html(f'<p class="kv-b">{name}</p>')
            st.dataframe(make(line), hide_index=True, alt=f"{name}, as a table")
    said = caption(found.title, found.sentence, setting(line), "" if line.hidden else ", ".join(r.id for r in line.runs))
    compare(payload(made, *state["compare_start"][1], state["compare_arrival"], said), "compare", released)


page()
