"""Finds the attention sink and the retrieval heads of the bundled model.

Sink: mean share of attention on the first token, per layer and query head.
Retrieval: at each position that predicts an answer token, the share of
attention on that same token inside the needle sentence ("copied") and on the
whole sentence ("needle"), and how often the copied token gets the most.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from kvlab.bundled import forms
from kvlab.bundled.evaluate import load
from kvlab.bundled.words import HELD_OUT


def needle_span(tokens, context: str, needle: str) -> tuple[int, int]:
    """First and last + 1 token index of the needle in the encoded context (special token counted)."""
    start = context.index(needle)
    offsets = tokens(context, return_offsets_mapping=True)["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(offsets) if b > start and a < start + len(needle) and b > a]
    return inside[0], inside[-1] + 1


def _encode(tokens, sample):
    """ids [1, n], index of the first answer token, and (query, source) pairs of copied tokens."""
    context = tokens(sample.context).input_ids
    question = tokens(sample.questions[0], add_special_tokens=False).input_ids
    target = tokens(sample.targets[0], add_special_tokens=False).input_ids[:-1]  # without the full stop
    start, stop = needle_span(tokens, sample.context, sample.needles[0])
    first = len(context) + len(question)
    pairs = []
    for j, token in enumerate(target):
        places = [i for i in range(start, stop) if context[i] == token]
        if places:
            pairs.append((first + j - 1, places[-1]))
    return torch.tensor([context + question + target]), pairs, (start, stop)


@torch.no_grad()
def analyse(model, tokens, samples: int = 40, size: int = 512, seed: str = "heads") -> dict:
    """Scores [layers][query heads], means over `samples` held-out single-needle documents."""
    model.set_attn_implementation("eager")
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    sink, copied, whole, hits = (torch.zeros(shape) for _ in range(4))
    uniform, count = 0.0, 0
    fast = tokens.backend_tokenizer
    for i in range(samples):
        sample = forms.make("needle", f"{seed}-{i}", size, HELD_OUT, keys=3, kind="sentences", questions=1,
                            count=lambda t: len(fast.encode(t, add_special_tokens=False).ids))
        ids, pairs, (start, stop) = _encode(tokens, sample)
        attention = torch.stack([a[0] for a in model(input_ids=ids, output_attentions=True).attentions])
        sink += attention[:, :, 16:, 0].mean(-1)
        uniform += float((1 / torch.arange(17, ids.shape[1] + 1)).mean())
        for query, source in pairs:
            row = attention[:, :, query]
            copied += row[:, :, source]
            whole += row[:, :, start:stop].sum(-1)
            hits += row.argmax(-1) == source
            count += 1
    return _result(sink / samples, copied / count, whole / count, hits / count, uniform / samples, samples, size)


def _result(sink, copied, whole, hits, uniform, samples, size) -> dict:
    ranked = sorted(
        ((float(hits[i, j]), float(copied[i, j]), i, j) for i in range(hits.shape[0]) for j in range(hits.shape[1])),
        reverse=True,
    )
    retrieval = [
        {"layer": i, "head": j, "argmax_rate": round(h, 3), "copied_share": round(c, 3)}
        for h, c, i, j in ranked
        if h >= 0.1
    ]

    def table(values):
        return [[round(float(v), 4) for v in row] for row in values]

    return {
        "samples": samples,
        "size": size,
        "sink_share": table(sink),
        "sink_share_if_uniform": round(uniform, 4),
        "copied_share": table(copied),
        "needle_share": table(whole),
        "copied_argmax_rate": table(hits),
        "retrieval_heads": retrieval,
    }


def main(argv: list[str]) -> int:
    """Writes heads.json beside the model."""
    parser = argparse.ArgumentParser(prog="kvlab heads", description=__doc__)
    parser.add_argument("--model", default="data/model")
    parser.add_argument("--out", default="data/model/heads.json")
    parser.add_argument("--samples", type=int, default=40)
    args = parser.parse_args(argv)
    torch.set_num_threads(2)
    result = analyse(*load(args.model), samples=args.samples)
    Path(args.out).write_text(json.dumps(result) + "\n")
    print(json.dumps(result["retrieval_heads"][:8]))
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
