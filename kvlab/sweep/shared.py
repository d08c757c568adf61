"""One reading of a prompt for many settings.

What a prompt's forward calls compute does not depend on a method that leaves keys, values and positions alone until the prompt's end:
each layer compresses after its attention, and the layers above have their input already. So the calls are made once, under the full
cache, and what reached each layer is kept. `filled` plays them back to a session of any method: writing, observing, compressing and
recording are the frame's own code, in its own order, and only the model's arithmetic is left out. The result is the direct run's, to
the bit and to the byte.

Which methods that holds for is decided by the hooks they bring, and watched while playing; the others read for themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from kvlab.attention import Rules
from kvlab.cache import LayerKV
from kvlab.method import Method, overrides
from kvlab.models import LM
from kvlab.session import Session, timed
from kvlab.store import Store
from kvlab.trace import Silent

HARMLESS = {
    "calibrate", "compress", "finish", "prepare", "read", "refuses", "store", "knobs", "phases", "with_budget",
    "extra_bytes", "held_bytes", "head_kept", "kept", "layer_bytes", "layer_kept", "torn_bytes",
}  # fmt: skip
"""What a method may bring and still share a reading. A hook that is not here, a new one too, may change what the model computes."""


class Unshared(Exception):
    """A method would have changed what the model computes while it reads the prompt."""


@dataclass(frozen=True)
class Heard:
    """What reached one layer in one call: q [1, Hq, t, D], k and v [1, H, t, D], pos [1, t] int32."""

    q: Tensor
    k: Tensor
    v: Tensor
    pos: Tensor
    rules: Rules


class _Listener(Silent):
    """Keeps what reaches each layer."""

    def __init__(self) -> None:
        self.calls: list[list[Heard]] = []

    def attended(self, layer: LayerKV, store: Store, seen: Any) -> None:
        if layer.index == 0:
            self.calls.append([])
        t = seen.q.shape[2]
        own = lambda x: x[:, :, -t:].clone()  # noqa: E731 - a slice would keep the slots of all earlier calls alive
        self.calls[-1].append(Heard(seen.q, own(seen.view.k), own(seen.view.v), seen.q_pos, seen.rules))


@dataclass(frozen=True)
class Reading:
    """A prompt that was read: its ids [1, n], what each call gave each layer, the logits [1, 1, V] at its end, and seconds."""

    lm: LM
    ids: Tensor
    chunk: int
    calls: list[list[Heard]]
    logits: Tensor
    seconds: float


@torch.no_grad()
def read(lm: LM, ids: Tensor, chunk: int = 1024) -> Reading:
    """Read a prompt [1, n] once. What is held are its keys and values once more, and all its queries."""
    listener, start = _Listener(), timed(lm.device)
    logits = Session(lm, Method(), chunk=chunk, recorder=listener).prefill(ids)
    return Reading(lm, ids, chunk, listener.calls, logits[:, None], timed(lm.device) - start)


def shareable(lm: LM, method: Method) -> bool:
    """Whether the hooks a method brings leave the reading of a prompt alone, as far as hooks can say; `filled` watches the rest."""
    hooks = {name for name, what in vars(Method).items() if callable(what) and not name.startswith("_")}
    brought = {name for part in method.members for name in hooks if overrides(part, name)}
    return not lm.geometry.latent and brought <= HARMLESS


class _Playback:
    """Stands in for the model while a session reads the prompt: plays a reading, and hands scoring passes to the model."""

    def __init__(self, model: Any, reading: Reading) -> None:
        self.model, self.reading, self.left = model, reading, list(reading.calls)
        self.written: list[tuple[LayerKV, tuple[Tensor | None, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)  # all else that is asked of a model is the model's own

    def __call__(self, input_ids: Tensor, position_ids: Tensor, past_key_values: Any, **options: Any) -> Any:
        cache = past_key_values
        if cache.phase.kind == "probe":
            return self.model(input_ids=input_ids, position_ids=position_ids, past_key_values=cache, **options)
        if not self.left or not torch.equal(position_ids.to(torch.int32), self.left[0][0].pos):
            raise Unshared
        call = self.left.pop(0)
        if not torch.equal(input_ids, self.reading.ids[:, call[0].pos[0].long()]):
            raise Unshared
        # whatever was done to a layer since it was written would be seen by this call
        if not all(_same(then, _opened(layer.store)) for layer, then in self.written):
            raise Unshared
        self.written = [(layer, _play(layer, heard)) for layer, heard in zip(cache.layers, call, strict=True)]
        self.written = [(layer, then) for layer, then in self.written if layer.window is None]
        return SimpleNamespace(logits=self.reading.logits)


def _play(layer: LayerKV, heard: Heard) -> tuple[Tensor | None, ...]:
    """One layer's step of one call, without the attention. Returns what was held when attention would have looked."""
    layer.update(heard.k, heard.v)
    seen = layer.look(heard.q, heard.k, heard.v, heard.pos, False, heard.rules)
    if layer.window is None:
        _check_view(layer, seen.view, heard)
    held = _opened(layer.store)
    layer.attended(seen)
    if layer.cache.onward is not None:  # the layers above would have got fewer tokens
        raise Unshared
    return held


