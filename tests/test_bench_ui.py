"""The benchmark of the dashboard without its browser: made-up runs, workers with a time limit, and the table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kvlab.bench import _made
from kvlab.bench.ui import Stages, table
from kvlab.runs import RunStore
from kvlab.ui.compare import Asked, lineup
from kvlab.ui.compare_data import body
from kvlab.ui.finding import finding
from kvlab.ui.inside import block, evictions, wanted


def test_made_runs_open_on_both_pages_and_lose_entries_at_every_step(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    first, second = _made.big(store, layers=3, heads=2, positions=200, steps=12)
    run = store.load(first)
    assert [step for step, _ in evictions(run.trace, [None] * 3)] == list(range(12)) and wanted(run.trace, 11).any()
    assert np.allclose(run.trace.full.astype(float).sum(-1), 1, atol=0.06), "rows of attention add up to one"
    assert len(block(run)[1]) > 0 and finding(run).title
    assert len(body(lineup(store, Asked((first, second))))[1]) > 0
    square = store.load(_made.square(store, 64))
    header, _ = block(square)
    assert header["arrays"]["attention"]["size"] == 64 * 64 and "full" not in header["arrays"] and not header["tops"]


def test_a_worker_that_hangs_or_fails_is_named_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import json, sys, time\nasked = json.loads(sys.argv[1])\ntime.sleep(asked['seconds'])\nprint(json.dumps({'got': 1 / asked['by']}))\n")
    stages = Stages(sys.executable, limit=5)
    assert stages.run("fails", str(worker), seconds=0, by=0) is None
    assert stages.run("works", str(worker), seconds=0, by=4) == {"got": 0.25}
    stages.limit = 0.3
    assert stages.run("hangs", str(worker), seconds=60, by=1) is None
    assert stages.missing == {"fails": "ZeroDivisionError: division by zero", "hangs": "not there after 0 s"}
    assert "hangs: MISSING" in capsys.readouterr().err


def test_the_table_says_what_is_there_and_what_is_missing() -> None:
    step = {"median_ms": 3.25, "p95_ms": 6.0, "most_ms": 9.0, "steps": 80, "page_bytes": 1}
    many = {"open_last_ms": 3000.0, "again_last_ms": 1500.0}
    said = table({
        "versions": {"kvlab": "1"}, "cores": 2, "when": "2026-01-01", "first_paint": {"kvlab_ms": 900.0, "bare_ms": 600.0, "ratio": 1.5}, "preset_open": None,
        "widget_round_trip": None, "scrub_step": {"layers": 28, "kv_heads": 8, "tokens": 2048, "inside": step, "inside_all_heads": None, "compare": step,
        "compare_with_prompt": step}, "map_2048x2048": {"kvlab": {"bytes": 2**20, "open_ms": 50.0}, "plotly_uint8": {"bytes": 2**21, "open_ms": 70.0}},
        "sessions": {"count": 30, "driven": "by WebSocket", "kvlab": many, "bare": {name: value / 3 for name, value in many.items()}},
        "missing": {"preset open": "not there after 90 s"},
    })  # fmt: skip
    for words in ("| 900 ms | 600 ms | 1.50 |", "| Look inside | 3.2 ms | 6.0 ms | 9.0 ms |", "1.0 MiB, 50.0 ms | uint8 2.0 MiB",
                  "| 3,000 ms | 1,000 ms | 3.00 |", "driven by WebSocket", "Missing: preset open (not there after 90 s)."):  # fmt: skip
        assert words in said, words
    assert "preset open (bare" not in said and "unfolded" not in said
