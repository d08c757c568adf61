"""QuaRot, the part that touches the cache (2024, arXiv 2404.00456). Card: methods/quantization.md, from the authors' code.

A Walsh-Hadamard turn of every head spreads an outlier channel over all of them; then each token's key and value are quantized per head,
with one scale and one lowest value. Keys are turned after RoPE. Turning back when they are read is the same as turning queries and outputs.

Bytes per token, KV head and tensor of D channels: D * bits / 8 + 4.
"""

from dataclasses import dataclass

from kvlab.cache import LayerKV
from kvlab.codecs.each import Codec
from kvlab.codecs.tokens import MinMax, Rotated
from kvlab.codecs.tokenwise import Grouped
from kvlab.method import knob


@dataclass(frozen=True)
class QuaRot(Grouped):
    """Heads are rotated so that no channel stands out, then every token is quantized by itself."""

    name = "quarot"
    title = "QuaRot"
    paper = "Ashkboos et al., arXiv 2404.00456"
    year = 2024
    departs = (
        "Only what touches the cache: weights and activations stay as they are. The turn is undone when entries are read, instead of being put on queries and "
        "into the output weights. A head size that is no power of two is turned in blocks."
    )

    bits: int = knob(4, "Bits of one coded value.", choices=(2, 3, 4, 8))
    rotate: bool = knob(True, "Turn the heads first; without, this is plain quantization per token.")

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        plain = MinMax(self.bits, self.group)
        return dict.fromkeys("kv", Rotated(plain) if self.rotate else plain)
