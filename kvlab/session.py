"""One conversation with a model under one method: feed a prompt, feed a question, write tokens. The engine's inner loop.

A session knows token ids only. It tells the cache which phase it is in, sets positions itself, and listens to a stop event between
tokens and between prefill chunks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from kvlab.cache import KVCache
from kvlab.calibration import artefact
from kvlab.method import Job, Method, Probe, overrides
from kvlab.models import LM, adapted
from kvlab.onward import gates
from kvlab.phase import Phase
from kvlab.rope import ropes
from kvlab.trace import Recorder, Silent


class Stopped(Exception):
    """The stop event was set; everything up to this moment is kept."""


class Session:
    """State of one run. `batch` rows share it; `chunk` is the most prompt tokens per forward call."""

    def __init__(
        self, lm: LM, method: Method, batch: int = 1, chunk: int = 1024, recorder: Recorder | Silent | None = None, stop: threading.Event | None = None
    ) -> None:
        lm = adapted(lm, method)
        self.lm, self.method, self.chunk = lm, method, chunk
        self.recorder, self.stop = recorder or Silent(), stop or threading.Event()
        turns = ropes(lm) if "rope" in method.needs else None
        self.cache = KVCache(method, lm.geometry, batch, self.recorder, lm.device, artefact(method, lm), turns)
        self.probes: list[tuple[Probe, ...]] = []  # passes of the last prompt, one probe for each row
        self.turn = self.step = 0

    @torch.inference_mode()  # not only without gradients: a tenth of a small model's token goes into what autograd might want to know
    def forward(self, ids: Tensor, phase: Phase, real: Tensor | None = None, last: int = 1) -> Tensor:
        """One call of the model: ids [B, t], `real` [B, t] false on padding. Returns the logits of the last `last` tokens [B, last, V]."""
        if self.stop.is_set():
            raise Stopped
        cache, model = self.cache, self.lm.model
        position_ids, mask = self._place(ids, real)
        cache.phase, cache.ids = phase, ids
        ids, position_ids, mask = self._recalled(ids, position_ids, mask)
        extra: dict[str, Any] = {"kvlab_cache": cache} if self.lm.geometry.latent else {}
        with gates(model, cache) if self.method.shortens else nullcontext():
            out = model(
                input_ids=ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True, logits_to_keep=last, **extra
            )
        for layer in cache.layers if ids is not cache.ids else ():
            layer.seen -= ids.shape[1] - cache.ids.shape[1]  # seen before
        cache.finish()
        if phase.kind == "prefill":
            cache.prompt = cache.tokens
        return out.logits

    def _recalled(self, ids: Tensor, position_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The call with those tokens in front that the method wants read again, at their own positions."""
        if not overrides(self.method, "recall"):
            return ids, position_ids, mask
        pos = self.cache.positions(position_ids, mask, len(ids))
        again = self.method.recall(self.cache, ids, pos, self.lm.model.get_input_embeddings())
        if again is None:
            return ids, position_ids, mask
        for layer in self.cache.layers:
            self.recorder.returned(layer, again.pos[0][again.pos[0] >= 0])
        ids, places = torch.cat([again.ids, ids], dim=1), torch.cat([again.pos, pos.long()], dim=1)
        return ids, places.clamp(min=0), None if bool((places >= 0).all()) else (places >= 0).to(ids)

    def _place(self, ids: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Positions [B, t] of the new tokens, and their padding mask [B, t], None where all are real. Earlier padding has left the stores."""
        cache, t = self.cache, ids.shape[1]
        if real is None or bool(real.all()):
            position_ids = cache.tokens[:, None] + torch.arange(t, device=ids.device) if t > 1 else cache.tokens[:, None]
            cache.tokens = cache.tokens + t
            return position_ids, None
        real = real.to(ids)
        position_ids = (cache.tokens[:, None] + real.cumsum(1) - 1).clamp(min=0)
        cache.tokens = cache.tokens + real.sum(1)
        return position_ids, real

    def prefill(self, ids: Tensor, real: Tensor | None = None, question: bool = False, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """Read a prompt in chunks; the last one is the prefill end, where methods compress. Returns its last logits [B, V].

        `question`: text will follow before the first token is written. The remainder comes first, so that the last chunk, whose queries
        many methods listen to, is a whole one.
        """
        total = ids.shape[1]
        self.step += self.turn > 0  # a later prompt's end writes the token after the last one
        cuts = list(range(total % self.chunk or self.chunk, total, self.chunk))
        for start, stop in zip([0, *cuts], [*cuts, total], strict=True):
            end = stop == total
            if end:
                rows = _rows(ids, real)
                self.probes = list(zip_longest(*(self.method.prepare(Job(row, self._encode)) for row in rows), fillvalue=Probe((), 0, 0)))
            phase = Phase("prefill" if end and not self.probes else "chunk", self.turn, self.step, writes=end and not question)
            self.cache.late = bool(self.probes) and end
            logits = self.forward(ids[:, start:stop], phase, None if real is None else real[:, start:stop])
            if progress:
                progress(stop, total)
        if self.probes:
            self._probe(rows, question)
        self.turn += 1
        return logits[:, -1]

    def _encode(self, text: str) -> list[int]:
        return self.lm.encode(text, special=False) if self.lm.tokenizer else []

    @torch.inference_mode()
    def _probe(self, rows: list[tuple[int, ...]], question: bool) -> None:
        """Scoring passes over the cached prompt, each rolled back; then the prefill end without new tokens."""
        start = self.cache.tokens - torch.tensor([len(row) for row in rows], device=self.lm.device)
        for probes in self.probes:
            moment = self.cache.snapshot()
            texts = [[*probe.before, *row[probe.start : probe.stop]] for probe, row in zip(probes, rows, strict=True)]
            repeated = torch.tensor([(probe.start, probe.stop) for probe in probes], device=start.device)
            self.cache.state["probe"] = start + repeated[:, 0], start + repeated[:, 1]
            text, real = _left_padded(texts, start.device)
            self.forward(text, Phase("probe", self.turn, self.step), real)
            found = {i: {k: v for k, v in layer.state.items() if k.startswith("probe")} for i, layer in enumerate(self.cache.layers)}
            self.cache.restore(moment)
            for i, layer in enumerate(self.cache.layers):
                layer.state.update(found[i])
        self.cache.phase = Phase("prefill", self.turn, self.step, writes=not question)
        self.cache.finish()
        for layer in self.cache.layers:
            layer.act_late()
        self.cache.prompt = self.cache.tokens

    def ask(self, ids: Tensor, real: Tensor | None = None) -> Tensor:
        """Feed a question after compression; it is kept whole. Returns the last logits [B, V]."""
        return self.forward(ids, Phase("question", self.turn - 1, self.step, writes=True), real)[:, -1]

    def decode(self, token: Tensor) -> Tensor:
        """Feed the token just written, [B]; returns the logits [B, V] for the one after."""
        self.step += 1
        return self.forward(token[:, None], Phase("decode", self.turn - 1, self.step, writes=True))[:, -1]


def _rows(ids: Tensor, real: Tensor | None) -> list[tuple[int, ...]]:
    """The tokens of each row without its padding."""
    return [tuple((row if real is None else row[real[i].bool()]).tolist()) for i, row in enumerate(ids)]


def _left_padded(texts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """One tensor [B, t] of texts of different lengths, and what of it is real (None: all)."""
    width = max(map(len, texts))
    ids = torch.tensor([[0] * (width - len(text)) + text for text in texts], device=device)
    if all(len(text) == width for text in texts):
        return ids, None
    return ids, torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=device)


class Sampler:
    """Greedy at temperature 0, else transformers' own processors and a seeded draw."""

    def __init__(self, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0, device: Any = "cpu") -> None:
        self.processors = LogitsProcessorList()
        self.greedy = temperature == 0
        if not self.greedy:
            self.processors.append(TemperatureLogitsWarper(temperature))
            if top_k:
                self.processors.append(TopKLogitsWarper(top_k))
            if top_p < 1:
                self.processors.append(TopPLogitsWarper(top_p))
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens [B] and their log-probabilities [B] under the unprocessed logits [B, V]."""
        if self.greedy:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial(self.processors(ids, logits.float()).softmax(-1), 1, generator=self.generator)[:, 0]
        return token, logits.float().log_softmax(-1).gather(1, token[:, None])[:, 0]


def timed(device: torch.device) -> float:
    """Seconds of a clock that waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
