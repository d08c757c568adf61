"""Run: one prompt under several methods, token by token, with the bytes they hold."""

from __future__ import annotations

import streamlit as st

from kvlab.jobs import Group
from kvlab.ui import bar, board, form, lane_view, methods_form, refill, upload
from kvlab.ui.estimate import Sizes
from kvlab.ui.framed import framed
from kvlab.ui.plan import Plan, plan
from kvlab.ui.service import Card, count, service

framed()

TICK = 1.0
"""Seconds between two looks at a live job. With shorter ones the timers, beside a busy model, end each other before anything is drawn."""


def settings() -> tuple[Plan | None, str]:
    """The form. Returns what it plans, or the sentence that says why nothing can run."""
    with st.container(border=True, key="card-form", gap="xsmall"):
        card = form.model_part()
        text = form.prompt_part()
        try:
            upload.check_text(text)
            problem = ""
        except ValueError as error:
            problem = str(error)
        sizes = measure(card, text) if card and not problem else None
        form.question_part((sizes.prompt, sizes.question) if sizes else None)
        if card is None:
            return None, ""
        chosen = methods_form.methods_part(card.geometry)
        budget = form.budget_part(sizes.prompt if sizes else 0, card.geometry.full_bytes(max(1, sizes.seen if sizes else 1)))
        picks = methods_form.picks_part(chosen)
        form.generation_part()
    if problem:
        return None, problem
    try:
        return plan(card, form.shared(text), sizes, picks, budget), ""
    except ValueError as error:
        return None, str(error)


def measure(card: Card, text: str) -> Sizes:
    """Tokens of the prompt, of the question and to be written."""
    s = st.session_state
    prompt, question = count(card.lm, f"{card.lm.name} {card.lm.revision}", text, s["run-question"] or "", s["run-template"])
    return Sizes(prompt, question, s["run-new"]) if s["run-before"] else Sizes(prompt + question, 0, s["run-new"])


def lanes_panel(group: Group | None, wanted: Plan | None) -> None:
    """All lanes; runs again by itself while the job is live, then the page once more to settle."""
    if group and group.live:
        service().jobs.look(group)
    ended = bool(group and not group.live and st.session_state.get("settled") != group.id)
    if ended:
        board.remember_runs(group)  # before the links are there: a click on one must be the last word on the address
    draw_all(board.views(group, wanted), "lane", board.finished(group) if group and not group.live else [])
    if ended:
        st.session_state["settled"] = group.id
        st.session_state["finished"] = st.session_state.get("finished", 0) + 1
        st.rerun()


def draw_all(lanes: list[dict], key: str, compared: list[str]) -> None:
    """Lanes one below the other, and above them the way to Compare with the runs that have ended."""
    with st.container(gap="xsmall", key=f"lanes-{key}"):
        with st.container(key=f"way-{key}"):  # a place of its own, so that no lane moves while another script still draws it
            board.compare(compared)
        for i, lane in enumerate(lanes):
            lane_view.draw(lane, f"{key}-{i}")


def empty() -> None:
    """Nothing to show yet: a sentence, and the way to a prompt."""
    st.html('<div class="kv-empty"><b>No run is open</b><p>Start from a preset; it brings its own question, method and budget.</p></div>')
    presets = form.presets()
    if presets:
        first = next(iter(presets))
        st.button(f"Take the preset \u201c{presets[first]['title']}\u201d", key="do-preset", on_click=take, args=(first,))


def take(preset: str) -> None:
    st.session_state.update({"run-source": "Preset", "run-preset": preset})
    form.take_preset()


def stored() -> bool:
    """Lanes of the runs in the address, when no job of this server is behind it. False if there are none."""
    try:
        found = board.linked()
    except ValueError as error:
        form.problem(str(error))
        return False
    draw_all(found, "stored", [lane["run"] for lane in found if lane["tokens"]])
    return bool(found)


def bottom(group: Group | None, wanted: Plan | None) -> None:
    """Bytes, formula, progress; Run and Cancel. Only one of the two is primary."""
    live = bool(group and group.live)
    shown = group.note["plan"] if live else wanted
    times, runs = board.seconds(shown, st.session_state.get("finished", 0)) if shown else ([], 0)
    current = group if group and shown and shown.signature == group.note["plan"].signature else None
    with st.bottom:
        one, two, three, four = st.columns([1.1, 2.3, 1.8, 1.35], vertical_alignment="center", gap="medium")
        with one:
            bar.draw("figures", bar.figures(shown) if shown else '<div class="kv-figure">Nothing to estimate yet</div>')
        with two:
            bar.draw("formula", bar.formula(shown.lanes[min(1, len(shown.lanes) - 1)]) if shown else "")
        with three:
            if shown:
                st.fragment(progress, run_every=TICK if live else None)(current, shown, times, runs)
        with four, st.container(horizontal=True, horizontal_alignment="right", key="bar-buttons"):
            run = st.button("Run", key="do-run", type="secondary" if live else "primary", disabled=live or wanted is None, shortcut="Ctrl+Enter")
            stop = st.button("Cancel", key="do-cancel", type="primary" if live else "secondary", disabled=not live)
    if stop:
        service().jobs.cancel(group)
        st.rerun()
    if run and wanted:
        try:
            board.submit(wanted, times)
        except ValueError as error:
            form.problem(str(error))
        else:
            st.rerun()


def progress(group: Group | None, shown: Plan, times: list[float | None], runs: int) -> None:
    bar.draw("progress", bar.progress(group, shown.lanes, times, runs))


def main() -> None:
    form.begin()
    refill.take_runs()
    group = board.current()
    left, right = st.columns([0.322, 0.678], gap="medium")
    with left:
        st.title("Run", anchor=False)
        wanted, problem = settings()
    with right:
        st.html(f'<p class="kv-look">{form.sentence_of([lane.name for lane in wanted.lanes[1:]] if wanted else [])}</p>')
        if problem:
            form.problem(problem)
        refill.unlike()
        if group or (wanted and "run" not in st.query_params):
            st.fragment(lanes_panel, run_every=TICK if group and group.live else None)(group, wanted)
        elif not stored() and not wanted:
            empty()
    bottom(group, wanted)


main()
