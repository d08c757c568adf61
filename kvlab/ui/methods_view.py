"""The pictures of the Methods page: what the two components are given, and where they are registered."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from kvlab import toy
from kvlab.method import AXES
from kvlab.registry import registry
from kvlab.toy import Toy
from kvlab.ui import marks
from kvlab.ui import methods_facts as facts
from kvlab.ui.head import caption
from kvlab.ui.palette import AXIS_TOKEN, css

WEB = Path(__file__).parent / "web"
SHARED = ("inside_dom", "picture", "cells", "inside_data", "methods_map")
FILTERS = ("axis", "acts", "needs", "source", "q")
"""Keys of the link that say what is shown of the field."""
PLACED = ("eviction", "heads", "merging", "retrieval", "quantization", "sparsity", "channels", "sharing", "reference")
"""Axes in the order of the picture: those that drop first, the full cache last; any other follows."""


@functools.cache
def _component(part: str) -> Callable[..., Any]:
    script = "\n".join((WEB / f"{name}.js").read_text() for name in (*SHARED, f"methods_{part}"))
    return st.components.v2.component(f"kvlab_methods_{part}", js=script, css=css() + (WEB / "methods.css").read_text(), html="<div></div>")


def gallery(asked: Mapping[str, str], arrival: int, on_change: Callable[[], None]) -> None:
    """Draw the field. After a choice `st.session_state["methods-field"].filter` holds it and `on_change` is called; a new `arrival` goes to `asked`."""
    header, body = _field()
    _component("gallery")(data=packed({**header, "filter": dict(asked), "arrival": arrival}, body), key="methods-field", on_filter_change=on_change)


def player(name: str, one: Toy) -> None:
    """Draw one method's toy at full size."""
    header, body = block([one])
    stamp, kind = hashlib.sha256(body).hexdigest()[:12], registry()[name]
    said = caption(kind.title, ((facts.first_sentence(kind), False),), f"{AXES[kind.axis]} · toy of 24 tokens, 2 layers of 2 KV heads", f"{name} {stamp}")
    _component("player")(data=packed({**header, "stamp": f"{name} {stamp}", "start": 1, "picture": said}, body), key=f"methods-toy-{name}")


def packed(header: Mapping[str, Any], body: bytes) -> bytes:
    """4 bytes length of the header, the header padded so that the arrays begin at a multiple of 8, the arrays."""
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-(len(head) + 4) % 8)
    return len(head).to_bytes(4, "little") + head + body


def block(toys: list[Toy]) -> tuple[dict[str, Any], bytes]:
    """The numbers of these toys, stacked, and the part of the header that finds them: arrays [N, ...] in the order given."""
    arrays = {
        "kind": np.stack([one.kind for one in toys]), "into": np.stack([one.into for one in toys]).astype(np.int32),
        "kbits": np.stack([one.bits[0] for one in toys]), "vbits": np.stack([one.bits[1] for one in toys]), "glow": np.stack([one.glow for one in toys]),
        "held": np.stack([one.held for one in toys]).astype(np.int32), "full": toys[0].full.astype(np.int32),
    }  # fmt: skip
    parts, where, offset = [], {}, 0
    for name, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        where[name] = {"kind": array.dtype.name, "at": offset, "size": int(array.size)}
        parts += [raw, bytes(-len(raw) % 8)]
        offset += len(raw) + (-len(raw) % 8)
    steps, layers, heads, positions = toys[0].kind.shape
    header = {"S": steps, "L": layers, "H": heads, "P": positions, "prompt": toy.PROMPT, "words": f"{toy.TEXT} {toy.WRITTEN}".split(),
              "precision": 32, "arrays": where}  # fmt: skip
    return header, b"".join(parts)


@functools.cache
def _field() -> tuple[dict[str, Any], bytes]:
    """The whole field: bands of cards, filters with their counts, and the toys."""
    found = {name: one for name in registry() if isinstance(one := toy.of(name), Toy)}
    places = {name: place for place, name in enumerate(found)}
    axes = sorted({kind.axis for kind in registry().values()}, key=lambda axis: PLACED.index(axis) if axis in PLACED else len(PLACED))
    bands = [
        {"title": AXES[axis], "hue": AXIS_TOKEN[axis], "cards": [card(name, places.get(name, -1)) for name, kind in registry().items() if kind.axis == axis]}
        for axis in axes
    ]
    header, body = block(list(found.values()))
    stamp = hashlib.sha256(body + repr(bands).encode()).hexdigest()[:12]
    return {**header, "bands": bands, "filters": filters([one for band in bands for one in band["cards"]]), "stamp": stamp}, body


def card(name: str, place: int) -> dict[str, Any]:
    """One small card; `place`: of its toy among all, -1 for none. `search` is what words are looked for in."""
    kind = registry()[name]
    made = kind()
    plan = made.schedule
    needs = facts.needs(made)
    searched = (name, kind.title, kind.paper, str(kind.year), AXES[kind.axis], facts.first_sentence(kind), *map(facts.need_words, needs), *kind.knobs(made))
    return {
        "name": name, "title": kind.title, "marker": marks.marker(name), "toy": place, "says": facts.first_sentence(kind), "axis": [kind.axis],
        "source": kind.source, "needs": needs or ["nothing"], "acts": facts.acts(made), "prefill": plan.prefill or plan.probes, "chunks": plan.chunks,
        "every": plan.every, "search": " ".join(searched).lower(),
    }  # fmt: skip


def filters(cards: list[dict[str, Any]]) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
    """(key, what it is called, choices as (value, words, how many cards)); choices nobody has are left out."""
    values = {
        "axis": dict(AXES), "acts": {word: word for word in ("at the prompt's end", "while writing", "at every read", "when the cache is built")},
        "needs": {**{name: words for name, (words, _) in facts.NEEDS.items()}, "nothing": "nothing"}, "source": facts.SOURCES,
    }  # fmt: skip
    said = {"axis": "axis", "acts": "time of acting", "needs": "need", "source": "source"}
    count = lambda key, value: sum(value in (one[key] if isinstance(one[key], list) else [one[key]]) for one in cards)  # noqa: E731
    return [(key, said[key], [(v, words, n) for v, words in choices.items() if (n := count(key, v))]) for key, choices in values.items()]


def step_table(one: Toy) -> pd.DataFrame:
    """The toy in numbers: for each step entries held and read of each layer and head, and the bytes."""
    steps, layers, heads, _ = one.kind.shape
    rows = []
    for step in range(steps):
        held = np.isin(one.kind[step], (toy.HELD, toy.UNREAD)).sum(-1)
        read = np.isin(one.kind[step], (toy.HELD, toy.ELSEWHERE)).sum(-1)
        each = {f"L{i} · H{h} held": int(held[i, h]) for i in range(layers) for h in range(heads)}
        rows.append({"step": step, "tokens": toy.PROMPT + step, **each, "entries read": int(read.sum()), "bytes held": int(one.held[step]),
                     "bytes of the full cache": int(one.full[step])})  # fmt: skip
    return pd.DataFrame(rows)
