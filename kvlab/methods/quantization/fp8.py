"""FP8 KV cache, as in vLLM (2023). Card: methods/quantization.md, from its documentation.

Every key and value is divided by a scale and cast to a float of 8 bits: E4M3 (3 bits of mantissa, up to 448) or E5M2 (2 bits, up to
57344). The scale is 1, or that of each KV head's largest entry in the first prompt, frozen from then on, or one per token and head.
What is later larger than the format holds is clamped to its end.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.each import Codec
from kvlab.codecs.tokenwise import Tokenwise
from kvlab.geometry import Geometry
from kvlab.method import knob

FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def largest(form: str) -> float:
    """The largest number of a format."""
    return torch.finfo(FORMATS[form]).max


@dataclass(frozen=True)
class Float8(Codec):
    """One byte per value, held as uint8; `scale` as in `FP8`. Table: scale [B * H] float32, with "head" only."""

    form: str
    scale: str
    headed = True
    bits = 8

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        end, own = largest(self.form), ()
        if self.scale == "head":
            rows = rows / tables[0][owner][:, None]
        elif self.scale == "token":
            step = (rows.abs().amax(1, keepdim=True) / end).clamp(min=torch.finfo(held).tiny).to(held)
            rows, own = rows / step.float(), (step,)
        # a cast alone gives infinity or no number at all, depending on format and device
        return rows.clamp(-end, end).to(FORMATS[self.form]).view(torch.uint8), *own

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        rows = held[0].view(FORMATS[self.form]).float()
        if self.scale == "head":
            return rows * tables[0][owner][:, None]
        return rows * held[1].float() if self.scale == "token" else rows

    def row_bytes(self, size: int, item: int) -> int:
        return size + 2 * (self.scale == "token")


@dataclass(frozen=True)
class FP8(Tokenwise):
    """Keys and values as floating-point numbers of 8 bits."""

    name = "fp8"
    title = "FP8"
    paper = "Micikevicius et al., arXiv 2209.05433, as in vLLM"
    year = 2022
    source = "mixed"
    departs = "Scales are held for each KV head and text, where vLLM has one of a layer's keys and one of its values. Codes are widened before attention."

    form: str = knob("e4m3", "Which float of 8 bits: more mantissa or more range.", choices=tuple(FORMATS))
    scale: str = knob("head", "Scale: 1, one per KV head from the first prompt, or one per token and head.", choices=("one", "head", "token"))

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        return dict.fromkeys("kv", Float8(self.form, self.scale))

    def tables(self, layer: LayerKV, name: str, rows: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        if self.scale != "head":
            return ()
        if f"fp8 {name}" not in layer.state:
            owner = torch.arange(lens.numel(), device=rows.device).repeat_interleave(lens.flatten(), output_size=len(rows))
            top = rows.new_zeros(lens.numel()).float().scatter_reduce(0, owner, rows.float().abs().amax(1), "amax")
            layer.state[f"fp8 {name}"] = torch.where(top == 0, 1, top / largest(self.form))
        return (layer.state[f"fp8 {name}"],)

    def table_bytes(self, geometry: Geometry) -> float:
        return 8 if self.scale == "head" else 0
