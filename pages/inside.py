"""Look inside: one stored run, token by token, head by head, step by step."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import streamlit as st

from kvlab.runs import RunStore, StoredRun
from kvlab.ui import access, again, head_profile, opening
from kvlab.ui.component import inside
from kvlab.ui.export import export_row
from kvlab.ui.finding import Finding, finding
from kvlab.ui.form import problem
from kvlab.ui.framed import framed
from kvlab.ui.head import caption, title_block
from kvlab.ui.inside import View, block, entries_csv, first_difference, head_table, payload, show, token_table, tops

framed()

SOURCES = {"mixed": "partly reconstructed from its paper", "recon": "reconstructed from its paper"}


@st.cache_resource(max_entries=8, show_spinner=False)
def opened(run: str, home: str) -> tuple[StoredRun, Finding, tuple[dict[str, Any], bytes]]:
    """A stored run with its finding and the block of bytes the browser gets; `home` tells two run folders apart."""
    stored = RunStore().load(run)
    return stored, finding(stored), block(stored)


def setting_line(m: dict[str, Any]) -> str:
    """Method, budget, what was kept, model, and the kind of source where it is not the authors' code."""
    kept, seen = m["budget"]["realised"]["tokens"], m["prompt_tokens"] + m["question_tokens"] + max(0, len(m["tokens"]) - 1)
    budget = f"budget {m['budget']['asked']}" if m["budget"]["asked"] else ""
    parts = [m["title"], budget, f"{kept:,.0f} of {seen:,} entries per head at the end", m["model"], SOURCES.get(m.get("source"), "")]
    return " · ".join(part for part in parts if part)


def figures(run: StoredRun) -> list[tuple[str, str, str, str]]:
    """Label, value, class and remark of the figures beside the title."""
    m, found = run.manifest, []
    step = first_difference(run.trace)
    size = lambda n: f"{n / 2**10:,.0f} KiB" if n < 2**20 else f"{n / 2**20:,.1f} MiB"  # noqa: E731
    if step is not None:
        found.append((f"Full cache, step {step}", show(tops(run)[step]), "", ""))
        found.append((f"This run, step {step}", "≠ " + show(m["pieces"][run.trace.asked + step]), "lost", ""))
    elif run.trace.top.size:
        found.append(("Against the full cache", f"same {len(run.trace.top)} tokens", "", ""))
    found.append(("Held by tensors, measured", size(m["bytes"]["resident"]), "", f" of {size(m['bytes']['full'])}"))
    return found


def exports(run: StoredRun, title: str, view: View) -> None:
    """Files of this run, made when asked for."""
    tables = {
        "Entries": lambda: pd.read_csv(io.StringIO(entries_csv(run)), keep_default_na=False, na_values=[""]),
        "Heads at this step": lambda: pd.DataFrame(head_table(run, view.step)), "Tokens at this step": lambda: pd.DataFrame(token_table(run, view)),
    }  # fmt: skip
    export_row("inside", title, tables=tables, runs=[run.id], settings={"step": view.step, "layer": view.layer, "head": view.head})


def tables(run: StoredRun, view: View) -> None:
    """The pictures in words and numbers, for the step, layer and head on screen."""
    st.html(f'<p class="kv-set">Step {view.step}, head L{view.layer} · H{view.head}. The tables follow the pictures below.</p>')
    left, right = st.columns([2, 3])
    left.dataframe(head_table(run, view.step), hide_index=True, alt="Entries held and missing attention of every head at this step", height=280)
    right.dataframe(token_table(run, view), hide_index=True, alt="Every token: who holds it and what the chosen head reads", height=280)


def nothing(said: tuple) -> None:
    """The address names no run that can be shown: say so, and offer the stored ones."""
    runs = access.runs(RunStore())
    advice = "Start from a stored one; nothing has to load." if runs else "Nothing is stored yet. Make a run first; it appears here."
    title_block("No run is open", (*said, (advice, False)))
    if runs:
        with st.container(border=True, key="card-runs"):
            st.html(opening.run_list(runs, ""))


def page() -> None:
    asked = st.query_params.get("run", "") or opening.first_run(access.runs(RunStore()))
    if not asked:
        return nothing(())
    try:
        run, found, made = opened(asked, str(RunStore().folder))
    except ValueError as error:
        return nothing(((f"{error} ", False),))
    m = run.manifest
    if not len(run.trace.written):
        return title_block(found.title, found.sentence, setting_line(m), m["axis"])
    key, state = f"inside-{run.id}", st.session_state
    view = View.of(st.query_params, run.trace, found.view)
    if state.get("inside_known") != (run.id, view):  # a link was opened, or a lesson moved on: the browser goes there
        state["inside_arrival"] = state.get("inside_arrival", 0) + 1
        state["inside_start"] = state["inside_known"] = (run.id, view)

    def released() -> None:
        now = View(**{name: int(value) for name, value in state[key].view.items()})
        state["inside_known"] = (run.id, now)
        mine = ("run", "step", "L", "H", "tok", "track", "job")  # a job is the Run page's: its last word may have come after this page was opened
        others = {name: value for name, value in st.query_params.to_dict().items() if name not in mine}
        st.query_params.from_dict({"run": run.id, **now.params(), **others})

    def protect() -> None:
        span = state[key].protect
        try:
            group = again.start(run, int(span["from"]), int(span["to"]))
        except ValueError as error:
            state["again_problem"] = str(error)
        else:
            state[again.KEY] = st.query_params[again.KEY] = group.id

    with st.container(key="head", horizontal=True, vertical_alignment="bottom"):
        title_block(found.title, found.sentence, setting_line(m), m["axis"], figures(run))
        with st.popover("Other runs"):
            st.html(opening.run_list(access.runs(RunStore()), run.id))
        shown = st.toggle("Show as table", key="inside_table")
        exports(run, found.title, view)
    if shown:
        tables(run, view)
    if said := state.pop("again_problem", ""):
        problem(said)
    again.panel(run)
    said = caption(found.title, found.sentence, setting_line(m), run.id)
    inside(payload(made, state["inside_start"][1], found.named, state["inside_arrival"], said), key, released, protect)
    head_profile.part(run)


page()
