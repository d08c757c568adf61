"""Files to take away: a table as CSV, everything as JSON or as one HTML page. Each says what made it and the command that makes it again.

No network, no page: plain functions from tables, figures and manifests to text. Names, prompts and answers are strangers' text and are escaped.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import json
import math
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from kvlab import bundle
from kvlab.engine import Request, versions
from kvlab.registry import make
from kvlab.runs import RunStore
from kvlab.ui import report_html

Table = pd.DataFrame | Callable[[], pd.DataFrame]
Figure = go.Figure | Callable[[], go.Figure]
SAID = (
    "id", "created", "status", "model", "method", "knobs", "budget", "bytes", "seconds", "prompt_tokens", "question_tokens", "text", "request", "versions",
)  # fmt: skip
OPTIONS = {"question": "--question", "max_new_tokens": "--max-new-tokens", "seed": "--seed", "temperature": "--temperature", "top_k": "--top-k",
           "top_p": "--top-p", "chunk": "--chunk"}  # fmt: skip
"""Field of a request -> option of `python -m kvlab run`."""
SWITCHES = {"aware": ("--query-aware", True), "template": ("--no-template", False)}
"""Field of a request -> option, and the value that sets it."""
IMPLIED = {"prompt", "attention", "compare"}
"""Fields that `--prompt-file` and `--keep` bring."""


def about(title: str, settings: Mapping[str, Any] = {}, command: str = "", runs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """What every file says of itself: title, date (UTC), versions that wrote it, seeds where known, settings, command, and each run with its own versions.

    `runs` are manifests. Without `command` it is those of the runs.
    """
    seeds = sorted({m["request"]["seed"] for m in runs if "seed" in m["request"]})
    seed = settings.get("seed", seeds[0] if len(seeds) == 1 else seeds or None)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return plain({"title": title, "date": now, "versions": written_by(), "seed": seed, "settings": dict(settings),
                  "command": command or "\n".join(command_of(m) for m in runs), "runs": [said_of(m) for m in runs]})  # fmt: skip


def written_by() -> dict[str, str]:
    """Versions of kvlab and of what draws and computes."""
    return {**versions(), **{name: importlib.metadata.version(name) for name in ("streamlit", "plotly")}}


def said_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's manifest that tells what was asked, what came out and what made it."""
    return {name: manifest[name] for name in SAID if name in manifest} | {"command": command_of(manifest)}


def command_of(manifest: Mapping[str, Any]) -> str:
    """The shell command that makes a run again from its prompt, saved as <id>.txt. What the command line cannot ask for is named after a `#`."""
    asked, made = manifest["request"], manifest.get("versions", {})
    parts = ["python -m kvlab run", f"--prompt-file {manifest['id']}.txt", f"--method {shlex.quote(manifest['method'])}"]
    if manifest["budget"]["asked"]:
        parts.append(f"--budget {shlex.quote(str(manifest['budget']['asked']))}")
    usual = _knobs(manifest["method"])
    parts += [f"--set {shlex.quote(f'{k}={v}')}" for k, v in manifest["knobs"].items() if k.split(".")[-1] != "budget" and usual.get(k) != v]
    parts.append(f"--model {shlex.quote(manifest['model'])}")
    parts += [f"{option} {_quoted(asked[name])}" for name, option in OPTIONS.items() if asked.get(name) not in (None, "")]
    parts += [option for name, (option, value) in SWITCHES.items() if asked.get(name) is value]
    parts += [f"--{name} {shlex.quote(str(made[name]))}" for name in ("dtype", "device") if name in made]
    defaults = {f.name: f.default for f in dataclasses.fields(Request)}
    beyond = {k: v for k, v in asked.items() if k not in (*OPTIONS, *SWITCHES, *IMPLIED) and plain(defaults.get(k)) != plain(v)}
    note = f"  # and with {', '.join(f'{k}={json.dumps(v)}' for k, v in beyond.items())}, in the dashboard" if beyond else ""
    return " ".join([*parts, "--keep"]) + note


def _knobs(method: str) -> dict[str, Any]:
    try:
        return make(method).knobs()
    except ValueError:  # a run of another kvlab: all its knobs are named
        return {}


def _quoted(value: Any) -> str:
    """A word for the shell on one line, line breaks included."""
    text = str(value)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join({"\n": "\\n", "\\": "\\\\", "'": "\\'"}.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + "'"


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers that are none become null, what JSON does not know its text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray, pd.Series)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else None if value is pd.NaT or value is pd.NA else str(value)


def columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a named index as columns."""
    return table.reset_index() if any(name is not None for name in table.index.names) else table


def csv_text(table: pd.DataFrame, said: Mapping[str, Any]) -> str:
    """CSV under two lines that start with "#", title and `said` as JSON. `pandas.read_csv(file, comment="#")` gives the table again.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    head = json.dumps(said["title"])[1:-1]
    return f"# {head}\n# {json.dumps(said)}\n" + columns(table).map(_cell).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)


def _cell(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def json_text(said: Mapping[str, Any], tables: Mapping[str, pd.DataFrame] = {}) -> str:
    """Everything but the figures: `said`, and each table as a list of rows."""
    rows = {name: plain(columns(table).to_dict("records")) for name, table in tables.items()}
    return json.dumps({**said, "tables": rows}, ensure_ascii=False, indent=1)


def html_text(said: Mapping[str, Any], tables: Mapping[str, pd.DataFrame] = {}, figures: Mapping[str, go.Figure] = {}) -> str:
    """One page that stands alone: figures with Plotly inside, tables, settings, versions, command. It fetches nothing and is not let to."""
    return report_html.page(said, {name: columns(table) for name, table in tables.items()}, figures)


def bundle_bytes(store: RunStore, runs: Iterable[str]) -> bytes:
    """The runs as `kvlab.bundle` writes them. Raises ValueError for a run that is not stored."""
    with tempfile.TemporaryDirectory() as spare:
        bundle.export(store, path := Path(spare) / "runs.zip", runs)
        return path.read_bytes()
