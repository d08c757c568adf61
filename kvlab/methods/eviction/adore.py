"""ADORE (2024, arXiv 2407.02328). Card: methods/eviction.md, reconstructed: the authors' repository holds no code.

A small recurrent controller tells how important every earlier token is for the newest one. The most important ones are in the cache, in
all layers and heads alike. When one that was released becomes important again, it is read again beside the new token, at its own place:
its keys and values come from what the cache holds by then, so they are near what they were, not the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Again, Dropper, knob
from kvlab.methods.eviction._cascade import by_position
from kvlab.methods.eviction._controller import ControllerTraining, Weights, importance
from kvlab.onward import right_aligned
from kvlab.phase import Phase, Schedule
from kvlab.seen import Seen
from kvlab.select import keep_top, protect
from kvlab.store import Store


class Ledger(Store):
    """The store of the first layer without a window, which also holds what is needed of all tokens seen, released ones too.

    ids [B, P] int32; of the trained controller keys [B, P, c] float16, the newest token's q [B, c] and the GRU's state [B, hidden]; else
    marks [B, P] float32, each token's last importance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids = self.keys = self.q = self.state = self.marks = None

    def note(self, name: str, values: Tensor, pos: Tensor, size: int) -> None:
        """Put `values` [B, t, ...] of the tokens at `pos` [B, t] (-1: none) into the table `name`, which has `size` places from now on."""
        old = getattr(self, name)
        table = values.new_zeros(len(values), size + 1, *values.shape[2:])
        if old is not None:
            table[:, : old.shape[1]] = old
        place = torch.where(pos >= 0, pos, size).long().view(*pos.shape, *[1] * (values.dim() - 2)).expand_as(values)
        setattr(self, name, table.scatter(1, place, values)[:, :size].clone())

    def tensors(self) -> list[Tensor]:
        return super().tensors() + [x for x in (self.ids, self.keys, self.q, self.state, self.marks) if x is not None]


