"""KVQuant (2024, arXiv 2401.18079). Card: methods/quantization.md, from the authors' code.

Keys are taken before RoPE and quantized per channel, with ranges known from calibration text; values per token, with ranges of their own.
Both use uneven levels: one list per layer and tensor, found on calibration text by k-means over normalised entries. The largest and the
smallest entries of every token, `outliers` of all C = H * D, are held exactly beside the codes. The first tokens stay exact.

Bytes per token and layer, m = 2 * ceil(outliers / 2 * C) outliers: 2 * (C * bits / 8 + 4 * m) + 4 for the value's offset and range.
Ranges [L, 2, C] and levels [L, 2, 2**bits] are shared by all runs and lie outside the cache.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs import stream
from kvlab.codecs.codebook import bucket, kmeans
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.pack import packed_size
from kvlab.codecs.tokenwise import BeforeRope
from kvlab.method import knob
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM

FIT = 1 << 14
"""Entries that k-means looks at."""


def each_end(share: float, channels: int) -> int:
    """Outliers at either end of a token's entries."""
    return math.ceil(share / 2 * channels)


def ends(x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Channels [N, 2 * count] of the largest and smallest entries of `x` [N, C], and the next ones inside: highest and lowest, [N, 1]."""
    order = x.argsort(dim=1, stable=True)
    outside = torch.cat([order[:, :count], order[:, x.shape[1] - count :]], dim=1)
    low, high = (x.gather(1, order[:, at : at + 1]) for at in (count, x.shape[1] - 1 - count))
    return outside, high, low


@dataclass(frozen=True)
class Levels(Learned):
    """`column` "k": offset and range of the artefact; "v": of the token itself, held in 16 bits."""

    bits: int
    outliers: float
    column: str
    layer: LayerKV | None
    joint = True

    def levels(self, device: torch.device) -> Tensor:
        """[2**bits], ascending."""
        return self.known(f"kvquant {self.column} levels", device)

    def scales(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Offset and range [C] of the key channels."""
        return self.known("kvquant offset", device), self.known("kvquant range", device)

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        count = each_end(self.outliers, rows.shape[1])
        if self.column == "k":
            offset, span, own = *self.scales(rows.device), ()
            outside = ends((rows - offset) / span, count)[0]
        else:
            outside, high, low = ends(rows, count)
            own = ((high + low) / 2).to(held), ((high - low) / 2).to(held)
            offset, span = own[0].float(), torch.where(own[1] == 0, 1, own[1].float())
        codes = bucket((rows - offset) / span, self.levels(rows.device))
        return stream.pack(codes, self.bits), rows.gather(1, outside).to(held), outside.to(torch.int16), *own

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        device = held[0].device
        offset, span = (held[3].float(), held[4].float()) if self.column == "v" else self.scales(device)
        rows = self.levels(device)[stream.unpack(held[0], self.bits, size)] * span + offset
        return rows.scatter(1, held[2].long(), held[1].float())

    def row_bytes(self, size: int, item: int) -> int:
        return packed_size(size, self.bits) + 8 * each_end(self.outliers, size) + 4 * (self.column == "v")


@dataclass(frozen=True)
class KVQuant(BeforeRope):
    """Keys before RoPE and uneven levels from calibration; a few outliers of every token are held exactly."""

    name = "kvquant"
    title = "KVQuant"
    paper = "Hooper et al., arXiv 2401.18079"
    year = 2024
    source = "mixed"
    needs = ("rope", "calibration")
    learns = ("sinks", "bits", "outliers", "passages", "length")
    departs = (
        "Every token's keys have equally many outliers, the farthest out of their channels' ranges, where the authors take all outside and cap them. "
        "K-means is not weighted by gradients. Outliers take 16 bits and a channel number of 16. Calibration reads less text."
    )

    sinks: int = knob(1, "First tokens of the text that stay exact.", 0, 64, 1)
    bits: int = knob(3, "Bits of one coded value.", choices=(2, 3, 4, 8))
    outliers: float = knob(0.01, "Share of a token's entries held exactly, half at either end.", 0, 0.1, 0.005)
    passages: int = knob(16, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        return {column: Levels(self.bits, self.outliers, column, layer) for column in "kv"}

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """"kvquant offset" and "range" [L, C] of the key channels, "k levels" and "v levels" [L, 2**bits]: float32, names led by "kvquant "."""
        found: dict[str, list[Tensor]] = {"offset": [], "range": [], "k levels": [], "v levels": []}
        tail = (1 - 0.99) / 2
        for layer in captured(lm, self.passages, self.length, self.sinks, before_rope=True):
            keys, values = layer.plain.flatten(1), layer.v.flatten(1)
            low, high = (torch.quantile(keys, at, dim=0) for at in (tail, 1 - tail))
            span = ((high - low) / 2).clamp(min=1e-6)
            _, top, bottom = ends(values, each_end(self.outliers, values.shape[1]))
            found["offset"].append((high + low) / 2)
            found["range"].append(span)
            found["k levels"].append(self._levels((keys - (high + low) / 2) / span))
            found["v levels"].append(self._levels((values - (top + bottom) / 2) / ((top - bottom) / 2).clamp(min=1e-6)))
        return {f"kvquant {name}": torch.stack(parts).cpu() for name, parts in found.items()}

    def _levels(self, x: Tensor) -> Tensor:
        """2**bits ascending levels for the entries of `x` within -1 and 1."""
        inside = x[x.abs() <= 1]
        drawn = inside[torch.randperm(len(inside), generator=torch.Generator().manual_seed(0))[:FIT].to(x.device)]
        return kmeans(drawn.view(1, -1, 1), 2**self.bits, 40).flatten().sort().values
