"""QuantizedCache, as in transformers 5 with the quanto backend (2024). Card: methods/quantization.md, from its code.

The whole prompt is quantized at its end. What is written then stays raw until `residual` tokens of it are there; then everything is
decoded, put together and quantized again, old tokens once more. Groups lie along the channels of a token ("token", the default for keys
and values) or along the tokens of a channel ("channel").

Bytes of the coded Tq slots of a KV head with D channels, for each of key and value: Tq * D * (bits / 8 + 4 / group), the rest raw.
This is kvlab's own codec under the same settings: a baseline, not the library's tensors.
"""

from dataclasses import dataclass

import torch

from kvlab.cache import LayerKV
from kvlab.codecs.affine import ChannelGroups, TokenGroups
from kvlab.codecs.coder import Coder
from kvlab.codecs.pack import packed_size
from kvlab.codecs.tokens import groups_of
from kvlab.geometry import Geometry
from kvlab.method import knob

AXES = ("token", "channel")


@dataclass(frozen=True)
class QuantizedCache(Coder):
    """The settings of transformers' quantized cache: everything coded, and coded again whenever the newest tokens fill a window."""

    name = "quantizedcache"
    title = "QuantizedCache"
    paper = "Hugging Face transformers 5.23, with quanto"
    year = 2024
    encodes = ("k", "v")
    departs = (
        "kvlab's own codec with the library's groups and its rule of the window. Groups along the tokens never cross a head, and tokens that fill no group "
        "stay raw, where the library raises an error. Scales are held in 16 bits."
    )

    bits: int = knob(4, "Bits of one coded value.", choices=(2, 4, 8))
    group: int = knob(64, "Entries that share a scale and an offset.", choices=(8, 16, 32, 64, 128))
    residual: int = knob(128, "Tokens that gather raw before everything is quantized again.", 1, 4096, 1)
    axis_key: str = knob("token", "Where the keys' groups lie: within a token, or along the tokens of a channel.", choices=AXES)
    axis_value: str = knob("token", "Where the values' groups lie.", choices=AXES)

    def flush(self, layer: LayerKV) -> None:
        last = layer.state.get("quantized at")
        if last is not None and (layer.seen == last or layer.seen - last < self.residual):
            return
        layer.state["quantized at"] = layer.seen
        for name, axis in (("k", self.axis_key), ("v", self.axis_value)):
            _open(layer, name)
            group = self.group if axis == "channel" else groups_of(layer.cache.geometry.head_dim, self.group)
            kind, step = (TokenGroups, group) if axis == "channel" else (ChannelGroups, 1)
            due = layer.store.raw_lens(name) // step * step
            layer.code(name, due, lambda rows, lens, kind=kind, group=group: kind.of(rows, self.bits, group))

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size, item = geometry.head_dim, geometry.itemsize
        gathered, total = first + later // self.residual * self.residual, 4 * slots
        for axis in (self.axis_key, self.axis_value):
            done = gathered // self.group * self.group if axis == "channel" else gathered
            coded = max(0, slots - (first + later - done))
            group = self.group if axis == "channel" else groups_of(size, self.group)
            total += geometry.kv_heads * (coded * (packed_size(size, self.bits) + 4 * size / group) + (slots - coded) * size * item)
        return total

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.head_dim % groups_of(geometry.head_dim, self.group):
            return f"{geometry.family} has heads of {geometry.head_dim} channels, which groups of {self.group} do not divide. Choose another group."
        return super().refuses(geometry)


def _open(layer: LayerKV, name: str) -> None:
    """Decode a column: what it held coded is raw again, with the error it got."""
    column = layer.store.columns[name]
    rows, lens = column.dense(), column.lens()
    column.parts, column.open = [], None
    column.hold(rows, torch.arange(rows.shape[2], device=rows.device) < lens[..., None])
