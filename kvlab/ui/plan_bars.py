"""The memory bars of the Plan page as HTML: one stack for every setting against the line of the GPU. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kvlab.planner import formulas
from kvlab.planner.answer import Line, Row, verdict_of
from kvlab.planner.formulas import size
from kvlab.planner.memory import Demand
from kvlab.ui.plan import words
from kvlab.ui.plan_view import how, percent
from kvlab.ui.point_card import mark

PARTS = (("weights", "weights"), ("work", "workspace"), ("before", "a prompt before its cut"), ("full", "full cache"), ("held", "compressed cache"),
         ("away", "taken away"))  # fmt: skip
"""Class of a part of the bar -> its word."""
HEADS = '<div class="kv-pl-figs"><span>Total</span><span>Most users</span><span>Longest context</span></div>'


def bars(rows: Sequence[Row], lines: Sequence[Line], demand: Demand, opened: bool) -> str:
    """One bar for every setting against the line of the GPU, its total, its two limits, and its formulas."""
    full = rows[0].bill
    end = max(full.usable * 1.12, *(row.bill.total for row in rows)) * 1.02
    line = f"left:{100 * full.usable / end:.3f}%"
    left = 100 * full.usable / end
    side = "before" if left > 60 else "after"
    head = f'<div class="kv-pl-line"><span class="{side}" style="{line}">{size(full.usable)} usable</span></div>'
    made = "".join(_bar(row, rows[0], verdict_of(lines, row.method), demand, end, line, opened) for row in rows)
    used = {kind for row in rows for kind, count in _parts(row, rows[0]) if count > 0}
    keys = "".join(f'<span><i class="{kind}"></i>{word}</span>' for kind, word in PARTS if kind in used)
    return f'<div class="kv-pl"><p class="kv-pl-keys">{keys}</p><div class="kv-pl-row kv-pl-top"><div></div>{head}{HEADS}</div>{made}</div>'


def _parts(row: Row, first: Row) -> list[tuple[str, float]]:
    """The stack in its order, bytes; what compression took away stands at its end."""
    bill = row.bill
    kind = "full" if row.method.axis == "reference" else "held"
    return [("weights", bill.weights), ("work", bill.workspace), ("before", bill.before), (kind, bill.caches), ("away", max(0, first.bill.total - bill.total))]


def _bar(row: Row, first: Row, found: Line | None, demand: Demand, end: float, line: str, opened: bool) -> str:
    bill = row.bill
    stack = "".join(f'<i class="{kind}" style="width:{100 * count / end:.3f}%"></i>' for kind, count in _parts(row, first) if count > 0)
    fits = f"{size(-bill.short)} left" if bill.short <= 0 else f"{size(bill.short)} short"
    spoken = f"{row.method.title}: {formulas.total(bill)}"
    setting = "every entry" if row.method.axis == "reference" else words(row.method)
    known = f"<span>{escape(_known(found))}</span>" if found else ""
    title = f"<b>{escape(row.method.title)}</b><span>{escape(setting)}</span>{known}"
    name = f'<div class="kv-pl-name">{mark(row.method.name, row.method.axis)}<div>{title}</div></div>'
    bar = f'<div class="kv-pl-bar" role="img" aria-label="{escape(spoken)}">{stack}<u style="{line}"></u></div>'
    most = f"{bill.context:,}" if bill.context else "none"
    limit = "the model's end" if bill.capped else f"at {demand.users:,} user{'s' * (demand.users > 1)}"
    figures = _figure(size(bill.total), fits, bill.short > 0) + _figure(f"{bill.users:,}", f"at {demand.context:,} tokens") + _figure(most, limit)
    return f'<div class="kv-pl-row">{name}{bar}<div class="kv-pl-figs">{figures}</div>{_how(row, demand, opened)}</div>'


def _known(line: Line) -> str:
    """A bar's evidence in a few words: no bar stands without."""
    if line.evidence is None:
        return "score not measured"
    return f"scored {percent(line.evidence.share)} on {'this' if line.own else 'another'} model"


def _figure(value: str, remark: str, short: bool = False) -> str:
    return f'<div><b>{escape(value)}</b><span class="{"short" if short else ""}">{escape(remark)}</span></div>'


def _how(row: Row, demand: Demand, opened: bool) -> str:
    bill = row.bill
    said = [("Weights", formulas.weights(demand)), ("Cache", formulas.cache(bill, demand)), ("Before the cut", formulas.before(bill, demand)),
            ("Workspace", formulas.work(bill, demand)), ("Total", formulas.total(bill)), ("Most users", formulas.users(bill, demand)),
            ("Longest context", formulas.context(bill, demand))]  # fmt: skip
    return how(said, opened)


def refusals(said: Sequence[tuple[str, str]]) -> str:
    """Methods that the model cannot take, with the reason."""
    return "".join(f'<p class="kv-small"><b>{escape(title)}</b> is not drawn. {escape(reason)}</p>' for title, reason in said)
