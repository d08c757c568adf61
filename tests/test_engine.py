"""From text to result on a tiny model in a local folder: lengths, templates, budgets, events, the reference, revisions."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEMPLATE, plain, save_tiny

from kvlab.engine import Progress, Request, Result, Token, check_length, run
from kvlab.models import LM, load
from kvlab.registry import make
from kvlab.trace import NEVER

TEXT = "The keys of the harbour office hang behind the third door; the password is heron-42. " * 2
QUESTION = "What is the password?"


def ask(lm: LM, method: str = "full", budget: str | None = None, knobs: dict | None = None, **options: Any) -> Result:
    options = {"prompt": TEXT, "max_new_tokens": 6, "template": False, "stop_at_end": False, **options}
    return run(lm, Request(method=make(method, budget, knobs or {}), **options))


# what is refused


def test_a_prompt_too_long_is_refused_with_the_numbers(local: LM) -> None:
    with pytest.raises(ValueError, match=r"has 600 tokens and 6 are to be written, but .* 512 positions\. Shorten the prompt by 94 tokens"):
        ask(local, prompt="x" * 600)
    check_length(local, 506, 6)


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(local: LM, prompt: str, template: bool) -> None:
    with pytest.raises(ValueError, match=r"The prompt is empty\. Write or choose one\."):
        ask(local, prompt=prompt, template=template, question=QUESTION)


def test_bytes_too_few_for_one_token_are_refused_with_the_least(local: LM) -> None:
    with pytest.raises(ValueError, match=r"cannot fit .* even one kept prompt token per head needs [\d,]+"):
        ask(local, "snapkv", "1kB")


# templates


def test_the_chat_template_is_applied_and_can_be_switched_off(local: LM) -> None:
    plain_ids, none = local.render(TEXT, template=False)
    assert local.decode(plain_ids) == TEXT and none == []
    ids, none = local.render(TEXT)
    assert "".join(local.pieces(ids)) == f"<|user|>{TEXT}<|end|><|assistant|>" and none == []


def test_the_template_is_split_between_context_and_question(local: LM) -> None:
    context, question = local.render(TEXT, QUESTION)
    assert "".join(local.pieces(context)) == f"<|user|>{TEXT}\n\n"
    assert "".join(local.pieces(question)) == f"{QUESTION}<|end|><|assistant|>"
    together = local.tokenizer.apply_chat_template([{"role": "user", "content": f"{TEXT}\n\n{QUESTION}"}], add_generation_prompt=True)
    together = together["input_ids"] if not isinstance(together, list) else together
    assert context + question == together


def test_a_template_that_changes_the_prompt_is_refused(hub: Path) -> None:
    lm = load(str(hub), device="cpu")
    lm.tokenizer.chat_template = TEMPLATE.replace("m.content", "m.content[:20]")
    with pytest.raises(ValueError, match="Switch the template off"):
        lm.render(TEXT)


# the question


def test_a_question_is_fed_after_compression_unless_it_is_joined(local: LM) -> None:
    apart = ask(local, "snapkv", "20t", {"window": 8}, question=QUESTION)
    joined = ask(local, "snapkv", "20t", {"window": 8}, question=QUESTION, aware=True)
    n, q = len(local.encode(TEXT)), len(local.encode(QUESTION))
    assert (apart.prompt_tokens, apart.question_tokens) == (n, q) and (joined.prompt_tokens, joined.question_tokens) == (n + q, 0)
    assert {len(head) for layer in apart.kept for head in layer} == {20 + q + 5} and {len(head) for layer in joined.kept for head in layer} == {20 + 5}
    assert all(set(range(n, n + q)) <= set(head) for layer in apart.kept for head in layer)
    assert (apart.trace.left_at[..., :n] == 0).sum() == 3 * 2 * (n - 20), "what left did so before token 0 was written"
    assert (joined.trace.left_at == 1).sum() == 3 * 2 * (n + q - 20), "token 0 was written by the last query, which saw everything"


# budgets and bytes


def test_a_budget_as_a_fraction_tokens_and_bytes_is_realised(local: LM) -> None:
    n = len(local.encode(TEXT))
    total = n + 5  # the last token written is not fed
    for budget, slots in (("0.25", round(n / 4) + 5), ("30t", 35)):
        result = ask(local, "snapkv", budget, {"window": 8})
        assert result.budget["asked"] == budget and result.budget["realised"]["tokens"] == slots
        assert result.budget["realised"]["fraction"] == pytest.approx(slots / total)
        assert result.bytes["resident"] == result.bytes["predicted"] == 3 * 2 * slots * (2 * 16 * 4 + 4)
        assert result.bytes["full"] == local.geometry.full_bytes(total)
        # each layer is cut as soon as it is done: at most one is whole
        assert result.bytes["peak"] == n * local.geometry.slot_bytes + 2 * 2 * (slots - 5) * (2 * 16 * 4 + 4)
        assert result.budget["realised"]["bytes_fraction"] == pytest.approx(result.bytes["resident"] / result.bytes["full"])
    result = ask(local, "snapkv", "40kB", {"window": 8})
    one_more = 3 * 2 * (2 * 16 * 4 + 4)
    assert 40_000 - 2 * one_more < result.bytes["resident"] <= 40_000
    assert result.budget["asked"] == "40000B"


def test_kept_is_what_the_trace_says(local: LM) -> None:
    for method, budget in (("full", None), ("snapkv", "20t"), ("h2o", "30t")):
        result = ask(local, method, budget)
        held = [[np.nonzero(head == NEVER)[0].tolist() for head in layer] for layer in result.trace.left_at]
        assert result.kept == held
        assert len(result.trace.ids) == len(local.encode(TEXT)) + 5 and result.trace.written.tolist() == result.tokens


def test_a_result_goes_to_json(local: LM) -> None:
    result = ask(local, "snapkv", "20t")
    said = json.loads(json.dumps(result.as_dict()))
    assert said["method"] == "snapkv" and said["kept"] == result.kept and "trace" not in said
    assert set(said["bytes"]) == {"full", "nominal", "predicted", "resident", "peak", "read_per_step"}
    assert said["versions"]["model_revision"] == local.revision and said["versions"]["dtype"] == "float32"


# events, stopping, sampling


def test_events_tell_of_progress_and_of_every_token(local: LM) -> None:
    events: list[Progress | Token] = []
    request = Request(TEXT, make("snapkv", "20t", {"window": 8}), max_new_tokens=5, template=False, stop_at_end=False, chunk=64)
    result = run(local, request, events.append)
    n = len(local.encode(TEXT))
    assert [e.done for e in events if isinstance(e, Progress)] == [n % 64, n % 64 + 64, n]
    tokens = [e for e in events if isinstance(e, Token)]
    assert [e.token for e in tokens] == result.tokens and [e.step for e in tokens] == list(range(5))
    assert [e.resident for e in tokens] == result.trace.resident.tolist() and all(e.logprob <= 0 for e in tokens)
    assert tokens[1].touched == 3 * 2 * 21 * (2 * 16 * 4 + 4)


@pytest.mark.parametrize("when", ["prompt", "token"])
def test_a_stop_keeps_what_was_written(local: LM, when: str) -> None:
    stop, written = threading.Event(), []

    def emit(event: Progress | Token) -> None:
        if isinstance(event, Token):
            written.append(event.token)
        if when == "prompt" or len(written) == 3:
            stop.set()

    request = Request(TEXT, make("full"), max_new_tokens=50, template=False, stop_at_end=False, chunk=64, compare=True)
    result = run(local, request, emit, stop)
    assert result.status == "stopped" and result.tokens == written and len(written) == (3 if when == "token" else 0)
    seen = len(local.encode(TEXT)) + 2 if when == "token" else len(local.encode(TEXT)) % 64
    assert result.kept[0][0] == list(range(seen)) and len(result.trace.ids) == seen


def test_writing_stops_at_the_end_token(local: LM) -> None:
    free = ask(local)
    config = local.model.generation_config
    before, config.eos_token_id = config.eos_token_id, free.tokens[2]
    try:
        stopped = ask(local, stop_at_end=True)
    finally:
        config.eos_token_id = before
    assert stopped.tokens == free.tokens[: free.tokens.index(free.tokens[2]) + 1] and stopped.status == "done"


def test_sampling_repeats_under_a_seed(local: LM) -> None:
    draw = lambda seed: ask(local, temperature=1.0, seed=seed, max_new_tokens=12).tokens  # noqa: E731
    assert draw(1) == draw(1) and len({tuple(draw(seed)) for seed in range(3)}) == 3


def test_greedy_text_is_that_of_transformers(local: LM) -> None:
    ids = torch.tensor([local.encode(TEXT)])
    twin = plain(local)
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, twin(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert ask(local).tokens == ids[0, -6:].tolist()


# the reference


@pytest.mark.parametrize("question", ["", QUESTION])
def test_the_full_cache_does_not_differ_from_itself(local: LM, question: str) -> None:
    trace = ask(local, compare=True, question=question).trace
    assert trace.kl.shape == (6,) and np.abs(trace.kl).max() < 1e-5
    assert trace.missing().shape == (6, 3, 2) and trace.missing().max() == 0
    assert np.allclose(trace.full, trace.attention, atol=2e-3) and trace.full.shape == trace.attention.shape
    assert trace.top.tolist() == trace.written.tolist()


def test_a_compressed_run_is_compared_on_its_own_text(local: LM) -> None:
    result = ask(local, "snapkv", "10t", {"window": 4}, compare=True)
    trace, n = result.trace, len(local.encode(TEXT))
    assert trace.kl[0] < 1e-5 and trace.kl[1:].max() > 1e-3
    assert (trace.kl > -1e-6).all()
    with torch.no_grad():
        want = plain(local)(torch.tensor([trace.ids.tolist()])).logits[0, n - 1 :]
    assert trace.top.tolist() == want.argmax(-1).tolist()
    by_hand = [[[trace.full[s, la, h][trace.left_at[la, h] <= s].sum(dtype=np.float32) for h in range(2)] for la in range(3)] for s in range(6)]
    assert np.allclose(trace.missing(), by_hand, atol=1e-4) and trace.missing()[1:].min() > 0
    assert trace.full.sum(-1) == pytest.approx(1, abs=5e-3)


# models


def test_the_revision_changes_with_the_weights(local: LM, tmp_path: Path) -> None:
    other = load(str(save_tiny(tmp_path / "other", seed=1)), device="cpu")
    same = load(str(save_tiny(tmp_path / "same")), device="cpu")
    assert other.revision != local.revision == same.revision


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "conf.py").write_text(f"open({str(ran)!r}, 'w')\n")
    names = {"AutoConfig": "conf.C", "AutoModelForCausalLM": "conf.M"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": names}))
    with pytest.raises(ValueError, match="brings code of its own, which kvlab never runs"):
        load(str(tmp_path))
    assert not ran.exists()
    sources = [path.read_text() for path in (Path(__file__).parent.parent / "kvlab").rglob("*.py")]
    assert sources and not any("trust_remote_code=True" in source for source in sources)


@pytest.mark.parametrize(
    "config, says",
    [({"model_type": "t5"}, "does not write text token by token"), ({"model_type": "mamba"}, "layers of the kind linear_attention"),
     ({"model_type": "gptj"}, "way of its own"),
     ({"model_type": "nosuchmodel"}, "its config cannot be read"), ({"model_type": "qwen3"}, "its weights cannot be read")],
)  # fmt: skip
def test_a_folder_that_is_no_model_for_kvlab_says_why(tmp_path: Path, config: dict, says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=says) as error:
        load(str(tmp_path))
    assert "\n" not in str(error.value)


def test_names_that_can_be_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="neither a folder nor"):
        load("two words")


def test_a_request_is_data() -> None:
    request = Request(TEXT, make("snapkv", "0.5"))
    assert dataclasses.replace(request) == request
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 3
