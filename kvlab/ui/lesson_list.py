"""The list of lessons: a card each, with what this session has seen of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from kvlab.lessons import Lesson
from kvlab.ui.lesson import link

STYLE = """
.kv-lessons { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 12px }
.kv-lessons { list-style: none; margin: 8px 0 0 !important; padding: 0 !important }
.kv-lessons li { background: var(--panel); border: 1px solid var(--hairline); border-radius: 10px; padding: 16px 18px }
.kv-lessons li { display: flex; flex-direction: column; gap: 5px; margin: 0 }
.kv-lessons .kv-thumb { display: block; position: relative; margin: 6px 0 4px; overflow: hidden }
.kv-lessons .kv-thumb i { position: absolute; border: 0; border-radius: 0 }
.kv-lessons small { color: var(--small); font-size: 12.5px } .kv-lessons p { margin: 0; color: var(--text); font-size: 14px; line-height: 20px; flex: 1 }
.kv-lessons h2 { font: 600 20px/26px "Source Serif", serif; color: var(--ink); margin: 0; padding: 0 }
.kv-lessons h2 a { color: inherit; text-decoration: none } .kv-lessons h2 a:hover { text-decoration: underline }
.kv-lessons div, .kv-lessons span { display: flex; gap: 5px; align-items: center; font-size: 13px }
.kv-lessons div a:first-of-type { margin-left: auto }
.kv-lessons div a { color: var(--text); margin-left: 12px }
.kv-lessons span i { width: 8px; height: 8px; border: 1px solid var(--edge); border-radius: 50% }
.kv-lessons i.on { background: var(--small); border-color: var(--small) }
"""


def cards(found: Sequence[Lesson], progress: Mapping[str, Mapping[str, Any]], thumbs: Mapping[str, str]) -> str:
    """HTML of the list. A started lesson opens where it was left. `thumbs`: lesson -> its small picture (`kvlab.ui.lesson_thumb`)."""
    made = "".join(_card(lesson, progress.get(lesson.id, {}).get("seen", []), thumbs.get(lesson.id, "")) for lesson in found)
    return f'<style>{STYLE}</style><ol class="kv-lessons">{made}</ol>'


def _card(lesson: Lesson, seen: Sequence[int], thumb: str) -> str:
    count = len(lesson.steps)
    at = seen[-1] if seen else 0
    dots = "".join(f'<i class="{"on" if i in seen else ""}"></i>' for i in range(count))
    said = f"{len(seen)} of {count} steps seen" if seen else f"{count} steps"
    words = "Go on" if seen and len(seen) < count else "Open"
    return (
        f'<li><small>Lesson {lesson.number} · {said}</small><h2><a class="kv-link" href="{escape(link(lesson.id, at))}">{escape(lesson.title)}</a></h2>'
        f'{thumb}<p>{escape(lesson.about)}</p><div><span role="img" aria-label="{said}">{dots}</span>'
        f'<a class="kv-link" href="{escape(link(lesson.id, at))}">{words}</a>'
        f'<a class="kv-link" href="{escape(link(lesson.id, at, True))}">Present</a></div></li>'
    )
