"""Where a run's bytes are, as one bar of HTML: the parts of what is held, in an outline as wide as the full cache."""

from __future__ import annotations

from collections.abc import Mapping

from kvlab.plots.looks import size
from kvlab.plots.stack import PARTS

LEAST = 0.006
"""Share of the full cache below which a part is not named: its bar could not be seen."""
STYLE = """
.kv-stack { display: flex; height: 16px; border: 1px solid var(--edge); border-radius: 3px; overflow: hidden } .kv-stack i { display: block; height: 100% }
.kv-stack-keys { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 6px 0 0; font-size: 12.5px; line-height: 18px; color: var(--small) }
.kv-stack-keys i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px }
.kv-stack-keys b { font-weight: 600; color: var(--ink) }
"""


def byte_stack(parts: Mapping[str, int], full: int) -> str:
    """`parts`: bytes by `kvlab.codecs.account.PARTS`; `full`: those of the full cache."""
    shown = [name for name in PARTS if parts.get(name)]
    bars = "".join(f'<i style="width:{100 * parts[name] / max(full, sum(parts.values())):.2f}%;{_fill(name)}"></i>' for name in shown)
    named = [name for name in shown if parts[name] >= LEAST * full]
    keys = "".join(f'<span><i style="{_fill(name)}"></i>{PARTS[name][0]} <b>{size(parts[name])}</b></span>' for name in named)
    spoken = ", ".join(f"{PARTS[name][0]} {size(parts[name])}" for name in shown)
    return f'<style>{STYLE}</style><div class="kv-stack" role="img" aria-label="{spoken}">{bars}</div><p class="kv-stack-keys">{keys}</p>'


def _fill(name: str) -> str:
    """Codes are held too: the same blue, lighter. A window is outlined, an index dotted."""
    _, token, dots = PARTS[name]
    if name == "codes":
        return "background:color-mix(in srgb, var(--held) 60%, var(--panel))"
    if dots:
        return f"background:repeating-linear-gradient(90deg, var(--{token}) 0 1px, var(--panel) 1px 3px)"
    return f"background:var(--{token})" + (";box-shadow:inset 0 0 0 1px var(--held)" if name == "window" else "")
