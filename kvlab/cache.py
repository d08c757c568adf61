"""The cache transformers talks to: a list of layers, each with one store, and the order of work in a layer.

`update` hands out a `Pending` in place of keys; nothing between it and the attention function reads the pair. The registered attention
function then lets the layer do its step: write, read, attend, compress, record.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from kvlab import kernels, packed
from kvlab.attention import Rules, attend
from kvlab.column import Encode
from kvlab.onward import Onward, right_aligned
from kvlab.phase import Phase
from kvlab.rows import storage_bytes
from kvlab.seen import Seen
from kvlab.store import Pages, Store, View

if TYPE_CHECKING:
    from kvlab.geometry import Geometry
    from kvlab.method import Method
    from kvlab.rope import Rope
    from kvlab.trace import Recorder


class Pending(NamedTuple):
    """New keys [B, H, t, D] on their way to the attention function, with the layer that will take them."""

    layer: LayerKV
    keys: Tensor


class LayerKV(CacheLayerMixin):
    """One layer: a store, the tokens it has seen, its window, and `state`, the numbers a method keeps for this run."""

    is_sliding = False
    is_croppable = False  # a lossy cache cannot be cut back to an earlier length

    def __init__(self, cache: KVCache, index: int, window: int | None) -> None:
        super().__init__()
        self.cache, self.index, self.window = cache, index, window
        self.seen = 0
        self.state: dict[str, Any] = {}
        self.waiting: Seen | None = None
        self.follows: LayerKV | None = None  # the lower layer whose store this one reads, if it has none of its own
        self.store = Store()
        self._attended: Seen | None = None
        self.is_initialized = True

    @property
    def rope(self) -> Rope | None:
        """How this layer's keys were turned to their positions; None unless the method needs "rope"."""
        return self.cache.ropes[self.index] if self.cache.ropes else None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: stores take their shapes from the first append."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Pending, Tensor]:
        self.seen += key_states.shape[2]
        return Pending(self, key_states), value_states

    def get_seq_length(self) -> int:
        """Tokens seen, not slots stored: the next position depends on it."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def step(self, q: Tensor, k: Tensor, v: Tensor, pos: Tensor, padded: bool, rules: Rules) -> Tensor:
        """Write the new slots, attend, compress: q [B, Hq, t, D], k and v [B, H, t, D], pos [B, t] int32 (-1: padding)."""
        first = (self.follows or self).store.empty
        seen = self.look(q, k, v, pos, padded, rules)
        out = self._decoded(q, seen)
        if out is None:
            out = attend(q, seen.view, pos, seen.rules, fresh=first and not padded)
        self.attended(seen)
        return out

    def _decoded(self, q: Tensor, seen: Seen) -> Tensor | None:
        """Attention of one query straight from how the slots are held; None where that is not how they are read."""
        store = (self.follows or self).store
        if isinstance(seen.slots, View):
            return None
        if kernels.wanted(q):
            return kernels.decode(q, store, seen.rules, seen.slots if isinstance(seen.slots, Pages) else None)
        return packed.decode(q, store, seen.rules)

    def look(self, q: Tensor, k: Tensor, v: Tensor, pos: Tensor, padded: bool, rules: Rules) -> Seen:
        """The first half of `step`: write the new slots; what the queries will look at."""
        if self.follows is None:
            self.store.append(k, v, pos, padded)
        rules = rules._replace(window=self.window) if self.window != rules.window else rules
        view = None if self.window else self.cache.method.read(self, q, pos)
        if isinstance(view, Pages) and not kernels.wanted(q):
            view = view.view()
        if view is None:
            store = (self.follows or self).store
            # what is held may be read as it is: then nothing is decoded or padded unless somebody asks to see it
            view = store.snapshot().view if kernels.wanted(q) or packed.wanted(q, store) else store.view()
        return Seen(q, pos, view, rules, self.cache.phase)

    def attended(self, seen: Seen) -> None:
        """The second half of `step`: record, and compress once all who read the store have done so."""
        leader = self.follows
        self.cache.recorder.attended(self, (leader or self).store, seen)
        if leader is None:
            self._attended = seen
        owner = leader or self
        if self.index == self.cache.last_readers[owner.index]:
            # not before all who share the store have read it: a prompt's early tokens would find theirs gone
            owner._compress(owner._attended)
            owner._attended = None

    def _compress(self, seen: Seen) -> None:
        if self.window is not None:
            if len(self.store) > self.window - 1:
                oldest = self.cache.tokens.view(-1, 1, 1) - self.window  # each row of a batch stands at a place of its own
                self.keep(self.store.valid() & (self.store.pos() > oldest))
            return
        if self.store.padded and seen.phase.kind != "probe":
            self.store.keep(self.store.valid())
            seen = self.refreshed(seen)
        self.cache.method.act(self, seen)
        if self.cache.late and seen.phase.kind == "chunk":
            self.waiting = seen

    def act_late(self) -> None:
        """The prefill end of a prompt with scoring passes, as its last queries saw it: other methods had to wait for the passes."""
        if self.waiting is not None:
            self.cache.method.act(self, replace(self.refreshed(self.waiting), phase=self.cache.phase))
            self.waiting = None

    def refreshed(self, seen: Seen) -> Seen:
        """`seen` with the slots as they are now, after another member dropped or encoded some."""
        held = self.store.snapshot()  # what the store does later must not show
        return replace(seen, slots=lambda: held.view()._replace(extra=seen.view.extra))

    def keep(self, mask: Tensor, scores: Tensor | None = None, into: Tensor | None = None) -> None:
        """Drop slots where `mask` [B, H, T] is false.

        For the trace: the `scores` [B, H, T] that decided (NaN: not judged now), and `into` [B, H, T] int, the position a dropped slot was
        merged into (-1: none).
        """
        if self.cache.pinned is not None and not self.window:
            mask = mask | torch.isin(self.store.pos(), self.cache.pinned)
        self.cache.recorder.left(self, mask, scores, into)
        self.store.keep(mask)

    def code(self, name: str, count: Tensor | int, encode: Encode) -> None:
        """Encode the oldest `count` raw slots of column `name` ("k" or "v"), [B, H] or one number for all."""
        if self.store.code(name, count, encode):
            self.cache.recorder.coded(self)

    def tokens(self) -> Tensor:
        """Real tokens seen by each row of the batch: [B] int64."""
        return self.cache.tokens

    def target(self, budget: Any) -> Tensor:
        """Slots each row may keep under `budget`, a fraction being of its tokens at the last prefill end: [B] int64."""
        tokens = self.cache.tokens
        prompt = self.cache.prompt if self.cache.phase.kind in ("decode", "question") else tokens
        return torch.tensor([budget.limit(int(n), int(p)) for n, p in zip(tokens, prompt, strict=True)], device=tokens.device)


class LatentKV(LayerKV):
    """The second door, for MLA: the model expands latents itself, so `update` returns the real tensors of all slots.

    The store's columns hold the latent ("k") and the rotated key part ("v"); attention gets the expanded keys and values.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.seen += key_states.shape[2]
        self.fresh = key_states, value_states
        if self.store.empty:
            return self.fresh
        old = self.store.view()
        return torch.cat([old.k, key_states], dim=2), torch.cat([old.v, value_states], dim=2)

    def step(self, q: Tensor, k: Tensor, v: Tensor, pos: Tensor, padded: bool, rules: Rules) -> Tensor:
        first = self.store.empty
        # as `update` lined the keys up: the held slots of the longest row, then the new ones
        where = pos[:, None] if first else torch.cat([self.store.pos(), pos[:, None]], dim=2)
        self.store.append(*self.fresh, pos, padded)
        held = self.store.view()
        expanded = View(k, v, where, held.holes)
        out = attend(q, expanded, pos, rules, fresh=first and not padded)
        seen = Seen(q, pos, expanded, rules, self.cache.phase)
        self.cache.recorder.attended(self, self.store, seen)
        self._compress(replace(seen, slots=held))
        return out


