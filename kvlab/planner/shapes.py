"""A model as its config describes it: the shipped list in `data/configs`, the bundled one, or one that a visitor pastes. Weights are never read."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kvlab.geometry import Geometry
from kvlab.models import DATA

FOLDER = DATA / "configs"
LIMIT, MOST_LAYERS, DEPTH = 64_000, 512, 8
"""Bytes of a pasted config, layers (or anything else a config counts modules by), and levels of nesting, at most."""
IGNORED = ("num_labels", "id2label", "label2id", "auto_map", "quantization_config", "_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Fields that change neither a shape nor a byte here; `num_labels` alone would make a config write as many names as it says."""


@dataclass(frozen=True)
class Weights:
    """Parameters by what a decode step reads of them: all of `dense`, of `routed` only the experts it picks, of `table` one row per token."""

    dense: int
    routed: int
    table: int
    experts: int
    picked: int

    @property
    def total(self) -> int:
        return self.dense + self.routed + self.table

    @property
    def active(self) -> float:
        """Parameters that multiply one token: its own experts only."""
        return self.dense + (self.routed * self.picked / self.experts if self.experts else 0)

    def touched(self, users: int) -> float:
        """Parameters that a step for `users` tokens reads, each expert being as likely as another (source: counting, not measured)."""
        share = 1 - (1 - self.picked / self.experts) ** users if self.experts else 0
        return self.dense + self.routed * share


@dataclass(frozen=True)
class Shape:
    """One model by its config. `repo` is what `--model` takes, "" where nobody knows; `refused` says why no cache can be planned."""

    key: str
    title: str
    repo: str
    family: str
    hidden: int
    inner: int
    vocabulary: int
    geometry: Geometry | None
    refused: str
    weights: Weights
    vision: bool

    def at(self, itemsize: int) -> Geometry:
        """The sizes of its cache with values of `itemsize` bytes. Raises ValueError with the reason of a model that has no such cache."""
        if self.geometry is None:
            raise ValueError(self.refused)
        return Geometry(**{**vars(self.geometry), "itemsize": itemsize})

    @property
    def line(self) -> str:
        """Layers, heads and windows in words."""
        if self.geometry is None:
            return f"{self.family}, {billions(self.weights.total)} parameters"
        g = self.geometry
        sliding = [window for window in g.windows if window is not None]
        if g.latent:
            cache = f"one latent of {g.latent[0]} + {g.latent[1]} values a token (MLA)"
        else:
            kind = "one KV head each" if g.kv_heads == g.query_heads else f"{g.query_heads // g.kv_heads} query heads to a KV head (GQA)"
            cache = f"{g.query_heads} query and {g.kv_heads} KV heads of {g.head_dim}, {kind}"
        windows = f", {len(sliding)} of them slide over {sliding[0]:,} tokens" if sliding else ""
        experts = f", {self.weights.picked} of {self.weights.experts} experts a token" if self.weights.experts else ""
        return f"{billions(self.weights.total)} parameters{experts}; {g.layers} layers{windows}; {cache}; made for {g.context:,} positions"


def billions(count: float) -> str:
    """8,030,261,248 -> "8.03 billion"."""
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"


@functools.cache
def shipped() -> dict[str, dict[str, Any]]:
    """Key -> the file of `data/configs`: title, repo, the published number of parameters, source and config; the bundled model first."""
    found = {"bundled": {"title": "kvlab tiny, bundled", "repo": "bundled", "config": json.loads((DATA / "model" / "config.json").read_text())}}
    return found | {file.stem: json.loads(file.read_text()) for file in sorted(FOLDER.glob("*.json"))}


@functools.lru_cache(maxsize=32)
def shape(key: str) -> Shape:
    """The shape of a shipped key. KeyError for any other."""
    said = shipped()[key]
    return described(said["config"], key, said["title"], said["repo"])


@functools.lru_cache(maxsize=32)
def pasted(text: str) -> Shape:
    """The shape of a config.json from a stranger. Raises ValueError with one sentence for the first thing that is wrong."""
    key = f"config-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    said = checked(text)
    return described(said, key, f"Pasted {said['model_type']} config", "")


