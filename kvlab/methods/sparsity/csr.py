"""CSR-style sparse coding (2024, arXiv 2412.11741). Card: methods/quantization.md; the working recipe is that of Lexico, arXiv 2412.08890.

A dictionary of `atoms` directions is learned once per model, layer and tensor on calibration text, shared by the KV heads. A vector is held
as the `terms` atoms that orthogonal matching pursuit picks and their weights: the atom nearest to what is left is added, and all weights
are fitted again. Keys are taken before RoPE. Weights are floats of 8 bits under the largest one, or of 16.

Bytes per token, KV head and tensor: ceil(terms * log2(atoms) / 8) + terms + 2 (with 16 bits 2 * terms). The dictionaries, 2 * L * D * atoms * 2
bytes, are shared by all runs and lie outside the cache.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.codecs import stream
from kvlab.codecs.each import Codec, Learned
from kvlab.codecs.pack import packed_size
from kvlab.codecs.tokenwise import BeforeRope
from kvlab.geometry import Geometry
from kvlab.method import knob
from kvlab.methods.quantization._capture import captured, learned
from kvlab.models import LM

ROWS = 4096
"""Vectors pursued at once."""

TOP = 448.0
"""The largest float of 8 bits (E4M3)."""


def pursue(x: Tensor, atoms: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit: `x` [N, D], `atoms` [D, K] of unit length -> which [N, terms] int64 and weights [N, terms] float32.

    No atom is picked twice.
    """
    parts = [_pursue(part, atoms, terms) for part in x.split(ROWS)]
    return torch.cat([which for which, _ in parts]), torch.cat([weights for _, weights in parts])


def _pursue(x: Tensor, atoms: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    x, atoms = x.double(), atoms.double()
    rest, which = x, torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    for _ in range(terms):
        match = (rest @ atoms).abs().scatter(1, which, -1.0)
        which = torch.cat([which, match.argmax(1, keepdim=True)], dim=1)
        picked = atoms.T[which]  # [N, j, D]
        # a little on the diagonal: atoms may depend on each other, and a rest of nothing picks anything
        gram = picked @ picked.mT + 1e-9 * torch.eye(which.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(gram, (picked @ x[..., None]))[..., 0]
        rest = x - (weights[:, None] @ picked)[:, 0]
    return which, weights.float()


def learn(x: Tensor, atoms: int, terms: int, steps: int, batch: int = 512) -> Tensor:
    """A dictionary [D, atoms] of unit columns for `x` [N, D]: seeded vectors of `x`, then Adam on the error, the picks held fixed in each step."""
    draw = torch.Generator().manual_seed(0)
    start = x[torch.randint(len(x), (atoms,), generator=draw).to(x.device)].T
    book = (start + 0.01 * start.std() * torch.randn(start.shape, generator=draw).to(x.device)).float()
    book = (book / book.norm(dim=0, keepdim=True).clamp(min=1e-6)).requires_grad_()
    optimiser = torch.optim.Adam([book], lr=0.01)
    for _ in range(steps):
        rows = x[torch.randint(len(x), (min(batch, len(x)),), generator=draw).to(x.device)]
        which, weights = pursue(rows, book.detach(), terms)
        error = (book.T[which] * weights[..., None]).sum(1) - rows
        optimiser.zero_grad()
        (error.square().sum(1) / rows.square().sum(1).clamp(min=1e-6)).mean().backward()
        optimiser.step()
        with torch.no_grad():
            book /= book.norm(dim=0, keepdim=True)
    return book.detach()


@dataclass(frozen=True)
class Sparse(Learned):
    """Atoms of the layer's dictionary for this `column`, and their weights: `width` 8 (uint8 of E4M3, and a scale) or 16 bits."""

    atoms: int
    terms: int
    width: int
    column: str
    layer: LayerKV | None

    @property
    def index(self) -> int:
        """Bits that say which atom."""
        return max(1, (self.atoms - 1).bit_length())

    @property
    def bits(self) -> float:
        return self.terms * (self.index + self.width) / self.layer.cache.geometry.head_dim

    def book(self, device: torch.device) -> Tensor:
        return self.known(f"csr {self.column}", device).float()

    def encode(self, rows: Tensor, held: torch.dtype, owner: Tensor | None, tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        which, weights = pursue(rows, self.book(rows.device), self.terms)
        codes = stream.pack(which, self.index)
        if self.width == 16:
            return codes, weights.to(held)
        scale = (weights.abs().amax(1, keepdim=True) / TOP).to(held)
        small = weights / torch.where(scale == 0, 1, scale.float())
        return codes, small.clamp(-TOP, TOP).to(torch.float8_e4m3fn).view(torch.uint8), scale

    def decode(self, held: tuple[Tensor, ...], size: int, owner: Tensor | None, tables: tuple[Tensor, ...]) -> Tensor:
        which = stream.unpack(held[0], self.index, self.terms)
        weights = held[1].float() if self.width == 16 else held[1].view(torch.float8_e4m3fn).float() * held[2].float()
        return (weights[:, None] @ self.book(which.device).T[which])[:, 0]

    def row_bytes(self, size: int, item: int) -> int:
        return packed_size(self.terms, self.index) + (2 * self.terms if self.width == 16 else self.terms + 2)


@dataclass(frozen=True)
class CSR(BeforeRope):
    """Each vector is a few directions out of a learned dictionary."""

    name = "csr"
    title = "CSR-style (OMP dictionary)"
    paper = "Zhang et al., arXiv 2412.11741"
    year = 2024
    source = "recon"
    needs = ("rope", "calibration")
    learns = ("sinks", "terms", "atoms", "steps", "passages", "length")
    departs = (
        "Reconstructed: the paper's abstract with the recipe of a sibling method. The number of terms is fixed, weights are scaled by the largest of "
        "their vector before they become floats of 8 bits, and the dictionary is small and learned in a minute."
    )

    window: int = knob(32, "Newest tokens held raw.", 0, 2048, 1)
    terms: int = knob(4, "Atoms per vector.", 1, 64, 1)
    atoms: int = knob(512, "Atoms of a dictionary.", 2, 4096, 1)
    width: int = knob(8, "Bits of a weight.", choices=(8, 16))
    steps: int = knob(40, "Steps of learning a dictionary.", 0, 10_000, 1)
    passages: int = knob(8, "Calibration passages.", 1, 256, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 2048, 1)

    def codecs(self, layer: LayerKV | None) -> dict[str, Codec]:
        return {column: Sparse(self.atoms, self.terms, self.width, column, layer) for column in "kv"}

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """{"csr k", "csr v": [L, D, atoms] float16}."""
        found = captured(lm, self.passages, self.length, self.sinks, before_rope=True)
        with torch.enable_grad():
            return learned("csr", found, lambda rows: learn(rows.flatten(0, 1), self.atoms, self.terms, self.steps))

    def refuses(self, geometry: Geometry) -> str | None:
        if not geometry.latent and self.terms > min(geometry.head_dim, self.atoms):
            return f"{geometry.family} can use at most {min(geometry.head_dim, self.atoms)} atoms per vector, not {self.terms}. Ask for fewer."
        return super().refuses(geometry)
