"""Training of LESS's maps: one layer at a time, the model frozen.

Calibration text goes through the model once. At each layer the plain policy is played query by query on the true queries and keys; then
the maps learn to give back what the policy dropped: mean squared error of the layer's output after its projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.attention import slot_logits
from kvlab.cache import KVCache, LayerKV
from kvlab.calibration import sample
from kvlab.merge import host_keeps
from kvlab.method import Method
from kvlab.models import LM
from kvlab.seen import Seen
from kvlab.trace import Silent

DROPOUT, RATE, HALVED, BATCH, HELD_OUT = 0.3, 1e-3, 10, 2, 0.1
"""The authors' settings: dropout on hidden layers, learning rate, epochs until it is halved, passages per step, passages to choose by."""

PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj")
"""What families call the projection behind attention."""

Maps = Mapping[str, Tensor]
"""Of one layer: q_in [Hq, D, hidden], q_out [Hq, hidden, R], k_in [H, D, hidden], k_out [H, hidden, R], k_mix [H, R, R], k_size and k_gain [H, R]."""


def phi(q: Tensor, maps: Maps, drop: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Queries [..., Hq, t, D] -> [..., Hq, t, R] float32, none negative."""
    return F.gelu(drop(F.gelu(q.float() @ maps["q_in"])) @ maps["q_out"]).abs()


def psi(k: Tensor, maps: Maps, drop: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Keys [..., H, t, D] -> [..., H, t, R] float32, none negative."""
    u = maps["k_size"].abs()[:, None] * F.gelu(drop(F.gelu(k.float() @ maps["k_in"])) @ maps["k_out"])
    return (u + (u @ maps["k_mix"]) * maps["k_gain"][:, None]).abs()


def played(logits: Tensor, host: str, budget: int, sinks: int, recent: float, heads: int) -> Tensor:
    """Which slots each query finds under the policy: `logits` [B, Hq, T, T] of one causal pass -> [B, H, T, T] bool."""
    b, _, t, _ = logits.shape
    pos = torch.arange(t, dtype=torch.int32, device=logits.device)
    held = torch.zeros(b, heads, t, dtype=torch.bool, device=logits.device)
    votes = torch.zeros(b, heads, t, device=logits.device)
    found, count = [], torch.tensor([budget], device=logits.device)
    for i in range(t):
        held = held | (pos == i)
        found.append(held)
        if host != "window":
            row = logits[:, :, i].unflatten(1, (heads, -1)).masked_fill(~held[:, :, None], -torch.inf).softmax(-1)
            votes = votes + row.mean(2)
        held = host_keeps(host, votes, torch.where(held, pos, -1), count.new_tensor([i + 1]), count.clamp(max=i + 1), sinks, recent)
    return torch.stack(found, dim=2)


class Lesson(NamedTuple):
    """What one layer is trained on, over N passages and the rows t behind the first drop.

    q [Hq, N, t, D], k and v [H, N, T, D], gone [H, N, t, T] (what the policy dropped before each row), kept [Hq, N, t, D] and scale
    [Hq, N, t, 1] (output of the slots left, and one over the sum of their exponentials), out [Hq, N, t, D] (the true output).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gone: Tensor
    kept: Tensor
    scale: Tensor
    out: Tensor

    def some(self, passages: Tensor) -> Lesson:
        return Lesson(*(x[:, passages] for x in self))


def lesson(seen: Seen, method: Any) -> Lesson:
    """Play the policy of `method` (a LESS) on one layer of the calibration pass."""
    heads, length = seen.view.k.shape[1], seen.view.k.shape[2]
    budget = max(1, round(method.trained_at * length))
    logits = slot_logits(seen.q, seen.view, seen.q_pos, seen.rules)
    held = played(logits, method.host, budget, method.sinks, method.recent, heads)[:, :, budget + 1 :]
    rows, causal = logits[:, :, budget + 1 :], torch.arange(length) <= torch.arange(budget + 1, length)[:, None]
    each = lambda x: x.repeat_interleave(seen.groups, dim=1)  # noqa: E731
    sink = rows.new_full(rows.shape[:3], -torch.inf) if seen.rules.sinks is None else seen.rules.sinks.float().view(1, -1, 1).expand(rows.shape[:3])
    values = each(seen.view.v.float())

    def part(mask: Tensor) -> tuple[Tensor, Tensor]:
        shown = rows.masked_fill(~mask, -torch.inf)
        norm = torch.logaddexp(shown.logsumexp(-1), sink)[..., None]
        return (shown - norm).exp() @ values, (-norm).exp()

    kept, scale = part(each(held))
    out, _ = part(causal.to(rows.device).expand_as(rows))
    gone = causal.to(rows.device) & ~held
    found = (seen.q[:, :, budget + 1 :].float(), seen.view.k.float(), seen.view.v.float(), gone, kept, scale, out)
    return Lesson(*(x.transpose(0, 1).contiguous() for x in found))


def answered(x: Lesson, maps: Maps, drop: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Output with the state in place of what is gone: [Hq, N, t, D]. Each query's state is what had left before it."""
    heads = x.k.shape[0]
    flat = lambda y, read: read(y.flatten(1, 2), maps, drop).unflatten(1, y.shape[1:3])  # noqa: E731
    mine, theirs = flat(x.q, phi).unflatten(0, (heads, -1)), flat(x.k, psi)[:, None]
    # the state's part over the sum of the slots' exponentials, as one matrix of queries by keys
    weight = (mine * x.scale.unflatten(0, (heads, -1))) @ theirs.mT * x.gone[:, None]
    return (x.kept + (weight @ x.v[:, None]).flatten(0, 1)) / (1 + weight.sum(-1, keepdim=True).flatten(0, 1))


def loss(x: Lesson, maps: Maps, projection: Tensor, drop: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Mean squared error behind the `projection` [Hq * D, out]."""
    gap = answered(x, maps, drop) - x.out
    return (gap.permute(1, 2, 0, 3).flatten(2) @ projection).square().mean()


def fresh(heads: int, query_heads: int, size: int, hidden: int, rank: int, seed: int, device: Any) -> dict[str, Tensor]:
    """Maps before training: uniform within the bounds of Glorot and Bengio, scales at 1e-4."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(n: int, *shape: int) -> Tensor:
        bound = math.sqrt(6 / sum(shape))
        return ((torch.rand(n, *shape, generator=generator) * 2 - 1) * bound).to(device)

    maps = {"q_in": uniform(query_heads, size, hidden), "q_out": uniform(query_heads, hidden, rank)}
    maps |= {"k_in": uniform(heads, size, hidden), "k_out": uniform(heads, hidden, rank), "k_mix": uniform(heads, rank, rank)}
    return maps | {name: torch.full((heads, rank), 1e-4, device=device) for name in ("k_size", "k_gain")}


@torch.enable_grad()
def fit(x: Lesson, maps: dict[str, Tensor], projection: Tensor, epochs: int, seed: int) -> dict[str, Tensor]:
    """Train `maps`; of all epochs the ones that do best on the passages held out are returned. Heads share their dropout."""
    device, passages = x.q.device, x.q.shape[1]
    generator, shuffle = torch.Generator(device).manual_seed(seed), torch.Generator().manual_seed(seed)
    drop = lambda y: y * ((torch.rand(y.shape[1:], generator=generator, device=device) >= DROPOUT) / (1 - DROPOUT))  # noqa: E731
    held_out = x.some(torch.arange(max(1, round(passages * HELD_OUT))))
    learned = {name: tensor.clone().requires_grad_() for name, tensor in maps.items()}
    adam = torch.optim.Adam(learned.values(), lr=RATE, fused=True)
    slower = torch.optim.lr_scheduler.StepLR(adam, HALVED, 0.5)
    best, lowest = maps, math.inf
    for _ in range(epochs):
        order = torch.randperm(passages - held_out.q.shape[1], generator=shuffle) + held_out.q.shape[1]
        for chosen in order.split(BATCH):
            adam.zero_grad()
            loss(x.some(chosen), learned, projection, drop).backward()
            adam.step()
        slower.step()
        with torch.no_grad():
            now = float(loss(held_out, learned, projection))
        if now < lowest:
            best, lowest = {name: tensor.detach().clone() for name, tensor in learned.items()}, now
    return best


@torch.no_grad()
def projection_of(model: Any, layer: int, width: int) -> Tensor:
    """The linear map behind attention, [width, out] float32; the identity where the family calls it otherwise."""
    attention = [module for module in model.modules() if getattr(module, "layer_idx", None) == layer]
    parts = [getattr(module, name) for module in attention for name in PROJECTIONS if hasattr(module, name)]
    eye = torch.eye(width, device=model.device)
    if not parts:
        return eye
    return (parts[0](eye.to(model.dtype)) - parts[0](torch.zeros_like(eye, dtype=model.dtype))).float()


class Teacher(Silent):
    """Trains the maps of every layer without a window as its attention comes by."""

    def __init__(self, lm: LM, method: Any) -> None:
        self.lm, self.method, self.maps = lm, method, {}

    def attended(self, layer: LayerKV, store: object, seen: Seen) -> None:
        if layer.window is not None:
            return
        heads, (_, query_heads, _, size), index = seen.view.k.shape[1], seen.q.shape, layer.index
        start = fresh(heads, query_heads, size, self.method.hidden, self.method.rank, index, seen.q.device)
        projection = projection_of(self.lm.model, index, query_heads * size)
        maps = fit(lesson(seen, self.method), start, projection, self.method.epochs, index)
        self.maps |= {f"less.{index}.{name}": tensor.cpu() for name, tensor in maps.items()}


def train(lm: LM, method: Any) -> dict[str, Tensor]:
    """The maps of all layers, "less.<layer>.<name>" -> float32."""
    teacher = Teacher(lm, method)
    show(lm, sample(lm, method.passages, method.length), teacher)
    return teacher.maps


@torch.no_grad()
def show(lm: LM, ids: Tensor, listener: Silent) -> None:
    """Let `listener` hear the model read `ids` [N, T] with its full cache."""
    cache = KVCache(Method(), lm.geometry, len(ids), listener, lm.device)
    cache.tokens = torch.full((len(ids),), ids.shape[1], device=lm.device)
    positions = torch.arange(ids.shape[1], device=lm.device).expand_as(ids)
    lm.model.get_decoder()(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
