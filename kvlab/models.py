"""Loading: the bundled model, a Hugging Face id or a local folder, with kvlab's attention function in place."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kvlab.cache import attend_pending, padding_mask
from kvlab.compat import register
from kvlab.geometry import Geometry
from kvlab.method import Method, overrides

DATA = Path(__file__).parent.parent / "data"
ATTENTION = "kvlab"

register(ATTENTION, attend_pending, padding_mask)


@dataclass(frozen=True)
class LM:
    """A loaded model. `revision` identifies its weights; nothing of a run is ever kept on it."""

    name: str
    model: Any
    tokenizer: Any
    geometry: Geometry
    revision: str
    adaptations: tuple[str, ...] = ()  # names of the methods that changed its weights

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any = None, name: str = "model", revision: str = "") -> LM:
        """Take over a model that is already in memory. The attention function is set once, here."""
        geometry = Geometry.of(model.config, model.dtype.itemsize)
        _check_attention(type(model), geometry.family)
        model.set_attn_implementation(ATTENTION)
        return cls(name, model.eval(), tokenizer, geometry, revision)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `special` adds the beginning-of-text token where the tokenizer has one."""
        return self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pieces(self, ids: list[int]) -> list[str]:
        """The text of every token by itself, for the strip of tokens."""
        return [self.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]

    def render(self, context: str, question: str = "", template: bool = True) -> tuple[list[int], list[int]]:
        """Ids of the context and of the question (with the turn markers of the chat template around them, if there is one)."""
        if not (template and getattr(self.tokenizer, "chat_template", None)):
            return self.encode(context), self.encode(question, special=False) if question else []
        border = "\u2063kvlab\u2063"  # an invisible separator no prompt is likely to hold
        content = f"{context}\n\n{border}{question}" if question else f"{context}{border}"
        text = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        if text.count(border) != 1:
            raise ValueError("The chat template of this model changes the prompt. Switch the template off to run it as plain text.")
        before, after = text.split(border)
        if question:
            return self.encode(before, special=False), self.encode(after, special=False)
        return self.encode(before + after, special=False), []


def adapted(lm: LM, method: Method) -> LM:
    """The model as `method` wants it: `lm` itself, or a copy whose weights the method's `adapt` changed. Twice is as once.

    Raises ValueError when the method refuses the model.
    """
    if reason := method.refuses(lm.geometry):
        raise ValueError(reason)
    todo = [part for part in method.members if overrides(part, "adapt") and part.name not in lm.adaptations]
    if not todo:
        return lm
    model = copy.deepcopy(lm.model)
    for part in todo:
        part.adapt(model)
    said = [f"{part.name}{sorted(part.knobs().items())}" for part in todo]
    digest = hashlib.sha256("".join([lm.revision, *said]).encode()).hexdigest()[:12]
    names = (*lm.adaptations, *(part.name for part in todo))
    return dataclasses.replace(lm, model=model, geometry=Geometry.of(model.config, model.dtype.itemsize), revision=digest, adaptations=names)


def _check_attention(kind: type, family: str) -> None:
    if not kind._supports_attention_backend:
        raise ValueError(f"{family} computes attention in a way of its own in transformers, so kvlab cannot take it over. Choose another model.")


def pick_device(device: str = "auto") -> str:
    """CUDA, else Apple's, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: str, config: Any) -> torch.dtype:
    """float32 on a CPU (half precision is slow there), else what the checkpoint was made in."""
    if dtype != "auto":
        return getattr(torch, dtype)
    if device == "cpu":
        return torch.float32
    return getattr(config, "dtype", None) or torch.bfloat16


def locate(name: str) -> str:
    """Folder or hub id behind a model name. Raises ValueError with a sentence when it can be neither."""
    if name == "bundled":
        folder = DATA / "model"
        if not (folder / "config.json").exists():
            raise ValueError("The bundled model is missing from data/model. Restore the folder, or make it with: python -m kvlab train")
        return str(folder)
    if Path(name).is_dir():
        if not (Path(name) / "config.json").exists():
            raise ValueError(f"The folder {name} holds no config.json, so it is not a model in Hugging Face format.")
        return name
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ValueError(f"{name!r} is neither a folder nor a Hugging Face id such as Qwen/Qwen3-0.6B.")
    return name


def load(name: str = "bundled", device: str = "auto", dtype: str = "auto") -> LM:
    """Load a model with its tokenizer. Never runs code from a checkpoint. Raises ValueError with a clear sentence."""
    place, device = locate(name), pick_device(device)
    config = _fetch(name, "config", lambda: AutoConfig.from_pretrained(place, trust_remote_code=False))
    # refuse before any weight is read
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{name} is a {config.model_type} model, which does not write text token by token.")
    _check_attention(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], Geometry.of(config, 2).family)
    options = {"config": config, "dtype": pick_dtype(dtype, device, config), "attn_implementation": ATTENTION, "trust_remote_code": False}
    model = _fetch(name, "weights", lambda: AutoModelForCausalLM.from_pretrained(place, **options)).to(device)
    tokenizer = _fetch(name, "tokenizer", lambda: AutoTokenizer.from_pretrained(place, trust_remote_code=False))
    return LM.wrap(model, tokenizer, name, revision(place, config))


def _fetch(name: str, what: str, get: Callable[[], Any]) -> Any:
    """What `get` gives; its errors, which run over many lines, become a sentence."""
    try:
        return get()
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(f"{name} brings code of its own, which kvlab never runs. Choose a model that transformers itself knows.") from error
        why = "no such folder, and the hub did not give it" if isinstance(error, OSError) and not Path(name).is_dir() else f"its {what} cannot be read"
        raise ValueError(f"The model {name} could not be loaded: {why}. ({str(error).strip().splitlines()[0]})") from error


def revision(place: str, config: Any) -> str:
    """The hub's commit, or for a folder a hash of its config and of names, sizes and first and last megabyte of its weights."""
    if commit := getattr(config, "_commit_hash", None):
        return commit[:12]
    digest = hashlib.sha256((Path(place) / "config.json").read_bytes())
    for file in sorted(Path(place).glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with open(file, "rb") as weights:
            digest.update(weights.read(2**20))
            weights.seek(max(0, file.stat().st_size - 2**20))
            digest.update(weights.read())
    return digest.hexdigest()[:12]
