"""Memory of a deployment by formula: weights, caches, what a prompt needs before its cut, workspace; and the two limits that follow.

Bytes of a cache are `kvlab.predict.predicted_bytes`, the formula that every run is checked against. Everything else here is an estimate that
nothing measured, and is called so.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from kvlab.geometry import Geometry
from kvlab.method import Method, overrides
from kvlab.planner.shapes import Shape
from kvlab.predict import predicted_bytes

DTYPES: dict[str, tuple[float, int]] = {"float32": (4, 4), "bfloat16": (2, 2), "8 bit": (1, 2), "4 bit": (0.5, 2)}
"""Weights' type -> bytes of a weight, bytes of a cached value. The scales of 8 and 4 bits come on top and are not counted."""
CHUNK = 1024
"""Prompt tokens of a forward call, as `kvlab run` reads them."""
GIB = 2**30


@dataclass(frozen=True)
class Demand:
    """What is asked: a model, its weights' type, tokens of a conversation (prompt and `written`), users at once, GPUs and their usable bytes together."""

    shape: Shape
    dtype: str
    context: int
    written: int
    users: int
    gpus: int
    usable: float

    def __post_init__(self) -> None:
        if self.written >= self.context:
            raise ValueError(f"Of {self.context:,} tokens of context {self.written:,} are written, so no prompt is left. Write fewer of them.")

    @property
    def geometry(self) -> Geometry:
        return _geometry(self.shape, DTYPES[self.dtype][1])

    @property
    def prompt(self) -> int:
        return self.context - self.written

    @property
    def weights(self) -> float:
        return self.shape.weights.total * DTYPES[self.dtype][0]

    @property
    def copies(self) -> float:
        """How often a cache is held when its KV heads (of latents: the one) are fewer than the GPUs that share the model."""
        return max(1.0, self.gpus / self.geometry.kv_heads)


@functools.lru_cache(maxsize=64)
def _geometry(shape: Shape, itemsize: int) -> Geometry:
    return shape.at(itemsize)


@functools.lru_cache(maxsize=8192)
def cache_bytes(method: Method, geometry: Geometry, tokens: int, prompt: int) -> int:
    """`predicted_bytes`, remembered: moving the GPU's memory asks for none of them again."""
    return predicted_bytes(method, geometry, tokens, prompt)


def one_user(method: Method, demand: Demand, context: int | None = None) -> float:
    """Bytes of one user's cache at the end of a conversation, on all GPUs together."""
    tokens = context or demand.context
    return cache_bytes(method, demand.geometry, tokens, max(1, tokens - demand.written)) * demand.copies


def before_cut(method: Method, demand: Demand, context: int | None = None) -> float:
    """What the one prompt that is being read needs more than later: all of it, until the last chunk was read, where a method acts only then.

    Source: the order of work in `kvlab.cache`, not a measurement. A method that acts at every chunk needs one chunk more.
    """
    geometry, prompt = demand.geometry, max(1, (context or demand.context) - demand.written)
    if every_chunk(method):
        raw = geometry.slot_bytes * min(CHUNK, prompt) * geometry.open_layers
    else:
        # in a prompt of one chunk every layer is cut before the next one is read
        raw = geometry.full_bytes(prompt) - cache_bytes(method, geometry, prompt, prompt) if prompt > CHUNK else geometry.slot_bytes * prompt
    return max(0, raw) * demand.copies if acts(method) else 0


def acts(method: Method) -> bool:
    """Whether a method changes what is held at all: what keeps everything raw has nothing to wait for."""
    return any(overrides(part, hook) for part in method.members for hook in ("compress", "finish"))


def every_chunk(method: Method) -> bool:
    """Whether all of its members that act do so at every chunk of a prompt."""
    return all(part.schedule.chunks for part in method.members if overrides(part, "compress"))


def workspace(demand: Demand) -> tuple[float, float]:
    """Bytes of activations: of one chunk of a prompt, and of one user's decode step (its scores over the vocabulary in float32).

    A chunk holds four rows of the hidden size, two of the feed-forward, and queries, keys and values. An estimate: engines reuse and fuse.
    """
    g, size = demand.geometry, DTYPES[demand.dtype][1]
    row = 4 * demand.shape.hidden + 2 * demand.shape.inner + (g.query_heads + 2 * g.kv_heads) * g.head_dim
    return min(CHUNK, demand.prompt) * row * size, 4.0 * demand.shape.vocabulary


@dataclass(frozen=True)
class Bill:
    """The memory of one setting under a demand, in bytes; `users` and `context` are the limits it leaves (None: no end within the model's positions)."""

    method: Method
    weights: float
    workspace: float
    before: float
    each: float
    caches: float
    usable: float
    users: int
    context: int
    capped: bool

    @property
    def total(self) -> float:
        return self.weights + self.workspace + self.before + self.caches

    @property
    def short(self) -> float:
        """Bytes that are missing; negative: that many are left."""
        return self.total - self.usable


def bill(method: Method, demand: Demand) -> Bill:
    """Memory and limits of one setting. The method must not refuse the model."""
    chunk, step = workspace(demand)
    each, before = one_user(method, demand), before_cut(method, demand)
    context, capped = most_context(method, demand)
    return Bill(method, demand.weights, chunk + step * demand.users, before, each, each * demand.users, demand.usable,
                most_users(method, demand), context, capped)  # fmt: skip


def most_users(method: Method, demand: Demand) -> int:
    """Users at the demand's context that fit: what is left after weights, one chunk and one prompt before its cut, over what each needs."""
    chunk, step = workspace(demand)
    left = demand.usable - demand.weights - chunk - before_cut(method, demand)
    return max(0, int(left // (one_user(method, demand) + step)))


def most_context(method: Method, demand: Demand) -> tuple[int, bool]:
    """Tokens of context that the demand's users can have at most, 0 where none fits, and whether only the model's positions end it.

    The need grows almost in proportion, so the place is guessed on a line through the last two values and then hemmed in.
    """
    low, high = demand.written + 1, max(demand.geometry.context, demand.written + 1)
    if _over(method, demand, low) > 0:
        return 0, False
    if (end := _over(method, demand, high)) <= 0:
        return high, True
    start = _over(method, demand, low)
    while high - low > max(1, low // 500):  # the last tokens of hundreds of thousands are of no use to anybody
        guess = low + int((high - low) * start / (start - end))
        middle = min(high - 1, max(low + 1, guess))
        over = _over(method, demand, middle)
        if over <= 0:
            low, start = middle, over
            # a step past the guess closes the other side at once where the need is a straight line
            if (probe := low + max(1, low // 500)) < high and (there := _over(method, demand, probe)) > 0:
                high, end = probe, there
        else:
            high, end = middle, over
    return low, False


def _over(method: Method, demand: Demand, context: int) -> float:
    """Bytes by which the demand's users at this context are over what is usable."""
    chunk, step = workspace(replace(demand, context=context))
    return demand.weights + chunk + step * demand.users + before_cut(method, demand, context) + one_user(method, demand, context) * demand.users - demand.usable
