"""The Compare page before runs are chosen: what could be laid side by side, as links, and the picker for runs of one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import streamlit as st

from kvlab.presets import presets
from kvlab.ui.compare import MOST, Asked, Lineup, candidates, groups, is_full, mixed
from kvlab.ui.inside import show
from kvlab.ui.point_card import mark

STYLE = """
.kv-offers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 12px }
.kv-offer { display: block; border: 1px solid var(--hairline); border-radius: 10px; background: var(--panel); padding: 14px 16px }
a.kv-offer { color: var(--text) !important; text-decoration: none !important }
.kv-offer:hover { border-color: var(--edge); background: var(--sunken) } .kv-offer:focus-visible { outline: 2px solid var(--ink); outline-offset: 2px }
.kv-offer b { display: block; font: 600 18px/24px "Source Serif", serif; color: var(--ink); unicode-bidi: isolate; overflow-wrap: anywhere }
.kv-offer small { display: block; font-size: 12.5px; line-height: 18px; color: var(--small) }
.kv-offer span { display: inline-flex; align-items: center; gap: 6px; font-size: 13.5px; margin: 6px 12px 0 0; color: var(--ink); unicode-bidi: isolate }
.kv-offer u { display: inline-block; margin-top: 10px; font-size: 13.5px; color: var(--ink); text-underline-offset: 3px }
.kv-mark { display: inline-block; width: 12px; height: 12px; flex: none } .kv-mark i { display: block; width: 8px; height: 8px; margin: 2px }
"""


def label(manifest: Mapping[str, Any]) -> str:
    """A run in a list: its method and budget, and the first words it wrote."""
    asked = manifest["budget"]["asked"]
    setting = f"{manifest['title']}, budget {asked}" if asked else manifest["title"]
    return f"{setting}: {show(manifest['text'])}" if manifest["text"].strip() else setting


def title(manifest: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """What a prompt is called: a preset by its title, any other by its question or its beginning."""
    asked = manifest["request"]
    text = known.get(asked.get("prompt") or "") or (asked.get("question") or asked.get("prompt") or "").strip() or "A prompt"
    return text if len(text) <= 64 else text[:63] + "…"


def offers(listed: Sequence[Mapping[str, Any]]) -> str:
    """A card for every prompt with at least two stored runs; each is one link."""
    known = {preset["context"]: preset["title"] for preset in presets()}
    cards = []
    for runs in groups(listed):
        chosen = mixed(runs)
        ids = ",".join(m["id"] for m in chosen)
        rest = f" of {len(runs)}" if len(runs) > len(chosen) else ""
        marks = "".join(f"<span>{mark(m['method'], m['axis'])}{escape(m['title'])}</span>" for m in chosen)
        tokens = runs[0]["prompt_tokens"] + runs[0]["question_tokens"]
        cards.append(
            f'<a class="kv-offer kv-link" href="compare?cmp={ids}"><b>{escape(title(runs[0], known))}</b>'
            f"<small>{tokens:,} tokens</small>{marks}<br><u>Compare {len(chosen)}{rest} runs</u></a>"
        )
    return f'<style>{STYLE}</style><div class="kv-offers">{"".join(cards)}</div>'


def picker(line: Lineup, listed: Sequence[Mapping[str, Any]]) -> None:
    """Choose other runs of the same prompt; the address changes, and the page with it."""
    found = {m["id"]: m for m in candidates(listed, line.reference.manifest)} | {run.id: run.manifest for run in line.columns}
    now = [run for run in found if run in line.asked.ids]
    key = "compare-runs-" + "-".join(now)  # a new address is a new widget: it never shows the choice of an earlier one

    def changed() -> None:
        chosen = tuple(st.session_state[key])
        ref = line.asked.ref if line.asked.ref in chosen or (line.asked.ref in found and is_full(found[line.asked.ref])) else ""
        if chosen:
            params = {k: v for k, v in st.query_params.items() if k not in ("cmp", "ref", "step", "tok")}
            st.query_params.from_dict({**params, **Asked(chosen, ref, line.asked.blind, line.asked.revealed).params()})

    st.multiselect(
        f"Runs on this prompt, 2 to {MOST}", list(found), now, format_func=lambda run: label(found[run]), max_selections=MOST, key=key, on_change=changed
    )
