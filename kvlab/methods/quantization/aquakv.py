"""AQUA-KV (2025, arXiv 2501.19392). Card: methods/quantization.md, from the authors' code.

Neighbouring layers resemble each other, so only what a layer cannot know from the one below is coded. Linear predictors, fitted once per
model on plain text, guess a layer's keys (before RoPE, all KV heads as one vector) from the keys of the layer below as these will be read
back, and its values from its own keys and the values below; HIGGS codes the rest. The first layer is coded as it is, in more bits.
The first tokens stay exact; the others gather raw, and once there are `buffer` of them all become one chunk that is never touched again.

Bytes per coded token and layer, C = H * D channels: 2 * (C * bits / 8 + 2 per group of 1024). The predictors, (3 * C * C + 2 * C) * 2 bytes for
every layer but the first, are shared by all runs and lie outside the cache; under a few thousand tokens they are larger than it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.codecs.each import Each, Whole, half
from kvlab.codecs.guessed import GROUP, Chunk, Guessed, again, fit, predict
from kvlab.codecs.higgs import Higgs, grid
from kvlab.codecs.mixed import Mixed, split_lens
from kvlab.codecs.turned import Turned, due_positions
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM
from kvlab.phase import Phase, Schedule
from kvlab.store import Store


@dataclass(frozen=True)
class AquaKV(Method):
    """Each layer holds only what cannot be guessed from the one below."""

    name = "aquakv"
    title = "AQUA-KV"
    paper = "Shutova et al., arXiv 2501.19392"
    year = 2025
    needs = ("rope", "calibration", "even heads")
    encodes = ("k", "v")
    schedule = Schedule(prefill=True, every=1)
    departs = (
        "Vectors turn in groups of their own width where they have fewer than 1,024 channels, instead of being filled up. Lengths are held in 16 bits. The "
        "grids and predictors come from less data. A layer is decoded through all layers below it at every read, which takes time in deep models."
    )

    bits: int = knob(2, "Bits of one coded value behind the first layer.", choices=(2, 3, 4))
    first_bits: int = knob(4, "Bits in the first layer, which has nothing to be guessed from.", choices=(2, 3, 4))
    sinks: int = knob(4, "First tokens of the text that stay exact.", 0, 64, 1)
    buffer: int = knob(128, "Tokens that gather raw before all of them are coded.", 1, 2048, 1)
    passages: int = knob(16, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 8, 8192, 1)

    @property
    def artefact_of(self) -> AquaKV:
        """The same whenever tokens are coded."""
        return replace(self, buffer=1)

    def store(self, layer: LayerKV) -> Store:
        return Turned(layer.rope, self.sinks)

    def finish(self, cache: KVCache, phase: Phase) -> None:
        layers = [layer for layer in cache.layers if layer.window is None and layer.follows is None]
        if not layers or not self.schedule.acts(phase):
            return
        raw, exact = layers[0].store.raw_lens("k"), layers[0].store.lens() - layers[0].store.raw_lens("k") == 0
        due = torch.where(raw - self.sinks * exact >= self.buffer, raw, 0)
        if int(due.max()) == 0:
            return
        below: dict[str, Chunk] = {}
        for layer in layers:
            pos = due_positions(layer.store, "k", due)
            for name in "kv":
                layer.code(name, due, lambda rows, lens, layer=layer, name=name, pos=pos: self._encode(layer, name, rows, lens, pos, below))

    def _encode(self, layer: LayerKV, name: str, rows: Tensor, lens: Tensor, pos: Tensor, below: dict[str, Chunk]) -> Guessed | Mixed:
        """Code the `rows` and leave their chunk in `below` for what is guessed from it."""
        which = pos < self.sinks
        count = split_lens(~which, lens)
        values = (layer.rope.unrotate(rows, pos) if name == "k" else rows.float())[~which]
        sizes = tuple(count[:, 0].tolist())
        blocks = [block.unflatten(0, (lens.shape[1], -1)) for block in values.split((count.sum(1)).tolist()) if len(block)]
        vectors = torch.cat([block.transpose(0, 1).flatten(1) for block in blocks])
        inputs = ()
        if "v" in below:
            inputs = (below["k"],) if name == "k" else (below["k"], below["v"])
        none = vectors.new_zeros(0)
        # a value is guessed from its own layer's key, which by now stands in `below`
        chunk = below[name] = Chunk(none, none, inputs, layer, name, vectors.shape[1]).filled(vectors, half(rows.dtype))
        coded = Guessed(chunk, sizes, lens.shape[1], rows.dtype)
        if not bool(which.any()):
            return coded
        return Mixed.of(which, Each.of(rows[which], split_lens(which, lens), Whole(rows.dtype.itemsize), rows.dtype), coded)

    @torch.no_grad()
    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """"aqua k 1", "aqua v 1", ...: predictors [C + 1, C] and [2 C + 1, C] float16 of every layer; "aqua grid", "aqua first grid" [n, 2] float32."""
        made = {"aqua grid": grid(self.bits), "aqua first grid": grid(self.first_bits)}
        keys = values = None
        layers = captured(lm, self.passages, self.length, self.sinks, before_rope=True)
        for index, window in enumerate(lm.geometry.windows):
            if window is not None:
                continue
            k, v = layers[index].plain.flatten(1), layers[index].v.flatten(1)
            if keys is None:
                points = made["aqua first grid"].to(lm.device)
                keys, values = again(k, self.first_bits, points), again(v, self.first_bits, points)
                continue
            points = made["aqua grid"].to(lm.device)
            made[f"aqua k {index}"] = fit(keys, k).cpu()
            guess = predict(keys, made[f"aqua k {index}"].to(k))
            keys = guess + again(k - guess, self.bits, points)
            inputs = torch.cat([keys, values], dim=1)
            made[f"aqua v {index}"] = fit(inputs, v).cpu()
            guess = predict(inputs, made[f"aqua v {index}"].to(v))
            values = guess + again(v - guess, self.bits, points)
        return made

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return self.held_bytes(slots, slots, 0, geometry)

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        """On average over the layers, of which the first has more bits."""
        size, item = geometry.kv_heads * geometry.head_dim, geometry.itemsize
        coded, at_once = self._coded(first, later)
        exact = min(self.sinks, coded)
        layers = max(1, geometry.open_layers)
        rows = (Higgs(self.first_bits, GROUP).row_bytes(size) + (layers - 1) * Higgs(self.bits, GROUP).row_bytes(size)) / layers
        maps = 2 * -(-geometry.kv_heads * at_once // 8) if exact else 0
        return 2 * (coded - exact) * rows + maps + (slots - coded + exact) * 2 * size * item + 4 * slots

    def _coded(self, first: float, later: int) -> tuple[float, float]:
        """Tokens coded by now, and in the first chunk, the exact ones among them counted."""
        full = first if first - self.sinks >= self.buffer else self.buffer + self.sinks
        if first + later < full:
            return 0, 0
        return full + (first + later - full) // self.buffer * self.buffer, full

    def refuses(self, geometry: Geometry) -> str | None:
        if geometry.latent:
            return f"{geometry.family} caches latents (MLA). {self.title} works on the keys and values of heads; choose a model that has them."
        return super().refuses(geometry)
