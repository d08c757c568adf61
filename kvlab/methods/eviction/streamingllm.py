"""StreamingLLM (2023, arXiv 2309.17453). Card: methods/eviction.md, from the authors' cache class.

The first `sinks` tokens and the most recent ones stay, whatever they say. The paper numbers positions by place in the cache: only the
distance between query and key counts, so kvlab turns the held keys towards the query at read and leaves queries and positions alone.
"""

from dataclasses import dataclass

from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.method import Dropper, knob
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.select import protect
from kvlab.store import View


def gaps(pos: Tensor, last: Tensor) -> Tensor:
    """Positions each slot has to move up to stand beside its neighbours: `pos` [B, H, T], `last` [B] newest position -> int64, 0 for holes.

    The newest token keeps its position; a slot with n later ones in the cache moves to n positions before it.
    """
    held = pos >= 0
    later = held.long().flip(-1).cumsum(-1).flip(-1) - 1
    return (last.view(-1, 1, 1) - later - pos).masked_fill(~held, 0)


@dataclass(frozen=True)
class StreamingLLM(Dropper):
    """Attention sinks and a sliding window: constant size for endless text."""

    name = "streamingllm"
    title = "StreamingLLM"
    paper = "Xiao et al., arXiv 2309.17453"
    year = 2023
    schedule = Schedule(prefill=True, every=1)
    per_head = False
    departs = "Room is made after a forward call, not before it, so a query sees its own token beside a full cache."

    sinks: int = knob(4, "First tokens that always stay.", 0, 64, 1)
    renumber: bool = knob(True, "Close the gap: keys are turned to their place in the cache, as in the paper. Off: true positions stay.")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("rope",) if self.renumber else ()

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | None:
        if not self.renumber:
            return None
        view = layer.store.view()
        by = gaps(view.pos, q_pos.amax(1))
        if not by.any():
            return view
        return view._replace(k=layer.rope.shift(view.k, by).to(view.k.dtype))

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        count = layer.target(self.budget)
        first = (count - 1).clamp(max=self.sinks)
        layer.keep(protect(seen.pos(), layer.tokens(), first, count - first))
