"""Run one request from text to result: prefill, compression, question, tokens, and the four byte figures."""

from __future__ import annotations

import dataclasses
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers

import kvlab
from kvlab.codecs.account import by_part, side_bytes, true_bits
from kvlab.method import Method
from kvlab.models import LM, adapted
from kvlab.predict import predicted_bytes, settle
from kvlab.reference import replay
from kvlab.session import Sampler, Session, Stopped, timed
from kvlab.trace import Recorder, Trace

EMPTY = "The prompt is empty. Write or choose one."


@dataclass(frozen=True)
class Request:
    """What to run. `question` apart from `prompt`: compression happens before the question is seen, unless `aware` joins them."""

    prompt: str
    method: Method
    question: str = ""
    aware: bool = False
    max_new_tokens: int = 64
    seed: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    chunk: int = 1024
    template: bool = True
    attention: bool = True  # keep rows of attention weights in the trace
    compare: bool = False  # replay the written text through the full cache: its attention, its choices, the divergence
    stop_at_end: bool = True  # stop at the end-of-text token
    pinned: tuple[int, ...] = ()  # positions of prompt and question that no method may drop; they are held on top of its budget


@dataclass(frozen=True)
class Progress:
    """Prompt tokens read so far."""

    done: int
    total: int


@dataclass(frozen=True)
class Token:
    """One token written: its text, and the bytes and seconds of its step."""

    step: int
    token: int
    text: str
    logprob: float
    resident: int
    touched: int
    transient: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """What came out. `bytes` are full (by formula, uncompressed), nominal, predicted, resident (measured), peak, read_per_step; where a method
    codes entries, also bits_per_value (bits, scales and raw windows counted in) and side (codebooks, bases: beside the cache). `parts`: what the
    resident bytes are (`kvlab.codecs.account.PARTS`)."""

    text: str
    tokens: list[int]
    status: str  # done or stopped
    model: str
    method: str
    knobs: dict[str, Any]
    budget: dict[str, Any]
    bytes: dict[str, float]
    parts: dict[str, int]
    seconds: dict[str, float]
    prompt_tokens: int
    question_tokens: int
    kept: list[list[list[int]]]
    versions: dict[str, str]
    trace: Trace = field(repr=False, compare=False, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the trace, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "trace"}


def versions() -> dict[str, str]:
    """What made a number: kvlab, torch, transformers and Python."""
    return {"kvlab": kvlab.__version__, "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}


def check_length(lm: LM, tokens: int, new: int) -> None:
    """Refuse, with the numbers, what does not fit the model's context."""
    if tokens == 0:
        raise ValueError(EMPTY)
    if tokens + new > lm.geometry.context:
        raise ValueError(
            f"The prompt has {tokens:,} tokens and {new:,} are to be written, but {lm.name} was made for {lm.geometry.context:,} positions. "
            f"Shorten the prompt by {tokens + new - lm.geometry.context:,} tokens or write fewer."
        )


def run(lm: LM, request: Request, emit: Callable[[Progress | Token], None] = lambda event: None, stop: threading.Event | None = None) -> Result:
    """Run a request. Events come through `emit` as they happen; when `stop` is set the result so far returns with status "stopped".

    Raises ValueError with a clear sentence for anything that cannot be run.
    """
    if not request.prompt.strip():
        raise ValueError(EMPTY)
    context, question = lm.render(request.prompt, request.question, request.template)
    if request.aware:
        context, question = context + question, []
    check_length(lm, len(context) + len(question), request.max_new_tokens)
    total = len(context) + len(question) + request.max_new_tokens
    mine = adapted(lm, request.method)
    method = settle(request.method, mine.geometry, total, len(context))
    recorder = Recorder(mine.geometry.layers, mine.geometry.kv_heads, total, request.attention)
    session = Session(mine, method, chunk=request.chunk, recorder=recorder, stop=stop)
    if request.pinned:
        session.cache.pinned = torch.tensor(_pinned(request, len(context) + len(question)), device=lm.device)
    with torch.no_grad():
        ids, logits, seconds, status = _generate(session, request, context, question, emit)
    read = (context + question + ids)[: int(session.cache.tokens)]  # not the last token written, and after a stop perhaps less
    trace = recorder.trace(read, len(context), len(context) + len(question))
    if request.compare and ids and status == "done":  # a stop is honoured at once
        trace = replay(lm, trace, np.stack(logits))
    return _result(lm, request, session, trace, ids, seconds, status)


def _pinned(request: Request, asked: int) -> list[int]:
    """The positions to protect. Raises ValueError with a sentence where there are none such, or where a method melts entries into each other."""
    if strange := [position for position in request.pinned if not 0 <= position < asked]:
        raise ValueError(f"Prompt and question have the positions 0 to {asked - 1:,}; {strange[0]:,} is none of them and cannot be protected.")
    if merging := [part.title for part in request.method.members if part.axis == "merging"]:
        raise ValueError(f"{merging[0]} merges entries into each other, so none can be protected. Choose a method that drops entries.")
    return sorted(set(request.pinned))


def _generate(
    session: Session, request: Request, context: list[int], question: list[int], emit: Callable
) -> tuple[list[int], list[np.ndarray], dict[str, float], str]:
    """The loop. Returns token ids, the logits behind each, seconds, and how it ended."""
    lm, ids, kept_logits = session.lm, [], []
    sampler = Sampler(request.temperature, request.top_k, request.top_p, request.seed, lm.device)
    tensor = lambda x: torch.tensor([x], device=lm.device)  # noqa: E731
    start = clock = timed(lm.device)
    prefill, status = 0.0, "done"
    try:
        logits = session.prefill(tensor(context), question=bool(question), progress=lambda done, total: emit(Progress(done, total)))
        if question:
            logits = session.ask(tensor(question))
        prefill = timed(lm.device) - start
        clock = timed(lm.device)
        for step in range(request.max_new_tokens):
            token, logprob = sampler(tensor(context + question + ids), logits)
            ids.append(int(token))
            if request.compare:
                kept_logits.append(logits[0].float().cpu().numpy())
            now = timed(lm.device)
            numbers = session.recorder.step(session.cache, ids[-1], float(logprob), now - clock)
            emit(Token(step=step, text=lm.pieces([ids[-1]])[0], **{k: v for k, v in numbers.items() if k != "born"}))
            clock = now
            if (request.stop_at_end and ids[-1] in _ends(lm)) or step + 1 == request.max_new_tokens:
                break
            logits = session.decode(token)
    except Stopped:
        status = "stopped"
    decode = (clock - start - prefill) / max(1, len(ids) - 1)
    return ids, kept_logits, {"prefill": prefill, "decode_per_token": decode if len(ids) > 1 else 0.0}, status


def _ends(lm: LM) -> set[int]:
    ends = lm.model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [] if ends is None else [ends])


