"""The page of `kvlab.ui.report`: one HTML file with everything in it, light, to be printed or sent. Every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kvlab.ui.palette import css
from kvlab.ui.provenance import CONFIG, safe

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""What the browser may do for this page: run what is in it, draw what it made, ask nobody for anything."""
MOST = 500
"""Rows of a table on the page; the files have all of them."""
STYLE = Path(__file__).parent / "report.css"
SAVE = """
document.addEventListener("click", (event) => {
  const { figure, format, filename } = event.target.dataset;
  if (format) Plotly.downloadImage(figure, { format, filename, scale: format === "png" ? 2 : 1 });
});
"""


def page(said: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], figures: Mapping[str, go.Figure]) -> str:
    """The whole page. `said` is `kvlab.ui.report.about`."""
    drawn = "".join(_figure(name, figure, i) for i, (name, figure) in enumerate(figures.items()))
    listed = "".join(_table(name, table) for name, table in tables.items())
    facts = {"Written": said["date"], "Seed": said["seed"], **{str(k): v for k, v in said["settings"].items() if k != "seed"},
             "Versions": ", ".join(f"{k} {v}" for k, v in said["versions"].items())}  # fmt: skip
    told = {run["command"] for run in said["runs"]}
    command = f"<h2>Command</h2><pre>{escape(said['command'])}</pre>" if set(said["command"].splitlines()) - told else ""
    body = f"<h1>{escape(said['title'])}</h1>{drawn}{listed}<h2>Settings</h2>{_facts(facts)}{command}{''.join(_run(run) for run in said['runs'])}"
    script = f"<script>{SAVE}</script>" if figures else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{escape(said["title"])}</title>'
        f'<style>{css()}{STYLE.read_text()}</style></head><body>{body}{script}</body></html>'
    )


def _figure(name: str, figure: go.Figure, number: int) -> str:
    """The first figure brings Plotly, once."""
    made = figure.to_html(full_html=False, include_plotlyjs=number == 0, config=CONFIG, div_id=f"figure-{number}", default_height=420)
    meta = figure.layout.meta
    alt = str(meta["alt"]) if isinstance(meta, dict) and "alt" in meta else name
    saves = f'data-figure="figure-{number}" data-filename="{safe(name)}"'
    buttons = "".join(f'<button {saves} data-format="{kind}">{kind.upper()}</button>' for kind in ("png", "svg"))
    caption = f"<figcaption><span>{escape(alt) if alt != name else ''}</span>{buttons}</figcaption>"
    return f'<h2>{escape(name)}</h2><figure role="figure" aria-label="{escape(alt)}" style="color-scheme:{scheme(figure)}">{made}{caption}</figure>'


def scheme(figure: go.Figure) -> str:
    """The scheme a figure was made for, by its letters: bright ones stand on a dark panel."""
    template = figure.layout.template.layout.font.color if figure.layout.template else None
    letters = (figure.layout.font.color or template or "#000000").lstrip("#")
    return "dark" if len(letters) == 6 and sum(int(letters[i : i + 2], 16) for i in (0, 2, 4)) > 384 else "light"


def _table(name: str, table: pd.DataFrame) -> str:
    heads = "".join(f"<th>{escape(str(column))}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in table.head(MOST).itertuples(index=False, name=None))
    more = f'<p class="small">The first {MOST} of {len(table):,} rows. The CSV and the JSON have all of them.</p>' if len(table) > MOST else ""
    return f'<h2>{escape(name)}</h2><div class="wide"><table><tr>{heads}</tr>{rows}</table></div>{more}'


def _cell(value: Any) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "<td></td>"
    if isinstance(value, float):
        return f'<td class="n">{value:.6g}</td>'
    return f"<td{' class=n' if isinstance(value, int) and not isinstance(value, bool) else ''}>{escape(str(value))}</td>"


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(_words(v))}</dd>" for k, v in facts.items() if v not in (None, "", [], {}))
    return f"<dl>{rows}</dl>"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_words(v)}" for k, v in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)


def _run(run: Mapping[str, Any]) -> str:
    """A run: figures, its answer, and its prompt folded."""
    held, asked, name = run["bytes"], run["request"], escape(run["id"])
    facts = {
        "Made": run.get("created"), "Status": run["status"], "Method": run["method"], "Budget": run["budget"]["asked"], "Model": run["model"],
        "Versions": run.get("versions"), "Held, measured": f"{held['resident']:,} of {held['full']:,} bytes", "Predicted": f"{held['predicted']:,} bytes",
    }  # fmt: skip
    prompt = f"<details><summary>Prompt; save it as {name}.txt</summary><pre>{escape(asked.get('prompt', ''))}</pre></details>"
    question = f"<h3>Question</h3><pre>{escape(asked['question'])}</pre>" if asked.get("question") else ""
    return f"<h2>Run {name}</h2>{_facts(facts)}<pre>{escape(run['command'])}</pre>{prompt}{question}<h3>Answer</h3><pre>{escape(run['text'])}</pre>"
