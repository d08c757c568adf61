"""Scenes of lessons that look into stored runs: what a head reads, what is kept, how many bytes it takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvlab.lessons import shown, size
from kvlab.ui.inside import first_difference, missing, tops, unread
from kvlab.ui.lesson_data import Scene, Sources, answer_span, head_name, inside, nearest, right, spans, word, wrote

NEAR = 16
"""Tokens before the one being written that count as its neighbours."""
LABELLED = 0.05
"""Share of a head's attention from which a bar is named by its token."""


def reading(src: Sources, preset: str) -> Scene:
    """Where the full cache looks farthest back: the head and step that read one token outside the neighbourhood most."""
    run = src.run(preset, "full")
    t = run.trace
    far = t.attention[:, :, :, 1:].astype(np.float32)
    for s, born in enumerate(t.born):
        far[s, ..., max(0, int(born) - NEAR - 1) :] = 0
    step, layer, head, token = (int(i) for i in np.unravel_index(int(far.argmax()), far.shape))
    token += 1
    row, pieces = t.attention[step, layer, head].astype(np.float32), run.manifest["pieces"]
    born = int(t.born[step])
    facts = {
        "word": word(pieces[t.asked + step]), "target": word(pieces[token]), "share": float(row[token]), "head": head_name(layer, head), "n": born,
        "back": born - 1 - token, "heads": t.left_at.shape[0] * t.left_at.shape[1],
    }  # fmt: skip
    parts, last, top = [], 0, set(np.argsort(-row[:born])[:3].tolist())
    for a, b in _windows([(0, 16), (token - 30, token + 24), (born - 46, born)], born):
        if a > last:
            parts.append({"t": f"… {a - last:,} tokens …", "s": "skip"})
        for p in range(a, b):
            note = {"note": shown(float(row[p]), "%")} if p in top and row[p] >= LABELLED else {}
            parts.append({"t": pieces[p], "s": "key" if p == token else "", "read": round(float(row[p]), 3), **note})
        last = b
    parts.append({"t": pieces[t.asked + step].strip() or "␣", "s": "now", "read": 0})
    picture = {"kind": "text", "parts": parts, "reads": f"Darker: read more by head {head_name(layer, head)}. In the frame at the end: the word it writes."}
    return Scene(facts, picture, _reads(pieces, row[:born]), inside(run, step, layer, head, token), (run.id,))


def lost(src: Sources, preset: str, method: str) -> Scene:
    """The entry that the full cache wants most and this run dropped, and what it reads in its place; at the first token that differs, if one does."""
    run = src.run(preset, method)
    t, pieces = run.trace, run.manifest["pieces"]
    step = first_difference(t)
    here = range(len(t.written)) if step is None else [step]
    gone = np.stack([np.where(t.gone(s), t.full[s], 0) for s in here]).astype(np.float32)
    at, layer, head, token = (int(i) for i in np.unravel_index(int(gone.argmax()), gone.shape))
    step, born = here[at], int(t.born[here[at]])
    full, mine = (rows[step, layer, head, :born].astype(np.float32) for rows in (t.full, t.attention))
    other = int((mine - full).argmax())
    facts = {
        "method": run.manifest["title"], "head": head_name(layer, head), "share": float(full[token]), "target": word(pieces[token]), "n": born,
        "instead": word(pieces[other]), "gained": float(mine[other] - full[other]), "missing": float(missing(t)[step, layer, head]),
        "theirs": word(tops(run)[step]), "mine": word(pieces[t.asked + step]), "wrote": wrote(run), "answer": src.presets[preset]["answer"],
        "differs": int(first_difference(t) is not None), "right": int(right(run, src.presets[preset]["answer"])),
    }  # fmt: skip
    picture = {"kind": "reading", "n": born, "up": _sparse(full), "down": _sparse(mine), "gone": np.flatnonzero(t.gone(step)[layer, head, :born]).tolist(),
               "names": ["full cache", f"with {run.manifest['title']}"], "labels": _labels(full, pieces) + _labels(mine, pieces, "down")[:2],
               "left": "start of the prompt", "right": "now"}  # fmt: skip
    return Scene(facts, picture, _reads(pieces, full, mine), inside(run, step, layer, head, token), (run.id,))


