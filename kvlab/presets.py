"""The prompts that ship with kvlab, and their stored runs: pages are full at first start, with no model loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kvlab.engine import Request, run
from kvlab.models import DATA, LM
from kvlab.registry import make
from kvlab.runs import RunStore, manifest

NEW_TOKENS = 16
COMPARED = ("1_single_needle", "2_multi_key_recall", "3_variable_chain")
"""Presets that come with several methods, for the page Compare."""
RIVALS = ("streamingllm", "h2o", "snapkv", "lagkv", "adakv", "kivi")
"""Their methods: five that drop entries, all at the budget that the preset suggests, and one that keeps every entry in fewer bits and takes no budget."""


def presets() -> list[dict[str, Any]]:
    """Every file of `data/prompts`, by name: id, title, context, question, answer, what_to_look_for and suggest {method, budget}."""
    return [json.loads(path.read_text()) for path in sorted((DATA / "prompts").glob("*.json"))]


def requests(preset: dict[str, Any]) -> Iterator[Request]:
    """The full cache, what the preset suggests, and for those of `COMPARED` the `RIVALS`; each followed by the full cache's view of the same text."""
    suggest = preset["suggest"]
    rivals = [make(name, suggest.get("budget")) for name in RIVALS] if preset["id"] in COMPARED else []
    for method in dict.fromkeys([make("full"), make(suggest["method"], suggest.get("budget"), suggest.get("knobs")), *rivals]):
        yield Request(prompt=preset["context"], method=method, question=preset["question"], max_new_tokens=NEW_TOKENS, compare=True)


def store_all(lm: LM, folder: Path, say: Callable[[str], None], clean: bool = False) -> None:
    """Run every preset and keep the runs in `folder`. `clean`: then delete all other runs in it, such as those of an earlier model."""
    store, made = RunStore(folder), set()
    for preset in presets():
        for request in requests(preset):
            result = run(lm, request)
            kept = store.save(manifest(lm, request, result), result.trace)
            made.add(kept)
            say(f"{kept} {preset['id']} {result.method}: {result.text!r}, held {result.bytes['resident']:,} of {result.bytes['full']:,} bytes")
    for place in (file.parent for file in folder.glob("[0-9a-f]*/manifest.json")) if clean else ():
        if place.name not in made:
            shutil.rmtree(place)
            say(f"{place.name} deleted: not one of the presets' runs")
