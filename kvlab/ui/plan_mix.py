"""The card of the Plan page for conversations of different lengths: who the users are, whose bytes they are, and how many fit. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd
import streamlit as st

from kvlab.planner.answer import Row
from kvlab.planner.formulas import X, size
from kvlab.planner.memory import Demand
from kvlab.planner.mix import BUSY, Length, Spread, spread
from kvlab.ui.plan_view import how, percent, sentence
from kvlab.ui.plan_view import table as show
from kvlab.ui.point_card import mark


def spreads(rows: Sequence[Row], demand: Demand, mix: Sequence[Length]) -> list[Spread]:
    """One for every bar of the page."""
    return [spread(row.method, demand, mix) for row in rows]


def draw(found: Sequence[Spread], demand: Demand, opened: bool) -> None:
    """The card on the page."""
    with st.container(border=True, key="card-plan-mix", gap="small"):
        st.html(f'<h2 class="kv-sect">{title(found)}</h2>')
        st.html(card(found, demand, opened))
        sentence("Users are taken as independent, their sum as normal: an estimate, rough for a handful of users.")
        with st.expander("Show as table", key="plan-open-mix", on_change="rerun") as more:
            if more.open:
                show(table(found, demand), "Bytes and users of every setting where lengths differ")


def title(found: Sequence[Spread]) -> str:
    """The finding: how many users the mix allows where all at full length were counted."""
    full = found[0]
    tail = full.mix[-1]
    whose = f"The longest {percent(tail.share)} of users hold {percent(full.shares[-1])} of the full cache's bytes"
    if not full.users:
        return f"{whose}; one of them alone does not fit"
    return f"{whose}; {full.users:,} user{'s' * (full.users != 1)} fit"


def card(found: Sequence[Spread], demand: Demand, opened: bool) -> str:
    """Bars of the shares, a row for every setting, and the formulas."""
    mix, last = found[0].mix, len(found[0].mix) - 1
    tint = lambda i: f"color-mix(in srgb, var(--held) {100 if not last else 25 + 75 * i // last}%, var(--panel))"  # noqa: E731
    bar = lambda shares: "".join(f'<i style="width:{100 * share:.2f}%;background:{tint(i)}"></i>' for i, share in enumerate(shares))  # noqa: E731
    keys = "".join(f'<span><i style="background:{tint(i)}"></i>{one.tokens:,} tokens, {percent(one.share)}</span>' for i, one in enumerate(mix))
    heads = "".join(f"<span>{word}</span>" for word in ("A user, mean", f"{demand.users:,} users, 95 of 100 moments", "Most users"))
    drawn = f'<div class="kv-mx-bar" role="img" aria-label="{_spoken(mix)}">{bar([one.share for one in mix])}</div>'
    users = f'<div class="kv-mx-row kv-mx-top"><span>of the users</span>{drawn}<div class="kv-mx-figs">{heads}</div></div>'
    made = "".join(
        f'<div class="kv-mx-row"><span>{mark(one.method.name, one.method.axis)}{escape(one.method.title)}</span>'
        f'<div class="kv-mx-bar" role="img" aria-label="{_bytes(one)}">{bar(one.shares)}</div>'
        f'<div class="kv-mx-figs"><b>{size(one.mean)}</b><b>{size(one.busy(demand.users))}</b><b>{one.users:,}</b></div></div>'
        for one in found
    )
    return f'<p class="kv-pl-keys kv-mx-keys">{keys}</p><div class="kv-mx">{users}{made}</div>{how(formulas(found, demand), opened)}'


def _spoken(mix: Sequence[Length]) -> str:
    return ", ".join(f"{percent(one.share)} of users at {one.tokens:,} tokens" for one in mix)


def _bytes(one: Spread) -> str:
    return escape(f"{one.method.title}: " + ", ".join(f"{percent(s)} of bytes at {m.tokens:,} tokens" for m, s in zip(one.mix, one.shares, strict=True)))


def formulas(found: Sequence[Spread], demand: Demand) -> list[tuple[str, str]]:
    """The figures worked out, setting by setting."""
    said = []
    for one in found:
        sums = " + ".join(f"{percent(m.share)} {X} {size(count)}" for m, count in zip(one.mix, one.each, strict=True))
        busy = f"{demand.users:,} {X} {size(one.mean)} + {BUSY} {X} {size(one.deviation)} {X} \u221a{demand.users:,} = {size(one.busy(demand.users))}"
        left = f"{size(one.left)} left" if one.left > 0 else "nothing is left"
        need = f"n {X} ({size(one.mean)} + {size(one.scores)} scores) + {BUSY} {X} {size(one.deviation)} {X} \u221an"
        fit = f"the most users n with {need} within it: {one.users:,}"
        alone = f"the longest conversation alone needs {size(max(one.each) + one.scores)}" if not one.users else fit
        said.append((one.method.title, f"mean {sums} = {size(one.mean)}; {busy}; {left} for caches, room for the longest prompt set aside; {alone}"))
    return said


def table(found: Sequence[Spread], demand: Demand) -> pd.DataFrame:
    """The same as a table; bytes as whole numbers."""
    return pd.DataFrame(
        {"Setting": one.method.title, "One user, mean, bytes": round(one.mean), "Deviation, bytes": round(one.deviation),
         f"{demand.users} users, 95 of 100 moments, bytes": round(one.busy(demand.users)), "Most users": one.users,
         **{f"Share of bytes at {m.tokens} tokens": round(share, 4) for m, share in zip(one.mix, one.shares, strict=True)}}
        for one in found
    )  # fmt: skip
