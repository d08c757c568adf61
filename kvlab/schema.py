"""What a run from elsewhere must be before it is stored here: the fields and kinds that lists and pages rely on, and a trace that fits them."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvlab.method import AXES
from kvlab.trace import Trace

NUMBER = (int, float)
MANIFEST: dict[str, Any] = {
    "id": str, "created": str, "title": str, "method": str, "axis": tuple(AXES), "source": str, "model": str, "status": str, "text": str,
    "tokens": [int], "pieces": [str], "tops": [str], "kept": list, "prompt_tokens": int, "question_tokens": int,
    "knobs": {str: object}, "versions": {str: str}, "request": {str: object},
    "budget": {"asked": (str, type(None)), "realised": {str: NUMBER}},
    "bytes": dict.fromkeys(("full", "nominal", "predicted", "resident", "peak", "read_per_step"), NUMBER),
    "seconds": dict.fromkeys(("prefill", "decode_per_token"), NUMBER),
    "geometry": {"layers": int, "kv_heads": int, "query_heads": int, "windows": list},
}  # fmt: skip
"""A type, types or words for a value; [kind] for a list, {str: kind} for any names, else the names that must be there. More names may be."""


def check_run(manifest: dict[str, Any], trace: Trace) -> None:
    """Raise ValueError, with what is wrong in a few words, when `manifest` and `trace` are no run that kvlab can show."""
    if isinstance(manifest, dict) and manifest.get("schema", 1) != 1:
        raise ValueError("a run is of another version of kvlab")
    _check(manifest, MANIFEST, "the manifest")
    _check(manifest.get("parts", {}), {str: int}, "the parts")
    for name in ("prompt", "question"):
        _check(manifest["request"].get(name, ""), str, f"request {name}")
    if manifest["bytes"]["full"] <= 0 or manifest["bytes"]["resident"] < 0:
        raise ValueError("bytes are not above 0")
    shape, steps = trace.left_at.shape, len(trace.written)
    if shape != (manifest["geometry"]["layers"], manifest["geometry"]["kv_heads"], len(trace.ids)) or not 0 <= trace.prompt <= trace.asked <= len(trace.ids):
        raise ValueError("the trace is not that of the manifest")
    alike = (trace.merged_into, trace.score, trace.rank, trace.coded_at, *trace.bits)
    rows = (trace.attention, trace.full, trace.read)
    each = (trace.born, trace.logprob, trace.resident, trace.touched, trace.transient, trace.seconds)
    if (
        any(part.shape != shape for part in alike)
        or any(part.size and part.shape != (steps, *shape) for part in rows)
        or any(part.shape != (steps,) for part in each)
    ):
        raise ValueError("the arrays of the trace have different sizes")
    away = trace.away
    if away.ndim != 2 or away.dtype.kind != "i" or away.shape[1] != 5 or (away < 0).any() or (away[:, :3] >= shape).any():
        raise ValueError("the trace names entries that it does not have")
    if len(manifest["tokens"]) != steps or len(manifest["pieces"]) != trace.asked + steps:
        raise ValueError("the text of the manifest is not that of the trace")
    if steps and not 0 < int(np.max(trace.born)) <= len(trace.ids):
        raise ValueError("the trace names positions that it does not have")


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, dict):
        _check(value, dict, where)
        named = shape if str not in shape else dict.fromkeys(value, shape[str])
        if missing := sorted(named.keys() - value.keys()):
            raise ValueError(f"{where} lacks {missing[0]}")
        for name, kind in named.items():
            _check(value[name], kind, f"{where}'s {name}")
    elif isinstance(shape, list):
        _check(value, list, where)
        for item in value:
            _check(item, shape[0], where)
    elif isinstance(shape, tuple) and isinstance(shape[0], str):
        if value not in shape:
            raise ValueError(f"{where} is none that is known here")
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not object):
        raise ValueError(f"{where} is of another kind")
