"""MiKV (2024, arXiv 2402.18096). Card: methods/quantization.md. No code was found.

Evicting a token loses it; holding it in few bits does not. A share of the tokens, those that gathered the most attention and the most
recent ones (as H2O has it), stays at `high` bits; every other one is quantized to `low` bits, token by token, and never comes back.
Before that, key channels are balanced: multiplied by b = sqrt(max |q| / max |k|) over the prompt, and divided again when read, so that
channels with large keys and small queries do not set the range of the others.

Bytes of one layer and KV head with T slots and D channels, T - m of them low, m = round(share * T): m tokens whole (or codes of `high`
bits and 4 * D / group), (T - m) * 2 * (D * low / 8 + 4 * D / group), 2 * D for the balancer, 4 * T for the sums of attention, and in a layer
two maps of a bit per coded slot and head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.codecs.coder import Coder
from kvlab.codecs.each import Codec, Each, Whole, half
from kvlab.codecs.mixed import Mixed, split_lens
from kvlab.codecs.tokens import MinMax, groups_of
from kvlab.column import Part
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.quantization.zipcache import least
from kvlab.phase import Phase, Schedule
from kvlab.rows import ramp
from kvlab.seen import Seen


def balancer(queries: Tensor, keys: Tensor) -> Tensor:
    """sqrt(max |q| / max |k|) per channel from these maxima, within 1e-3 and 1e3; 1 where either is 0."""
    ratio = (queries / keys).sqrt().clamp(1e-3, 1e3)
    return torch.where((queries == 0) | (keys == 0), 1, ratio)


@dataclass(frozen=True)
class Balanced(Codec):
    """`inner` of rows multiplied by their head's table [B * H, D]."""

    inner: Codec
    headed = True

    @property
    def bits(self) -> float:
        return self.inner.bits

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.inner.encode(rows * tables[0].float()[owner], held, None, ())

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        return self.inner.decode(held, size, None, ()) / tables[0].float()[owner]

    def row_bytes(self, size: int, item: int) -> int:
        return self.inner.row_bytes(size, item)


