"""Twenty families with random weights: kvlab's full cache gives transformers' own logits, and methods run on each."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import transformers
from conftest import Letters
from torch import Tensor

from kvlab.cache import attend_pending, padding_mask
from kvlab.compat import register
from kvlab.engine import kept_positions
from kvlab.geometry import Geometry
from kvlab.models import LM
from kvlab.registry import make, registry
from kvlab.session import Session

SIZES = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SLIDING = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
MLA = {
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16, "num_key_value_heads": 4, "n_routed_experts": 4,
    "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 12, "head_dim": 16},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Qwen3Moe": {"head_dim": 16, **EXPERTS},
    "Phi3": {},
    "Olmo2": {},
    "SmolLM3": {"no_rope_layers": [1, 0]},
    "Granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 3.0, **SLIDING},
    "Gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, **SLIDING},
    "Cohere2": {"head_dim": 16, **SLIDING},
    "Glm4": {"head_dim": 16},
    "Starcoder2": {},
    "GptOss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, **SLIDING},
    "GPTNeoX": {"num_key_value_heads": 4},
    "GPT2": {"n_inner": 96, "num_key_value_heads": 4},
    "DeepseekV3": MLA,
}
"""Family -> what its config has beside the common sizes."""

ALWAYS = {"position_ids", "dropout"}
RECEIVES = {
    **{name: {"use_cache"} for name in ("Llama", "Olmo2", "Granite", "Gemma", "Glm4", "GPTNeoX", "GPT2")},
    **{name: {"use_cache", "sliding_window"} for name in ("Mistral", "Qwen2", "Qwen3", "Phi3", "SmolLM3", "Cohere2", "Starcoder2")},
    **{name: {"use_cache", "sliding_window", "output_router_logits"} for name in ("Mixtral", "Qwen3Moe")},
    "Gemma2": {"sliding_window", "softcap"},
    "Gemma3": {"sliding_window"},
    "GptOss": {"use_cache", "sliding_window", "output_router_logits", "s_aux"},
    "DeepseekV3": {"use_cache", "kvlab_cache"},
}
"""Family -> the keywords its attention function gets beside `ALWAYS`. A new keyword may carry a rule kvlab does not follow yet."""

IDS = torch.randint(3, 128, (2, 40), generator=torch.Generator().manual_seed(2))
PROMPT = 32


@functools.cache
def family(name: str) -> LM:
    torch.manual_seed(0)
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(**{**SIZES, **FAMILIES[name]})
    model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    return LM.wrap(model, Letters(), name=name, revision=name)


@functools.cache
def wanted(name: str) -> Tensor:
    """Logits of the whole text under transformers' eager attention, [2, 40, V]."""
    lm = family(name)
    config = copy.deepcopy(lm.model.config)
    config._attn_implementation = "eager"
    twin = type(lm.model)(config)
    twin.load_state_dict(lm.model.state_dict())
    with torch.no_grad():
        return twin.eval()(IDS).logits


def written(lm: LM, method: str, chunk: int = 1024, budget: str | None = None, knobs: dict | None = None, rows: slice = slice(0, 1)) -> tuple[Session, Tensor]:
    session = Session(lm, make(method, budget, knobs), batch=len(IDS[rows]), chunk=chunk)
    logits = [session.prefill(IDS[rows, :PROMPT])]
    logits += [session.decode(IDS[rows, i]) for i in range(PROMPT, IDS.shape[1])]
    return session, torch.stack(logits, 1)


def every(*but: str) -> Any:
    return pytest.mark.parametrize("name", [name for name in FAMILIES if name not in but])


@pytest.mark.parametrize("chunk", [1024, 12, 5])
@every()
def test_the_full_cache_gives_the_logits_of_transformers(name: str, chunk: int) -> None:
    session, logits = written(family(name), "full", chunk)
    assert float((logits - wanted(name)[:1, PROMPT - 1 :]).abs().max()) < 1e-4
    assert session.cache.nbytes() == family(name).geometry.full_bytes(IDS.shape[1])


