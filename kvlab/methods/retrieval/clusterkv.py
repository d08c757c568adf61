"""ClusterKV (2024, arXiv 2412.03213). Card: methods/head_merge_retrieval.md, from the authors' code.

Everything stays; each query head reads a part. At the end of a prompt the keys of each KV head, but for the first tokens, are put into
clusters by the direction they point to, wherever in the text they stand. A query takes clusters by the product of itself with their
centroids, the largest first, until the tokens in them fill its budget; the last one is cut to fit. So heads read equally many tokens, not
clusters. The first tokens, and all that came since the last clustering, are read whatever they are.

A slot's tag "cluster" says where it belongs: 0 for what is always read, and c + 1 for the cluster of centroid c. A cluster's tokens are
taken in the order of the text.
"""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.methods.retrieval._slots import listed, read
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.store import Pages, Store, View

ROUNDS = 20
"""The most rounds of k-means, as in the authors' scripts."""


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """The centroid [C, D] with the highest cosine to each row of `x` [N, D], the first where several have it: [N] int64."""
    return (F.normalize(x, dim=-1) @ F.normalize(centroids, dim=-1).mT).argmax(-1)


def kmeans(x: Tensor, count: int) -> Tensor:
    """Centroids [count, D] of the rows of `x` [N, D] float32: rows belong by cosine, a centroid is the mean of its rows, if it has any.

    It starts from rows at even distances. N is at least one.
    """
    centroids = x[torch.arange(count, device=x.device) * len(x) // count]
    for _ in range(ROUNDS):
        member = F.one_hot(nearest(x, centroids), count).to(x.dtype)
        size = member.sum(0)[:, None]
        moved = torch.where(size > 0, member.mT @ x / size.clamp(min=1), centroids)  # a product and no scatter: the same sums in every run
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids


def chosen(q: Tensor, centroids: Tensor, labels: Tensor, take: Tensor) -> Tensor:
    """Slots each query head takes, `take` [B, H] of them from the clusters it likes best: [B, Hq, T] bool.

    `q` [B, Hq, 1, D], `centroids` [B, H, C, D], `labels` [B, H, T] int64: c + 1, or 0 for a slot that is of no cluster.
    """
    group = q.shape[1] // labels.shape[1]
    spread = lambda x: x.repeat_interleave(group, dim=1)  # noqa: E731
    sizes = torch.zeros(*centroids.shape[:2], centroids.shape[2] + 1, dtype=torch.int64, device=q.device).scatter_add_(2, labels, torch.ones_like(labels))
    sizes, labels = spread(sizes), spread(labels)
    scores = (q.float().view(*centroids.shape[:2], group, -1) @ centroids.float().mT).flatten(1, 2)
    order = scores.argsort(dim=-1, descending=True, stable=True) + 1
    ordered = sizes.gather(2, order)
    room = (spread(take)[..., None] - ordered.cumsum(-1) + ordered).clamp(min=0)
    quota = torch.zeros_like(sizes).scatter_(2, order, torch.minimum(room, ordered)).gather(2, labels)
    cut = (quota > 0) & (quota < sizes.gather(2, labels))  # at most one cluster of a head, so that a count of its slots is their rank in it
    return (quota > 0) & (~cut | (cut.cumsum(-1) <= quota))


class Clustered(Store):
    """A store whose slots are in clusters: `centroids` [B, H, C, D], each slot's cluster in its tag. `since`: tokens that came since the last clustering."""

    def __init__(self) -> None:
        super().__init__()
        self.centroids: Tensor | None = None
        self.since = 0

    def append(self, k: Tensor, v: Tensor, pos: Tensor, padded: bool = False) -> None:
        super().append(k, v, pos, padded)
        self.since += k.shape[2]

    def labels(self) -> Tensor:
        """[B, H, T] int64, 0 behind the end of a short head."""
        return self.tag("cluster").long()

    def group(self, mask: Tensor, counts: Tensor) -> None:
        """Put the slots in `mask` [B, H, T] into `counts` [B, H] clusters more. Who has fewer than another (b, h) gets zeros to fill up."""
        keys, labels = self.columns["k"].dense(), self.labels()
        known = 0 if self.centroids is None else self.centroids.shape[2]
        found = keys.new_zeros(*mask.shape[:2], int(counts.max()), keys.shape[-1])
        for b, h in itertools.product(*map(range, mask.shape[:2])):
            rows, count = keys[b, h][mask[b, h]].float(), int(counts[b, h])
            if len(rows):
                found[b, h, :count] = kmeans(rows, count)
                labels[b, h][mask[b, h]] = nearest(rows, found[b, h, :count].float()) + known + 1
        self.centroids = torch.cat([self.centroids, found], dim=2) if known else found
        self.tag("cluster", labels.float())

    def tensors(self) -> list[Tensor]:
        return super().tensors() + ([] if self.centroids is None else [self.centroids])

    def select(self, lists: Tensor) -> View:
        """The slots in `lists` [B, Hq, n] int32 (-1: none): a view with Hq heads."""
        tags = sum(tensor.nbytes for tensor in self.columns["cluster"].tensors())
        return read(self, lists, 1, self.centroids.nbytes + tags)


@dataclass(frozen=True)
class ClusterKV(Method):
    """Each query reads the clusters of keys that point its way, wherever in the text they stand; nothing is dropped."""

    name = "clusterkv"
    title = "ClusterKV"
    paper = "Liu et al., arXiv 2412.03213"
    year = 2024
    needs = ("queries",)
    departs = (
        "The tokens read are a share of those held instead of 1,024 or 2,048, and there is a cluster for every so many tokens instead of 200 or 400 in all, "
        "so that short prompts are read in part too. k-means starts from tokens at even distances instead of a random draw. Clusters of written tokens are "
        "as large as the prompt's, and a later prompt clusters everything anew. An entry that several query heads of a KV head look at counts as read once."
    )
    schedule = Schedule(prefill=True, every=1)

    share: float = knob(0.25, "Share of the held tokens each query head reads, first ones included; those of no cluster come on top. 1: all.", 0.01, 1, 0.01)
    size: int = knob(16, "Tokens of a cluster, on average.", 1, 512, 1)
    sinks: int = knob(16, "First tokens that are in no cluster and always read.", 0, 128, 1)
    window: int = knob(320, "Later tokens that are read whole until there are this many and they become clusters too. 0: they never do.", 0, 4096, 1)
    dense: int = knob(2, "First layers that read everything.", 0, 64, 1)

    def store(self, layer: LayerKV) -> Store:
        return Clustered() if layer.index >= self.dense else Store()

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        store = layer.store
        if not isinstance(store, Clustered):
            return
        if seen.phase.kind == "prefill":
            store.centroids, store.since = None, 0
            store.tag("cluster", torch.zeros_like(store.valid(), dtype=torch.float32))
            store.group(self._open(store), -(-store.lens() // self.size))
        elif self.window and store.since >= self.window:
            self._later(store)

    def _open(self, store: Clustered) -> Tensor:
        """[B, H, T] bool: slots of no cluster that may be in one."""
        return (store.labels() == 0) & store.valid() & (store.pos() >= self.sinks)

    def _later(self, store: Clustered) -> None:
        """The oldest open slots, a whole window at a time, become clusters."""
        if store.centroids is None:  # a question, and no prompt before
            return
        while bool((due := (waiting := self._open(store)).sum(-1) >= self.window).any()):
            store.group(waiting & due[..., None] & (waiting.cumsum(-1) <= self.window), due * -(-self.window // self.size))
        store.since = int(waiting.sum(-1).max())

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> Pages | None:
        store = (layer.follows or layer).store
        if self.share == 1 or layer.cache.phase.kind != "decode" or q.shape[2] > 1 or not isinstance(store, Clustered) or store.centroids is None:
            return None
        labels = store.labels()
        always = (labels == 0) & store.valid()
        first = (always & (store.pos() < self.sinks)).sum(-1)
        take = ((store.lens() * self.share).round().long() - first).clamp(min=0)
        if bool((take >= (labels > 0).sum(-1)).all()):
            return None
        group = q.shape[1] // labels.shape[1]
        lists, held = listed(chosen(q, store.centroids, labels, take) | always.repeat_interleave(group, 1)), store.snapshot()
        return Pages(lists, 1, lambda: held.select(lists))  # what the store does later must not show

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return self.held_bytes(slots, slots, 0, geometry)

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        clustered = sum(window is None for window in geometry.windows[self.dense :]) / max(1, geometry.open_layers)
        clusters = math.ceil(first / self.size) + (later // self.window * math.ceil(self.window / self.size) if self.window else 0)
        return slots * geometry.slot_bytes + clustered * geometry.kv_heads * (4 * slots + clusters * geometry.head_dim * geometry.itemsize)
