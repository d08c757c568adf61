"""What a page opens with when its address names no run: a stored preset, so that nobody meets an empty page, and the list of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from kvlab.presets import presets
from kvlab.ui.compare import groups, mixed
from kvlab.ui.compare_start import label, title
from kvlab.ui.point_card import mark
from kvlab.ui.start import belonging, suggested

COLUMNS = 3
"""Runs beside the full cache that fit on one screen of Compare without scrolling sideways."""
STYLE = """
.kv-runs { list-style: none; margin: 0 0 10px !important; padding: 0 !important; min-width: min(84vw, 420px) }
.kv-runs li { margin: 0 0 2px; font-size: 13.5px }
.kv-runs a { display: flex; gap: 8px; align-items: center; padding: 3px 6px; border-radius: 6px }
.kv-runs a { color: var(--text) !important; text-decoration: none !important; overflow-wrap: anywhere }
.kv-runs a:hover { background: var(--sunken) } .kv-runs a[aria-current] { color: var(--ink); font-weight: 600 }
.kv-runs-of { font-size: 13px; font-weight: 600; color: var(--ink); margin: 0 0 2px 6px; unicode-bidi: isolate; overflow-wrap: anywhere }
.kv-mark { display: inline-block; width: 12px; height: 12px; flex: none } .kv-mark i { display: block; width: 8px; height: 8px; margin: 2px }
"""

Manifests = Sequence[Mapping[str, Any]]


def first_run(listed: Manifests) -> str:
    """The run to look into: what the first preset suggests, else the first of the list; "" where there is none."""
    wished = (suggested(preset, belonging(preset, list(listed))) for preset in presets())
    found = next((m for m in wished if m), None) or next(iter(listed), None)
    return found["id"] if found else ""


def first_compared(listed: Manifests) -> tuple[str, ...]:
    """The runs to compare: of the first preset that has several, the full cache and a few others; () where nothing can be compared."""
    own = [belonging(preset, list(listed)) for preset in presets()]
    of = next((runs for runs in own if len(runs) > 1), None) or next(iter(groups(listed)), [])
    return tuple(m["id"] for m in mixed(of, COLUMNS + 1))


def run_list(listed: Manifests, now: str) -> str:
    """All runs of the list as links into Look inside, prompt by prompt; every text is escaped."""
    known = {preset["context"]: preset["title"] for preset in presets()}
    of: dict[str, list[Mapping[str, Any]]] = {}
    for m in listed:
        of.setdefault(title(m, known), []).append(m)
    parts = [f'<p class="kv-runs-of">{escape(name)}</p><ul class="kv-runs">{"".join(_line(m, now) for m in runs)}</ul>' for name, runs in of.items()]
    return f"<style>{STYLE}</style>{''.join(parts)}"


def _line(m: Mapping[str, Any], now: str) -> str:
    here = ' aria-current="page"' if m["id"] == now else ""
    return f'<li><a class="kv-link" target="_self" href="inside?run={m["id"]}"{here}>{mark(m["method"], m["axis"])}<bdi>{escape(label(m))}</bdi></a></li>'
