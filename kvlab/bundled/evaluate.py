"""Held-out accuracy per form and length at full cache, and perplexity on held-out natural text.

Seeds and key words were never trained on. An answer counts when the whole
generated answer, up to its full stop, equals the expected one.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kvlab.bundled import forms, natural
from kvlab.bundled.words import HELD_OUT, TRAIN, Words

CASES = {
    "single needle, sentences": ("needle", {"kind": "sentences", "keys": 1}),
    "single needle, noise": ("needle", {"kind": "noise", "keys": 1}),
    "single needle, docstrings": ("needle", {"kind": "natural", "keys": 1}),
    "four needles, sentences": ("needle", {"kind": "sentences", "keys": 4}),
    "facts only (multi-key)": ("facts", {}),
    "key-value list": ("list", {}),
    "chain, one hop": ("chain", {"hops": 1, "letters": False}),
    "chain, two hops": ("chain", {"hops": 2, "letters": False}),
    "chain, two hops, letters": ("chain", {"hops": 2, "letters": True}),
    "ruler single (noise)": ("ruler", {"kind": "noise", "keys": 1, "values": 1}),
    "ruler multi-key (needles)": ("ruler", {"kind": "needles", "values": 1}),
    "ruler multi-value (3)": ("ruler", {"kind": "sentences", "keys": 1, "values": 3}),
    "copy": ("copy", {}),
}


def load(path: str | Path):
    """(model in float32, tokenizer) of a model folder."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(path)


@torch.no_grad()
def answer(model, tokens, cache, question: str, most: int = 24) -> str:
    """Greedy answer up to the full stop; `cache` holds the context and is not changed."""
    cache = copy.deepcopy(cache)
    ids = tokens(question, add_special_tokens=False, return_tensors="pt").input_ids
    text = ""
    for _ in range(most):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1:].argmax(-1)
        text += tokens.decode(ids[0])
        if text.rstrip().endswith(".") or ids.item() == tokens.eos_token_id:
            break
    return text


@torch.no_grad()
def fill(model, tokens, context: str):
    """Full cache of a context (with the leading special token) and its number of tokens."""
    ids = tokens(context, return_tensors="pt").input_ids
    return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values, ids.shape[1]


@torch.no_grad()
def writes(model, tokens, cache, question: str, target: str) -> bool:
    """True if greedy decoding after `question` would write exactly `target`.

    Greedy decoding writes the target exactly when, fed the target, every token
    of it is the most likely one: one pass instead of one a token. `cache` is
    cut back to its old length afterwards.
    """
    asked = tokens(question, add_special_tokens=False).input_ids
    wanted = tokens(target, add_special_tokens=False).input_ids
    ids = torch.tensor([asked + wanted])
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=len(wanted) + 1).logits
    cache.crop(-ids.shape[1])  # negative: the number of tokens to take away
    return logits[0, :-1].argmax(-1).tolist() == wanted


def accuracy(model, tokens, case: str, size: int, samples: int, words: Words = HELD_OUT,
             seed: str = "evaluation") -> dict:
    """Share of right answers over `samples` documents of about `size` tokens, up to 4 questions each."""
    form, options = CASES[case]
    fast = tokens.backend_tokenizer
    held = list(natural.documents(True)) if options.get("kind") == "natural" else ()
    right = asked = context = 0
    for i in range(samples):
        sample = forms.make(form, f"{seed}-{case}-{size}-{i}", size, words, questions=4, natural=held,
                            count=lambda text: len(fast.encode(text, add_special_tokens=False).ids),
                            **options)
        cache, length = fill(model, tokens, sample.context)
        context += length
        for question, target in zip(sample.questions, sample.targets, strict=True):
            right += writes(model, tokens, cache, question, target)
            asked += 1
    return {"form": case, "length": size, "accuracy": right / asked, "questions": asked, "documents": samples,
            "context_tokens": round(context / samples)}


@torch.no_grad()
def perplexity(model, tokens, length: int = 1024, documents: int = 20) -> dict:
    """exp of the mean negative log-likelihood (nats) per token of held-out docstrings."""
    total, count, characters = 0.0, 0, 0
    for text in natural.documents(True)[:documents]:
        ids = tokens(text, return_tensors="pt").input_ids[:, :length]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum")
        total, count = total + float(loss), count + ids.shape[1] - 1
        characters += len(tokens.decode(ids[0, 1:]))
    return {"perplexity": math.exp(total / count), "tokens": count,
            "bits_per_character": total / math.log(2) / characters, "length": length}


def main(argv: list[str]) -> int:
    """Entry point: writes accuracy.json beside the model, lengths measured before are kept; with --train-words a second table of the same file."""
    parser = argparse.ArgumentParser(prog="kvlab evaluate-bundled", description=__doc__)
    parser.add_argument("--model", default="data/model")
    parser.add_argument("--out", default="data/model/accuracy.json")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024, 2048, 4096])
    parser.add_argument("--questions", type=int, default=100, help="questions per form and length, about")
    parser.add_argument("--train-words", action="store_true", help="keys of the training part, new seeds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop adding rows after this time")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model, tokens = load(args.model)
    words = TRAIN if args.train_words else HELD_OUT
    out = Path(args.out)
    whole = json.loads(out.read_text()) if out.exists() else {}
    before = whole.get("training_words", {}) if args.train_words else whole
    rows = [row for row in before.get("rows", ()) if row["length"] not in args.lengths]  # of other calls for the same model
    whole |= {"training_words": {"rows": rows}} if args.train_words else {"rows": rows, "natural": perplexity(model, tokens)}
    start = time.monotonic()
    for size in args.lengths:
        for case, (_, options) in CASES.items():
            if time.monotonic() - start > args.seconds:
                break
            each = 1 if options.get("keys") == 1 else 4  # questions a document; copies are long
            samples = max(1, args.questions // each)
            row = accuracy(model, tokens, case, size, samples, words)
            rows.append(row)
            print(json.dumps(row), flush=True)
            out.write_text(json.dumps(whole, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