def kept(src: Sources, preset: str, method: str, rows: str = "layers", values: str = "held") -> Scene:
    """What is held when the first token is written. rows: "layers" (one each, opacity is the share of heads) or "uneven" (the heads of the two layers
    that differ most). values: "held" entries, or "missing" attention over the whole answer."""
    run = src.run(preset, method)
    t, born = run.trace, int(run.trace.born[0])
    held = t.held(0)[..., :born]
    counts, gone = held.sum(-1), missing(t).mean(0) if t.full.size else np.zeros(held.shape[:2])
    start, end = answer_span(run, src.presets[preset]["answer"])
    whole = held[..., start:end].all(-1) if end else np.zeros(held.shape[:2], bool)
    uneven = np.argsort(counts.min(1) - counts.max(1), kind="stable")
    layer = int(uneven[0])
    low, high = int(counts[layer].argmin()), int(counts[layer].argmax())
    facts = {
        "method": run.manifest["title"], "n": born, "prompt": t.prompt, "kept": round(float(counts.mean())), "share": float(counts.mean() / born),
        "heads": counts.size,
        "short": head_name(layer, low), "long": head_name(layer, high), "least": int(counts[layer, low]), "most": int(counts[layer, high]),
        "even": round(float(counts[layer].mean())), "total": int(counts[layer].sum()), "in_layer": counts.shape[1],
        "ratio": float(counts[layer, high] / max(1, counts[layer, low])), "bucket": int(np.digitize(counts[layer, high] / max(1, counts[layer, low]), (1.05,
                       1.5))),
        "missing_short": float(gone[layer, low]), "missing_long": float(gone[layer, high]), "missing": float(gone.mean()),
        "misses_more": int(gone[layer, low] <= gone[layer, high]), "survives": int(whole.sum()), "fact_share": float(whole.mean()),
        "survival": 0 if whole.mean() > 0.9 else 1 if whole.any() else 2, "answer": src.presets[preset]["answer"], "wrote": wrote(run),
        "right": int(right(run, src.presets[preset]["answer"])), "wrong": int(not right(run, src.presets[preset]["answer"])),
        "oldest": _oldest(held), "newest": int(_newest(held)),
    }  # fmt: skip
    if rows == "layers":
        tracks = [
            {"label": f"layer {i}", "group": i, "strong": True, "spans": spans(held[i].mean(0)), **_value(counts[i].mean(), born)} for i in range(len(held))
        ]
        heading = f"What is held of the {born:,} tokens; paler: by fewer heads"
    else:
        chosen = sorted(uneven[:2].tolist())
        missed = values == "missing"
        tracks = [{"label": head_name(i, h), "group": i, "strong": low == high or (i == layer and h in (low, high)), "spans": spans(held[i, h].astype(float)),
                   **(_percent(gone[i, h]) if missed else _value(counts[i, h], born))} for i in chosen for h in range(held.shape[1])]  # fmt: skip
        heading = f"What each head keeps of the {born:,} tokens"
    picture = {
        "kind": "tracks", "n": born, "rows": tracks, "heading": heading, "left": "start of the prompt", "right": "the question",
        "values": "Attention it misses" if values == "missing" else "Entries per head, mean" if rows == "layers" else "How many that is",
        "max": max(row["value"] for row in tracks), "hide": "values",
        "marks": [{"from": start, "to": end, "word": src.presets[preset]["answer"]}] if end else [], "look": "lost" if values == "missing" else "held",
    }  # fmt: skip
    table = [{"layer": i, "KV head": h, "entries held": int(counts[i, h]), "of": born, "missing attention, %": round(100 * float(gone[i, h]), 2)}
             for i in range(counts.shape[0]) for h in range(counts.shape[1])]  # fmt: skip
    return Scene(facts, picture, table, inside(run, 0, layer, high), (run.id,))


