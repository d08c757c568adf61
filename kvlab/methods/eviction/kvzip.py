"""KVzip (2025, arXiv 2505.23416). Card: methods/eviction.md, from the authors' code.

After the prompt was read the model is asked to repeat it, a chunk at a time, with the right answer fed in. An entry that no repeating
query looks at is not needed to rebuild the text, whatever will be asked later. Those passes leave nothing in the cache but scores.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.attention import QUERY_BLOCK, softmax_rows
from kvlab.cache import KVCache, LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, Job, Probe, knob
from kvlab.phase import Phase, Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top
from kvlab.store import View

FIRST = "\n\nNow write out the whole text above again, word for word."
LATER = "\n\nNow write out, word for word, the part of the text above that begins with:"
LEAD = 8  # tokens that tell a later chunk where it begins


def repeat_scores(seen: Seen, entries: Tensor) -> Tensor:
    """Largest weight any query and query head of this call gives a slot, a softmax over `entries` [B, H, T] alone: [B, H, T] float32."""
    view = View(seen.view.k, seen.view.v, torch.where(entries, seen.pos(), -1), True)
    best = torch.zeros(entries.shape, device=entries.device)
    for start in range(0, seen.q.shape[2], QUERY_BLOCK):
        block = slice(start, start + QUERY_BLOCK)
        rows = softmax_rows(seen.q[:, :, block], view, seen.q_pos[:, block], seen.rules) * seen.real[:, None, block, None]
        best = torch.maximum(best, seen.by_kv_head(rows.amax(2), "max"))
    return best


def _whole_heads(scores: list[Tensor], free: list[Tensor], total: Tensor) -> list[Tensor]:
    """All free entries of the heads with the best single entry, of as many heads as `total` [B] entries fill."""
    best = torch.cat([found.masked_fill(~mask, -1).amax(-1) for found, mask in zip(scores, free, strict=True)], dim=1)
    fit = total // free[0][:, 0].sum(-1).clamp(min=1)
    stays = keep_top(best[:, None], fit, torch.ones_like(best[:, None], dtype=torch.bool))[:, 0]
    return [part[..., None] & mask for part, mask in zip(stays.split([mask.shape[1] for mask in free], dim=1), free, strict=True)]


@dataclass(frozen=True)
class KVzip(Dropper):
    """Keeps what the model needs to repeat its own prompt, whatever the question. Reads the prompt about twice more.

    Positions go on behind the prompt, so one that fills more than half of a model's context is scored beyond what it was trained on.
    """

    name = "kvzip"
    title = "KVzip"
    paper = "Kim et al., arXiv 2505.23416"
    year = 2025
    needs = ("queries",)
    schedule = Schedule(probes=True)
    departs = (
        "Exactly the budgeted number of entries stays, protected ones counted in; the authors' threshold keeps one fewer and protects on top. "
        "The request to repeat is plain text without the turn markers of a chat template, and weights are float32. "
        "In a later turn the new prompt competes for what earlier entries leave of the budget."
    )

    level: str = knob("pair", "Who competes: entries of all layers, those of each head, or as many whole heads as fit.", choices=("pair", "uniform", "head"))
    chunk: int = knob(2000, "Prompt tokens repeated in one pass.", 8, 8192, 8)
    sinks: int = knob(4, "First tokens that always stay, in place of the authors' system prompt.", 1, 256, 1)

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.rope:
            return f"KVzip repeats the prompt at positions behind it, and {geometry.family} has no rotary positions to go on with."
        return super().refuses(geometry)

    def prepare(self, job: Job) -> list[Probe]:
        probes = []
        for start in range(0, len(job.ids), self.chunk):
            before = (*job.encode(LATER), *job.ids[start - LEAD : start]) if start else tuple(job.encode(FIRST))
            probes.append(Probe(before, start, min(start + self.chunk, len(job.ids))))
        return probes

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        pos, (low, high) = seen.pos(), (edge.view(-1, 1, 1) for edge in layer.cache.state["probe"])
        chunk = (pos >= low) & (pos < high)
        asked = pos >= (layer.tokens() - seen.real.sum(1)).view(-1, 1, 1)
        scores = repeat_scores(seen, chunk | asked | ((pos >= 0) & (pos < self.sinks)))
        layer.state["probe"] = [*layer.state.get("probe", []), torch.where(chunk, scores, -1)]

    def finish(self, cache: KVCache, phase: Phase) -> None:
        layers = [layer for layer in cache.layers if phase.kind == "prefill" and "probe" in layer.state]
        if not layers:
            return
        # the passes were rolled back: what is left of each are the slots from before it
        scores = [torch.stack([found[..., : len(layer.store)] for found in layer.state.pop("probe")]).amax(0) for layer in layers]
        free = [(found >= 0) & (layer.store.pos() >= self.sinks) for found, layer in zip(scores, layers, strict=True)]
        rest = [layer.store.valid() & ~mask for mask, layer in zip(free, layers, strict=True)]
        room = [layer.target(self.budget)[:, None] - mask.sum(-1) for mask, layer in zip(rest, layers, strict=True)]
        for layer, found, mask, stays, chosen in zip(layers, scores, free, rest, self._choose(scores, free, room), strict=True):
            layer.keep(stays | chosen, found.masked_fill(~mask, torch.nan))

    def _choose(self, scores: list[Tensor], free: list[Tensor], room: list[Tensor]) -> list[Tensor]:
        """Masks [B, H, T] of the free entries that stay, per layer; `room` [B, H] is what the budget leaves to each head."""
        if self.level == "uniform":
            return [keep_top(found, space, mask) for found, mask, space in zip(scores, free, room, strict=True)]
        total = sum(space.sum(-1) for space in room)
        if self.level == "head":
            return _whole_heads(scores, free, total)
        joined, all_free = (torch.cat([x.flatten(1) for x in xs], dim=1)[:, None] for xs in (scores, free))
        stays = keep_top(joined, total, all_free)[:, 0].split([mask[0].numel() for mask in free], dim=1)
        return [part.view_as(mask) for part, mask in zip(stays, free, strict=True)]

    def kept(self, tokens: int, prompt: int) -> float:
        return max(self.budget.tokens(prompt), min(prompt, self.sinks)) + tokens - prompt

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        ragged = self.level != "uniform" and geometry.kv_heads > 1 and not (self.budget.unit == "fraction" and self.budget.amount == 1)
        return super().layer_bytes(slots, geometry) + (3 * 8 * geometry.kv_heads if ragged else 0)
