"""What the Look inside page needs of one run: numbers for the browser (a JSON header and one block of bytes), tables and exports.

Pure functions over a `StoredRun`. L layers, H KV heads, P positions, S steps, as in `kvlab.trace`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvlab.registry import registry
from kvlab.runs import StoredRun
from kvlab.trace import NEVER, Trace

WANTED = 0.025
"""Share of a head's attention above which the full cache is said to want an entry."""

HALF_LIMIT = 12 * 2**20
"""Most values per array of attention rows that travel in half precision; above it one byte each, and above twice that fewer steps."""


@dataclass(frozen=True)
class View:
    """What is looked at: a step, a layer and head, the locked token (-1: none), the other end of a chosen span (-1: none), and the span that is tracked
    whatever else is chosen, from `track` to `till` (-1: none)."""

    step: int = 0
    layer: int = 0
    head: int = 0
    token: int = -1
    until: int = -1
    track: int = -1
    till: int = -1

    def params(self) -> dict[str, str]:
        """The view as parameters of a link; `tok` is `155` or, for a span, `155-158`."""
        token = {} if self.token < 0 else {"tok": f"{self.token}" if self.until < 0 else f"{self.token}-{self.until}"}
        track = {} if self.track < 0 else {"track": f"{self.track}-{self.till}"}
        return {"step": str(self.step), "L": str(self.layer), "H": str(self.head), **token, **track}

    @classmethod
    def of(cls, params: Mapping[str, str], trace: Trace, start: View) -> View:
        """Read a link. What is missing comes from `start`, what lies outside the run is brought to its nearest end, anything unreadable counts as missing."""
        layers, heads, positions = trace.left_at.shape
        token, _, until = params.get("tok", "").partition("-")
        first, _, last = params.get("track", "").partition("-")
        first, last = _within(first, -1, positions), _within(last, -1, positions)
        return cls(
            _within(params.get("step"), start.step, len(trace.written)),
            _within(params.get("L"), start.layer, layers),
            _within(params.get("H"), start.head, heads),
            _within(token, start.token if not params.get("step") else -1, positions),
            _within(until, -1, positions),
            *((first, last) if 0 <= first <= last else (-1, -1)),
        )


def _within(text: str | None, default: int, end: int) -> int:
    readable = text is not None and text.isascii() and text.isdigit() and len(text) < 10
    return max(0, min(int(text), end - 1)) if readable else default


def first_difference(trace: Trace) -> int | None:
    """The first step that wrote another token than the full cache's first choice; None when there is none, or no reference."""
    differs = np.flatnonzero(trace.top != trace.written) if trace.top.size else []
    return int(differs[0]) if len(differs) else None


def unread(trace: Trace) -> np.ndarray:
    """[S, L, H, P] bool: held at that step, yet not looked at. A head that read nothing by choice read everything; empty without retrieval."""
    if not trace.read.size:
        return np.zeros(0, bool)
    chose = trace.read.any(-1, keepdims=True)
    held = np.stack([trace.held(s) for s in range(len(trace.written))])
    return held & chose & ~trace.read


def missing(trace: Trace) -> np.ndarray:
    """[S, L, H] share of the full cache's attention on entries this run evicted, merged away or did not read; empty without `full`."""
    gone = trace.missing()
    return gone + np.where(unread(trace), trace.full, 0).sum(-1, dtype=np.float32) if trace.read.size and gone.size else gone


def wanted(trace: Trace, step: int) -> np.ndarray:
    """[L, H, P] bool: entries the full cache gives more than `WANTED` at this step, though they had left this run's cache."""
    return (trace.full[step] > WANTED) & trace.gone(step) if trace.full.size else np.zeros(trace.left_at.shape, bool)


def judged_of(trace: Trace, layer: int, head: int, token: int) -> int:
    """How many entries the head still held right after `token` left it."""
    when = int(trace.left_at[layer, head, token])
    existing = trace.prompt if when == 0 else int(trace.born[min(when, len(trace.born)) - 1])
    return int((~trace.gone(when)[layer, head, :existing]).sum())