def passage(src: Sources, preset: str, method: str) -> Scene:
    """The text around the answer and at both ends, with what the heads still hold of it when the first token is written."""
    scene = kept(src, preset, method)
    run = src.run(preset, method)
    t, pieces = run.trace, run.manifest["pieces"]
    share = t.held(0).mean((0, 1))
    start, end = answer_span(run, src.presets[preset]["answer"])
    parts, last = [], 0
    for a, b in _windows([(0, 14), (start - 22, end + 10), (t.prompt - 34, t.prompt), (t.prompt, t.asked)], t.asked):
        if a > last:
            parts.append({"t": f"… {a - last:,} tokens …", "s": "skip"})
        parts += [
            {"t": pieces[p], "s": "asked" if p >= t.prompt else "key" if start <= p < end else "", "share": round(float(share[p]), 3)} for p in range(a, b)
        ]
        last = b
    table = [{"position": p, "token": pieces[p], "held by heads, %": round(100 * float(share[p]))} for p in range(t.asked)]
    return Scene(scene.facts, {"kind": "text", "parts": parts, "hide": "states"}, table, scene.link, scene.runs)


def sizes(src: Sources, preset: str, methods: list[str], number: str = "resident") -> Scene:
    """Bytes of several methods on one prompt."""
    facts: dict[str, Any] = {}
    rows, table, answer = [], [], src.presets[preset]["answer"]
    runs = {method: src.run(preset, method) for method in methods}
    for method, run in runs.items():
        m = run.manifest
        name, value, good = method.replace("+", "_"), m["bytes"][number], right(run, answer)
        facts |= {
            name: value,
            f"{name}_share": value / m["bytes"]["full"],
            f"{name}_right": int(good),
            f"{name}_title": m["title"],
            f"{name}_wrote": wrote(run),
        }
        look = "reference" if method == "full" else "held"
        rows.append({"label": m["title"], "value": value, "text": size(value), "look": look, "given": method == "full", "note": "right" if good else "wrong"})
        table.append({"method": m["title"], "bytes": value, "share of the full cache, %": round(100 * value / m["bytes"]["full"], 1), "answer": wrote(run)})
    facts |= {"right": sum(facts[f"{m.replace('+', '_')}_right"] for m in methods), "n": len(methods), "answer": answer}
    heading = {"resident": "Held by tensors at the end, measured", "read_per_step": "Read per step, measured"}[number]
    picture = {"kind": "bars", "rows": rows, "max": max(row["value"] for row in rows), "heading": heading}
    return Scene(facts, picture, table, inside(runs[methods[-1]]), tuple(run.id for run in runs.values()))


