"""Writes the eight example prompts; seeds are tried in order until the model answers rightly."""

from __future__ import annotations

import json
from pathlib import Path

from kvlab.bundled import evaluate, forms, natural
from kvlab.bundled.words import TRAIN

# id: (title, form, size in tokens, options, method, share of the cache kept, what to look for)
PROMPTS = {
    "single_needle": (
        "One needle in noise", "needle", 420, {"kind": "noise", "keys": 1, "depth": 0.5}, "snapkv", 0.25,
        "One sentence differs from the noise. Methods that see the question keep it at small budgets; "
        "watch which tokens of the needle stay.",
    ),
    "multi_key_recall": (
        "Many facts, one question", "facts", 400, {}, "lagkv", 0.5,
        "Every sentence might be asked for, so nothing is plainly unimportant: accuracy falls with the "
        "budget unless the question was seen before tokens are dropped.",
    ),
    "variable_chain": (
        "Two hops along a chain of variables", "chain", 330, {"hops": 2, "letters": False}, "adakv", 0.4,
        "The question names only the last variable. The lines it leads to matter later, so a method that "
        "keeps what the question looks at now may drop the first assignment.",
    ),
    "early_fact": (
        "A fact at the very beginning", "needle", 900, {"kind": "sentences", "keys": 1, "depth": 0.02},
        "streamingllm", 0.3,
        "The fact comes first and long filler follows. Keeping the newest tokens loses it, however "
        "fluent the text that goes on.",
    ),
    "key_value_list": (
        "A list of keys and values", "list", 500, {}, "kvzip", 0.4,
        "All lines look alike, and nothing says which one will be asked for. KVzip reads the text a second time and keeps "
        "what it needed to repeat it: look which half of each line every head holds.",
    ),
    "copy": (
        "Write the text again", "copy", 230, {}, "kivi", None,
        "Every token is needed exactly once, in order. Nothing is gone here, the cells are lower: four bits instead of "
        "thirty-two. Drop tokens instead, and the copy breaks off at the first one that left.",
    ),
    "library_document": (
        "A needle in Python's own documentation", "needle", 900, {"kind": "natural", "keys": 1, "depth": 0.4},
        "snapkv+kivi", 0.25,
        "Real prose with code and lists around one planted sentence. Three quarters of the entries go and the rest is coded: "
        "compare the heads that keep the needle with those that keep punctuation.",
    ),
    "story": (
        "A story with several questions", "needle", 700, {"kind": "sentences", "keys": 8}, "quest", None,
        "Three questions were answered before this one. Quest keeps every entry and reads a quarter of the pages at each step: "
        "outlined cells were held but not read.",
    ),
}


def _question(sample: forms.Sample, name: str) -> tuple[str, str]:
    """(question text, exact answer); the story's first questions are given with their answers."""
    last = len(sample.questions) - 1 if name == "story" else 0
    before = "".join(q + t for q, t in zip(sample.questions[:last], sample.targets[:last], strict=True))
    return before + sample.questions[last], sample.targets[last].strip().rstrip(".")


def make(model, tokens, name: str, tries: int = 60) -> dict:
    """The first seed whose question the model answers rightly with the full cache."""
    title, form, size, options, method, budget, look = PROMPTS[name]
    held = natural.documents(True) if options.get("kind") == "natural" else ()
    for seed in range(tries):
        sample = forms.make(form, f"prompt-{name}-{seed}", size, TRAIN, questions=4, natural=list(held),
                            count=lambda t: len(tokens(t, add_special_tokens=False).input_ids), **options)
        if name == "story" and len(sample.questions) < 4:
            continue
        question, expected = _question(sample, name)
        cache, length = evaluate.fill(model, tokens, sample.context)
        most = len(tokens(expected).input_ids) + 4
        if evaluate.answer(model, tokens, cache, question, most).strip(" .") == expected:
            print(name, "seed", seed, "context tokens", length, flush=True)
            # the line's end goes with the context: a question that begins with one looks empty in a form
            return {
                "id": name, "title": title, "context": sample.context + "\n", "question": question.lstrip("\n"),
                "answer": expected, "what_to_look_for": look,
                "suggest": {"method": method, "budget": budget},
            }
    raise RuntimeError(f"no seed of {tries} gives a right answer for {name}")


def main() -> None:
    """Writes data/prompts/*.json with the model in data/model, numbered in the order they are offered in."""
    model, tokens = evaluate.load("data/model")
    for number, name in enumerate(PROMPTS, 1):
        made = make(model, tokens, name) | {"id": f"{number}_{name}"}
        Path("data/prompts", f"{made['id']}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
