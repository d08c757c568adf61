"""What the Trade-offs page shows: sweep, task, length, axis, methods, point. It lives in the session under `trade-` keys and in the link."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from kvlab.plots.points import AXES, comparable, pareto, shown
from kvlab.plots.words import kept
from kvlab.ui.sweeps import Swept

PARAMS = ("sweep", "model", "task", "length", "mode", "x", "front", "methods", "point", "scheme")
SCHEMES = ("page", "light", "dark")
MOST = 14
"""Methods that are drawn where nobody chose any: more names than these find no place."""


@dataclass(frozen=True)
class Choice:
    """One view, every field valid for its sweep. `methods`: as chosen, empty for `leading`; `point`: id of the selected one or ""."""

    sweep: str
    model: str
    task: str
    length: int
    mode: str
    x: str = "resident"
    front: bool = True
    methods: tuple[str, ...] = ()
    point: str = ""
    scheme: str = "page"

    def params(self) -> dict[str, str]:
        """For the link; what is as it comes is left out, but for sweep, task and length."""
        said = {"sweep": self.sweep, "task": self.task, "length": str(self.length), "mode": self.mode, "model": self.model, "x": self.x,
                "front": "" if self.front else "0", "methods": " ".join(self.methods), "point": self.point,
                "scheme": "" if self.scheme == "page" else self.scheme}  # fmt: skip
        return {name: value for name, value in said.items() if value}


def seed(params: MutableMapping[str, str], state: MutableMapping[str, Any]) -> None:
    """Take over a link that was opened: its values go to the session, before any widget is drawn."""
    said = {name: params[name] for name in PARAMS if name in params}
    if not said or said == state.get("trade_link"):
        return
    for name in PARAMS:
        state.pop(f"trade-{name}", None)
    for name, value in said.items():
        state[f"trade-{name}"] = value
    state["trade-front"] = said.get("front") != "0"
    state["trade-methods"] = said.get("methods", "").split()


def publish(choice: Choice, params: Any, state: MutableMapping[str, Any]) -> None:
    """Write the link of this view."""
    said = choice.params()
    if {name: params[name] for name in PARAMS if name in params} != said:
        for name in PARAMS:
            if name in params and name not in said:
                del params[name]
        params.update(said)
    state["trade_link"] = said


def resolve(swept: Swept, state: MutableMapping[str, Any]) -> Choice:
    """The view the session asks for, with what this sweep does not have replaced; the session is put right, so that widgets can be drawn."""
    points = swept.points
    model = _one(state, "model", options(points, "model"))
    task = _one(state, "task", options(points, "task", model=model))
    length = _one(state, "length", options(points, "length", model=model, task=task))
    mode = _one(state, "mode", options(points, "protocol", model=model, task=task, length=length))
    x = _one(state, "x", list(AXES), "resident")
    scheme = _one(state, "scheme", list(SCHEMES))
    state["trade-front"] = bool(state.get("trade-front", True))
    choice = Choice(swept.name, model, task, length, mode, x, state["trade-front"], scheme=scheme)
    here = panel(swept, choice)
    known = set(here["method"])
    state["trade-methods"] = [method for method in state.get("trade-methods", []) if method in known]
    chosen = str(state.get("trade-point", ""))
    state["trade-point"] = chosen if chosen in set(here["point"]) else ""
    return replace(choice, methods=tuple(state["trade-methods"]), point=state["trade-point"])


def _one(state: MutableMapping[str, Any], name: str, allowed: Sequence[Any], default: Any = None) -> Any:
    """The session's value if it is allowed (links hold text, so by its text), else `default`, else the first."""
    given = {str(value): value for value in allowed}
    value = given.get(str(state.get(f"trade-{name}")), default if default is not None else allowed[0])
    state[f"trade-{name}"] = value
    return value


def options(points: pd.DataFrame, column: str, **given: Any) -> list[Any]:
    """Values of a column among the rows that have the given ones; numbers from small to large."""
    for name, value in given.items():
        points = points[points[name] == value]
    found = list(points[column].unique())
    return sorted(int(value) for value in found) if column == "length" else found


def panel(swept: Swept, choice: Choice) -> pd.DataFrame:
    """The points of the view: one model, task, length and mode; all methods."""
    points = swept.points
    same = (points["model"] == choice.model) & (points["task"] == choice.task) & (points["length"] == choice.length) & (points["protocol"] == choice.mode)
    return points[same]


def shown_methods(points: pd.DataFrame, choice: Choice, most: int = MOST) -> list[str]:
    """The methods to draw of a panel's points: the chosen ones, else those that lead. The full cache and the method of the chosen point always."""
    drawn = {*choice.methods, "full"} if choice.methods else set(leading(points, most))
    drawn |= set(points.loc[points["point"] == choice.point, "method"])
    return [method for method in points["method"].unique() if method in drawn]


def leading(points: pd.DataFrame, most: int = MOST) -> list[str]:
    """At most `most` methods beside the full cache, in the table's order: those on the front first, then those whose best score is best."""
    if points["method"].nunique() <= most + 1:
        return list(points["method"].unique())
    on = set(pareto(points[comparable(points)])["method"])
    gain = points["mean"].where(points["better"] == "higher", -points["mean"])
    best = gain.groupby(points["method"]).max().drop("full", errors="ignore")
    order = sorted(best.index, key=lambda method: (method not in on, -best[method]))
    first = {*order[:most], "full"}
    return [method for method in points["method"].unique() if method in first]


def settling(points: pd.DataFrame, x: str) -> str:
    """The point to look at first: the one that the title names, else the best score on the front but the full cache's; "" if there is none."""
    named = kept(points.assign(x=shown(points, x)))
    front = pareto(points[comparable(points) & (points["axis"] != "reference")], x)
    return str(named["point"].iloc[0]) if len(named) else str(front["point"].iloc[-1]) if len(front) else ""
