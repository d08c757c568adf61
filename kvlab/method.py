"""A method: frozen knobs and up to eight hooks. Each default means "full cache".

    adapt(model)             before a run      change weights or projections of a copy; bytes follow by themselves
    prepare(job)             before prefill    scoring passes over the prompt, calibration to have
    store(layer)             at cache build    how slots are held
    owner(layer_idx, state)  at cache build    which layer's store this layer reads
    recall(cache, ids, ...)  before a call     which released tokens are read again beside the new ones
    read(layer, q, q_pos)    every call        which slots this query looks at
    compress(layer, seen)    on its schedule   who stays, who merges, what is encoded
    finish(cache, phase)     after all layers  what is decided across layers

Methods hold knobs only. Tensors live in stores, numbers of one run in `layer.state` and `cache.state`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor

from kvlab.budget import Budget
from kvlab.phase import Phase, Schedule
from kvlab.select import keep_top
from kvlab.store import Pages, Store, View

if TYPE_CHECKING:
    from kvlab.cache import KVCache, LayerKV
    from kvlab.geometry import Geometry
    from kvlab.seen import Seen

AXES = {
    "reference": "Full cache",
    "eviction": "Drop entries",
    "heads": "Drop entries, uneven heads",
    "merging": "Merge entries",
    "retrieval": "Keep all, read less",
    "quantization": "Fewer bits",
    "sparsity": "Fewer values",
    "channels": "Fewer channels",
    "sharing": "Share across layers",
    "prefill": "Prefill and system",
}
"""Folder of `kvlab/methods/` -> what it says on screen."""


@dataclass(frozen=True)
class Probe:
    """A scoring pass over the cached prompt: `before` token ids, then the repeated ids [start, stop) of the prompt. Rolled back after."""

    before: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """What `prepare` may look at: the prompt's token ids and a function from text to ids (none of them where there is no tokenizer)."""

    ids: tuple[int, ...]
    encode: Callable[[str], list[int]]


class Again(NamedTuple):
    """Released tokens to read again, in the order of their positions: `ids` and `pos` [B, n] int64, pos -1 in front of a row with fewer."""

    ids: Tensor
    pos: Tensor


def knob(default: Any, says: str, low: float | None = None, high: float | None = None, step: float | None = None, choices: Sequence | None = None) -> Any:
    """A dataclass field that is a knob: its default, one sentence, and its range or choices. Pages and the command line build on it."""
    return field(default=default, metadata={"says": says, "low": low, "high": high, "step": step, "choices": tuple(choices or ())})


@dataclass(frozen=True)
class Method:
    """Base of all methods. A file in `kvlab/methods/<axis>/` holds one subclass whose `name` is the file's name."""

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    year: ClassVar[int] = 0
    source: ClassVar[str] = "code"  # code, mixed or recon: what stands behind the card
    departs: ClassVar[str] = ""  # where kvlab's form differs from the paper, in a sentence for the screen
    needs: ClassVar[tuple[str, ...]] = ()  # of: queries, weights, rope, calibration, even heads, token positions
    shortens: ClassVar[bool] = False  # whether it lets tokens go no further between layers (`KVCache.shorten`)
    encodes: ClassVar[tuple[str, ...]] = ()  # columns it holds coded: "k", "v". One column, one method
    schedule: ClassVar[Schedule] = Schedule()
    axis: ClassVar[str] = ""  # set by the registry from the folder

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            check_knob(self, f)

    def adapt(self, model: Any) -> None:
        """Change the weights, and the config with them, of a copy that is the run's own (`kvlab.models.adapted`)."""

    def prepare(self, job: Job) -> list[Probe]:
        """Scoring passes to run after the prompt was read and before `compress` acts at prefill end."""
        return []

    def calibrate(self, lm: Any) -> Any:
        """Make the artefact that `needs` names "calibration" for. Called through `kvlab.calibration` only, which keeps it on disk."""
        raise NotImplementedError

    def store(self, layer: LayerKV) -> Store:
        """The empty store of a layer."""
        return Store()

    def owner(self, layer_idx: int, artefact: Any) -> int:
        """The layer whose store layer `layer_idx` reads: itself or a lower one."""
        return layer_idx

    def recall(self, cache: KVCache, ids: Tensor, pos: Tensor, embed: Callable[[Tensor], Tensor]) -> Again | None:
        """Released tokens to read again in this call, of none that is held. `ids`, `pos` [B, t]: the new tokens, -1 padding; `embed`: the model's."""
        return None

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | Pages | None:
        """The slots this query looks at, or the pages of the store they are; None: all of them."""
        return None

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        """Act on one layer after its attention. Drop through `layer.keep`, encode through `layer.code`."""

    def finish(self, cache: KVCache, phase: Phase) -> None:
        """Act on all layers together after a forward call."""

    def kept(self, tokens: int, prompt: int) -> float:
        """Formula: slots per KV head, on average over layers, that stay of `tokens` slots with a prompt of `prompt`."""
        return tokens

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        """Formula: `kept` of the layer with this index, where layers differ."""
        return self.kept(tokens, prompt)

    def head_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> list[tuple[float, float]]:
        """Formula: the kinds of KV heads of this layer, their share of all and the slots each of them holds, where a budget alone says so."""
        return [(1, self.layer_kept(layer, tokens, prompt, geometry))]

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        """Formula: bytes one layer needs for `slots` slots per KV head, on average over layers. Default: raw k, v and one position."""
        return slots * geometry.slot_bytes

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        """Formula: `layer_bytes` where the past counts: `first` slots were held at the last prefill end, `later` tokens came since."""
        return self.layer_bytes(slots, geometry)

    def torn_bytes(self, slots: float, geometry: Geometry) -> float:
        """Formula: bytes on top of `held_bytes` once each head has let go coded entries of its own, for what says which are left."""
        return 0

    def extra_bytes(self, tokens: int, prompt: int, geometry: Geometry) -> float:
        """Formula: bytes held once beside the layers' own, or what these are off by where layers are not alike."""
        return 0

    def refuses(self, geometry: Geometry) -> str | None:
        """Why this model cannot take the method, or None."""
        if "rope" in self.needs and not geometry.rope:
            return f"{self.title} needs rotary positions, and {geometry.family} has none."
        if geometry.latent and self.needs:
            return f"{geometry.family} caches latents (MLA). {self.title} needs {', '.join(self.needs)}, which latents do not offer."
        return None

    @property
    def budget_knob(self) -> bool:
        """Whether this method is the one a budget goes to."""
        return any(f.name == "budget" for f in dataclasses.fields(self))

    def with_budget(self, budget: Budget) -> Method:
        """A copy with this budget."""
        return dataclasses.replace(self, budget=budget)

    @property
    def members(self) -> tuple[Method, ...]:
        return (self,)

    def act(self, layer: LayerKV, seen: Seen) -> None:
        """Call `compress` if the schedule says so."""
        if self.schedule.acts(seen.phase):
            self.compress(layer, seen)

    def phases(self) -> str:
        """When it acts, for a person: its schedule, and the hooks that need none."""
        said = self.schedule.words()
        hooks = [word for hook, word in _UNSCHEDULED.items() if overrides(self, hook)]
        return ", ".join([said, *hooks] if said != "nothing" else hooks) or said

    def knobs(self) -> dict[str, Any]:
        """Knob name -> value, budgets in their short form."""
        return {f.name: str(v) if isinstance(v := getattr(self, f.name), Budget) else v for f in dataclasses.fields(self)}


