"""Vectors as what is left of a guess: a linear predictor says what a vector should be from others as these are read back, HIGGS codes the rest.

The predictors and the grids of the codes come from calibration; they are shared by all runs and lie outside a cache's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kvlab.codecs.higgs import Higgs

if TYPE_CHECKING:
    from kvlab.cache import LayerKV

RIDGE = 1e-3
"""Of the fit, relative to the mean energy of an input."""

GROUP = 1024
"""Channels that turn together, at most."""


def fit(x: Tensor, y: Tensor) -> Tensor:
    """W [m + 1, n] float16 with [x, 1] @ W near `y`: `x` [N, m], `y` [N, n]. Its last row is the offset."""
    wide = _with_one(x).double()
    gram = wide.T @ wide
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, wide.T @ y.double()).half()


def predict(x: Tensor, w: Tensor) -> Tensor:
    """[x, 1] @ W."""
    return _with_one(x) @ w


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


@dataclass(frozen=True)
class Chunk:
    """Vectors [R, C] of one layer and column as what is left of a guess from other chunks; `inputs` empty: no guess."""

    codes: Tensor
    length: Tensor
    inputs: tuple[Chunk, ...]
    layer: LayerKV
    column: str
    size: int

    def known(self, name: str) -> Tensor:
        return self.layer.cache.artefact[f"aqua {name}"].to(self.codes.device).float()

    def higgs(self) -> tuple[Higgs, Tensor]:
        points = self.known("grid" if self.inputs else "first grid")
        return Higgs(len(points).bit_length() // 2, GROUP), points

    def guess(self) -> Tensor | None:
        """[R, C] from the inputs as they are read back; None for the first layer."""
        if not self.inputs:
            return None
        x = torch.cat([chunk.vectors() for chunk in self.inputs], dim=1)
        return predict(x, self.known(f"{self.column} {self.layer.index}"))

    def vectors(self) -> Tensor:
        """[R, C] float32."""
        higgs, points = self.higgs()
        rest, guess = higgs.decode(self.codes, self.length, self.size, points), self.guess()
        return rest if guess is None else guess + rest

    def filled(self, vectors: Tensor, held: torch.dtype) -> Chunk:
        """This chunk holding `vectors` [R, C]."""
        higgs, points = self.higgs()
        guess = self.guess()
        codes, length = higgs.encode(vectors if guess is None else vectors - guess, points, held)
        return replace(self, codes=codes, length=length)


@dataclass(frozen=True)
class Guessed:
    """Rows of a chunk: `sizes` vectors of each text of the batch, all heads of each. kept [N] int32: the rows left; None: all."""

    chunk: Chunk
    sizes: tuple[int, ...]
    heads: int
    dtype: torch.dtype
    kept: Tensor | None = None

    @property
    def bits(self) -> float:
        return self.chunk.higgs()[0].bits

    def decode(self) -> Tensor:
        vectors = self.chunk.vectors().split(self.sizes)
        rows = torch.cat([block.unflatten(1, (self.heads, -1)).transpose(0, 1).flatten(0, 1) for block in vectors]).to(self.dtype)
        return rows if self.kept is None else rows[self.kept.long()]

    def keep(self, mask: Tensor) -> Guessed:
        return replace(self, kept=mask.nonzero()[:, 0].int() if self.kept is None else self.kept[mask])

    def tensors(self) -> list[Tensor]:
        """Its own: what it is guessed from is held by the layer below."""
        return [self.chunk.codes, self.chunk.length, *([] if self.kept is None else [self.kept])]


def again(x: Tensor, bits: int, points: Tensor) -> Tensor:
    """What is read back of `x` [N, C]."""
    higgs = Higgs(bits, GROUP)
    return higgs.decode(*higgs.encode(x, points, torch.float16), x.shape[1], points)
