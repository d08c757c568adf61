"""What methods have in common that code each token by itself: a raw window, protected first tokens, keys before or after rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from kvlab.codecs.coder import Coder
from kvlab.codecs.each import Codec, Each, Whole
from kvlab.codecs.joint import Joint
from kvlab.codecs.mixed import Mixed, split_lens
from kvlab.codecs.tokens import groups_of
from kvlab.codecs.turned import Turned, due_positions
from kvlab.method import knob
from kvlab.rows import Rows
from kvlab.store import Store

if TYPE_CHECKING:
    from kvlab.cache import LayerKV
    from kvlab.geometry import Geometry


@dataclass(frozen=True)
class Tokenwise(Coder):
    """Base: every token leaves the newest `window` on its own and is coded by the codec of its column.

    Bytes of one layer and KV head with T slots: the coded T - window of them one codec row for the key and one for the value, the others
    raw. With `sinks`, the first tokens of the text stay exact among the coded ones, and a bit per slot says which these are.
    """

    before_rope: ClassVar[bool] = False
    learns: ClassVar[tuple[str, ...]] = ()  # knobs that its calibration depends on
    encodes = ("k", "v")

    window: int = knob(0, "Newest tokens held raw.", 0, 2048, 1)
    sinks: int = knob(0, "First tokens of the text that stay exact.", 0, 64, 1)

    @property
    def artefact_of(self) -> Tokenwise:
        """The same for all settings that calibrate alike."""
        return type(self)(**{name: getattr(self, name) for name in self.learns})

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        """Column -> codec. A column without one stays raw. `layer` None: for the byte formula."""
        raise NotImplementedError

    def planned(self, geometry: Geometry) -> dict[str, Codec]:
        """`codecs` for the byte formula, where they depend on the model."""
        return self.codecs(None)

    def tables(self, layer: LayerKV, name: str, rows: Tensor, lens: Tensor) -> tuple[Tensor, ...]:
        """What the codec of a column holds once for each head: tensors [B * H, ...]. Asked at every flush; frozen by the caller."""
        return ()

    def table_bytes(self, geometry: Geometry) -> float:
        """Formula: bytes of the tables of one layer and KV head."""
        return 0

    def due(self, layer: LayerKV, name: str) -> Tensor:
        """Raw slots of a column to code now: [B, H]."""
        return (layer.store.raw_lens(name) - self.window).clamp(min=0)

    def rows(self, layer: LayerKV, name: str, values: Tensor, lens: Tensor, dtype: torch.dtype, codec: Codec) -> Rows:
        """`values` [N, D] packed by `lens` [B, H], coded; they decode to `dtype`."""
        if codec.joint:
            return Joint.of(values, lens, codec, dtype)
        return Each.of(values, lens, codec, dtype, self.tables(layer, name, values, lens))

    def flush(self, layer: LayerKV) -> None:
        for name, codec in self.codecs(layer).items():
            due = self.due(layer, name)
            # before the rows are taken out of the column, which then no longer knows its length
            pos = due_positions(layer.store, name, due) if self.sinks or (self.before_rope and name == "k") else None
            layer.code(name, due, lambda rows, lens, name=name, codec=codec, pos=pos: self._encode(layer, name, rows, lens, codec, pos))

    def _encode(self, layer: LayerKV, name: str, rows: Tensor, lens: Tensor, codec: Codec, pos: Tensor | None) -> Rows:
        dtype, turned = rows.dtype, self.before_rope and name == "k"
        values = layer.rope.unrotate(rows, pos) if turned else rows
        if not self.sinks:
            return self.rows(layer, name, values, lens, dtype, codec)
        which = pos < self.sinks
        exact = Each.of(rows[which], split_lens(which, lens), Whole(dtype.itemsize), dtype)
        return Mixed.of(which, exact, self.rows(layer, name, values[~which], split_lens(~which, lens), dtype, codec))

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size, item, heads = geometry.head_dim, geometry.itemsize, geometry.kv_heads
        coded = max(0, slots - self.window)
        exact, total = min(self.sinks, coded), heads * slots * 2 * size * item + 4 * slots
        for codec in self.planned(geometry).values():
            row = codec.row_bytes(heads * size, item) if codec.joint else heads * codec.row_bytes(size, item)
            total += (coded - exact) * (row - heads * size * item)
            total += -(-heads * coded // 8) if self.sinks else 0
        return total + (heads * self.table_bytes(geometry) if coded > exact else 0)

    def torn_bytes(self, slots: float, geometry: Geometry) -> float:
        # the place of every row among the vectors; how many vectors some head still needs is up to the text
        coded = max(0, slots - self.window)
        return sum(4 * geometry.kv_heads * (coded - min(self.sinks, coded)) for codec in self.planned(geometry).values() if codec.joint)


@dataclass(frozen=True)
class BeforeRope(Tokenwise):
    """Tokenwise, with keys coded as the projection made them and turned to their positions whenever they are read."""

    before_rope = True
    needs = ("rope",)

    def store(self, layer: LayerKV) -> Store:
        return Turned(layer.rope, self.sinks)


@dataclass(frozen=True)
class Grouped(Tokenwise):
    """Tokenwise, with groups of channels: refuses heads that the group does not divide."""

    group: int = knob(128, "Channels of a head that share a scale; narrower heads make groups of their own width.", 4, 256, 4)

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.head_dim % groups_of(geometry.head_dim, self.group):
            return f"{geometry.family} has heads of {geometry.head_dim} channels, which groups of {self.group} do not divide. Choose another group."
        return super().refuses(geometry)