def check_knob(method: Method, f: dataclasses.Field) -> None:
    """Raise ValueError with a sentence when a knob is out of range."""
    value, meta = getattr(method, f.name), f.metadata
    where = f"{method.name}: {f.name}"
    if meta.get("choices") and value not in meta["choices"]:
        raise ValueError(f"{where} is one of {', '.join(map(str, meta['choices']))}, not {value}.")
    if (meta.get("low") is not None and value < meta["low"]) or (meta.get("high") is not None and value > meta["high"]):
        raise ValueError(f"{where} lies between {meta['low']} and {meta['high']}, not {value}.")


@dataclass(frozen=True)
class Dropper(Method):
    """A method that decides how many slots stay: it has the budget."""

    per_head: ClassVar[bool] = True  # each KV head keeps slots of its own, so each needs its own list of positions

    budget: Budget = field(default=Budget(0.25), metadata={"says": "Share of the prompt's tokens each KV head keeps, or tokens, or bytes of cache."})

    def kept(self, tokens: int, prompt: int) -> float:
        """Default: a cut to the budget at every step, or at prefill end only, and then everything later is kept."""
        if self.schedule.every:
            return self.budget.limit(tokens, prompt)
        return min(tokens, self.budget.tokens(prompt) + tokens - prompt)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        everything = self.budget.unit == "fraction" and self.budget.amount == 1
        lists = geometry.kv_heads if self.per_head and not everything else 1
        return slots * (geometry.slot_bytes + 4 * (lists - 1))


@dataclass(frozen=True)
class Scorer(Dropper):
    """A dropper whose heads each keep their best slots: a subclass gives the scores, and what stays whatever its score."""

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        """[B, H, T] float32: the larger, the longer a slot stays. Numbers of holes are ignored."""
        raise NotImplementedError

    def protected(self, layer: LayerKV, seen: Seen, count: Tensor) -> Tensor | None:
        """Slots [B, H, T] that stay anyway, within the `count` [B] that each head keeps; None: no slot does."""
        return None

    def room(self, layer: LayerKV) -> Tensor:
        """Slots each head of this layer may keep: [B] int64."""
        return layer.target(self.budget)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        count, scores = self.room(layer), self.scores(layer, seen)
        layer.keep(keep_top(scores, count, seen.valid(), self.protected(layer, seen, count)), scores)


