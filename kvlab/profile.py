"""What each attention head of a model is for, measured once and kept with the model: the artefact of HeadKV, HeadKV-R2 and RazorAttention.

Four scores per layer and query head, [L, Hq] float32, as methods/head_merge_retrieval.md defines them:

    retrieval   HeadKV (arXiv 2410.19258): the head's strongest entry lies in the needle, and the model writes just that token
    reasoning   HeadKV-R2: attention on the statement an answer rests on, among the head's strongest entries, when one more step leads to it
    induction   RazorAttention (arXiv 2407.15891): on repeated random tokens, attention on what followed this token earlier
    echo        attention on this same token earlier

Prompts are the bundled generator's English, held-out words, for whatever tokenizer. The answer is read in one pass instead of being
written token by token: where the model is right the two are the same, and prompts it gets wrong do not count. Where it gets all of
them wrong the scores are 0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from kvlab.bundled import forms
from kvlab.bundled.words import HELD_OUT
from kvlab.method import Method
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.profile_scores import Repeats, Rows, copies, rests
from kvlab.session import Session

SCORES = {
    "retrieval": "Needle retrieval: copies the token its strongest entry points at",
    "reasoning": "Needle reasoning: attends to the statement the answer rests on",
    "induction": "Induction: attends to what followed this token before",
    "echo": "Echo: attends to this token's earlier places",
}
"""Name of a score -> what it says, in the order they are shown."""


class Prompt(NamedTuple):
    """Token ids of context, question and answer, of which the answer has `answer`; the needle is at [start, stop)."""

    ids: list[int]
    answer: int
    start: int
    stop: int


def agree(a: list[int], b: list[int]) -> int:
    """How many leading ids two lists share: a piece of text ends there, whatever the tokenizer joins across its border."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def placed(lm: LM, context: str, needle: str, question: str, target: str) -> Prompt:
    """A prompt whose needle is found by its text."""
    ids, at = lm.encode(context), context.index(needle)
    start, stop = (agree(ids, lm.encode(context[:end].rstrip())) for end in (at, at + len(needle)))
    answer = lm.encode(target, special=False)
    return Prompt([*ids, *lm.encode(question, special=False), *answer], len(answer), start, stop)


