"""The Plan page's list of settings as HTML: what was measured of each, what it asks of an engine, and the links. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import urlencode

from kvlab.planner.answer import Line
from kvlab.planner.deploy import Badge
from kvlab.planner.evidence import Evidence
from kvlab.planner.formulas import size
from kvlab.planner.memory import Demand
from kvlab.ui.plan import words
from kvlab.ui.plan_view import how, percent
from kvlab.ui.point_card import has_run, mark

VERDICT_WORDS = {"meets": "meets the floor", "open": "its mean meets the floor, its interval does not", "below": "below the floor",
                 "unmeasured": "estimate, not measured"}  # fmt: skip


def settings(lines: Sequence[Line], demand: Demand) -> str:
    """The list as a table that is read by rows: setting, evidence, bytes, limits, what it asks of an engine, links."""
    heads = ("Setting", "Evidence", "Caches here", "Most users", "Asked of the engine", "Look")
    head = "".join(f'<th scope="col">{word}</th>' for word in heads)
    body = "".join(_line(line, demand, heads) for line in lines)
    caption = '<caption class="kv-hide">Settings with their evidence</caption>'
    return f'<table class="kv-pl-table">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _line(line: Line, demand: Demand, heads: Sequence[str]) -> str:
    method = line.method
    name = f'<div class="kv-pl-name">{mark(method.name, method.axis)}<div><b>{escape(method.title)}</b><span>{escape(words(method))}</span></div></div>'
    held = f"<b>{size(line.each * demand.users)}</b><span>{size(line.each)} a user</span>"
    most = f"<b>{line.users:,}</b><span>{'fits' if line.fits else f'{demand.users:,} do not fit'}</span>"
    why = how([(one.asks, f"{one.answer}: {one.why}") for one in line.badges], False, "Why")
    badges = f'<div class="kv-badges">{"".join(map(badge, line.badges))}</div>{why}'
    cells = [name, _evidence(line), held, most, badges, _links(line.evidence)]
    made = "".join(f'<td data-head="{head}">{cell}</td>' for head, cell in zip(heads, cells, strict=True))
    return f'<tr class="kv-v-{line.verdict}">{made}</tr>'


def _evidence(line: Line) -> str:
    one = line.evidence
    if one is None:
        return f'<b class="kv-dotted">{VERDICT_WORDS["unmeasured"]}</b><span>bytes by formula; of its quality nothing is known here</span>'
    verdict = "one sample: not a rate" if one.samples == 1 else VERDICT_WORDS[line.verdict]
    whose = "on this model" if line.own else f"on {'the bundled model' if one.model == 'bundled' else one.model}, not on this one"
    said = f"measured {whose}: {one.task}, {one.samples} samples, {one.length:,} tokens, {one.mode}; sweep {one.sweep}"
    return f"<b>{percent(one.share)} <small>[{percent(one.low, '')}, {percent(one.high, '')}]</small></b><em>{verdict}</em><span>{escape(said)}</span>"


def _links(one: Evidence | None) -> str:
    if one is None:
        return '<a class="kv-link" href="run">Run it</a>'
    where = {"sweep": one.sweep, "task": one.task, "length": one.length, "mode": one.protocol, "model": one.model, "x": "resident", "point": one.point}
    links = f'<a class="kv-link" href="tradeoffs?{escape(urlencode(where))}">Trade-offs</a>'
    return links + (f'<a class="kv-link" href="inside?{escape(urlencode({"run": one.run}))}">A run</a>' if has_run(one.run) else "")


def badge(one: Badge) -> str:
    return f'<span class="kv-badge{" free" if one.free else ""}">{escape(one.asks)}: <b>{escape(one.answer)}</b></span>'


def asked_of(line: Line, demand: Demand) -> str:
    """The chosen setting: verdict, badges, and what the command leaves to the reader."""
    note = "" if demand.shape.repo else " Put the model's folder or id in the place of MODEL."
    coded = demand.dtype not in ("float32", "bfloat16")
    kind = f" Weights in {demand.dtype} are counted above; the command runs them as the checkpoint has them." if coded else ""
    badges = "".join(map(badge, line.badges))
    said = f"It runs one conversation and keeps the run, with predicted and measured bytes.{note}{kind}"
    return f'<p class="kv-small">{escape(VERDICT_WORDS[line.verdict].capitalize())}. {escape(said)}</p><div class="kv-badges">{badges}</div>'