@dataclass(frozen=True)
class Compose(Method):
    """Several methods as one. `store`, `owner`, `recall` and `read` may come from one member each; the other hooks run in order."""

    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        for hook in ("store", "owner", "recall", "read"):
            having = [part.name for part in self.parts if overrides(part, hook)]
            if len(having) > 1:
                raise ValueError(f"{' and '.join(having)} cannot run together: both decide {_DECIDES[hook]}.")
        for column, said in _COLUMNS.items():
            coders = [part.name for part in self.parts if column in part.encodes]
            if len(coders) > 1:
                raise ValueError(f"{' and '.join(coders)} cannot run together: both decide how {said} are held. Choose one of them.")
        droppers = [part.name for part in self.parts if part.budget_knob]
        if len(droppers) > 1:
            raise ValueError(f"{' and '.join(droppers)} cannot run together: both decide how many entries stay.")
        self._check_heads()

    def _check_heads(self) -> None:
        even = [part.name for part in self.parts if "even heads" in part.needs]
        drops = [part.name for part in self.parts if part.budget_knob]
        if even and drops:
            raise ValueError(f"{even[0]} and {drops[0]} cannot run together: {even[0]} needs the same entries in every head.")

    @property
    def name(self) -> str:  # type: ignore[override]
        return "+".join(part.name for part in self.parts)

    @property
    def title(self) -> str:  # type: ignore[override]
        return " + ".join(part.title for part in self.parts)

    @property
    def axis(self) -> str:  # type: ignore[override]
        return self.parts[0].axis

    @property
    def source(self) -> str:  # type: ignore[override]
        return max((part.source for part in self.parts), key=["code", "mixed", "recon"].index)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(need for part in self.parts for need in part.needs))

    @property
    def shortens(self) -> bool:  # type: ignore[override]
        return any(part.shortens for part in self.parts)

    @property
    def members(self) -> tuple[Method, ...]:
        return self.parts

    @property
    def budget_knob(self) -> bool:
        return any(part.budget_knob for part in self.parts)

    def with_budget(self, budget: Budget) -> Method:
        return Compose(tuple(part.with_budget(budget) if part.budget_knob else part for part in self.parts))

    def knobs(self) -> dict[str, Any]:
        return {f"{part.name}.{name}": value for part in self.parts for name, value in part.knobs().items()}

    def adapt(self, model: Any) -> None:
        for part in self.parts:
            part.adapt(model)

    def prepare(self, job: Job) -> list[Probe]:
        return [probe for part in self.parts for probe in part.prepare(job)]

    def store(self, layer: LayerKV) -> Store:
        return self._one("store").store(layer)

    def owner(self, layer_idx: int, artefact: Any) -> int:
        return self._one("owner").owner(layer_idx, artefact)

    def recall(self, cache: KVCache, ids: Tensor, pos: Tensor, embed: Callable[[Tensor], Tensor]) -> Again | None:
        return self._one("recall").recall(cache, ids, pos, embed)

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | Pages | None:
        return self._one("read").read(layer, q, q_pos)

    def _one(self, hook: str) -> Method:
        return next((part for part in self.parts if overrides(part, hook)), _PLAIN)

    def act(self, layer: LayerKV, seen: Seen) -> None:
        for part in self.parts:
            if part.schedule.acts(seen.phase):
                part.compress(layer, layer.refreshed(seen))

    def finish(self, cache: KVCache, phase: Phase) -> None:
        for part in self.parts:
            part.finish(cache, phase)

    def kept(self, tokens: int, prompt: int) -> float:
        for part in self.parts:
            tokens = part.kept(tokens, prompt)
        return tokens

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        for part in self.parts:
            tokens = part.layer_kept(layer, tokens, prompt, geometry)
        return tokens

    def head_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> list[tuple[float, float]]:
        found = [(1.0, tokens)]
        for part in self.parts:
            found = [(all_ * share, slots) for all_, of in found for share, slots in part.head_kept(layer, of, prompt, geometry)]
        return found

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return self.held_bytes(slots, slots, 0, geometry)

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        # what each member saves against raw slots adds up, as each works on another column or another layer
        raw = slots * geometry.slot_bytes
        total = raw + sum(part.held_bytes(slots, first, later, geometry) - raw for part in self.parts)
        torn = first + later > slots and geometry.kv_heads > 1 and any(isinstance(part, Dropper) and part.per_head for part in self.parts)
        return total + sum(part.torn_bytes(slots, geometry) for part in self.parts if torn)

    def extra_bytes(self, tokens: int, prompt: int, geometry: Geometry) -> float:
        return sum(part.extra_bytes(tokens, prompt, geometry) for part in self.parts)

    def refuses(self, geometry: Geometry) -> str | None:
        return next((reason for part in self.parts if (reason := part.refuses(geometry))), None)


_PLAIN = Method()  # answers for a hook that no member brings
_COLUMNS = {"k": "keys", "v": "values"}
_UNSCHEDULED = {"owner": "cache build", "read": "every read"}
_DECIDES = {"store": "how entries are held", "owner": "which layer is read", "recall": "what is read again", "read": "which entries are read"}


def overrides(method: Method, hook: str) -> bool:
    """Whether a method's class brings its own version of a hook."""
    return getattr(type(method), hook) is not getattr(Method, hook)
