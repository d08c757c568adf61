"""WindowKV (2025; optim996/WindowKV). Card: methods/eviction.md, from the authors' code.

What stays are whole windows of neighbouring tokens, the same ones in every head of a group of layers: the group's first layer chooses,
the others follow. Lower groups get more. Whether a window counts by its best tokens or by all of them depends on the task, finding
something or putting something together, which a small classifier reads off the prompt.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.eviction._tasks import TaskClassifier, prompt_features
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect

SUFFIX = {"max": 32, "average": 16}


def group_budgets(base: int, groups: int, group: int, beta: int) -> list[int]:
    """Tokens that stay in each group of `group` layers, the suffix not counted, for `base` on average; integer steps as in the authors' code."""
    if groups < 2:
        return [base] * groups
    last = base * group // beta
    first = 2 * base - last
    step = (first - last) // (groups - 1)
    return [*(first - i * step for i in range(groups - 1)), last]


def windows_kept(review: int, budget: int, size: int) -> int:
    """How many windows of `size` stay of `review` tokens under `budget`: as many leave as are too many, rounded up, a short last one counting whole."""
    drop = max(0, -(-(review - budget) // size))
    return 0 if drop * size >= review else -(-review // size) - drop


def window_scores(votes: Tensor, review: Tensor, size: int, gathers: Tensor) -> Tensor:
    """Scores of windows, mean over heads, [B, W]: `votes` [B, Hq, T], of which the first `review` [B] count.

    Where `gathers` [B] the mean over the window's tokens, else the mean over as many of its best as are half of a whole window, of a short one
    over all if it has no more.
    """
    pad = -votes.shape[2] % size
    real = (torch.arange(votes.shape[2] + pad, device=votes.device) < review[:, None]).view(len(votes), 1, -1, size)
    cut = F.pad(votes, (0, pad)).unflatten(-1, (-1, size)) * real
    half, count = max(1, size // 2), real.sum(-1)
    best = cut.sort(dim=-1, descending=True).values[..., :half].sum(-1) / count.clamp(1, half)
    return torch.where(gathers[:, None, None], cut.sum(-1) / count.clamp(min=1), best).mean(1)


@dataclass(frozen=True)
class WindowKV(Dropper):
    """Keeps whole windows of text, the same in a group of layers, scored as the task asks for."""

    name = "windowkv"
    title = "WindowKV"
    paper = "Zuo et al., code at optim996/WindowKV"
    year = 2025
    schedule = Schedule(prefill=True)
    per_head = False
    departs = (
        "The classifier is a linear layer on the first layer's values, trained on kvlab's own prompts; the authors train a BERT. "
        "The suffix counts towards the budget, layers left over join the last group, and a prompt that fits the budget stays whole in all layers. "
        "A model of fewer layers than two groups has one group: lower `group` for small models."
    )

    strategy: str = knob("auto", "Windows count by their best tokens (max), by all (average), or as the classifier says.", choices=("auto", "max", "average"))
    size: int = knob(8, "Tokens of a window.", 1, 128, 1)
    group: int = knob(8, "Layers of a group, which keep the same windows.", 1, 64, 1)
    beta: int = knob(14, "How the groups differ: the last one gets `group` parts in `beta` of the average.", 1, 128, 1)
    prompts: int = knob(120, "Prompts the classifier learns from.", 8, 10_000, 1)

    @property
    def artefact_of(self) -> TaskClassifier:
        """The classifier, which does not depend on the other knobs."""
        return TaskClassifier(self.prompts)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("queries", "calibration") if self.strategy == "auto" else ("queries",)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        state, geometry = layer.cache.state, layer.cache.geometry
        place = sum(window is None for window in geometry.windows[: layer.index])
        if place == 0:
            state["windowkv gathers"] = self._gathers(layer, seen)
        if place == self._group(place, geometry) * self.group:
            state["windowkv"] = self._choose(layer, seen, place)
        mask, scores = state["windowkv"]
        layer.keep(seen.valid() & mask, scores.expand_as(seen.valid()))
        if place == geometry.open_layers - 1:
            del state["windowkv"], state["windowkv gathers"]

    def _group(self, place: int, geometry: Geometry) -> int:
        return min(place // self.group, self._groups(geometry) - 1)

    def _groups(self, geometry: Geometry) -> int:
        return max(1, geometry.open_layers // self.group)

    def _gathers(self, layer: LayerKV, seen: Seen) -> Tensor:
        """Rows whose task is to put something together: [B] bool."""
        if self.strategy != "auto":
            return torch.full((len(seen.q),), self.strategy == "average", device=seen.q.device)
        learned, features = layer.cache.artefact, prompt_features(seen.view, seen.valid())
        return F.linear(features, learned["tasks weight"].to(features), learned["tasks bias"].to(features)).argmax(-1) == 1

    def _choose(self, layer: LayerKV, seen: Seen, place: int) -> tuple[Tensor, Tensor]:
        """What stays, [B, 1, T] bool, and the scores of the windows at their slots, NaN for the suffix."""
        gathers, count, tokens = layer.cache.state["windowkv gathers"], layer.target(self.budget), layer.tokens()
        valid = seen.valid()[:, :1]
        last = count.minimum(torch.where(gathers, SUFFIX["average"], SUFFIX["max"]))
        suffix = protect(seen.pos()[:, :1], tokens, last=last)
        review = (valid & ~suffix)[:, 0].sum(-1)
        votes = seen.weights(int(last.max()))
        late = seen.q_pos[:, -votes.shape[2] :] >= (tokens - last)[:, None].clamp(min=0)
        scores = window_scores((votes * late[:, None, :, None]).sum(2), review, self.size, gathers)
        stay = [self._windows(*row, place, layer.cache.geometry) for row in zip(review.tolist(), count.tolist(), last.tolist(), strict=True)]
        exists = torch.arange(scores.shape[1], device=scores.device) * self.size < review[:, None]
        best = keep_top(scores[:, None], torch.tensor(stay, device=scores.device), exists[:, None])
        spread = [x.repeat_interleave(self.size, dim=-1)[..., : valid.shape[2]] for x in (best, scores[:, None])]
        return valid & (spread[0] | suffix), spread[1].masked_fill(suffix, torch.nan)

    def _windows(self, review: int, count: int, last: int, place: int, geometry: Geometry) -> int:
        """Windows a layer keeps of `review` tokens before a suffix of `last`, for `count` tokens on average."""
        if review + last <= count:
            return -(-review // self.size)
        budget = group_budgets(count - last, self._groups(geometry), self.group, self.beta)[self._group(place, geometry)]
        return windows_kept(review, budget, self.size)

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        # a short last window that stays holds fewer: the text decides whether it does, and the classifier how long the suffix is
        count, place = self.budget.tokens(prompt), sum(window is None for window in geometry.windows[:layer])
        last = min(count, SUFFIX["average" if self.strategy == "average" else "max"])
        windows = self._windows(prompt - last, count, last, place, geometry)
        return last + min(windows * self.size, prompt - last) + tokens - prompt
