"""The prompts that ship with kvlab, and their stored runs: pages are full at first start, with no model loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kvlab.engine import Request, run
from kvlab.models import DATA, LM
from kvlab.registry import make
from kvlab.runs import RunStore, manifest

NEW_TOKENS = 16


def presets() -> list[dict[str, Any]]:
    """Every file of `data/prompts`, by name: id, title, context, question, answer, what_to_look_for and suggest {method, budget}."""
    return [json.loads(path.read_text()) for path in sorted((DATA / "prompts").glob("*.json"))]


def requests(preset: dict[str, Any]) -> Iterator[Request]:
    """The full cache, then what the preset suggests, both followed by the full cache's view of the same text."""
    suggest = preset["suggest"]
    for method in (make("full"), make(suggest["method"], suggest.get("budget"), suggest.get("knobs"))):
        yield Request(prompt=preset["context"], method=method, question=preset["question"], max_new_tokens=NEW_TOKENS, compare=True)


def store_all(lm: LM, folder: Path, say: Callable[[str], None]) -> None:
    """Run every preset and keep the runs in `folder`."""
    store = RunStore(folder)
    for preset in presets():
        for request in requests(preset):
            result = run(lm, request)
            kept = store.save(manifest(lm, request, result), result.trace)
            say(f"{kept} {preset['id']} {result.method}: {result.text!r}, held {result.bytes['resident']:,} of {result.bytes['full']:,} bytes")