def _check_view(layer: LayerKV, view: Any, heard: Heard) -> None:
    """The direct run must have attended to all slots of the prompt as they came, and to nothing else."""
    held = _opened(layer.store)
    whole = held[0] is not None and held[0].shape[2] == layer.seen and not view.holes
    rest = [value for name, value in view._asdict().items() if name not in ("k", "v", "places", "holes", "touched")]
    if not (whole and _same(held, (view.k, view.v, view.pos)) and all(value is None for value in rest)):
        raise Unshared
    t = heard.k.shape[2]  # a store of the method's own might have changed what was written
    if type(layer.store) is not Store and not (torch.equal(view.k[:, :, -t:], heard.k) and torch.equal(view.v[:, :, -t:], heard.v)):
        raise Unshared


def _opened(store: Store) -> tuple[Tensor | None, ...]:
    """The raw keys, values and positions of a store; None for each that is held in another way."""
    return tuple(None if store.columns[name].parts else store.columns[name].open for name in ("k", "v", "pos"))


def _same(some: Any, others: Any) -> bool:
    return all(a is b and a is not None for a, b in zip(some, others, strict=True))


@dataclass(frozen=True)
class Filled:
    """A session that has read a prompt and compressed it, the logits [1, V] at the prompt's end, and seconds, a shared reading included."""

    session: Session
    logits: Tensor
    seconds: float


class Prompt:
    """A prompt for many settings: read once, when the first of them can share it. `share` off: everybody reads for himself.

    `read` counts the prompt tokens that went through the model.
    """

    def __init__(self, lm: LM, ids: list[int], chunk: int = 1024, share: bool = True) -> None:
        self.lm, self.chunk, self.share = lm, chunk, share
        self.ids = torch.tensor([ids], device=lm.device)
        self.read = 0
        self._reading: Reading | None = None

    @torch.no_grad()
    def filled(self, method: Method, question: bool = False, recorder: Callable[[], Any] = Silent, kind: type[Session] = Session) -> Filled:
        """A session of `method` after this prompt. `question`: text will follow before the first token is written.

        `recorder` makes one: a try at sharing may be given up half way, and then a fresh one listens.
        """
        session = kind(self.lm, method, chunk=self.chunk, recorder=recorder())
        if self.share and session.lm.model is self.lm.model and shareable(self.lm, method):
            try:
                return self._played(session, question)
            except Unshared:
                session = kind(self.lm, method, chunk=self.chunk, recorder=recorder())
        self.read += self.ids.shape[1]
        start = timed(self.lm.device)
        logits = session.prefill(self.ids, question=question)
        return Filled(session, logits, timed(self.lm.device) - start)

    def _played(self, session: Session, question: bool) -> Filled:
        if self._reading is None:
            self._reading = read(self.lm, self.ids, self.chunk)
            self.read += self.ids.shape[1]
        start, model = timed(self.lm.device), session.lm
        session.lm = dataclasses.replace(model, model=_Playback(model.model, self._reading))
        try:
            logits = session.prefill(self.ids, question=question)
        finally:
            session.lm = model
        return Filled(session, logits, self._reading.seconds + timed(self.lm.device) - start)
