"""The Run page without a browser: what it says when nothing can run, what it plans, and that strangers' text stays text."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pypdf
import pytest
from streamlit import config
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
from streamlit.testing.v1 import AppTest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from kvlab.registry import make
from kvlab.ui import estimate, form, lane, own_tasks, plan, upload
from kvlab.ui.estimate import Sizes
from kvlab.ui.service import service

PAGE = str(Path(__file__).parent.parent / "pages" / "run.py")
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
    """The page on the byte model, with no presets unless a test brings some."""
    monkeypatch.setenv("KVLAB_MODEL", model)
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(form, "presets", lambda: {})
    return session()


def session() -> AppTest:
    """A new tab on the page alone, without the frame around it."""
    at = AppTest.from_file(PAGE, default_timeout=120)
    at.session_state["framed"] = True  # as app.py leaves it
    return at


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
        ("a.txt", b"\xff\xfex", "says it is UTF-16 text, but it is not"),
        ("a.txt", b"caf\xe9", "byte 3 cannot be read, and its encoding cannot be told"),
        ("a.txt", bytes(range(128, 256)) * 9 + b"\x00", "its encoding cannot be told"),
        ("a.txt", b"one\x00two", "NUL character at place 4"),
        ("a.md", b"x" * 1_000_001, "1,000,001 bytes"),
        ("a.txt", b"  \n", "is empty"),
        ("a.exe", b"text", ".csv or .pdf are read"),
        ("a.json", b"{", "not JSON .*line 1"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'{"prompt": 3}', '"prompt" is a text, not 3'),
        ("a.jsonl", b'{"context": "a"}\nb', "Line 2 is not JSON"),
        ("a.jsonl", b'{"question": "a"}', 'Line 1 has no "context"'),
        ("a.jsonl", b'{"context": "a"}\n' * 2001, "2,001 prompts"),
        ("a.jsonl", b'{"context": "a"}\n{"context": " "}', "Record 2 is empty"),
        ("a.csv", b'prompt\n"a', "no CSV"),
        ("a.pdf", b"%PDF-1.4 nothing", "no PDF that can be read"),
        ("a.pdf", b"x" * 5_000_001, "5,000,001 bytes"),
    ],
)
def test_uploads_are_checked_on_the_server(name, data, sentence):
    with pytest.raises(ValueError, match=sentence) as found:
        upload.read_upload(data, name)
    assert str(found.value).endswith(".") and "\n" not in str(found.value)


def pdf(*lines: str, password: str = "") -> bytes:
    """A PDF of one page, made by hand; an empty one where there are no lines."""
    text = "\n".join(f"1 0 0 1 50 {700 - 20 * i} Tm ({line}) Tj" for i, line in enumerate(lines))
    stream = f"BT /F1 12 Tf {text} ET".encode()
    parts = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
             b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
             b"<< /Length %d >> stream\n%s\nendstream" % (len(stream), stream), b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]  # fmt: skip
    body, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(body))
        body += b"%d 0 obj %s endobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    body += b"xref\n0 6\n0000000000 65535 f \n%strailer << /Root 1 0 R /Size 6 >>\nstartxref\n%d\n%%%%EOF" % (table, len(body))
    if not password:
        return body
    writer, out = pypdf.PdfWriter(clone_from=io.BytesIO(body)), io.BytesIO()
    writer.encrypt(password, algorithm="RC4-128")
    writer.write(out)
    return out.getvalue()


def test_every_kind_of_file_becomes_a_prompt():
    one = lambda data, name: upload.read_upload(data, name).records  # noqa: E731
    assert one(pdf("The code is 2916.", "Hugo left."), "a.PDF")[0].prompt.split() == "The code is 2916. Hugo left.".split()
    assert one(b'{"context": "a", "question": "b?"}', "a.json") == (upload.Record("a", "b?"),)
    assert one(b'{"x": 1}', "a.json")[0].prompt == '{"x": 1}' and "as it stands" in upload.read_upload(b'{"x": 1}', "a.json").note
    assert one(b"Prompt,Question\na,b?\n\"c\nd\",\n", "a.csv") == (upload.Record("a", "b?"), upload.Record("c\nd"))
    assert one(b"x,y\n1,2\n", "a.csv")[0].prompt == "x,y\n1,2\n"
    lines = b'{"context": "a", "question": "b?", "answers": ["c"]}\n\n{"context": "d", "question": "e?", "answers": "f"}\n'
    assert upload.read_upload(lines, "a.jsonl").task and len(one(lines, "a.jsonl")) == 2
    assert not upload.read_upload(b'{"context": "a"}\n', "a.jsonl").task
    with pytest.raises(ValueError, match="holds no text"):
        upload.read_upload(pdf(), "a.pdf")
    with pytest.raises(ValueError, match="locked with a password"):
        upload.read_upload(pdf("a", password="secret"), "a.pdf")


FRENCH = "Personne n\u2019avait vu le perroquet dans la r\u00e9serve; l\u00e0-bas, le caf\u00e9 \u00e9tait ferm\u00e9. " * 6
RUSSIAN = bytes.fromhex("cde8eaf2ee20ede520e2e8e4e5eb20efeeeff3e3e0ff20e220eaebe0e4eee2eee92e20").decode("cp1251") * 6


@pytest.mark.parametrize(("encoding", "text"), [("utf-16", FRENCH), ("utf-32", FRENCH), ("utf-8-sig", FRENCH), ("cp1251", RUSSIAN), ("koi8_r", RUSSIAN)])
def test_encodings_are_told_or_guessed_with_a_remark(encoding, text):
    found = upload.read_upload(text.encode(encoding), "a.txt")
    assert found.records[0].prompt == text
    assert bool(found.note) == (encoding != "utf-8-sig") and ("guessed" in found.note) == (text == RUSSIAN)


def test_an_encoding_that_could_be_two_is_refused():
    with pytest.raises(ValueError, match=r"it could be cp125\d or cp125\d as well"):
        upload.read_upload(FRENCH.encode("cp1252"), "a.txt")


def test_upload_becomes_the_prompt_or_a_sentence(app):
    at = app.run()
    at.segmented_control(key="run-source").set_value("Upload").run()
    at.file_uploader(key="file").upload("prompt.md", b"\xef\xbb\xbf" + TEXT.encode()).run()
    assert not at.exception and at.text[0].value == TEXT.strip() and not button(at, "do-run").disabled
    at.file_uploader(key="file").upload("bad.txt", b"caf\xe9").run()
    assert "not UTF-8 text: byte 3" in said(at) and button(at, "do-run").disabled


def test_a_file_of_questions_gives_its_first_and_leads_to_a_sweep(app):
    lines = [{"context": f"{TEXT} {n}", "question": f"Question {n}?", "answers": [str(n)]} for n in (1, 2)]
    at = app.run()
    at.segmented_control(key="run-source").set_value("Upload").run()
    at.file_uploader(key="file").upload("../mine<b>.jsonl", "\n".join(map(json.dumps, lines)).encode()).run()
    assert not at.exception and at.text[0].value == f"{TEXT} 1" and at.text_area(key="run-question").value == "Question 1?"
    link = re.search(r'class="kv-link" href="tradeoffs\?tasks=([\w-]+)"', said(at))
    assert "It holds 2 questions with answers" in said(at) and (own_tasks.folder() / f"{link[1]}.jsonl").exists()
    second = next(n for n in at.number_input if n.label.startswith("Which of its 2"))
    second.set_value(2).run()
    assert not at.exception and at.text[0].value == f"{TEXT} 2" and at.text_area(key="run-question").value == "Question 2?"
    at.text_area(key="run-question").set_value("Mine?").run()
    assert at.text_area(key="run-question").value == "Mine?", "what is changed afterwards stays"


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
    assert dict(map(tuple, snap["bytes"])).keys() == {"nominal", "predicted", "held by tensors, measured", "peak", "prediction", "entries kept"}
    assert dict(map(tuple, snap["bytes"]))["prediction"] == "exact"
    assert at.query_params["run"] in (f"{full['run']},{snap['run']}", [f"{full['run']},{snap['run']}"])
    again = session()  # a new session, as after a reload
    again.query_params["job"] = at.query_params["job"]
    again.run()
    assert again.text_area(key="run-text").value == TEXT and [one["run"] for one in lanes(again)] == [full["run"], snap["run"]]
    again.slider(key="run-slider").set_value(60).run()
    assert [(one["state"], one["stale"]) for one in lanes(again)] == [("done", False), ("planned", False), ("done", True)]
    stored = session()  # and after the server forgot the job
    stored.query_params["run"] = at.query_params["run"]
    stored.run()
    assert not stored.exception and [one["measured"] for one in lanes(stored)] == [full["measured"], snap["measured"]]
    same = write(session().run())  # whoever asks for the very same run sees the stored one before pressing anything
    assert [(one["state"], one["run"], one["note"][:13]) for one in lanes(same)] == [("done", one["run"], "stored run of") for one in (full, snap)]
    next((service().store.folder / snap["run"]).glob("*.npz")).write_bytes(b"no archive")
    assert [one["state"] for one in lanes(write(session().run()))] == ["done", "planned"], "one that cannot be read is as good as none"


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


def test_what_a_quantizer_really_takes_is_among_the_figures():
    said = {"status": "done", "id": "0" * 16, "method": "kivi", "tokens": [1, 2], "seconds": {"prefill": 1.0, "decode_per_token": 0.1},
            "budget": {"realised": {"fraction": 1.0}},
            "bytes": {"full": 4096, "nominal": 4096, "predicted": 900, "resident": 1000, "peak": 1200, "bits_per_value": 5.125, "side": 2048}}  # fmt: skip
    figures = dict(map(tuple, lane.ended(said, [])["bytes"]))
    assert figures["bits per value, all counted"] == "5.12" and figures["prediction"] == "10.0% too low" and "beside the cache, shared by all runs" in figures
    del said["bytes"]["bits_per_value"], said["bytes"]["side"]
    assert not any("bits" in name or "beside" in name or "read" in name for name, _ in lane.ended(said, [])["bytes"])


@pytest.mark.parametrize("method", ["hata", "snapkv+quest"])
def test_what_a_step_reads_is_among_the_figures_where_it_is_not_all(method: str) -> None:
    said = {"status": "done", "id": "0" * 16, "method": method, "tokens": [1, 2], "seconds": {"prefill": 1.0, "decode_per_token": 0.1},
            "budget": {"realised": {"fraction": 1.0}},
            "bytes": {"full": 4096, "nominal": 4096, "predicted": 4200, "resident": 4200, "peak": 4300, "read_per_step": 1024.0}}  # fmt: skip
    assert dict(map(tuple, lane.ended(said, [])["bytes"]))["read per step"] == "1.00 KiB"


def test_streamlit_still_keeps_names_of_elements_that_it_takes_back():
    """Why no lane may be sent by name (.streamlit/config.toml). Once this fails Streamlit has mended it, and the setting can go."""
    queue, element, name = ForwardMsgQueue(), ForwardMsg(), ForwardMsg()
    element.metadata.delta_path[:], name.metadata.delta_path[:] = [0, 1], [0, 2]
    element.delta.new_element.text.body, element.delta.fragment_id, name.ref_hash = "a lane that changed", "lanes", "one that did not"
    queue.enqueue(element)
    queue.enqueue(name)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=["lanes"])
    assert [message.WhichOneof("type") for message in queue.flush()] == ["ref_hash"]
    assert config.get_option("global.minCachedMessageSize") == 500_000
