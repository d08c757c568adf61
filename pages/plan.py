"""Plan: what a model, a GPU and a number of users need, and which settings meet a quality floor. From configs and formulas: no model is loaded."""

from __future__ import annotations

from typing import Any

import streamlit as st

from kvlab.planner import answer, evidence, mix
from kvlab.planner.answer import Line, Row
from kvlab.planner.command import command
from kvlab.planner.memory import Demand
from kvlab.planner.shapes import Shape
from kvlab.ui import plan_asked, plan_bars, plan_figures, plan_form, plan_list, plan_mix, plan_parts, plan_words, provenance
from kvlab.ui import plan_view as view
from kvlab.ui.form import problem
from kvlab.ui.framed import framed
from kvlab.ui.head import title_block
from kvlab.ui.plan_asked import Asked

framed()


LISTED = 10
"""Settings of the list that are shown at once."""


def scheme() -> str:
    return "dark" if st.context.theme.type == "dark" else "light"


def chart(figure: Any, key: str, alt: str) -> None:
    st.plotly_chart(figure, theme=None, key=f"plan-figure-{key}", alt=alt, config=provenance.CONFIG)
    view.sentence(alt)


def memory_card(rows: list[Row], lines: list[Line], refused: list[tuple[str, str]], demand: Demand, asked: Asked) -> None:
    with st.container(border=True, key="card-plan-memory", gap="small"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="plan-memory-head"):
            st.html('<h2 class="kv-sect">Memory against the GPU, by formula</h2>', width="content")
            st.toggle("Show every formula", key="plan-formulas", persist_state="session")
        st.html(plan_bars.bars(rows, lines, demand, asked.formulas) + plan_bars.refusals(refused))
        with st.expander("Show as table", key="plan-open-bills", on_change="rerun") as more:
            if more.open:
                view.table(plan_figures.bills_table(rows, demand), "Memory, limits and decode step of every setting")


def roof_card(rows: list[Row], demand: Demand, asked: Asked) -> None:
    with st.container(border=True, key="card-plan-roof", gap="small"):
        st.html('<h2 class="kv-sect">One decode step under its roof</h2>')
        bandwidth, peak = asked.bw * 1e9, asked.peak * 1e12
        chart(plan_figures.roofline(rows, bandwidth, peak, asked.gpus, scheme()), "roof", plan_figures.roofline_alt(rows))
        st.html(view.steps(rows, demand, bandwidth, peak, asked.formulas))


def command_card(lines: list[Line], demand: Demand) -> None:
    """The chosen setting as a command, with what it asks of an engine."""
    with st.container(border=True, key="card-plan-command", gap="small"):
        st.html('<h2 class="kv-sect">Take the setting with you</h2>')
        known = {plan_words.key(line.method): line for line in lines}
        if not known:
            return st.html('<p class="kv-small">No setting takes this model but the full cache.</p>')
        if st.session_state["plan-pick"] not in known:
            st.session_state["plan-pick"] = ""
        first = next(iter(known))
        names = {"": f"First of the list: {plan_words.named(known[first].method)}"} | {key: plan_words.named(line.method) for key, line in known.items()}
        pick = st.selectbox("Setting", list(names), key="plan-pick", format_func=names.get, persist_state="session") or first
        st.code(command(known[pick].method, demand), language=None, wrap_lines=True)
        st.html(plan_list.asked_of(known[pick], demand))
        return None


def list_card(lines: list[Line], demand: Demand, asked: Asked) -> None:
    with st.container(border=True, key="card-plan-list", gap="small"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="plan-list-head"):
            st.html(f'<h2 class="kv-sect">{plan_words.list_title(lines, asked.floor)}</h2>', width="content")
            st.toggle("Also what lies below the floor", key="plan-below", persist_state="session")
        view.sentence(plan_words.caution(lines, demand))
        shown = [line for line in lines if asked.below or line.verdict != "below"]
        if shown:
            st.html(plan_list.settings(shown[:LISTED], demand))
        if rest := shown[LISTED:]:
            with st.expander(f"{len(rest)} more of the list", key="plan-open-rest", on_change="rerun") as more:
                if more.open:
                    st.html(plan_list.settings(rest, demand))
        view.sentence(plan_words.hidden(lines, shown))


def error_card(found: list[evidence.Error]) -> None:
    with st.container(border=True, key="card-plan-errors", gap="small"):
        st.html('<h2 class="kv-sect">How far the formulas are off</h2>')
        if not found:
            return view.sentence("No run and no sweep is stored here, so nothing can be held against the formulas. Run one.")
        chart(plan_figures.errors(found, scheme()), "errors", plan_figures.errors_sentence(found) + " Filled: a run. Hollow: a point of a sweep.")
        with st.expander("Show as table", key="plan-open-errors", on_change="rerun") as more:
            if more.open:
                view.table(plan_figures.errors_table(found), "Predicted and measured bytes")
        return None


def head(shape: Shape | None, asked: Asked, rows: list[Row], lines: list[Line], extra: Any = None) -> None:
    with st.container(key="head", horizontal=True, vertical_alignment="bottom"):
        title = plan_words.title(shape, asked, rows, lines)
        title_block(title, plan_words.look(rows, lines), plan_words.setting(shape, asked), figures=plan_words.figures(rows, asked))
        if extra:
            extra()


def page() -> None:
    st.html(view.style())
    state = st.session_state
    wrong = plan_asked.seed(st.query_params, state)
    found, failures = plan_parts.gathered()
    tasks = evidence.tasks(found)
    asked, shape, problems = plan_asked.current(state), None, list(wrong)
    rows: list[Row] = []
    lines: list[Line] = []
    try:
        shape = plan_asked.shape_of(asked.shape)
        demand, lengths = asked.demand(shape), mix.parse(asked.mix, asked.written)
        methods = answer.chosen(asked.compress, asked.keep / 100)
        rows, refused = answer.rows(methods, demand, asked.bw * 1e9, asked.peak * 1e12)
        lines = answer.lines(found, methods, demand, asked.evidence if asked.evidence in tasks else "", asked.floor / 100)
    except ValueError as error:
        problems.append(str(error))
    plan_asked.publish(asked, st.query_params, state)
    head(shape, asked, rows, lines, (lambda: plan_parts.export(asked, shape, rows, lines, failures)) if rows else None)
    left, right = st.columns([0.29, 0.71], gap="medium")
    with left:
        plan_form.draw(shape, tasks)
    with right:
        for sentence in problems:
            problem(sentence)
        if rows:
            if sentence := plan_words.beyond(demand):
                problem(sentence)
            memory_card(rows, lines, refused, demand, asked)
            if lengths:
                plan_mix.draw(plan_mix.spreads(rows, demand, lengths), demand, asked.formulas)
            one, two = st.columns([0.56, 0.44], gap="small")
            with one:
                roof_card(rows, demand, asked)
            with two:
                command_card(lines, demand)
        else:
            st.html(view.instead())
    if lines:
        list_card(lines, demand, asked)
    one, two = st.columns([0.6, 0.4], gap="medium")
    with one:
        error_card(failures)
    with two, st.container(border=True, key="card-plan-counts", gap="small"):
        st.html(view.counts())


page()
