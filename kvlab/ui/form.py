"""The left column of the Run page: model, prompt, budget, generation. Every value lives in the session under a key that starts with "run-"."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from html import escape
from typing import Any
from urllib.parse import quote

import streamlit as st

from kvlab.presets import NEW_TOKENS
from kvlab.presets import presets as shipped
from kvlab.registry import registry
from kvlab.ui import marks, own_tasks, upload
from kvlab.ui.estimate import size, unit
from kvlab.ui.service import Card, card, first_model, service

KEEP: dict[str, Any] = {"persist_state": "session"}  # going to another page and back loses nothing
NEW_MOST = 1024


@cache
def presets() -> dict[str, dict[str, Any]]:
    """The prompts shipped in data/prompts, by id."""
    return {said["id"]: said for said in shipped()}


def begin() -> None:
    """Defaults of a new session: the first preset with what it suggests, so that one press of Run works."""
    first = next(iter(presets()), None)
    defaults = {
        "model": first_model(), "source": "Preset" if first else "Write", "preset": first, "text": "", "question": "", "file": "", "before": True,
        "unit": "%", "share": 0.25, "new": 36, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0, "chunk": 1024,
        "stop_at_end": True, "template": True, "attention": True,
    }  # fmt: skip
    if "run-model" not in st.session_state:
        for name, value in defaults.items():
            st.session_state[f"run-{name}"] = value
        st.session_state["run-pick-axis-drop"] = ["snapkv"]
        take_preset()
    take_link()


def take_link() -> None:
    """A link that names a preset (`?preset=`) or a method or composition (`?methods=`) fills the form with it, once: what is changed afterwards stays."""
    asked, name = st.query_params.get("preset"), st.query_params.get("methods", "").replace(" ", "+")  # a plus in an address is a space
    fresh = st.session_state.get("run_link") != (asked, name)
    if asked and asked not in presets():
        problem(f"There is no preset \u201c{asked[:60]}\u201d. Choose one in the list.")
    elif asked and fresh:
        st.session_state.update({"run-source": "Preset", "run-preset": asked})
        take_preset()
    if name and not set(name.split("+")) <= set(registry()):
        problem(f"There is no method \u201c{name[:60]}\u201d. Choose one below.")
    elif name and fresh:
        choose(name, {})
    st.session_state["run_link"] = asked, name


def take_preset() -> None:
    """Fill the form from the chosen preset: question, text to edit, method and budget."""
    chosen = presets().get(st.session_state.get("run-preset"))
    if not chosen:
        return
    st.session_state.update({"run-text": chosen["context"], "run-question": chosen.get("question", ""), "run-before": True, "run-new": NEW_TOKENS})
    suggest = chosen.get("suggest") or {}
    if suggest.get("method"):
        choose(suggest["method"], suggest.get("knobs") or {})
    if suggest.get("budget"):
        st.session_state.update({"run-unit": "%", "run-share": float(suggest["budget"])})
        st.session_state.pop("run-slider", None)


def choose(name: str, knobs: dict[str, Any]) -> None:
    """Select exactly this method or composition, with these knobs and no others; a knob is named `window` or `snapkv.window`."""
    first, *others = [part for part in name.split("+") if part in registry()] or [None]
    for hue, kinds in marks.groups().items():
        st.session_state[f"run-pick-{hue}"] = [first] if first in [kind.name for kind in kinds] else []
    for key in [key for key in st.session_state if str(key).startswith("run-knob-")]:
        del st.session_state[key]
    for part in filter(None, [first, *others]):
        for field in fields(registry()[part]):
            if (value := knobs.get(f"{part}.{field.name}", knobs.get(field.name))) is not None and field.name != "budget":
                st.session_state[f"run-knob-{first}-{part}-{field.name}"] = value
    if first:
        st.session_state[f"run-with-{first}"] = others


def label(text: str, right: str = "") -> None:
    """A heading inside the form, with a word at its right."""
    st.html(f'<div class="kv-label"><b>{escape(text)}</b><span>{right}</span></div>')


def model_part() -> Card | None:
    """The model picker with its capability line; a sentence instead when it cannot be read."""
    known = list(dict.fromkeys([first_model(), "bundled", st.session_state["run-model"]]))
    name = st.selectbox(
        "Model", known, key="run-model", accept_new_options=True, help="Choose, or type a Hugging Face id or a local folder.",
        format_func=lambda name: "kvlab tiny, bundled" if name == "bundled" else name, **KEEP,
    )  # fmt: skip
    try:
        found = card(name or "bundled", service().device)
    except ValueError as error:
        problem(str(error))
        return None
    note = " No assistant: it was trained to find and copy what its prompt says." if name == "bundled" else ""
    st.html(f'<p class="kv-small">{escape(found.line())}. {escape(found.dtype)} on {escape(found.device.upper())}.{note}</p>')
    return found


def prompt_part() -> str:
    """Preset, written or uploaded text. Returns it unchecked."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="prompt-head"):
        st.html('<b class="kv-b">Prompt</b>', width="content")
        sources = (["Preset"] if presets() else []) + ["Write", "Upload"]
        source = st.segmented_control("Prompt from", sources, key="run-source", required=True, label_visibility="collapsed", **KEEP)
    if source == "Preset":
        st.selectbox("Preset", list(presets()), key="run-preset", on_change=take_preset, label_visibility="collapsed",
                     format_func=lambda key: presets()[key]["title"], **KEEP)  # fmt: skip
        text = presets()[st.session_state["run-preset"]]["context"]
        _preview(text)
    elif source == "Upload":
        text = _uploaded()
    else:
        text = st.text_area("Text", key="run-text", height=124, label_visibility="collapsed", placeholder="The text the model reads first.", **KEEP)
    return text or ""


