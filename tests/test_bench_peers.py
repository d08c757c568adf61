"""The comparison with kvpress, its protocol and its sums, with a made-up worker: kvpress is not needed."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvlab.bench import peers
from kvlab.bench._pairs import PAIRS
from kvlab.bench.peers import asked, bench, clock, compared, one_round, table
from kvlab.cli import main
from kvlab.models import LM, load

WORKER = """
import json, sys
print("a library talks", file=sys.stderr)
for line in sys.stdin:
    said = json.loads(line)
    do, press = said.pop("do"), said.get("press")
    if do == "load":
        told = {"kvpress": "0", "torch": "0", "transformers": "0", "python": "0"}
    elif do == "kept":
        n = len(said["ids"])
        count = n if press is None else int(n * (1 - said["knobs"]["compression_ratio"]))
        head = list(range(n)) if press is None else [0, 1, 2, 3, *range(n - count + 4, n)]
        told = {"kept": [[head] * 4] * 6}
    elif said.get("press") == "TOVAPress":
        told = {"error": "RuntimeError: out of presses"}
    else:
        told = {"seconds": 2.0, "cpu": 1.0, "tokens": [7] * said.get("count", 1), "bytes": 1000}
    print(json.dumps(told), flush=True)
"""


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("bundled", "cpu", "float32")


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    monkeypatch.setattr(peers, "WORKER", path)
    return path


def options(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    peers.add_arguments(parser)
    return parser.parse_args([*argv])


def test_a_run_beside_a_worker(worker: Path) -> None:
    found = bench(options("--peer-python", sys.executable, "--pairs", "streamingllm,snapkv", "--prompt", "90", "--new", "3", "--rounds", "2"))
    assert list(found["pairs"]) == ["full", "snapkv", "streamingllm"] and found["peer_versions"]["kvpress"] == "0"
    full, snap, stream = found["pairs"].values()
    assert full["positions"]["equal"] and full["positions"]["entries"] == {"kvlab": 90 * 24, "kvpress": 90 * 24}
    assert stream["positions"]["equal"] and "why" not in stream and stream["bytes"]["kvpress"] == 1000 < stream["bytes"]["kvlab"]
    assert not snap["positions"]["equal"] and snap["why"] == PAIRS["snapkv"].why and not snap["same_tokens"]
    assert snap["cpu"]["token_ms"]["kvpress"] == pytest.approx(1000 / 3, rel=1e-3) and snap["wall"]["prefill_s"]["kvpress"] == 2
    assert full["cpu"]["decode_of_full"]["kvlab"] == {"median": 1.0, "interval": [1.0, 1.0]}
    shown = table(found).splitlines()
    share = f"{snap['positions']['shared']:.1%}"
    rows = [line.split(" | ")[:2] for line in shown if line.startswith("| ")]
    assert rows[1:] == [["| full", "all"], ["| snapkv", share], ["| streamingllm", "all"]]
    assert f"- snapkv: {PAIRS['snapkv'].why}" in shown


def test_the_stored_figures_are_shown_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers", "--show", "data/benchmarks/peers.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    stored = json.loads(Path("data/benchmarks/peers.json").read_text())
    assert list(stored["pairs"]) == list(PAIRS) and {line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ")} == {"pair", *PAIRS}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--peer-python is missing"),
        (["--peer-python", "no/such/python"], "cannot be run: No such file"),
        (["--peer-python", sys.executable, "--pairs", "snapkv,h2o"], "No such pair: h2o. There are full, knorm"),
        (["--peer-python", sys.executable, "--pairs", "tova", "--prompt", "40"], "kvpress could not start: RuntimeError: out of presses"),
        (["--peer-python", "/bin/true", "--prompt", "40"], "could not load: the worker stopped"),
    ],
)
def test_what_goes_wrong_is_told_in_a_sentence(argv: list[str], says: str, worker: Path) -> None:
    with pytest.raises(ValueError, match=says):
        bench(options(*argv))


class Side:
    """A side that writes down when its turn is."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns, self.numbers = name, turns, itertools.count()

    def start(self, ids: list[int]) -> dict[str, Any]:
        return self.ask("start")

    def write(self, count: int) -> dict[str, Any]:
        return self.ask("write", count=count)

    def ask(self, do: str, count: int = 1, **more: Any) -> dict[str, Any]:
        self.turns.append(self.name)
        return {"seconds": 4.0, "cpu": 1.0, "tokens": [next(self.numbers) for _ in range(count)], "bytes": 10 if do == "start" else 99}


def test_sides_take_turns() -> None:
    for turn, order in enumerate(("ABBAABBA", "BAABBAAB")):
        turns: list[str] = []
        seconds, written, held = one_round(Side("A", turns), Side("B", turns), {"ids": [1]}, 2 * peers.BLOCK + 5, turn)
        assert "".join(turns) == order and held == [10, 10]
        assert written == [list(range(2 * peers.BLOCK + 6))] * 2
        assert seconds.tolist() == [[[4, 1], [12, 3]]] * 2


def test_kept_positions_compared_by_hand() -> None:
    found = compared([[[0, 1, 2], [0, 5]], [[3], [4]]], [[[0, 1, 2], [0, 4]], [[3], [4, 5]]])
    assert found == {"equal": False, "heads_equal": 2, "heads": 4, "shared": round(6 / 7, 4), "entries": {"kvlab": 7, "kvpress": 8}}


def test_ratios_by_hand() -> None:
    seconds = np.array([[[1.0, 6.0], [2.0, 4.0]]] * 3)
    found = clock(seconds, np.array([[[1.0, 3.0], [1.0, 8.0]]] * 3), 4)
    assert found["prefill"]["median"] == 0.5 and found["decode"]["median"] == 1.5
    assert {side: of["median"] for side, of in found["decode_of_full"].items()} == {"kvlab": 2.0, "kvpress": 0.5}
    assert found["token_ms"] == {"kvlab": 1500.0, "kvpress": 1000.0} and found["prefill_s"] == {"kvlab": 1.0, "kvpress": 2.0}


@pytest.mark.parametrize("tokens", [301, 1000, 2048])
def test_both_are_asked_for_as_many_entries(tokens: int, lm: LM) -> None:
    for name, pair in PAIRS.items():
        if pair.press is None:
            continue
        method, told = pair.ours(0.5), asked(lm, pair, 0.5, [0] * tokens)
        knobs = told["knobs"]["press"][1] if pair.base else told["knobs"]
        assert int(tokens * (1 - knobs["compression_ratio"])) == round(method.kept(tokens, tokens)), name
        assert told["every"] == (round(method.kept(tokens, tokens)) if pair.every else None)
        assert ("filters" in told) == (name == "qfilters")