def kept_positions(session: Session) -> list[list[list[int]]]:
    """For each layer and KV head the sorted positions still held (first row of the batch)."""
    heads, found = session.lm.geometry.kv_heads, []
    for layer in session.cache.layers:
        store = (layer.follows or layer).store
        if store.empty:
            found.append([[] for _ in range(heads)])
            continue
        pos = store.pos()[0].expand(heads, -1)
        found.append([sorted(p for p in head if p >= 0) for head in pos.tolist()])
    return found


def _coded(session: Session) -> dict[str, float]:
    """Where a method codes what it holds: the bits that a value really takes, and the bytes of codebooks and the like beside all caches."""
    if not any(part.encodes for part in session.method.members) or not int(session.cache.tokens[0]):
        return {}
    return {"bits_per_value": true_bits(session.cache), "side": side_bytes(session.cache)}


def _result(lm: LM, request: Request, session: Session, trace: Trace, ids: list[int], seconds: dict[str, float], status: str) -> Result:
    method, seen = session.method, int(session.cache.tokens[0])
    kept = kept_positions(session)
    asked = next((part.budget for part in request.method.members if part.budget_knob), None)
    slots = np.mean([len(head) for layer, window in zip(kept, lm.geometry.windows, strict=True) for head in layer if window is None] or [0])
    full, resident = lm.geometry.full_bytes(seen), session.cache.nbytes()
    steps = trace.touched[1:] if len(trace.touched) > 1 else trace.touched
    return Result(
        text=lm.decode(ids[:-1] if ids and ids[-1] in _ends(lm) else ids),
        tokens=ids,
        status=status,
        model=lm.name,
        method=method.name,
        knobs=method.knobs(),
        budget={
            "asked": None if asked is None else str(asked),
            "realised": {"tokens": float(slots), "fraction": float(slots) / max(1, seen), "bytes": resident, "bytes_fraction": resident / max(1, full)},
        },
        bytes={
            "full": full,
            "nominal": round(full * method.kept(seen, trace.prompt) / max(1, seen)),
            "predicted": predicted_bytes(method, session.lm.geometry, seen, trace.prompt),
            "resident": resident,
            "peak": trace.peak,
            "read_per_step": float(np.mean(steps)) if len(steps) else 0.0,
            **_coded(session),
        },
        parts=by_part(session.cache),
        seconds=seconds,
        prompt_tokens=trace.prompt,
        question_tokens=trace.asked - trace.prompt,
        kept=kept,
        versions={**versions(), "model_revision": lm.revision, "dtype": lm.dtype, "device": str(lm.device)},
        trace=trace,
    )
