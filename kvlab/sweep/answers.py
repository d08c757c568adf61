"""Answers to a sample's questions under one setting after another: filled cache, question, greedy answer, rollback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kvlab.method import Method
from kvlab.models import LM
from kvlab.session import timed
from kvlab.sweep.agree import agreement
from kvlab.sweep.exchange import Exchange, exchanges
from kvlab.sweep.meter import Meter
from kvlab.sweep.moment import Moment
from kvlab.sweep.shared import Prompt
from kvlab.sweep.text import Scored
from kvlab.tasks import Sample
from kvlab.tasks.metrics import METRICS


class Answers:
    """One sample in one of `plan.MODES`. `share`: each prompt is read once for all settings."""

    def __init__(self, lm: LM, sample: Sample, mode: str, template: bool, chunk: int, share: bool = True) -> None:
        self.lm, self.sample = lm, sample
        self.exchanges = exchanges(lm, sample, mode, template)
        self.prompts = {e.prompt: Prompt(lm, list(e.prompt), chunk, share) for e in self.exchanges if e.fresh}
        ends = lm.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
        if sample.lines:
            self.ends -= {end for end in self.ends if "\n" in lm.decode([end])}
        self._references: list[tuple[Moment, Tensor]] = []

    def sizes(self) -> tuple[int, int]:
        """Tokens of the longest cache there will be, and of the first prompt."""
        held, most = 0, 0
        for exchange in self.exchanges:
            held = len(exchange.prompt) + (0 if exchange.fresh else held)
            most = max(most, held + len(exchange.question) + self.sample.max_new_tokens)
        return most, len(self.exchanges[0].prompt)

    def rows(self, method: Method) -> Iterator[dict[str, Any]]:
        """The measured columns of each question's row."""
        for i, exchange in enumerate(self.exchanges):
            start, before = timed(self.lm.device), self._read()
            if exchange.fresh:
                filled = self.prompts[exchange.prompt].filled(method, bool(exchange.question), lambda: Meter(self.lm.geometry))
                session, logits, reading = filled.session, filled.logits, filled.seconds
            elif exchange.prompt:
                logits = session.prefill(self._tensor(exchange.prompt))
                reading = timed(self.lm.device) - start
            if exchange.prompt:
                moment = Moment(session)
            found = self._answer(i, moment, logits)
            found["prefill_s"] += reading
            alone = self._read() - before + (0 if exchange.fresh else len(exchange.prompt))
            yield {**found, "prefill_tokens": alone, "seconds": timed(self.lm.device) - start}
            moment.back()

    def _read(self) -> int:
        """Tokens of prompts that went through the model so far."""
        return sum(prompt.read for prompt in self.prompts.values())

    def _answer(self, i: int, moment: Moment, logits: Tensor) -> dict[str, Any]:
        session, exchange, start = moment.session, self.exchanges[i], timed(self.lm.device)
        if exchange.question:
            logits = session.ask(self._tensor(exchange.question))
        first = timed(self.lm.device)
        ids, steps = self._write(moment, logits)
        end = timed(self.lm.device)
        text = self.lm.decode(ids[:-1] if ids[-1] in self.ends else ids)
        return {
            **session.recorder.figures(session),
            **agreement(self._full(i, ids), steps),
            "score": METRICS[self.sample.metric](text, self.sample.references[i]),
            "answer": text,
            "prefill_s": first - start,
            "decode_s": (end - first) / max(1, len(ids) - 1),
        }

    def _write(self, moment: Moment, logits: Tensor) -> tuple[list[int], Tensor]:
        """The greedy answer up to an end token or to its longest, and the logits [S, V] behind each token."""
        session, ids, steps = moment.session, [], []
        while True:
            steps.append(logits[0])
            ids.append(int(logits[0].argmax()))
            session.recorder.step(session.cache)
            if ids[-1] in self.ends or len(ids) == self.sample.max_new_tokens:
                return ids, torch.stack(steps)
            logits = session.decode(torch.tensor(ids[-1:], device=self.lm.device))

    def _full(self, i: int, ids: list[int]) -> Tensor:
        """Logits [S, V] of the full cache where `ids` were written in answer to question `i`."""
        while len(self._references) <= i:
            self._references.append(self._reference(self.exchanges[len(self._references)]))
        (moment, logits), question = self._references[i], self.exchanges[i].question
        session, rows = moment.session, [] if question else [logits]
        moment.back()
        if fed := [*question, *ids[:-1]]:
            session.logits = []
            session.ask(self._tensor(fed))
            rows.append(session.logits[0][max(0, len(question) - 1) :])
            session.logits = None
        return torch.cat(rows)

    def _reference(self, exchange: Exchange) -> tuple[Moment, Tensor]:
        """The full cache before a question, and its logits [1, V] there. Exchanges are asked for in their order."""
        if exchange.fresh:
            filled = self.prompts[exchange.prompt].filled(Method(), bool(exchange.question), kind=Scored)
            return Moment(filled.session), filled.logits
        moment, logits = self._references[-1]
        if exchange.prompt:
            moment.back()
            logits = moment.session.prefill(self._tensor(exchange.prompt))
            moment = Moment(moment.session)
        return moment, logits

    def _tensor(self, ids: Any) -> Tensor:
        return torch.tensor([list(ids)], device=self.lm.device)