def _preview(text: str) -> None:
    with st.container(height=124, key="prompt-preview"):
        st.text(text if len(text) < 20_000 else text[:20_000] + " …")


def _uploaded() -> str:
    s, kinds = st.session_state, ", ".join(f".{ending}" for ending in upload.ENDINGS)
    file = st.file_uploader(f"{kinds}; text at most 1 MB, a PDF 5 MB", type=list(upload.ENDINGS), max_upload_size=5, key="file")
    if file is not None:
        try:
            _take_file(file.getvalue(), file.name)
        except ValueError as error:
            s["run-file"], s["run_read"] = "", None
            problem(str(error))
    if s["run-file"]:
        _preview(s["run-file"])
    if file is not None and s.get("run_read"):
        _about_file(s["run_read"][1], file)
    return s["run-file"]


def _take_file(data: bytes, name: str) -> None:
    """The chosen record of a file becomes the prompt, and its question the question, once: what is changed afterwards stays."""
    s, key = st.session_state, hashlib.sha256(data + name.encode()).hexdigest()
    if not s.get("run_read") or s["run_read"][0] != key:
        s["run_read"], s["run_record"] = (key, upload.read_upload(data, name)), 1
    found = s["run_read"][1]
    if len(found.records) > 1:
        s["run_record"] = st.number_input(f"Which of its {len(found.records):,} prompts", 1, len(found.records), value=s["run_record"])
    chosen = found.records[s["run_record"] - 1]
    if s.get("run_taken") != (key, s["run_record"]):
        s["run_taken"], s["run-file"] = (key, s["run_record"]), chosen.prompt
        if chosen.question:
            s["run-question"] = chosen.question


def _about_file(found: upload.Upload, file: Any) -> None:
    if found.note:
        st.html(f'<p class="kv-small">{escape(found.note)}</p>')
    if found.task:
        task = own_tasks.keep(file.getvalue(), file.name)
        st.html(f'<p class="kv-small">It holds {len(found.records):,} questions with answers: <a class="kv-link" href="tradeoffs?tasks={quote(task)}">'
                "measure them all under Trade-offs</a>.</p>")  # fmt: skip


def question_part(counts: tuple[int, int] | None) -> None:
    """The question apart, whether compression sees it, and the token counts."""
    # an area, not a field: a field would take the line breaks out of a question without a word
    hint = "Question: What is the code of the green falcon?\nAnswer: The code of the green falcon is"
    st.text_area("Question", key="run-question", height=68, placeholder=hint, label_visibility="collapsed", **KEEP)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="prompt-foot"):
        said = f"{counts[0]:,} tokens" + (f", then a question of {counts[1]:,}" if counts[1] else "") if counts else ""
        st.html(f'<span class="kv-small">{said}</span>', width="content")
        st.checkbox("compress before the question", key="run-before", help="On: what is dropped is chosen without knowing the question. "
                    "Off: the question is part of the prompt, and compression may look at it.", **KEEP)  # fmt: skip