class KVCache(Cache):
    """All layers of one run. `phase`, `ids` [B, t] (of the call's tokens) and `tokens` are set by the engine before each forward call."""

    def __init__(
        self, method: Method, geometry: Geometry, batch: int, recorder: Recorder, device: Any = "cpu", artefact: Any = None, ropes: list[Rope] | None = None
    ) -> None:
        self.method, self.geometry, self.recorder, self.artefact, self.ropes = method, geometry, recorder, artefact, ropes
        self.phase = Phase("prefill")
        self.ids: Tensor | None = None
        self.state: dict[str, Any] = {}
        self.pinned: Tensor | None = None  # positions [n] that no method may drop, on top of its budget
        self.late = False  # whether this call is the last of a prompt and scoring passes follow
        self.onward: Onward | None = None  # which tokens of this call go on to the layers above; None: all
        self._placed: tuple[Tensor | None, Tensor | None] = (None, None)
        self.tokens = torch.zeros(batch, dtype=torch.int64, device=device)
        self.prompt = self.tokens
        self.owners = [method.owner(i, artefact) if window is None else i for i, window in enumerate(geometry.windows)]
        self.last_readers = {owner: reader for reader, owner in enumerate(self.owners)}
        kind = LatentKV if geometry.latent else LayerKV
        super().__init__(layers=[kind(self, i, window) for i, window in enumerate(geometry.windows)])
        for layer, owner in zip(self.layers, self.owners, strict=True):
            layer.follows = None if owner == layer.index else self.layers[owner]
            layer.store = Store() if layer.window else method.store(layer)

    def positions(self, position_ids: Tensor, mask: Tensor | None, batch: int) -> Tensor:
        """Positions of the new tokens [B, t] int32, -1 where the padding mask says so. Made once for all layers of a call."""
        if self._placed[0] is not position_ids:
            pos = position_ids.to(torch.int32).expand(batch, -1)
            self._placed = position_ids, pos if mask is None else torch.where(mask[:, -pos.shape[1] :].bool(), pos, -1)
        return self._placed[1]

    def shorten(self, mask: Tensor) -> None:
        """Of the tokens this call brought to the layer at work, only those in `mask` [B, t] go on to the layers above. The last one always does."""
        mask = mask.clone()
        mask[:, -1] = True
        fresh = right_aligned(mask)
        if self.onward is None:
            places = fresh
        else:
            places = torch.where(fresh < 0, -1, self.onward.places.gather(1, fresh.clamp(min=0)))
        self.onward = Onward(places, fresh)

    def finish(self) -> None:
        """After the last layer of a forward call: decisions across layers."""
        if self.onward and self.onward.fresh is not None:
            raise ValueError(f"The layers of {self.geometry.family} cannot be given fewer tokens than the ones below. Choose another method or model.")
        self.onward = None
        self.method.finish(self, self.phase)

    def tensors(self) -> list[Tensor]:
        """Every tensor held by any layer."""
        return [tensor for layer in self.layers if layer.follows is None for tensor in layer.store.tensors()]

    def nbytes(self) -> int:
        """Bytes of the distinct storages held: a store shared by two layers counts once."""
        return storage_bytes(self.tensors())

    def snapshot(self) -> dict[str, Any]:
        """Everything needed to come back to this moment. Free: tensors are never changed in place."""
        layers = [(layer.store.snapshot(), layer.seen, dict(layer.state)) for layer in self.layers]
        return {"layers": layers, "tokens": self.tokens, "prompt": self.prompt, "state": dict(self.state)}

    def restore(self, moment: dict[str, Any]) -> None:
        """Back to `moment`; it can be used again."""
        for layer, (store, seen, state) in zip(self.layers, moment["layers"], strict=True):
            layer.store, layer.seen, layer.state = store.snapshot(), seen, dict(state)
        self.tokens, self.prompt, self.state = moment["tokens"], moment["prompt"], dict(moment["state"])


def attend_pending(
    module: Any, query: Tensor, key: Any, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The attention function registered with transformers. `key` is a `Pending`; `attention_mask` is the 2D padding mask or None."""
    if isinstance(key, Pending):
        layer, keys = key
    elif (cache := kwargs.get("kvlab_cache")) is not None:
        layer, keys = cache.layers[module.layer_idx], key
    else:
        raise TypeError("This model was loaded for kvlab: call it with a kvlab cache (past_key_values).")
    pos = layer.cache.positions(kwargs["position_ids"], attention_mask, query.shape[0])
    padded = attention_mask is not None
    rules = Rules(
        scaling=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=layer.window,
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
    )
    out = layer.step(query, keys, value, pos, padded, rules)
    return out.transpose(1, 2).contiguous(), None


def padding_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """The mask function registered beside it: hands the 2D padding mask on as it is. Positions do the rest."""
    return attention_mask
