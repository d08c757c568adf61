"""The preset cards of the Start page: each bundled prompt with its stored runs, a small map of what was kept, and what the run shows.

Plain functions over stored runs. L layers, H KV heads, P positions. Nothing here needs a model.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvlab.plots.looks import percent, size
from kvlab.runs import RunStore, StoredRun
from kvlab.ui import marks
from kvlab.ui.finding import finding, plain
from kvlab.ui.head import Figure, Words
from kvlab.ui.inside import first_difference, full_bits, unread, wanted
from kvlab.ui.lane import visible
from kvlab.ui.sweeps import setting_words

BINS = 140
"""Columns of a small map at most: with more positions each column is the mean of several."""
FLOOR = 0.3
"""Least height of an entry in few bits, of a full one's."""
MOST = 6
"""Runs that are compared at once."""

Runs = list[dict[str, Any]]
"""Manifests without their long fields, as `RunStore.list` gives them."""


def belonging(preset: Mapping[str, Any], runs: Runs) -> Runs:
    """The stored runs of a preset's context and question, the full cache first, of every method the first one listed."""
    same = [m for m in runs if (m["request"].get("prompt"), m["request"].get("question")) == (preset["context"], preset["question"])]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for m in sorted(same, key=lambda m: m["method"] != "full"):
        found.setdefault((m["method"], str(m["budget"]["asked"])), m)
    return list(found.values())


def suggested(preset: Mapping[str, Any], own: Runs) -> dict[str, Any] | None:
    """Of a preset's runs the one that it suggests, else the first compressed one."""
    wish = preset["suggest"]
    asked = None if wish.get("budget") is None else str(wish["budget"])
    exact = [m for m in own if (m["method"], m["budget"]["asked"]) == (wish["method"], asked)]
    return next(iter(exact or [m for m in own if m["method"] != "full"]), None)


def rivals(own: Runs) -> Runs:
    """Of one prompt's runs the full cache and at most five others: first one of every axis, then those that hold most; by bytes, most first."""
    full, others = [m for m in own if m["method"] == "full"], sorted((m for m in own if m["method"] != "full"), key=lambda m: -m["bytes"]["resident"])
    first = {m["axis"]: m["id"] for m in reversed(others)}
    chosen = sorted(others, key=lambda m: m["id"] not in first.values())[: MOST - 1]
    return full[:1] + [m for m in others if m in chosen]


def small_map(run: StoredRun, step: int) -> dict[str, Any]:
    """What each layer and KV head holds at `step`, in at most `BINS` columns, as bytes in base64.

    held [L·H, n]: share of the column's entries that are held; tall: their mean height by bits; idle: the share of them that was not read. The last two are
    "" where every entry has all its bits, or every entry is read. lost: [row, place from 0 to 1] of every entry that left though the full cache wants it,
    never pooled. asked: where the question begins.
    """
    t, end = run.trace, int(run.trace.born[step])
    layers, heads, _ = t.left_at.shape
    held = t.held(step)[..., :end].reshape(layers * heads, end)
    edges = np.arange(min(BINS, end) + 1) * end // min(BINS, end)
    pool = lambda values: np.add.reduceat(values.astype(np.float32), edges[:-1], axis=1) / np.diff(edges)  # noqa: E731
    share = pool(held)
    among = lambda values: np.divide(pool(np.where(held, values, 0)), share, out=np.zeros_like(share), where=share > 0)  # noqa: E731
    bits = np.where(t.bits, t.bits, full_bits(run.manifest)).mean(0)[..., :end].reshape(held.shape)
    row, place = np.nonzero(wanted(t, step)[..., :end].reshape(held.shape))
    return {
        "layers": layers, "heads": heads, "columns": len(edges) - 1, "positions": end, "asked": t.prompt / end,
        "held": _packed(share), "tall": _packed(among(FLOOR + (1 - FLOOR) * bits / full_bits(run.manifest))) if t.bits.any() else "",
        "idle": _packed(among(unread(t)[step, ..., :end].reshape(held.shape))) if t.read.size else "",
        "lost": [[int(r), round((int(p) + 0.5) / end, 4)] for r, p in zip(row, place, strict=True)],
    }  # fmt: skip


def _packed(shares: np.ndarray) -> str:
    return base64.b64encode(np.round(255 * np.clip(shares, 0, 1)).astype(np.uint8).tobytes()).decode()


