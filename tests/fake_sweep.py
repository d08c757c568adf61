"""A made-up sweep in the form in which `kvlab sweep` writes it, for tests of the Trade-offs page only: plausible curves, not results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import fake_points as fake
import numpy as np
import pandas as pd

COMMAND = "python -m kvlab sweep " + json.dumps({"methods": ["full", "snapkv"], "tasks": ["niah"], "samples": 20, "template": True, "device": "auto"})
VERSIONS = json.dumps({"kvlab": "0.1.0", "torch": "2.0"})
KNOBS = {"kivi": {"group": 32}, "snapkv": {"window": 16, "pool": "avg"}}
SAMPLES = 20


def sweep(tasks: tuple[str, ...] = ("niah", "recall", "ppl"), lengths: tuple[int, ...] = (256, 512)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Points and samples. Of needle tasks the scores of the samples are those of the points."""
    tables = [fake.points(tasks, SAMPLES, seed).assign(length=length) for seed, length in enumerate(lengths)]
    points = pd.concat(tables, ignore_index=True)
    points["run"] = [hashlib.sha256(f"{row.run} {row.length}".encode()).hexdigest()[:16] for row in points.itertuples()]
    knobs = [{**KNOBS.get(row.method, {}), **({"bits": int(16 * row.budget)} if row.method == "kivi" else {})} for row in points.itertuples()]
    plain = points["method"].isin(("full", "kivi"))
    points = points.assign(
        setting=[json.dumps(said, sort_keys=True) for said in knobs],
        budget=points["budget"].map("{:g}".format).where(~plain),
        mode=points["task"].map(lambda task: "prefix" if task == "ppl" else "requests"),
        model="bundled", revision="abc123", dtype="float32", device="cpu", task_version=1, failed=0, predicted=points["resident"],
        kl=0.01, top1=0.95, seconds=0.3, seeds="0", versions=VERSIONS, command=COMMAND,
    )  # fmt: skip
    return points, pd.concat([_samples(row) for row in points[points["task"] != "ppl"].to_dict("records")], ignore_index=True)


def _samples(row: dict) -> pd.DataFrame:
    right = round(row["mean"] * row["n"])
    same = {name: row[name] for name in ("method", "title", "axis", "setting", "budget", "task", "length", "mode", "model")}
    scores = np.arange(row["n"]) < right
    return pd.DataFrame({**same, "seed": 0, "sample": range(row["n"]), "question": 0, "depth": np.arange(row["n"]) % 5 / 4, "score": scores.astype(float),
                         "status": "done", "answer": "", "command": COMMAND})  # fmt: skip


def write(folder: Path, points: pd.DataFrame | None = None, samples: pd.DataFrame | None = None) -> Path:
    """Put a sweep into a folder."""
    if points is None:
        points, samples = sweep()
    folder.mkdir(parents=True, exist_ok=True)
    points.to_csv(folder / "points.csv", index=False)
    if samples is not None:
        samples.to_csv(folder / "samples.csv.gz", index=False)
    (folder / "command.txt").write_text(COMMAND + "\n")
    return folder
