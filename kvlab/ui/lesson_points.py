"""Scenes of lessons that read the shipped sweep: scores with intervals, where a needle is found, trade-offs, paired questions."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from kvlab.lessons import shown
from kvlab.plots.points import pareto
from kvlab.ui.lesson_data import SWEEP, Scene, Sources, nearest
from kvlab.ui.marks import marker

WORDS = {"niah": "needles found", "ruler_vt": "variables followed", "recall": "facts recalled", "ppl": "perplexity"}
"""Task of the sweep -> what its score counts."""
ASKED = ["seed", "sample", "question"]


def scores(src: Sources, task: str, methods: list[str], budget: float) -> Scene:
    """Score and 95 % interval of several methods at one nominal budget."""
    facts: dict[str, Any] = {"budget": budget}
    rows, table, points = [], [], {method: src.point(task, method, budget) for method in methods}
    for method, p in points.items():
        name = method.replace("+", "_")
        facts |= {name: float(p["mean"]), f"{name}_low": float(p["low"]), f"{name}_high": float(p["high"]), f"{name}_share": float(p["share"]),
                  f"{name}_title": p["title"], f"{name}_times": float(p["mean"] / src.point(task, "full")["mean"]), "n": int(p["n"])}  # fmt: skip
        text = f"{_score(p)}, {shown(float(p['share']), '%')} of the bytes"
        rows.append({"label": p["title"], "value": float(p["mean"]), "low": float(p["low"]), "high": float(p["high"]), "text": text, "given": method == "full",
                     "look": "reference" if method == "full" else "held"})  # fmt: skip
        table.append({"method": p["title"], "score": round(float(p["mean"]), 3), "low": round(float(p["low"]), 3), "high": round(float(p["high"]), 3),
                     "questions": int(p["n"]),
                      "bytes of the full cache, %": round(100 * float(p["share"]), 1)})  # fmt: skip
    rivals = [method for method in methods if method != "full"]
    best = max(rivals, key=lambda method: points[method]["mean"])
    a, b = points[rivals[0]], points[rivals[1]]
    facts |= {"choice": 2 if a["mean"] == b["mean"] else int(b["mean"] > a["mean"]), "best": points[best]["title"],
              "overlap": "overlap" if a["low"] <= b["high"] and b["low"] <= a["high"] else "do not overlap"}  # fmt: skip
    higher = points[methods[0]]["better"] == "higher"
    picture = {"kind": "bars", "rows": rows, "max": 1.0 if higher else max(row["high"] for row in rows),
               "heading": f"{WORDS[task].capitalize()}, {facts['n']} questions, 95 % interval"}  # fmt: skip
    return Scene(facts, picture, table, trade_link(task), _runs(points.values()))


def depth(src: Sources, task: str, method: str, budget: float) -> Scene:
    """Score by where in the text the needle lies."""
    rows = src.samples(task, method, budget)
    thirds = pd.cut(rows["depth"], [-0.01, 0.34, 0.67, 1.0], labels=False)
    found = rows.groupby(thirds)["score"].agg(["mean", "count"])
    names = ["first third", "middle third", "last third"]
    facts = {"method": src.point(task, method, budget)["title"], "budget": budget, "n": len(rows), "choice": int(found["mean"].argmax()),
             "where": names[int(found["mean"].argmax())],
             "first": float(found["mean"][0]), "middle": float(found["mean"][1]), "last": float(found["mean"][2])}  # fmt: skip
    bars = [{"label": f"needle in the {name}", "value": float(found["mean"][i]),
            "text": f"{shown(float(found['mean'][i]), '%')} of {int(found['count'][i])} found", "look": "held",
             "given": False} for i, name in enumerate(names)]  # fmt: skip
    picture = {"kind": "bars", "rows": bars, "max": 1.0, "heading": f"{facts['method']}, {shown(budget, '%')} kept: needles found"}
    table = [
        {"depth of the needle": name, "found, %": round(100 * float(found["mean"][i])), "questions": int(found["count"][i])} for i, name in enumerate(names)
    ]
    return Scene(facts, picture, table, trade_link(task), _runs([src.point(task, method, budget)]))


def tradeoff(src: Sources, task: str, methods: list[str]) -> Scene:
    """Quality against measured bytes with intervals, the full cache as a line, and the Pareto front as a staircase."""
    points = src.points(task)
    points = points[points["method"].isin(methods) & (points["budget"] != "1")]  # at 1 nothing is dropped: the same point for every method
    full = points[points["method"] == "full"].iloc[0]
    best = pareto(points[points["axis"] != "reference"]).sort_values("share")
    series = []
    for method in methods:
        rows = points[(points["method"] == method) & (points["axis"] != "reference")].sort_values("share")
        if len(rows):
            line = rows[["share", "mean", "low", "high"]].astype(float).values.tolist()
            series.append({"label": rows["title"].iloc[0], "points": line, "look": "held", "mark": marker(method), "line": True, "dots": True, "given": False})
    stairs = [[float(r.share), float(r.mean)] for r in best.itertuples(index=False)]
    series.append({"label": "front", "points": stairs, "look": "ink", "line": "step", "given": False})
    top = best[best["mean"] == best["mean"].iloc[-1]].sort_values(["share", "title"]).iloc[0]
    facts = {"n": int(full["n"]), "full": float(full["mean"]), "on_front": len(best), "first": best["title"].iloc[0],
             "least": float(best["share"].iloc[0]), "least_score": float(best["mean"].iloc[0]), "points": len(points), "top": top["title"],
             "top_share": float(top["share"]), "top_score": float(top["mean"])}  # fmt: skip
    most, quarters = max(1.0, float(points["high"].max())), math.ceil(4 * float(points[points["axis"] != "reference"]["share"].max()) + 0.1)
    picture = {"kind": "curve", "series": series, "named": True, "front": True, "band": [float(full["low"]), float(full["high"]), float(full["mean"])],
               "x": {"min": 0, "max": quarters / 4, "label": "bytes held, of the full cache, measured",
                     "ticks": [[v / 4, f"{25 * v} %"] for v in range(quarters + 1)]},
               "y": {"min": 0, "max": most, "label": WORDS[task], "ticks": [[0, "0"], [0.5, "50 %"], [1, "100 %"]]}}  # fmt: skip
    table = [{"method": r.title, "bytes of the full cache, %": round(100 * r.share, 1), "score": round(r.mean, 3), "low": round(r.low, 3),
             "high": round(r.high, 3)}
             for r in points.sort_values("share").itertuples(index=False)]  # fmt: skip
    return Scene(facts, picture, table, trade_link(task), _runs(r for _, r in best.iterrows()))


def paired(src: Sources, task: str, methods: list[str], budget: float) -> Scene:
    """The same questions put to two methods, and whether chance alone explains the difference (exact sign test over the questions that differ)."""
    a, b = (src.samples(task, method, budget).set_index(ASKED)["score"] for method in methods)
    both = pd.concat([a, b], axis=1, join="inner", keys=["a", "b"])
    right = both >= 0.5
    only_a, only_b = int((right["a"] & ~right["b"]).sum()), int((right["b"] & ~right["a"]).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    points = [src.point(task, method, budget) for method in methods]
    winner = points[int(only_b > only_a)]["title"]
    said = "Chance alone explains it often enough: no winner" if p >= 0.05 else f"Chance alone seldom explains it: {winner} is better here"
    facts = {"a": points[0]["title"], "b": points[1]["title"], "only_a": only_a, "only_b": only_b, "both": int(right.all(axis=1).sum()),
             "neither": int((~right).all(axis=1).sum()),
             "n": len(both), "p": p, "choice": 2 if p >= 0.05 else int(only_b > only_a), "rate_a": float(points[0]["mean"]),
             "rate_b": float(points[1]["mean"]), "budget": budget,
             "verdict": said}  # fmt: skip
    kinds = [("both", facts["both"], "held"), (f"{facts['a']} only", only_a, "a"), (f"{facts['b']} only", only_b, "b"), ("neither", facts["neither"], "none")]
    picture = {
        "kind": "squares",
        "groups": [{"label": label, "count": count, "look": look} for label, count, look in kinds],
        "heading": f"The same {len(both)} questions, {shown(budget, '%')} kept",
    }
    return Scene(facts, picture, [{"answered right by": label, "questions": count} for label, count, _ in kinds], trade_link(task), _runs(points))


def tasks(src: Sources, method: str, budget: float) -> Scene:
    """One setting on every task, as a share of what the full cache scores; for perplexity the full cache's over this one's."""
    facts: dict[str, Any] = {"budget": budget}
    rows, table = [], []
    for task, words in WORDS.items():
        here, full = src.point(task, method, budget), src.point(task, "full")
        lower = here["better"] == "lower"
        kept = float(full["mean"] / here["mean"]) if lower else float(here["mean"] / full["mean"])
        facts |= {
            task: float(here["mean"]),
            f"{task}_full": float(full["mean"]),
            f"{task}_kept": kept,
            "method": here["title"],
            "n": int(here["n"]),
            "share": float(here["share"]),
        }
        text = f"{here['mean']:.1f} against {full['mean']:.1f}" if lower else f"{shown(float(here['mean']), '%')} against {shown(float(full['mean']), '%')}"
        rows.append({"label": words, "value": kept, "text": text, "look": "held", "given": task == "ppl"})
        table.append(
            {"task": words, "this setting": round(float(here["mean"]), 3), "full cache": round(float(full["mean"]), 3), "kept of it, %": round(100 * kept)}
        )
    facts |= {"rise": 1 / facts["ppl_kept"] - 1, "choice": nearest(facts["niah_kept"], [0.9, 0.45, 0.1])}
    rows.sort(key=lambda row: not row["given"])
    picture = {
        "kind": "bars",
        "rows": rows,
        "max": 1.0,
        "heading": f"{facts['method']}, {shown(budget, '%')} kept: how much of the full cache's quality is left",
    }
    return Scene(facts, picture, table, trade_link("niah"), _runs([src.point("niah", method, budget)]))


def single(src: Sources, task: str, method: str, budget: float) -> Scene:
    """One question alone, then all of them."""
    rows, point = src.samples(task, method, budget), src.point(task, method, budget)
    hits = rows["score"] >= 0.5
    one = "right" if hits.any() else "wrong"
    facts = {"method": point["title"], "rate": float(point["mean"]), "low": float(point["low"]), "high": float(point["high"]), "n": int(point["n"]),
             "one": one, "budget": budget,
             "hits": int(hits.sum()), "choice": nearest(float(point["mean"]), [1.0, 0.5, 0.25])}  # fmt: skip
    groups = [{"label": "this question", "count": 1, "look": "held" if one == "right" else "none", "given": True},
              {"label": "the others, right", "count": facts["hits"] - (one == "right"), "look": "held"}, {"label": "wrong",
               "count": int((~hits).sum()) - (one == "wrong"), "look": "none"}]  # fmt: skip
    picture = {"kind": "squares", "groups": groups, "heading": f"{point['title']}, {shown(budget, '%')} kept: {WORDS[task]}"}
    return Scene(facts, picture, [{"outcome": g["label"], "questions": g["count"]} for g in groups], trade_link(task), _runs([point]))


def trade_link(task: str) -> str:
    return f"tradeoffs?sweep={SWEEP}&task={task}"


def _score(p: pd.Series) -> str:
    return shown(float(p["mean"]), "%") if p["better"] == "higher" else f"{p['mean']:.1f}"


def _runs(points: Any) -> tuple[str, ...]:
    return tuple(p["run"] for p in points if isinstance(p["run"], str) and p["run"])
