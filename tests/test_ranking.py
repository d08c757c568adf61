"""Ranking at equal bytes: only measured points within the limit count, and what was never measured there is a dash."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from kvlab.sweep.ranking import held_by, main, markdown, ranked


def point(method: str, budget: str | None, task: str, mean: float, held: int, knobs: dict | None = None) -> dict:
    return {"method": method, "title": method.upper(), "axis": "reference" if method == "full" else "eviction", "setting": json.dumps(knobs or {}),
            "budget": budget, "task": task, "mode": "prefix" if task == "ppl" else "requests", "mean": mean, "resident": held, "full": 1000, "failed": 0,
            "better": "lower" if task == "ppl" else "higher"}  # fmt: skip


@pytest.fixture
def points() -> pd.DataFrame:
    made = [point("full", None, task, mean, 1000) for task, mean in (("niah", 1.0), ("ppl", 8.0))]
    for task, held, means in (("niah", 300, (0.1, 0.2)), ("ppl", 400, (12.0, 11.0))):
        made += [point("random", "0.25", task, means[0], held), point("random", "0.5", task, means[1], 600)]
        made += [point("keeps", "0.25", task, means[0] * 2, held + 5, {"level": "pair", "sinks": 4})]
        made += [point("keeps", "0.5", task, 0.9, 640, {"level": "pair", "sinks": 4})]
        made += [point("keeps", "0.25", task, means[0] / 2, held, {"level": "head", "sinks": 4})]
    return pd.DataFrame([*made, point("greedy", "0.25", "ppl", 9.0, 380)])


def test_the_best_point_within_the_limit_counts_and_no_other(points: pd.DataFrame) -> None:
    limits = held_by(points, "random", "0.25")
    assert limits.to_dict() == {"niah": 300, "ppl": 400}
    table = ranked(points, limits)
    assert list(table.index) == ["FULL", "KEEPS (level pair)", "RANDOM", "KEEPS (level head)", "GREEDY"], "without a point on a task it comes last"
    assert table.loc["KEEPS (level pair)", "niah"] == 0.2 and table.loc["RANDOM", "ppl"] == 12.0
    assert table["mean"].iloc[:2].tolist() == [1.0, 0.2], "perplexities are not averaged in"
    points.loc[points["method"] == "greedy", "failed"] = 1
    assert "GREEDY" not in ranked(points, limits).index, "what could not be run everywhere was measured on easier samples"
    assert ranked(points, held_by(points, "random", "0.5")).loc["RANDOM"].tolist()[:2] == [0.2, 11.0], "the better of what fits, in its own direction"


def test_the_table_for_a_person_and_the_command(points: pd.DataFrame, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    said = markdown(ranked(points, held_by(points, "random", "0.25")), {"ppl"})
    assert "| GREEDY | - | 9.0 | - |" in said and "| RANDOM | 10 | 12.0 | 10 |" in said
    points.to_csv(tmp_path / "points.csv", index=False)
    main([str(tmp_path), "--budgets", "0.25"])
    assert "at most the bytes of random at 0.25 (of the full cache: niah 30 %, ppl 40 %)" in capsys.readouterr().out
    assert held_by(points, "nobody", "0.3kB").to_dict() == {"niah": 300, "ppl": 300}
    with pytest.raises(ValueError, match="not measured at the budget"):
        held_by(points, "random", "0.3")
