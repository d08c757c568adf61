"""The parts of the Trade-offs page: figures drawn once, each with its sentence and its table, and the files to take away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from kvlab import plots
from kvlab.claims import load as load_claims
from kvlab.ui import provenance
from kvlab.ui.choice import SCHEMES, Choice
from kvlab.ui.export import export_row
from kvlab.ui.form import problem
from kvlab.ui.point_card import has_run, link
from kvlab.ui.sweeps import Swept, amount

WIDTH = 912
"""Pixels of the main figure inside its card, at 1440."""
ABOVE = 74
"""Pixels that a figure's own title takes: the page has one already."""
BUDGET = "trade-budget"


def style() -> str:
    return f"<style>{(Path(__file__).parent / 'tradeoffs.css').read_text()}</style>"


@st.cache_data(max_entries=64, show_spinner=False)
def quality(stamp: str, choice: Choice, methods: tuple[str, ...], scheme: str, chosen: str | None, titled: bool, _points: pd.DataFrame) -> go.Figure:
    """The main figure. All but `_points` is the key; ValueErrors come through."""
    figure = plots.quality(_points, scheme, choice.x, choice.front, chosen=chosen, width=WIDTH)
    figure.update_traces(unselected={"marker": {"opacity": 1}}, selector=lambda trace: trace.meta in ("points", "imported"))
    return figure if titled else untitled(figure)


@st.cache_data(max_entries=32, show_spinner=False)
def other(kind: str, stamp: str, choice: Choice, methods: tuple[str, ...], scheme: str, _table: pd.DataFrame) -> tuple[go.Figure, str, str]:
    """One of the others, tasks, needles or claims, without its title, which comes beside it with the line under it."""
    draw: dict[str, Callable[[], go.Figure]] = {
        "tasks": lambda: plots.tasks(_table, scheme, "share" if choice.x == "resident" else choice.x),
        "needles": lambda: plots.needles(_table, scheme, width=1330),
        "claims": lambda: plots.claims(claims(), _table, scheme),
    }
    figure = draw[kind]()
    title, below = unescape(figure.layout.title.text), unescape(figure.layout.title.subtitle.text)
    return untitled(figure, 52), title, below


@st.cache_resource(show_spinner=False)
def claims() -> pd.DataFrame:
    return load_claims()


def untitled(figure: go.Figure, above: int = ABOVE) -> go.Figure:
    """Without its title, and as much lower: the plot itself keeps its size."""
    return figure.update_layout(title=None, margin_t=figure.layout.margin.t - above, height=figure.layout.height - above)


def chart(figure: go.Figure, key: str, sentence: str, **more: Any) -> Any:
    """Draw a figure as it is; on a narrow screen it scrolls inside its own frame."""
    with st.container(key=f"wide-{key}"):
        return st.plotly_chart(figure, theme=None, key=f"figure-{key}", alt=sentence, **{"config": provenance.CONFIG, **more})


def sentence(text: str) -> None:
    """The figure in one sentence, as a reader hears it who cannot see it."""
    st.html(f'<p class="kv-alt">{escape(text)}</p>')


def twin(points: pd.DataFrame, x: str, key: str, alt: str, choose: Callable[[str], None] | None = None) -> None:
    """The table of points, in the figure's order; "Open" goes to the run. With `choose`, picking a row calls it with the id of its point."""
    table = plots.table(points.assign(run=points["point"]), x)
    ids, runs = table["Run"].tolist(), points.set_index("point")["run"]
    shown = table.drop(columns="Run").assign(Open=[f"inside?run={runs[one]}" if has_run(runs[one]) else None for one in ids])
    columns = {"Open": st.column_config.LinkColumn("Run", display_text="Open", width="small"), "Tokens": st.column_config.NumberColumn(format="localized")}
    look: dict[str, Any] = {"hide_index": True, "alt": alt, "key": f"table-{key}", "column_config": columns, "height": _height(shown), "placeholder": ""}

    def picked() -> None:
        if rows := st.session_state[f"table-{key}"].selection.rows:
            choose(ids[rows[0]])

    st.dataframe(shown, **look, **({"on_select": picked, "selection_mode": "single-row"} if choose else {}))


def _height(table: pd.DataFrame) -> int:
    return min(40 + 35 * len(table), 390)


def links(points: pd.DataFrame) -> None:
    """Every point as a line of text with a real link, for the keyboard and for who listens."""
    rows = []
    for row in points.itertuples():
        words = escape(f"{row.title}, {row.setting}" if row.setting else str(row.title))
        rows.append(f"<li>{link(row.run, 'Look inside', 'kv-in')} {words}</li>" if has_run(row.run) else f"<li>{words} <span>no run is stored</span></li>")
    st.html(f'<ul class="kv-list">{"".join(rows)}</ul>')


def came_from(said: dict[str, Any]) -> None:
    """Which samples, model, versions and command made the figures."""
    commands = said.get("command", [])
    codes = "".join(f"<br><code>{escape(provenance.runnable(command))}</code>" for command in ([commands] if isinstance(commands, str) else commands[:3]))
    st.html(f'<p class="kv-from">{escape(provenance.line(said))}{codes}</p>')


def with_depth(swept: Swept, choice: Choice, methods: Sequence[str]) -> pd.DataFrame:
    """The samples of a needle task under these methods, at all lengths; empty where the task has no depths."""
    rows = swept.samples
    same = (rows["task"] == choice.task) & (rows["mode"] == choice.mode) & rows["method"].isin(methods)
    found = rows[same & (rows["status"] == "done") & rows["depth"].notna() & rows["score"].notna()]
    return found[found["model"] == choice.model] if "model" in found else found


