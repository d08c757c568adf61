"""Block floating point with K-sort (2024, arXiv 2403.20137). Card: methods/quantization.md. No code was published.

Blocks of `block` channels of one token and head share an exponent; each channel has a signed mantissa of `bits` bits. One outlier spoils its
block, so the channels of a key are sorted by size first and outliers become neighbours. The order is found once per model: from the
sizes of keys on calibration text, or from the rows of the key projection, and the two channels that RoPE turns together rank alike.

Bytes per token, KV head and tensor of D channels: D * bits / 8 + D / block. The order [L, H, D] is shared by all runs and lies outside
the cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs import blockfloat, stream
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.pack import packed_size
from kvlab.codecs.tokens import groups_of
from kvlab.codecs.tokenwise import Tokenwise
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM


def by_pairs(energy: Tensor) -> Tensor:
    """Order [..., D] of channels by the energy [..., D] of the pair that RoPE turns together: channels i and i + D / 2."""
    half = energy.shape[-1] // 2
    pair = energy[..., :half] + energy[..., half : 2 * half]
    return torch.cat([pair, pair, energy[..., 2 * half :]], -1).argsort(dim=-1, stable=True)


@dataclass(frozen=True)
class Blocks(Learned):
    """Mantissas above their lowest number, and exponents. `layer`: whose order the channels get; None: their own."""

    bits: int
    block: int
    layer: LayerKV | None

    @property
    def headed(self) -> bool:
        return self.layer is not None

    def order(self, owner: Tensor) -> Tensor:
        """[N, D]: the order of each row's head."""
        known = self.known("bfp order", owner.device).long()
        return known[owner % len(known)]

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows = rows if owner is None else rows.gather(1, self.order(owner))
        mantissas, exponents = blockfloat.encode(rows, self.bits, groups_of(rows.shape[1], self.block))
        return stream.pack(mantissas + 2 ** (self.bits - 1) - 1, self.bits), exponents

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        rows = blockfloat.decode(stream.unpack(held[0], self.bits, size) - (2 ** (self.bits - 1) - 1), held[1], self.bits)
        return rows if owner is None else torch.empty_like(rows).scatter_(1, self.order(owner), rows)

    def row_bytes(self, size: int, item: int) -> int:
        return packed_size(size, self.bits) + size // groups_of(size, self.block)


@dataclass(frozen=True)
class BFP(Tokenwise):
    """Channels of similar size share an exponent: sorted once per model, coded as block floating point."""

    name = "bfp"
    title = "BFP with K-sort"
    paper = "Trukhanov and Soloveychik, arXiv 2403.20137"
    year = 2024
    source = "recon"
    needs = ("calibration",)
    learns = ("sort", "passages", "length")
    departs = (
        "Reconstructed from summaries. Stored keys are permuted, not weights, and queries stay exact. The order comes from calibration text by default, as "
        "weights say little where keys are normalised later. Values are coded too, unsorted."
    )

    bits: int = knob(4, "Bits of a mantissa: 4 with the exponent of 8 is the paper's BFP12.", choices=(3, 4, 5, 6, 8))
    block: int = knob(32, "Channels that share an exponent; narrower heads are one block.", 4, 128, 4)
    sort: str = knob("data", "Keys' channels sorted by: sizes on calibration text, rows of weights, or nothing.", choices=("data", "weights", "none"))
    values: bool = knob(True, "Code the values too.")
    passages: int = knob(8, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        keys = {"k": Blocks(self.bits, self.block, None if self.sort == "none" else layer)}
        return keys | ({"v": Blocks(self.bits, self.block, None)} if self.values else {})

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"bfp order": [L, H, D] int16}: channels of every head, smallest first."""
        if self.sort == "weights":
            energy = torch.stack([_rows(layer, lm.geometry) for layer in lm.model.get_decoder().layers])
        else:
            energy = torch.stack([layer.k.square().mean(0) for layer in captured(lm, self.passages, self.length)])
        return {"bfp order": by_pairs(energy).to(torch.int16).cpu()}

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.head_dim % groups_of(geometry.head_dim, self.block):
            return f"{geometry.family} has heads of {geometry.head_dim} channels, which blocks of {self.block} do not divide. Choose another block."
        return super().refuses(geometry)


def _rows(layer: torch.nn.Module, geometry: Geometry) -> Tensor:
    """Squared norms of the rows of a layer's key projection behind its norm, times the gain of a norm of the keys: [H, D]."""
    attention = getattr(layer, "self_attn", None)
    if not hasattr(attention, "k_proj"):
        raise ValueError(f"{geometry.family} has no key projection of its own to sort by. Choose sort=data.")
    weight = attention.k_proj.weight.float() * layer.input_layernorm.weight.float()
    energy = weight.square().sum(1)
    if attention.k_proj.bias is not None:
        energy = energy + attention.k_proj.bias.float().square()
    energy = energy.view(geometry.kv_heads, -1)
    return energy * attention.k_norm.weight.float().square() if hasattr(attention, "k_norm") else energy
