"""DuoAttention (2024, arXiv 2410.10819). Card: methods/head_merge_retrieval.md, from the authors' code.

Few heads look far back; the others live on the first and the last tokens. A gate for each KV head, trained once per model, says how much
of its far past the answers need. The heads with the largest gates stay whole, the others keep sinks and a sliding window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.method import Dropper, knob
from kvlab.methods.heads._gates import DuoGates
from kvlab.methods.heads._split import decided_on, of_layer, open_layers, ranked, split, widths
from kvlab.phase import Schedule
from kvlab.seen import Seen


@dataclass(frozen=True)
class DuoAttention(Dropper):
    """Retrieval heads keep everything, streaming heads the first and the last tokens."""

    name = "duoattention"
    title = "DuoAttention"
    paper = "Xiao et al., arXiv 2410.10819"
    year = 2024
    needs = ("calibration",)
    schedule = Schedule(prefill=True, every=1)
    departs = (
        "The budget decides how many heads stay whole; the authors set a share of the heads (half) and bytes follow. The prompt is read whole by every "
        "head and cut at its end; the authors' streaming heads read it through their window. Training texts are short and windows an eighth of "
        "the authors'. Ties between gates go to the earlier head instead of being broken by noise."
    )

    sinks: int = knob(8, "First tokens a streaming head keeps.", 0, 256, 1)
    recent: int = knob(32, "Last tokens a streaming head keeps at the least; what the budget leaves over makes it more.", 1, 4096, 1)

    steps: int = knob(60, "Training steps of the gates, on as many short documents at the most.", 1, 2000, 1)
    size: int = knob(384, "Tokens of a training document, about.", 64, 8192, 1)

    @property
    def artefact_of(self) -> DuoGates:
        """The gates, which depend on how they are trained and not on what a streaming head keeps later."""
        return DuoGates(self.steps, self.size)

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        tokens, prompt = layer.tokens(), decided_on(layer, seen)
        slots = torch.stack([self.slots(layer, int(n)) for n in prompt]).to(tokens.device)[..., None]  # [B, H, 1]
        first, pos = (slots - 1).clamp(0, self.sinks), seen.pos()
        stays = (pos < first) | (pos >= tokens.view(-1, 1, 1) - (slots - first)) | (slots >= prompt.view(-1, 1, 1))
        layer.keep(stays & seen.valid())

    def slots(self, layer: LayerKV, prompt: int) -> Tensor:
        """Slots of each head of a layer for a prompt of this length: [H] int64; all of them for a retrieval head."""
        order = ranked(layer.cache.artefact["gates"][open_layers(layer.cache.geometry)])
        return of_layer(widths(self.budget.tokens(prompt), prompt, order, len(order), self.sinks + self.recent), layer)

    def head_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> list[tuple[float, float]]:
        # on average over the layers: which heads are whole the gates alone know
        return self._kinds(tokens, prompt, max(1, geometry.open_layers * geometry.kv_heads))

    def layer_kept(self, layer: int, tokens: int, prompt: int, geometry: Geometry) -> float:
        return sum(share * slots for share, slots in self.head_kept(layer, tokens, prompt, geometry))

    def kept(self, tokens: int, prompt: int) -> float:
        # without a model there is no number of heads: as if there were very many
        return sum(share * slots for share, slots in self._kinds(tokens, prompt, 1 << 20))

    def _kinds(self, tokens: int, prompt: int, heads: int) -> list[tuple[float, float]]:
        full, rest = split(self.budget.tokens(prompt), prompt, heads, heads, self.sinks + self.recent)
        each, over = divmod(rest, max(1, heads - full))
        return [(n / heads, slots) for n, slots in ((full, tokens), (over, each + 1), (heads - full - over, each)) if n]
