"""Palu (2024, arXiv 2407.21118). Card: methods/lowrank_channel.md, section 4, from the authors' code.

The keys of `heads` neighbouring KV heads, before rotation, lie near a small subspace, and so do their values. On calibration text the
directions of most energy are found for each such group; a token is held as its `rank` coordinates among them, and keys are rebuilt and
turned to their positions whenever they are read. How many coordinates the keys and the values of each layer get follows from how much the
loss depends on the weights that make them.

Bytes per token, group and tensor of rank r: r values of the model, or r * bits / 8 + 4 where the coordinates are quantized too. The bases,
[L, G, m, m] for keys and for values with m = heads * D, are shared by all runs and lie outside the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.cache import KVCache, LayerKV
from kvlab.calibration import sample
from kvlab.codecs import stream
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.pack import packed_size
from kvlab.codecs.rotate import hadamard
from kvlab.codecs.tokenwise import BeforeRope
from kvlab.codecs.uniform import integer_zero
from kvlab.geometry import Geometry
from kvlab.method import Method, knob
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM
from kvlab.trace import Silent


def directions(rows: Tensor) -> Tensor:
    """Orthogonal [..., m, m] for `rows` [..., N, m], the columns by falling energy. It is what whitening the weight's SVD with its inputs gives."""
    x = rows.double()
    return torch.linalg.eigh(x.mT @ x)[1].flip(-1).float()


def shared_out(scores: list[float], total: int, most: int) -> list[int]:
    """`total` blocks by `scores`: one for each, then each next block to who is furthest below its share and holds fewer than `most`."""
    held, wanted = [1] * len(scores), [score * total / (sum(scores) or 1) for score in scores]
    for _ in range(min(total, most * len(scores)) - len(scores)):
        held[max((i for i in range(len(scores)) if held[i] < most), key=lambda i: wanted[i] - held[i])] += 1
    return held


def fisher(lm: LM, passages: Tensor) -> Tensor:
    """How much the loss depends on the key and the value projection of each layer, [L, 2] float32: the mean over the weights of their
    root mean square gradient over `passages` [N, t]. ValueError where a family has no such projections of its own.
    """
    parts = {part.layer_idx: part for part in lm.model.modules() if hasattr(part, "layer_idx") and hasattr(part, "k_proj") and hasattr(part, "v_proj")}
    if sorted(parts) != [*range(lm.geometry.layers)]:
        raise ValueError(f"{lm.geometry.family} has no separate weights for keys and values, so their gradients cannot share ranks out. Set search to uniform.")
    weights = [weight for _, part in sorted(parts.items()) for weight in (part.k_proj.weight, part.v_proj.weight)]
    squares = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    places = torch.arange(passages.shape[1], device=lm.device)[None]
    for ids in passages:
        cache = KVCache(Method(), lm.geometry, 1, Silent(), lm.device)
        cache.tokens = torch.tensor([len(ids)], device=lm.device)
        with torch.enable_grad():
            logits = lm.model(input_ids=ids[None], position_ids=places, past_key_values=cache, use_cache=True).logits[0, :-1]
            # only asked for: no gradient is left on the weights, which other runs share
            found = torch.autograd.grad(F.cross_entropy(logits.float(), ids[1:]), weights)
        squares = [old + grad.float().square() for old, grad in zip(squares, found, strict=True)]
    return torch.stack([(x / len(passages)).sqrt().mean() for x in squares]).view(-1, 2).cpu()


@dataclass(frozen=True)
class Latent(Learned):
    """Of each group of `wide` channels its `rank` coordinates among the layer's directions for `column`, in `width` bits; 16: as the model has them."""

    rank: int
    wide: int
    width: int
    item: int
    column: str
    layer: LayerKV | None
    joint = True

    @property
    def bits(self) -> float:
        return (8 * self.item if self.width == 16 else self.width) * self.rank / self.wide

    def basis(self, device: torch.device) -> Tensor:
        """[G, wide, rank]."""
        return self.known(f"palu {self.column}", device)[..., : self.rank]

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found = torch.einsum("ngm,gmr->ngr", rows.unflatten(1, (-1, self.wide)), self.basis(rows.device))
        if self.width == 16:
            return (found if self.item == 4 else found.to(held),)
        codes, scale, zero = integer_zero(hadamard(found), self.width, held)
        return stream.pack(codes, self.width), scale, zero

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        found = held[0]
        if self.width < 16:
            codes, scale, zero = held
            found = hadamard((stream.unpack(codes, self.width, self.rank).float() - zero.float()) * scale.float())
        return torch.einsum("ngr,gmr->ngm", found.float(), self.basis(found.device)).flatten(1)

    def row_bytes(self, size: int, item: int) -> int:
        return size // self.wide * (self.rank * item if self.width == 16 else packed_size(self.rank, self.width) + 4)


