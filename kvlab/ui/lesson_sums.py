"""Scenes of lessons that count: bytes against tokens, attention by region, and the rounding of kvlab's own codec."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kvlab.codecs.affine import quantize
from kvlab.lessons import shown, size
from kvlab.models import DATA
from kvlab.ui.lesson_data import Scene, Sources, head_name, inside, nearest

SINKS, RECENT = 4, 16
"""First tokens (StreamingLLM's default) and last tokens that `regions` sets apart."""


def growth(src: Sources) -> Scene:
    """Bytes held at the end of every preset's full run against the tokens it had read and written."""
    runs = sorted(src.full_runs(), key=lambda run: len(run.trace.ids))
    points = [(int(run.trace.born[-1]), int(run.trace.resident[-1])) for run in runs]
    each = [held / tokens for tokens, held in points]
    pair = min(((a, b) for a in points for b in points if b[0] > a[0]), key=lambda ab: abs(ab[1][0] / ab[0][0] - 2))
    facts = {
        "n": len(points), "fewest": points[0][0], "longest": points[-1][0], "per_token": float(np.mean(each)), "spread": max(each) / min(each) - 1,
        "short": pair[0][0], "long": pair[1][0], "token_ratio": pair[1][0] / pair[0][0], "byte_ratio": pair[1][1] / pair[0][1],
        "choice": nearest(pair[1][1] / pair[0][1], [1, pair[1][0] / pair[0][0], (pair[1][0] / pair[0][0]) ** 2]), "most": points[-1][1],
    }  # fmt: skip
    series = [
        {"label": f"{len(points)} stored runs", "points": [[n, held] for n, held in points], "look": "reference", "line": True, "dots": True, "given": False}
    ]
    picture = {"kind": "curve", "series": series, "x": _axis(0, points[-1][0], "tokens read and written"), "y": _bytes_axis(points[-1][1], "bytes held")}
    table = [{"tokens": n, "bytes held": held, "bytes per token": round(held / n)} for n, held in points]
    return Scene(facts, picture, table, inside(runs[-1]), tuple(run.id for run in runs))


def steps(src: Sources, preset: str, methods: list[str]) -> Scene:
    """Bytes held after each written token, one line per method."""
    facts: dict[str, Any] = {}
    series, table, runs = [], [], [src.run(preset, method) for method in methods]
    for method, run in zip(methods, runs, strict=True):
        held, name = run.trace.resident, method.replace("+", "_")
        slope = float(held[-1] - held[0]) / max(1, len(held) - 1)
        facts |= {f"{name}_slope": slope, f"{name}_start": int(held[0]), f"{name}_end": int(held[-1]), f"{name}_title": run.manifest["title"]}
        look = "reference" if method == "full" else "held"
        series.append(
            {"label": run.manifest["title"], "points": [[s, int(b)] for s, b in enumerate(held)], "look": look, "line": True, "given": method == "full"}
        )
        table += [{"method": run.manifest["title"], "written token": s + 1, "bytes held": int(b)} for s, b in enumerate(held)]
    facts["flattest"] = int(np.argmin([abs(facts[f"{m.replace('+', '_')}_slope"]) for m in methods]))
    longest = max(len(run.trace.resident) for run in runs)
    top = max(int(run.trace.resident.max()) for run in runs)
    picture = {"kind": "curve", "series": series, "x": _axis(0, longest - 1, "tokens written"), "y": _bytes_axis(top, "bytes held"), "named": True}
    return Scene(facts, picture, table, inside(runs[-1]), tuple(run.id for run in runs))


def parts(src: Sources, preset: str) -> Scene:
    """What one token leaves behind, measured on the full run and split by its geometry."""
    run = src.run(preset, "full")
    g = run.manifest["geometry"]
    heads, per_token = g["layers"] * g["kv_heads"], run.manifest["bytes"]["full"] / len(run.trace.ids)
    both = per_token / heads
    facts = {"layers": g["layers"], "kv_heads": g["kv_heads"], "query_heads": g["query_heads"], "heads": heads, "per_token": per_token, "one": both,
             "half": both / 2,
             "group": g["query_heads"] // g["kv_heads"], "n": len(run.trace.ids), "full": run.manifest["bytes"]["full"], "choice": 2,
             "unshared": per_token * g["query_heads"] / g["kv_heads"]}  # fmt: skip
    names = [("one key", both / 2), ("its key and its value, one head", both), (f"key and value in all {heads} heads", per_token)]
    facts["choice"] = int(np.argmin([abs(value - per_token) for _, value in names]))
    rows = [{"label": name, "value": value, "text": size(value), "look": "reference", "given": False} for name, value in names]
    picture = {"kind": "bars", "rows": rows, "max": per_token, "heading": "Bytes of one token in this model's cache"}
    return Scene(facts, picture, [{"part": name, "bytes": round(value)} for name, value in names], inside(run), (run.id,))


def shared(src: Sources, preset: str) -> Scene:
    """The cache as it is, and as it would be with a KV head of its own for every query head."""
    scene = parts(src, preset)
    f = scene.facts
    rows = [{"label": f"{f['kv_heads']} KV heads per layer", "value": f["full"], "text": f"{size(f['full'])}, measured", "look": "reference", "given": True},
            {"label": f"{f['query_heads']} KV heads per layer", "value": f["full"] * f["group"], "text": f"{size(f['full'] * f['group'])}, calculated",
             "look": "predicted", "given": False}]  # fmt: skip
    facts = {**f, "without": f["full"] * f["group"], "choice": nearest(f["group"], [1, f["group"], f["group"] ** 2])}
    picture = {"kind": "bars", "rows": rows, "max": rows[1]["value"], "heading": f"The cache of {f['n']:,} tokens"}
    return Scene(facts, picture, [{"model": row["label"], "bytes": int(row["value"])} for row in rows], scene.link, scene.runs)


def users(src: Sources, preset: str, counts: list[int]) -> Scene:
    """The measured cache of one text, times the people who have one each."""
    run = src.run(preset, "full")
    held, weights = run.manifest["bytes"]["full"], (DATA / "model" / "model.safetensors").stat().st_size
    rows = [{"label": f"{n:,} {'text' if n == 1 else 'texts'} at once", "value": n * held, "text": size(n * held),
            "look": "reference" if n == 1 else "predicted",
             "given": n == 1} for n in counts]  # fmt: skip
    rows.insert(0, {"label": "the model itself", "value": weights, "text": size(weights), "look": "soft", "given": True})
    facts = {
        "one": held,
        "n": len(run.trace.ids),
        "most": counts[-1],
        "all": counts[-1] * held,
        "weights": weights,
        "even": weights / held,
        "passes": int(counts[-1] * held > weights),
    }
    picture = {"kind": "bars", "rows": rows, "max": max(row["value"] for row in rows), "heading": "Bytes, a full cache each"}
    return Scene(facts, picture, [{"what": row["label"], "bytes": int(row["value"])} for row in rows], inside(run), (run.id,))


def again(src: Sources, preset: str) -> Scene:
    """Tokens that go through the model to write an answer, with a cache and without; counted on the stored run."""
    run = src.run(preset, "full")
    t = run.trace
    new, first = len(t.written), t.asked
    with_, without = first + new - 1, sum(first + s for s in range(new))
    facts = {"n": first, "new": new, "with": with_, "without": without, "times": without / with_}
    facts["choice"] = nearest(without, [with_, 2 * with_, new * first])
    rows = [{"label": "with the cache", "value": with_, "text": f"{with_:,} tokens", "look": "reference", "given": True},
            {"label": "without it", "value": without, "text": f"{without:,} tokens", "look": "predicted", "given": False}]  # fmt: skip
    facts |= {"twice": 2 * with_, "every": new * first}
    picture = {"kind": "bars", "rows": rows, "max": max(without, new * first), "heading": f"Tokens read by the model to write {new} tokens, counted"}
    return Scene(facts, picture, [{"way": row["label"], "tokens": row["value"]} for row in rows], inside(run), (run.id,))


def regions(src: Sources, by: str = "place") -> Scene:
    """Attention on the first tokens, the last tokens and all between: mean over the written tokens of every preset's full run. by: "place", over all
    heads, or "head", what each layer's head that likes them best gives the first tokens."""
    found, runs = [], src.full_runs()
    for run in runs:
        for rows, born in zip(run.trace.attention.astype(np.float32), run.trace.born.tolist(), strict=True):
            first, last = rows[..., :SINKS].sum(-1), rows[..., born - RECENT : born].sum(-1)
            found.append((first, rows.sum(-1) - first - last, last))
    heads = np.mean(found, 0)  # [3, L, H]
    share, between = heads.mean((1, 2)), float(np.mean([int(b) - SINKS - RECENT for run in runs for b in run.trace.born]))
    names = [f"the first {SINKS} tokens", "everything between", f"the last {RECENT} tokens"]
    layer, head = divmod(int(heads[0].argmax()), heads.shape[2])
    middle = float(share[1]) / between
    facts = {"first": float(share[0]), "middle": float(share[1]), "last": float(share[2]), "choice": int(share.argmax()), "where": names[int(share.argmax())],
             "strongest": float(heads[0].max()), "head": head_name(layer, head), "sinks": SINKS, "recent": RECENT, "between": round(between),
             "sink_times": float(share[0]) / SINKS / middle, "last_times": float(share[2]) / RECENT / middle}  # fmt: skip
    best = [int(row.argmax()) for row in heads[0]]
    bars = list(zip(names, share, strict=True)) if by == "place" else [(head_name(i, h), heads[0, i, h]) for i, h in enumerate(best)]
    rows = [{"label": name, "value": float(value), "text": f"{shown(float(value), '%')} of its attention" if by == "head" else shown(float(value), "%"),
             "look": "reference", "given": False} for name, value in bars]  # fmt: skip
    said = "attention of all heads" if by == "place" else f"what goes to the first {SINKS} tokens, each layer's strongest head"
    heading = f"Full cache, {len(runs)} texts: {said}"
    picture = {"kind": "bars", "rows": rows, "max": 1.0 if by == "place" else float(max(value for _, value in bars)), "heading": heading}
    table = [{"where" if by == "place" else "head": row["label"], "attention, %": round(100 * row["value"], 1)} for row in rows]
    return Scene(facts, picture, table, inside(runs[0], 0, layer, head), tuple(run.id for run in runs))


def lopsided(src: Sources, preset: str, cover: float) -> Scene:
    """How few tokens take most of a head's attention: tokens sorted by what they get, mean over heads and written tokens of the full run."""
    run = src.run(preset, "full")
    t = run.trace
    sums = []
    for s, born in enumerate(t.born):
        rows = np.sort(t.attention[s].astype(np.float64)[..., : int(born)], -1)[..., ::-1]
        total = np.cumsum(rows, -1) / np.maximum(rows.sum(-1, keepdims=True), 1e-9)
        sums.append(total.mean((0, 1))[: int(t.born[0])])
    line = np.mean(sums, 0)
    n = len(line)
    needed = int(np.argmax(line >= cover)) + 1
    facts = {"n": n, "cover": cover, "needed": needed, "part": needed / n, "top": float(line[max(0, round(n / 100) - 1)]), "hundredth": max(1, round(n / 100)),
             "choice": nearest(needed / n, [0.5, 0.1, 0.01])}  # fmt: skip
    picks = sorted({*range(min(24, n)), *np.linspace(0, n - 1, 60).round().astype(int).tolist()})
    series = [{"label": "this model", "points": [[int(i) + 1, round(float(line[i]), 4)] for i in picks], "look": "reference", "solid": True, "line": True,
              "given": False},
              {"label": "if all were equal", "points": [[0, 0], [n, 1]], "look": "soft", "line": True, "given": True}]  # fmt: skip
    picture = {"kind": "curve", "series": series, "x": _axis(0, n, "tokens, the most read first"), "named": True,
               "y": {"min": 0, "max": 1, "label": "share of a head's attention", "ticks": [[0, "0"], [0.5, "50 %"], [1, "100 %"]]}}  # fmt: skip
    return Scene(facts, picture, [{"tokens": int(i) + 1, "share of attention, %": round(100 * float(line[i]), 1)} for i in picks], inside(run), (run.id,))


def rounding(src: Sources, bits: int, outlier: float = 0.0) -> Scene:
    """32 made numbers coded as one group by kvlab's min-max codec. `outlier`: the eleventh number is this large instead; the error is that of the others."""
    x = torch.randn(32, generator=torch.Generator().manual_seed(0))
    plain = _coded(x, bits)
    with_ = x.clone()
    if outlier:
        with_[10] = outlier
    coded = _coded(with_, bits)
    others = torch.arange(32) != 10
    error, before = (with_ - coded).abs()[others].mean().item(), (x - plain).abs()[others].mean().item()
    facts = {"n": len(x), "bits": bits, "levels": 2**bits, "error": error, "before": before, "times": error / before, "used": len(set(coded[others].tolist())),
             "outlier": outlier,
             "choice": nearest(error / before, [1, outlier / 4, outlier * 4]) if outlier else 0}  # fmt: skip
    base = float(with_.min())
    levels = [round(base + i * (float(with_.max()) - base) / (2**bits - 1), 3) for i in range(2**bits)]
    dots = {"look": "reference", "dots": True, "line": False, "given": True, "label": "as they were"}
    series = [{**dots, "points": [[i, round(v, 3)] for i, v in enumerate(with_.tolist())]},
              {"label": f"{bits} bits", "points": [[i, round(v, 3)] for i, v in enumerate(coded.tolist())], "look": "held", "dashes": True,
               "given": False}]  # fmt: skip
    low, high = min(float(with_.min()), -2.5), max(float(with_.max()), 2.5)
    picture = {"kind": "curve", "series": series, "levels": levels, "x": {"min": 0, "max": 31, "label": "32 numbers that share one scale", "ticks": []},
               "named": True,
               "y": {"min": low, "max": high, "label": "value", "ticks": [[v, f"{v:g}"] for v in ((0, outlier) if outlier else (-2, 0, 2))]}}  # fmt: skip
    table = [{"number": i, "value": round(v, 3), f"{bits} bits": round(c, 3)} for i, (v, c) in enumerate(zip(with_.tolist(), coded.tolist(), strict=True))]
    return Scene(facts, picture, table)


def _coded(x: torch.Tensor, bits: int) -> torch.Tensor:
    codes, scale, low = quantize(x, 0, bits)
    return codes.float() * scale.float() + low.float()


def _axis(low: float, high: float, label: str) -> dict[str, Any]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 10**9) if (high - low) / s <= 6)
    return {"min": low, "max": high, "label": label, "ticks": [[v, f"{v:,}"] for v in range(int(low), int(high) + 1, step)]}


def _bytes_axis(high: float, label: str) -> dict[str, Any]:
    step = next(s for s in (2**k for k in range(10, 50)) if high / s <= 4.5)
    return {"min": 0, "max": high * 1.04, "label": label, "ticks": [[v, size(v) if v else "0"] for v in range(0, int(high) + 1, step)]}
