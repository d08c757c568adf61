"""Tests of the bundled model: its text, tokenizer, training and the shipped weights."""

import json
import random
import re
from pathlib import Path

import pytest
import torch

from kvlab.bundled import average, batches, evaluate, forms, natural, ruler, taskrows, train, words
from kvlab.tasks.base import Sample
from kvlab.tasks.words import KEYS, NAMES

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "data" / "model"
RETRIEVED = {"infinite_kv", "scbench_kv", "ruler_niah_multikey_3", "longgen_copy", "scbench_prefix_suffix", "ruler_qa_2", "ruler_niah_multiquery", "ruler_vt"}
"""Tasks whose answers stand in the context word for word."""


@pytest.fixture(scope="module")
def shipped():
    torch.set_num_threads(2)
    return evaluate.load(MODEL)


@pytest.mark.parametrize("form", list(forms.FORMS))
def test_forms_are_deterministic_and_answerable(form):
    for seed in range(5):
        sample = forms.make(form, seed, 300)
        assert sample == forms.make(form, seed, 300)
        assert "".join(sample.pieces) == sample.context
        for question, answers, target, needle in zip(
            sample.questions, sample.answers, sample.targets, sample.needles, strict=True
        ):
            assert question.startswith("\nQuestion:") and target.endswith(".")
            assert all(a in sample.context and a in target for a in answers)
            assert all(part.strip() in sample.context for part in needle.split("|"))


def test_seeds_differ():
    assert forms.make("facts", 1, 200).context != forms.make("facts", 2, 200).context


def test_depth_places_the_needle():
    early, late = (
        forms.make("needle", 3, 800, kind="sentences", keys=1, depth=d, questions=1) for d in (0.0, 1.0)
    )
    assert early.context.startswith(early.needles[0])
    assert late.context.endswith(late.needles[0])


def test_chain_refers_back():
    sample = forms.make("chain", 7, 200, hops=2, letters=False, questions=1)
    value = sample.answers[0][0]
    assert sample.context.count(f"= {value}") == 1
    assert sample.targets[0].count("VAR") == 2


def test_held_out_words_are_absent_from_training_text():
    held = {w.lower() for w in words.HELD_OUT.every()}
    samples = [forms.make(f, s, 200) for f in forms.FORMS for s in range(40)]
    texts = [s.context + "".join(s.questions) for s in samples] + list(natural.documents(False))
    assert not any(held & set(re.findall(r"\w+", t.lower())) for t in texts)


@pytest.mark.parametrize("name", batches.TASKS)
def test_rows_of_a_task_hold_no_word_of_the_tasks_and_all_their_answers(shipped, name):
    _, tokens = shipped
    kept = {word.lower() for word in (*KEYS.adjectives, *KEYS.nouns, *KEYS.names, *KEYS.cities, *NAMES)}
    count = lambda text: len(tokens(text, add_special_tokens=False).input_ids)  # noqa: E731
    for seed in range(2):
        context, asked = taskrows.pieces(name, random.Random(seed), 800, ruler.wide(), count)
        text = "".join(context)
        assert not kept & set(re.findall(r"[^\W_]+", (text + "".join(q + t for q, t in asked)).lower()))
        if name in RETRIEVED:
            assert all(part in text for _, target in asked for part in re.findall(r"[\w-]+", re.sub("Answer_.*?is", "", target)))


def test_the_order_of_answers_that_nothing_tells_is_the_order_of_the_text():
    sample = Sample("b then a then c", ("?",), (("a", "b", "c"),))
    assert taskrows.target("ruler_cwe", sample, "?", ("a", "b", "c")) == " b, a, c."
    assert taskrows.target("ruler_vt", sample, "?", ("a", "b", "c")) == " a, b, c."


def test_the_mean_of_two_models():
    first, second = {"a": torch.tensor([0.0, 1.0])}, {"a": torch.tensor([1.0, 3.0])}
    assert average.mean(first, second, 0.25)["a"].tolist() == [0.25, 1.5]
    with pytest.raises(ValueError, match="different shapes"):
        average.mean(first, {"a": torch.zeros(3)}, 0.5)


def test_natural_parts_share_no_file():
    assert not set(natural.documents(False)) & set(natural.documents(True))


def test_tokenizer_round_trip_and_digit_groups(shipped):
    _, tokens = shipped
    text = "The code of the wooden zebra is 291644.\n- tolivu = 42,\tdef f(x): return {x!r}"
    ids = tokens(text).input_ids
    assert ids[0] == tokens.bos_token_id
    assert tokens.decode(ids[1:]) == text
    for i in range(1000):
        group = f" {i:03d}{999 - i:03d}"
        assert len(tokens(group, add_special_tokens=False).input_ids) == 2


def test_question_tokens_do_not_depend_on_the_context(shipped):
    _, tokens = shipped
    for form in forms.FORMS:
        sample = forms.make(form, 5, 200)
        for question in sample.questions:
            apart = tokens(sample.context).input_ids + tokens(question, add_special_tokens=False).input_ids
            assert tokens(sample.context + question).input_ids == apart


def test_shipped_model_is_small_and_documented():
    assert sum(p.stat().st_size for p in MODEL.rglob("*") if p.is_file()) < 16_000_000
    for name in ("config.json", "README.md", "heads.json", "accuracy.json"):
        assert (MODEL / name).exists()


def test_shipped_model_retrieves(shipped):
    row = evaluate.accuracy(*shipped, "single needle, sentences", 256, 12, seed="test")
    assert row["questions"] == 12
    assert row["accuracy"] >= 0.75


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "prompts").glob("*.json")), ids=lambda p: p.stem)
def test_prompts_are_answered(path, shipped):
    model, tokens = shipped
    prompt = json.loads(path.read_text())
    assert set(prompt) == {"id", "title", "context", "question", "answer", "what_to_look_for", "suggest"}
    assert prompt["id"] == path.stem
    cache, length = evaluate.fill(model, tokens, prompt["context"])
    assert 100 <= length <= 1100
    most = len(tokens(prompt["answer"]).input_ids) + 4
    assert evaluate.answer(model, tokens, cache, prompt["question"], most).strip(" .") == prompt["answer"]


def _weights(run: Path) -> dict:
    return torch.load(run / "checkpoint.pt", weights_only=True)["model"]


def test_training_is_resumable(tmp_path, shipped):
    tiny = ["--steps", "4", "--tokens", "128", "--length", "64", "--hidden", "32", "--layers", "1", "--inner", "32"]
    for name in ("whole", "halves"):
        shipped[1].save_pretrained(tmp_path / name / "tokenizer")
    out = ["--out", str(tmp_path / "out")]
    train.main(["--run", str(tmp_path / "whole"), *out, *tiny])
    train.main(["--run", str(tmp_path / "halves"), *out, *tiny, "--stop", "2"])
    train.main(["--run", str(tmp_path / "halves"), *out, *tiny])
    whole, halves = _weights(tmp_path / "whole"), _weights(tmp_path / "halves")
    assert all(torch.equal(whole[k], halves[k]) for k in whole)


def test_rows_are_weighted_and_have_rising_positions(shipped):
    rows = batches.Rows(shipped[1], seed=0)
    batch = rows.batch(step=5, length=128, tokens=1024, mix=batches.LATE)
    assert batch.ids.shape == batch.weights.shape == batch.positions.shape == (8, 128)
    assert (batch.ids[:, 0] == shipped[1].bos_token_id).all() and (batch.positions[:, 0] == 0).all()
    assert (batch.positions.diff(dim=1) >= 1).all() and batch.positions.max() < 8192
    assert (batch.weights == batches.ANSWER_WEIGHT).any()