@dataclass(frozen=True)
class Palu(BeforeRope):
    """Each token is held as a few coordinates, shared by neighbouring heads, and rebuilt when it is read."""

    name = "palu"
    title = "Palu"
    paper = "Chang et al., arXiv 2407.21118"
    year = 2024
    needs = ("rope", "calibration", "even heads")
    learns = ("sinks", "heads", "search", "passages", "length")
    departs = (
        "Directions are those of the keys behind their norm and bias, where a family has them, and not of the weight; without either both are the same. "
        "Attention over a prompt sees exact keys and values. Values are rebuilt too, instead of folding their basis into the output projection. Ranks are "
        "shared out in whole blocks so that their sum is what was asked; the authors round each. Blocks are 8 wide, not 32, and calibration reads less text. "
        "Where a family normalises its keys, their weight may have any size and its gradient says little: search uniform is fairer to them."
    )

    share: float = knob(0.5, "Share of the width that stays, on average over the layers.", 0.05, 1, 0.05)
    heads: int = knob(4, "Neighbouring KV heads that share coordinates; models with fewer make one group of all.", 1, 64, 1)
    search: str = knob("fisher", "How ranks are shared out: by the loss's gradients, or evenly.", choices=("fisher", "uniform"))
    block: int = knob(8, "Ranks are multiples of this.", 1, 64, 1)
    bits: int = knob(16, "Bits of a coordinate; 16: as the model has them.", choices=(2, 3, 4, 8, 16))
    passages: int = knob(16, "Calibration passages.", 1, 512, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        geometry, state = layer.cache.geometry, layer.cache.state
        if "palu ranks" not in state:
            state["palu ranks"] = self.ranks(geometry, layer.cache.artefact.get("palu scores"))
        return {column: self._latent(geometry, state["palu ranks"][layer.index][i], column, layer) for i, column in enumerate("kv")}

    def planned(self, geometry: Geometry) -> dict[str, Codec]:
        wide = self.wide(geometry)
        return {column: self._latent(geometry, min(wide, self._blocks(wide) * self.block), column, None) for column in "kv"}

    def _latent(self, geometry: Geometry, rank: int, column: str, layer: LayerKV | None) -> Latent:
        return Latent(rank, self.wide(geometry), self.bits, geometry.itemsize, column, layer)

    def wide(self, geometry: Geometry) -> int:
        """Channels of a group."""
        return min(self.heads, geometry.kv_heads) * geometry.head_dim

    def _blocks(self, wide: int) -> int:
        return max(1, round(self.share * wide / self.block))

    def ranks(self, geometry: Geometry, scores: Tensor | None) -> dict[int, tuple[int, int]]:
        """Layer -> ranks of its keys and of its values, each for all its groups. `scores` [L, 2]; None: all alike."""
        layers, wide = [i for i, window in enumerate(geometry.windows) if window is None], self.wide(geometry)
        each = [1.0] * (2 * len(layers)) if scores is None else scores[layers].flatten().tolist()
        blocks = shared_out(each, self._blocks(wide) * len(each), -(-wide // self.block))
        found = [min(wide, n * self.block) for n in blocks]
        return {layer: (found[2 * i], found[2 * i + 1]) for i, layer in enumerate(layers)}

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"palu k", "palu v": [L, G, m, m] float32, "palu scores": [L, 2] float32, the last for the search "fisher" only}."""
        found, wide = captured(lm, self.passages, self.length, self.sinks, before_rope=True), self.wide(lm.geometry)
        grouped = lambda rows: rows.flatten(1).unflatten(1, (-1, wide)).transpose(0, 1)  # noqa: E731
        made = {"palu k": torch.stack([directions(grouped(x.plain)) for x in found]).cpu()}
        made["palu v"] = torch.stack([directions(grouped(x.v)) for x in found]).cpu()
        if self.search == "fisher":
            made["palu scores"] = fisher(lm, sample(lm, self.passages, self.length))
        return made

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and geometry.kv_heads % min(self.heads, geometry.kv_heads):
            return f"{geometry.family} has {geometry.kv_heads} KV heads, which groups of {self.heads} do not divide. Choose another number of heads."
        return super().refuses(geometry)
