"""ADORE's controller: a GRU over the token embeddings that tells, for the newest token, how important each earlier one is.

Importance of token j for token t: sigmoid(q_t . k_j / sqrt(c)), with q and k linear maps of the GRU's states. The k of all tokens are kept:
c numbers for each. Training is by binary cross-entropy against the model itself: is j among the tokens that t attends to most?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.bundled import forms
from kvlab.cache import KVCache, LayerKV
from kvlab.calibration import sample
from kvlab.method import Method
from kvlab.models import LM
from kvlab.seen import Seen
from kvlab.trace import Silent

PREFIX = "adore "


class Weights(NamedTuple):
    """Of the GRU (input and hidden, weights and biases, gates r, z, n one below the other) and of the two maps [c, hidden]."""

    ih: Tensor
    hh: Tensor
    bih: Tensor
    bhh: Tensor
    q: Tensor
    k: Tensor

    @classmethod
    def new(cls, width: int, hidden: int, size: int, seed: int = 0) -> Weights:
        """Uniform within 1 / sqrt(hidden), the same for the same seed."""
        shapes = (3 * hidden, width), (3 * hidden, hidden), (3 * hidden,), (3 * hidden,), (size, hidden), (size, hidden)
        generator = torch.Generator().manual_seed(seed)
        return cls(*(torch.empty(shape).uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator) for shape in shapes))

    @classmethod
    def of(cls, artefact: dict[str, Tensor], device: torch.device) -> Weights:
        return cls(*(artefact[PREFIX + name].to(device) for name in cls._fields))

    def run(self, embedded: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`embedded` [B, t, width], `state` [B, hidden] -> q and k, each [B, t, c], and the state after the last token."""
        x = F.layer_norm(embedded.float(), embedded.shape[-1:])  # embeddings differ in size from model to model
        states, last = torch.gru(x, state[None], list(self[:4]), True, 1, 0.0, False, False, True)
        return states @ self.q.mT, states @ self.k.mT, last[0]


def importance(q: Tensor, k: Tensor) -> Tensor:
    """Logits of importance: q [..., t, c], k [..., P, c] -> [..., t, P]."""
    return q @ k.mT / q.shape[-1] ** 0.5


class Attention(Silent):
    """Sums up the attention weights [T, T] of one passage over layers and heads."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0

    def attended(self, layer: LayerKV, store: object, seen: Seen) -> None:
        if layer.window is None or not layer.cache.geometry.open_layers:
            self.total = self.total + seen.weights(seen.q.shape[2])[0].sum(0)


def labels(attention: Tensor, most: int, near: int = 0) -> Tensor:
    """[T, T] bool: whether column j is among the `most` largest weights of row t; never for the future and the latest `near` tokens."""
    past = torch.ones_like(attention, dtype=torch.bool).tril(-near)
    best = attention.masked_fill(~past, -1).argsort(dim=-1, descending=True, stable=True)[:, :most]
    return torch.zeros_like(past).scatter(1, best, True) & past


@dataclass(frozen=True)
class ControllerTraining:
    """How the controller is made: its artefact is shared by all settings of ADORE."""

    name = "adore"

    passages: int = 64
    length: int = 192
    most: int = 32  # tokens that count as important for each query
    near: int = 8  # latest tokens, which always stay: nothing to learn there
    hidden: int = 128
    size: int = 32
    steps: int = 120
    batch: int = 8
    rate: float = 3e-3

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """The trained `Weights`, float32."""
        with torch.no_grad():
            embedded, wanted = self.data(lm, 0)
        weights = Weights.new(embedded.shape[-1], self.hidden, self.size)
        with torch.enable_grad():
            weights = self._fit(weights, embedded, wanted)
        return {PREFIX + name: tensor.detach() for name, tensor in weights._asdict().items()}

    def data(self, lm: LM, seed: int) -> tuple[Tensor, Tensor]:
        """Embeddings [N, T, width] float32 and labels [N, T, T] bool of N passages, on the CPU."""
        found = []
        for passage in self._passages(lm, seed):
            heard = Attention()
            cache = KVCache(Method(), lm.geometry, 1, heard, lm.device)
            cache.tokens = torch.tensor([len(passage)], device=lm.device)
            places = torch.arange(len(passage), device=lm.device)[None]
            lm.model.get_decoder()(input_ids=passage[None], position_ids=places, past_key_values=cache, use_cache=True)
            found.append((lm.model.get_input_embeddings()(passage).float().cpu(), labels(heard.total.cpu(), self.most, self.near)))
        return torch.stack([x for x, _ in found]), torch.stack([y for _, y in found])

    def _passages(self, lm: LM, seed: int) -> Tensor:
        """Token ids [N, T]: the generator's documents with their questions and answers, end to end; random ids without a tokenizer."""
        length = min(self.length, lm.geometry.context)
        if lm.tokenizer is None:
            return sample(lm, self.passages, length)
        ids: list[int] = []
        kinds, n = list(forms.FORMS), 0
        while len(ids) < self.passages * length:
            made = forms.make(kinds[n % len(kinds)], f"{self.name}-{seed}-{n}", length)
            asked = "".join(q + a for q, a in zip(made.questions, made.targets, strict=True))
            ids += lm.encode(made.context + asked, special=False)
            n += 1
        return torch.tensor(ids[: self.passages * length], device=lm.device).view(self.passages, length)

    def _fit(self, start: Weights, embedded: Tensor, wanted: Tensor) -> Weights:
        weights = Weights(*(tensor.requires_grad_() for tensor in start))
        solver = torch.optim.Adam(weights, lr=self.rate)
        generator = torch.Generator().manual_seed(0)
        counts = choices(wanted.shape[1], self.most, self.near)
        for _ in range(self.steps):
            pick = torch.randint(len(embedded), (self.batch,), generator=generator)
            q, k, _ = weights.run(embedded[pick], embedded.new_zeros(self.batch, self.hidden))
            loss = F.binary_cross_entropy_with_logits(importance(q, k)[:, counts], wanted[pick][:, counts].float())
            solver.zero_grad()
            loss.backward()
            solver.step()
        return weights


def choices(length: int, most: int, near: int) -> Tensor:
    """[T, T] bool: the columns each row chooses among, in rows with more than `most` of them. All of a text too short for that."""
    past = torch.ones(length, length, dtype=torch.bool).tril(-near)
    return past & (past.sum(-1, keepdim=True) > most) if length > most + near else past


@torch.no_grad()
def agreement(scores: Tensor, wanted: Tensor, most: int, near: int) -> float:
    """Share of the `wanted` [N, T, T] tokens that `scores` [N, T, T] rank among the `most` best too, where there is a choice: 1 is perfect."""
    counts = choices(wanted.shape[1], most, near)
    found = torch.stack([labels(row.sigmoid(), most, near) for row in scores])
    return float((found & wanted)[:, counts].sum() / wanted[:, counts].sum())
