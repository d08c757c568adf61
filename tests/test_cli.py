"""The command line as a user meets it: one JSON object, or one sentence."""

from __future__ import annotations

import json

import pytest

from kvlab.cli import main
from kvlab.trace import Trace


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("The yard was empty that day. Rosa went back to the barn. " * 8)
    return path


@pytest.mark.parametrize("method, budget", [("full", None), ("snapkv", "0.25"), ("snapkv+kivi", "0.25"), ("snapkv", "40t"), ("snapkv", "400kB")])
def test_run_prints_one_object(prompt, tmp_path, capsys, method, budget):
    call = ["run", "--prompt-file", str(prompt), "--question", "Question: Where did Rosa go? Answer:", "--method", method, "--max-new-tokens", "6",
            "--set", "window=8", "--seed", "1", "--trace", str(tmp_path / "t.npz"), "--json"]  # fmt: skip
    call += ["--budget", budget] if budget else []
    if method == "full":
        call = [c for c in call if c not in ("--set", "window=8")]
    assert main(call) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) >= {"text", "tokens", "model", "method", "knobs", "budget", "bytes", "seconds", "kept"}
    assert set(told["bytes"]) >= {"full", "nominal", "predicted", "resident", "peak", "read_per_step"}
    assert set(told["seconds"]) == {"prefill", "decode_per_token"}
    assert set(told["budget"]) == {"asked", "realised"}
    heads = [head for layer in told["kept"] for head in layer]
    assert all(head == sorted(set(head)) for head in heads)
    if method == "full":
        assert told["bytes"]["resident"] == told["bytes"]["full"]
    else:
        assert told["bytes"]["resident"] < told["bytes"]["full"]
    if budget == "400kB":
        assert 350_000 < told["bytes"]["resident"] <= 400_000
    assert len(Trace.load(tmp_path / "t.npz").written) == len(told["tokens"])


@pytest.mark.parametrize(
    "change, says",
    [
        (["--method", "snpkv"], "Did you mean snapkv"),
        (["--budget", "lots"], "Cannot read the budget"),
        (["--budget", "1.5"], "1.5t"),
        (["--set", "windw=3"], "no knob 'windw'"),
        (["--set", "window=0"], "lies between"),
        (["--set", "window"], "KNOB=VALUE"),
        (["--model", "no such/model!"], "neither a folder nor"),
        (["--max-new-tokens", "0"], "at least 1"),
        (["--max-new-tokens", "999999"], "positions"),
        (["--method", "full+snapkv+h2o"], "cannot run together"),
    ],
)
def test_mistakes_get_one_sentence(prompt, capsys, change, says):
    assert main(["run", "--prompt-file", str(prompt), "--method", "snapkv", *change]) == 2
    *before, error = capsys.readouterr().err.strip().splitlines()
    assert says in error and error.startswith("kvlab: ")
    assert all("Loading weights" in line for line in before), "nothing but the progress of loading comes before the sentence"


def test_prompt_files_that_are_no_text(tmp_path, capsys):
    for name, content, says in [("a.txt", b"\xff\xfe\x00", "UTF-8"), ("b.txt", b"a\0b", "NUL"), ("c.txt", b"", "empty")]:
        (tmp_path / name).write_bytes(content)
        assert main(["run", "--prompt-file", str(tmp_path / name)]) == 2
        assert says in capsys.readouterr().err
    assert main(["run", "--prompt-file", str(tmp_path / "missing.txt")]) == 2
    assert "cannot be read" in capsys.readouterr().err
