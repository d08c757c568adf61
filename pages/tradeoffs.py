"""Trade-offs: quality against measured bytes, from a stored sweep. No model is loaded here."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from kvlab.plots.points import AXES, shown
from kvlab.plots.words import alt as alt_of
from kvlab.plots.words import finding
from kvlab.ui import choice as choices
from kvlab.ui import point_card, provenance, sweeps
from kvlab.ui import tradeoffs_view as view
from kvlab.ui.choice import Choice
from kvlab.ui.form import problem
from kvlab.ui.framed import framed
from kvlab.ui.sweeps import Swept
from kvlab.ui.tradeoffs_bar import KEEP, axis, bar, head

framed()

LOOK = (("Read along the stepped front. Where a bar overlaps the grey band, count the ", False), ("paired questions", True),
        (" before calling it better or worse.", False))  # fmt: skip
STRANGE = (("These points were brought in from a file. ", False), ("Nothing here was measured by this kvlab", True), (".", False))
WIDE = 12
"""Methods in the needle maps and the claims, where more would make a page of their own."""


def sources() -> dict[str, Any]:
    """Name -> a stored sweep's folder or an imported table."""
    return {**sweeps.folders(), **{f"imported: {name}": swept for name, swept in st.session_state.get("trade_imports", {}).items()}}


def opened(found: dict[str, Any]) -> Swept:
    """The sweep the session asks for, else the first. Raises ValueError."""
    state = st.session_state
    if state.get("trade-sweep") not in found:
        state["trade-sweep"] = next(iter(found))
    name = state["trade-sweep"]
    if isinstance(found[name], Swept):
        return found[name]
    swept, imports = sweeps.stored(name), list(state.get("trade_imports", {}).values())
    return sweeps.beside(swept, imports) if state.get("trade-over", True) else swept


def select(points: pd.DataFrame) -> None:
    """A click on a point; nothing where the click took the selection away."""
    picked = st.session_state["figure-quality"].selection.points
    if picked and picked[0].get("customdata"):
        _, method, setting, source = picked[0]["customdata"][:4]
        same = points[(points["method"] == method) & (points["setting"] == setting) & (points["source"] == source)]
        choose(same["point"].iloc[0] if len(same) else "")


def choose(point: str) -> None:
    st.session_state["trade-point"] = point


def main_figure(swept: Swept, choice: Choice, points: pd.DataFrame, scheme: str, said: dict[str, Any]) -> None:
    """The figure with the panel of the chosen point beside it, and both again as table and list."""
    row = points[points["point"] == (choice.point or choices.settling(points, choice.x))]
    run = row["run"].iloc[0] if len(row) and isinstance(row["run"].iloc[0], str) else None
    alt = alt_of(points, choice.x)
    left, right = st.columns([0.699, 0.301], gap="medium")
    with left, st.container(border=True, key="card-quality"):
        with st.container(horizontal=True, vertical_alignment="center"):
            axis()
            st.toggle("Pareto front", key="trade-front", **KEEP)
            if st.session_state.get("trade_imports") and not swept.imported:
                st.toggle("Imported beside", key="trade-over", value=True, **KEEP)
        figure = view.quality(swept.stamp, choice, tuple(points["method"].unique()), scheme, run, False, points)
        view.chart(grounded(figure, choice, scheme), "quality", alt, on_select=lambda: select(points), selection_mode="points")
        hidden = len(choices.panel(swept, choice)["method"].unique()) - points["method"].nunique()
        few = f" {points['method'].nunique()} methods are drawn, {hidden} more can be chosen above." if hidden else ""
        view.sentence(alt + few)
    with right, st.container(border=True, key="card-point"):
        if len(row):
            st.html(point_card.card(row.iloc[0], points, swept.samples))
        else:
            st.html('<p class="kv-small">Choose a point: click it, or take its row in the table.</p>')
    view.twin(points, choice.x, "quality", f"Every point of the figure above: {alt}", choose)
    with st.expander("The same points as a list of links"):
        view.links(points)
    view.came_from(said)
    if st.session_state.get("trade-picture"):
        view.picture(swept, choice, points, said)


def grounded(figure: Any, choice: Choice, scheme: str) -> Any:
    """A figure in a chosen scheme brings its own ground, whatever the page's."""
    return figure if choice.scheme == "page" else provenance.page_of(figure, scheme)


def more_figures(swept: Swept, choice: Choice, points: pd.DataFrame, scheme: str) -> None:
    """Task by task, where the needle is found, and apart from all that was measured what the papers say."""
    few = choices.leading(points, WIDE)
    deep, everywhere = view.with_depth(swept, choice, few), view.across_tasks(swept, choice, few)
    said = points[points["method"].isin(few)]
    if everywhere["task"].nunique() > 1:
        view.further("tasks", swept, choice, everywhere, scheme)
    if len(deep):
        view.further("needles", swept, choice, deep, scheme)
    if view.comparable_here(said):
        with st.expander("What the papers claim, beside what was measured here", key="trade-claims", on_change="rerun") as apart:
            if apart.open:
                view.further("claims", swept, choice, said, scheme)


def page() -> None:
    st.html(view.style())
    state, found = st.session_state, sources()
    choices.seed(st.query_params, state)
    if measured := state.pop("trade_next", ""):  # the first point of a sweep is there
        state["trade-sweep"] = measured
    if not found:
        st.session_state.setdefault("trade-build", True)
        words = "Choose what to measure: its curves appear here, point by point. Or bring a table of points."
        return head("No sweep is stored yet", ((words, False),), "Trade-offs")
    try:
        swept = opened(found)
    except ValueError as error:
        head("This sweep cannot be shown", (("Choose another one, or write it anew.", False),), "Trade-offs")
        st.selectbox("Sweep", list(found), key="trade-sweep", width=230, **KEEP)
        return problem(str(error))
    choice = choices.resolve(swept, state)
    choices.publish(choice, st.query_params, state)
    here = choices.panel(swept, choice)
    points = here[here["method"].isin(choices.shown_methods(here, choice))]
    raw = swept.raw.loc[points.index]
    said = provenance.about(raw)
    scheme = choice.scheme if choice.scheme != "page" else "dark" if st.context.theme.type == "dark" else "light"
    try:
        title = finding(points.assign(x=shown(points, choice.x)), choice.x)
    except ValueError as error:
        head(f"{AXES[choice.x]} was not recorded", STRANGE if swept.imported else LOOK, swept.name)
        bar(found, swept, choice)
        axis()
        return problem(str(error))
    row = points.iloc[0]
    setting = " · ".join([f"Sweep \u201c{swept.name}\u201d", str(row["task"]), f"{row['length']:,} tokens", str(row["mode"]), str(row["model"])])
    head(title, STRANGE if swept.imported else LOOK, setting, lambda: view.files(swept, choice, points, raw, said, title))
    bar(found, swept, choice)
    main_figure(swept, choice, points, scheme, said)
    more_figures(swept, choice, points, scheme)


page()