def evictions(trace: Trace, windows: list[int | None]) -> list[list[int]]:
    """[step, entries that left at it], over the layers without a window of their own; steps without any are left out."""
    open_layers = [i for i, window in enumerate(windows) if window is None]
    left = trace.left_at[open_layers]
    before = trace.away[np.isin(trace.away[:, 0], open_layers), 3]
    steps, counts = np.unique(np.concatenate([left[left != NEVER], before]), return_counts=True)
    return [[int(s), int(n)] for s, n in zip(steps, counts, strict=True) if s < len(trace.written)]


def returned(trace: Trace) -> np.ndarray:
    """[3 n] int32: entry (counted through layers, heads and positions), the step it left at and the one that saw it again, for each return."""
    where = np.ravel_multi_index(tuple(trace.away[:, :3].T), trace.left_at.shape)
    return np.column_stack([where, trace.away[:, 3:]]).astype(np.int32).ravel()


def entries(run: StoredRun) -> np.ndarray:
    """[S] entries held in all layers and heads together."""
    return np.array([run.trace.held(s).sum() for s in range(len(run.trace.written))], np.float64)


def _rows(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Attention rows as they travel, and of how many steps each stands for the rest: half precision, or the root in one byte."""
    if rows.size <= HALF_LIMIT:
        return rows.view(np.uint16), 1
    every = -(-rows.size // (2 * HALF_LIMIT))
    return np.round(np.sqrt(np.clip(rows[::every].astype(np.float32), 0, 1)) * 255).astype(np.uint8), every


def arrays(run: StoredRun) -> tuple[dict[str, np.ndarray], int]:
    """What travels to the browser by name, and every how many steps attention rows are among it."""
    t = run.trace
    attention, every = _rows(t.attention)
    full, _ = _rows(t.full)
    lost = missing(t)
    gone = [np.flatnonzero(wanted(t, s)) for s in range(len(t.full))]
    plain = {
        "lost": np.concatenate(gone).astype(np.int32) if gone else np.zeros(0, np.int32),
        "lost_from": np.cumsum([0, *map(len, gone)]).astype(np.int32) if gone else np.zeros(0, np.int32),
        "born": t.born, "left": t.left_at, "into": t.merged_into, "rank": t.rank, "score": t.score.astype(np.float32),
        "coded": t.coded_at, "bits": t.bits, "missing": lost, "kl": t.kl, "written": t.written, "top": t.top, "ids": t.ids,
        "resident": t.resident.astype(np.float64), "attention": attention, "full": full,
    }  # fmt: skip
    if not t.bits.any():
        del plain["bits"], plain["coded"]
    if (t.merged_into < 0).all():
        del plain["into"]
    if t.away.size:
        plain["away"] = returned(t)
    if t.read.size:
        plain["unread"] = np.packbits(unread(t)[::every], axis=-1, bitorder="little")
    return {name: a for name, a in plain.items() if a.size}, every


def block(run: StoredRun) -> tuple[dict[str, Any], bytes]:
    """The part of the payload that depends on the run alone: header fields and the bytes they point into."""
    t, m = run.trace, run.manifest
    layers, heads, positions = t.left_at.shape
    parts, where, offset = [], {}, 0
    found, every = arrays(run)
    for name, array in found.items():
        raw = np.ascontiguousarray(array).tobytes()
        where[name] = {"kind": array.dtype.name, "at": offset, "size": int(array.size)}
        pad = -len(raw) % 8
        parts += [raw, bytes(pad)]
        offset += len(raw) + pad
    header = {
        "run": run.id, "L": layers, "H": heads, "P": positions, "S": len(t.written), "prompt": t.prompt, "asked": t.asked, "every": every,
        "group": m["geometry"]["query_heads"] // heads, "windows": m["geometry"]["windows"], "pieces": m["pieces"], "tops": tops(run), "wanted": WANTED,
        "never": NEVER, "first": first_difference(t), "cuts": evictions(t, m["geometry"]["windows"]), "bytes": m["bytes"],
        "precision": full_bits(m), "noPin": no_pin(m), "source": m.get("source", "code"), "arrays": where,
    }  # fmt: skip
    return header, b"".join(parts)


def tops(run: StoredRun) -> list[str]:
    """Text of the full cache's first choice at each step. Runs stored without it know only tokens that occur in their own text."""
    m, t = run.manifest, run.trace
    known = dict(zip([*t.ids[: t.asked].tolist(), *t.written.tolist()], m["pieces"], strict=False))
    return m.get("tops") or [known.get(i, f"token {i}") for i in t.top.tolist()]


def no_pin(manifest: dict[str, Any]) -> str:
    """Why no entry of this run can be protected in another one, or "" where it can."""
    parts = [registry()[name] for name in manifest["method"].split("+") if name in registry()]
    if not manifest.get("request", {}).get("prompt"):
        return "The run was stored without its prompt, so it cannot be run again."
    if any(part.axis == "merging" for part in parts):
        return "Its method merges entries into each other, so none can be held apart."
    return "" if any(part().budget_knob for part in parts) else "Its method drops nothing, so there is nothing to protect."


def full_bits(manifest: dict[str, Any]) -> int:
    """Bits of one value in the uncompressed cache."""
    return 32 if manifest["versions"].get("dtype") == "float32" else 16


def payload(made: tuple[dict[str, Any], bytes], view: View, named: tuple[int, ...] = (), arrival: int = 0, picture: Any = None) -> bytes:
    """`block` with the view to start from: 4 bytes length of the header, the header padded so that the arrays begin at a multiple of 8, the arrays.

    `named` tokens get a dashed ring. A component that sees a new `arrival` goes to `view`; one that knows it keeps its own.
    `picture`: the footer of its pictures (`kvlab.ui.head.caption`).
    """
    header, body = made
    said = {**header, "view": vars(view), "named": list(named), "arrival": arrival, "picture": picture or {}}
    head = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-(len(head) + 4) % 8)
    return len(head).to_bytes(4, "little") + head + body


