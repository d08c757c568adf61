"""The Run page without a browser: what it says when nothing can run, what it plans, and that strangers' text stays text."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from kvlab.registry import make
from kvlab.ui import estimate, form, lane, plan, upload
from kvlab.ui.estimate import Sizes

APP = str(Path(__file__).parent.parent / "app.py")
TEXT = "The code of the green falcon is 2916. Nobody had seen the parrot in the pantry. " * 3
HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script> $\\frac{1}{2}$ :material/home: \u202eright to left [link](http://evil.test)"


def byte_model(folder: Path) -> str:
    """A model of random weights whose tokens are bytes, saved as a folder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    config = Qwen3Config(vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         head_dim=8, max_position_embeddings=1024, initializer_range=0.2, eos_token_id=None)  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return byte_model(tmp_path_factory.mktemp("bytes"))


@pytest.fixture
def app(model, monkeypatch, tmp_path):
    """The app on the byte model, with no presets unless a test brings some."""
    monkeypatch.setenv("KVLAB_MODEL", model)
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(form, "presets", lambda: {})
    return AppTest.from_file(APP, default_timeout=120)


def said(at: AppTest) -> str:
    """All words on the page that kvlab wrote as HTML."""
    return " ".join(part.proto.body for part in at.get("html"))


def write(at: AppTest, text: str = TEXT) -> AppTest:
    at.text_area(key="run-text").set_value(text)
    return at.run()


def lanes(at: AppTest) -> list[dict]:
    """The data of every lane drawn."""
    return [json.loads(part.proto.json) for part in at.get("bidi_component")]


def button(at: AppTest, key: str):
    return at.button(key=key)


def test_nothing_written_says_so_and_cannot_run(app):
    at = app.run()
    assert not at.exception
    assert "The prompt is empty" in said(at) and "No run is open" in said(at)
    assert button(at, "do-run").disabled and button(at, "do-cancel").disabled
    assert "4 query / 2 KV heads, RoPE, 1,024 positions" in said(at)


def test_a_written_prompt_is_planned_with_its_bytes(app):
    at = write(app.run())
    assert not at.exception and not button(at, "do-run").disabled
    full, snap = lanes(at)
    assert (full["title"], snap["title"], snap["state"]) == ("Full cache", "SnapKV", "planned")
    assert full["full"][0] == 2 * 132 * len(TEXT) and snap["predicted"][-1] < full["full"][-1] / 2
    assert f"{len(TEXT):,} tokens" in said(at) and f"= {snap['predicted'][-1]:,} B" in said(at).replace("<b>", "").replace("</b>", "")


def test_a_preset_fills_the_form(app, monkeypatch):
    card = {"id": "one", "title": "One evicted digit", "context": TEXT, "question": "Question: which code? Answer:", "answer": "2916",
            "what_to_look_for": "The **digit** <b>leaves</b>.", "suggest": {"method": "snapkv+kivi", "budget": 0.4, "knobs": {"window": 8}}}  # fmt: skip
    monkeypatch.setattr(form, "presets", lambda: {"one": card})
    at = app.run()
    assert not at.exception
    assert at.text_area(key="run-question").value == card["question"] and at.slider(key="run-slider").value == 40
    assert [lane["title"] for lane in lanes(at)] == ["Full cache", "SnapKV + KIVI"]
    assert at.number_input(key="run-knob-snapkv-snapkv-window").value == 8
    assert "&lt;b&gt;leaves&lt;/b&gt;" in said(at)


def test_a_budget_in_bytes_that_cannot_be_met_is_refused_with_its_floor(app):
    at = write(app.run())
    at.segmented_control(key="run-unit").set_value("bytes").run()
    at.slider(key="run-slider").set_value(1).run()
    assert not at.exception
    assert "cannot fit" in said(at) and button(at, "do-run").disabled


def test_units_of_the_budget_mean_the_same(app):
    at = write(app.run())
    at.slider(key="run-slider").set_value(50).run()
    half = lanes(at)[1]["predicted"][-1]
    at.segmented_control(key="run-unit").set_value("tokens").run()
    assert at.slider(key="run-slider").value == round(len(TEXT) / 2)
    assert lanes(at)[1]["predicted"][-1] == half


def test_a_prompt_longer_than_the_model_is_refused_with_numbers(app):
    at = write(app.run(), "word " * 250)
    assert not at.exception
    assert "has 1,250 tokens and 36 are to be written" in said(at) and "Shorten the prompt by 262 tokens" in said(at)
    assert button(at, "do-run").disabled


