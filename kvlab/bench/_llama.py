"""A decode of a whole model on a CUDA device: Llama-3.1-8B's shape with random weights, through kvlab, with the kernels and without.

The cache is filled with random keys and values instead of a prompt, and entries to keep are drawn instead of scored: neither changes what
a step costs.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from kvlab import kernels
from kvlab.models import LM
from kvlab.phase import Phase
from kvlab.registry import make
from kvlab.session import Session, timed

STEPS = 16
CACHES = {
    "full": ("full", {}, 1.0), "kivi-4": ("kivi", {"bits": "4"}, 1.0), "kivi-2": ("kivi", {"bits": "2"}, 1.0),
    "snapkv 0.25": ("full", {}, 0.25), "snapkv 0.25 + kivi-4": ("kivi", {"bits": "4"}, 0.25),
}  # fmt: skip
"""By the name on screen: the method that works while tokens are written, its knobs, and the share of the prompt that was kept."""


def random_model(config: LlamaConfig, device: str, dtype: torch.dtype) -> LM:
    """Weights drawn on the device."""
    with torch.device(device):
        return LM.wrap(AutoModelForCausalLM.from_config(config, dtype=dtype), name="random", revision="random")


def filled(lm: LM, name: str, tokens: int) -> Session:
    """A session at the end of a prompt of `tokens`."""
    method, knobs, kept = CACHES[name]
    session = Session(lm, make(method, None, knobs))
    geometry, cache = lm.geometry, session.cache
    count = int(tokens * kept)
    for layer in cache.layers:
        shape = (1, geometry.kv_heads, count, geometry.head_dim)
        k, v = (torch.randn(shape, device=lm.device, dtype=lm.model.dtype) for _ in range(2))
        pos = torch.randperm(tokens, device=lm.device)[:count].sort().values.int()
        layer.store.append(k, v, pos[None])
        layer.seen = tokens
    cache.tokens = cache.prompt = cache.tokens + tokens
    cache.phase = Phase("prefill", writes=True)
    cache.finish()
    return session


def steps(session: Session, count: int) -> float:
    """Seconds of `count` greedy steps, after one that warms up."""
    device = session.lm.device
    token = session.decode(torch.zeros(1, dtype=torch.long, device=device)).argmax(-1)
    begin = timed(device)
    for _ in range(count):
        token = session.decode(token).argmax(-1)
    return timed(device) - begin


@torch.no_grad()
def whole_model(tokens: int) -> list[dict[str, Any]]:
    """Bytes held, tokens per second and peak memory at `tokens`, batch 1."""
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        max_position_embeddings=2 * tokens,
    )  # fmt: skip
    lm, found, wanted = random_model(config, "cuda", torch.bfloat16), [], kernels.wanted
    for name in CACHES:
        for through in ("kernels", "torch"):
            session = filled(lm, name, tokens)
            torch.cuda.reset_peak_memory_stats()
            try:
                kernels.wanted = wanted if through == "kernels" else lambda q: False
                seconds = steps(session, STEPS)
            finally:
                kernels.wanted = wanted
            figures = {"resident": session.cache.nbytes(), "tokens_s": round(STEPS / seconds, 2), "peak": torch.cuda.max_memory_allocated()}
            found.append({"tokens": tokens, "cache": name, "through": through, **figures})
            del session
            torch.cuda.empty_cache()
    return found
