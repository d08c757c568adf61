"""Hash codes that come close where queries and keys score high: the training of HATA's matrices, one layer at a time, the model frozen.

Calibration text goes through the model once. A lesson is a few passages cut at a random place of their second half: the query there and all
keys up to it. The keys that score highest with it get labels from 20 down to 1, all the others -1, and codes learn to be near where the
label is high and far where it is not.

On the bundled model, with heads of 32 channels and 128 bits, it is the third part of the loss that makes codes better than random ones:
without the labels they come out as good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from kvlab.methods.quantization._capture import Captured, captured
from kvlab.models import LM

NEAR, BALANCE, APART, STEEP = 0.01, 1.0, 2.0, 0.1
"""The authors' weights of the three losses (epsilon, lambda, eta) and the slope of a relaxed bit (sigma)."""

RATE, MOMENTUM, DECAY, STEPS = 0.1, 0.9, 1e-6, 20
"""The authors' optimiser: learning rate, momentum, weight decay, steps on one lesson."""

TOP, BEST = 0.1, 20.0
"""The share of keys that get a label of their own, and the label of the first."""

PASSAGES = 3
"""Passages of a lesson: as many as the authors draw chunks of their data."""


class Lesson(NamedTuple):
    """Of P passages: `q` [P, Hq, D], `k` [P, T, H, D], `label` [P, Hq, T] and `real` [P, T], whether the query sees that key."""

    q: Tensor
    k: Tensor
    label: Tensor
    real: Tensor


def labels(scores: Tensor, count: int) -> Tensor:
    """`scores` [..., n] of the keys -> labels [..., n]: falling evenly from 20 to 1 over the best `count`, -1 for all others."""
    best = scores.topk(count, dim=-1).indices
    falling = torch.linspace(BEST, 1, count, device=scores.device).expand(best.shape)
    return torch.full_like(scores, -1).scatter(-1, best, falling)


def lesson(layer: Captured, length: int, passages: Tensor, ends: Tensor) -> Lesson:
    """The `passages` [P], of `length` tokens each, with the query at `ends` [P]."""
    q, k = (x.unflatten(0, (-1, length))[passages] for x in (layer.q, layer.k))
    real = torch.arange(length) <= ends[:, None]
    asked = q[torch.arange(len(ends)), ends]
    scores = torch.einsum("phgd,pthd->phgt", asked.unflatten(1, (k.shape[2], -1)), k).flatten(1, 2)
    found = torch.zeros_like(scores)
    for row, end in enumerate(ends.tolist()):
        found[row, :, : end + 1] = labels(scores[row, :, : end + 1], max(1, int(TOP * (end + 1))))
    return Lesson(asked, k, found, real.to(q.device))


def relaxed(x: Tensor) -> Tensor:
    """Bits as numbers between -1 and 1, so that they can learn."""
    return 2 * torch.sigmoid(STEEP * x) - 1


def loss(x: Lesson, matrices: Tensor) -> Tensor:
    """Of `matrices` [H, D, bits]: codes near where labels are high, bits that are set half the time, columns that do not repeat each other."""
    bits, items = matrices.shape[-1], x.real.sum()
    q = relaxed(torch.einsum("phgd,hdr->hgpr", x.q.unflatten(1, (len(matrices), -1)), matrices))
    k = relaxed(torch.einsum("pthd,hdr->hptr", x.k, matrices)) * x.real[..., None]
    # the square of a difference, without an entry for every pair and bit; what is no item has no label
    gap = q.square().sum(-1)[..., None] + k.square().sum(-1)[:, None] - 2 * torch.einsum("hgpr,hptr->hgpt", q, k)
    near = (x.label.unflatten(1, (len(matrices), -1)).permute(1, 2, 0, 3) * gap).sum() / items
    total = (q * x.real.sum(1)[:, None]).sum(2) + k.sum((1, 2))[:, None]  # of each query head, over all its items
    balance = (total / (items * bits)).square().sum()
    apart = (matrices.mT @ matrices - torch.eye(bits, device=matrices.device)).norm()
    return NEAR * near + BALANCE * balance + APART * apart


@dataclass(frozen=True)
class HashTraining:
    """The job that makes the matrices of all layers."""

    name: ClassVar[str] = "hata"

    bits: int
    epochs: int
    passages: int
    length: int

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"hata": [L, H, D, bits] float16}. Without epochs they stay as drawn: random hyperplanes, and no text is read."""
        size = (lm.geometry.kv_heads, lm.geometry.head_dim, self.bits)
        draws = [torch.Generator().manual_seed(i) for i in range(lm.geometry.layers)]
        found = [torch.randn(size, generator=draw).to(lm.device) for draw in draws]
        if self.epochs:
            # of a layer with a window not all keys are held in the end, and none of them is ever hashed
            seen = captured(lm, self.passages, self.length)
            with torch.enable_grad():
                found = [w if window else self._train(layer, w, draw) for layer, w, draw, window in zip(seen, found, draws, lm.geometry.windows, strict=True)]
        return {"hata": torch.stack(found).half().cpu()}

    def _train(self, layer: Captured, start: Tensor, draw: torch.Generator) -> Tensor:
        matrices = start.clone().requires_grad_()
        optimiser = torch.optim.SGD([matrices], lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
        for _ in range(self.epochs):
            passages = torch.randperm(self.passages, generator=draw)[:PASSAGES]
            ends = torch.randint(self.length // 2, self.length, passages.shape, generator=draw)
            given = lesson(layer, self.length, passages, ends)
            for _ in range(STEPS):
                optimiser.zero_grad()
                loss(given, matrices).backward()
                optimiser.step()
        return matrices.detach()