def spoken(small: Mapping[str, Any]) -> str:
    """The map in words."""
    share = np.frombuffer(base64.b64decode(small["held"]), np.uint8).mean() / 255
    kept = f"{small['layers'] * small['heads']} heads over {small['positions']:,} tokens, {100 * share:.0f} % of entries held"
    lost = len(small["lost"])
    return kept + (f", {lost} {'entry' if lost == 1 else 'entries'} evicted yet wanted" if lost else "")


def named(m: Mapping[str, Any]) -> dict[str, Any]:
    """A run's method for the screen: marker, title, setting."""
    setting = "" if m["method"] == "full" else setting_words(m["method"], m["budget"]["asked"], json.dumps(m["knobs"]))
    return {"marker": marks.marker(m["method"]), "method": m["title"], "setting": setting}


def answer(m: Mapping[str, Any]) -> str:
    """What a run wrote, in one line; nothing in it acts on the page."""
    return visible(m["text"].strip()).replace("\n", " ") or "nothing"


def card(preset: Mapping[str, Any], runs: Runs, store: RunStore) -> dict[str, Any]:
    """One preset: what its card shows. Without a stored run only its title, and the way to make one."""
    own = belonging(preset, runs)
    made = {"preset": preset["id"], "title": preset["title"], "run": "", "look": preset["what_to_look_for"]}
    if (m := suggested(preset, own)) is None:
        return made
    run = store.load(m["id"])
    found, small = finding(run), {}
    if len(run.trace.written):
        small = small_map(run, found.view.step)
    full = next((one for one in own if one["method"] == "full"), None)
    differs = m["text"].strip() != full["text"].strip() if full else first_difference(run.trace) is not None
    bytes_of = m["bytes"]
    return made | named(m) | {
        "run": m["id"], "tokens": m["prompt_tokens"], "finding": found.title, "sentence": plain(found.sentence), "map": small,
        "spoken": spoken(small) if small else "nothing was written", "differs": differs, "answer": answer(m),
        "reference": answer(full) if full else "", "resident": bytes_of["resident"], "full": bytes_of["full"],
        "compare": [one["id"] for one in rivals(own)],
        "held": f"{percent(bytes_of['resident'] / bytes_of['full'])} held, {size(bytes_of['resident'])} of {size(bytes_of['full'])}",
    }  # fmt: skip


def cards(presets: Sequence[Mapping[str, Any]], store: RunStore) -> list[dict[str, Any]]:
    """All cards. A run that cannot be read leaves its preset without one."""
    runs, made = store.list(), []
    for preset in presets:
        try:
            made.append(card(preset, runs, store))
        except ValueError:
            made.append(card(preset, [], store))
    return made


def opening(made: Sequence[Mapping[str, Any]]) -> tuple[str, Words, list[Figure]]:
    """Title, what to look for and figures of the page: how many of the stored answers compression changed, at how many bytes."""
    stored = [one for one in made if one["run"]]
    if not stored:
        return "See what a compressed cache keeps", (("No run is stored yet. Run a preset, and its map appears here.", False),), []
    differ = sum(one["differs"] for one in stored)
    resident, full = sum(one["resident"] for one in stored), sum(one["full"] for one in stored)
    count = f"{differ or 'none'} of {len(stored)} answers {'change' if differ > 1 else 'changes'}"
    title = f"Asked again with a compressed cache: {f'all {differ} answers change' if differ == len(stored) > 1 else count}"
    said = (("Blue is held; ", False), ("hatched", True), (" is what the full cache wanted and this run had dropped. One prompt each: not a rate.", False))
    return title, said, [
        ("Answers that differ", f"{differ} of {len(stored)}", "", ""),
        ("Held by tensors, measured", size(resident), "", f" of {size(full)}"),
    ]  # fmt: skip


def table(made: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cards as rows: the table twin of the maps."""
    return [
        {"Preset": one["title"], "Prompt tokens": one["tokens"], "Method": one["method"], "Setting": one["setting"], "What the run shows": one["finding"],
         "It writes": one["answer"], "The full cache writes": one["reference"], "Bytes held": one["resident"], "Bytes of the full cache": one["full"],
         "Evicted yet wanted": len(one["map"].get("lost", [])), "Run": f"inside?run={one['run']}"}
        for one in made if one["run"]
    ]  # fmt: skip