@pytest.mark.parametrize(("name", "sentence"), [("nobody/nothing", "could not be read"), ("not a name!", "neither a folder nor a Hugging Face id")])
def test_an_unknown_model_is_a_sentence(app, monkeypatch, name, sentence):
    monkeypatch.setenv("KVLAB_MODEL", name)
    at = app.run()
    assert not at.exception
    assert sentence in said(at) and button(at, "do-run").disabled


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.txt", b"\xff\xfe\x00x", "not UTF-8"),
        ("a.txt", b"one\x00two", "NUL character at place 4"),
        ("a.md", b"x" * 1_000_001, "1,000,001 bytes"),
        ("a.txt", b"  \n", "is empty"),
        ("a.exe", b"text", "Only .txt and .md"),
    ],
)
def test_uploads_are_checked_on_the_server(name, data, sentence):
    with pytest.raises(ValueError, match=sentence):
        upload.read_upload(data, name)


def test_upload_becomes_the_prompt_or_a_sentence(app):
    at = app.run()
    at.segmented_control(key="run-source").set_value("Upload").run()
    at.file_uploader(key="file").upload("prompt.md", b"\xef\xbb\xbf" + TEXT.encode()).run()
    assert not at.exception and at.text[0].value == TEXT.strip() and not button(at, "do-run").disabled
    at.file_uploader(key="file").upload("bad.txt", b"caf\xe9").run()
    assert "not UTF-8 text: byte 3" in said(at) and button(at, "do-run").disabled


def test_hostile_text_is_never_markdown_or_html(app):
    at = app.run()
    at.segmented_control(key="run-source").set_value("Upload").run()
    at.file_uploader(key="file").upload("<b>![x](http://evil.test)</b>.txt", HOSTILE.encode()).run()
    assert not at.exception and at.text[0].value == HOSTILE
    written = " ".join([said(at), *(m.value for m in at.markdown), *(c.value for c in at.caption)])
    assert "evil.test" not in written and "<script" not in written
    at.segmented_control(key="run-source").set_value("Write").run()
    write(at, "a\x00b")
    assert "NUL character at place 2" in said(at)


def test_a_run_shows_tokens_and_keeps_its_link(app):
    at = write(app.run())
    button(at, "do-run").click()
    at.run()
    end = time.monotonic() + 120
    while any(one["state"] in ("queued", "running", "planned") for one in lanes(at)):
        assert time.monotonic() < end
        time.sleep(0.2)
        at.run()
    full, snap = lanes(at)
    assert not at.exception and full["state"] == snap["state"] == "done"
    assert len(snap["tokens"]) == 36 and snap["measured"][-1] == snap["predicted"][-1]
    assert dict(map(tuple, snap["bytes"])).keys() == {"nominal", "predicted", "held by tensors, measured", "peak", "entries kept"}
    assert at.query_params["run"] in (f"{full['run']},{snap['run']}", [f"{full['run']},{snap['run']}"])
    again = AppTest.from_file(APP, default_timeout=120)  # a new session, as after a reload
    again.query_params["job"] = at.query_params["job"]
    again.run()
    assert again.text_area(key="run-text").value == TEXT and [one["run"] for one in lanes(again)] == [full["run"], snap["run"]]
    again.slider(key="run-slider").set_value(60).run()
    assert [(one["state"], one["stale"]) for one in lanes(again)] == [("done", False), ("planned", False), ("done", True)]
    stored = AppTest.from_file(APP, default_timeout=120)  # and after the server forgot the job
    stored.query_params["run"] = at.query_params["run"]
    stored.run()
    assert not stored.exception and [one["measured"] for one in lanes(stored)] == [full["measured"], snap["measured"]]


def test_a_bad_link_is_a_sentence(app):
    app.query_params["run"] = "../../etc"
    at = app.run()
    assert not at.exception and "not the id of a run" in said(at)


def test_formula_and_prediction_agree():
    from conftest import tiny

    geometry, sizes = tiny().geometry, Sizes(96, 10, 20)
    method = estimate.settled(make("snapkv", "0.5"), geometry, sizes)
    counted, weight = estimate.formula(method, geometry, sizes)
    assert counted == "3 layers \u00d7 (48 kept + 10 asked + 19 written) slots"
    assert weight == "\u00d7 (2 \u00d7 2 heads \u00d7 16 \u00d7 4 B + 8 B position)"
    assert estimate.predicted(method, geometry, sizes)[-1] == 3 * 77 * 264


def test_words_for_tokens_and_differences():
    assert lane.visible("a\x00\n\u202e") == "a<0000>\u21b5\n<202E>"
    tokens, first = lane.tokens_view([(1, "a"), (2, "b"), (3, "c"), (4, "d")], [1, 9, 9, 4])
    assert first == 1 and [mark for _, mark in tokens] == [0, 2, 1, 0]
    assert plan.ordered(["kivi", "snapkv"]) == "snapkv+kivi" if "kivi" in plan.registry() else True
