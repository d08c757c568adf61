"""What the browser gets of a lineup: one JSON header, and for each run a block of typed arrays in the form of Look inside, so that both pages read it alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from kvlab.runs import StoredRun
from kvlab.trace import NEVER
from kvlab.ui import marks
from kvlab.ui.compare import Lineup, is_full
from kvlab.ui.compare_diff import agreement, answer, diff, first_difference
from kvlab.ui.compare_sets import said as sets_said
from kvlab.ui.compare_words import bits, budget
from kvlab.ui.inside import WANTED, full_bits, missing, returned, unread, wanted

READS = 4 * 2**20
"""Bytes of read sets per run that travel; above it only every so many steps."""


def arrays(run: StoredRun) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of one run by name, and every how many steps read sets are among them. No attention: the page shows what is kept, not what is read."""
    t = run.trace
    gone = [np.flatnonzero(wanted(t, s)) for s in range(len(t.full))]
    lost = missing(t)
    found = {
        "left": t.left_at, "born": t.born, "resident": t.resident.astype(np.float64), "far": bits(run).astype(np.float32),
        "lost": np.concatenate(gone).astype(np.int32) if gone else np.zeros(0, np.int32), "lost_from": np.cumsum([0, *map(len, gone)]).astype(np.int32),
        "gap": lost.mean((1, 2)).astype(np.float32) if lost.size else np.zeros(0, np.float32),
    }  # fmt: skip
    if t.bits.any():
        found |= {"bits": t.bits, "coded": t.coded_at}
    if (t.merged_into >= 0).any():
        found["into"] = t.merged_into
    if t.away.size:
        found["away"] = returned(t)
    every = 1
    if t.read.size:
        rows = unread(t)
        every = max(1, -(-rows.size // 8 // READS))
        found["unread"] = np.packbits(rows[::every], axis=-1, bitorder="little")
    return {name: a for name, a in found.items() if a.size}, every


def _packed(header: dict[str, Any], found: dict[str, np.ndarray]) -> bytes:
    """4 bytes length of the header, the header padded so that the arrays begin at a multiple of 8, the arrays."""
    parts, where, offset = [], {}, 0
    for name, array in found.items():
        raw = np.ascontiguousarray(array).tobytes()
        raw += bytes(-len(raw) % 8)
        where[name] = {"kind": array.dtype.name, "at": offset, "size": int(array.size)}
        parts.append(raw)
        offset += len(raw)
    head = json.dumps({**header, "arrays": where}, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-(len(head) + 4) % 8)
    return b"".join([len(head).to_bytes(4, "little"), head, *parts])


def block(run: StoredRun) -> bytes:
    """One run without its name."""
    t, m = run.trace, run.manifest
    layers, heads, positions = t.left_at.shape
    found, every = arrays(run)
    return _packed({
        "L": layers, "H": heads, "P": positions, "S": len(t.written), "prompt": t.prompt, "asked": t.asked, "every": every, "never": NEVER, "wanted": WANTED,
        "windows": m["geometry"]["windows"], "precision": full_bits(m), "answer": answer(run), "bytes": m["bytes"], "seconds": m["seconds"],
        "even": all(window is None for window in m["geometry"]["windows"]),
    }, found)  # fmt: skip


def card(line: Lineup, run: StoredRun) -> dict[str, Any]:
    """What a column says of its run. While names are hidden nothing here gives the method away but what it did."""
    m, hidden = run.manifest, line.hidden and not is_full(run.manifest)
    mark = {"outline": "", "fill": "ink", "edge": "ink"} if hidden else {k: v for k, v in marks.marker(m["method"]).items() if k != "shape"}
    links = {} if hidden else {"inside": f"inside?run={run.id}"}
    if run.id != line.reference.id:
        links["pin"] = _pin(line, run)
    return {
        "letter": line.letters[run.id], "name": line.name(run), "setting": "" if hidden else budget(run), "mark": None if hidden else mark, "hue": mark["fill"],
        "links": links, "reference": run.id == line.reference.id, "full": is_full(m), "first": first_difference(run, line.reference), "agree": agreement(run),
        "diff": diff(run, line.reference),
    }  # fmt: skip


def _pin(line: Lineup, run: StoredRun) -> str:
    """The link that makes `run` the reference; a full cache that stood in as the reference becomes a column while there is room."""
    ids = line.asked.ids
    if line.reference.id not in ids and len(ids) < 6:
        ids = (*ids, line.reference.id)
    return type(line.asked)(ids, run.id, line.asked.blind, line.asked.revealed).link()


def body(line: Lineup) -> tuple[dict[str, Any], bytes]:
    """The part of the payload that does not depend on the view: header fields, and the blocks of the columns one after another."""
    blocks, at = [block(run) for run in line.columns], 0
    spans = []
    for raw in blocks:
        spans.append([at, len(raw)])
        at += len(raw)
    ref, t = line.reference, line.reference.trace
    header = {
        "key": " ".join([*(run.id for run in line.columns), ref.id, str(line.hidden)]), "cards": [card(line, run) for run in line.columns], "spans": spans,
        "pieces": ref.manifest["pieces"][: t.asked], "prompt": t.prompt, "asked": t.asked, "reference": line.name(ref), "writes": answer(ref),
        "sets": sets_said(line.runs, [line.name(run) for run in line.runs], [line.letters[run.id] for run in line.runs]),
    }  # fmt: skip
    return header, b"".join(blocks)


def payload(made: tuple[dict[str, Any], bytes], step: int, token: int, arrival: int = 0, picture: Any = None) -> bytes:
    """`body` with the view to start from. A component that sees a new `arrival` goes there; one that knows it keeps its own.
    `picture`: the footer of its pictures (`kvlab.ui.head.caption`)."""
    header, blocks = made
    said = {**header, "view": {"step": step, "token": token}, "arrival": arrival, "picture": picture or {}}
    head = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-(len(head) + 4) % 8)
    return len(head).to_bytes(4, "little") + head + blocks