def across_tasks(swept: Swept, choice: Choice, methods: Sequence[str]) -> pd.DataFrame:
    """The points of every task at the chosen length, of each task in the chosen mode or in the first that it has."""
    points = swept.points
    rows = points[(points["model"] == choice.model) & (points["length"] == choice.length) & points["method"].isin(methods)]
    modes = {task: choice.mode if choice.mode in set(of) else of.iloc[0] for task, of in rows.groupby("task", sort=False)["protocol"]}
    return rows[rows["protocol"] == rows["task"].map(modes)]


def comparable_here(points: pd.DataFrame) -> bool:
    """Whether shares of the full cache's score can be taken: it was measured, and above 0."""
    full = points[(points["axis"] == "reference") & (points["source"] == "measured")]
    return bool(len(full) and full["mean"].iloc[0] > 0 and len(points) > len(full))


def further(kind: str, swept: Swept, choice: Choice, table: pd.DataFrame, scheme: str) -> None:
    """One of the figures below the main one in a card, with its finding, its sentence and its table."""
    with st.container(border=True, key=f"card-{kind}"):
        head = st.empty()
        if kind == "needles":
            table = one_budget(table)
        methods = (*sorted(table["method"].unique()), st.session_state.get(BUDGET, "") if kind == "needles" else "")
        try:
            figure, title, below = other(kind, swept.stamp, replace(choice, point="", methods=(), front=True), methods, scheme, table)
        except ValueError as error:
            return problem(str(error))
        head.html(f'<h2 class="kv-sect">{escape(title)}</h2><p class="kv-small">{escape(below)}</p>')
        alt = str(figure.layout.meta["alt"])
        chart(figure if choice.scheme == "page" else provenance.page_of(figure, scheme), kind, alt)
        sentence(alt)
        with st.expander("Show as table", key=f"open-{kind}", on_change="rerun") as more:
            if more.open:
                tables(kind, table, choice, alt)


def one_budget(samples: pd.DataFrame) -> pd.DataFrame:
    """The samples under one budget, the visitor's choice, and those of methods that have none."""
    budgets = [str(budget) for budget in samples["budget"].dropna().unique()]
    if len(budgets) > 1:
        words = {budget: amount(budget) for budget in budgets}
        if st.session_state.get(BUDGET) not in budgets:
            st.session_state[BUDGET] = budgets[len(budgets) // 2]  # one at which methods differ
        kept = st.selectbox("Kept", budgets, key=BUDGET, format_func=lambda budget: words[budget], width=160)
        samples = samples[samples["budget"].isna() | (samples["budget"] == kept)]
    return samples


def tables(kind: str, table: pd.DataFrame, choice: Choice, alt: str) -> None:
    """The table twin; of the claims two, as separate as their panels."""
    if kind == "tasks":
        return twin(table, choice.x, kind, alt)
    if kind == "needles":
        return show(plots.needles_table(table), alt)
    claimed, here = plots.claims_table(claims(), table)
    st.html('<p class="kv-small">Claimed by the papers, not measured here</p>')
    show(claimed, "Claims of the papers, not measured here")
    st.html('<p class="kv-small">Measured here</p>')
    show(here.drop(columns="run"), "Points measured here")


def show(table: pd.DataFrame, alt: str) -> None:
    st.dataframe(table, hide_index=True, alt=alt, height=_height(table))


def files(swept: Swept, choice: Choice, points: pd.DataFrame, raw: pd.DataFrame, said: dict[str, Any], title: str) -> None:
    """Files to take away, each with versions, seeds and command, and the figure as a picture. Light unless a scheme was chosen."""
    own = "dark" if choice.scheme == "dark" else "light"
    draw = lambda: quality(swept.stamp, choice, tuple(points["method"].unique()), own, None, True, points)  # noqa: E731
    commands = said.get("command", [])
    rest = {name: value for name, value in said.items() if name not in ("command", "seeds", "versions")}
    settings = {"sweep": swept.name, "task": choice.task, "length": choice.length, "mode": choice.mode, "seed": said.get("seeds"), **rest,
                "measured with": said.get("versions")}  # fmt: skip
    export_row(
        "trade", title, tables={"Points": raw}, figures={"Quality against bytes": draw}, runs=[run for run in points["run"] if isinstance(run, str)],
        settings=settings, command="\n".join(map(provenance.runnable, [commands] if isinstance(commands, str) else commands)),
    )  # fmt: skip
    with st.popover("Picture"):
        schemes = {"key": "trade-scheme", "format_func": str.capitalize, "required": True, "persist_state": "session"}
        st.segmented_control("Colours of the figures", SCHEMES, **schemes)
        st.toggle("Picture to save", key="trade-picture", help="Shows the figure as a picture has it, with a button that saves it as PNG or SVG")


def picture(swept: Swept, choice: Choice, points: pd.DataFrame, said: dict[str, Any]) -> None:
    """The figure with title and footer, as it will be saved, and Plotly's own button, which works in the browser alone."""
    own = "dark" if choice.scheme == "dark" else "light"
    figure = quality(swept.stamp, choice, tuple(points["method"].unique()), own, None, True, points)
    with st.container(border=True, key="card-picture"):
        kind = st.segmented_control("Format", ("png", "svg"), key="trade-format", format_func=str.upper, required=True, default="png")
        name = f"{swept.name}-{choice.task}-{choice.length}"
        made = provenance.page_of(provenance.signed(figure, said, own), own)
        chart(made, "picture", plots.alt(points, choice.x), config=provenance.saving(name, kind))
