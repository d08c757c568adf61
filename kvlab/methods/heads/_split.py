"""One budget for two kinds of heads: some stay whole, the others share what is left."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.seen import Seen


def split(count: int, tokens: int, heads: int, whole: int, least: int) -> tuple[int, int]:
    """How many of `heads` stay whole, and the slots left for all others together, when heads hold `count` of `tokens` on average.

    At most `whole`, and only as many as leave the others `least` slots each; where there is less than that, nobody stays whole.
    """
    if count >= tokens:
        return heads, 0
    least = min(least, count)
    full = min(whole, (count - least) * heads // (tokens - least))
    return full, count * heads - full * tokens


def widths(count: int, tokens: int, order: list[int], whole: int, least: int) -> Tensor:
    """Slots of each head, int64 [N]: `order` names all N heads, those to stay whole first. Their sum is `count` times N exactly."""
    heads = len(order)
    full, rest = split(count, tokens, heads, whole, least)
    slots = torch.full((heads,), tokens)
    if full < heads:
        each, over = divmod(rest, heads - full)
        others = torch.tensor(order[full:])
        slots[others] = each
        slots[others[:over]] += 1
    return slots


def open_layers(geometry: Geometry) -> list[int]:
    """Indices of the layers without a window: the ones whose heads are ranked."""
    return [i for i, window in enumerate(geometry.windows) if window is None]


def of_layer(found: Tensor, layer: LayerKV) -> Tensor:
    """Of numbers [N] for all ranked heads those of one layer: [H]."""
    layers = open_layers(layer.cache.geometry)
    return found.view(len(layers), -1)[layers.index(layer.index)]


def ranked(table: Tensor) -> list[int]:
    """Flat indices of `table`, largest first; ties in order."""
    return table.flatten().argsort(descending=True, stable=True).tolist()


def decided_on(layer: LayerKV, seen: Seen) -> Tensor:
    """Tokens of each row, [B], when its budget was last shared out: at the end of its prompt."""
    return layer.tokens() if seen.phase.kind == "prefill" else layer.cache.prompt
