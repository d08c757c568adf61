"""From a sample to rows: one group of a plan under one setting after another. Knows nothing of stores, or of where it runs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kvlab.engine import Request, check_length, run, versions
from kvlab.models import LM, adapted
from kvlab.predict import settle
from kvlab.runs import manifest, run_id
from kvlab.samples import COLUMNS, Row
from kvlab.sweep.answers import Answers
from kvlab.sweep.plan import Group, Plan, Setting, item_key
from kvlab.sweep.text import Text
from kvlab.tasks import Sample, find
from kvlab.trace import Trace

FREE_TOKENS = 16
"""Tokens that the stored run of a scored text writes freely, to be looked at."""
NOTHING = dict.fromkeys(COLUMNS) | {"answer": "", "seconds": 0.0, "prefill_tokens": 0, "status": "done"}


@dataclass(frozen=True)
class Measured:
    """One item: its rows, and the run to store behind it, if there is a new one."""

    item: str
    rows: list[Row]
    run: tuple[dict[str, Any], Trace] | None = None


class Measure:
    """A group under way. `share`: read each prompt once. `command` goes into the rows."""

    def __init__(self, lm: LM, plan: Plan, group: Group, sample: Sample, share: bool = True, command: str = "") -> None:
        self.lm, self.plan, self.group, self.sample, self.command = lm, plan, group, sample, command
        self.task = find(group.task)
        if self.task.kind == "text":
            self.work: Answers | Text = Text(lm, sample, group.mode, plan.chunk, share)
        else:
            self.work = Answers(lm, sample, group.mode, plan.template, plan.chunk, share)

    @torch.no_grad()
    def __call__(self, setting: Setting, keep: bool = False, stored: Callable[[str], bool] = lambda run: False) -> Measured:
        """The rows of the sample under a setting; what cannot be run is one row that says why.

        `keep`: also a run of the sample with its trace (without attention), unless `stored` says that it is there already.
        """
        kept, behind = None, None
        try:
            total, prompt = self.work.sizes()
            check_length(self.lm, total, 0)
            method = settle(setting.method, adapted(self.lm, setting.method).geometry, total, prompt)
            found = list(self.work.rows(method))
            if keep:
                request = self.request(setting)
                behind = run_id(self.lm, request)
                kept = None if stored(behind) else run(self.lm, request)
        except ValueError as error:
            found = [{"status": f"refused: {error}"}]
        rows = [self._row(setting, i, {**said, "run": behind}) for i, said in enumerate(found)]
        return Measured(rows[0].item, rows, None if kept is None else (manifest(self.lm, request, kept), kept.trace))

    def request(self, setting: Setting) -> Request:
        """A run to look at behind a point: the sample's first question, or for a scored text the same prefix, written on from freely."""
        text, aware = self.task.kind == "text", self.group.mode in ("aware", "turns")
        return Request(
            prompt=self.sample.context,
            question="" if text else self.sample.questions[0],
            method=setting.method,
            aware=aware,
            max_new_tokens=FREE_TOKENS if text else self.sample.max_new_tokens,
            chunk=self.plan.chunk,
            template=self.plan.template and not text and self.group.mode != "turns",
            attention=False,
            compare=True,
        )

    def _row(self, setting: Setting, question: int, said: dict[str, Any]) -> Row:
        depth = dict(self.sample.about).get("depth")
        about = {
            "item": item_key(self.plan, self.lm, self.group, setting), "question": question,
            "method": setting.method.name, "title": setting.method.title, "axis": setting.method.axis, "setting": setting.knobs, "budget": setting.asked,
            **dataclasses.asdict(self.group), "task_version": self.task.version, "better": self.task.better,
            "depth": float(depth) if isinstance(depth, (int, float)) else None,
            "model": self.lm.name, "revision": self.lm.revision, "dtype": self.lm.dtype, "device": str(self.lm.device),
            "versions": json.dumps(versions()), "command": self.command, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        return Row(**{**NOTHING, **said, **about})
