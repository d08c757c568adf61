"""What WindowKV's classifier reads and how it learns: whether a prompt is for finding something or for gathering."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.bundled import forms, ruler
from kvlab.bundled.words import TRAIN
from kvlab.cache import KVCache
from kvlab.calibration import text
from kvlab.method import Method
from kvlab.models import LM
from kvlab.store import View
from kvlab.trace import Silent

EDGE = 256  # first and last tokens that the classifier reads, as the authors'
FINDING, GATHERING = ("facts", "needle", "list", "ruler"), ("copy", "chain", "frequent", "common", "prose")


def prompt_features(view: View, valid: Tensor) -> Tensor:
    """Mean value of the first and the last `EDGE` slots, all heads side by side: [B, H * D] float32. `valid` [B, H, T]."""
    rank, count = valid.long().cumsum(-1) - 1, valid.sum(-1, keepdim=True)
    taken = valid & ((rank < EDGE) | (rank >= count - EDGE))
    return ((view.v.float() * taken[..., None]).sum(2) / taken.sum(-1, keepdim=True).clamp(min=1)).flatten(1)


@dataclass(frozen=True)
class TaskClassifier:
    """Whether a prompt is for finding (0) or for gathering (1): a linear layer on `prompt_features` of the first layer without a window."""

    name = "windowkv-tasks"

    prompts: int = 120

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"tasks weight": [2, H * D], "tasks bias": [2]} float32, from prompts of kvlab's generator with their forms as labels."""
        if lm.tokenizer is None:
            raise ValueError("WindowKV learns tasks from texts, and this model came without a tokenizer. Set its strategy to max or average.")
        with torch.no_grad():
            found = [(_features(lm, ids), label) for ids, label in self._prompts(lm)]
        x, y = torch.cat([features for features, _ in found]), torch.tensor([label for _, label in found])
        mean, std = x.mean(0), x.std(0) + 1e-6
        weight, bias = _fit((x - mean) / std, y)
        return {"tasks weight": weight / std, "tasks bias": bias - weight @ (mean / std)}

    def _prompts(self, lm: LM) -> Iterator[tuple[list[int], int]]:
        """Token ids and label; half of them end in a question, as prompts do that are read together with it."""
        rng, prose = random.Random(self.name), text()
        for i in range(self.prompts):
            label = i % 2
            form = rng.choice((FINDING, GATHERING)[label])
            if form == "prose":
                start = rng.randrange(len(prose) - 2000)
                written, ask = prose[start : start + rng.randint(600, 2000)], "\nQuestion: What is the text about?\nAnswer:"
            else:
                make = ruler.make if form in ruler.FORMS else forms.make
                sample = make(form, f"{self.name}-{i}", rng.randint(120, 500), TRAIN, forms.estimate)
                written, ask = sample.context, sample.questions[0]
            yield lm.encode(written + ask * rng.randrange(2)), label


def _features(lm: LM, ids: list[int]) -> Tensor:
    edge = min(EDGE, lm.geometry.context // 2)
    ids = torch.tensor([ids if len(ids) <= 2 * edge else ids[:edge] + ids[-edge:]], device=lm.device)
    cache = KVCache(Method(), lm.geometry, 1, Silent(), lm.device)
    cache.tokens = torch.tensor([ids.shape[1]], device=lm.device)
    lm.model.get_decoder()(input_ids=ids, position_ids=torch.arange(ids.shape[1], device=lm.device)[None], past_key_values=cache, use_cache=True)
    store = next((layer.store for layer, window in zip(cache.layers, lm.geometry.windows, strict=True) if window is None), cache.layers[0].store)
    return prompt_features(store.view(), store.valid()).cpu()


@torch.enable_grad()
def _fit(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression with a little weight decay: no dropout and no seed, so it ends the same each time."""
    weight, bias = torch.zeros(2, x.shape[1], requires_grad=True), torch.zeros(2, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=100)

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + 1e-3 * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return weight.detach(), bias.detach()