def numbers(src: Sources, preset: str, method: str, names: list[str]) -> Scene:
    """Several byte numbers of one run, as shares of the full cache. `names` among nominal, resident, peak, read_per_step."""
    run = src.run(preset, method)
    sizes_, words = (
        dict(run.manifest["bytes"]),
        {"nominal": "nominal", "resident": "held at the end", "peak": "at the peak", "read_per_step": "read per step", "full": "full cache"},
    )
    facts: dict[str, Any] = {name: float(sizes_[name]) for name in words} | {f"{name}_share": sizes_[name] / sizes_["full"] for name in words}
    bits = 32 if run.manifest["versions"].get("dtype") == "float32" else 16
    coded = run.trace.bits[run.trace.bits > 0]
    kept_ = run.trace.held(0)[..., : run.trace.prompt].mean()
    facts |= {"method": run.manifest["title"], "asked": float(run.manifest["budget"]["asked"] or 1), "times": sizes_["full"] / sizes_["resident"],
              "n": len(run.trace.ids),
              "ideal": bits / float(coded.mean()) if coded.size else 1.0, "bits": round(float(coded.mean())) if coded.size else bits, "full_bits": bits,
              "read_of_held": sizes_["read_per_step"] / sizes_["resident"], "of_prompt": float(kept_)}  # fmt: skip
    facts |= {"times_choice": nearest(facts["times"], [facts["ideal"], facts["ideal"] ** 0.5 * 1.6, 1.3]), "read_choice": nearest(facts["read_of_held"],
              [0.01, 0.3, 1.0]),
              "held_choice": nearest(facts["resident_share"], [0.25, 0.5, 1.0]), "peak_choice": nearest(facts["peak_share"], [facts["resident_share"], 1.0,
                                     2.0])}  # fmt: skip
    words["asked"], sizes_["asked"] = "as the setting says", facts["asked"] * sizes_["full"]
    rows = [{"label": words[name], "value": sizes_[name], "text": f"{size(sizes_[name])} · {shown(sizes_[name] / sizes_['full'], '%')}",
            "given": name in ("full", "asked"),
             "look": {"full": "reference", "asked": "predicted"}.get(name, "held")} for name in names]  # fmt: skip
    table = [{"number": words[name], "bytes": int(sizes_[name]), "share of the full cache, %": round(100 * sizes_[name] / sizes_["full"], 1)} for name in names]
    picture = {
        "kind": "bars",
        "rows": rows,
        "max": max(row["value"] for row in rows),
        "heading": f"{run.manifest['title']}: bytes, and the share of the full cache",
    }
    return Scene(facts, picture, table, inside(run), (run.id,))


def cells(src: Sources, preset: str, method: str) -> Scene:
    """A method that keeps every entry: height is the bits of keys and values, an outline is an entry that was held and not read. One row per head."""
    run = src.run(preset, method)
    t = run.trace
    step = int(unread(t).sum((1, 2, 3)).argmax()) if t.read.size else len(t.written) - 1
    born, layers = int(t.born[step]), t.left_at.shape[0]
    full = 32 if run.manifest["versions"].get("dtype") == "float32" else 16
    bits = np.where(t.bits[..., :born] > 0, t.bits[..., :born], full).mean(0)
    skipped = unread(t)[step][..., :born] if t.read.size else np.zeros(bits.shape, bool)
    pick = [int(i) for i in np.unique(np.linspace(0, layers - 1, 4).round())]
    tracks = []
    for i in pick:
        for h in range(2):
            held = t.held(step)[i, h, :born]
            row = [[*span, round(float(bits[i, h, int(span[0])] / full), 3), 0] for span in spans(np.where(held & ~skipped[i, h], bits[i, h] / full, 0))]
            row += [[*span, 1, 1] for span in spans((held & skipped[i, h]).astype(float))]
            tracks.append({"label": head_name(i, h), "group": i, "strong": True, "spans": [[a, b, 1, high, kind] for a, b, _, high, kind in row],
                           **(_value((held & ~skipped[i, h]).sum(), born) if t.read.size else _value(bits[i, h].mean(), full, ".1f"))})  # fmt: skip
    late = t.full.size and first_difference(t) is not None
    facts = {"method": run.manifest["title"], "n": born, "unread": float(skipped.sum() / max(1, t.held(step)[..., :born].sum())), "full_bits": full,
             "bits": float(bits.min()), "coded": float((bits < full).mean()), "same": int(not late), "tokens": len(t.written), "dense": int((~skipped.any((1,
                           2))).sum()),
             "held_share": run.manifest["bytes"]["resident"] / run.manifest["bytes"]["full"], "wrote": wrote(run)}  # fmt: skip
    heading = f"What is read of the {born:,} tokens; outlined: held, not read" if t.read.size else f"The {born:,} tokens; height is bits per number"
    picture = {"kind": "tracks", "n": born, "rows": tracks, "heading": heading, "left": "start of the prompt", "right": "now", "marks": [], "look": "held",
               "values": "Tokens read" if t.read.size else "Bits, on average", "max": max(row["value"] for row in tracks), "hide": "values"}  # fmt: skip
    table = [
        {"layer": i, "KV head": h, "bits per number": round(float(bits[i, h].mean()), 2), "held, not read": int(skipped[i, h].sum())}
        for i in range(layers)
        for h in range(bits.shape[1])
    ]
    return Scene(facts, picture, table, inside(run, step, pick[-1], 0), (run.id,))


