"""What is written about the code stays true: the README's table, every knob's sentence, every method's paper."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvlab.cli import main, table
from kvlab.method import AXES
from kvlab.registry import describe, registry

ROOT = Path(__file__).parent.parent


def test_readme_table_is_the_generated_one():
    readme = (ROOT / "README.md").read_text()
    assert table([describe(kind) for kind in registry().values()]) in readme, "run: python -m kvlab methods --table, and paste it into README.md"


@pytest.mark.parametrize("name", registry())
def test_every_method_says_what_it_is(name):
    kind = registry()[name]
    told = describe(kind)
    assert told["title"] and told["paper"] and told["year"] > 1990 and told["source"] in ("code", "mixed", "recon") and kind.axis in AXES
    assert told["about"] and (sys.modules[kind.__module__].__doc__ or "").strip()
    assert told["source"] == "code" or told["departs"], "a reconstruction says on screen what was reconstructed"
    for f in dataclasses.fields(kind):
        assert f.metadata.get("says", "").endswith("."), f"{name}: the knob {f.name} has no sentence"
        if isinstance(getattr(kind(), f.name), (int, float)) and not isinstance(getattr(kind(), f.name), bool) and not f.metadata["choices"]:
            assert f.metadata["low"] is not None and f.metadata["high"] is not None, f"{name}: the knob {f.name} has no range"


def test_methods_json_is_one_list(capsys):
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in listed] == list(registry())
    assert set(listed[0]) >= {"name", "axis", "paper", "year", "source", "phases", "needs", "knobs"}


def test_requirements_are_pinned():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    loose = [line for line in lines if line and "==" not in line]
    assert loose == ['triton; platform_system == "Linux"'] or loose == []


def test_nothing_else_at_the_top():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    tops = {name.split("/")[0] for name in files}
    ours = {"app.py", "pages", "kvlab", "data", "tests", "requirements.txt", "README.md"}
    assert tops <= ours | {"Makefile", ".ci", ".streamlit", "pyproject.toml", ".gitignore"}
