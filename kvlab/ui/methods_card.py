"""The written part of one method's card, as HTML. Every text is escaped here, kvlab's own as well."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import urlencode

from kvlab.method import Method
from kvlab.toy import Toy
from kvlab.ui import methods_facts as facts
from kvlab.ui.estimate import size
from kvlab.ui.sweeps import Swept

STYLE = (Path(__file__).parent / "methods_card.css").read_text()
HEADS = ("once", "prompt in chunks", "", "its end", "2nd pass", "", *map(str, range(1, 9)))
"""Words over the columns of a timeline; there is a gap before the written tokens."""


def _part(inner: str) -> str:
    return f'<div class="km">{inner}</div>'


def _prose(text: str) -> str:
    """Escaped text, in which what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def timeline(method: Method) -> str:
    """When each hook that the method brings is called."""
    found = facts.timeline(method)
    if not found:
        return _part("<h2>When it acts</h2><p>Never: every entry stays as it was written.</p>")
    heads = "".join(f'<span style="grid-column: span {2 if word == "prompt in chunks" else 1}">{word}</span>' for i, word in enumerate(HEADS) if i != 2)
    rows = f'<div></div><div class="cols" aria-hidden="true">{heads}</div>'
    for what, when, columns in found:
        cells = "".join(f'<i class="{"on" * (column in columns)}"></i>' + ('<i class="no"></i>' if column == 4 else "") for column in range(len(facts.PHASES)))
        said = f"{what}: {when}"
        rows += f'<div>{escape(what)}<small>{escape(when)}</small></div><div class="cols" role="img" aria-label="{escape(said)}">{cells}</div>'
    return _part(f'<h2>When it acts</h2><div class="tl">{rows}</div><p class="s" style="margin-top:6px">Numbers: tokens written after the prompt.</p>')


def story(kind: type[Method]) -> str:
    """How it works, where it comes from, what it needs."""
    needs = facts.needs(kind())
    rows = "".join(f"<li><b>{escape(facts.need_words(name))}</b> {escape(facts.NEEDS.get(name, ('', ''))[1])}</li>" for name in needs)
    where = facts.paper_link(kind.paper)
    paper = f"{escape(kind.paper)} ({kind.year})" + (f", <code>{escape(where)}</code>" if where else "")
    departs = f"<p><b>Where kvlab's form differs.</b> {_prose(kind.departs)}</p>" if kind.departs else ""
    return _part(
        f"<h2>How it works</h2><p>{_prose(facts.story(kind) or facts.first_sentence(kind))}</p>"
        f'<h2 style="margin-top:12px">Needs</h2><ul>{rows or "<li>Nothing but the entries themselves.</li>"}</ul>'
        f'<h2 style="margin-top:12px">Source: {escape(facts.SOURCES[kind.source])}</h2><p>{escape(facts.SOURCE_SENTENCES[kind.source])} {paper}</p>{departs}'
    )


def knobs(kind: type[Method], one: Toy | str) -> str:
    """Knobs with defaults, ranges and meaning, and those that the toy made smaller."""
    found = facts.knob_rows(kind)
    if not found:
        return _part("<h2>Knobs</h2><p>None.</p>")
    small = one.knobs if isinstance(one, Toy) else {}
    own = {name.replace("_", " "): value for name, value in small.items()}
    rows = [(name, default, str(own.get(name, "")), span, says) for name, default, span, says in found]
    return _part(f'<h2>Knobs</h2><div class="knobs">{_table(("name", "default", "in the toy", "range", "meaning"), rows)}</div>')


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 99) -> str:
    """A table; columns from `numbers` on are set right."""
    kinds = ["n" if i >= numbers else "k" if i == 0 else "" for i in range(len(head))]
    line = lambda cells, tag: "<tr>" + "".join(f'<{tag} class="{k}">{escape(c)}</{tag}>' for k, c in zip(kinds, cells, strict=True)) + "</tr>"  # noqa: E731
    return f'<div class="wide"><table>{line(head, "th")}{"".join(line(row, "td") for row in rows)}</table></div>'


def formula(method: Method) -> str:
    """The byte formula with the numbers of the stated shape."""
    found = facts.formula(method)
    if found.why:
        return _part(f"<h2>Bytes by formula</h2><p>{escape(found.why)}</p>")
    share = min(1.0, found.held / found.full)
    first, second = found.lines
    return _part(
        f'<h2>Bytes by formula</h2><p class="s">{escape(facts.SHAPE_WORDS)}; knobs as they come</p>'
        f'<div class="bar" role="img" aria-label="{share:.0%} of the full cache"><i style="width:{share:.1%}"></i></div>'
        f"<p><b>{size(found.held)}</b> of {size(found.full)} that the full cache holds, {found.held / found.full:.0%}</p>"
        f"<code>{escape(first)}<br>{escape(second)} = <b>{found.held:,} B</b></code>"
    )


def evidence(kind: type[Method], swept: Swept | None) -> str:
    """What a stored sweep measured of this method, with the way to its figure."""
    rows = facts.measured(kind.name, swept.points) if swept else []
    if not rows:
        command = f"python -m kvlab sweep --methods full,{kind.name} --budgets 0.5,0.25,0.125 --tasks niah,recall --samples 20"
        return _part(f"<h2>Measured here</h2><p>No stored sweep holds this method yet. One is made with</p><code>{escape(command)}</code>")
    link = f"tradeoffs?{urlencode({'sweep': swept.name, 'methods': kind.name})}"
    body = _table(("task", "setting", "score [95 % interval]", "questions", "bytes held"), [tuple(row.values()) for row in rows[:8]], numbers=2)
    more = f'<p class="s">{len(rows) - 8} more settings are in the figure.</p>' if len(rows) > 8 else ""
    return _part(f'<h2>Measured here</h2>{body}{more}'
                 f'<p><a class="kv-link" href="{escape(link)}">See it in Trade-offs</a></p>')  # fmt: skip


def claimed(name: str) -> str:
    """The papers' own headline figures; nothing of it was measured here."""
    found = facts.claimed(name)
    if not found:
        return _part('<h2>What papers claim</h2><p class="s">No headline figure of this system is in the list of claims.</p>')
    rows = "".join(f'<li>{escape(claim)} <span class="s">{escape(where)}</span></li>' for claim, where in found[:8])
    more = f'<p class="s">{len(found) - 8} more are in data/claims.csv.</p>' if len(found) > 8 else ""
    return _part(f'<h2>What papers claim</h2><p class="s">Nothing of this was measured by kvlab.</p><ul>{rows}</ul>{more}')


def ways(kind: type[Method], others: Sequence[type[Method]]) -> str:
    """To the Run page with this method, to its neighbours of the same axis, and back to the field."""
    near = "".join(f'<a class="kv-link" href="methods?m={other.name}">{escape(other.title)}</a>' for other in others)
    return _part(f'<p class="ways" style="align-items:center"><a class="kv-link go" href="run?methods={kind.name}">Try it</a>'
                 f'<a class="kv-link" href="methods">All methods</a>{near}</p>')  # fmt: skip


def no_toy(why: str) -> str:
    """In place of a toy: why there is none."""
    return _part(f"<h2>No toy</h2><p>{escape(why)}</p>")