@every()
def test_a_padded_batch_gives_the_logits_of_transformers(name: str) -> None:
    lm, pad = family(name), 9
    ids, real = IDS[:, :PROMPT].clone(), torch.ones(2, PROMPT, dtype=torch.int64)
    ids[0] = torch.cat([torch.zeros(pad, dtype=torch.int64), IDS[0, : PROMPT - pad]])
    real[0, :pad] = 0
    session = Session(lm, make("full"), batch=2, chunk=20)
    logits = [session.prefill(ids, real)]
    logits += [session.decode(torch.stack([IDS[0, i - pad], IDS[1, i]])) for i in range(PROMPT, IDS.shape[1])]
    for row, end in enumerate((PROMPT - pad, PROMPT)):
        want = wanted(name)[row, end - 1 : end + 8]
        assert float((torch.stack(logits, 1)[row] - want).abs().max()) < 1e-4


@every()
def test_the_attention_function_receives_the_keywords_of_the_table(name: str) -> None:
    lm, got, masks = family(name), set(), set()

    def spy(module: Any, query: Tensor, key: Any, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, **kwargs: Any) -> Any:
        got.update(kwargs)
        masks.add(type(attention_mask))
        return attend_pending(module, query, key, value, attention_mask, scaling, **kwargs)

    register("kvlab-spy", spy, padding_mask)
    lm.model.set_attn_implementation("kvlab-spy")
    try:
        written(lm, "full")
    finally:
        lm.model.set_attn_implementation("kvlab")
    assert got == ALWAYS | RECEIVES[name]
    assert masks == {type(None)}


@every("DeepseekV3")
def test_snapkv_runs_on_every_family(name: str) -> None:
    lm = family(name)
    session, logits = written(lm, "snapkv", budget="10t", knobs={"window": 4})
    assert torch.isfinite(logits).all()
    for held, window in zip(kept_positions(session), lm.geometry.windows, strict=True):
        assert {len(head) for head in held} == {10 + IDS.shape[1] - PROMPT if window is None else window - 1}


@pytest.mark.parametrize("method", list(registry()))
@pytest.mark.parametrize("name", ["Mistral", "GPT2", "GptOss", "Gemma2", "DeepseekV3"])
def test_every_method_runs_on_strange_families_or_says_why(name: str, method: str) -> None:
    lm = family(name)
    try:
        session, logits = written(lm, method, chunk=20)
    except ValueError as error:
        assert make(method).refuses(lm.geometry) == str(error) and str(error).endswith(".")
        return
    assert torch.isfinite(logits).all() and session.cache.get_seq_length() == IDS.shape[1]
    if name == "Mistral":
        assert torch.equal(logits, written(lm, "full", chunk=20)[1]), "every layer has a window: there is nothing to act on"


def test_latents_are_dropped_where_no_query_is_asked_and_refused_otherwise() -> None:
    lm = family("DeepseekV3")
    with pytest.raises(ValueError, match=r"deepseek_v3 caches latents \(MLA\)\. SnapKV needs queries, which latents do not offer"):
        Session(lm, make("snapkv"))
    session, logits = written(lm, "streamingllm", budget="10t", knobs={"renumber": False})
    assert torch.isfinite(logits).all() and session.cache.nbytes() < lm.geometry.full_bytes(IDS.shape[1])


HYBRIDS = {
    "Qwen3Next": {}, "Mamba2": {}, "Jamba": {}, "FalconH1": {}, "Bamba": {}, "NemotronH": {}, "MiniMax": {}, "Rwkv": {}, "Llama4Text": {},
    "Lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}, "Gemma3nText": {}, "T5": {}, "Bloom": {},
}  # fmt: skip


@pytest.mark.parametrize("name", HYBRIDS)
def test_models_without_a_cache_of_keys_and_values_are_refused(name: str) -> None:
    config = getattr(transformers, f"{name}Config")(**HYBRIDS[name])
    with pytest.raises(ValueError, match=f"^{config.model_type.split('_text')[0]}.* (has layers of the kind|is not built of attention layers|shares keys)"):
        Geometry.of(config, 2)


def test_models_with_an_attention_of_their_own_are_refused() -> None:
    config = transformers.GPTJConfig(vocab_size=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=8, bos_token_id=1, eos_token_id=2)
    with pytest.raises(ValueError, match="gptj computes attention in a way of its own"):
        LM.wrap(transformers.GPTJForCausalLM(config))
