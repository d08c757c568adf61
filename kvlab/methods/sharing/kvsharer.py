"""KVSharer (2024, arXiv 2410.18517). Card: methods/layers_system_eval.md, from the authors' notebook.

Some layers hold nothing and read the keys and values of an earlier one. Which ones is searched once per model on plain text: pairs of
layers in the order of how unlike their caches are, most unlike first; a pair is taken when the last hidden states stay close to those of
the unchanged model. Chains are resolved, so every layer reads one that holds its own.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.calibration import sample
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.models import LM
from kvlab.trace import Silent


def rooted(owners: list[int], follower: int, leader: int) -> list[int]:
    """`owners` with `follower` reading `leader`, and every chain cut short: whoever is read holds its own."""
    owners = list(owners)
    owners[follower] = leader
    for layer in range(len(owners)):
        # leaders are lower, so theirs is settled already
        owners[layer] = owners[owners[layer]]
    return owners


def distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Mean over heads and positions of the Euclidean distance, half keys, half values: two pairs of [H, T, D]."""
    return sum(float((a - b).norm(dim=-1).mean()) for a, b in zip(one, other, strict=True)) / 2


@dataclass(frozen=True)
class KVSharer(Method):
    """Some layers read the cache of an earlier, unlike layer and hold nothing."""

    name = "kvsharer"
    title = "KVSharer"
    paper = "Yang et al., arXiv 2410.18517"
    year = 2024
    needs = ("calibration",)
    departs = (
        "All calibration passages have the same length, so that none is left out of the mean. Sliding-window layers neither share nor are shared. "
        "Keys and values of a layer that holds nothing are still computed, and then not used."
    )

    share: float = knob(0.25, "Share of the layers that hold nothing, where the threshold allows it.", 0, 0.9, 0.05)
    threshold: float = knob(0.5, "Least cosine between the last hidden states with and without sharing.", -1, 1.1, 0.05)
    order: str = knob("dissimilar", "Which pairs of layers are tried first.", choices=("dissimilar", "similar"))
    passages: int = knob(30, "Calibration passages.", 1, 256, 1)
    length: int = knob(64, "Tokens of a passage.", 4, 1024, 1)

    def owner(self, layer_idx: int, artefact: dict[str, Tensor]) -> int:
        return int(artefact["owners"][layer_idx])

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"owners": [L] int64}: for each layer the one it reads."""
        ids = sample(lm, self.passages, self.length)
        owners = list(range(lm.geometry.layers))
        want, cache = self._last_hidden(lm, ids, owners)
        for leader, follower in self._pairs(cache):
            if lm.geometry.layers - len(set(owners)) == self.sharing(lm.geometry):
                break
            if owners[follower] != follower:
                continue
            trial = rooted(owners, follower, leader)
            if float(torch.cosine_similarity(self._last_hidden(lm, ids, trial)[0], want, dim=-1).mean()) > self.threshold:
                owners = trial
        return {"owners": torch.tensor(owners)}

    def sharing(self, geometry: Geometry) -> int:
        """Layers that hold nothing if the search finds enough."""
        return min(round(self.share * geometry.open_layers), max(0, geometry.open_layers - 1))

    def _last_hidden(self, lm: LM, ids: Tensor, owners: list[int]) -> tuple[Tensor, KVCache]:
        """One flat float32 row per passage [C, length * width] with these owners, and the cache it left."""
        cache = KVCache(self, lm.geometry, len(ids), Silent(), lm.device, {"owners": torch.tensor(owners)})
        cache.tokens = torch.full((len(ids),), ids.shape[1], device=lm.device)
        places = torch.arange(ids.shape[1], device=lm.device).expand_as(ids)
        out = lm.model.get_decoder()(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True)
        return out.last_hidden_state.float().flatten(1), cache

    def _pairs(self, cache: KVCache) -> list[tuple[int, int]]:
        """(leader, follower) for every two open layers, in the order to try them."""
        views = {layer.index: layer.store.view() for layer in cache.layers if layer.window is None}
        means = {index: (view.k.float().mean(0), view.v.float().mean(0)) for index, view in views.items()}
        apart = {pair: distance(means[pair[0]], means[pair[1]]) for pair in combinations(means, 2)}
        return sorted(apart, key=apart.get, reverse=self.order == "dissimilar")

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        """As many layers hold nothing as are asked for; a search that stops at the threshold leaves more."""
        return slots * geometry.slot_bytes * (1 - self.sharing(geometry) / max(1, geometry.open_layers))
