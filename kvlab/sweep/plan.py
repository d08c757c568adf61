"""What a sweep measures: settings (methods x budgets) x groups (tasks x lengths x seeds x modes x samples). From the command line or YAML."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

import kvlab
from kvlab.budget import Budget
from kvlab.method import Method
from kvlab.models import LM
from kvlab.registry import make
from kvlab.tasks import find

MODES = {
    "requests": "the context is compressed, then each question is asked of that same cache",
    "aware": "context and question are one prompt: compression sees the question",
    "turns": "SCBench's multi-turn: the right answer and the next question are appended, and every turn is compressed",
}
PROTOCOLS = ("prefix", "chunked", "token")


@dataclass(frozen=True)
class Setting:
    """A method with its knobs and budget, and the budget as it was asked for (None where the method has none)."""

    method: Method
    asked: str | None

    @property
    def knobs(self) -> str:
        """The knobs without the budget, as JSON."""
        return json.dumps({k: v for k, v in self.method.knobs().items() if k.rpartition(".")[2] != "budget"}, sort_keys=True)


@dataclass(frozen=True)
class Group:
    """One sample used in one way: what all settings share, and one reading of its context serves."""

    task: str
    length: int
    seed: int
    mode: str
    sample: int


@dataclass(frozen=True)
class Plan:
    """The sweep. `methods` are names, or {name: {knob: value}}; `modes` are of `MODES`, for tasks with questions; `protocols` are
    prefix, "chunked 16" (any number) or token, for tasks that score a text. `chunk`: most prompt tokens per forward call."""

    methods: tuple[Any, ...]
    tasks: tuple[str, ...]
    budgets: tuple[str, ...] = ("0.5", "0.25", "0.125")
    lengths: tuple[int, ...] = (512,)
    seeds: tuple[int, ...] = (0,)
    samples: int = 20
    modes: tuple[str, ...] = ("requests",)
    protocols: tuple[str, ...] = ("prefix",)
    chunk: int = 1024
    template: bool = True
    model: str = "bundled"
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name in ("methods", "tasks", "budgets", "lengths", "seeds", "modes", "protocols"):
            if not getattr(self, name):
                raise ValueError(f"A sweep needs at least one of its {name}.")
        if self.samples < 1 or min(self.lengths) < 1 or self.chunk < 1:
            raise ValueError("samples, lengths and chunk are at least 1.")
        if strange := [mode for mode in self.modes if mode not in MODES]:
            raise ValueError(f"There is no mode {strange[0]!r}. Modes: {', '.join(MODES)}.")
        for protocol in self.protocols:
            protocol_chunk(protocol)
        for budget in self.budgets:
            Budget.parse(budget)
        for task in map(find, self.tasks):
            if task.kind == "answers" and not task.independent and set(self.modes) != {"turns"}:
                raise ValueError(f"The questions of {task.name} build on each other, so they go in the mode turns alone.")
        self.settings()

    def settings(self) -> list[Setting]:
        """Every method under every budget; once where a method takes none."""
        found: dict[tuple[str, str], Setting] = {}
        for entry in self.methods:
            name, knobs = _entry(entry)
            plain = make(name, None, knobs)
            for asked in self.budgets if plain.budget_knob else (None,):
                setting = Setting(plain if asked is None else plain.with_budget(Budget.parse(asked)), asked)
                found.setdefault((setting.method.name, json.dumps(setting.method.knobs(), sort_keys=True)), setting)
        return list(found.values())

    def groups(self) -> Iterator[Group]:
        """Sample by sample, so that every curve has its first points early and all grow alike."""
        for sample in range(self.samples):
            for task in map(find, self.tasks):
                for length in self.lengths:
                    for seed in self.seeds:
                        for mode in self.modes if task.kind == "answers" else self.protocols:
                            yield Group(task.name, length, seed, mode, sample)

    def options(self) -> dict[str, Any]:
        """What differs from the defaults, in plain values: `from_options` makes the same plan of it."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        differs = {f.name: said[f.name] for f in fields(self) if said[f.name] != f.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in differs.items()}

    def command(self) -> str:
        """The call that measures this plan; knobs need a file."""
        given = {name: value for name, value in self.options().items() if name != "template"}
        if not all(isinstance(entry, str) for entry in self.methods):
            given = {"config": "sweep.yaml", **{name: value for name, value in given.items() if name != "methods"}}
        words = [word for name, value in given.items() for word in (f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value))]
        return shlex.join(["python", "-m", "kvlab", "sweep", *words, *([] if self.template else ["--no-template"])])

    def items(self, lm: LM) -> dict[str, tuple[Group, Setting]]:
        """Key of every item -> what it is, in order of the groups."""
        settings = self.settings()
        return {item_key(self, lm, group, setting): (group, setting) for group in self.groups() for setting in settings}


def item_key(plan: Plan, lm: LM, group: Group, setting: Setting) -> str:
    """Sixteen hex digits over everything that defines the figures of a sample under a setting."""
    if not lm.revision:
        raise ValueError(f"{lm.name} has no revision, so nothing measured with it could be told from another model's.")
    said = [kvlab.__version__, lm.revision, lm.dtype, lm.device.type, find(group.task).version, *(getattr(group, f.name) for f in fields(group)),
            plan.chunk, plan.template, setting.method.name, setting.method.knobs()]  # fmt: skip
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def protocol_chunk(protocol: str) -> int | None:
    """Tokens fed at once: of "chunked 16" 16, of token 1, of prefix None (all). Raises ValueError for anything else."""
    word, _, count = protocol.partition(" ")
    if word not in PROTOCOLS or (word == "chunked") != bool(count) or (count and not (count.isdigit() and int(count))):
        raise ValueError(f"A protocol is prefix, token, or chunked with a number of tokens such as 'chunked 16', not {protocol!r}.")
    return int(count) if count else {"prefix": None, "token": 1}[word]


def _entry(entry: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict):
        return next(iter(entry.items()))
    raise ValueError(f"A method is a name or a name with knobs, such as snapkv: {{window: 16}}, not {entry!r}.")


def from_options(options: dict[str, Any]) -> Plan:
    """A plan from plain values, as YAML gives them. Raises ValueError with a sentence for an option that is none, or of the wrong kind."""
    kinds = {f.name: f.default for f in fields(Plan)}
    if strange := sorted(set(options) - set(kinds)):
        raise ValueError(f"A sweep has no option {strange[0]!r}. It has: {', '.join(kinds)}.")
    if missing := [name for name in ("methods", "tasks") if not options.get(name)]:
        raise ValueError(f"Say which {missing[0]} to measure.")
    return Plan(**{name: _value(name, given, kinds[name]) for name, given in options.items()})


def _value(name: str, given: Any, default: Any) -> Any:
    """An option in the type of its default: lists become tuples, one value a tuple of one, budgets text."""
    if name in ("methods", "tasks") or isinstance(default, tuple):
        several = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        kind = {"methods": lambda x: x, "lengths": _whole, "seeds": _whole}.get(name, str)
        return tuple(kind(x) for x in several)
    if isinstance(default, bool):
        if not isinstance(given, bool):
            raise ValueError(f"{name} is true or false, not {given!r}.")
        return given
    return _whole(given) if isinstance(default, int) else str(given)


def _whole(given: Any) -> int:
    if isinstance(given, bool) or not str(given).strip().isdigit():
        raise ValueError(f"{given!r} is not a whole number.")
    return int(given)


def from_yaml(path: Path) -> dict[str, Any]:
    """The options in a YAML file. Raises ValueError with a sentence when it is none."""
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The file {path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds no options. It should have lines such as 'methods: [full, snapkv]'.")
    return options
