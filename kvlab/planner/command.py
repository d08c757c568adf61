"""The command that runs a planned setting for real, for a shell."""

from __future__ import annotations

import shlex

from kvlab.method import Method
from kvlab.planner.memory import Demand


def command(method: Method, demand: Demand) -> str:
    """`python -m kvlab run ...`; the prompt's file is the reader's, and a pasted config's model too (MODEL)."""
    parts = ["python -m kvlab run", f"--model {shlex.quote(demand.shape.repo or 'MODEL')}", f"--method {method.name}"]
    parts += [f"--budget {part.budget}" for part in method.members if part.budget_knob]
    parts += [f"--set {shlex.quote(f'{name}={value}')}" for name, value in changed(method)]
    parts += [f"--dtype {demand.dtype}"] if demand.dtype in ("float32", "bfloat16") else []
    return " ".join([*parts, "--prompt-file prompt.txt", f"--max-new-tokens {demand.written}", "--keep --json"])


def changed(method: Method) -> list[tuple[str, object]]:
    """The knobs that differ from their defaults, named as `--set` takes them."""
    alone = len(method.members) == 1
    return [
        (name if alone else f"{part.name}.{name}", value)
        for part in method.members
        for name, value in part.knobs().items()
        if name != "budget" and value != type(part)().knobs()[name]
    ]
