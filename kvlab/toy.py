"""A toy for the method cards: every method, as it is, on 24 tokens of a model that is made in a moment. `python -m kvlab.toy` writes data/toys.npz.

The model is a Llama of two layers with random weights from a fixed seed, given two habits of trained models so that the pictures are worth
looking at: queries look at the first token whatever it says (a sink), and words look at their like. The text is given, so that all methods
see the same tokens: 16 of a prompt, read in one piece, then 8 that are written one by one. What is shown is what the recorder of a run writes
down. It says what a method does, and nothing of how well.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from kvlab.budget import Budget
from kvlab.method import Method
from kvlab.models import DATA, LM
from kvlab.registry import registry
from kvlab.session import Session
from kvlab.trace import Recorder, Trace

TEXT = "<s> the code of the green falcon is 7 . the red fox has a hat"
WRITTEN = "the code of the green falcon is 7"
PROMPT, STEPS = len(TEXT.split()), len(WRITTEN.split())
LAYERS, HEADS, GROUP, SIZE, HIDDEN, VOCAB = 2, 2, 2, 16, 64, 128
BUDGET = Budget(0.5)
FILE = DATA / "toys.npz"

KINDS = ("later", "held", "evicted", "merged", "unread", "elsewhere")
"""What an entry is at a step; the number in `Toy.kind` is the place here. "elsewhere": this layer holds nothing, it reads a lower layer's entries."""
LATER, HELD, EVICTED, MERGED, UNREAD, ELSEWHERE = range(len(KINDS))

SMALL: dict[str, Any] = {
    "window": 2, "recent": 2, "sinks": 1, "newest": 1, "lag": 4, "page": 4, "dense": 0, "block": 4, "stride": 4, "buffer": 4, "group": 8, "residual": 8,
    "gap": 8, "kernel": 3, "chunk": 8, "decode": 4, "future": 8, "rebuild": 2, "neighbours": 4, "distance": 16, "rank": 2, "later_rank": 1,
    "passages": 4, "length": 16, "rows": 40, "epochs": 2, "hidden": 8, "steps": 3, "size": 4, "prompts": 16, "atoms": 32, "terms": 3, "delta": 2, "rate": 0.5,
    "whole": 1, "whole_last": 0, "every": 1, "adore.controller": "attention", "kvsharer.share": 0.5, "kvsharer.threshold": -1.0, "mergear.alike": 0.6,
    "windowkv.size": 2, "windowkv.group": 1, "windowkv.beta": 2, "xkv.group": 2, "xkv.key_rank": 0.25, "xkv.value_rank": 0.25,
    "infllm.local": 4, "infllm.blocks": 1, "infllm.best": 2, "magicpig.dense": 2, "magicpig.bits": 4, "magicpig.tables": 8,
}  # fmt: skip
"""Knobs made small enough to act on 16 tokens, by name, or by method and name where one name means several things."""


class Words:
    """The least that a method may ask of a tokenizer: one id for each word, the same in every process."""

    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [sum(i * ord(letter) for i, letter in enumerate(word, 1)) % VOCAB for word in text.split()]}

    def decode(self, ids: list[int], **kwargs: Any) -> str:
        return " ".join(f"w{i}" for i in ids)