@dataclass(frozen=True)
class HeadProfile:
    """The job: how many prompts of each kind, their largest size, and the random text. Any change makes a new table."""

    name: ClassVar[str] = "profile"

    prompts: int = 32
    size: int = 512
    drawn: int = 500
    repeats: int = 4

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """The four scores [L, Hq] float32, and "answered" [2] int64: how many of "asked" [2] needle prompts the model got right."""
        if lm.tokenizer is None:
            raise ValueError(f"{lm.name} has no tokenizer, and the prompts that tell its heads apart are text. Load it with one.")
        found, answered, asked = {}, [], []
        for score, prompts in (("retrieval", self.needles(lm)), ("reasoning", self.chains(lm))):
            tables = [self._needle(lm, prompt, score) for prompt in prompts]
            right = [table for table in tables if table is not None]
            empty = torch.zeros(lm.geometry.layers, lm.geometry.query_heads)
            found[score] = torch.stack(right).mean(0) if right else empty
            answered.append(len(right))
            asked.append(len(tables))
        found["echo"], found["induction"] = self._repeated(lm)
        return found | {"answered": torch.tensor(answered), "asked": torch.tensor(asked)}

    def needles(self, lm: LM) -> Iterator[Prompt]:
        """One fact in filler at several depths of texts of several lengths; the question starts the sentence again."""
        for i in range(self.prompts):
            depth = (i // 4 + 0.5) / max(1, self.prompts // 4)
            sample = self._made(lm, "needle", i, kind="sentences", keys=1, depth=min(1.0, depth))
            yield placed(lm, sample.context, sample.needles[0], sample.questions[0], sample.targets[0])

    def chains(self, lm: LM) -> Iterator[Prompt]:
        """A variable set to another one, among chains that lead elsewhere; the needle is the line with the number alone."""
        for i in range(self.prompts):
            sample = self._made(lm, "chain", i, hops=1, letters=False)
            line = next(line for line in sample.context.split("\n") if line.endswith(f" = {sample.answers[0][0]}"))
            yield placed(lm, sample.context, line, sample.questions[0], sample.targets[0])

    def _made(self, lm: LM, form: str, i: int, **options: object) -> forms.Sample:
        size = min(self.size, lm.geometry.context) * (i % 4 + 1) // 4
        return forms.make(form, f"profile-{i}", size, HELD_OUT, questions=1, count=lambda text: len(lm.encode(text, special=False)), **options)

    def _needle(self, lm: LM, prompt: Prompt, score: str) -> Tensor | None:
        """The score [L, Hq] of one prompt; None when more than half of the answer is wrong, or it does not fit the model."""
        if len(prompt.ids) > lm.geometry.context:
            return None
        ids, rows = torch.tensor(prompt.ids, device=lm.device), Rows(prompt.answer)
        logits = Session(lm, Method(), recorder=rows).forward(ids[None, :-1], Phase("prefill"), last=prompt.answer)
        chosen = logits[0].argmax(-1)
        if (chosen == ids[-prompt.answer :]).float().mean() <= 0.5:
            return None
        where = prompt.start, prompt.stop
        return torch.stack([copies(x, ids, chosen, *where) if score == "retrieval" else rests(x, *where) for x in rows.found]).cpu()

    def _repeated(self, lm: LM) -> tuple[Tensor, Tensor]:
        """Echo and induction [L, Hq]: attention per query on different random tokens that come again and again."""
        first = [] if (bos := getattr(lm.tokenizer, "bos_token_id", None)) is None else [bos]
        special = set(getattr(lm.tokenizer, "all_special_ids", ()))
        known = torch.tensor([i for i in range(lm.model.get_input_embeddings().num_embeddings) if i not in special])
        period = min(self.drawn, len(known), (lm.geometry.context - len(first)) // self.repeats)
        drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:period]]
        ids = torch.tensor([*first, *drawn.repeat(self.repeats).tolist()], device=lm.device)
        heard = Repeats(period, len(first))
        Session(lm, Method(), recorder=heard).forward(ids[None], Phase("prefill"))
        echo, after = (torch.stack(list(part)).cpu() / (period * (self.repeats - 1)) for part in zip(*heard.found, strict=True))
        return echo, after


def by_kv_head(table: Tensor, heads: int, how: str) -> Tensor:
    """A table [L, Hq] reduced to its KV heads, [L, heads], by "mean" or "max" over the query heads of each."""
    grouped = table.unflatten(1, (heads, -1))
    return grouped.amax(2) if how == "max" else grouped.mean(2)


def main(argv: list[str]) -> int:
    """`python -m kvlab profile`: make the table of a model, or find it, and print it."""
    from kvlab.calibration import artefact
    from kvlab.models import load
    from kvlab.profile_plot import lines, page
    from kvlab.registry import make

    parser = argparse.ArgumentParser(prog="python -m kvlab profile", description="What each attention head is for; made once per model.")
    parser.add_argument("--model", default="bundled", help="bundled, a local folder or a Hugging Face id")
    parser.add_argument("--picture", type=Path, help="also write the picture to this HTML file")
    parser.add_argument("--theme", default="light", choices=("light", "dark"), help="of the picture")
    parser.add_argument("--json", action="store_true", help="print all scores as one JSON object")
    args = parser.parse_args(argv)
    table = artefact(make("headkv"), load(args.model))
    if args.picture:
        args.picture.write_text(page(table, args.theme), encoding="utf-8")
    print(json.dumps({name: scores.tolist() for name, scores in table.items()}) if args.json else "\n".join(lines(table)))
    return 0
