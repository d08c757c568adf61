"""FastKV (2025, arXiv 2502.01068). Card: methods/eviction.md, from the authors' code.

Up to one layer in the middle the whole prompt is read. There, the tokens that the prompt's last queries look at are chosen, summed over
all heads, and only these go on: the layers above never compute the others. Every layer for itself keeps the best of what it read, by
SnapKV's votes. Positions are the true ones throughout.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.eviction._cascade import by_position, unshortened
from kvlab.methods.eviction.snapkv import SnapKV, snap_votes
from kvlab.seen import Seen
from kvlab.select import keep_top, protect


@dataclass(frozen=True)
class FastKV(SnapKV):
    """Half of the layers read the whole prompt, the rest only what the end of the prompt looked at there: a faster prefill, and fewer entries."""

    name = "fastkv"
    title = "FastKV"
    paper = "Jo et al., arXiv 2502.01068"
    year = 2025
    shortens = True
    departs = (
        "At least the budgeted number of tokens goes on, also where the budget exceeds `rate`. Of a prompt read in chunks only the last chunk gets shorter "
        "on its way up; what earlier chunks left above the chosen layer is dropped afterwards. Sliding-window layers choose nothing, and those above the "
        "chosen layer read the shorter text."
    )

    depth: float = knob(0.5, "Share of the layers that read the whole prompt; the last of them chooses. The authors': 16 of 32.", 0, 1, 0.05)
    rate: float = knob(0.2, "Share of the prompt's tokens that goes on to the layers above. 1: all, which is SnapKV.", 0.01, 1, 0.05)
    window: int = knob(8, "Queries at the prompt's end that vote and are always kept.", 1, 512, 1)
    kernel: int = knob(7, "Width of the smoothing along the tokens, odd.", 1, 63, 2)
    pool: str = knob("max", "How votes of neighbours are combined.", choices=("avg", "max"))

    def refuses(self, geometry: Geometry) -> str | None:
        return unshortened(self.title, geometry) or super().refuses(geometry)

    def place(self, layer: int, geometry: Geometry) -> int:
        """Where a layer stands to the one that chooses, 0 being that one: only layers without a window count."""
        chooser = max(1, round(geometry.open_layers * self.depth)) - 1
        return sum(window is None for window in geometry.windows[:layer]) - chooser

    def through(self, tokens: int) -> int:
        """Tokens of `tokens` that go on."""
        return max(1, self.budget.tokens(tokens), int(tokens * self.rate))

    def count(self, layer: int, tokens: int, geometry: Geometry) -> int:
        """Slots each head of a layer keeps of a prompt of `tokens`."""
        count, through = self.budget.tokens(tokens), self.through(tokens)
        if self.place(layer, geometry) <= 0 or count == through or self.rate == 1 or self.budget.unit == "tokens":
            return count
        return max(1, int(through * (self.budget.amount / self.rate)))  # as the authors truncate: it may be one less

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        state, tokens, geometry = layer.cache.state, layer.tokens(), layer.cache.geometry
        place, last = self.place(layer.index, geometry), self.place(geometry.layers, geometry) - 1
        votes, pos = snap_votes(seen, self.window, self.kernel, self.pool), seen.pos()
        if place == 0 < last:
            state["fastkv"] = self._chosen(by_position(seen.by_kv_head(votes, "sum"), pos, int(tokens.max())), pos, tokens)
            layer.cache.shorten(seen.real & state["fastkv"].gather(1, seen.q_pos.clamp(min=0).long()))
        came = seen.valid()
        if place > 0:
            came = came & state["fastkv"].gather(1, pos.clamp(min=0).long().flatten(1)).view_as(pos)
        if place == last:
            state.pop("fastkv", None)
        count = torch.tensor([self.count(layer.index, int(n), geometry) for n in tokens], device=tokens.device)
        scores = seen.by_kv_head(votes, "mean")
        layer.keep(keep_top(scores, count, came, self.protected(layer, seen, count)), scores)

    def _chosen(self, votes: Tensor, pos: Tensor, tokens: Tensor) -> Tensor:
        """Positions [B, P] bool that go on: the best by `votes` [B, P] of those some head holds, and the window."""
        held = by_position(torch.ones_like(pos, dtype=torch.float32), pos, votes.shape[1]) > 0
        through = torch.tensor([self.through(int(n)) for n in tokens], device=tokens.device)
        window = protect(torch.arange(votes.shape[1], device=pos.device).expand(len(pos), 1, -1), tokens, last=through.clamp(max=self.window))
        return keep_top(votes[:, None], through, held[:, None], window)[:, 0]

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return self.count(layer, prompt, geometry) + tokens - prompt

    def extra_bytes(self, tokens: int, prompt: int, geometry: Geometry) -> float:
        # a layer that keeps all that came holds one list of positions for all heads
        above = [i for i, window in enumerate(geometry.windows) if window is None and self.place(i, geometry) > 0]
        alike = [i for i in above if prompt > self.count(i, prompt, geometry) == self.through(prompt) > self.window]
        return -sum(4 * (geometry.kv_heads - 1) * self.layer_kept(i, tokens, prompt, geometry) for i in alike)