@functools.cache
def model() -> LM:
    """The toy model; its revision is a digest of its weights, so that what was calibrated for it is found again."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=HEADS * GROUP,
        num_key_value_heads=HEADS, head_dim=SIZE, max_position_embeddings=256, initializer_range=0.16, attention_bias=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        made = LlamaForCausalLM(config)
        first = Words()(TEXT)["input_ids"][0]
        for layer in made.model.layers:
            _give_habits(layer.self_attn, made.model.embed_tokens.weight[first])
    digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in made.state_dict().values())).hexdigest()[:12]
    return LM.wrap(made, Words(), name="toy", revision=f"toy-{digest}")


def _give_habits(attention: Any, sink: Tensor) -> None:
    """Keys become half of their queries, so that like looks at like; the slowest pair of channels, which RoPE hardly turns, becomes the sink's."""
    queries = attention.q_proj.weight.view(HEADS, GROUP, SIZE, HIDDEN).mean(1)
    keys = attention.k_proj.weight.view(HEADS, SIZE, HIDDEN)
    keys.mul_(0.6).add_(queries)
    keys[:, SIZE // 2 - 1] = sink / sink.norm() * 0.5
    attention.q_proj.bias.view(HEADS, GROUP, SIZE)[..., SIZE // 2 - 1] = 4.0


@dataclass(frozen=True, eq=False)
class Toy:
    """One method's run on the toy. S steps (0: the prompt's last query), L layers, H KV heads, P positions.

    knobs: those that are not the method's defaults. kind [S, L, H, P] uint8: what each entry is when step s looks back, see `KINDS`.
    into [L, H, P] int16: the position an entry was merged into, or -1. bits [2, S, L, H, P] uint8: bits per value of its key and its value, 0
    for full precision. glow [S, L, H, P] uint8: 255 times the root of the attention it gets, mean over the query heads of its KV head.
    held, full [S] int64: bytes of this cache, measured, and of the full one.
    """

    knobs: dict[str, Any]
    kind: np.ndarray
    into: np.ndarray
    bits: np.ndarray
    glow: np.ndarray
    held: np.ndarray
    full: np.ndarray


def method(name: str) -> Method:
    """The method with half of the prompt as its budget, and with knobs that are small enough to act on 16 tokens."""
    kind = registry()[name]
    knobs = {f.name: value for f in dataclasses.fields(kind) if (value := _small(name, f)) is not None}
    made = kind(**knobs)
    return made.with_budget(BUDGET) if made.budget_knob else made


def _small(name: str, f: dataclasses.Field) -> Any:
    """The small value of a knob within its own range, or None to leave it as it is."""
    if (own := SMALL.get(f"{name}.{f.name}")) is not None:
        return own
    value = SMALL.get(f.name)
    if value is None or type(f.default) is not type(value) or f.default <= value:
        return None
    if choices := f.metadata.get("choices"):
        return min(choices, key=lambda choice: abs(choice - value))
    return max(value, f.metadata.get("low") or 0)


def changed(made: Method) -> dict[str, Any]:
    """The knobs whose values in the toy are not the defaults."""
    usual = type(made)().knobs()
    return {name: value for name, value in made.knobs().items() if value != usual[name]}


def play(name: str) -> Toy:
    """Run the method on the toy. Raises ValueError with a sentence when it does not take this model."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # some methods calibrate with a draw
        return _play(method(name))


def ids() -> Tensor:
    """Token ids of the prompt and of what is written, [P] int64."""
    return torch.tensor(model().encode(f"{TEXT} {WRITTEN}"))


def _play(made: Method) -> Toy:
    text, recorder = ids(), Recorder(LAYERS, HEADS, PROMPT + STEPS)
    session = Session(model(), made, recorder=recorder)
    bits = [recorder.bits.copy()]
    for step in range(STEPS + 1):
        if step:
            session.decode(text[PROMPT + step - 1 : PROMPT + step])
        else:
            session.prefill(text[None, :PROMPT])
        recorder.step(session.cache, int(text[min(PROMPT + step, len(text) - 1)]), 0, 0)
        bits.append(recorder.bits.copy())
    trace = recorder.trace(text.tolist(), PROMPT, PROMPT)
    return Toy(
        knobs=changed(made),
        kind=np.stack([kinds(trace, step, session.cache.owners) for step in range(STEPS + 1)]),
        into=trace.merged_into.astype(np.int16),
        bits=np.stack(bits[:-1], axis=1),
        glow=np.round(255 * np.sqrt(trace.attention.astype(np.float32).clip(0, 1))).astype(np.uint8),
        held=trace.resident,
        full=np.array([session.lm.geometry.full_bytes(int(born)) for born in trace.born]),
    )


def kinds(trace: Trace, step: int, owners: list[int]) -> np.ndarray:
    """What every entry was when `step` looked back: [L, H, P] as `Toy.kind` has it; `owners`: the layer whose store each layer reads."""
    held = trace.held(step)
    found = np.where(held, HELD, np.where(trace.merged_into >= 0, MERGED, EVICTED)).astype(np.uint8)
    if trace.read.size:
        found[held & trace.read[step].any(-1, keepdims=True) & ~trace.read[step]] = UNREAD
    for layer, owner in enumerate(owners):
        if owner != layer:
            found[layer][held[layer]] = ELSEWHERE
    found[..., trace.born[step] :] = LATER
    return found


ARRAYS = ("kind", "into", "bits", "glow", "held", "full")


def save(toys: dict[str, Toy], path: Path = FILE) -> None:
    """Write toys to one file; all have the same shapes."""
    stacked = {name: np.stack([getattr(toy, name) for toy in toys.values()]) for name in ARRAYS}
    np.savez_compressed(path, names=list(toys), knobs=[json.dumps(toy.knobs) for toy in toys.values()], **stacked)


@functools.cache
def shipped() -> dict[str, Toy]:
    """The toys that came with kvlab, by method: so that a page can show all of them at once. The tests play each again and compare."""
    if not FILE.exists():
        return {}
    with np.load(FILE, allow_pickle=False) as data:
        held = {name: data[name] for name in data.files}
    return {
        str(name): Toy(json.loads(str(held["knobs"][i])), *(held[array][i] for array in ARRAYS)) for i, name in enumerate(held["names"])
    }


@functools.cache
def of(name: str) -> Toy | str:
    """The toy of a method, played now if it did not come with kvlab; or the sentence that says why it has none."""
    if name in shipped():
        return shipped()[name]
    try:
        return play(name)
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    save({name: play(name) for name in registry()})