def show(piece: str) -> str:
    """A token's text for a label: no white space at its ends, white space alone by its sign, at most 24 characters."""
    text = piece.strip()
    if not text:
        return "␣" if piece.strip(" ") == "" else "↵" if "\n" in piece else "⇥"
    return text if len(text) <= 24 else text[:23] + "…"


def head_table(run: StoredRun, step: int) -> list[dict[str, Any]]:
    """One row per layer and KV head at `step`: entries held, of how many, and missing attention where a reference is stored."""
    t = run.trace
    held, lost = t.held(step).sum(-1), missing(t)
    layers, heads = held.shape
    return [
        {"layer": i, "KV head": h, "entries held": int(held[i, h]), "of": int(t.born[step]),
         **({"missing attention, %": round(100 * float(lost[step, i, h]), 2)} if lost.size else {})}
        for i in range(layers) for h in range(heads)
    ]  # fmt: skip


def token_table(run: StoredRun, view: View) -> list[dict[str, Any]]:
    """One row per token that exists at the step: who holds it, and what it gets and would get in the chosen head."""
    t, at = run.trace, (view.step, view.layer, view.head)
    held, rows = t.held(view.step), []
    for p in range(int(t.born[view.step])):
        left = int(t.left_at[view.layer, view.head, p])
        gone = left if left <= view.step else None
        row: dict[str, Any] = {"position": p, "token": run.manifest["pieces"][p], "held by heads": int(held[..., p].sum()), "evicted at step": gone}
        if t.attention.size:
            row["this run reads, %"] = round(100 * float(t.attention[at][p]), 2)
        if t.full.size:
            row["full cache reads, %"] = round(100 * float(t.full[at][p]), 2)
        rows.append(row)
    return rows


def entries_csv(run: StoredRun) -> str:
    """Every entry of every layer and KV head as CSV: its token, when and into what it left, how it was judged, how it is coded."""
    t, pieces = run.trace, run.manifest["pieces"]
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow(["layer", "kv_head", "position", "token", "left_at_step", "merged_into", "score", "rank", "key_bits", "value_bits", "coded_at_step"])
    for layer, head, p in np.ndindex(t.left_at.shape):
        at = layer, head, p
        left, coded, score, bits = int(t.left_at[at]), int(t.coded_at[at]), float(t.score[at]), t.bits[:, layer, head, p].tolist()
        write.writerow([
            layer, head, p, _cell(pieces[p]), "" if left == NEVER else left, "" if t.merged_into[at] < 0 else int(t.merged_into[at]),
            "" if np.isnan(score) else score, "" if t.rank[at] < 0 else int(t.rank[at]), *bits, "" if coded == NEVER else coded,
        ])  # fmt: skip
    return out.getvalue()


def _cell(text: str) -> str:
    """A token for a spreadsheet: never read as a formula."""
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
