"""Finding methods: every file in `kvlab/methods/<axis>/` holds one `Method` whose name is the file's name. No list to keep."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
from pathlib import Path
from typing import Any

from kvlab.budget import Budget
from kvlab.method import AXES, Compose, Method

FOLDER = Path(__file__).parent / "methods"


@functools.cache
def registry() -> dict[str, type[Method]]:
    """Name -> class, by axis and name. A file without its method, or two of one name, is an ImportError."""
    found: dict[str, type[Method]] = {}
    for axis in AXES:
        for file in sorted((FOLDER / axis).glob("[!_]*.py")):
            module = importlib.import_module(f"kvlab.methods.{axis}.{file.stem}")
            classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method) and c.__module__ == module.__name__ and c.name]
            if [c.name for c in classes] != [file.stem]:
                raise ImportError(f"kvlab/methods/{axis}/{file.name} must hold exactly one method, named {file.stem!r}.")
            if file.stem in found:
                raise ImportError(f"Two methods are named {file.stem!r}.")
            classes[0].axis = axis
            found[file.stem] = classes[0]
    return found


def make(name: str, budget: Budget | str | float | None = None, knobs: dict[str, Any] | None = None) -> Method:
    """A method from `snapkv` or a composition from `snapkv+kivi`. Knobs are `window` or, where two members have it, `snapkv.window`.

    Raises ValueError with a sentence for unknown names and knobs; near names are suggested.
    """
    parts = tuple(_one(part, knobs or {}) for part in name.split("+"))
    known = {f.name for part in parts for f in dataclasses.fields(part)}
    known |= {f"{part.name}.{f.name}" for part in parts for f in dataclasses.fields(part)}
    if unknown := sorted(set(knobs or {}) - known):
        raise ValueError(f"{name} has no knob {unknown[0]!r}. It has: {', '.join(sorted(k for k in known if '.' not in k and k != 'budget')) or 'none'}.")
    method = parts[0] if len(parts) == 1 else Compose(parts)
    if budget is None:
        return method
    budget = Budget.parse(budget)
    # a full cache has no budget to refuse: the user asked for all of it anyway
    return method.with_budget(budget) if method.budget_knob else method


def _one(name: str, knobs: dict[str, Any]) -> Method:
    name = name.strip()
    if name not in registry():
        near = difflib.get_close_matches(name, registry(), 3, 0.5)
        raise ValueError(f"There is no method {name!r}." + (f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(registry())}."))
    kind = registry()[name]
    mine = {}
    for f in dataclasses.fields(kind):
        given = knobs.get(f"{name}.{f.name}", knobs.get(f.name))
        if given is not None and f.name != "budget":
            mine[f.name] = _read(given, getattr(kind(), f.name), f"{name}: {f.name}")
    return kind(**mine)


def _read(given: Any, default: Any, where: str) -> Any:
    """A knob from the command line, in the type of its default."""
    if isinstance(default, bool):
        if str(given).lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(f"{where} is true or false, not {given}.")
        return str(given).lower() in ("true", "1", "yes")
    if isinstance(default, int) and isinstance(given, float) and not given.is_integer():
        raise ValueError(f"{where} is a whole number, not {given}.")
    try:
        return type(default)(given)
    except (TypeError, ValueError):
        raise ValueError(f"{where} is a {'number' if isinstance(default, (int, float)) else 'word'}, not {given!r}.") from None


def describe(kind: type[Method]) -> dict[str, Any]:
    """Everything a table, a page or a script wants to know of a method."""
    method = kind()
    return {
        "name": kind.name,
        "title": kind.title,
        "axis": kind.axis,
        "paper": kind.paper,
        "year": kind.year,
        "source": kind.source,
        "departs": kind.departs,
        "phases": method.phases(),
        "needs": list(method.needs),
        "budget": method.budget_knob,
        "knobs": [
            {"name": f.name, "default": method.knobs()[f.name], "says": f.metadata.get("says", ""), "range": [f.metadata.get("low"), f.metadata.get("high")],
             "step": f.metadata.get("step"), "choices": list(f.metadata.get("choices") or ())}
            for f in dataclasses.fields(kind)
        ],
        "about": (kind.__doc__ or "").strip(),
    }
