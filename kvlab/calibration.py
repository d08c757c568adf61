"""Artefacts a method needs from a model before it can run: made once, kept on disk, keyed by all that they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kvlab.method import Method
from kvlab.models import DATA, LM


def folder() -> Path:
    """Where artefacts lie: `KVLAB_HOME`, else `.kvlab` in the working folder. Those of the bundled model ship in `data/calibration`."""
    return Path(os.environ.get("KVLAB_HOME", ".kvlab")) / "calibration"


def maker(method: Method) -> Any:
    """Who makes the artefact of `method`: the method, or the job it names as `artefact_of`, which several methods may share.

    A job is a frozen dataclass with a `name` and a `calibrate(lm)`, as a method is.
    """
    return getattr(method, "artefact_of", method)


def key(method: Method, lm: LM) -> str:
    """Model revision, dtype and the knobs of the maker (data and tokens are knobs): any change makes a new artefact."""
    made_by = maker(method)
    knobs = {f.name: str(getattr(made_by, f.name)) for f in dataclasses.fields(made_by) if f.name != "budget"}
    said = json.dumps([made_by.name, lm.revision, lm.dtype, knobs], sort_keys=True)
    return f"{made_by.name}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def find(method: Method, lm: LM) -> Path | None:
    """The file of an artefact that exists already. A model without a revision could be any: nothing is kept of it."""
    if not lm.revision:
        return None
    name = key(method, lm) + ".safetensors"
    return next((p for p in (folder() / name, DATA / "calibration" / name) if p.exists()), None)


def artefact(method: Method, lm: LM) -> dict[str, Tensor] | None:
    """Tensors that the members of `method` calibrated for this model; made now, and kept, when there are none yet. None if none needs any."""
    needing = [part for part in method.members if "calibration" in part.needs]
    return {name: tensor for part in needing for name, tensor in _artefact(part, lm).items()} if needing else None


def _artefact(method: Method, lm: LM) -> dict[str, Tensor]:
    if path := find(method, lm):
        return load_file(path)
    made = maker(method).calibrate(lm)
    if not lm.revision:
        return made
    folder().mkdir(parents=True, exist_ok=True)
    path = folder() / (key(method, lm) + ".safetensors")
    draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, draft)
    os.replace(draft, path)
    return made


_MODULES = ("argparse", "ast", "collections", "contextlib", "datetime", "decimal", "difflib", "email", "fractions", "logging", "pathlib", "random", "shutil")


def text() -> str:
    """Plain English for calibration that every Python brings along: docstrings of its library."""
    modules = [importlib.import_module(name) for name in _MODULES]
    parts = [part for module in modules for _, part in (("", module), *inspect.getmembers(module, lambda x: inspect.isclass(x) or inspect.isfunction(x)))]
    found = dict.fromkeys(doc for part in parts if (doc := inspect.getdoc(part)))  # a name may be exported twice
    return "\n\n".join(found)


def sample(lm: LM, passages: int, length: int) -> Tensor:
    """Token ids [passages, length] to calibrate on: the text cut into pieces, or seeded random ids for a model without tokenizer."""
    if lm.tokenizer is None:
        known = lm.model.get_input_embeddings().num_embeddings
        ids = torch.randint(known, (passages * length,), generator=torch.Generator().manual_seed(0))
    else:
        ids = torch.tensor(lm.encode(text(), special=False)[: passages * length])
    if len(ids) < passages * length:
        raise ValueError(f"The calibration text has {len(ids):,} tokens, too few for {passages} passages of {length}. Ask for fewer or shorter ones.")
    return ids.view(passages, length).to(lm.device)