@dataclass(frozen=True)
class MiKV(Coder):
    """What others evict is held in few bits instead."""

    name = "mikv"
    title = "MiKV"
    paper = "Yang et al., arXiv 2402.18096"
    year = 2024
    source = "recon"
    needs = ("queries", "weights")
    encodes = ("k", "v")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "Reconstructed from summaries. Sums of attention are taken over the query heads of a KV head, the balancer over rotated queries and keys. The number "
        "of precise tokens grows with the text; a token once held in few bits stays so."
    )

    share: float = knob(0.25, "Share of the tokens held at the higher precision.", 0.01, 1, 0.01)
    recent: float = knob(0.5, "Share of these that goes to the most recent tokens.", 0, 1, 0.05)
    high: int = knob(16, "Bits of the precise ones; 16: as the model has them.", choices=(4, 8, 16))
    low: int = knob(2, "Bits of the others.", choices=(2, 3, 4, 8))
    group: int = knob(128, "Channels of a head that share a scale; narrower heads make groups of their own width.", 4, 256, 4)
    balance: bool = knob(True, "Balance the channels of keys.")

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        layer.store.tag("mikv", layer.store.tag("mikv") + seen.column_sums("sum"))
        if "mikv balance" not in layer.state:
            self._ask(layer, seen)
        if seen.phase.kind == "chunk":
            return
        self._settle(layer, seen)
        precise = (layer.store.lens() * self.share).round().long()
        recent = (precise * self.recent).round().long()
        for name in "kv":
            layer.code(name, (layer.store.raw_lens(name) - recent).clamp(min=0), lambda rows, lens, name=name: self._precise(layer, name, rows, lens))
        mask = self._demoted(layer, precise)
        for name in "kv":
            _demote(layer, name, mask)
        layer.cache.recorder.coded(layer)

    def _ask(self, layer: LayerKV, seen: Seen) -> None:
        """The largest queries of the prompt so far: [B, H, D]."""
        top = seen.by_kv_head((seen.q.float().abs() * seen.real[:, None, :, None]).amax(2), "max")
        layer.state["mikv queries"] = torch.maximum(top, layer.state.get("mikv queries", top))

    def _settle(self, layer: LayerKV, seen: Seen) -> None:
        """The balancer [B * H, D], frozen at the first prompt's end."""
        if "mikv balance" in layer.state:
            return
        keys = (seen.view.k.float().abs() * seen.valid()[..., None]).amax(2)
        queries = layer.state.pop("mikv queries")
        layer.state["mikv balance"] = balancer(queries, keys).flatten(0, 1).to(half(seen.view.k.dtype))

    def _codecs(self, name: str, item: int) -> tuple[Codec, Codec]:
        """Of precise and of other rows."""
        low = MinMax(self.low, self.group)
        return Whole(item) if self.high == 16 else MinMax(self.high, self.group), Balanced(low) if self._tables(name) else low

    def _tables(self, name: str) -> bool:
        return self.balance and name == "k"

    def _precise(self, layer: LayerKV, name: str, rows: Tensor, lens: Tensor) -> Mixed:
        """All `rows` at the higher precision, with room for those that will not stay so."""
        high, low = self._codecs(name, rows.dtype.itemsize)
        tables = (layer.state["mikv balance"],) if self._tables(name) else ()
        none = Each.of(rows[:0], torch.zeros_like(lens), low, rows.dtype, tables)
        return Mixed.of(torch.ones(len(rows), dtype=torch.bool, device=rows.device), Each.of(rows, lens, high, rows.dtype), none)

    def _demoted(self, layer: LayerKV, precise: Tensor) -> Tensor:
        """Coded slots [B, H, T] to hold in fewer bits from now on: the precise ones with the least attention, as many as are too many."""
        sums = layer.store.tag("mikv")
        high = torch.zeros_like(sums, dtype=torch.bool)
        for part in layer.store.columns["k"].parts:
            if part.coded:
                high[torch.arange(high.shape[2], device=high.device) < part.lens[..., None]] = part.rows.which()
        many = high.sum(-1) + layer.store.raw_lens("k") - precise
        return least(sums, many, high)

    def finish(self, cache: KVCache, phase: Phase) -> None:
        """Nothing waits: what members drop later leaves coded."""

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size, item, heads = geometry.head_dim, geometry.itemsize, geometry.kv_heads
        precise = round(self.share * slots)
        raw = round(self.recent * precise)
        rows = [self._codecs(name, item) for name in "kv"]
        coded = sum((precise - raw) * high.row_bytes(size, item) + (slots - precise) * low.row_bytes(size, item) for high, low in rows)
        table = 2 * size if self.balance else 0
        return heads * (coded + raw * 2 * size * item + table + 4 * slots) + 2 * -(-heads * (slots - raw) // 8) + 4 * slots

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.head_dim % groups_of(geometry.head_dim, self.group):
            return f"{geometry.family} has heads of {geometry.head_dim} channels, which groups of {self.group} do not divide. Choose another group."
        return super().refuses(geometry)


def _demote(layer: LayerKV, name: str, mask: Tensor) -> None:
    """Hold the coded slots in `mask` [B, H, T] in fewer bits."""
    column = layer.store.columns[name]
    coded = [part for part in column.parts if part.coded]
    if not coded or not bool(mask.any()):
        return
    part, rows = coded[0], coded[0].rows
    owner, rank = ramp(part.lens.flatten())
    leaves, which = mask.flatten(0, 1)[owner, rank], rows.which()
    values, low = rows.first.decode()[leaves[which]], rows.second
    fresh = Each.of(values, split_lens(leaves, part.lens), low.codec, low.dtype, low.tables)
    old, new = (~which).long().cumsum(0) - 1, int((~which).sum()) + leaves.long().cumsum(0) - 1
    index = torch.where(leaves, new, old)[~which | leaves]
    held = Mixed.of(which & ~leaves, rows.first.keep(~leaves[which]), low.join(fresh, index))
    column.parts[column.parts.index(part)] = Part(held, part.lens, part.even)
