"""A text scored under one setting after another: after a prefix was read and compressed, what follows is fed and not chosen. Card:
layers_system_eval.md, "Perplexity with chunked decode under compression".

prefix      all that follows in one call, over the compressed prefix. For methods that act at the prompt's end it is exact, and quick.
chunked c   c tokens a call, each the end of a prompt of its own: compressed after every chunk; within a chunk tokens see each other.
token       one token a call, as in writing: methods that act while writing do.

The first token of the continuation is never scored: it is predicted before anything was compressed. All the others are, for every
method and protocol alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kvlab.method import Method
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.session import Session, timed
from kvlab.sweep.agree import agreement, losses
from kvlab.sweep.meter import Meter
from kvlab.sweep.plan import protocol_chunk
from kvlab.sweep.shared import Prompt
from kvlab.tasks import Sample


class Scored(Session):
    """A session that keeps the logits of every token it is fed, a list of [n, V], once `logits` is a list."""

    logits: list[Tensor] | None = None

    def forward(self, ids: Tensor, phase: Phase, real: Tensor | None = None, last: int = 1) -> Tensor:
        if self.logits is None or phase.kind == "probe":
            return super().forward(ids, phase, real, last)
        found = super().forward(ids, phase, real, ids.shape[1])
        self.logits.append(found[0])
        return found[:, -last:]


class Text:
    """One sample's text in one of `plan.PROTOCOLS`. `share`: the prefix is read once for all settings."""

    def __init__(self, lm: LM, sample: Sample, protocol: str, chunk: int, share: bool = True) -> None:
        self.lm, self.protocol = lm, protocol
        self.prompt = Prompt(lm, lm.encode(sample.context), chunk, share)
        self.ids = torch.tensor(lm.encode(sample.continuation, special=False), device=lm.device)
        if len(self.ids) < 2:
            raise ValueError("A text to score has at least two tokens after its prefix.")
        self._full: Tensor | None = None

    def sizes(self) -> tuple[int, int]:
        """Tokens of the longest cache there will be, and of the prefix."""
        prefix = self.prompt.ids.shape[1]
        return prefix + len(self.ids), prefix

    def rows(self, method: Method) -> Iterator[dict[str, Any]]:
        """The measured columns of the one row."""
        start, before = timed(self.lm.device), self.prompt.read
        if self._full is None:
            self._full = self.logits(self.prompt.filled(Method(), True, kind=Scored).session, "prefix")
        filled = self.prompt.filled(method, True, lambda: Meter(self.lm.geometry), Scored)
        began = timed(self.lm.device)
        found = self.logits(filled.session, self.protocol)
        decode = timed(self.lm.device) - began
        nll = float(losses(found, self.ids[1:]).sum())
        yield {
            **filled.session.recorder.figures(filled.session),
            **agreement(self._full, found),
            "score": math.exp(nll / len(found)),
            "nll": nll,
            "scored_tokens": len(found),
            "prefill_s": filled.seconds,
            "decode_s": decode / len(found),
            "prefill_tokens": self.prompt.read - before,
            "seconds": timed(self.lm.device) - start,
        }

    def logits(self, session: Scored, protocol: str) -> Tensor:
        """Logits [n - 1, V] for the continuation but its first token; `session` has read the prefix, and ends where the text does."""
        session.logits = []
        size, fed = protocol_chunk(protocol), self.ids[None, :-1]
        for part in fed.split(size or fed.shape[1], dim=1):
            if protocol == "token":
                session.decode(part[:, 0])
            elif size:
                session.prefill(part)
            else:
                session.ask(part)
            if isinstance(session.recorder, Meter):
                session.recorder.step(session.cache)
        return torch.cat(session.logits)
