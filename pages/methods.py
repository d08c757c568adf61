"""Methods: the whole field at one glance, and a card for each method. Everything comes from the methods' own classes and from their runs on a toy."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from kvlab import toy
from kvlab.method import AXES
from kvlab.registry import registry
from kvlab.toy import Toy
from kvlab.ui import methods_card as card
from kvlab.ui import methods_facts as facts
from kvlab.ui import methods_view as view
from kvlab.ui import sweeps
from kvlab.ui.export import export_row
from kvlab.ui.form import problem
from kvlab.ui.framed import framed
from kvlab.ui.head import title_block
from kvlab.ui.sweeps import Swept

framed()
st.session_state.pop("run_link", None)  # a method that is tried from here fills the form anew, whatever became of it there

COMMAND = "python -m kvlab methods --json"


def field() -> None:
    """All methods: one picture, and its twin as a table."""
    state, asked = st.session_state, {name: value for name in view.FILTERS if (value := st.query_params.get(name))}
    if state.get("methods_known") != asked:  # a link was opened: the browser goes there
        state["methods_known"], state["methods_arrival"] = asked, state.get("methods_arrival", 0) + 1

    def chosen() -> None:
        said = {name: value for name, value in (state["methods-field"].filter or {}).items() if value and name in view.FILTERS}
        state["methods_known"] = said
        st.query_params.from_dict(said)

    count = sum(kind.axis != "reference" for kind in registry().values())
    with st.container(key="head", horizontal=True, vertical_alignment="bottom"):
        title_block(f"{count} ways to hold less", [("Play the steps. A prompt of 16 tokens has been read: see ", False), ("who leaves at once", True),
                    (", who leaves word by word, and who only gets thinner.", False)])  # fmt: skip
        shown = st.toggle("Show as table", key="methods_table")
        export_row("methods", "The methods of kvlab", tables={"Methods": lambda: pd.DataFrame(facts.rows())}, command=COMMAND)
    if shown:
        st.dataframe(facts.rows(), hide_index=True, alt="Every method: axis, what it does, when it acts, what it needs, source and paper", height=360)
    view.gallery(asked, state.get("methods_arrival", 0), chosen)


def swept_with(name: str) -> Swept | None:
    """The first stored sweep that holds this method."""
    for folder in sweeps.folders():
        try:
            found = sweeps.stored(folder)
        except ValueError:
            continue
        if name in set(found.points["method"]):
            return found
    return None


def one(name: str) -> None:
    """One method's card."""
    kind, played = registry()[name], toy.of(name)
    setting = f"{AXES[kind.axis]} · {kind.paper} ({kind.year}) · {facts.SOURCES[kind.source]}"
    figures = [("Held at the toy's end, measured", f"{played.held[-1]:,} B", "", f" of {played.full[-1]:,}")] if isinstance(played, Toy) else []
    with st.container(key="head", horizontal=True, vertical_alignment="bottom"):
        title_block(kind.title, [(facts.first_sentence(kind), False)], setting, kind.axis, figures)
        shown = st.toggle("Show as table", key="methods_steps")
        steps = view.step_table(played) if isinstance(played, Toy) else pd.DataFrame()
        export_row(f"method-{name}", kind.title, tables={"Steps": steps, "Facts": pd.DataFrame(facts.rows([name]))}, settings=kind().knobs(), command=COMMAND)
    st.html(f"<style>{card.STYLE}</style>" + card.ways(kind, neighbours(kind)))
    left, right = st.columns([0.66, 0.34], gap="medium")
    with left:
        if shown and len(steps):
            st.dataframe(steps, hide_index=True, alt="Entries of each layer and head at each step of the toy, and bytes held")
        if isinstance(played, Toy):
            view.player(name, played)
        else:
            boxed("toy", card.no_toy(played))
        boxed("when", card.timeline(kind()))
        boxed("knobs", card.knobs(kind, played))
        boxed("evidence", card.evidence(kind, swept_with(name)))
    with right:
        boxed("story", card.story(kind))
        boxed("bytes", card.formula(kind()))
        boxed("claims", card.claimed(name))


def boxed(key: str, html: str) -> None:
    with st.container(border=True, key=f"card-{key}"):
        st.html(html)


def neighbours(kind: type) -> list[type]:
    """The methods before and after this one on its axis."""
    same = [other for other in registry().values() if other.axis == kind.axis]
    place = same.index(kind)
    return same[max(0, place - 1) : place] + same[place + 1 : place + 2]


def page() -> None:
    asked = st.query_params.get("m", "")
    if asked in registry():
        return one(asked)
    if asked:
        problem(f"There is no method \u201c{asked[:60]}\u201d. Choose one below.")
    return field()


page()
