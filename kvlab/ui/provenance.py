"""Where figures come from: which command, model, versions, seeds and how many samples. Every export says it."""

from __future__ import annotations

import json
import shlex
import textwrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from kvlab.plots.looks import label
from kvlab.ui.palette import colour

CONFIG: dict[str, Any] = {"displaylogo": False, "showSendToCloud": False, "displayModeBar": False}
"""Plotly's settings for every figure of the page: no logo, and no button that sends data away."""
LISTS = ("methods", "budgets", "tasks", "lengths", "seeds", "modes", "protocols")


def about(raw: pd.DataFrame) -> dict[str, Any]:
    """What is known of these points, as plain JSON; a field the table lacks is missing here too."""
    imported = raw["source"] == "imported"
    kinds = {(True, True): "imported, not measured here", (True, False): "measured, beside imported points that are marked"}
    said: dict[str, Any] = {"source": kinds.get((bool(imported.any()), bool(imported.all())), "measured")}
    for name in ("model", "revision", "dtype", "device", "seeds", "command"):
        if name in raw and (values := [str(value) for value in raw[name].dropna().unique()]):
            said[name] = values[0] if len(values) == 1 else values
    if "versions" in raw and (values := raw["versions"].dropna().unique()).size:
        said["versions"] = [_json(value) for value in values] if len(values) > 1 else _json(values[0])
    said["samples"] = sorted({int(count) for count in raw["n"].dropna()})
    return said


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return str(text)


def line(said: dict[str, Any]) -> str:
    """All but the command, in one line of plain text."""
    counts = said["samples"]
    many = "" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    versions = said.get("versions")
    named = ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, dict) else "versions differ" if versions else ""
    model = " ".join(_text(said[name]) for name in ("model", "revision") if name in said)
    kind = ", ".join(_text(said[name]) for name in ("device", "dtype") if name in said)
    seeds = f"seed {_text(said['seeds'])}" if "seeds" in said else ""
    samples = f"{many} sample{'' if many == '1' else 's'} for each point" if many else ""
    return " · ".join(part for part in (samples, seeds, model, kind, named, said["source"] if said["source"] != "measured" else "") if part)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def runnable(command: str) -> str:
    """The recorded command (its plan as JSON) as one that a shell takes. What is no such command stays as it is."""
    head, _, plan = command.partition(" {")
    said = _json("{" + plan) if plan else None
    if not isinstance(said, dict) or not all(isinstance(method, str) for method in said.get("methods", [None])):
        return command
    parts = [head]
    for name, value in sorted(said.items(), key=lambda item: item[0] != "methods"):
        if name == "template":
            parts += [] if value else ["--no-template"]
        elif value not in ("auto", None):
            parts.append(f"--{name} {shlex.quote(','.join(map(str, value)) if isinstance(value, list) else str(value))}")
    return " ".join(parts)


def footer(said: dict[str, Any]) -> list[str]:
    """Line and command as the lines under an exported figure."""
    commands = said.get("command", [])
    text = [line(said), *(runnable(command) for command in ([commands] if isinstance(commands, str) else commands[:3]))]
    return [part for entry in text for part in textwrap.wrap(entry, 150)]


def signed(figure: go.Figure, said: dict[str, Any], scheme: str) -> go.Figure:
    """The figure with its footer; for files, which leave the page and its words behind."""
    made, lines = go.Figure(figure), footer(said)
    bottom, room = made.layout.margin.b or 56, 17 * len(lines) + 14
    for i, text in enumerate(lines):
        label(made, text, 0, 0, scheme, token="small", xref="paper", yref="paper", xanchor="left", yanchor="top", yshift=-bottom - 17 * i)
    made.update_layout(height=made.layout.height + room, margin_b=bottom + room)
    return made


def page_of(figure: go.Figure, scheme: str) -> go.Figure:
    """The figure on an opaque ground of its scheme."""
    return figure.update_layout(paper_bgcolor=colour("panel", scheme), plot_bgcolor=colour("panel", scheme))


def safe(name: str) -> str:
    """A name for a file, whatever it is called on screen."""
    return "kvlab-" + "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)[:80]


def saving(name: str, kind: str = "png") -> dict[str, Any]:
    """Plotly's settings with one button: save this picture, made in the browser."""
    button = {"format": kind, "filename": safe(name), "scale": 2 if kind == "png" else 1}
    return {**CONFIG, "displayModeBar": True, "modeBarButtons": [["toImage"]], "toImageButtonOptions": button}
