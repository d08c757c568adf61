"""A new sweep on the Trade-offs page: what to measure, what it costs before it starts, and how far it is."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st
import torch

from kvlab.jobs import Group
from kvlab.registry import registry
from kvlab.runs import default_folder
from kvlab.sweep.plan import Plan
from kvlab.sweep.queued import Cost, Counted, Known, cost, folder_of, jobs
from kvlab.tasks import names
from kvlab.tasks.local import OWN_METRICS
from kvlab.ui import own_tasks
from kvlab.ui.estimate import duration
from kvlab.ui.form import problem
from kvlab.ui.service import card, first_model, service, visitor

KEEP: dict[str, Any] = {"persist_state": "session"}
TICK = 1.0
"""Seconds between two looks at a live sweep."""
START = {"methods": ["full", "snapkv", "streamingllm"], "budgets": ["0.5", "0.25"], "tasks": ["niah"], "length": 256, "samples": 5, "metric": "contains"}
BUDGETS = ["0.5", "0.25", "0.125", "0.0625", "64t"]
SAMPLES, LENGTH = 200, 131_072
"""Most samples of a point, and tokens of a sample, that the page lets one ask for."""


def wanted() -> bool:
    """Whether the builder is open: by its button, or by a link to a kept file of questions (`?tasks=`), which is followed once."""
    if asked := st.query_params.get("tasks"):
        st.session_state["sweep_asked"], st.session_state["trade-build"] = asked, True
        del st.query_params["tasks"]
    return bool(st.session_state.get("trade-build"))


def form() -> None:
    """The builder, with its cost and the button that starts it."""
    state = st.session_state
    for name, value in START.items():
        state.setdefault(f"sweep-{name}", value)
    if asked := state.pop("sweep_asked", ""):
        take(asked)
    titles = {name: kind.title for name, kind in registry().items()}
    left, right = st.columns(2, gap="medium")
    with left:
        st.multiselect("Methods; type a composition such as snapkv+kivi", list(dict.fromkeys([*titles, *state["sweep-methods"]])), key="sweep-methods",
                       format_func=lambda name: titles.get(name, name), accept_new_options=True, **KEEP)  # fmt: skip
        st.multiselect("Budgets: a kept share, 64t tokens, 20MB", list(dict.fromkeys([*BUDGETS, *state["sweep-budgets"]])), key="sweep-budgets",
                       accept_new_options=True, **KEEP)  # fmt: skip
    with right:
        own = state.setdefault("sweep_own", [])
        st.multiselect("Tasks", [*names(), *own], key="sweep-tasks", format_func=lambda name: f"{name} (your file)" if name in own else name, **KEEP)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.number_input("Tokens of a sample", 32, LENGTH, step=32, key="sweep-length", width=150, **KEEP)
            st.number_input("Samples of a point", 1, SAMPLES, key="sweep-samples", width=150, **KEEP)
            if set(state["sweep-tasks"]) & set(own):
                st.selectbox("Your file is scored by", list(OWN_METRICS), key="sweep-metric", width=170, **KEEP)
    with st.expander("Questions of your own, as JSONL"):
        _bring()
    try:
        plan = chosen()
        known = cost(plan, model(), service().store.folder)
    except ValueError as error:
        return problem(str(error))
    _start(plan, known)


def _bring() -> None:
    st.html('<p class="kv-small">Each line is an object with "context", "question" and "answers". Whoever uses this server can see the table of the sweep.</p>')
    file = st.file_uploader("Questions, JSONL", type=["jsonl"], key="sweep-file", max_upload_size=1)
    if file is None:
        return
    try:
        short = own_tasks.keep(file.getvalue(), file.name)
    except ValueError as error:
        return problem(str(error))
    if short not in st.session_state["sweep_own"]:
        st.query_params["tasks"] = short
        st.rerun()  # the list of tasks is above


def take(short: str) -> None:
    """Choose a kept file of questions, and as many samples as it has."""
    state = st.session_state
    try:
        own_tasks.task(short)
    except ValueError as error:
        return problem(str(error))
    state["sweep_own"] = list(dict.fromkeys([*state.get("sweep_own", []), short]))
    state["sweep-tasks"], state["sweep-samples"] = [short], min(SAMPLES, own_tasks.count(short))


def chosen() -> Plan:
    """The plan of the form. Raises ValueError with a sentence."""
    state = st.session_state
    own, tasks = set(state.get("sweep_own", [])), []
    for name in state["sweep-tasks"]:
        if name in own:
            if own_tasks.count(name) < state["sweep-samples"]:
                raise ValueError(f"Your file holds {own_tasks.count(name):,} questions; ask for at most as many samples of a point.")
            name = own_tasks.task(name, state["sweep-metric"]).name
        tasks.append(name)
    if not 1 <= state["sweep-samples"] <= SAMPLES or not 32 <= state["sweep-length"] <= LENGTH:
        raise ValueError(f"A point has 1 to {SAMPLES} samples, a sample 32 to {LENGTH:,} tokens.")
    return Plan(("full", *(name for name in state["sweep-methods"] if name != "full")), tuple(tasks), tuple(state["sweep-budgets"]) or ("0.5",),
                lengths=(state["sweep-length"],), samples=state["sweep-samples"], model=first_model())  # fmt: skip


def model() -> Known:
    """The model of the server, by its description alone. Raises ValueError with a sentence."""
    here = card(first_model(), service().device)
    return Known(here.lm.name, here.lm.revision, here.dtype, torch.device(here.device))


def sentence(known: Cost) -> str:
    """The cost in words: "42 runs in 6 points, about 18 min, from 120 earlier runs"."""
    left = sum(known.left)
    points = sum(bool(count) for count in known.left)
    said = f"{left:,} {'run' if left == 1 else 'runs'} in {points:,} {'point' if points == 1 else 'points'}"
    if left < known.runs:
        said += f", {known.runs - left:,} more are measured already"
    time = "no earlier run to tell the time from" if known.seconds is None else f"{duration(known.seconds)}, from {known.earlier:,} earlier runs"
    return f"{said}; {time}" if left else f"All {known.runs:,} runs are measured already"


def _start(plan: Plan, known: Cost) -> None:
    running, waiting = service().jobs.counts()
    others = f" Before it: {running + waiting} of all visitors." if running + waiting else ""
    st.html(f'<p class="kv-figure" role="status"><b>{escape(sentence(known))}</b>.{others}</p>')
    live = (group := current()) is not None and group.live
    with st.container(horizontal=True, vertical_alignment="center"):
        word = "Start the sweep" if sum(known.left) == known.runs else "Measure the rest" if sum(known.left) else "Show it"
        pressed = st.button(word, key="sweep-start", type="primary", disabled=live)
        with st.popover("As a command"):
            st.code(plan.command(), language=None, wrap_lines=True)
    if pressed:
        try:
            submit(plan, known)
        except ValueError as error:
            return problem(str(error))
        st.rerun()


def submit(plan: Plan, known: Cost) -> None:
    """Queue its points, one job for each. Raises ValueError with a sentence."""
    s, folder = service(), folder_of(plan, default_folder().parent / "sweeps")
    group = s.jobs.submit(visitor(), jobs(plan, known, s.shelf, s.store, visitor(), folder), {"sweep": folder.name, "points": len(known.parts)})
    st.session_state["sweep_job"] = st.query_params["job"] = group.id
    st.session_state["trade-build"], st.session_state["sweep_shown"] = False, -1


def current() -> Group | None:
    """The sweep that the address or the session names, if the server remembers it."""
    key = st.query_params.get("job") or st.session_state.get("sweep_job")
    group = service().jobs.group(key) if key else None
    return group if group and isinstance(group.note, dict) and "sweep" in group.note else None


def panel() -> None:
    """How far a sweep is; looks again by itself while it is live, and draws the page anew whenever a point is there."""
    group = current()
    if group is None or st.session_state.get("sweep_closed") == group.id:
        return
    with st.container(border=True, key="card-sweep"):
        st.fragment(_panel, run_every=TICK if group.live else None)(group)


def _panel(group: Group) -> None:
    state, ended = st.session_state, sum(not job.live for job in group.jobs)
    st.html(progress(group))
    if group.live:
        if st.button("Cancel", key="sweep-cancel"):
            service().jobs.cancel(group)
    elif st.button("Close", key="sweep-close"):
        state["sweep_closed"] = group.id
        st.query_params.pop("job", None)
        st.rerun()
    now = (ended, group.live)
    if state.get("sweep_shown") != now:
        state["sweep_shown"] = now
        if any(job.state == "done" for job in group.jobs):
            state["trade_next"] = group.note["sweep"]
        st.rerun()


def progress(group: Group) -> str:
    """Points done, the one at work, the time left, and what failed, as HTML."""
    done = [job for job in group.jobs if job.state == "done"]
    failed = [job for job in group.jobs if job.state == "failed"]
    stopped = [job for job in group.jobs if job.state == "stopped"]
    now = next((job for job in group.jobs if job.state == "running"), None)
    total = len(group.jobs)
    said = [f"{len(done):,} of {total:,} points measured"]
    if now is not None:
        counted = [event for event in now.events() if isinstance(event, Counted)]
        said.append(f"{now.title}{f', sample {counted[-1].done} of {counted[-1].of}' if counted else ''}")
    elif group.live:
        place = service().jobs.place(next(job for job in group.jobs if job.state == "queued"))
        said.append(f"{place.ahead} of other visitors before it" + ("" if place.seconds is None else f", {duration(place.seconds)}"))
    left = _left(group)
    if group.live and left is not None:
        said.append(f"{duration(left)} left")
    if stopped and not group.live:
        said.append(f"cancelled; {len(stopped):,} points are left, \u201cNew sweep\u201d goes on with them")
    words = escape(" \u00b7 ".join(said))
    share = (len(done) + len(failed)) / max(1, total)
    bar = f'<div class="kv-bars"><div><span><i style="width:{share:.0%}"></i></span></div></div>'
    wrong = "".join(f'<p class="kv-problem">{escape(job.title)}: {escape(job.error)}</p>' for job in failed[:3])
    return f'<p class="kv-small" role="status"><b>Sweep</b> {words}</p>{bar}{wrong}'


def _left(group: Group) -> float | None:
    """Seconds to go: by the estimates, or by what the points so far took."""
    todo, took = [job for job in group.jobs if job.live], [job.seconds for job in group.jobs if job.state == "done"]
    mean = sum(took) / len(took) if took else None
    each = [mean if mean is not None else job.estimate for job in todo]
    return None if None in each else sum(each)

