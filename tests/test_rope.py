"""Rotary positions off and on again, held against what the models themselves compute before they rotate."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.method import Method
from kvlab.models import LM
from kvlab.rope import Rope, ropes
from kvlab.session import Session
from kvlab.trace import Silent

BASE = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES = {
    "Llama": {},
    "Llama yarn": {"rope_parameters": YARN},
    "Qwen3": {},
    "Qwen2": {},
    "Mistral": {"sliding_window": None},
    "Glm4": {"partial_rotary_factor": 0.5},
    "Phi3": {"partial_rotary_factor": 0.5},
    "Phi3 long": {"rope_parameters": LONG, "original_max_position_embeddings": 64},
    "GPTNeoX": {"rotary_pct": 0.25, "num_key_value_heads": 4},
    "Gemma3": {"layer_types": TYPES, "sliding_window": 8},
    "Cohere2": {"layer_types": TYPES, "sliding_window": 8},
    "SmolLM3": {"no_rope_layers": [1, 0, 1]},
    "GptOss": {"layer_types": TYPES, "sliding_window": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
}


def family(name: str) -> LM:
    kind, knobs = name.split()[0], FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, {"Gemma3": "Gemma3TextConfig"}.get(kind, f"{kind}Config"))(**{**BASE, **knobs})
    return LM.wrap(getattr(transformers, f"{kind}ForCausalLM")(config), name=name)


def cached_and_bare(lm: LM, tokens: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Of each layer: the keys in the cache, and what its key projection (or the norm behind it) gave, both [1, H, T, D]."""
    seen: dict[int, Tensor] = {}

    def hook(module: torch.nn.Module, args: tuple, out: Tensor, index: int) -> None:
        seen[index] = out

    heads, size = lm.geometry.kv_heads, lm.geometry.head_dim
    layers = [m for n, m in lm.model.named_modules() if n.endswith(("self_attn", "attention")) and hasattr(m, "layer_idx")]
    for index, module in enumerate(layers):
        part = next(getattr(module, n) for n in ("k_norm", "k_proj", "qkv_proj", "query_key_value") if hasattr(module, n))
        part.register_forward_hook(lambda m, a, o, i=index: hook(m, a, o, i))
    cache = KVCache(Method(), lm.geometry, 1, Silent())
    ids = torch.arange(1, tokens + 1)[None]
    with torch.no_grad():
        lm.model(input_ids=ids, position_ids=start + torch.arange(tokens)[None], past_key_values=cache, use_cache=True)
    pairs = []
    for index, layer in enumerate(cache.layers):
        bare = seen[index]
        if hasattr(layers[index], "qkv_proj"):
            bare = bare[..., -2 * heads * size : -heads * size]
        if hasattr(layers[index], "query_key_value"):
            bare = bare.view(1, tokens, heads, 3, size)[..., 1, :]
        bare = bare.view(1, tokens, heads, size).transpose(1, 2) if bare.shape[1] == tokens else bare
        pairs.append((layer.store.view().k, bare))
    return pairs


@pytest.mark.parametrize("name", FAMILIES)
def test_unrotated_keys_are_what_the_projection_made(name: str) -> None:
    lm = family(name)
    # a window of 8 drops slots: stay inside it
    for rope, (cached, bare) in zip(ropes(lm), cached_and_bare(lm, 7, start=20), strict=True):
        pos = 20 + torch.arange(7)[None, None]
        assert torch.allclose(rope.unrotate(cached, pos), bare, atol=1e-5)
        assert torch.allclose(rope.rotate(bare, pos), cached, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_average_is_the_average_of_rotations(name: str) -> None:
    rows = torch.randn(5, 16)
    for rope in ropes(family(name)):
        want = torch.stack([rope.rotate(rows, torch.tensor([place])) for place in range(20, 63)]).mean(0)
        assert torch.allclose(rows @ rope.average(torch.arange(20, 63), 16), want, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back(name: str) -> None:
    rope = ropes(family(name))[0]
    keys, pos = torch.randn(2, 2, 11, 16), torch.randint(0, 60, (2, 2, 11))
    assert torch.allclose(rope.rotate(rope.unrotate(keys, pos), pos), keys, atol=1e-5)
    assert torch.allclose(rope.unrotate(rope.rotate(keys, pos), pos), keys, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_shift_moves_cached_keys(name: str) -> None:
    rope = ropes(family(name))[0]
    keys, pos = torch.randn(1, 2, 9, 16), torch.arange(30, 39)[None, None]
    by = torch.tensor([-30, -1, 0, 1, 5, -7, 20, 3, -2])[None, None]
    assert torch.allclose(rope.shift(rope.rotate(keys, pos), by), rope.rotate(keys, pos + by), atol=1e-5)


def test_yarn_scales_cached_keys() -> None:
    lm = family("Llama yarn")
    assert lm.model.model.rotary_emb.attention_scaling > 1.1
    cached, bare = cached_and_bare(lm, 12)[0]
    scaling = cached.norm() / bare.norm()
    assert scaling == pytest.approx(lm.model.model.rotary_emb.attention_scaling, rel=1e-4)


def test_layers_without_rotation_are_found() -> None:
    assert [rope.rotary is None for rope in ropes(family("SmolLM3"))] == [False, True, False]
    assert [rope.rotary is None for rope in ropes(family("Cohere2"))] == [False, True, False]
    assert not any(rope.rotary is None for rope in ropes(family("Gemma3")))


def test_shapes_broadcast() -> None:
    rope = ropes(family("Glm4"))[0]
    keys, pos = torch.randn(2, 3, 5, 16), torch.randint(0, 50, (2, 1, 5))
    packed = rope.rotate(keys.flatten(0, 2), pos.expand(2, 3, 5).flatten())
    assert torch.allclose(packed.view(2, 3, 5, 16), rope.rotate(keys, pos), atol=1e-6)
    assert rope.rotate(keys.bfloat16(), pos).dtype == torch.float32


def test_frequencies_that_change_with_length_are_refused() -> None:
    rope = ropes(family("Phi3 long"))[0]
    with pytest.raises(ValueError, match="64 positions"):
        rope.unrotate(torch.randn(1, 1, 2, 16), torch.tensor([[[63, 64]]]))


def test_a_run_has_a_rotary_module_of_its_own() -> None:
    lm = family("Llama")
    one: list[Rope] = ropes(lm)
    assert one[0].rotary is not lm.model.model.rotary_emb and one[0].rotary is not ropes(lm)[0].rotary


def test_an_unknown_rotation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2 = LM.wrap(transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64)))
    with pytest.raises(ValueError, match="cannot take the rotary positions"):
        ropes(gpt2)
    monkeypatch.setattr("kvlab.rope._one_token", lambda lm, position: [torch.randn(4, 2, 1, 16)] * 3)
    with pytest.raises(ValueError, match="cannot take the rotary positions"):
        ropes(family("Llama"))


def test_sessions_offer_it_to_methods_that_need_it(lm: LM) -> None:
    needing = type("Needing", (Method,), {"needs": ("rope",), "title": "Needing"})()
    assert all(isinstance(layer.rope, Rope) for layer in Session(lm, needing).cache.layers)
    assert Session(lm, Method()).cache.layers[0].rope is None