def budget_part(prompt: int, end_bytes: int) -> str:
    """The budget in one of three units, the other two beside it. `prompt`: tokens compressed; `end_bytes`: the full cache at the end. Returns its text."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", key="budget-head"):
        st.html('<b class="kv-b">Budget</b>', width="content")
        chosen = st.segmented_control("Budget in", ["tokens", "%", "bytes"], key="run-unit", required=True, on_change=_forget_slider,
                                      label_visibility="collapsed", **KEEP)  # fmt: skip
    divisor, name = unit(end_bytes)
    most = {"tokens": max(2, prompt), "%": 100, "bytes": max(2, end_bytes // divisor)}[chosen]
    wanted = min(most, max(1, round(st.session_state["run-share"] * most)))
    if not 1 <= st.session_state.get("run-slider", 0) <= most:
        st.session_state["run-slider"] = wanted
    value = st.slider("Budget", 1, most, key="run-slider", on_change=_take_share, args=(most,), label_visibility="collapsed",
                      format={"tokens": "%d tokens", "%": "%d %%", "bytes": f"%d {name}"}[chosen], **KEEP)  # fmt: skip
    if chosen == "bytes":
        said, text = f"of {size(end_bytes)} that the full cache holds at the end", f"{value * divisor}B"
    elif chosen == "tokens":
        said, text = f"of {prompt:,} in each head = {value / max(1, prompt):.0%} of the prompt", f"{value}t"
    else:
        said, text = f"= {max(1, round(value / 100 * prompt)):,} of {prompt:,} prompt tokens in each head", f"{value / 100:g}"
    shown = {"tokens": f"{value:,} tokens", "%": f"{value} %", "bytes": f"{value:,} {name}"}[chosen]
    st.html(f'<p class="kv-small"><b>{shown}</b> &nbsp;{said}</p>')
    return text


def _take_share(most: int) -> None:
    st.session_state["run-share"] = st.session_state["run-slider"] / most


def _forget_slider() -> None:
    st.session_state.pop("run-slider", None)


def generation_part() -> None:
    """How tokens are chosen; folded."""
    with st.expander("Generation"):
        left, right = st.columns(2)
        left.number_input("New tokens", 1, NEW_MOST, key="run-new", **KEEP)
        right.number_input("Temperature, 0 is greedy", 0.0, 5.0, step=0.1, key="run-temperature", **KEEP)
        left.number_input("Top-k, 0 is all", 0, 1000, key="run-top_k", **KEEP)
        right.number_input("Top-p", 0.01, 1.0, step=0.05, key="run-top_p", **KEEP)
        left.number_input("Seed", 0, 2**31 - 1, key="run-seed", **KEEP)
        right.number_input("Prompt tokens per call (chunk)", 16, 65536, step=16, key="run-chunk", **KEEP)
        st.checkbox("Stop at the end-of-text token", key="run-stop_at_end", **KEEP)
        st.checkbox("Use the chat template, if the model has one", key="run-template", **KEEP)
        st.checkbox("Keep attention for Look inside", key="run-attention", **KEEP)


def shared(prompt: str) -> dict[str, Any]:
    """The fields every lane's request has, checked again on the server. Raises ValueError with a sentence."""
    s = st.session_state
    names = ("temperature", "top_k", "top_p", "seed", "chunk", "stop_at_end", "template", "attention")
    if s["run-question"]:
        upload.check_text(s["run-question"], "The question")
    if not 1 <= s["run-new"] <= NEW_MOST:
        raise ValueError(f"Between 1 and {NEW_MOST:,} tokens can be written, not {s['run-new']:,}.")
    return {"prompt": upload.check_text(prompt), "question": s["run-question"], "aware": not s["run-before"], "max_new_tokens": s["run-new"], "compare": True,
            **{name: s[f"run-{name}"] for name in names}}  # fmt: skip


def snapshot() -> dict[str, Any]:
    """The whole form, to come back to it after a reload."""
    return {key: value for key, value in st.session_state.items() if str(key).startswith("run-")}


def restore(form: dict[str, Any]) -> None:
    """Put a snapshot back; before any widget is drawn."""
    st.session_state.update(form)


def problem(sentence: str) -> None:
    """A user's error, as plain text in a card of its own."""
    st.html(f'<p class="kv-problem" role="alert">{escape(sentence)}</p>')


def sentence_of(names: Sequence[str]) -> str:
    """What to look for: the preset's own words while it is chosen, else the general ones."""
    chosen = presets().get(st.session_state.get("run-preset")) if st.session_state.get("run-source") == "Preset" else None
    if chosen and chosen.get("what_to_look_for"):
        return escape(chosen["what_to_look_for"])
    if not names:
        return "Choose a method: its lane shows what it would hold before anything runs."
    return "Watch the blue line leave the grey one. One cut after the prompt saves a fixed amount; only a method that <b>cuts again</b> stays flat."
