"""The planner's formulas by themselves: shapes from configs, memory and its two limits, the decode step, badges, evidence, the command."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace

import fake_sweep as fake
import numpy as np
import pandas as pd
import pytest

from kvlab import cli
from kvlab.geometry import Geometry
from kvlab.planner import answer, evidence, formulas, memory, mix, shapes
from kvlab.planner.command import command
from kvlab.planner.deploy import badges
from kvlab.planner.evidence import Evidence, Setting
from kvlab.planner.memory import GIB, Demand, bill, most_users, one_user
from kvlab.planner.roofline import step
from kvlab.predict import predicted_bytes
from kvlab.registry import make, registry
from kvlab.ui import sweeps

LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
         "vocab_size": 100, "max_position_embeddings": 4096}  # fmt: skip


def tiny(**changed: object) -> shapes.Shape:
    return shapes.pasted(json.dumps({**LLAMA, **changed}))


def demand(shape: shapes.Shape | None = None, **changed: object) -> Demand:
    said = {"dtype": "bfloat16", "context": 1600, "written": 100, "users": 4, "gpus": 1, "usable": 40e6}
    return Demand(shape or tiny(), **{**said, **changed})


@pytest.mark.parametrize("key", list(shapes.shipped()))
def test_a_shipped_config_counts_what_is_published(key: str) -> None:
    found, published = shapes.shape(key), shapes.shipped()[key].get("parameters")
    assert published is None or found.weights.total == published
    assert (found.geometry is None) == bool(found.refused)


def test_the_bundled_model_counts_what_it_holds() -> None:
    from safetensors import safe_open

    from kvlab.models import DATA

    with safe_open(DATA / "model" / "model.safetensors", "pt") as file:
        held = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    assert shapes.shape("bundled").weights.total == held


def test_families_are_read_as_they_are() -> None:
    gemma, latent, hybrid = shapes.shape("gemma-3-27b"), shapes.shape("deepseek-v3"), shapes.shape("qwen3-next-80b")
    assert gemma.geometry.windows.count(None) == 10 and gemma.geometry.windows.count(1024) == 52 and "slide over 1,024" in gemma.line
    assert latent.geometry.latent == (512, 64) and "MLA" in latent.line and latent.weights.picked == 8 and latent.weights.experts == 256
    assert "linear_attention" in hybrid.refused and "12 of its 48 layers hold keys and values" in hybrid.refused
    assert "(GQA)" in shapes.shape("llama-3.1-8b").line
    with pytest.raises(ValueError, match="linear_attention"):
        hybrid.at(2)


def test_experts_are_counted_by_what_a_step_touches() -> None:
    found = shapes.shape("mixtral-8x7b").weights
    assert found.active == found.dense + found.routed / 4
    assert found.touched(1) == pytest.approx(found.active) and found.touched(1) < found.touched(8) < found.touched(1000) <= found.dense + found.routed
    dense = shapes.shape("llama-3.1-8b").weights
    assert dense.touched(1) == dense.touched(64) == dense.dense == dense.total - 128256 * 4096, "of the table of tokens a step reads single rows"


def test_a_tied_head_counts_once() -> None:
    assert tiny(tie_word_embeddings=False).weights.total - tiny(tie_word_embeddings=True).weights.total == 100 * 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Nothing was pasted"), ("{", "no JSON: line 1"), ("[1]", "object in braces"), ("{}", "no model_type"), ('{"model_type": 3}', "no model_type"),
        ('{"model_type": "<b>evil</b>"}', "'<b>evil</b>' is no family"), (json.dumps({**LLAMA, "num_hidden_layers": 10**6}), "at most 512"),
        (json.dumps({**LLAMA, "vocab_size": 10**12}), "at most 2,147,483,648"), (json.dumps({**LLAMA, "x": " " * 70_000}), "more than 64,000 bytes"),
        (json.dumps({**LLAMA, "layer_types": ["full_attention"] * 600}), "lists 600 entries"), ("[" * 5000, "nested too deeply|no JSON"),
        (json.dumps({**LLAMA, "hidden_size": "wide"}), "transformers cannot"),
        ('{"model_type": "bert"}', "does not write text"), ('{"model_type": "vit"}', "does not write text|cannot"),
        (json.dumps({"model_type": "llama", "rope_parameters": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {}}}}}}}}}}}), "nested too deeply"),
    ],
)  # fmt: skip
def test_a_pasted_config_that_is_none_gets_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as found:
        shapes.pasted(text)
    assert str(found.value).endswith(".") and "\n" not in str(found.value)


def test_labels_and_code_of_a_pasted_config_are_ignored() -> None:
    found = tiny(num_labels=10**9, auto_map={"AutoConfig": "evil.Config"}, torch_dtype="float64")
    assert found.weights == tiny().weights


def test_cache_bytes_are_those_a_run_is_checked_against() -> None:
    for name in ("full", "snapkv", "kivi", "snapkv+kivi", "h2o", "quest"):
        method, asked = make(name, 0.25), demand()
        assert bill(method, asked).caches == 4 * predicted_bytes(method, asked.geometry, 1600, 1500)
    assert bill(make("full"), demand()).each == asked.geometry.full_bytes(1600) == 3 * 1600 * (2 * 2 * 8 * 2 + 4)


def test_windows_latents_and_copies_are_counted() -> None:
    windowed = tiny(model_type="mistral", sliding_window=128)
    assert bill(make("full"), demand(windowed)).each == 3 * 127 * (2 * 2 * 8 * 2 + 4)
    latent = shapes.shape("deepseek-v2-lite")
    wide = demand(latent, usable=1e12)
    assert bill(make("full"), wide).each == 27 * 1600 * ((512 + 64) * 2 + 4)
    # a latent cannot be split over GPUs, so each of them holds all of it; two KV heads are shared by two and doubled by four
    assert bill(make("full"), demand(latent, gpus=8, usable=1e12)).each == 8 * bill(make("full"), wide).each
    one, two, four = (bill(make("full"), demand(gpus=gpus)).each for gpus in (1, 2, 4))
    assert one == two and four == 2 * one


def test_a_prompt_needs_more_before_its_cut() -> None:
    raw = 2 * 2 * 8 * 2 + 4
    long, short = demand(), demand(context=900)
    assert bill(make("full"), long).before == 0 == bill(make("quest"), long).before
    snap = make("snapkv", 0.25)
    assert bill(snap, long).before == 3 * 1500 * raw - predicted_bytes(snap, long.geometry, 1500, 1500), "raw until the last of two chunks was read"
    assert bill(snap, short).before == 800 * raw, "in one chunk the layers are cut one after the other"
    assert bill(make("h2o", 0.25), long).before == 3 * 1024 * raw, "cut at every chunk: one chunk more"


def naive_context(method: answer.Method, asked: Demand) -> int:
    """Token by token, the plain way."""
    fits = 0
    for context in range(asked.written + 1, asked.geometry.context + 1):
        if bill_total(method, asked, context) > asked.usable:
            break
        fits = context
    return fits


def bill_total(method: answer.Method, asked: Demand, context: int) -> float:
    chunk, each = memory.workspace(Demand(**{**vars(asked), "context": context}))
    return asked.weights + chunk + each * asked.users + memory.before_cut(method, asked, context) + memory.one_user(method, asked, context) * asked.users


@pytest.mark.parametrize("name", ["full", "snapkv", "kivi", "snapkv+kivi", "h2o"])
@pytest.mark.parametrize("usable", [1.3e6, 1.9e6, 3e6, 4e7])
def test_the_limits_are_where_the_plain_search_finds_them(name: str, usable: float) -> None:
    method, asked = make(name, 0.25), demand(usable=usable)
    found, capped = memory.most_context(method, asked)
    exact = naive_context(method, asked)
    assert capped == (exact == asked.geometry.context)
    assert exact - max(1, exact // 500) <= found <= exact, "to 0.2 %, and never too long"
    most = memory.most_users(method, asked)
    left = usable - bill_total(method, demand(usable=usable, users=most or 1), 1600)
    assert (left >= 0) == (most > 0) and bill_total(method, demand(usable=usable, users=most + 1), 1600) > usable


def test_formulas_end_in_the_figures_they_explain() -> None:
    for shape in (tiny(), tiny(model_type="mistral", sliding_window=128), shapes.shape("deepseek-v2-lite"), shapes.shape("gemma-2-9b")):
        for name in ("full", "snapkv", "kivi"):
            asked = demand(shape, usable=60 * GIB)
            if make(name).refuses(asked.geometry):
                continue
            made = bill(make(name, 0.25), asked)
            assert formulas.cache(made, asked).endswith(f"= {formulas.size(made.each)} a user; \u00d7 4 users = {formulas.size(made.caches)}")
            assert f"so {made.users:,} users" in formulas.users(made, asked) and formulas.size(made.total) in formulas.total(made)
            assert formulas.weights(asked).startswith(f"{shape.weights.total:,} parameters \u00d7 2 B")
    assert formulas.usable(24, 0.9, 2) == "2 \u00d7 24 GiB \u00d7 90% = 43.2 GiB"


def test_a_formula_can_be_worked_out_by_hand() -> None:
    made = bill(make("full"), demand())
    said = formulas.cache(made, demand())
    assert said.startswith("3 layers \u00d7 1,600 tokens \u00d7 (2 \u00d7 2 heads \u00d7 8 \u00d7 2 B + 4 B position)")
    assert made.each == 3 * 1600 * (2 * 2 * 8 * 2 + 4)


def test_no_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no prompt is left"):
        demand(context=100)


def test_a_decode_step_is_bound_by_the_slower_side() -> None:
    asked = demand(shapes.shape("llama-3.1-8b"), context=8192, users=1, usable=24 * GIB)
    slow = step(make("full"), asked, 1e12, 1e18)
    assert slow.bound == "memory" and slow.seconds == pytest.approx((slow.weights + slow.caches) / 1e12)
    fast = step(make("full"), asked, 1e18, 1e12)
    assert fast.bound == "compute" and fast.seconds == pytest.approx(fast.flops / 1e12)
    # two operations a parameter, four a slot, channel and query head
    weights = asked.shape.weights
    assert slow.flops == 2 * weights.dense + 4 * 32 * 128 * 8192 * 32 and slow.weights == 2 * weights.dense
    kept = step(make("snapkv", 0.25), asked, 1e12, 1e18)
    assert kept.caches < slow.caches and kept.seconds < slow.seconds and not kept.fewer
    assert step(make("quest"), asked, 1e12, 1e18).fewer


def answers(name: str) -> dict[str, str]:
    return {one.asks: one.answer for one in badges(make(name))}


def test_badges_follow_from_what_a_method_declares() -> None:
    assert set(answers("full").values()) == {"yes", "none", "no"} and answers("full")["append-only pages"] == "yes"
    assert answers("snapkv")["append-only pages"] == "after one cut" and answers("h2o")["append-only pages"] == "no"
    assert answers("kivi")["own kernel"] == "yes" and answers("quest")["own kernel"] == "yes" and answers("cam")["append-only pages"] == "no"
    for name, kind in registry().items():
        said = answers(name)
        assert (said["attention weights"] == "needs them") == ("weights" in kind().needs)
        assert (said["calibration"] != "none") == ("calibration" in kind().needs)
        assert not (kind().encodes and said["own kernel"] == "no")
    both = answers("snapkv+kivi")
    assert both["append-only pages"] == "after one cut" and both["own kernel"] == "yes" and both["attention weights"] == "queries only"


def points(**changed: object) -> pd.DataFrame:
    raw, _ = fake.sweep()
    return sweeps.tables(raw.assign(**changed))[1]


def test_evidence_is_held_against_the_full_cache_of_its_own_panel() -> None:
    table = points()
    found = evidence.gathered([("made", table)])
    for setting, all_of in found.items():
        for one in all_of:
            panel = table[(table["task"] == one.task) & (table["length"] == one.length) & (table["protocol"] == one.protocol)]
            full, row = panel.loc[panel["axis"] == "reference", "mean"].iloc[0], panel[panel["point"] == one.point].iloc[0]
            assert one.share == pytest.approx(row["mean"] / full if row["better"] == "higher" else full / row["mean"])
            assert one.low <= one.share <= one.high and row["method"] == setting.method.name
    assert not any(setting.method.name == "full" or setting.whole for setting in found)


def test_what_was_not_measured_here_is_no_evidence() -> None:
    assert evidence.gathered([("theirs", points(source="imported"))]) == {}
    unknown = points()
    unknown.loc[unknown["method"] == "snapkv", "method"] = "nobody"
    assert all(setting.method.name != "nobody" for setting in evidence.gathered([("made", unknown)]))
    assert evidence.sweep_errors([("theirs", points(source="imported"))]) == []


def one(**changed: object) -> Evidence:
    said = {"sweep": "s", "model": "bundled", "task": "niah", "length": 512, "mode": "m", "protocol": "requests", "samples": 20, "share": 0.95, "low": 0.9,
            "high": 1.0, "point": "p", "run": None}  # fmt: skip
    return Evidence(**{**said, **changed})


def test_a_budget_in_bytes_is_no_evidence_for_another_length() -> None:
    points = sweeps.tables(fake.sweep(("niah",), (256,))[0])[1]
    assert any(setting.method.name == "snapkv" for setting in evidence.gathered([("made", points)]))
    points.loc[points["method"] == "snapkv", "budget"] = "400kB"
    found = evidence.gathered([("made", points)])
    assert found and not any(setting.method.name == "snapkv" for setting in found)
    assert answer.lines(found, answer.chosen(["kivi"], 0.25), demand(), "", 0.9), "and nothing of it stops the plan"


def test_verdicts_take_the_interval_seriously() -> None:
    assert one().verdict(0.9) == "meets" and one().verdict(0.92) == "open" and one().verdict(0.96) == "below"
    assert one(samples=1, low=0.95).verdict(0.5) == "open", "one sample proves nothing"


def test_the_planned_model_and_the_worst_task_settle_it() -> None:
    mine, other, bad = one(model="mine", task="recall"), one(share=0.1, low=0.0), one(model="mine", share=0.92, low=0.7)
    assert evidence.settling([mine, other, bad], "mine", "", 0.9) is bad, "another model's failure says nothing where this one was measured"
    assert evidence.settling([mine, other], "absent", "", 0.9) is other and evidence.settling([mine], "", "niah", 0.9) is None


def test_the_list_puts_the_floor_first_and_says_what_is_not_measured() -> None:
    known = {Setting(make("kivi")): [one()], Setting(make("snapkv", 0.5)): [one(share=0.3, low=0.2)], Setting(make("tova", 0.5)): [one(low=0.5)]}
    found = answer.lines(known, [make("snapkv", 0.25), make("kivi")], demand(), "", 0.9)
    assert [(line.method.name, line.verdict) for line in found] == [("kivi", "meets"), ("tova", "open"), ("snapkv", "unmeasured"), ("snapkv", "below")]
    assert not any(line.own for line in found) and found[2].evidence is None
    latent = demand(shapes.shape("deepseek-v2-lite"), usable=1e12)
    assert [line.method.name for line in answer.lines(known, [], latent, "", 0.9)] == []
    drawn, refused = answer.rows([make("snapkv")], latent, 1e12, 1e14)
    assert [row.method.name for row in drawn] == ["full"] and "MLA" in refused[0][1]


def test_chosen_methods_are_checked() -> None:
    with pytest.raises(ValueError, match=r"There is no method 'snapkw'\. Did you mean snapkv"):
        answer.chosen(["snapkw"], 0.25)
    with pytest.raises(ValueError, match="cannot run together"):
        answer.chosen(["snapkv+tova"], 0.25)
    with pytest.raises(ValueError, match="At most 6"):
        answer.chosen(list(registry())[:7], 0.25)


def test_errors_are_of_what_was_predicted_and_measured() -> None:
    said = {"id": "a", "method": "full", "title": "Full cache", "status": "done", "bytes": {"predicted": 110, "resident": 100}}
    found = evidence.run_errors([said, {**said, "status": "failed"}, {**said, "bytes": {"predicted": None, "resident": 3}}])
    assert [round(error.error, 9) for error in found] == [0.1]


@pytest.mark.parametrize("name", ["full", "kivi", "snapkv", "snapkv+kivi", "quest"])
def test_the_command_runs_the_same_setting(name: str) -> None:
    method = make(name, 0.3, {"bits": 2} if name == "kivi" else {"kivi.bits": 2, "snapkv.window": 16} if "+" in name else {})
    asked = demand(shapes.shape("llama-3.1-8b"), context=5000, written=77)
    words = shlex.split(command(method, asked))
    assert words[:4] == ["python", "-m", "kvlab", "run"]
    args = cli.parser().parse_args(words[3:])
    assert make(args.method, args.budget, cli.knobs(args.set)) == method
    assert (args.model, args.dtype, args.max_new_tokens) == ("meta-llama/Llama-3.1-8B", "bfloat16", 77)


def test_geometry_is_the_runs_own() -> None:
    from kvlab.models import DATA

    config = shapes.CONFIG_MAPPING["qwen3"].from_dict(json.loads((DATA / "model" / "config.json").read_text()))
    assert shapes.shape("bundled").at(4) == Geometry.of(config, 4)


def test_lengths_that_differ_are_summed_as_by_hand() -> None:
    asked = Demand(shapes.shape("llama-3.1-8b"), "bfloat16", 16384, 512, 16, 1, 80 * GIB)
    lengths = mix.parse("64k 5%, 4k: 70, 16384 25 %", 512)
    assert [one.tokens for one in lengths] == [4096, 16384, 65536]
    found = mix.spread(make("full"), asked, lengths)
    each = [one_user(make("full"), asked, n) for n in (4096, 16384, 65536)]
    draws = np.random.default_rng(0).choice(each, p=(0.7, 0.25, 0.05), size=(4000, found.users))
    assert found.mean == pytest.approx(0.7 * each[0] + 0.25 * each[1] + 0.05 * each[2]) and sum(found.shares) == pytest.approx(1)
    assert found.deviation == pytest.approx(draws.std(), rel=0.02)
    fits = (draws.sum(1) + found.users * found.scores <= found.left).mean()
    assert 0.92 < fits < 0.97, "about 95 of 100 moments fit, however the users are drawn"
    assert found.busy(found.users) + found.users * found.scores <= found.left < found.busy(found.users + 1) + (found.users + 1) * found.scores
    alike = mix.spread(make("full"), asked, mix.parse("16k 100%", 512))
    assert alike.users == most_users(make("full"), asked) and alike.deviation == 0
    assert mix.spread(make("full"), replace(asked, usable=asked.weights + GIB), lengths).users == 0, "the longest one does not fit"


@pytest.mark.parametrize(("text", "says"), [("4k", "Cannot read the length '4k'"), ("4k 70%", "add up to 70 %"), ("256 50%, 4k 50%", "leaves no prompt"),
                                            ("<b>", "Cannot read"), (", ".join(["4k 10%"] * 10), "At most 8")])  # fmt: skip
def test_a_mix_that_cannot_be_read_is_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        mix.parse(text, 512)
    assert mix.parse("", 512) == ()
