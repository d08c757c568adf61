"""TOVA, token omission via attention (2024, arXiv 2401.06104). Card: methods/eviction.md, from the authors' code.

Whenever there are more slots than the budget, those stay that the newest query looks at most, its attention averaged over all heads of
the layer. All heads keep the same tokens, nothing is remembered from earlier queries, and even the newest token may go.
"""

from dataclasses import dataclass

from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import Scorer
from kvlab.phase import Schedule
from kvlab.seen import Seen


@dataclass(frozen=True)
class TOVA(Scorer):
    """The newest query alone decides, and all heads of a layer keep the same tokens."""

    name = "tova"
    title = "TOVA"
    paper = "Oren et al., arXiv 2401.06104"
    year = 2024
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, every=1)
    per_head = False

    def scores(self, layer: LayerKV, seen: Seen) -> Tensor:
        # averaged before the choice: each head by itself would keep other tokens
        return seen.weights(1)[:, :, 0].mean(1, keepdim=True).expand(-1, seen.view.k.shape[1], -1)
