"""ZipCache (2024, arXiv 2405.14256). Card: methods/quantization.md, from the authors' code.

A few probe queries, the last ones of the prompt and some drawn from the earlier ones, say which tokens matter: the attention a token gets,
divided by the number of probes that can see it, so that early tokens have no head start. Per KV head the `share` that matter least get
`low` bits, the others `high`. Keys are quantized per channel over all tokens of their set. Values are divided by the root of each
channel's largest entry and quantized token by token. Every `gap` written tokens the newest are sorted by the attention of that step, and
everything is decoded and quantized again.

Bytes of one layer and KV head with D channels, Nh and Nl coded tokens of the two sets: 2 * D * (Nh * high + Nl * low) / 8 for the codes,
4 * D for each set of keys, 4 for each value and 2 * D for their channels, and in a layer two maps of a bit per slot and head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.attention import softmax_rows
from kvlab.cache import KVCache, LayerKV
from kvlab.codecs import stream
from kvlab.codecs.coder import Coder
from kvlab.codecs.each import Codec, Each, half
from kvlab.codecs.mixed import Mixed, split_lens
from kvlab.codecs.pack import packed_size
from kvlab.codecs.tokens import MinMax
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.phase import Phase
from kvlab.rows import Rows
from kvlab.seen import Seen


def owners(lens: Tensor, rows: Tensor) -> Tensor:
    """The head, of B * H, of each packed row: [N]."""
    return torch.arange(lens.numel(), device=rows.device).repeat_interleave(lens.flatten(), output_size=len(rows))


def least(scores: Tensor, count: Tensor, valid: Tensor) -> Tensor:
    """Mask of the `count` [B, H] lowest of `scores` [B, H, T] among the `valid` ones; of equal ones the earlier."""
    rank = scores.masked_fill(~valid, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    return valid & (rank < count[..., None])


@dataclass(frozen=True)
class PerChannel(Codec):
    """Codes against each head's own tables: step and lowest value of its channels, [B * H, D] each."""

    bits: int
    headed = True

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        step, low = tables[0].float()[owner], tables[1].float()[owner]
        codes = ((rows - low) / torch.where(step == 0, 1, step)).round().clamp(0, 2**self.bits - 1)
        return (stream.pack(codes.long(), self.bits),)

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        return stream.unpack(held[0], self.bits, size).float() * tables[0].float()[owner] + tables[1].float()[owner]

    def ranges(self, rows: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """The tables for `rows` [N, D], in 16 bits."""
        index = owners(lens, rows)[:, None].expand_as(rows)
        start = rows.new_zeros(lens.numel(), rows.shape[1], dtype=torch.float32)
        low, high = (start.scatter_reduce(0, index, rows.float(), how, include_self=False) for how in ("amin", "amax"))
        return ((high - low) / (2**self.bits - 1)).to(half(rows.dtype)), low.to(half(rows.dtype))


@dataclass(frozen=True)
class PerToken(Codec):
    """Rows divided by their head's table [B * H, D], then one range for each."""

    bits: int
    headed = True

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return MinMax(self.bits, rows.shape[1]).encode(rows / tables[0].float()[owner], held, owner, ())

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        return MinMax(self.bits, size).decode(held, size, owner, ()) * tables[0].float()[owner]


@dataclass(frozen=True)
class ZipCache(Coder):
    """Tokens that a few probe queries look at get more bits than the others."""

    name = "zipcache"
    title = "ZipCache"
    paper = "He et al., arXiv 2405.14256"
    year = 2024
    needs = ("queries", "weights")
    encodes = ("k", "v")
    departs = (
        "A value has one range per token and KV head, where the authors share it among all heads. Of a prompt in chunks only the last chunk's "
        "queries are probed. Which earlier queries are probes is drawn with a seed."
    )

    high: int = knob(4, "Bits of tokens that matter.", choices=(2, 3, 4, 8))
    low: int = knob(2, "Bits of the others.", choices=(2, 3, 4, 8))
    share: float = knob(0.4, "Share of the tokens that gets the lower bits.", 0, 1, 0.05)
    probes: float = knob(0.1, "Share of the queries that are probes, half of them the last ones.", 0.01, 1, 0.01)
    gap: int = knob(100, "Written tokens that gather raw before everything is quantized again.", 1, 1024, 1)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        state, raw = layer.state, layer.store.raw_lens("k")
        if seen.phase.kind == "prefill":
            scores = self.salience(seen, layer.tokens())
        elif layer.seen - state["zipped at"] >= self.gap:
            scores = seen.by_kv_head(seen.weights(1), "sum")[:, :, -1]
        else:
            return
        state["zipped at"] = layer.seen
        valid = seen.valid()
        fresh = valid & (torch.arange(valid.shape[2], device=valid.device) >= (layer.store.lens() - raw)[..., None])
        low = least(scores, (raw * self.share).long(), fresh)
        self._recode(layer, low, valid)

    def salience(self, seen: Seen, tokens: Tensor) -> Tensor:
        """Attention of the probes to each slot over the number of them that see it: [B, H, T]."""
        chosen = self._probes(seen.q_pos, tokens)
        at = chosen.any(0).nonzero()[:, 0]
        weights = softmax_rows(seen.q[:, :, at], seen.view, seen.q_pos[:, at], seen.rules) * chosen[:, None, at, None]
        sees = (seen.pos()[..., None] <= seen.q_pos[:, None, None, at]) & chosen[:, None, None, at]
        return seen.by_kv_head(weights.sum(2), "sum") / sees.sum(-1).clamp(min=1)

    def _probes(self, q_pos: Tensor, tokens: Tensor) -> Tensor:
        """Which queries [B, t] are probes: a coin for every position, and the last ones."""
        coin = torch.rand(int(tokens.max()), generator=torch.Generator().manual_seed(0)).to(q_pos.device) < self.probes / 2
        last = q_pos >= (tokens - (tokens * self.probes / 2).long().clamp(min=1))[:, None]
        return (q_pos >= 0) & (last | coin[q_pos.clamp(min=0).long()])

    def _recode(self, layer: LayerKV, low: Tensor, valid: Tensor) -> None:
        """Quantize all slots: those in `low` [B, H, T] and those that had the lower bits before with the lower ones."""
        for name in "kv":
            column = layer.store.columns[name]
            rows, lens = column.dense(), column.lens()
            slot = torch.arange(rows.shape[2], device=rows.device) < lens[..., None]
            before = torch.zeros_like(low)
            for part in column.parts:
                if part.coded:
                    before[torch.arange(low.shape[2], device=low.device) < part.lens[..., None]] = ~part.rows.which()
            few = (low | before)[slot]
            column.parts, column.open = [], None
            column.hold(rows, slot)
            layer.code(name, lens, lambda x, n, name=name, few=few: self._sets(name, x, n, few))

    def _sets(self, name: str, rows: Tensor, lens: Tensor, few: Tensor) -> Rows:
        made, top = [], None
        if name == "v":
            index = owners(lens, rows)[:, None].expand_as(rows)
            top = rows.new_zeros(lens.numel(), rows.shape[1]).float().scatter_reduce(0, index, rows.float().abs(), "amax").sqrt()
            top = torch.where(top == 0, 1, top).to(half(rows.dtype))
        for mask, bits in ((~few, self.high), (few, self.low)):
            count, codec = split_lens(mask, lens), PerChannel(bits) if name == "k" else PerToken(bits)
            tables = codec.ranges(rows[mask], count) if name == "k" else (top,)
            made.append(Each.of(rows[mask], count, codec, rows.dtype, tables))
        return Mixed.of(~few, *made)

    def finish(self, cache: KVCache, phase: Phase) -> None:
        """Nothing waits: what members drop later leaves coded."""

    def held_bytes(self, slots: float, first: float, later: int, geometry: Geometry) -> float:
        size, heads = geometry.head_dim, geometry.kv_heads
        rounds = later // self.gap
        coded = max(0, slots - (later - rounds * self.gap))
        few = min(coded, int(self.share * first) + rounds * int(self.share * self.gap))
        codes = 2 * ((coded - few) * packed_size(size, self.high) + few * packed_size(size, self.low))
        held = codes + 8 * size + 4 * coded + 2 * size + (slots - coded) * 2 * size * geometry.itemsize
        return heads * held + 2 * -(-heads * coded // 8) + 4 * slots
