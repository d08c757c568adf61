"""Choosing methods: pills by axis, what runs together, and knobs made from the dataclass of each method."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from kvlab.geometry import Geometry
from kvlab.method import Method, overrides
from kvlab.registry import describe, registry
from kvlab.ui import marks
from kvlab.ui.form import KEEP, label
from kvlab.ui.plan import SOURCE_WORDS, Pick, acts, ordered, partners

SHOWN = 7
"""Pills of an axis before the rest is folded behind one more."""


def methods_part(geometry: Geometry) -> list[str]:
    """One row of pills per axis. Returns the names chosen, in the order of the form."""
    label("Methods", "acts at &nbsp;prefill | each decode step")
    chosen: list[str] = []
    refused: list[tuple[str, str]] = []
    for hue, kinds in marks.groups().items():
        reasons = {kind.name: kind().refuses(geometry) for kind in kinds}
        refused += [(kind.title, reasons[kind.name]) for kind in kinds if reasons[kind.name]]
        chosen += _axis(hue, [kind for kind in kinds if not reasons[kind.name]])
    if refused:
        rows = "".join(f'<li><span class="kv-off">{escape(title)}</span> {escape(reason)}</li>' for title, reason in refused)
        st.html(f'<ul class="kv-refused">{rows}</ul>')
    return chosen


def _axis(hue: str, kinds: list[type[Method]]) -> list[str]:
    key = f"run-pick-{hue}"
    picked = [name for name in st.session_state.get(key) or [] if name in [kind.name for kind in kinds]]
    st.session_state[key] = picked
    names = [kind.name for kind in kinds]
    if len(names) > SHOWN + 1 and not st.session_state.get(f"run-open-{hue}"):
        names = [n for i, n in enumerate(names) if i < SHOWN or n in picked]
    more = len(kinds) - len(names)
    titles = {kind.name: kind.title for kind in kinds} | {"more": f"+ {more}"}
    name = f'<div class="kv-axis"><i style="background:var(--{hue})"></i><b>{escape(marks.GROUPS[hue])}</b>'
    short = len(kinds) < 3
    with st.container(key=f"axis-{hue}", horizontal=short, vertical_alignment="center", gap="xsmall"):
        st.html(f"{name}</div>" if short else f"{name}{_badge(kinds)}</div>", width="content" if short else "stretch")
        if names:
            st.pills(marks.GROUPS[hue], names + (["more"] if more else []), selection_mode="multi", key=key, format_func=titles.get,
                     label_visibility="collapsed", on_change=_unfold, args=(hue,), wrap=not short, **KEEP)  # fmt: skip
        if short:
            st.html(f'<div class="kv-axis">{_badge(kinds)}</div>')
    return picked


def _unfold(hue: str) -> None:
    key = f"run-pick-{hue}"
    if "more" in st.session_state[key]:
        st.session_state[f"run-open-{hue}"] = True
        st.session_state[key] = [name for name in st.session_state[key] if name != "more"]


def _badge(kinds: list[type[Method]]) -> str:
    """When methods of an axis act: a bar for the prefill, four dots for decode steps; filled where any of them does."""
    prefill = any(kind.schedule.prefill or kind.schedule.chunks or kind.schedule.probes for kind in kinds)
    decode = any(kind.schedule.every or overrides(kind(), "read") for kind in kinds)
    said = " and ".join(w for w, on in (("prefill", prefill), ("decode steps", decode)) if on) or "reading the cache"
    dots = f'<s class="{"on" * decode}"></s>' * 4
    return f'<span class="kv-acts" role="img" aria-label="acts at {said}"><u class="{"on" * prefill}"></u>{dots}</span>'


def picks_part(chosen: list[str]) -> list[Pick]:
    """Per chosen method, folded: partners that run together with it, and the knobs of all of them."""
    picks = []
    if not chosen:
        return picks
    with st.expander("Combine methods, set their knobs"):
        for place, name in enumerate(chosen):
            if place:
                st.html('<hr class="kv-rule">')
            names = ordered([name, *_together(name)]).split("+")
            knobs: dict[str, Any] = {}
            for part in names:
                knobs |= _knobs(name, registry()[part])
            picks.append(Pick("+".join(names), knobs))
    return picks


def _together(name: str) -> list[str]:
    kind = registry()[name]
    st.html(f'<div class="kv-axis"><i style="background:var(--{marks.marker(name)["fill"]})"></i><b>{escape(kind.title)}</b></div>')
    others = partners(name)
    key = f"run-with-{name}"
    st.session_state[key] = [other for other in st.session_state.get(key) or [] if other in others]
    if not others:
        return []
    return st.pills("Run together with", others, selection_mode="multi", key=key, format_func=lambda other: registry()[other].title, **KEEP)


def _knobs(lane: str, kind: type[Method]) -> dict[str, Any]:
    about = describe(kind)
    said = [about["about"].split("\n")[0], f"Acts at {acts(kind())}." if acts(kind()) else "", SOURCE_WORDS[kind.source].capitalize(), about["departs"]]
    st.html(f'<p class="kv-small"><b>{escape(kind.title)}</b>, {escape(kind.paper)}. {escape(" ".join(filter(None, said)))}</p>')
    return {f"{kind.name}.{knob['name']}": _knob(f"run-knob-{lane}-{kind.name}-{knob['name']}", knob) for knob in about["knobs"] if knob["name"] != "budget"}


def _knob(key: str, knob: dict[str, Any]) -> Any:
    """A widget from the knob's type, range and step. The server checks the value again when the method is made."""
    default, (low, high) = knob["default"], knob["range"]
    st.session_state.setdefault(key, default)
    name = knob["name"].replace("_", " ")
    text = f"**{name}** {knob['says']}" + (f" ({low:g} to {high:g})" if low is not None and high is not None else "")
    if knob["choices"]:
        return st.segmented_control(text, knob["choices"], key=key, required=True, **KEEP)
    if isinstance(default, bool):
        return st.checkbox(text, key=key, **KEEP)
    if isinstance(default, int | float):
        as_default = lambda x: None if x is None else type(default)(x)  # noqa: E731 widgets want bounds of the value's type
        return st.number_input(text, as_default(low), as_default(high), step=as_default(knob["step"]), key=key, **KEEP)
    return st.text_input(text, key=key, **KEEP)
