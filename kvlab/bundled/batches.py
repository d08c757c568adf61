"""Batches of training rows: token ids, target weights and positions with gaps.

A batch depends only on (seed, step), so a resumed run sees the same data as an
uninterrupted one and needs no state of a data loader.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from kvlab.bundled import forms, natural, ruler, taskrows
from kvlab.bundled.words import TRAIN, Words
from kvlab.tasks.base import TooLong

ANSWER_WEIGHT = 16.0
CONTEXT_WEIGHT = 0.3  # of a task's context: mostly random digits that nothing foretells
COPY_WEIGHT = 4.0  # a smaller weight keeps long answers from drowning the rest
LONG = {"copy", "uuids", "passkey", "common"}  # forms with long answers
MANY = {"facts", "documents", "list", "chain"}  # forms that hold as many questions as are asked for
QUESTION_TOKENS = 13  # saved by asking with the answer prefix alone

EARLY = {"copy": 0.20, "facts": 0.28, "needle": 0.10, "list": 0.18, "chain": 0.12, "ruler": 0.05, "natural": 0.07}
LATE = {"copy": 0.06, "facts": 0.25, "needle": 0.17, "list": 0.17, "chain": 0.18, "ruler": 0.10, "natural": 0.07}
SECOND = {
    "copy": 0.04, "facts": 0.15, "documents": 0.03, "needle": 0.10, "list": 0.13, "chain": 0.09, "ruler": 0.19, "multi": 0.08,
    "uuids": 0.03, "variables": 0.05, "frequent": 0.02, "common": 0.02, "passkey": 0.04, "natural": 0.05,
}  # fmt: skip
NARROW = SECOND | {"list": 0.22, "facts": 0.20, "ruler": 0.24, "copy": 0.02, "natural": 0.04, "common": 0.01, "frequent": 0.01, "needle": 0.07, "chain": 0.06}
TASKS = {
    "infinite_kv": 6, "scbench_kv": 6, "ruler_niah_multikey_3": 5, "infinite_math_find": 4, "scbench_mf": 4, "infinite_code_run": 4, "longgen_copy": 3,
    "longgen_add": 3, "scbench_prefix_suffix": 3, "scbench_many_shot": 4, "scbench_mix": 3, "scbench_vt": 4, "ruler_qa_2": 5, "ruler_niah_multiquery": 5,
    "ruler_niah_multivalue": 4, "ruler_cwe": 3, "ruler_fwe": 2, "infinite_number": 2, "ruler_vt": 1,
}  # fmt: skip
LONG_TASKS = ("infinite_kv", "scbench_kv", "ruler_niah_multikey_3", "longgen", "scbench_prefix", "ruler_cwe")
THIRD = {
    "task": 0.62, "list": 0.07, "facts": 0.08, "needle": 0.04, "chain": 0.05, "ruler": 0.05, "documents": 0.02, "multi": 0.02, "passkey": 0.01,
    "copy": 0.01, "natural": 0.03,
}  # fmt: skip


@dataclass
class Batch:
    """All tensors are [rows, length]; `weights[:, t]` belongs to the prediction of token t + 1."""

    ids: torch.Tensor
    weights: torch.Tensor
    positions: torch.Tensor
    forms: list[str]


def length_for(seed: int, step: int, progress: float) -> int:
    """Tokens per row at this step: 128 and 256 first, then up to 1,024."""
    rng = random.Random(f"length-{seed}-{step}")
    if progress < 0.12:
        return 128
    if progress < 0.5:
        return rng.choices((128, 256, 512), (4, 5, 1))[0]
    return rng.choices((128, 256, 512, 1024), (1, 3, 4, 2))[0]


def second_length(seed: int, step: int) -> int:
    """Tokens per row in the second part of training: long rows, where keys are many."""
    return random.Random(f"second-{seed}-{step}").choices((256, 512, 1024), (2, 4, 4))[0]


def _positions(rng: random.Random, length: int, cuts: list[int], limit: int) -> list[int]:
    """Positions 0, 1, ... with up to 8 jumps at `cuts`, the last below `limit`.

    Rows stay short (cheap) while the model meets positions it will see in long
    contexts, and gaps such as an eviction leaves.
    """
    positions = list(range(length))
    if rng.random() < 0.3 or not cuts:
        return positions
    span = int(length * (limit / length) ** rng.random())
    jumps = sorted(rng.choice(cuts) for _ in range(rng.randint(1, 8)))
    shares = [rng.random() for _ in jumps]
    extra = [int((span - length) * s / sum(shares)) for s in shares]
    for cut, gap in zip(jumps, extra, strict=True):
        for t in range(cut, length):
            positions[t] += gap
    return positions


class Rows:
    """Makes rows of one document each with the given tokenizer."""

    def __init__(self, tokenizer, seed: int, limit: int = 8192):
        self.tokenizer, self.seed, self.limit = tokenizer, seed, limit
        self.fast = tokenizer.backend_tokenizer
        self.natural = list(natural.documents(False))

    def encode(self, text: str) -> list[int]:
        """Token ids without the leading special token."""
        return self.fast.encode(text, add_special_tokens=False).ids

    def count(self, text: str) -> int:
        """Number of tokens of `text`."""
        return len(self.encode(text))

    def _document(self, rng: random.Random, form: str, length: int, words: Words) -> list[tuple[str, float]]:
        """Pieces of text with their loss weights."""
        if form == "natural":
            text = rng.choice(self.natural)
            start = rng.randrange(max(1, len(text) - 3 * length))
            return [(text[start : start + 6 * length], 1.0)]
        if form == "task":
            return self._task(rng, length, words)
        questions = rng.randint(2, max(3, min(12, length // 32))) if form in MANY else rng.randint(1, 4)
        short = rng.random() < 0.7
        # a form that asks less than it is told to must not get the room of questions that never come: its answers would be cut off
        size = length - 3 + QUESTION_TOKENS * questions * short * (form in MANY)
        make = ruler.make if form in ruler.FORMS else forms.make
        kind = {"kind": "needles"} if form == "ruler" and rng.random() < 0.4 else {}
        sample = make(form, f"train-{self.seed}-{rng.random()}", size, words, self.count,
                            questions, natural=self.natural, **kind)
        pieces = [(p, 1.0) for p in sample.pieces]
        for question, target in zip(sample.questions, sample.targets, strict=True):
            if short:
                question = "\nAnswer:" + question.partition("\nAnswer:")[2]
            pieces += [(question, 1.0), (target, COPY_WEIGHT if form in LONG else ANSWER_WEIGHT)]
        return pieces

    def _task(self, rng: random.Random, length: int, words: Words) -> list[tuple[str, float]]:
        """A sample of one of the tasks that fits; a few tokens are left for words that are longer than those they replace."""
        while True:
            name = rng.choices(list(TASKS), list(TASKS.values()))[0]
            try:
                context, asked = taskrows.pieces(name, rng, length - length // 24, words, self.count)
            except TooLong:
                continue
            weight = COPY_WEIGHT if name.startswith(LONG_TASKS) else ANSWER_WEIGHT
            return [(piece, CONTEXT_WEIGHT) for piece in context] + [part for q, t in asked for part in ((q, 1.0), (t, weight))]

    def row(self, rng: random.Random, form: str, length: int, words: Words = TRAIN):
        """ids, weights and positions, each a list of `length`."""
        ids, weights, cuts = [self.tokenizer.bos_token_id], [0.0], []
        for text, weight in self._document(rng, form, length, words):
            new = self.encode(text)
            if weight <= 1.0 and len(ids) > 1:
                cuts.append(len(ids))
            ids += new
            weights += [weight] * len(new)
            if len(ids) > length:
                break
        ids, weights = ids[:length], weights[:length]
        missing = length - len(ids)
        ids += [self.tokenizer.eos_token_id] * missing
        weights += [1.0] * min(missing, 1) + [0.0] * (missing - 1)
        cuts = [c for c in cuts if c < length]
        return ids, [*weights[1:], 0.0], _positions(rng, length, cuts, self.limit)

    def batch(self, step: int, length: int, tokens: int, mix: dict[str, float], words: Words = TRAIN) -> Batch:
        """`tokens` // `length` rows of the forms in `mix`, each with its share."""
        rng = random.Random(f"batch-{self.seed}-{step}")
        chosen = rng.choices(list(mix), list(mix.values()), k=max(1, tokens // length))
        few = lambda: ruler.narrow(rng, words) if mix is NARROW and rng.random() < 0.6 else words  # noqa: E731
        rows = [self.row(rng, form, length, few()) for form in chosen]
        ids, weights, positions = (torch.tensor(part) for part in zip(*rows, strict=True))
        return Batch(ids, weights, positions, chosen)
