"""The head of a page: setting, title, what to look for, and the figures that settle it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

from kvlab.ui.palette import AXIS_TOKEN

STYLE = """
.kv-head { display: flex; flex-wrap: wrap; gap: 8px 40px; align-items: flex-end; justify-content: space-between; font-feature-settings: "tnum" }
.kv-head > div:first-child { flex: 1 1 420px; min-width: 0 }
.kv-set { font-size: 13px; line-height: 20px; color: var(--small); margin: 0 }
.kv-set i { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 8px; vertical-align: -1px }
.kv-head h1 { font: 600 26px/31px "Source Serif", serif !important; letter-spacing: -.01em; padding: 0 0 3px !important; margin: 0; color: var(--ink) }
.kv-look b { unicode-bidi: isolate }
.kv-eye { display: inline-block; width: 15px; height: 9px; border: 1px solid var(--small); border-radius: 50% / 60%; margin-right: 10px; position: relative }
.kv-eye::after { content: ""; position: absolute; left: 5px; top: 2px; width: 5px; height: 5px; border-radius: 50%; background: var(--small) }
.kv-figs { display: flex; flex-wrap: wrap; gap: 8px 26px }
.kv-figs span { display: block; font-size: 12.5px; line-height: 18px; color: var(--small) }
.kv-figs b { font-size: 19px; line-height: 26px; font-weight: 600; color: var(--ink); unicode-bidi: isolate; white-space: pre }
.kv-figs b.lost { color: var(--lost) }
.kv-figs small { font-size: 13px; color: var(--small) }
@media (min-width: 900px) {
  .st-key-head { flex-wrap: nowrap }
  .st-key-head > * { flex: none; width: auto !important }
  .st-key-head > :first-child { flex: 1 1 0; min-width: 0 }
}
"""

Words = Sequence[tuple[str, bool]]
"""A sentence in pieces; the second part says whether a piece is a key word."""

Figure = tuple[str, str, str, str]
"""Label, value, class of the value ("" or "lost"), remark after it."""


def caption(title: str, sentence: Words, setting: str, run: str) -> dict[str, str]:
    """The footer of a picture of this page (`web/picture.js`)."""
    return {"title": title, "sentence": "".join(text for text, _ in sentence), "setting": setting, "run": run}


def title_block(title: str, sentence: Words, setting: str = "", axis: str = "", figures: Sequence[Figure] = ()) -> None:
    """Draw it. Every text is escaped here: prompts and tokens may hold anything."""
    dot = f'<i style="background:var(--{AXIS_TOKEN[axis]})"></i>' if axis in AXIS_TOKEN else ""
    said = "".join(f"<b>{escape(text)}</b>" if strong else escape(text) for text, strong in sentence)
    cells = "".join(f'<div><span>{escape(a)}</span><b class="{escape(kind)}">{escape(b)}</b><small>{escape(c)}</small></div>' for a, b, kind, c in figures)
    line = f'<p class="kv-set">{dot}{escape(setting)}</p>' if setting else ""
    st.html(
        f'<style>{STYLE}</style><div class="kv-head"><div>{line}<h1>{escape(title)}</h1>'
        f'<p class="kv-look"><span class="kv-eye"></span>{said}</p></div><div class="kv-figs">{cells}</div></div>'
    )
