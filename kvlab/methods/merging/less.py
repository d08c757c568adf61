"""LESS (2024, ICML 2024, arXiv 2402.09398). Card: methods/head_merge_retrieval.md, from the authors' code; grouped queries are reconstructed.

A plain policy says who leaves. What leaves is added to a state of constant size: psi maps a key to `rank` numbers, none negative, and each
row of the state sums values weighted by one of them. A query reads the state through a map phi of its own, and phi(q).psi(k) stands in for
the exponential of their logit: numerators and denominators of both parts are joined,

    out = (sum over slots e^s v + phi(q) Hs) / (sum over slots e^s + phi(q).z),   Hs += psi(k)^T v and z += psi(k) for each that leaves.

Row r of the state therefore attends like one more entry, with the value Hs[r] / z[r] and the logit log(phi(q)[r] z[r]), and that is how it
enters the softmax. The maps are small networks, trained for the model on plain text (`_less.py`). They are shared by all runs and lie
outside the cache, so they are no part of its bytes; the state, Hs [B, H, R, D] and z [B, H, R] float32, is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import LayerKV
from kvlab.geometry import Geometry
from kvlab.merge import HOSTS, host_keeps, leaving
from kvlab.method import Dropper, knob
from kvlab.methods.merging._less import Maps, phi, psi, train
from kvlab.models import LM
from kvlab.phase import Schedule
from kvlab.seen import Seen
from kvlab.store import Extra, Store, View


class Absorbing(Store):
    """A store with a state of constant size: `sums` [B, H, R, D] and `mass` [B, H, R] float32 of what was absorbed; None before."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor | None = None
        self.mass: Tensor | None = None

    def absorb(self, weight: Tensor, v: Tensor) -> None:
        """Add entries with values `v` [B, H, E, D], weighing `weight` [B, H, E, R] float32 in each row of the state."""
        sums, mass = weight.mT @ v.float(), weight.sum(2)
        self.sums, self.mass = (sums, mass) if self.sums is None else (self.sums + sums, self.mass + mass)

    def state(self, maps: Maps) -> Extra:
        """The rows of the state as entries of the softmax."""
        mass = self.mass

        def logits(q: Tensor) -> Tensor:
            return phi(q, maps).log() + mass.log().repeat_interleave(q.shape[1] // mass.shape[1], dim=1)[:, :, None]

        return Extra(logits, self.sums / mass.clamp(min=torch.finfo(torch.float32).tiny)[..., None])

    def tensors(self) -> list[Tensor]:
        return super().tensors() + ([] if self.sums is None else [self.sums, self.mass])


@dataclass(frozen=True)
class LESS(Dropper):
    """What leaves lives on in a small state that every query still reads, through maps learned for the model."""

    name = "less"
    title = "LESS"
    paper = "Dong et al., arXiv 2402.09398"
    year = 2024
    source = "mixed"
    needs = ("queries", "weights", "calibration")
    schedule = Schedule(prefill=True, chunks=True, every=1)
    departs = (
        "With grouped queries there is one state and one map of keys per KV head and one map of queries per query head: reconstructed, as the authors have one "
        "KV head for each. Maps are trained on less and shorter text, with a narrower hidden layer, at one kept share, and used at any. "
        "The denominator has no floor."
    )

    host: str = knob("h2o", "Who stays: the most attended and the last tokens, or the first and the last ones.", choices=HOSTS[::-1])
    recent: float = knob(0.5, "Share of the budget for the last tokens, where the most attended stay.", 0, 1, 0.05)
    sinks: int = knob(4, "First tokens that always stay, where the first and the last do.", 0, 64, 1)
    rank: int = knob(8, "Rows of the state.", 1, 256, 1)
    hidden: int = knob(64, "Width of the maps' hidden layer; the authors' is 512.", 1, 4096, 1)
    trained_at: float = knob(0.125, "Kept share of each passage while the maps are trained.", 0.01, 0.9, 0.005)
    passages: int = knob(24, "Passages of text to train on.", 2, 4096, 1)
    length: int = knob(256, "Tokens of a passage.", 4, 8192, 1)
    epochs: int = knob(40, "How often each passage is gone through.", 1, 1000, 1)

    @property
    def per_head(self) -> bool:  # type: ignore[override]
        return self.host != "window"

    def store(self, layer: LayerKV) -> Store:
        return Absorbing()

    def read(self, layer: LayerKV, q: Tensor, q_pos: Tensor) -> View | None:
        owner = layer.follows or layer
        return None if owner.store.mass is None else owner.store.view()._replace(extra=owner.store.state(self._maps(owner)))

    def compress(self, layer: LayerKV, seen: Seen) -> None:
        votes = None
        if self.host != "window":
            votes = layer.store.tag("less") + seen.column_sums()
            layer.store.tag("less", votes)
        if seen.phase.kind == "chunk":
            return
        stays = host_keeps(self.host, votes, seen.pos(), layer.tokens(), layer.target(self.budget), self.sinks, self.recent)
        slot, real = leaving(seen.valid() & ~stays)
        k, v = (x.gather(2, slot[..., None].expand(-1, -1, -1, x.shape[-1])) for x in seen.view[:2])
        layer.store.absorb(psi(k, self._maps(layer)) * real[..., None], v)
        layer.keep(stays, votes)

    @staticmethod
    def _maps(layer: LayerKV) -> Maps:
        known, start = layer.cache.artefact, f"less.{layer.index}."
        return {name.removeprefix(start): tensor.to(layer.cache.tokens.device) for name, tensor in known.items() if name.startswith(start)}

    def calibrate(self, lm: LM) -> dict[str, Tensor]:
        """The maps of every layer without a window, "less.<layer>.<name>" -> float32."""
        return train(lm, self)

    def layer_bytes(self, slots: float, geometry: Geometry) -> float:
        scores = 4 * slots * geometry.kv_heads if self.host != "window" else 0
        return super().layer_bytes(slots, geometry) + scores + 4 * geometry.kv_heads * self.rank * (geometry.head_dim + 1)
