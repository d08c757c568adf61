"""RazorAttention (2024, arXiv 2407.15891). Card: methods/head_merge_retrieval.md; the authors published no code, vendors did.

Heads that go back to earlier places of the same text, found on random tokens, keep everything. The others keep the first and the last
tokens; all between them becomes one compensation token, the mean of their keys and values, which counts as often as it stands for tokens.

The weight of that token follows the paper's formula; the vendors' code leaves it out. Folding while text is written is reconstructed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.merge import takers, write
from kvlab.method import Dropper, knob
from kvlab.methods.heads._split import decided_on, of_layer, open_layers, ranked, split, widths
from kvlab.phase import Schedule
from kvlab.profile import HeadProfile, by_kv_head
from kvlab.seen import Seen
from kvlab.store import View

TAG = "razorattention"
"""Column of how many tokens a slot stands for; 0 for a token that is itself."""


def retrieval_heads(induction: Tensor, echo: Tensor, induction_share: float, echo_share: float) -> list[int]:
    """Flat indices of the heads with the highest scores: so large a share by induction, then by echo, each of them at least one head."""
    chosen = [ranked(table)[: max(1, round(share * table.numel()))] for table, share in ((induction, induction_share), (echo, echo_share)) if share > 0]
    return list(dict.fromkeys(head for part in chosen for head in part))


def folded(x: Tensor, counts: Tensor) -> Tensor:
    """Mean of the rows of `x` [B, H, T, D], each as often as `counts` [B, H, T] says: [B, H, D] float32, 0 where all counts are 0."""
    return (counts[..., None] * x.float()).sum(2) / counts.sum(-1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class RazorAttention(Dropper):
    """Retrieval heads keep everything; the others keep both ends of the text and one token that stands for the middle."""

    name = "razorattention"
    title = "RazorAttention"
    paper = "Tang et al., arXiv 2407.15891"
    year = 2024
    source = "mixed"
    needs = ("calibration",)
    artefact_of = HeadProfile()
    departs = (
        "The budget decides how long the window of the other heads is, where the paper takes a fifth of the prompt, and how many retrieval heads there can be. "
        "Heads are searched on 500 random tokens, not 2500. Folding tokens in while text is written is reconstructed."
    )

    induction: float = knob(0.14, "Share of the KV heads taken as retrieval heads by their induction score.", 0, 1, 0.01)
    echo: float = knob(0.01, "Share of the KV heads taken as retrieval heads by their echo score.", 0, 1, 0.01)
    sinks: int = knob(4, "First tokens that the other heads keep.", 0, 64, 1)
    recent: int = knob(32, "Last tokens that the other heads keep at the least; what the budget leaves over makes it more.", 1, 4096, 1)
    compensation: str = knob("weighted", "The token for the middle: weighted by the formula, like any other, or none.", choices=("weighted", "plain", "none"))
    fold: bool = knob(False, "Let the window slide while text is written, and fold what leaves it in. Off: written tokens are all kept.")

    @property
    def schedule(self) -> Schedule:  # type: ignore[override]
        return Schedule(prefill=True, every=int(self.fold))

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | None:
        store = (layer.follows or layer).store
        if self.compensation != "weighted" or TAG not in store.columns:
            return None
        return store.view()._replace(bias=store.tag(TAG).clamp(min=1).log())

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        store, pos, valid = layer.store, seen.pos(), seen.valid()
        slots = torch.stack([self.slots(layer, int(n)) for n in decided_on(layer, seen)]).to(pos.device)[..., None]  # [B, H, 1]
        gone = valid & takers(store) & self._between(slots, pos, layer.tokens(), decided_on(layer, seen))
        if not gone.any():
            return
        merges = gone & ((slots > 1) & (self.compensation != "none"))
        first = merges & (merges.long().cumsum(-1) == 1)
        if merges.any():
            self._merge(layer, seen.view, merges, first)
        place = (pos * first).sum(-1, keepdim=True)
        layer.keep(valid & (~gone | first), into=torch.where(merges & ~first, place, -1))

    def _between(self, slots: Tensor, pos: Tensor, tokens: Tensor, prompt: Tensor) -> Tensor:
        """What the window and the sinks of the heads with fewer `slots` [B, H, 1] than tokens leave out: [B, H, T]."""
        spare = (slots > 1).long() * (self.compensation != "none")  # the slot of the compensation token
        first = (slots - spare - 1).clamp(0, self.sinks)
        return (slots < prompt.view(-1, 1, 1)) & (pos >= first) & (pos < tokens.view(-1, 1, 1) - (slots - spare - first))

    @staticmethod
    def _merge(layer: LayerKV, view: View, merges: Tensor, first: Tensor) -> None:
        """Put the mean of the slots `merges` into the one of them that is `first`, [B, H, T] bool both, and count them."""
        store = layer.store
        counts = store.tag(TAG)
        each = counts.clamp(min=1) * merges
        for name, x in (("k", view.k), ("v", view.v)):
            write(store, name, torch.where(first[..., None], folded(x, each)[:, :, None].to(x.dtype), x))
        store.tag(TAG, torch.where(first, each.sum(-1, keepdim=True), counts))

    def slots(self, layer: LayerKV, prompt: int) -> Tensor:
        """Slots of each head of a layer for a prompt of this length: [H] int64; all of them for a retrieval head."""
        geometry, table = layer.cache.geometry, layer.cache.artefact
        induction, echo = (by_kv_head(table[name], geometry.kv_heads, "max")[open_layers(geometry)] for name in ("induction", "echo"))
        wanted = retrieval_heads(induction, echo, self.induction, self.echo)
        order = list(dict.fromkeys([*wanted, *ranked(induction)]))
        return of_layer(widths(self.budget.tokens(prompt), prompt, order, len(wanted), self._least()), layer)

    def _least(self) -> int:
        return self.sinks + self.recent + (self.compensation != "none")

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return self._kept(tokens, prompt, max(1, geometry.open_layers * geometry.kv_heads))

    def kept(self, tokens: int, prompt: int) -> float:
        return self._kept(tokens, prompt, 1 << 20)  # without a model there is no number of heads: as if there were very many

    def _kept(self, tokens: int, prompt: int, heads: int) -> float:
        count = self.budget.tokens(prompt)
        if not self.fold:
            return count + tokens - prompt
        # as if the heads with the best echo were among those with the best induction
        whole = max(max(1, round(share * heads)) if share else 0 for share in (self.induction, self.echo))
        full, rest = split(count, prompt, heads, whole, self._least())
        return (full * tokens + rest) / heads

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        whole = self.budget.unit == "fraction" and self.budget.amount == 1
        # in uneven layers the lengths of four columns; a slot's count only where one may stand for several
        counts = 0 if whole or self.compensation == "none" else 4 * geometry.kv_heads
        return super().layer_bytes(slots, geometry) + slots * counts + (0 if whole else 8 * geometry.kv_heads * (4 if counts else 3))
