"""Coupled Quantization, CQ (2024, arXiv 2405.03917). Card: methods/quantization.md. No code was found.

Neighbouring channels of a head depend on each other, so `coupled` of them share one code: the nearest of 2**bits vectors learned for them
on calibration text by k-means, for keys (before RoPE) and values, layer by layer and head by head. There are no scales.

Bytes per token, KV head and tensor of D channels: D / coupled * bits / 8. The codebooks, 4 * L * H * D * 2**bits bytes in 16 bits, are
shared by all runs and lie outside the cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs import stream
from kvlab.codecs.codebook import kmeans, nearest
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.pack import packed_size
from kvlab.codecs.tokenwise import BeforeRope
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.quantization._capture import captured, learned
from kvlab.models import LM


def learn(rows: Tensor, coupled: int, bits: int, rounds: int) -> Tensor:
    """Codebooks [H, D / coupled, 2**bits, coupled] for `rows` [N, H, D], a text's keys or values."""
    parts = rows.unflatten(2, (-1, coupled)).permute(1, 2, 0, 3)
    return torch.stack([kmeans(head, 2**bits, rounds) for head in parts])


@dataclass(frozen=True)
class Coupled(Learned):
    """One code of `width` bits for each `coupled` channels, out of the layer's codebooks for this `column`."""

    width: int
    coupled: int
    column: str
    layer: LayerKV | None
    headed = True

    @property
    def bits(self) -> float:
        return self.width / self.coupled

    def book(self, device: torch.device) -> Tensor:
        return self.known(f"cq {self.column}", device).float()

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        book = self.book(rows.device)
        head, parts = owner % len(book), rows.unflatten(1, (-1, self.coupled))
        codes = torch.empty(parts.shape[:2], dtype=torch.int64, device=rows.device)
        for h in range(len(book)):
            codes[head == h] = nearest(parts[head == h].transpose(0, 1), book[h]).T
        return (stream.pack(codes, self.width),)

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        book, parts = self.book(held[0].device), size // self.coupled
        codes = stream.unpack(held[0], self.width, parts)
        return book[(owner % len(book))[:, None], torch.arange(parts, device=codes.device), codes].flatten(1)

    def row_bytes(self, size: int, item: int) -> int:
        return packed_size(size // self.coupled, self.width)


@dataclass(frozen=True)
class CQ(BeforeRope):
    """Neighbouring channels share one code out of a codebook learned for them."""

    name = "cq"
    title = "CQ"
    paper = "Zhang et al., arXiv 2405.03917"
    year = 2024
    source = "recon"
    needs = ("rope", "calibration")
    learns = ("sinks", "bits", "coupled", "passages", "length", "rounds")
    departs = (
        "Reconstructed: plain k-means without the paper's weights from gradients, from seeded distinct tokens, on less text; with few tokens some codes are "
        "single tokens. A window of exact tokens can be set, as the authors do for 1 bit."
    )

    bits: int = knob(8, "Bits of one code.", 1, 10, 1)
    coupled: int = knob(4, "Channels that share a code: 4 of 8 bits are 2 bits per value.", choices=(1, 2, 4, 8))
    passages: int = knob(16, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)
    rounds: int = knob(10, "Rounds of k-means.", 1, 100, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        return {column: Coupled(self.bits, self.coupled, column, layer) for column in "kv"}

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"cq k", "cq v": [L, H, D / coupled, 2**bits, coupled] float16}."""
        found = captured(lm, self.passages, self.length, self.sinks, before_rope=True)
        return learned("cq", found, lambda rows: learn(rows, self.coupled, self.bits, self.rounds))

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.head_dim % self.coupled:
            return f"{geometry.family} has heads of {geometry.head_dim} channels, which couples of {self.coupled} do not divide. Choose another number."
        return super().refuses(geometry)
