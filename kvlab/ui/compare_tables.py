"""The pictures of the Compare page as tables: one row per run, per step, per pair of runs, and per pair and layer."""

from __future__ import annotations

import pandas as pd

from kvlab.ui.compare import Lineup
from kvlab.ui.compare_diff import agreement, answer, first_difference
from kvlab.ui.compare_sets import kept, open_layers, overlaps
from kvlab.ui.compare_words import bits, budget


def runs(line: Lineup) -> pd.DataFrame:
    """One row per run, the reference first: its answer, where it leaves the reference, bytes and seconds."""
    rows = []
    for run in line.runs:
        m, agree, first = run.manifest, agreement(run), first_difference(run, line.reference)
        rows.append({
            "": line.letters[run.id], "run": line.name(run), "setting": "" if line.hidden else budget(run), "answer": m["text"],
            "first difference, step": None if run is line.reference else first, "steps that agree": agree and agree[0], "of": len(run.trace.written),
            "nominal, B": m["bytes"]["nominal"], "predicted, B": m["bytes"]["predicted"], "held by tensors, measured, B": m["bytes"]["resident"],
            "peak, B": m["bytes"]["peak"], "read per step, B": m["bytes"]["read_per_step"], "full cache, B": m["bytes"]["full"],
            "seconds per token": m["seconds"]["decode_per_token"],
        })  # fmt: skip
    return pd.DataFrame(rows).astype({"first difference, step": "Int64", "steps that agree": "Int64"})


def steps(line: Lineup) -> pd.DataFrame:
    """One row per step: what each run writes, its bits from the full cache, and the entries it holds."""
    rows = []
    for step in range(max(len(run.trace.written) for run in line.runs)):
        row: dict[str, object] = {"step": step}
        for run in line.runs:
            there, name = step < len(run.trace.written), line.name(run)
            row[f"{name} writes"] = answer(run)[step] if there else None
            if run.trace.kl.size and run is not line.reference:
                row[f"{name}, bits from the full cache"] = float(bits(run)[step]) if there else None
            row[f"{name}, entries held"] = int(run.trace.held(step).sum()) if there else None
        rows.append(row)
    return pd.DataFrame(rows)


def matrix(line: Lineup) -> pd.DataFrame:
    """Overlap of every pair: both of either (Jaccard), what chance would give, and the counts behind it."""
    sizes = [int(kept(run)[open_layers(run)].sum()) for run in line.runs]
    return pd.DataFrame([
        {"first": line.name(line.runs[i]), "second": line.name(line.runs[j]), "kept by both of either": o.shared, "by chance": o.chance,
         "only the first": sum(row[1] for row in o.layers), "both": sum(row[2] for row in o.layers), "only the second": sum(row[3] for row in o.layers),
         "first keeps": sizes[i], "second keeps": sizes[j]}
        for (i, j), o in overlaps(line.runs).items()
    ])  # fmt: skip


def layers(line: Lineup) -> pd.DataFrame:
    """The same by layer."""
    return pd.DataFrame([
        {"first": line.name(line.runs[i]), "second": line.name(line.runs[j]), "layer": layer, "only the first": a, "both": both, "only the second": b}
        for (i, j), o in overlaps(line.runs).items() for layer, a, both, b in o.layers
    ])  # fmt: skip


TABLES = {"The runs": runs, "Step by step": steps, "Overlap of kept entries": matrix, "Overlap by layer": layers}
"""Every table by the words over it."""
