"""What all sessions of one server share: the queue, the models in memory, the stored runs, and the light side of a model."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass

import streamlit as st
from transformers import AutoConfig, AutoTokenizer

from kvlab.geometry import Geometry
from kvlab.jobs import JobManager
from kvlab.models import LM, locate, pick_device, pick_dtype, revision
from kvlab.runs import RunStore
from kvlab.shelf import Shelf
from kvlab.ui.estimate import recent


def first_model() -> str:
    """The model a new session starts with, from KVLAB_MODEL: bundled, a local folder or a Hugging Face id."""
    return os.environ.get("KVLAB_MODEL", "bundled")


@dataclass(frozen=True)
class Service:
    """One per server process."""

    jobs: JobManager
    shelf: Shelf
    store: RunStore
    device: str


@st.cache_resource
def service() -> Service:
    """The queue with one worker for the device, one model in memory, and the store."""
    device = pick_device()
    return Service(JobManager([device]), Shelf(1), RunStore(), device)


@dataclass(frozen=True)
class Tab:
    """A session and the queue it asked."""

    owner: str
    jobs: JobManager


@st.cache_resource(scope="session", on_release=lambda tab: tab.jobs.left(tab.owner), show_spinner=False)
def _tab(owner: str) -> Tab:
    """Held while the session lives. A reload lets go of it too: hence the grace in `JobManager.left`."""
    return Tab(owner, service().jobs)


def visitor() -> str:
    """A name for this session that nobody can guess. A reload makes a new one."""
    return _tab(st.session_state.setdefault("visitor", uuid.uuid4().hex)).owner


@dataclass(frozen=True)
class Card:
    """A model without its weights: enough to count tokens and to predict bytes."""

    lm: LM
    device: str
    dtype: str

    @property
    def geometry(self) -> Geometry:
        return self.lm.geometry

    def line(self) -> str:
        """What it is, in a line."""
        g = self.geometry
        windows = f"{g.layers - g.open_layers} of them sliding, " if g.open_layers < g.layers else ""
        position = "RoPE" if g.rope else "no RoPE"
        cache = f"latent cache (MLA), {position}" if g.latent else f"{g.query_heads} query / {g.kv_heads} KV heads, {position}"
        return f"{g.layers} layers, {windows}{cache}, {g.context:,} positions"


@st.cache_resource(max_entries=4, show_spinner="Reading the model's description")
def card(name: str, device: str) -> Card:
    """Config and tokenizer of a model; weights are loaded by the worker. Raises ValueError with a sentence."""
    place = locate(name)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        dtype = pick_dtype("auto", device, config)
        geometry = Geometry.of(config, dtype.itemsize)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"The model {name} could not be read: no such folder, and the hub did not give it.") from error
    return Card(LM(name, None, tokenizer, geometry, revision(place, config)), device, str(dtype).removeprefix("torch."))


@st.cache_data(max_entries=32, show_spinner=False)
def count(_lm: LM, model: str, prompt: str, question: str, template: bool) -> tuple[int, int]:
    """Tokens of the prompt and of the question, as the engine will feed them. `model` is the key of `_lm`."""
    context, asked = _lm.render(prompt, question, template)
    return len(context), len(asked)


@st.cache_data(ttl=20, max_entries=2, show_spinner=False)
def earlier(folder: str, finished: int) -> list[dict]:
    """Numbers of earlier runs for time estimates; `finished` changes when this session stored another one."""
    return recent(service().store)