def drift(src: Sources, preset: str, methods: list[str]) -> Scene:
    """How far each run's next-token distribution is from the full cache's on the run's own text, in nats, and how many first choices differ."""
    facts: dict[str, Any] = {}
    rows, table, runs = [], [], [src.run(preset, method) for method in methods]
    for method, run in zip(methods, runs, strict=True):
        t, name = run.trace, method.replace("+", "_")
        kl, changed = float(t.kl.mean()), int((t.top != t.written).sum())
        facts |= {f"{name}_kl": kl, f"{name}_changed": changed, f"{name}_tokens": len(t.written), f"{name}_title": run.manifest["title"],
                  f"{name}_bucket": int(np.digitize(changed / len(t.written), (1e-9, 0.5)))}  # fmt: skip
        rows.append(
            {
                "label": run.manifest["title"],
                "value": kl,
                "text": f"{shown(kl)} nats · {changed} of {len(t.written)} tokens differ",
                "look": "lost",
                "given": False,
            }
        )
        table.append({"method": run.manifest["title"], "divergence, nats per token": round(kl, 5), "tokens that differ": changed, "of": len(t.written)})
    picture = {"kind": "bars", "rows": rows, "max": max(row["value"] for row in rows) or 1, "heading": "Distance from the full cache, mean over the answer"}
    return Scene(facts, picture, table, inside(runs[0]), tuple(run.id for run in runs))


def _sparse(row: np.ndarray) -> list[list[float]]:
    """Bars worth drawing: [position, share]."""
    return [[int(p), round(float(row[p]), 4)] for p in np.flatnonzero(row > 0.002)]


def _labels(row: np.ndarray, pieces: list[str], side: str = "up") -> list[dict[str, Any]]:
    found = [int(p) for p in np.argsort(-row)[:3] if row[p] >= LABELLED * (1 if side == "up" else 2)]
    return [{"at": p, "word": word(pieces[p]), "share": round(float(row[p]), 4), "side": side} for p in found]


def _reads(pieces: list[str], full: np.ndarray, mine: np.ndarray | None = None) -> list[dict[str, Any]]:
    order = np.argsort(-np.maximum(full, full if mine is None else mine))[:30]
    return [{"position": int(p), "token": pieces[p], "full cache, %": round(100 * float(full[p]), 1),
            **({} if mine is None else {"this run, %": round(100 * float(mine[p]), 1)})}
            for p in order]  # fmt: skip


def _value(count: float, most: int, form: str = ".0f") -> dict[str, Any]:
    return {"value": float(count), "text": f"{count:{form}}", "of": most}


def _percent(share: float) -> dict[str, Any]:
    return {"value": float(share), "text": shown(float(share), "%")}


def _oldest(held: np.ndarray) -> int:
    """How many tokens from the first on every head holds without a gap."""
    return int(np.argmin(held.all((0, 1)))) if not held.all() else held.shape[-1]


def _newest(held: np.ndarray) -> int:
    """How many tokens from the last back every head holds without a gap."""
    return _oldest(held[..., ::-1])


def _windows(wanted: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """The ranges in order, clipped, those that touch made one."""
    made: list[tuple[int, int]] = []
    for a, b in sorted((max(0, a), min(end, b)) for a, b in wanted if b > a):
        if made and a <= made[-1][1]:
            made[-1] = made[-1][0], max(b, made[-1][1])
        else:
            made.append((a, b))
    return made
