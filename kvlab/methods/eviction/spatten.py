"""SpAtten (2020, arXiv 2012.09852). Card: methods/eviction.md, mixed: the rule for fetching low bits is the authors' code, the rest is told.

A cascade: every token adds up the attention it gets, from layer to layer; what a layer lets go, no layer above computes or holds, and the
same goes for heads with small outputs. While text is written, a query first reads the high bits of the keys alone and the low ones only
where no entry stands out, and it may read the values of its strongest entries only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.attention import attend, softmax_rows
from kvlab.cache import LayerKV
from kvlab.codecs.pack import packed_size
from kvlab.codecs.planes import LOW, Planes, row_bytes
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.eviction._cascade import Tally, by_position, coarse_keys, heads_left, tokens_left, unshortened
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect
from kvlab.store import Store, View


@dataclass(frozen=True)
class SpAtten(Dropper):
    """What one layer drops is gone for all layers above: tokens, and whole heads. Reading starts with the high bits."""

    name = "spatten"
    title = "SpAtten"
    paper = "Wang et al., arXiv 2012.09852"
    year = 2020
    shortens = True
    source = "mixed"
    needs = ("queries", "weights")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    per_head = False
    departs = (
        "The schedule is set so that all layers together hold the budget. A KV head goes with all its query heads, is chosen while the prompt is read, and "
        "stays away. Values are left unread, and low bits unfetched, while text is written only. Of a prompt in chunks nothing is dropped before the last "
        "one. Queries are not quantized. The authors' chat cache, a simpler method under the same name, is another one."
    )

    dense: float = knob(0.15, "Share of the layers, from the first, that drop no token; fewer where the budget would not allow it.", 0, 0.5, 0.05)
    slope: float = knob(0.5, "What the last layer keeps, as a share of what the first one that drops keeps.", 0.05, 1, 0.05)
    heads: float = knob(0.75, "Share of the KV heads left in the last layer. The first 30 percent of the layers have all. 1: no head goes.", 0.1, 1, 0.05)
    values: float = knob(1.0, "Share of the held values each query head reads, those of its strongest entries. 1: all.", 0.05, 1, 0.05)
    msb: int = knob(
        8, "High bits of keys and values; 4 low ones come on top. 0: not quantized, and free for another method to code.", choices=(0, 4, 6, 8, 10, 12)
    )
    threshold: float = knob(0.1, "A query whose largest weight by the high bits is below this reads the low bits too.", 0, 1, 0.05)

    @property
    def encodes(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("k", "v") if self.msb else ()

    def refuses(self, geometry: Geometry) -> str | None:
        return unshortened(self.title, geometry) or super().refuses(geometry)

    def store(self, layer: LayerKV) -> Store:
        return Tally() if layer.index == layer.cache.geometry.windows.index(None) else Store()

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | None:
        live, store = layer.state.get("spatten heads"), (layer.follows or layer).store
        sparing = q.shape[2] == 1 and layer.cache.phase.kind == "decode" and (self.values < 1 or self.msb)
        if live is None and not sparing:
            return None
        view = store.view()
        if live is not None:
            view = view._replace(v=view.v * live[..., None, None].to(view.v))
        return self._spared(layer.state["spatten rules"], store, q, q_pos, view) if sparing else view

    def _spared(self, rules: object, store: Store, q: Tensor, q_pos: Tensor, view: View) -> View:
        """A view for each query head: keys by as many bits as it needs, values of its strongest entries. Bytes read are counted."""
        heads, group = view.k.shape[1], q.shape[1] // view.k.shape[1]
        spread = lambda x: x.repeat_interleave(group, dim=1)  # noqa: E731
        lens, touched, k = store.lens(), store.nbytes(), spread(view.k)
        pos = spread(view.pos) if view.pos.shape[1] == heads else view.pos
        if self.msb:
            coarse = view._replace(k=coarse_keys(store))
            flat = softmax_rows(q, coarse, q_pos, rules)[:, :, 0].amax(-1) < self.threshold
            k = torch.where(flat[..., None, None], k, spread(coarse.k))
            unfetched = ~flat.unflatten(1, (heads, group)).any(2)
            touched -= int((lens * unfetched).sum()) * packed_size(view.k.shape[3], LOW)
        spared = View(k, spread(view.v), pos, view.holes, touched)
        if self.values == 1:
            return spared
        held = (pos >= 0).expand(-1, q.shape[1], -1)
        count = (held.sum(-1) * self.values).ceil().long().clamp(min=1)
        top = keep_top(softmax_rows(q, spared, q_pos, rules)[:, :, 0], count, held)
        unread = int(lens.sum()) - int(top.unflatten(1, (heads, group)).any(2).sum())
        each = row_bytes(view.v.shape[3], self.msb) if self.msb else view.v.shape[3] * view.v.itemsize
        return spared._replace(v=spared.v * top[..., None], touched=touched - unread * each)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        cache, state = layer.cache, layer.cache.state
        layer.state["spatten rules"] = seen.rules
        tally = cache.layers[cache.geometry.windows.index(None)].store
        pos, live = layer.store.pos().expand_as(layer.store.valid()), layer.state.get("spatten heads")
        got = seen.column_sums("sum").unflatten(1, (pos.shape[1], -1)).sum(2)  # a sparing read has query heads
        tally.add(got if live is None else got * live[..., None], pos, int(layer.tokens().max()))
        if seen.phase.kind in ("chunk", "prefill") and self.heads < 1:
            out = attend(seen.q, seen.view, seen.q_pos, seen.rules, fresh=False).abs().sum(3) * seen.real[:, None]
            state["spatten heads"] = state.get("spatten heads", 0) + out.sum(2).unflatten(1, (pos.shape[1], -1)).sum(2)
        if seen.phase.kind != "chunk":
            self._drop(layer, seen, tally.sums, pos)

    def _drop(self, layer: LayerKV, seen: Seen, sums: Tensor, pos: Tensor) -> None:
        cache, geometry, tokens = layer.cache, layer.cache.geometry, layer.tokens()
        place = sum(window is None for window in geometry.windows[: layer.index])
        read = tokens if seen.phase.kind == "prefill" else cache.prompt
        count = torch.tensor([self._tokens(place, *n, geometry) for n in zip(tokens.tolist(), read.tolist(), strict=True)], device=tokens.device)
        at = lambda x, where: x.gather(1, where.clamp(min=0).long().flatten(1)).view_as(where)  # noqa: E731
        came = layer.store.valid() if place == 0 else layer.store.valid() & at(cache.state["spatten"], pos)
        scores = at(sums, pos)
        stays = keep_top(scores, count, came, protect(pos, tokens, last=1))
        cache.state["spatten"] = by_position(stays.float(), pos, sums.shape[1]) > 0
        if seen.phase.kind == "prefill" and place < geometry.open_layers - 1:
            cache.shorten(seen.real & at(cache.state["spatten"], seen.q_pos))
            self._next_heads(layer, place)
        if place == geometry.open_layers - 1:
            cache.state.pop("spatten"), cache.state.pop("spatten heads", None)
        live = layer.state.get("spatten heads")
        layer.keep(stays if live is None else stays & live[..., None], scores)
        if self.msb:
            for name in self.encodes:
                layer.code(name, layer.store.raw_lens(name), lambda rows, lens: Planes.of(rows, self.msb))

    def _next_heads(self, layer: LayerKV, place: int) -> None:
        """Which KV heads the next layer without a window has: [B, H] bool in its state, nothing there while it has all."""
        cache, geometry = layer.cache, layer.cache.geometry
        left = heads_left(geometry.kv_heads, place + 1, geometry.open_layers, self.heads)
        after = next(i for i in range(layer.index + 1, geometry.layers) if geometry.windows[i] is None)
        if left < geometry.kv_heads and "spatten heads" not in cache.layers[after].state:
            live = layer.state.get("spatten heads", torch.ones_like(cache.state["spatten heads"], dtype=torch.bool))
            cache.layers[after].state["spatten heads"] = keep_top(cache.state["spatten heads"][:, None], left, live[:, None])[:, 0]

    def _tokens(self, place: int, tokens: int, prompt: int, geometry: Geometry) -> int:
        """Tokens the layer at `place` holds of `tokens`, `prompt` of them at the last prefill end."""
        at = tokens if self.budget.unit == "tokens" else prompt
        left = tokens_left(self.budget.tokens(at), at, geometry.open_layers, self.dense, self.slope)[place]
        return tokens if left >= at else left

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        place = sum(window is None for window in geometry.windows[:layer])
        live = heads_left(geometry.kv_heads, place, geometry.open_layers, self.heads)
        return self._tokens(place, tokens, prompt, geometry) * live / geometry.kv_heads

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        return slots * (2 * geometry.kv_heads * row_bytes(geometry.head_dim, self.msb) + 4 if self.msb else geometry.slot_bytes)

    def extra_bytes(self, tokens: int, prompt: int, geometry: Geometry) -> float:
        # the sums, and in layers that lost heads a list of positions for each head left, and lengths
        heads, extra = geometry.kv_heads, 4 * tokens if geometry.open_layers else 0
        for layer, window in enumerate(geometry.windows):
            place = sum(w is None for w in geometry.windows[:layer])
            if window is None and heads_left(heads, place, geometry.open_layers, self.heads) < heads:
                extra += 4 * self.layer_kept(layer, tokens, prompt, geometry) * (heads - 1) + 3 * 8 * heads
        return extra
