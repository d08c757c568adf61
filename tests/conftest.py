"""Fixtures shared by all tests: tiny models with random weights, one with a real tokenizer in a folder, and the bundled model loaded once."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from kvlab.models import LM, load

pytest_plugins = ["browser"]  # the fixtures of pages in a real browser
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]


class Letters:
    """The least a method may ask of a tokenizer: one id below 128 for each letter, no template."""

    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 128 for letter in text]}

    def decode(self, ids: list[int], **kwargs: object) -> str:
        return "".join(chr(i) for i in ids)


def tiny_config(groups: int = 2, layers: int = 3, heads: int = 2, window: int | None = None, vocab: int = 128) -> Qwen3Config:
    """`heads` KV heads of size 16, `groups` query heads for each; with `window`, every layer but the first is a sliding one."""
    return Qwen3Config(
        vocab_size=vocab, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=heads * groups,
        num_key_value_heads=heads, head_dim=16, max_position_embeddings=512, initializer_range=0.2,
        **({"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1} if window else {}),
    )  # fmt: skip


@functools.cache
def tiny(groups: int = 2, layers: int = 3, heads: int = 2, window: int | None = None, seed: int = 0) -> LM:
    """A Qwen3 with random weights, made once for all tests that ask for the same."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(tiny_config(groups, layers, heads, window))
    return LM.wrap(model, Letters(), name="tiny", revision=f"tiny-{groups}-{layers}-{heads}-{window}-{seed}")


def plain(lm: LM) -> Qwen3ForCausalLM:
    """The same weights under transformers' own attention."""
    config = copy.deepcopy(lm.model.config)
    config._attn_implementation = "sdpa"
    twin = type(lm.model)(config)
    twin.load_state_dict(lm.model.state_dict())
    return twin.eval()


def save_tiny(folder: Path, seed: int = 0, template: bool = True, layers: int = 3, end: bool = True, wide: int = 96) -> Path:
    """A tiny model with a tokenizer of bytes, in hub format. `wide` ones are slow, in one product that lets other threads work meanwhile; without
    `end` it writes until it is told to stop."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    if template:
        fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = tiny_config(vocab=len(fast), layers=layers)
    config.intermediate_size = wide
    if not end:
        config.max_position_embeddings = 4096
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = fast.eos_token_id if end else None
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def lm() -> LM:
    return tiny()


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model in hub format, whose tokenizer has a chat template."""
    return save_tiny(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def local(hub: Path) -> LM:
    """That folder, loaded."""
    return load(str(hub), device="cpu")


@pytest.fixture(scope="session")
def bundled() -> LM:
    return load("bundled", device="cpu")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Artefacts and runs of tests go to a folder of their own."""
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path_factory.getbasetemp() / "home"))