@dataclass(frozen=True)
class Adore(Dropper):
    """A trained controller keeps what matters for the next word, and reads released tokens again when they matter once more."""

    name = "adore"
    title = "ADORE"
    paper = "Zhang et al., arXiv 2407.02328"
    year = 2024
    source = "recon"
    schedule = Schedule(prefill=True, every=1)
    per_head = False
    departs = (
        "Reconstructed from the abstract and a figure's caption. The controller alone is trained, on the model's own attention; the authors fine-tune the "
        "model with it. First and latest tokens always stay. Importance is kept for all tokens, and so are their ids: both are counted. With sliding-window "
        "layers only tokens that have left all windows are read again."
    )

    controller: str = knob("trained", "Trained, or none: the last attention each token got, which is not the paper's.", choices=("trained", "attention"))
    rebuild: int = knob(8, "Most released tokens read again at each step. 0: what is gone stays gone.", 0, 64, 1)
    sinks: int = knob(4, "First tokens that always stay.", 0, 64, 1)
    recent: int = knob(8, "Latest tokens that always stay, the newest among them.", 1, 512, 1)
    passages: int = knob(64, "Passages the controller learns from.", 2, 1024, 1)
    steps: int = knob(120, "Training steps of the controller.", 1, 10_000, 1)

    @property
    def artefact_of(self) -> ControllerTraining:
        """The controller, which does not depend on the other knobs."""
        return ControllerTraining(self.passages, steps=self.steps)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("calibration",) if self.controller == "trained" else ("queries", "weights")

    def store(self, layer: LayerKV) -> Store:
        return Ledger() if layer.index == layer.cache.geometry.windows.index(None) else Store()

    def recall(self, cache: KVCache, ids: Tensor, pos: Tensor, embed: Callable[[Tensor], Tensor]) -> Again | None:
        if not cache.geometry.open_layers or cache.phase.kind == "probe":
            return None
        ledger, size = self._ledger(cache), int(cache.tokens.max())
        ledger.note("ids", ids.int(), pos, size)
        if self.controller == "trained":
            self._listen(ledger, Weights.of(cache.artefact, ids.device), embed(ids), pos, size)
        if cache.phase.kind in ("chunk", "prefill") or self.rebuild == 0:
            return None
        return self._missing(cache, ledger, size)

    def _listen(self, ledger: Ledger, weights: Weights, embedded: Tensor, pos: Tensor, size: int) -> None:
        """The controller reads the new tokens, each row its own real ones."""
        (size_q, hidden), first = weights.q.shape, ledger.state is None
        state = embedded.new_zeros(len(pos), hidden, dtype=torch.float32) if first else ledger.state.clone()
        asked = embedded.new_zeros(len(pos), size_q, dtype=torch.float32) if first else ledger.q.clone()
        keys = torch.zeros(*pos.shape, size_q, dtype=torch.float16, device=pos.device)
        for row, real in enumerate(pos >= 0):
            if real.any():  # a chunk of a padded batch may hold nothing of a short row
                q, k, last = weights.run(embedded[row : row + 1, real], state[row : row + 1])
                keys[row, real], asked[row], state[row] = k[0].half(), q[0, -1], last[0]
        ledger.q, ledger.state = asked, state
        ledger.note("keys", keys, pos, size)

    def _missing(self, cache: KVCache, ledger: Ledger, size: int) -> Again | None:
        """The most important tokens that should be held and are not."""
        wanted, scores = self._wanted(cache, ledger, size)
        held = by_position(torch.ones_like(ledger.pos(), dtype=torch.float32), ledger.pos(), size) > 0
        place = torch.arange(size, device=held.device)
        slide = max([window for window in cache.geometry.windows if window], default=0)
        old = place < (cache.tokens - max(slide, cache.ids.shape[1]))[:, None]  # neither new nor still in some window
        index = right_aligned(keep_top(scores[:, None], self.rebuild, (wanted & ~held & old)[:, None])[:, 0])
        return Again(ledger.ids.gather(1, index.clamp(min=0)).long(), index) if index.shape[1] else None

    def _wanted(self, cache: KVCache, ledger: Ledger, size: int) -> tuple[Tensor, Tensor]:
        """Which positions the newest token wants held, [B, P] bool, and how important each is, [B, P]."""
        if self.controller == "trained":
            scores = importance(ledger.q[:, None], ledger.keys.float())[:, 0].sigmoid()
        else:
            scores = F.pad(ledger.marks, (0, size - ledger.marks.shape[1]))
        count, place = self._first(cache).target(self.budget), torch.arange(size, device=scores.device).expand(len(scores), 1, -1)
        recent = count.clamp(max=self.recent)
        fixed = protect(place, cache.tokens, (count - recent).clamp(max=self.sinks), recent)
        exists = place < cache.tokens.view(-1, 1, 1)
        return keep_top(scores[:, None], count, exists, fixed)[:, 0], scores

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        if self.controller == "attention":
            got = seen.by_kv_head(seen.weights(1)[:, :, 0], "sum") / (seen.q.shape[1] * layer.cache.geometry.open_layers)
            layer.cache.state["adore"] = layer.cache.state.get("adore", 0) + by_position(got, seen.pos(), int(layer.tokens().max()))

    def finish(self, cache: KVCache, phase: Phase) -> None:
        if not cache.geometry.open_layers or phase.kind in ("chunk", "probe"):
            return
        ledger, size = self._ledger(cache), int(cache.tokens.max())
        if self.controller == "attention":
            self._mark(ledger, cache.state.pop("adore"), size)
        scores = self._wanted(cache, ledger, size)[1]
        for layer in cache.layers:
            if layer.window is None and layer.follows is None:
                self._release(layer, scores)

    def _mark(self, ledger: Ledger, got: Tensor, size: int) -> None:
        """New marks for all that are held; released tokens keep their last ones."""
        held = by_position(torch.ones_like(ledger.pos(), dtype=torch.float32), ledger.pos(), size) > 0
        old = got if ledger.marks is None else F.pad(ledger.marks, (0, size - ledger.marks.shape[1]))
        ledger.marks = torch.where(held, got, old)

    def _release(self, layer: LayerKV, scores: Tensor) -> None:
        """Keep the most important tokens of those held, the first and the latest among them."""
        valid = layer.store.valid()
        pos, count = layer.store.pos().expand_as(valid), layer.target(self.budget)
        recent = count.clamp(max=self.recent)
        mine = scores.gather(1, pos.clamp(min=0).long().flatten(1)).view_as(pos)
        fixed = protect(pos, layer.tokens(), (count - recent).clamp(max=self.sinks), recent)
        layer.keep(keep_top(mine, count, valid, fixed), mine)

    def _first(self, cache: KVCache) -> LayerKV:
        return cache.layers[cache.geometry.windows.index(None)]

    def _ledger(self, cache: KVCache) -> Ledger:
        return self._first(cache).store

    def extra_bytes(self, tokens: int, prompt: int, geometry: Geometry) -> float:
        if not geometry.open_layers:
            return 0
        made = self.artefact_of
        return tokens * (4 + 2 * made.size) + 4 * (made.hidden + made.size) if self.controller == "trained" else 8 * tokens
