"""What the frame itself costs: `full` through kvlab against transformers' greedy decode with a DynamicCache, the same weights, in turn.

In a round both sides read the prompt in one call and write the same number of tokens. They take turns every `BLOCK` tokens, in the order
A B B A, so that a neighbour on the machine meets both. Two clocks run: wall time, and the CPU time of this process, which leaves out the
time the machine gave to others (though not what they do to its caches). A ratio is one round's; its interval is a bootstrap over rounds.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from kvlab.engine import versions
from kvlab.method import Method
from kvlab.models import LM, load
from kvlab.session import Session, timed

BLOCK = 16
"""Tokens a side writes before the other has its turn."""

MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Settings of glibc's allocator. As they stand, freed memory goes back to the system and faults in anew: up to a seventh of a prompt's time, by chance."""


def malloc() -> dict[str, str | None]:
    """`MALLOC` as this process and its children have them; None: not set."""
    return {name: os.environ.get(name) for name in MALLOC}


def plain_tokens(model: Any, ids: Tensor) -> Iterator[int]:
    """Greedy tokens over transformers' own cache: the first comes with the prompt, each later one costs one call of the model."""
    cache = DynamicCache(config=model.config)
    while True:
        token = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)
        yield int(token)
        ids = token[:, None]


def kvlab_tokens(lm: LM, ids: Tensor) -> Iterator[int]:
    """The same through a session with the full cache."""
    session = Session(lm, Method(), chunk=ids.shape[1])
    logits = session.prefill(ids)
    while True:
        token = logits.argmax(-1)
        yield int(token)
        logits = session.decode(token)


def one_round(sides: list[Iterator[int]], new: int, turn: int, device: torch.device) -> tuple[np.ndarray, list[list[int]]]:
    """Seconds [side, prompt or tokens, wall or CPU] and the tokens of each side. Odd turns begin with the second side."""
    seconds, written = np.zeros((len(sides), 2, 2)), [[] for _ in sides]
    for block, count in enumerate([1] + [min(BLOCK, new - start) for start in range(0, new, BLOCK)]):
        order = range(len(sides)) if (turn + block) % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            wall, cpu = timed(device), time.process_time()
            written[side] += [next(sides[side]) for _ in range(count)]
            seconds[side, min(block, 1)] += timed(device) - wall, time.process_time() - cpu
    return seconds, written


def ratio(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Median over rounds of ours / theirs, both [R], with the 95 % interval of that median by bootstrap over the rounds."""
    each = ours / theirs
    drawn = np.random.default_rng(0).choice(each, (10_000, len(each)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {"median": round(float(np.median(each)), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def figures(seconds: np.ndarray) -> dict[str, Any]:
    """Of one clock, seconds [R, side, prompt or tokens]: ratios of kvlab to transformers, and the medians behind them."""
    theirs, ours = seconds[:, 0], seconds[:, 1]
    median = np.median(seconds, axis=0).round(4).tolist()
    return {
        "ratio_total": ratio(ours.sum(1), theirs.sum(1)),
        "ratio_prefill": ratio(ours[:, 0], theirs[:, 0]),
        "ratio_decode": ratio(ours[:, 1], theirs[:, 1]),
        "median_s": {side: {"prefill": pair[0], "decode": pair[1]} for side, pair in zip(("transformers", "kvlab"), median, strict=True)},
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--prompt", type=int, default=1024, help="prompt tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens written")
    parser.add_argument("--rounds", type=int, default=9)


@torch.no_grad()
def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Both sides over `args.rounds` rounds, after one that warms up."""
    lm, before = load(args.model), os.getloadavg()
    config = copy.deepcopy(lm.model.config)
    config._attn_implementation = "sdpa"
    plain = type(lm.model)(config).to(lm.device, lm.model.dtype).eval()
    plain.load_state_dict(lm.model.state_dict(), assign=True)  # the same tensors: one copy of the weights in the machine's caches
    ids = torch.randint(0, lm.model.config.vocab_size, (1, args.prompt), generator=torch.Generator().manual_seed(0)).to(lm.device)
    taken, same = [], True
    for turn in range(args.rounds + 1):
        seconds, (theirs, ours) = one_round([plain_tokens(plain, ids), kvlab_tokens(lm, ids)], args.new, turn, lm.device)
        taken.append(seconds)
        same &= theirs == ours
    if not same:
        print("kvlab: the two wrote different tokens, so the times do not compare", file=sys.stderr)
    wall, cpu = np.moveaxis(np.stack(taken[1:]), -1, 0)
    return {
        "what": "full cache through kvlab against transformers with DynamicCache, greedy; ratios are kvlab / transformers",
        "wall": figures(wall),
        "cpu": figures(cpu),
        "same_tokens": same,
        "setting": {
            "model": args.model, "prompt": args.prompt, "new": args.new, "rounds": args.rounds, "block": BLOCK,
            "device": str(lm.device), "dtype": lm.dtype, "threads": torch.get_num_threads(), "malloc": malloc(),
        },
        "machine": {"cores": os.cpu_count(), "load_before": before, "load_after": os.getloadavg()},
        "versions": versions(),
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m kvlab bench frame --model {args.model} --prompt {args.prompt} --new {args.new} --rounds {args.rounds}",
    }  # fmt: skip
