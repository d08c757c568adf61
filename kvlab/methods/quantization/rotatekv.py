"""RotateKV (2025, arXiv 2501.16383). Card: methods/quantization.md, from the authors' code.

Keys before RoPE: `heads` neighbouring KV heads are turned together by one Walsh-Hadamard matrix; then the channels of all heads are put in
the order of their mean on calibration text, so that every group of `group` holds channels of one level, and each token's groups are
quantized with a rounded zero point and a range clipped towards 0. Values are turned head by head and quantized likewise. Reading undoes
it in reverse and turns keys to their positions. There is no raw window; the first tokens stay exact.

Bytes per token and layer with C = H * D channels: 2 * (C * bits / 8 + 4 * C / group). The order [L, C] is shared by all runs and lies
outside the cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.rotate import hadamard
from kvlab.codecs.tokens import MinMax, groups_of
from kvlab.codecs.tokenwise import BeforeRope
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM


def together(heads: int, most: int) -> int:
    """How many of `heads` KV heads turn together: the largest divisor that is not above `most`."""
    return max(n for n in range(1, min(heads, most) + 1) if heads % n == 0)


@dataclass(frozen=True)
class Ordered(Learned):
    """Turned in pieces of `piece` channels, put in the order of the layer's artefact (`layer` None: left as they are), then `inner`."""

    inner: MinMax
    piece: int
    layer: LayerKV | None
    joint = True

    @property
    def bits(self) -> int:
        return self.inner.bits

    def order(self, device: torch.device) -> Tensor:
        return self.known("rotatekv order", device).long()

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        turned = hadamard(rows.unflatten(1, (rows.shape[1] // self.piece, self.piece))).flatten(1)
        turned = turned if self.layer is None else turned[:, self.order(rows.device)]
        return self.inner.encode(turned, held, owner, tables)

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        turned = self.inner.decode(held, size, owner, tables)
        turned = turned if self.layer is None else turned[:, self.order(turned.device).argsort()]
        return hadamard(turned.unflatten(1, (size // self.piece, self.piece))).flatten(1)

    def row_bytes(self, size: int, item: int) -> int:
        return self.inner.row_bytes(size, item)


@dataclass(frozen=True)
class RotateKV(BeforeRope):
    """Neighbouring heads are rotated together and their channels sorted by level before each token is quantized."""

    name = "rotatekv"
    title = "RotateKV"
    paper = "Su et al., arXiv 2501.16383"
    year = 2025
    source = "mixed"
    needs = ("rope", "calibration")
    learns = ("heads", "passages", "length")
    departs = (
        "The first tokens stay exact; the authors find such tokens from outliers in the hidden states at a layer's input, which mostly are these. Attention "
        "over a prompt sees exact keys and values. 3 bits use 8 levels, where the authors' code uses 9. Calibration reads less text."
    )

    sinks: int = knob(4, "First tokens of the text that stay exact.", 0, 64, 1)
    bits: int = knob(2, "Bits of one coded value.", choices=(2, 3, 4, 8))
    group: int = knob(128, "Sorted channels of all heads that share a scale; at most all of them.", 4, 1024, 4)
    clip: float = knob(0.8, "Both ends of a group's range are pulled towards 0 to this share; the authors use 1 for 3 and 4 bits.", 0.5, 1, 0.05)
    heads: int = knob(4, "KV heads whose keys are turned together, at most.", 1, 16, 1)
    passages: int = knob(16, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 4096, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        inner = MinMax(self.bits, self.group, "integer", self.clip)
        if layer is None:
            return dict.fromkeys("kv", Ordered(inner, 1, None))
        geometry = layer.cache.geometry
        keys = Ordered(inner, together(geometry.kv_heads, self.heads) * geometry.head_dim, layer)
        return {"k": keys, "v": Ordered(inner, geometry.head_dim, None)}

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"rotatekv order": [L, C] int16}: channels of the turned keys, by their sum over all tokens, smallest first."""
        piece = together(lm.geometry.kv_heads, self.heads) * lm.geometry.head_dim
        sums = [hadamard(x.plain.flatten(1).unflatten(1, (-1, piece))).flatten(1).sum(0) for x in captured(lm, self.passages, self.length, before_rope=True)]
        return {"rotatekv order": torch.stack(sums).argsort(dim=1, stable=True).to(torch.int16).cpu()}

    def refuses(self, geometry: Geometry) -> str | None:
        channels = geometry.kv_heads * geometry.head_dim
        if not geometry.latent and channels % groups_of(channels, self.group):
            return f"{geometry.family} has {channels} key channels in a layer, which groups of {self.group} do not divide. Choose another group."
        return super().refuses(geometry)
