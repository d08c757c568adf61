"""OSTQuant, the part that touches the cache (2025, arXiv 2501.13987). Card: methods/quantization.md, its figures and flags from the authors' page.

Keys and values are put into coordinates in which even steps lose least. Values: one rotation and one scale per coordinate for each KV head.
Keys: one scale per channel, the same for two channels that RoPE turns together, so that it could as well stand in the weights, and then
the Walsh-Hadamard turn. Rotations and scales are learned on calibration text with the model frozen; reading undoes both. Each token's key
and value are quantized per head with one range.

Bytes per token, KV head and tensor of D channels: D * bits / 8 + 4. The transforms, [L, H, D, D] for keys and for values and their inverses,
are shared by all runs and lie outside the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.rotate import hadamard
from kvlab.codecs.tokens import MinMax, per_head
from kvlab.codecs.tokenwise import Tokenwise
from kvlab.method import knob
from kvlab.methods.quantization._capture import captured
from kvlab.models import LM

FIT = 1024
"""Tokens that the learning looks at."""


def straight(x: Tensor, bits: int) -> Tensor:
    """`x` [..., D] in even steps between its ends; the gradient passes as if nothing had been rounded."""
    low, high = x.aminmax(dim=-1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
    codes = (x - low) / step
    return (codes + (codes.round() - codes).detach()) * step + low


def learn(start: dict[str, Tensor], make: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]], x: Tensor, weigh: Tensor, bits: int, steps: int) -> tuple:
    """The transform and its inverse, [H, D, D] each, that lose least of `x` [H, N, D], and the loss before and after, [H].

    `make` turns parameters into a transform and its inverse; the loss is the mean of e W e for errors e and `weigh` W [H, D, D].
    """
    params = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimiser = torch.optim.Adam(params.values(), lr=0.02)
    best, first, kept = None, None, None
    for _ in range(steps + 1):
        there, back = make(params)
        error = straight(x @ there, bits) @ back - x
        loss = ((error @ weigh) * error).sum(-1).mean(1)
        if best is None:
            first, best, kept = loss.detach(), loss.detach(), (there.detach(), back.detach())
        better = loss.detach() < best
        best = torch.where(better, loss.detach(), best)
        kept = tuple(torch.where(better[:, None, None], new.detach(), old) for new, old in zip((there, back), kept, strict=True))
        optimiser.zero_grad()
        (loss / first.clamp(min=1e-12)).sum().backward()
        optimiser.step()
    return *kept, first, best


def paired(log_scale: Tensor) -> Tensor:
    """Scales [H, D] from [H, D / 2] logarithms: channels i and i + D / 2 have the same."""
    return torch.cat([log_scale, log_scale], -1).exp()


def of_keys(params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Divided by the scales, then turned."""
    scale = paired(params["scale"])
    turn = hadamard(torch.eye(scale.shape[1], device=scale.device))
    return turn / scale[..., None], turn * scale[:, None]


def of_values(params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Rotated, then divided by the scales. The rotation is a matrix exponential on top of the Walsh-Hadamard turn, so always orthogonal."""
    skew, scale = params["skew"] - params["skew"].mT, params["scale"].exp()
    turn = hadamard(torch.eye(skew.shape[-1], device=skew.device)) @ torch.matrix_exp(skew)
    return turn / scale[:, None], scale[..., None] * turn.mT


@dataclass(frozen=True)
class Transformed(Learned):
    """`inner` of rows in the coordinates learned for their layer, head and `column`."""

    inner: MinMax
    column: str
    layer: LayerKV | None
    headed = True

    @property
    def bits(self) -> int:
        return self.inner.bits

    def matrices(self, which: str, device: torch.device) -> Tensor:
        return self.known(f"ostquant {self.column} {which}", device)

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.inner.encode(per_head(rows, owner, self.matrices("there", rows.device)), held, None, ())

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        return per_head(self.inner.decode(held, size, None, ()), owner, self.matrices("back", held[0].device))

    def row_bytes(self, size: int, item: int) -> int:
        return self.inner.row_bytes(size, item)


@dataclass(frozen=True)
class OSTQuant(Tokenwise):
    """Learned rotations and scales put keys and values into coordinates in which even steps lose least."""

    name = "ostquant"
    title = "OSTQuant"
    paper = "Hu et al., arXiv 2501.13987"
    year = 2025
    source = "mixed"
    needs = ("calibration",)
    learns = ("bits", "steps", "passages", "length")
    departs = (
        "Only what touches the cache. Each layer and head learns by itself to lose little of its values and scores, by plain gradient steps; the authors "
        "match the model's most likely next tokens and move on the manifold of rotations. Transforms act on cached tensors and are not folded into weights."
    )

    bits: int = knob(4, "Bits of one coded value.", choices=(2, 3, 4, 8))
    steps: int = knob(60, "Steps of learning.", 0, 1000, 1)
    passages: int = knob(8, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        return {column: Transformed(MinMax(self.bits, 1 << 16), column, layer) for column in "kv"}

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """"ostquant k there", "k back", "v there", "v back": [L, H, D, D] float32."""
        found: dict[str, list[Tensor]] = {}
        for layer in captured(lm, self.passages, self.length):
            pick = torch.randperm(len(layer.k), generator=torch.Generator().manual_seed(0))[:FIT].to(layer.k.device)
            keys, values = layer.k[pick].transpose(0, 1), layer.v[pick].transpose(0, 1)
            asked = layer.q[pick].unflatten(1, (keys.shape[0], -1)).permute(1, 0, 2, 3).flatten(1, 2)
            heads, _, size = keys.shape
            half, none = torch.zeros(heads, size // 2, device=keys.device), torch.zeros(heads, size, device=keys.device)
            with torch.enable_grad():
                k = learn({"scale": half}, of_keys, keys, asked.mT @ asked / asked.shape[1], self.bits, self.steps)
                still = torch.eye(size, device=keys.device).expand(heads, -1, -1)
                v = learn({"skew": torch.zeros_like(still), "scale": none}, of_values, values, still, self.bits, self.steps)
            for column, made in (("k", k), ("v", v)):
                for which, matrix in zip(("there", "back"), made[:2], strict=True):
                    found.setdefault(f"ostquant {column} {which}", []).append(matrix)
        return {name: torch.stack(parts).cpu() for name, parts in found.items()}
