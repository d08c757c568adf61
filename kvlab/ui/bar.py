"""The bar at the bottom: bytes before and after, how they are computed, how far the lanes are. Words only from kvlab itself, escaped."""

from __future__ import annotations

from html import escape

import streamlit as st

from kvlab.engine import Token
from kvlab.jobs import Group
from kvlab.ui.estimate import duration, size, unit
from kvlab.ui.plan import Plan, Planned


def figures(plan: Plan) -> str:
    """Full cache, then at most what the lanes will hold; both at the last step."""
    before = plan.lanes[0].full[-1]
    of = unit(before)
    lanes = plan.lanes[1:]
    if not lanes:
        return f'<div class="kv-figure">Full cache at the last step<br><b>{size(before, of)}</b> predicted</div>'
    after = max(lane.predicted[-1] for lane in lanes)
    word = "Full cache, then" if len(lanes) == 1 else "Full cache, then at most"
    return f'<div class="kv-figure">{word}<br><b>{size(before, of, name=False)} \u2192 {size(after, of)}</b> predicted</div>'


def formula(lane: Planned) -> str:
    """One lane's prediction as a product."""
    first, second = lane.formula
    total = f"{lane.predicted[-1]:,} B"
    return (f'<div class="kv-formula">How this is computed, {escape(lane.title)} at the last step<br><code>{escape(first)}</code><br>'
            f"<code>{escape(second)} = <b>{total}</b></code></div>")  # fmt: skip


def progress(group: Group | None, lanes: tuple[Planned, ...], times: list[float | None], runs: int) -> str:
    """A segment per lane and the time, with where the estimate comes from."""
    shares = [0.0] * len(lanes)
    now = -1
    if group:
        for i, job in enumerate(group.jobs):
            written = sum(isinstance(e, Token) for e in job.events())
            shares[i] = 1.0 if job.state == "done" else written / max(1, lanes[i].request.max_new_tokens)
            now = i if job.state == "running" else now
    rows = "".join(
        f'<div class="{"now" * (i == now)}"><span><i style="width:{share:.0%}"></i></span>{escape("Full" if lane.name == "full" else lane.title)}</div>'
        for i, (lane, share) in enumerate(zip(lanes, shares, strict=True))
    )
    known = [t * (1 - share) for t, share in zip(times, shares, strict=True) if t is not None]
    live = bool(group and group.live)
    source = f"from {runs} earlier {'run' if runs == 1 else 'runs'}"
    said = "no earlier run of this model here to tell the time from"
    if known and len(known) == len(times):
        said = f"{duration(sum(known))}{' left' if live else ''}, {source}"
    if group and not live:
        said = f"took {sum(job.seconds for job in group.jobs):.1f} s, the comparison with the full cache included"
    return f'<div class="kv-bars">{rows}</div><div class="kv-figure">{said}</div>'


def draw(slot: str, html: str) -> None:
    """One part of the bar, keyed for the styles."""
    with st.container(key=f"bar-{slot}"):
        st.html(html or "&nbsp;")
