"""What a method asks of a serving engine, read from what it declares: its needs, schedule, columns and hooks. Nothing is kept per method."""

from __future__ import annotations

from dataclasses import dataclass

from kvlab.method import Method, overrides
from kvlab.planner.memory import acts


@dataclass(frozen=True)
class Badge:
    """One question an engineer asks, the answer in a word (yes, no, once) and what it follows from. `free`: nothing is asked of the engine."""

    asks: str
    answer: str
    why: str
    free: bool


def badges(method: Method) -> list[Badge]:
    """The four questions: paged append-only cache, attention weights, own kernel, calibration."""
    return [paged(method), weights(method), kernel(method), calibration(method)]


def paged(method: Method) -> Badge:
    """Whether a paged cache that only ever appends can hold it."""
    asks = "append-only pages"
    parts = method.members
    later = any(part.schedule.every for part in parts if part.budget_knob or part.axis == "merging")
    if any(part.axis == "merging" for part in parts):
        return Badge(asks, "no", "it merges entries, so what is stored already is written again", False)
    if later:
        return Badge(asks, "no", "entries leave while text is written, so pages get holes", False)
    if any(part.budget_knob for part in parts):
        heads = " of every head by itself" if any(getattr(part, "per_head", False) for part in parts) else ""
        return Badge(asks, "after one cut", f"the entries{heads} are moved together once, after the prompt; from then on it only appends", False)
    if any(part.encodes for part in parts):
        return Badge(asks, "with a raw tail", "the newest entries stay raw and move to coded pages later; nothing leaves", False)
    if any(overrides(part, "owner") for part in parts):
        return Badge(asks, "yes", "layers that share a cache point to one set of pages", True)
    return Badge(asks, "yes", "nothing that is stored changes", True)


def weights(method: Method) -> Badge:
    """Whether it must see attention weights, which fused kernels do not return."""
    if "weights" in method.needs:
        return Badge("attention weights", "needs them", "it sums attention weights, which fused kernels do not return", False)
    if "queries" in method.needs:
        return Badge("attention weights", "queries only", "it needs some queries, and computes the few weights it wants itself", False)
    return Badge("attention weights", "none", "it declares no need for queries or weights", True)


def kernel(method: Method) -> Badge:
    """Whether reading its cache takes a kernel that engines do not have."""
    if any(part.encodes for part in method.members):
        return Badge("own kernel", "yes", "codes are read packed; without such a kernel each layer is decoded before it is read", False)
    if any(overrides(part, "read") for part in method.members):
        return Badge("own kernel", "yes", "it decides for each query what is read, or at which positions", False)
    if any(part.axis == "heads" for part in method.members):
        return Badge("own kernel", "yes", "heads hold different numbers of entries", False)
    if any(overrides(part, "store") for part in method.members):
        return Badge("own kernel", "yes", "entries are held in a form of its own", False)
    if any(part.budget_knob and part.per_head for part in method.members):
        return Badge("own kernel", "tables per head", "each head keeps tokens of its own, so each needs its own page table", False)
    return Badge("own kernel", "no", "it holds plain keys and values" if acts(method) else "it is the plain cache", True)


def calibration(method: Method) -> Badge:
    """Whether something must be made from data once per model."""
    if "calibration" in method.needs:
        return Badge("calibration", "once per model", "it declares an artefact made from texts of the model", False)
    return Badge("calibration", "none", "it declares none", True)
