"""VcLLM, video codecs as tensor codecs (2024, arXiv 2407.00467). Card: methods/quantization.md. No code was found.

The keys of a chunk of tokens, all KV heads side by side, are one grey picture: a line for each token, a column for each channel, every
column stretched to 0..255. A software video encoder codes it by itself, as it would the first picture of a film: prediction from
neighbours, a cosine transform, quantization by `qp` and arithmetic coding. Values likewise. Keys are taken before RoPE. A prompt is one
picture; written tokens gather raw until another `chunk` of them has left the window.

Bytes are those of the streams, headers included, and 4 * C per picture of C columns. How long a stream gets is up to its picture: the formula
takes normal numbers with a sixth of the range as deviation. Streams are decoded whenever they are read, which costs time at every step.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.each import Codec, half
from kvlab.codecs.picture import Film
from kvlab.codecs.tokenwise import BeforeRope
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.rows import Rows

HEADERS = {"hevc": 95, "h264": 589, "ffv1": 42}
"""Bytes of a stream that says next to nothing."""


@dataclass(frozen=True)
class VcLLM(BeforeRope):
    """Keys and values as pictures in a real video codec."""

    name = "vcllm"
    title = "VcLLM"
    paper = "Xu et al., arXiv 2407.00467"
    year = 2024
    source = "recon"
    departs = (
        "Reconstructed from the abstract, in software where the paper has the graphics card's encoder; nothing is turned into principal components first. An "
        "entry that leaves is no longer listed, but its stream stays as long as any other is left. Streams are decoded again at every step."
    )

    window: int = knob(32, "Newest tokens held raw.", 0, 2048, 1)
    sinks: int = knob(4, "First tokens of the text that stay exact.", 0, 64, 1)
    codec: str = knob("hevc", "Which codec: H.265, H.264, or FFV1, which is lossless on the 8 bits.", choices=tuple(HEADERS))
    qp: int = knob(28, "Coarseness, as the codec counts it: 6 more double the step. 0: the 8 bits lose nothing further.", 0, 51, 1)
    chunk: int = knob(256, "Written tokens of a picture.", 1, 2048, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        return dict.fromkeys("kv", Codec())

    def due(self, layer: LayerKV, name: str) -> Tensor:
        old = super().due(layer, name)
        return old if layer.cache.phase.kind == "prefill" else old // self.chunk * self.chunk

    def rows(self, layer: LayerKV, name: str, values: Tensor, lens: Tensor, dtype: torch.dtype, codec: Codec) -> Rows:
        return Film.of(values, lens, self.codec, self.qp, dtype, half(dtype))

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size, item, heads = geometry.head_dim, geometry.itemsize, geometry.kv_heads
        prompt = max(0, first - self.window)
        chunks = (min(first, self.window) + later - self.window) // self.chunk if first + later > self.window else 0
        coded = max(0, min(slots - min(slots, self.window), prompt + max(0, chunks) * self.chunk))
        exact = min(self.sinks, coded)
        pictures = (prompt > exact) + max(0, chunks)
        each = 8 if self.codec == "ffv1" or self.qp == 0 else max(0.05, 2.05 + math.log2(255 / 6) - (self.qp - 4) / 6)
        streams = 2 * ((coded - exact) * heads * size * each / 8 + pictures * (HEADERS[self.codec] + 4 * heads * size))
        maps = 2 * -(-heads * coded // 8) if self.sinks else 0
        return streams + maps + (slots - coded + exact) * 2 * heads * size * item + 4 * slots
