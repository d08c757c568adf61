"""What a run leaves behind: per (layer, KV head, position) when and why it left, per step what was written, held, read and paid.

A `Recorder` watches one run and ends as a `Trace`: plain arrays that save to one file and load back equal. A batch is traced by its first row.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kvlab.rows import storage_bytes
from kvlab.store import Store

if TYPE_CHECKING:
    from kvlab.cache import KVCache, LayerKV
    from kvlab.seen import Seen

NEVER = 65535
"""`left_at` of an entry that is still held."""


@dataclass(frozen=True)
class Trace:
    """One run. L layers, H KV heads, P positions seen, S decode steps. Step s is the one that writes token s.

    ids [P] int32, prompt (positions of the prompt, then the question up to `asked`, then written tokens).
    left_at [L, H, P] uint16: the first step that no longer saw the entry, 65535 while held. merged_into [L, H, P] int32: position, -1 for none.
    score, rank [L, H, P] float16 / int32 at the last time the entry was judged (NaN / -1: never judged).
    coded_at [L, H, P] uint16 and bits [2, L, H, P] uint8 (keys, values; 0: full precision).
    attention [S, L, H, P] float16, mean over the query heads of a KV head; empty when not captured. full: the same rows of the full cache.
    read [S, L, H, P] bool or empty: entries a retrieval method looked at.
    resident, touched, transient [S] int64 bytes; seconds, logprob [S] float64 / float32; written [S] int32 token ids; born [S] int32:
    positions that existed when the step's query looked back, its own among them.
    kl [S] float32 (nats, full cache to this run, on this run's own text) and top [S] int32 (the full cache's first choice), or empty.
    away [N, 5] int32: layer, KV head, position, the first step that no longer saw an entry, and the one that saw it again; `left_at` is the last time.
    """

    prompt: int
    asked: int
    ids: np.ndarray
    left_at: np.ndarray
    merged_into: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    coded_at: np.ndarray
    bits: np.ndarray
    attention: np.ndarray
    read: np.ndarray
    written: np.ndarray
    born: np.ndarray
    logprob: np.ndarray
    resident: np.ndarray
    touched: np.ndarray
    transient: np.ndarray
    seconds: np.ndarray
    peak: int
    full: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float16))
    kl: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    top: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    away: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.int32))

    def save(self, path: Path | str) -> None:
        """Write one .npz; a half-written file is never seen under `path`."""
        path = Path(path)
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        draft = path.with_name(path.name + f".{os.getpid()}.part")
        with open(draft, "wb") as file:
            np.savez_compressed(file, schema=np.array(1), **arrays)
        os.replace(draft, path)

    @classmethod
    def load(cls, path: Path | str) -> Trace:
        """Raises ValueError when the file is no trace of this version."""
        try:
            with np.load(path, allow_pickle=False) as data:
                held = {name: data[name] for name in data.files} if hasattr(data, "files") else {}
        except (ValueError, EOFError, zipfile.BadZipFile):
            held = {}
        names = {f.name for f in dataclasses.fields(cls)}
        if int(held.get("schema", 0)) != 1 or not names - {"away"} <= held.keys():  # older traces know nothing of returns
            raise ValueError(f"{Path(path).name} is not a kvlab trace of version 1.")
        plain = {"prompt", "asked", "peak"}
        return cls(**{name: int(held[name]) if name in plain else held[name] for name in names & held.keys()})

    def gone(self, step: int) -> np.ndarray:
        """[L, H, P] bool: entries no longer in the cache while token `step` was computed."""
        gone = self.left_at <= step
        gone[tuple(self.away[(self.away[:, 3] <= step) & (step < self.away[:, 4]), :3].T)] = True
        return gone

    def held(self, step: int) -> np.ndarray:
        """[L, H, P] bool: entries in the cache while token `step` was computed."""
        return ~self.gone(step) & (np.arange(len(self.ids)) < self.born[step])

    def missing(self) -> np.ndarray:
        """[S, L, H]: share of the full cache's attention that fell on entries this run no longer held. Needs `full`."""
        if not self.full.size:
            return np.zeros((0, *self.left_at.shape[:2]), np.float32)
        return np.stack([np.where(self.gone(s), row, 0).sum(-1, dtype=np.float32) for s, row in enumerate(self.full)])

    def equal(self, other: Trace) -> bool:
        """Whether two traces hold the same numbers."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)]
        return all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in pairs)


class Silent:
    """A recorder that records nothing: for batches, scoring and benchmarks."""

    def attended(self, layer: LayerKV, store: Store, seen: Seen) -> None: ...

    def left(self, layer: LayerKV, mask: Tensor, scores: Tensor | None, into: Tensor | None) -> None: ...

    def coded(self, layer: LayerKV) -> None: ...

    def skipped(self, layer: LayerKV, pos: Tensor) -> None: ...

    def returned(self, layer: LayerKV, pos: Tensor) -> None: ...


class Recorder:
    """Watches the first row of one run. `positions`: the most it can see; `attention`: keep the rows of weights."""

    def __init__(self, layers: int, heads: int, positions: int, attention: bool = True) -> None:
        shape = layers, heads, positions
        self.capture = attention
        self.left_at = np.full(shape, NEVER, np.uint16)
        self.merged_into = np.full(shape, -1, np.int32)
        self.score = np.full(shape, np.nan, np.float16)
        self.rank = np.full(shape, -1, np.int32)
        self.coded_at = np.full(shape, NEVER, np.uint16)
        self.bits = np.zeros((2, *shape), np.uint8)
        self.rows: dict[int, np.ndarray] = {}
        self.reads: dict[int, np.ndarray] = {}
        self.steps: list[dict[str, Any]] = []
        self.away: list[np.ndarray] = []
        self.peak = 0
        self._touched = self._transient = 0

    def attended(self, layer: LayerKV, store: Store, seen: Seen) -> None:
        """After attention, before compression: bytes of this moment and, if asked, the last query's weights."""
        held = {t.untyped_storage().data_ptr() for t in store.tensors()}
        copies = [t for t in (seen.view.k, seen.view.v, seen.view.pos) if t.untyped_storage().data_ptr() not in held]
        transient = storage_bytes(copies)
        if seen.phase.kind != "decode":
            self.peak = max(self.peak, layer.cache.nbytes() + transient)
        if seen.phase.kind == "probe":
            return
        self._touched += store.nbytes() if seen.view.touched is None else seen.view.touched
        self._transient = max(self._transient, transient)
        if self.capture and seen.phase.writes:
            self._row(layer, seen)

    def _row(self, layer: LayerKV, seen: Seen) -> None:
        row = seen.weights(1)[:1, :, 0]  # [1, Hq, T]
        heads, positions = self.left_at.shape[1:]
        pos = seen.view.pos[:1].expand(-1, seen.view.k.shape[1], -1)
        pos = pos.repeat_interleave(row.shape[1] // pos.shape[1], dim=1)
        place = torch.where(pos[0] >= 0, pos[0], positions).long()
        out = torch.zeros(row.shape[1], positions + 1, device=row.device).scatter_add_(1, place, row[0])
        mean = out[:, :positions].view(heads, -1, positions).mean(1)
        step = self.rows.setdefault(seen.phase.step, np.zeros(self.left_at.shape, np.float16))
        step[layer.index] = mean.cpu().numpy()
        if seen.view.touched is not None:
            # layers that say nothing of it read all they hold
            reads = self.reads.setdefault(seen.phase.step, np.ones(self.left_at.shape, bool))
            looked = torch.zeros_like(out, dtype=torch.bool).scatter_(1, place, True)
            reads[layer.index] = looked[:, :positions].view(heads, -1, positions).any(1).cpu().numpy()

    @staticmethod
    def _readers(layer: LayerKV) -> np.ndarray:
        """Layers whose entries are those of `layer`: itself and its followers, [n, 1]."""
        return np.array([[i] for i, owner in enumerate(layer.cache.owners) if owner == layer.index])

    def left(self, layer: LayerKV, mask: Tensor, scores: Tensor | None, into: Tensor | None) -> None:
        """Called by `LayerKV.keep` before the slots go."""
        if layer.cache.phase.kind == "probe":  # rolled back: nothing left
            return
        readers = self._readers(layer)
        heads = self.left_at.shape[1]
        pos = layer.store.pos()[0].expand(heads, -1).cpu().numpy()
        stays = mask[0].expand(heads, -1).cpu().numpy()
        real = pos >= 0
        head, slot = np.nonzero(real & ~stays)
        self.left_at[readers, head, pos[head, slot]] = layer.cache.phase.next_step
        if into is not None:
            self.merged_into[readers, head, pos[head, slot]] = into[0].expand(heads, -1).cpu().numpy()[head, slot]
        if scores is not None:
            numbers = scores[0].expand(heads, -1).float().cpu().numpy()
            judged = real & ~np.isnan(numbers)
            order = np.argsort(np.argsort(-np.where(judged, numbers, -np.inf), axis=1, kind="stable"), axis=1)
            head, slot = np.nonzero(judged)
            self.score[readers, head, pos[head, slot]] = numbers[head, slot]
            self.rank[readers, head, pos[head, slot]] = order[head, slot] + 1

    def skipped(self, layer: LayerKV, pos: Tensor) -> None:
        """The tokens at positions `pos` [n] of this call never reach `layer`: not even the step that the call writes sees them there."""
        if layer.cache.phase.kind != "probe":
            self.left_at[self._readers(layer), :, pos.cpu().numpy()] = layer.cache.phase.step

    def returned(self, layer: LayerKV, pos: Tensor) -> None:
        """The tokens at positions `pos` [n] are read again by this call: they are held from its step on, and were not since they left."""
        if layer.cache.phase.kind == "probe":
            return
        step, readers, heads = layer.cache.phase.step, self._readers(layer).flatten(), np.arange(self.left_at.shape[1])
        back = np.stack(np.meshgrid(readers, heads, pos.cpu().numpy(), indexing="ij"), -1).reshape(-1, 3)
        left = self.left_at[tuple(back.T)].astype(np.int64)
        rows = np.column_stack([back, left, np.full(len(back), step)])
        self.away.append(rows[left < step].astype(np.int32))
        self.left_at[tuple(back.T)] = NEVER

    def coded(self, layer: LayerKV) -> None:
        """Called after slots were encoded: bits per value of every slot, as they are held now."""
        if layer.cache.phase.kind == "probe":
            return
        readers = self._readers(layer)
        heads = self.left_at.shape[1]
        pos = layer.store.pos()[0].expand(heads, -1).cpu().numpy()
        for which, name in enumerate(("k", "v")):
            start = np.zeros(heads, int)
            for part in layer.store.columns[name].parts:
                lens = part.lens[0].cpu().numpy()
                if part.coded:
                    for head in range(heads):
                        where = pos[head, start[head] : start[head] + lens[head]]
                        self.bits[which][readers, head, where] = max(1, round(part.rows.bits))
                        fresh = where[self.coded_at[layer.index, head, where] == NEVER]
                        self.coded_at[readers, head, fresh] = layer.cache.phase.next_step
                start += lens

    def step(self, cache: KVCache, token: int, logprob: float, seconds: float) -> dict[str, Any]:
        """After a token was chosen: close the step and return its numbers."""
        resident = cache.nbytes()
        self.peak = max(self.peak, resident + self._transient)
        numbers = {
            "token": token, "born": int(cache.tokens[0]), "logprob": logprob, "seconds": seconds,
            "resident": resident, "touched": self._touched, "transient": self._transient,
        }  # fmt: skip
        self.steps.append(numbers)
        self._touched = self._transient = 0
        return numbers

    def trace(self, ids: list[int], prompt: int, asked: int) -> Trace:
        """The finished trace, cut to the positions really seen."""
        end = len(ids)
        steps, empty = len(self.steps), np.zeros(0, np.float16)
        rows = [self.rows[s] for s in range(steps)] if self.capture and all(s in self.rows for s in range(steps)) else []
        pick = lambda key, kind: np.array([s[key] for s in self.steps], kind)  # noqa: E731
        trace = Trace(
            prompt=prompt,
            asked=asked,
            ids=np.array(ids, np.int32),
            left_at=self.left_at[..., :end],
            merged_into=self.merged_into[..., :end],
            score=self.score[..., :end],
            rank=self.rank[..., :end],
            coded_at=self.coded_at[..., :end],
            bits=self.bits[..., :end],
            attention=np.stack(rows)[..., :end] if rows else empty,
            read=np.zeros(0, bool),
            written=pick("token", np.int32),
            born=pick("born", np.int32),
            logprob=pick("logprob", np.float32),
            resident=pick("resident", np.int64),
            touched=pick("touched", np.int64),
            transient=pick("transient", np.int64),
            seconds=pick("seconds", np.float64),
            peak=self.peak,
            away=np.concatenate(self.away) if self.away else np.zeros((0, 5), np.int32),
        )
        if not self.reads or not steps:
            return trace
        whole = np.ones(self.left_at.shape, bool)
        return dataclasses.replace(trace, read=np.stack([trace.held(s) & self.reads.get(s, whole)[..., :end] for s in range(steps)]))
