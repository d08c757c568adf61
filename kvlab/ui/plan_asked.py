"""What the Plan page is asked. Every value lives in the session under a `plan-` key and in the link, so that a link restores the view."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kvlab.planner import shapes
from kvlab.planner.gpus import GPUS
from kvlab.planner.memory import DTYPES, GIB, Demand
from kvlab.planner.shapes import Shape
from kvlab.runs import default_folder

KEPT_CONFIGS = 200
"""Pasted configs that stay on the server; the oldest leave first."""
OWN = "own"


@dataclass(frozen=True)
class Asked:
    """One view. `memory` in GiB, `bandwidth` in GB/s, `peak` in TFLOP/s, each of one GPU; `usable`, `keep` and `floor` in per cent.
    `mix`: the users' lengths where they differ (`kvlab.planner.mix`)."""

    shape: str = "llama-3.1-8b"
    weights: str = "bfloat16"
    gpu: str = "rtx4090"
    mem: float = GPUS["rtx4090"].memory
    bw: float = GPUS["rtx4090"].bandwidth
    peak: float = GPUS["rtx4090"].peak
    gpus: int = 1
    usable: int = 90
    context: int = 16384
    written: int = 512
    users: int = 8
    mix: str = ""
    compress: tuple[str, ...] = ("snapkv", "kivi", "snapkv+kivi")
    keep: int = 25
    floor: int = 90
    evidence: str = ""
    pick: str = ""
    below: bool = False
    formulas: bool = False

    @property
    def usable_bytes(self) -> float:
        return self.mem * GIB * self.usable / 100 * self.gpus

    def demand(self, shape: Shape) -> Demand:
        """Raises ValueError with a sentence."""
        return Demand(shape, self.weights, self.context, self.written, self.users, self.gpus, self.usable_bytes)

    def params(self) -> dict[str, str]:
        """For the link: what is as it comes is left out, but for the model, the GPU, context and users."""
        always, found = {"shape", "gpu", "context", "users"}, GPUS.get(self.gpu)
        usual = asdict(DEFAULT) | ({"mem": found.memory, "bw": found.bandwidth, "peak": found.peak} if found else {"mem": None, "bw": None, "peak": None})
        return {name: _text(value) for name, value in asdict(self).items() if name in always or value != usual[name]}


DEFAULT = Asked()
RANGES: dict[str, tuple[float, float]] = {
    "mem": (1, 4096), "bw": (1, 100_000), "peak": (0.1, 100_000), "gpus": (1, 64), "usable": (10, 100), "context": (2, 16_777_216),
    "written": (1, 1_048_576), "users": (1, 100_000), "keep": (1, 100), "floor": (1, 100),
}  # fmt: skip
WORDS = {"mem": "GPU memory in GiB", "bw": "bandwidth in GB/s", "peak": "peak in TFLOP/s", "gpus": "GPUs", "usable": "usable share in per cent",
         "context": "context in tokens", "written": "tokens written", "users": "users at once", "keep": "kept share in per cent",
         "floor": "quality floor in per cent"}  # fmt: skip
NAMES = [field.name for field in fields(Asked)]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(int(value)) if isinstance(value, bool) else str(value)


def seed(params: MutableMapping[str, str], state: MutableMapping[str, Any]) -> list[str]:
    """Take over a link that was opened, before any widget is drawn; the sentences say what of it could not be."""
    said = {name: params[name] for name in NAMES if name in params}
    wrong: list[str] = []
    if said and said != state.get("plan_link"):
        for name in NAMES:
            value, sentence = _read(name, said[name]) if name in said else (getattr(DEFAULT, name), "")
            state[f"plan-{name}"] = list(value) if isinstance(value, tuple) else value
            wrong += [sentence] if sentence else []
        if "gpu" in said and said["gpu"] in GPUS:
            take_gpu(state, {name for name in ("mem", "bw", "peak") if name in said})
            if (*(state[f"plan-{name}"] for name in ("mem", "bw", "peak")),) != GPUS[said["gpu"]][1:4]:
                state["plan-gpu"] = OWN
        state["plan_wrong"] = wrong
    for name in NAMES:
        default = getattr(DEFAULT, name)
        state.setdefault(f"plan-{name}", list(default) if isinstance(default, tuple) else default)
    return state.get("plan_wrong", [])


def _read(name: str, text: str) -> tuple[Any, str]:
    """A value of a link, or the default and a sentence."""
    default = getattr(DEFAULT, name)
    if isinstance(default, tuple):
        return tuple(text.split())[:20], ""
    if isinstance(default, bool):
        return text == "1", ""
    if isinstance(default, str):
        known = {"weights": list(DTYPES), "gpu": [*GPUS, OWN]}.get(name)
        if known and text not in known:
            return default, f"The link asks for {name} {text[:40]!r}, which is none of {', '.join(known)}. {default} is shown."
        return text[:120], ""
    low, high = RANGES[name]
    try:
        value = type(default)(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        return default, f"The link asks for {WORDS[name]} {text[:40]!r}; from {low:,g} to {high:,.0f} can be shown. {default:,} is."
    return value, ""


def take_gpu(state: MutableMapping[str, Any], keeping: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Fill in the figures of the chosen GPU; those named in `keeping` stay as they are."""
    if found := GPUS.get(state["plan-gpu"]):
        for name, value in (("mem", found.memory), ("bw", found.bandwidth), ("peak", found.peak)):
            if name not in keeping:
                state[f"plan-{name}"] = float(value)


def current(state: MutableMapping[str, Any]) -> Asked:
    """The view that the session asks for. A GPU whose figures were changed is the visitor's own."""
    said = {name: state[f"plan-{name}"] for name in NAMES}
    said["compress"] = tuple(said["compress"])
    for name in ("mem", "bw", "peak"):
        said[name] = float(said[name])
    return Asked(**said)


def publish(asked: Asked, params: Any, state: MutableMapping[str, Any]) -> None:
    """Write the link of this view."""
    said = asked.params()
    if {name: params[name] for name in NAMES if name in params} != said:
        for name in NAMES:
            if name in params and name not in said:
                del params[name]
        params.update(said)
    state["plan_link"] = said


def _folder() -> Path:
    return default_folder().parent / "configs"


def keep_config(text: str) -> Shape:
    """Check a pasted config and keep it on the server under its hash, which a link can hold. Raises ValueError with a sentence."""
    found = shapes.pasted(text)
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{found.key}.{os.getpid()}"
    draft.write_text(text)
    os.replace(draft, folder / f"{found.key}.json")
    for old in sorted(folder.glob("config-*.json"), key=lambda file: -file.stat().st_mtime)[KEPT_CONFIGS:]:
        old.unlink(missing_ok=True)
    return found


def shape_of(key: str) -> Shape:
    """The model of a key: shipped, or pasted earlier. Raises ValueError with a sentence."""
    if key in shapes.shipped():
        return shapes.shape(key)
    if not re.fullmatch(r"config-[0-9a-f]{12}", key):
        raise ValueError(f"There is no model {key[:60]!r} in the list. Choose one of it, or paste a config.json.")
    try:
        return shapes.pasted((_folder() / f"{key}.json").read_text())
    except FileNotFoundError:
        raise ValueError("The pasted config of this link is not stored here; it may have been pasted on another machine. Paste it again.") from None
