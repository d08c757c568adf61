"""Bytes by formula, from sizes alone: what a run will hold. The measured figure stands beside it; the two are never mixed."""

from __future__ import annotations

from kvlab.budget import Budget
from kvlab.geometry import Geometry
from kvlab.method import Method


def predicted_bytes(method: Method, geometry: Geometry, tokens: int, prompt: int) -> int:
    """Bytes held when `tokens` have been seen, `prompt` of them at the last prefill end. Windowed layers keep their window."""
    held = sum(_layer_bytes(method, geometry, i, tokens, prompt) for i, window in enumerate(geometry.windows) if window is None)
    held += sum(geometry.slot_bytes * min(tokens, window - 1) for window in geometry.windows if window is not None)
    held += method.extra_bytes(tokens, prompt, geometry)
    return round(held)


def _layer_bytes(method: Method, geometry: Geometry, layer: int, tokens: int, prompt: int) -> float:
    # what is coded when goes by the slots of a head: heads that hold unequally many are counted each for itself
    heads, before = (method.head_kept(layer, seen, prompt, geometry) for seen in (tokens, prompt))
    if method.budget_knob and sum(share * slots for share, slots in heads) >= tokens:
        method = method.with_budget(Budget(1))  # what holds everything in every head needs one list of positions
    return sum(share * method.held_bytes(slots, first, tokens - prompt, geometry) for (share, slots), (_, first) in zip(heads, before, strict=True))


def settle(method: Method, geometry: Geometry, tokens: int, prompt: int) -> Method:
    """The method with a budget in bytes turned into the largest number of tokens that fits at the end of the run.

    Raises ValueError with the smallest possible figure when not even one slot per head fits.
    """
    budgets = [part.budget for part in method.members if part.budget_knob]
    if not budgets or budgets[0].unit != "bytes":
        return method
    cost = lambda n: predicted_bytes(method.with_budget(Budget(n, "tokens")), geometry, tokens, prompt)  # noqa: E731
    if cost(1) > budgets[0].amount:
        raise ValueError(
            f"{method.title} cannot fit {tokens} tokens into {budgets[0].amount:,.0f} bytes: even one kept prompt token per head needs {cost(1):,}. "
            "Give more bytes, or write fewer tokens."
        )
    # everything may cost less than nearly everything: see above
    low, high = (prompt, prompt) if cost(prompt) <= budgets[0].amount else (1, prompt)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= budgets[0].amount else (low, middle - 1)
    return method.with_budget(Budget(low, "tokens"))
