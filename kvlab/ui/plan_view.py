"""Small parts that all of the Plan page uses, and its two plain lists: the decode steps and what is counted. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
import streamlit as st

from kvlab.planner import formulas
from kvlab.planner.answer import Row
from kvlab.planner.memory import Demand
from kvlab.ui.point_card import mark


def style() -> str:
    return f"<style>{(Path(__file__).parent / 'plan.css').read_text()}</style>"


def how(said: Sequence[tuple[str, str]], opened: bool, summary: str = "Show formula") -> str:
    """Formulas or reasons, folded."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(formula)}</dd></div>" for name, formula in said)
    return f'<details class="kv-how"{" open" if opened else ""}><summary>{summary}</summary><dl>{rows}</dl></details>'


def steps(rows: Sequence[Row], demand: Demand, bandwidth: float, peak: float, opened: bool) -> str:
    """The marks of the figure by name, each with the bound that follows, and as formulas."""
    names = "".join(
        f'<tr><th scope="row">{mark(row.method.name, row.method.axis)}{escape(row.method.title)}</th><td>{row.step.intensity:.3g}</td>'
        f"<td>{row.step.bound}</td><td>{1e3 * row.step.seconds:,.1f} ms</td><td>{1 / row.step.seconds:,.0f}</td></tr>"
        for row in rows
    )
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("Step of", "operations a byte", "bound by", "at least", "tokens/s a user, at most"))
    table = f'<table class="kv-pl-steps"><thead><tr>{heads}</tr></thead><tbody>{names}</tbody></table>'
    said = [(row.method.title, formulas.decode(row.step, demand, bandwidth, peak)) for row in rows]
    fewer = [row.method.title for row in rows if row.step.fewer]
    words = f"{', '.join(fewer)}: a step reads less than is held. How much is measured in runs, so all of it is counted here."
    return table + (f'<p class="kv-small">{escape(words)}</p>' if fewer else "") + how(said, opened)


def percent(share: float, sign: str = " %") -> str:
    return f"{100 * share:.0f}{sign}"


def instead() -> str:
    """Where nothing can be planned: a plan that can."""
    link = '<a class="kv-link" href="plan?shape=llama-3.1-8b">Plan Llama-3.1-8B on one GPU</a>'
    return f'<div class="kv-empty"><b>Nothing is computed</b><p>The sentence above says what is missing. {link}</p></div>'


def sentence(text: str) -> None:
    """A line of small plain text."""
    if text:
        st.html(f'<p class="kv-alt">{escape(text)}</p>')


def table(data: pd.DataFrame, alt: str) -> None:
    st.dataframe(data, hide_index=True, alt=alt, height=min(40 + 35 * len(data), 390))


COUNTS = (
    ("A cache", "is counted by the same formula that every run is checked against, at the end of a conversation, for users who are all as long."),
    ("Before its cut", "one prompt at a time is held whole, as kvlab reads it; an engine that cuts while it reads needs less."),
    ("Workspace", "is an estimate: one chunk of a prompt and the scores of a step. Nothing measured it."),
    ("Not counted", "scales of 8 and 4 bit weights, an engine's tables, the driver, memory lost between blocks. The usable share stands for them."),
    ("Several GPUs", "share weights and heads evenly; where they outnumber the KV heads, heads are held twice. What they send each other is not counted."),
    ("A decode step", "reads each touched weight and each held byte once. Experts are taken as equally likely."),
)
"""What the page's figures hold, and what they leave out."""


def counts() -> str:
    """The assumptions as a list."""
    rows = "".join(f"<div><dt>{name}</dt><dd>{said}</dd></div>" for name, said in COUNTS)
    return f'<h2 class="kv-sect">What is counted</h2><dl class="kv-counted">{rows}</dl>'