def checked(text: str) -> dict[str, Any]:
    """The config in `text`. Raises ValueError with a sentence: too long, no JSON, no object, an unknown family, sizes nobody builds."""
    if len(text.encode("utf-8", "surrogatepass")) > LIMIT:
        raise ValueError(f"The config has more than {LIMIT:,} bytes. A config.json is a few thousand; paste that file alone.")
    if not text.strip():
        raise ValueError("Nothing was pasted. Paste the text of a model's config.json.")
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"This is no JSON: line {error.lineno}, column {error.colno}. Paste the whole config.json.") from None
    except RecursionError:
        raise ValueError("The config is nested too deeply to be one. Paste a model's config.json.") from None
    if not isinstance(said, dict):
        raise ValueError("A config.json is an object in braces; this is not. Paste the whole file.")
    family = said.get("model_type")
    if not isinstance(family, str) or family not in CONFIG_MAPPING:
        named = f"{family[:40]!r} is no family that" if isinstance(family, str) else "There is no model_type that"
        raise ValueError(f"{named} transformers knows. kvlab reads the families of transformers and runs no code of a checkpoint.")
    _sizes(said)
    return said


def _sizes(said: Any, depth: int = 0) -> None:
    """Refuse what would only keep the server busy: layers without end, numbers that are no sizes."""
    if depth > DEPTH:
        raise ValueError("The config is nested too deeply to be one. Paste a model's config.json.")
    for name, value in said.items():
        if isinstance(value, dict):
            _sizes(value, depth + 1)
        elif isinstance(value, list) and len(value) > MOST_LAYERS:
            raise ValueError(f"{name[:40]!r} lists {len(value):,} entries; at most {MOST_LAYERS} are read.")
        elif isinstance(value, int) and not isinstance(value, bool):
            most = MOST_LAYERS if any(word in name for word in ("layer", "block", "depth")) and "type" not in name else 2**31
            if not -(2**31) <= value <= most:
                raise ValueError(f"{name[:40]!r} is {value:,}; at most {most:,} is read.")


def described(said: dict[str, Any], key: str, title: str, repo: str) -> Shape:
    """The shape of a checked config. Raises ValueError with a sentence when transformers cannot make it a model that writes text."""
    config = _config(said)
    own = config.get_text_config(decoder=True)
    encodes = getattr(own, "is_decoder", None) is False  # of the BERT kind, which transformers can also build as a decoder
    if type(own) not in MODEL_FOR_CAUSAL_LM_MAPPING or encodes:
        raise ValueError(f"{own.model_type} does not write text token by token, so it has no cache to plan. Choose another model.")
    geometry, refused = None, ""
    try:
        geometry = Geometry.of(config, 2)
    except ValueError as error:
        refused = f"{error}{_held(own)}"
    return Shape(
        key=key, title=title, repo=repo, family=own.model_type, hidden=own.hidden_size, inner=_inner(own), vocabulary=own.vocab_size,
        geometry=geometry, refused=refused, weights=_count(own), vision=hasattr(config, "vision_config"),
    )  # fmt: skip


def _config(said: dict[str, Any]) -> Any:
    kept = {name: value for name, value in said.items() if name not in IGNORED}
    try:
        with _quiet():
            return CONFIG_MAPPING[said["model_type"]].from_dict(kept)
    except Exception as error:  # transformers raises what it likes for fields of a wrong kind
        raise ValueError(f"transformers cannot read this {said['model_type']} config: {_first(error)}") from error


def _count(config: Any) -> Weights:
    """Parameters of the model that transformers would build, on a device without memory: shapes only."""
    try:
        with _quiet(), torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise ValueError(f"transformers cannot build a {config.model_type} model of these sizes: {_first(error)}") from error
    every = sum(p.numel() for p in model.parameters())
    routed = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    # nothing is tied on a device without memory: the table that the head shares is there twice, so it counts once, as the head
    table = model.get_input_embeddings().weight.numel()
    loose = 0 if getattr(config, "tie_word_embeddings", False) else table
    experts = _first_of(config, "num_local_experts", "n_routed_experts", "num_experts") if routed else 0
    picked = _first_of(config, "num_experts_per_tok", "num_experts_per_token", "top_k_experts") if routed else 0
    return Weights(every - routed - table, routed, loose, experts, picked or experts)


def _inner(config: Any) -> int:
    """Width of the widest feed-forward that one token goes through."""
    dense = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    routed = (getattr(config, "moe_intermediate_size", None) or 0) * _first_of(config, "num_experts_per_tok")
    return max(dense if isinstance(dense, int) else max(dense), routed)


def _first_of(config: Any, *names: str) -> int:
    return next((int(value) for name in names if (value := getattr(config, name, None))), 0)


def _held(config: Any) -> str:
    """Of a hybrid, how many layers hold keys and values at all."""
    types = list(getattr(config, "layer_types", None) or [])
    full = sum(kind == "full_attention" for kind in types)
    if not types or "linear_attention" not in types:
        return ""
    return f" {full} of its {len(types)} layers hold keys and values; the others keep a state of fixed size that no formula here counts, so no figure is shown."


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".") + "."


@contextlib.contextmanager
def _quiet() -> Any:
    """transformers logs what a stranger's config lacks; the page says it once, in a sentence."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
