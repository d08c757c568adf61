"""Quest (2024, arXiv 2406.10774). Card: methods/head_merge_retrieval.md, from the authors' code.

Everything stays; each query head reads a part. Slots form pages, and of each page the largest and the smallest value of every key channel
are kept beside the keys. From them follows what a query could score at most with any key of the page; the pages with the highest bound
are read and attended to exactly. The first layers read everything, and so does every call with more than one new token.

No page is read whatever its score, in the authors' evaluation code as here: a query may leave the newest page, and its own token, unread.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.column import Encode
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.methods.retrieval._slots import listed, read
from kvlab.select import keep_top
from kvlab.store import Pages, Store, View


def bounds(keys: Tensor, size: int, offset: int = 0, holes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Largest and smallest value per page and channel, each [B, H, pages, D].

    `keys` [B, H, t, D] start at slot `offset` of their first page; `holes` [B, 1 or H, t, 1] bool do not count.
    """
    end = -(offset + keys.shape[2]) % size  # slots missing in the last page

    def reduce(fill: float, how: Callable) -> Tensor:
        real = keys if holes is None else keys.masked_fill(holes, fill)
        return how(F.pad(real, (0, 0, offset, end), value=fill).unflatten(2, (-1, size)), 3)

    return reduce(-math.inf, torch.amax), reduce(math.inf, torch.amin)


def upper(q: Tensor, high: Tensor, low: Tensor) -> Tensor:
    """Bound on q.k for the keys of each page: `q` [B, Hq, 1, D], `high` and `low` [B, H, pages, D] -> [B, Hq, pages] float32."""
    grouped = q.float().view(q.shape[0], high.shape[1], -1, q.shape[-1])
    # a positive channel of the query is bounded by the largest key value, a negative one by the smallest
    score = grouped.relu() @ high.float().mT - (-grouped).relu() @ low.float().mT
    return score.flatten(1, 2)


class Paged(Store):
    """A store whose slots form pages of `size`; `high` and `low` [B, H, pages, D] bound the keys of each page."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.high, self.low = size, None, None

    def append(self, k: Tensor, v: Tensor, pos: Tensor, padded: bool = False) -> None:
        start = len(self)
        super().append(k, v, pos, padded)
        if self.padded or not self.even:
            return self._rebuild()
        high, low = bounds(k, self.size, start % self.size)
        if start:
            whole = start // self.size  # pages that were full before
            if start % self.size:
                high = torch.cat([torch.maximum(high[:, :, :1], self.high[:, :, -1:]), high[:, :, 1:]], dim=2)
                low = torch.cat([torch.minimum(low[:, :, :1], self.low[:, :, -1:]), low[:, :, 1:]], dim=2)
            high, low = torch.cat([self.high[:, :, :whole], high], dim=2), torch.cat([self.low[:, :, :whole], low], dim=2)
        self.high, self.low = high, low

    def keep(self, mask: Tensor) -> None:
        super().keep(mask)
        self._rebuild()

    def code(self, name: str, count: Tensor | int, encode: Encode) -> bool:
        coded = super().code(name, count, encode)
        if coded and name == "k":
            self._rebuild()
        return coded

    def replace_raw(self, name: str, values: Tensor) -> None:
        super().replace_raw(name, values)
        if name == "k":
            self._rebuild()

    def _rebuild(self) -> None:
        high, low = bounds(self.columns["k"].dense(), self.size, holes=(self.pos() < 0)[..., None])
        # a page of holes only bounds nothing, and infinities times zero are no numbers
        self.high, self.low = high.masked_fill(high == -math.inf, 0), low.masked_fill(low == math.inf, 0)

    def tensors(self) -> list[Tensor]:
        return super().tensors() + ([] if self.high is None else [self.high, self.low])

    def select(self, lists: Tensor) -> View:
        """The slots of the pages in `lists` [B, Hq, n] int32 (-1: none): a view with Hq heads. All page bounds are read to choose them."""
        return read(self, lists, self.size, self.high.nbytes + self.low.nbytes)


@dataclass(frozen=True)
class Quest(Method):
    """Each query reads the pages that could hold what it looks for; nothing is dropped."""

    name = "quest"
    title = "Quest"
    paper = "Tang et al., arXiv 2406.10774"
    year = 2024
    needs = ("queries",)
    departs = (
        "The tokens read are a share of those held instead of a fixed 512 to 4096, so that short prompts are read in part too. "
        "An entry that several query heads of a KV head look at counts as read once. As in the authors' evaluation code the newest page has no privilege: "
        "a query may leave its own token unread."
    )

    share: float = knob(0.25, "Share of the held tokens each query head reads, rounded down to whole pages, at least three. 1: all.", 0.01, 1, 0.01)
    page: int = knob(16, "Tokens of a page.", 1, 128, 1)
    dense: int = knob(2, "First layers that read everything.", 0, 64, 1)

    def store(self, layer: LayerKV) -> Store:
        return Paged(self.page) if layer.index >= self.dense else Store()

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> Pages | None:
        store = (layer.follows or layer).store
        if self.share == 1 or layer.cache.phase.kind != "decode" or q.shape[2] > 1 or not isinstance(store, Paged):
            return None
        lens = store.lens()
        have = -(-lens // self.page)
        take = ((lens * self.share).round().long() // self.page).clamp(min=3)
        if bool((take >= have).all()):
            return None
        group = q.shape[1] // lens.shape[1]
        exists = torch.arange(store.high.shape[2], device=q.device) < have[..., None]
        best = keep_top(upper(q, store.high, store.low), take.repeat_interleave(group, 1), exists.repeat_interleave(group, 1))
        lists, held = listed(best), store.snapshot()  # what the store does later must not show
        return Pages(lists, self.page, lambda: held.select(lists))

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        paged = sum(window is None for window in geometry.windows[self.dense :]) / max(1, geometry.open_layers)
        pages = math.ceil(slots / self.page)
        return slots * geometry.slot_bytes + paged * pages * 2 * geometry.head_dim * geometry.kv_heads * geometry.itemsize
