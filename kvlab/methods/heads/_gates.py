"""DuoAttention's gates: how much each KV head needs the far past, learned on documents with facts that are asked for at their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvlab.attention import Rules, softmax_rows
from kvlab.bundled import forms
from kvlab.bundled.words import HELD_OUT
from kvlab.cache import KVCache, LayerKV
from kvlab.method import Method
from kvlab.models import LM
from kvlab.store import View
from kvlab.trace import Silent


def streaming(pos: Tensor, sinks: int, recent: int) -> Tensor:
    """What a streaming head sees, bool [t, t]: the first `sinks` and the last `recent` tokens, itself among them. `pos` [t]."""
    back = pos[:, None] - pos
    return (back >= 0) & ((pos < sinks) | (back < recent))


def mixed(weights: Tensor, near: Tensor, gate: Tensor, sunk: bool) -> Tensor:
    """Weights of gate * full + (1 - gate) * streaming attention: `weights` [B, Hq, t, T] full, `near` [t, T], `gate` [Hq].

    Outputs are linear in the weights, so one product with the values does for both. `sunk`: the model has sink logits, whose share
    is what the weights lack to 1.
    """
    inside = weights * near
    total = inside.sum(-1, keepdim=True) + (1 - weights.sum(-1, keepdim=True) if sunk else 0)
    gate = gate.view(-1, 1, 1)
    return gate * weights + (1 - gate) * inside / total.clamp(min=1e-30)


class Gated(LayerKV):
    """A layer that holds nothing: its attention is mixed by `gate` [H]. Gradients pass through."""

    gate: Tensor
    near: Tensor

    def step(self, q: Tensor, k: Tensor, v: Tensor, pos: Tensor, padded: bool, rules: Rules) -> Tensor:
        weights = softmax_rows(q, View(k, v, pos[:, None], False), pos, rules)
        if self.window is None:
            gate = self.gate.repeat_interleave(q.shape[1] // k.shape[1])
            weights = mixed(weights, self.near, gate, rules.sinks is not None)
        return torch.matmul(weights.to(v.dtype).unflatten(1, (v.shape[1], -1)), v[:, :, None]).flatten(1, 2)


def hidden(lm: LM, ids: Tensor, gates: Tensor, sinks: int, recent: int) -> Tensor:
    """Last hidden states [t, width] float32 of `ids` [t] when the heads are mixed by `gates` [L, H]."""
    cache = KVCache(Method(), lm.geometry, 1, Silent(), lm.device)
    pos = torch.arange(len(ids), device=lm.device)
    near = streaming(pos, sinks, recent)
    for i, window in enumerate(lm.geometry.windows):
        layer = cache.layers[i] = Gated(cache, i, window)
        layer.gate, layer.near = gates[i], near
    cache.tokens = torch.tensor([len(ids)], device=lm.device)
    out = lm.model.get_decoder()(input_ids=ids[None], position_ids=pos[None], past_key_values=cache, use_cache=True)
    return out.last_hidden_state[0].float()


@torch.no_grad()
def plain(lm: LM, ids: Tensor) -> Tensor:
    """Last hidden states [t, width] float32 of `ids` [t] with the full cache."""
    cache, pos = KVCache(Method(), lm.geometry, 1, Silent(), lm.device), torch.arange(len(ids), device=lm.device)
    cache.tokens = torch.tensor([len(ids)], device=lm.device)
    return lm.model.get_decoder()(input_ids=ids[None], position_ids=pos[None], past_key_values=cache, use_cache=True).last_hidden_state[0].float()


@dataclass(frozen=True)
class DuoGates:
    """The job that trains the gates, at lab scale: windows an eighth of the authors' (S 128, R 256), who train 2000 steps on 1k to 32k tokens."""

    name: ClassVar[str] = "duogates"

    steps: int = 60
    size: int = 384
    texts: int = 30
    facts: int = 6
    sinks: int = 16
    recent: int = 32
    rate: float = 0.05
    sparse: float = 0.05

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"gates": [L, H] float32 in [0, 1]}: 1 for a head whose far past the answers need. All 1 where no document fits the model."""
        if lm.tokenizer is None:
            raise ValueError(f"{lm.name} has no tokenizer, and the documents that train its gates are text. Load it with one.")
        with torch.enable_grad():  # a run may be under way in this thread without gradients
            gates = torch.ones(lm.geometry.layers, lm.geometry.kv_heads, device=lm.device, requires_grad=True)
            optimiser = torch.optim.AdamW([gates], lr=self.rate, weight_decay=0.0)
            lessons = [(ids, answers, plain(lm, ids)[answers]) for ids, answers in self.documents(lm)] if lm.geometry.open_layers else []
            for step in range(self.steps if lessons else 0):
                loss = self.loss(lm, *lessons[step % len(lessons)], gates)
                # gradients of the gates alone: none is left on the weights, which other runs share
                gates.grad = torch.autograd.grad(loss, gates)[0]
                optimiser.step()
                gates.data.clamp_(0, 1)
        return {"gates": gates.detach().cpu()}

    def loss(self, lm: LM, ids: Tensor, answers: Tensor, want: Tensor, gates: Tensor) -> Tensor:
        """Mean squared difference to the last hidden states `want` [n, width] where `answers` [t] are written, and the price of gates."""
        got = hidden(lm, ids, gates, self.sinks, self.recent)[answers]
        return (got - want).square().mean() + self.sparse * gates.abs().mean()

    def documents(self, lm: LM) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids [t] and which of them write an answer [t] bool: facts in filler, then as many questions with their answers as fit the model."""
        size, count = min(self.size, lm.geometry.context // 2), lambda text: len(lm.encode(text, special=False))
        for i in range(min(self.texts, self.steps)):
            sample = forms.make("needle", f"duo-{i}", size, HELD_OUT, count, questions=self.facts, kind="sentences", keys=self.facts)
            ids, writes = lm.encode(sample.context), []
            for question, target in zip(sample.questions, sample.targets, strict=True):
                asked, told = lm.encode(question, special=False), lm.encode(target, special=False)
                if len(ids) + len(asked) + len(told) > lm.geometry.context:
                    break
                ids += asked + told
                writes += range(len(ids) - len(told) - 1, len(ids) - 1)  # a query writes the token after it
            if writes:
                answers = torch.zeros(len(ids), dtype=torch.bool)
                answers[writes] = True
                yield torch.tensor(ids, device=lm.device), answers.to(lm.device)
