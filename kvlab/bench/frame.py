"""What the frame itself costs: `full` through kvlab against transformers' greedy decode with a DynamicCache, same weights, in turn."""

from __future__ import annotations

import copy
import statistics
import sys
import time
from typing import Any

import torch
from transformers import DynamicCache

from kvlab.engine import versions
from kvlab.method import Method
from kvlab.models import LM, load
from kvlab.session import Session, timed


@torch.no_grad()
def plain_decode(model: Any, ids: torch.Tensor, new: int) -> tuple[float, float, list[int]]:
    """Prefill seconds, decode seconds and tokens of a bare greedy loop over transformers' own cache."""
    cache, start = DynamicCache(config=model.config), timed(ids.device)
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    middle, out = timed(ids.device), []
    for _ in range(new):
        token = logits.argmax(-1)
        out.append(int(token))
        logits = model(input_ids=token[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    return middle - start, timed(ids.device) - middle, out


@torch.no_grad()
def kvlab_decode(lm: LM, ids: torch.Tensor, new: int) -> tuple[float, float, list[int]]:
    """The same through a session with the full cache."""
    session, start = Session(lm, Method()), timed(ids.device)
    logits = session.prefill(ids)
    middle, out = timed(ids.device), []
    for _ in range(new):
        token = logits.argmax(-1)
        out.append(int(token))
        logits = session.decode(token)
    return middle - start, timed(ids.device) - middle, out


def bench(name: str, prompt: int, new: int, rounds: int) -> dict[str, Any]:
    """Medians over `rounds`, the two in turn; the order within a round alternates."""
    lm = load(name)
    config = copy.deepcopy(lm.model.config)
    config._attn_implementation = "sdpa"
    plain = type(lm.model)(config).to(lm.device, lm.model.dtype).eval()
    plain.load_state_dict(lm.model.state_dict())
    ids = torch.randint(0, lm.model.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0)).to(lm.device)
    sides = {"transformers": lambda: plain_decode(plain, ids, new), "kvlab": lambda: kvlab_decode(lm, ids, new)}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    tokens = {}
    for turn in range(rounds + 1):
        for side in sorted(sides, reverse=bool(turn % 2)):
            prefill, decode, tokens[side] = sides[side]()
            if turn:  # the first round warms up
                times[side].append((prefill, decode))
    if tokens["kvlab"] != tokens["transformers"]:
        print("kvlab: the two wrote different tokens, so the times do not compare", file=sys.stderr)
    median = {side: {"prefill_s": statistics.median(t[0] for t in ts), "decode_s": statistics.median(t[1] for t in ts)} for side, ts in times.items()}
    pairs = zip(times["kvlab"], times["transformers"], strict=True)
    return {
        "what": "full cache through kvlab against transformers with DynamicCache, greedy",
        "ratio_total": sum(median["kvlab"].values()) / sum(median["transformers"].values()),
        "ratio_decode": median["kvlab"]["decode_s"] / median["transformers"]["decode_s"],
        "ratio_median_of_pairs": statistics.median(sum(a) / sum(b) for a, b in pairs),
        "same_tokens": tokens["kvlab"] == tokens["transformers"],
        "median": median,
        "setting": {
            "model": name, "prompt": prompt, "new": new, "rounds": rounds,
            "device": str(lm.device), "dtype": lm.dtype, "threads": torch.get_num_threads(),
        },
        "versions": versions(),
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m kvlab bench frame --model {name} --prompt {prompt} --new {new} --rounds {rounds}",
    }
