"""The form of the Plan page: model, GPU, load, methods, floor. All of it answers at once; nothing is loaded."""

from __future__ import annotations

from html import escape
from typing import Any

import streamlit as st

from kvlab.planner import shapes
from kvlab.planner.answer import MOST
from kvlab.planner.gpus import GPUS
from kvlab.planner.memory import DTYPES
from kvlab.planner.mix import HOW
from kvlab.planner.shapes import LIMIT, Shape
from kvlab.registry import registry
from kvlab.ui.form import label, problem
from kvlab.ui.plan_asked import OWN, RANGES, keep_config, take_gpu

KEEP: dict[str, Any] = {"persist_state": "session"}


def draw(shape: Shape | None, tasks: list[str]) -> None:
    """The whole form in one card. `shape`: the chosen model, None where it cannot be read."""
    with st.container(border=True, key="card-plan-form", gap="small"):
        _model(shape)
        _gpu()
        _load()
        _methods()
        _floor(tasks)


def _model(shape: Shape | None) -> None:
    state = st.session_state
    label("Model", "its config only")
    known = dict.fromkeys([*shapes.shipped(), state["plan-shape"]])
    titles = {key: said["title"] for key, said in shapes.shipped().items()} | ({shape.key: shape.title} if shape else {})
    with st.container(horizontal=True, vertical_alignment="bottom", key="plan-model", gap="small"):
        st.selectbox("Model", list(known), key="plan-shape", format_func=lambda key: titles.get(key, key), label_visibility="collapsed", **KEEP)
        with st.popover("Paste"):
            _paste()
    if shape:
        vision = " Its vision part is not counted." if shape.vision else ""
        st.html(f'<p class="kv-small">{escape(shape.line)}.{vision}</p>')
    st.segmented_control("Weights held in", list(DTYPES), key="plan-weights", required=True, **KEEP)


def _paste() -> None:
    """A config.json as text or as a file; checked on the server, kept under its hash."""
    st.html(f'<p class="kv-small">A model\'s config.json, at most {LIMIT // 1000} kB. No weights, no code.</p>')
    st.text_area("config.json", key="plan-text", height=160, placeholder='{"model_type": "llama", ...}')
    file = st.file_uploader("or the file", type=["json"], key="plan-file", max_upload_size=1)
    st.button("Use this config", key="plan-use", on_click=_use, args=(file,), type="primary")
    if sentence := st.session_state.get("plan_pasted_wrong"):
        problem(sentence)


def _use(file: Any) -> None:
    state = st.session_state
    state["plan_pasted_wrong"] = ""
    try:
        data = file.getvalue() if file else b""
        if len(data) > LIMIT:
            raise ValueError(f"The file has {len(data):,} bytes; at most {LIMIT:,} are read. A config.json is a few thousand.")
        state["plan-shape"] = keep_config(data.decode("utf-8-sig") if file else state.get("plan-text") or "").key
    except UnicodeDecodeError as error:
        state["plan_pasted_wrong"] = f"The file is not UTF-8 text: byte {error.start:,} cannot be read. Save it as UTF-8."
    except ValueError as error:
        state["plan_pasted_wrong"] = str(error)


def _gpu() -> None:
    label("GPU", "figures of its maker, yours to change")
    state = st.session_state
    st.selectbox("GPU", [*GPUS, OWN], key="plan-gpu", format_func=lambda key: GPUS[key].title if key in GPUS else "Own figures",
                 on_change=lambda: take_gpu(state), label_visibility="collapsed", **KEEP)  # fmt: skip
    with st.container(key="plan-grid-gpu"):
        _number("Memory, GiB", "mem", 1.0, own=True)
        _number("GPUs", "gpus", 1)
        _number("Usable, %", "usable", 5)
        _number("Bandwidth, GB/s", "bw", 50.0, own=True)
        _number("Peak, TFLOP/s", "peak", 10.0, own=True)
    found = GPUS.get(state["plan-gpu"])
    st.html(f'<p class="kv-small">{escape(found.source if found else "Your own figures")}. Bandwidth and peak bound the speed, they do not foretell it.</p>')


def _load() -> None:
    label("Load")
    with st.container(key="plan-grid-load"):
        _number("Context, tokens", "context", 1024)
        _number("of them written", "written", 64)
        _number("Users at once", "users", 1)
    st.text_input("Lengths, where users differ", key="plan-mix", max_chars=120, placeholder="4k 70%, 16k 25%, 64k 5%", help=HOW, **KEEP)


def _methods() -> None:
    label("Methods", f"up to {MOST}, joined with +")
    known = dict.fromkeys([*(name for name in registry() if name != "full"), *st.session_state["plan-compress"], "snapkv+kivi"])
    st.multiselect("Methods", list(known), key="plan-compress", accept_new_options=True, max_selections=MOST, label_visibility="collapsed",
                   format_func=title_of, placeholder="Choose methods to compare with the full cache", **KEEP)  # fmt: skip
    low, high = RANGES["keep"]
    st.slider("Kept of the prompt, by methods that drop", int(low), int(high), key="plan-keep", format="%d %%", **KEEP)


def title_of(name: str) -> str:
    """SnapKV + KIVI of snapkv+kivi; a name nobody knows as it is."""
    return " + ".join(registry()[part].title if part in registry() else part for part in name.split("+"))


def _floor(tasks: list[str]) -> None:
    label("Quality floor", "share of the full cache's score")
    low, high = RANGES["floor"]
    st.slider("Quality floor", int(low), int(high), key="plan-floor", format="%d %%", label_visibility="collapsed", **KEEP)
    if st.session_state["plan-evidence"] not in ("", *tasks):
        st.session_state["plan-evidence"] = ""
    st.selectbox("on", ["", *tasks], key="plan-evidence", format_func=lambda task: task or "every measured task, the worst one counts", **KEEP)


def _changed() -> None:
    """Figures that were changed by hand are no longer those of a data sheet."""
    st.session_state["plan-gpu"] = OWN


def _number(words: str, name: str, by: float, own: bool = False) -> None:
    low, high = (type(by)(bound) for bound in RANGES[name])
    look = {"format": "%g" if isinstance(by, float) else None, "on_change": _changed if own else "rerun"}
    st.number_input(words, low, high, step=by, key=f"plan-{name}", **look, **KEEP)
