"""The form of the Run page filled as a stored run was: what a link `run?run=ID` brings besides the run's lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from kvlab.budget import Budget
from kvlab.registry import registry
from kvlab.ui import form
from kvlab.ui.estimate import unit
from kvlab.ui.service import service

SAME = ("temperature", "top_k", "top_p", "seed", "chunk", "stop_at_end", "template", "attention")
PARTS = ("run-pick-", "run-knob-", "run-with-")


def take_runs() -> None:
    """Fill the form from the runs in the address, once for each link: what is changed afterwards stays. A job in the address goes before them."""
    state, asked = st.session_state, st.query_params.get("run", "")
    if not asked or state.get("run_filled") == asked or service().jobs.group(st.query_params.get("job", "")):
        return
    state["run_filled"] = asked
    state.pop("job", None)
    try:
        runs = [service().store.load(run).manifest for run in asked.split(",") if run][:8]
    except ValueError:
        return  # the lanes say it
    if runs:
        state["run_unlike"] = fill(runs, state)


def fill(runs: Sequence[Mapping[str, Any]], state: Any) -> list[str]:
    """Put prompt, settings and methods of `runs` into the form. Returns a sentence for everything it could not take over."""
    first = next((m for m in runs if m["method"] != "full"), runs[0])
    asked = first["request"]
    prompt = asked.get("prompt", "")
    preset = next((key for key, said in form.presets().items() if said["context"] == prompt), None)
    state.update({"run-source": "Preset" if preset else "Write", "run-text": prompt, "run-question": asked.get("question", ""), "run-model": first["model"],
                  "run-before": not asked.get("aware", False), "run-new": asked.get("max_new_tokens", len(first["tokens"])),
                  **({"run-preset": preset} if preset else {}), **{f"run-{name}": asked[name] for name in SAME if name in asked}})  # fmt: skip
    return [*_methods(runs, state), *_budget(first, state), *_rest(first)]


def _methods(runs: Sequence[Mapping[str, Any]], state: Any) -> list[str]:
    """Choose every method once, each with its knobs."""
    said, taken = [], {}
    for m in runs:
        if m["method"] == "full":
            continue
        if missing := [part for part in m["method"].split("+") if part not in registry()]:
            said.append(f"There is no method {missing[0]} in this kvlab.")
            continue
        form.choose(m["method"], m["knobs"])
        for key, value in taken.items():
            state[key] = list(dict.fromkeys([*value, *state.get(key, [])])) if key.startswith("run-pick-") else value
        taken = {key: value for key, value in state.items() if str(key).startswith(PARTS)}
    if not taken:
        form.choose("full", {})
    return said


def _budget(m: Mapping[str, Any], state: Any) -> list[str]:
    """Put the slider where the run's budget was. Its steps are whole percents, tokens, or units of bytes."""
    if not m["budget"]["asked"]:
        return []
    budget, full = Budget.parse(m["budget"]["asked"]), m["bytes"]["full"]
    divisor, name = unit(full)
    word, most, value = {
        "fraction": ("%", 100, budget.amount * 100), "tokens": ("tokens", max(2, m["prompt_tokens"]), budget.amount),
        "bytes": ("bytes", max(2, full // divisor), budget.amount / divisor),
    }[budget.unit]  # fmt: skip
    place = min(most, max(1, round(value)))
    state.update({"run-unit": word, "run-share": place / most, "run-slider": place})
    words = {"fraction": f"{value:g} %", "tokens": f"{value:,.0f} tokens", "bytes": f"{value:,.2f} {name}"}[budget.unit]
    return [] if abs(place - value) < 1e-9 * most else [f"It asked for a budget of {words}; the slider stands at the nearest step, {place:,}."]


def _rest(m: Mapping[str, Any]) -> list[str]:
    """What the form has no field for."""
    pinned = m["request"].get("pinned")
    count = f"{len(pinned):,} protected {'entry' if len(pinned) == 1 else 'entries'}" if pinned else ""
    return [f"It ran with {count}, which this form does not ask for."] if pinned else []


def unlike() -> None:
    """Say where the form differs from the run of the link."""
    if (said := st.session_state.get("run_unlike")) and st.query_params.get("run", "") == st.session_state.get("run_filled"):
        form.problem("The form is filled as that run was, but for this: " + " ".join(said))
