"""Sweeps: shared readings equal direct runs, rows and points say what was measured, and a killed sweep loses nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from cases import CASES, Case
from conftest import plain, tiny

from kvlab import samples
from kvlab.cli import main
from kvlab.engine import kept_positions, run
from kvlab.method import Method
from kvlab.models import LM, load
from kvlab.registry import make, registry
from kvlab.runs import RunStore
from kvlab.sweep.answers import Answers
from kvlab.sweep.command import add_arguments
from kvlab.sweep.command import options as read_options
from kvlab.sweep.drive import Sweep, expected_seconds, size
from kvlab.sweep.measure import Measure, Measured
from kvlab.sweep.plan import Plan, from_options, from_yaml, protocol_chunk
from kvlab.sweep.points import points
from kvlab.sweep.shared import Filled, Prompt, Unshared, shareable
from kvlab.sweep.text import Text
from kvlab.tasks import Sample
from kvlab.trace import Recorder

ROOT = Path(__file__).parent.parent
IDS = torch.randint(0, 128, (96,), generator=torch.Generator().manual_seed(1)).tolist()
CONTEXT = "Nobody saw the red heron. The code of the barn is 4137. The code of the shed is 9025. The door is shut. " * 2
QUESTIONS = (" The code of the barn is", " The code of the shed is", " The heron is")
ASKED = Sample(CONTEXT, QUESTIONS, (("4137",), ("9025",), ("red",)), "contains_all", 6)
TEXT = Sample(CONTEXT, continuation=" The code of the barn is 4137, and nobody saw it.")
TIMES = ("prefill_s", "decode_s", "seconds", "created", "command", "prefill_tokens")
ROUNDING = 1e-6  # nats: another process may have another number of threads, which add in another order


def case_id(case: Case) -> str:
    return "-".join([case.method, *([case.budget] if case.budget else []), *(f"{k}={v}" for k, v in case.knobs.items())])


# one reading


PROMPTS = {(chunk, share): Prompt(tiny(), IDS, chunk, share) for chunk in (1024, 40) for share in (True, False)}


def filled(chunk: int, share: bool, method: Method) -> tuple[Filled, int]:
    """A session after the common prompt, and the tokens the model read for it."""
    prompt = PROMPTS[chunk, share]
    before = prompt.read
    return prompt.filled(method, recorder=lambda: Recorder(3, 2, 128)), prompt.read - before


# in one call too where that differs most: one shot, observers of all queries, scoring passes, several members
@pytest.mark.parametrize("case, chunk", [(c, 40) for c in CASES] + [(c, 1024) for c in CASES if c.method in ("snapkv", "h2o", "kvzip", "snapkv+kivi")],
                         ids=lambda x: case_id(x) if isinstance(x, Case) else str(x))  # fmt: skip
def test_a_shared_reading_equals_the_direct_run_to_the_bit_and_the_byte(case: Case, chunk: int) -> None:
    method = make(case.method, case.budget, case.knobs)
    PROMPTS[chunk, True].filled(Method())  # now the prompt is read
    try:
        direct, theirs = filled(chunk, False, method)
    except ValueError as refused:
        with pytest.raises(ValueError, match=str(refused)[:30]):
            filled(chunk, True, method)
        return
    shared, mine = filled(chunk, True, method)
    assert theirs == 96 and mine in ((0, 96) if shareable(tiny(), method) else (96,))
    assert mine == 0 or case.method not in ("full", "random", "snapkv", "h2o", "kvzip", "streamingllm", "lagkv", "kivi", "snapkv+kivi", "think", "xkv")
    for token in (3, 5, 7):
        assert torch.equal(shared.logits, direct.logits)
        assert kept_positions(shared.session) == kept_positions(direct.session)
        ours, theirs = shared.session.cache.tensors(), direct.session.cache.tensors()
        assert len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert shared.session.recorder.peak == direct.session.recorder.peak
        assert (shared.session.recorder.left_at == direct.session.recorder.left_at).all()
        shared, direct = (dataclasses.replace(x, logits=x.session.decode(torch.tensor([token]))) for x in (shared, direct))


@pytest.mark.parametrize("method, budget", [("snapkv", "0.25"), ("h2o+kivi", "0.5"), ("quest", None)])
def test_layers_with_a_window_are_played_too(method: str, budget: str | None) -> None:
    prompts, built = {share: Prompt(tiny(window=16), IDS, 40, share) for share in (True, False)}, make(method, budget)
    prompts[True].filled(Method())
    shared, direct = (prompt.filled(built, recorder=lambda: Recorder(3, 2, 128)).session for prompt in prompts.values())
    assert prompts[True].read == 96 and kept_positions(shared) == kept_positions(direct) and shared.recorder.peak == direct.recorder.peak
    assert torch.equal(shared.decode(torch.tensor([3])), direct.decode(torch.tensor([3])))


def test_most_methods_can_share() -> None:
    shared = [name for name in registry() if shareable(tiny(), make(name))]
    assert len(shared) >= 20 and not {"kvsharer"} & set(shared)


@dataclasses.dataclass(frozen=True)
class Meddler(Method):
    """Does what a shared reading cannot know of, at one of the places where it could."""

    where: str = "read"
    schedule = dataclasses.replace(Method.schedule, chunks=True, prefill=True)

    def read(self, layer, q, q_pos):
        view = layer.store.view()
        return view._replace(v=view.v * 0.5) if self.where == "read" else view

    def compress(self, layer, seen) -> None:
        if self.where == "chunk" and seen.phase.kind == "chunk":
            layer.store.replace_raw("v", seen.view.v * 0.5)

    def finish(self, cache, phase) -> None:
        if self.where == "finish" and phase.kind == "chunk":
            for layer in cache.layers:
                layer.keep(layer.store.valid() & (layer.store.pos() % 2 == 0))


@pytest.mark.parametrize("where", ["read", "chunk", "finish", "nowhere"])
def test_who_changes_what_the_model_computes_reads_for_himself(where: str) -> None:
    PROMPTS[40, True].filled(Method())
    (shared, mine), (direct, _) = filled(40, True, Meddler(where)), filled(40, False, Meddler(where))
    assert torch.equal(shared.logits, direct.logits) and mine == (0 if where == "nowhere" else 96)


def test_another_text_is_not_taken_for_the_one_that_was_read() -> None:
    prompt = Prompt(tiny(), IDS, 40)
    prompt.filled(Method())
    prompt.ids = prompt.ids.flip(1)
    with pytest.raises(Unshared):
        prompt._played(type(prompt.filled(Method()).session)(tiny(), Method(), chunk=40), False)


# answers


@pytest.mark.parametrize("mode", ["requests", "aware", "turns"])
@pytest.mark.parametrize("method, budget", [("snapkv", "0.25"), ("streamingllm", "20t"), ("kivi", None), ("h2o+kivi", "0.5"), ("kvzip", "0.25")])
def test_rows_of_a_shared_sweep_are_those_of_a_naive_one(local: LM, mode: str, method: str, budget: str | None) -> None:
    built = make(method, budget, {"window": 8} if method == "snapkv" else {})
    shared, naive = (list(Answers(local, ASKED, mode, True, 64, share).rows(built)) for share in (True, False))
    strip = lambda rows: [{k: v for k, v in row.items() if k not in TIMES} for row in rows]  # noqa: E731
    assert strip(shared) == strip(naive) and len(shared) == 3


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("method, budget", [("full", None), ("snapkv", "0.25"), ("h2o", "0.25"), ("kivi", None)])
def test_a_row_says_what_the_run_behind_it_does(local: LM, method: str, budget: str | None, aware: bool) -> None:
    plan = Plan((method,), ("niah",), (budget or "1",), modes=("aware" if aware else "requests",), chunk=64)
    measure, setting = Measure(local, plan, next(plan.groups()), ASKED), plan.settings()[0]
    row, behind = measure(setting).rows[0], run(local, measure.request(setting))
    assert row.answer == behind.text and row.status == "done" and row.title == setting.method.title
    assert (row.resident, row.full, row.predicted) == tuple(behind.bytes[name] for name in ("resident", "full", "predicted"))
    assert row.peak == behind.bytes["peak"] and row.read_per_step == behind.bytes["read_per_step"]
    assert row.kept_fraction == pytest.approx(behind.budget["realised"]["fraction"])
    assert row.kl == pytest.approx(float(behind.trace.kl.mean()), abs=1e-5)
    assert row.top1 == float((behind.trace.top == behind.trace.written).mean())


def test_the_order_of_questions_changes_no_answer_in_requests(local: LM) -> None:
    turned = dataclasses.replace(ASKED, questions=QUESTIONS[::-1], references=ASKED.references[::-1])
    for method in (make("h2o", "0.25"), make("kivi")):
        first, second = ([row["answer"] for row in Answers(local, sample, "requests", True, 64).rows(method)] for sample in (ASKED, turned))
        assert first == second[::-1]


def test_turns_hold_the_right_answers_and_not_what_was_written(local: LM) -> None:
    short, long = ([row for row in Answers(local, dataclasses.replace(ASKED, max_new_tokens=n), "turns", True, 64).rows(Method())] for n in (1, 9))
    text = CONTEXT + QUESTIONS[0]
    for i, (a, b) in enumerate(zip(short, long, strict=True)):
        assert a["full"] == local.geometry.full_bytes(len(local.encode(text)))
        assert b["full"] - a["full"] == 8 * local.geometry.full_bytes(1) and a["kept_fraction"] == b["kept_fraction"] == 1
        text += " " + ASKED.references[i][0] + QUESTIONS[(i + 1) % 3]


def test_every_turn_is_compressed(local: LM) -> None:
    rows = list(Answers(local, ASKED, "turns", True, 64).rows(make("snapkv", "20t", {"window": 4})))
    assert all(row["resident"] <= 26 * local.geometry.layers * (local.geometry.slot_bytes + 4) for row in rows)


# texts


@pytest.mark.parametrize("protocol", ["prefix", "chunked 16", "chunked 1000", "token"])
def test_without_compression_every_protocol_is_a_plain_forward(local: LM, protocol: str) -> None:
    row = next(Text(local, TEXT, protocol, 64).rows(Method()))
    ids, n = local.encode(TEXT.context) + local.encode(TEXT.continuation, special=False), len(local.encode(TEXT.context))
    with torch.no_grad():
        logits = plain(local)(torch.tensor([ids])).logits[0, n:-1].log_softmax(-1)
    want = -logits.gather(1, torch.tensor(ids[n + 1 :])[:, None]).double().sum()
    assert row["nll"] == pytest.approx(float(want), abs=1e-3) and row["scored_tokens"] == len(ids) - n - 1
    assert row["score"] == pytest.approx(math.exp(want / (len(ids) - n - 1)), rel=1e-5)
    assert row["kl"] < 1e-6 and row["top1"] == 1 and row["diverged"] is None


def test_protocols_meet_where_they_should(local: LM) -> None:
    nll = lambda method, protocol: next(Text(local, TEXT, protocol, 1024).rows(method))["nll"]  # noqa: E731
    for method in (make("snapkv", "20t", {"window": 4}), make("streamingllm", "20t"), make("kivi")):
        assert nll(method, "chunked 1000") == pytest.approx(nll(method, "prefix"), abs=1e-3), "one chunk sees the compressed prefix and itself"
    # a number of tokens is the same at a prompt's end and while writing
    assert nll(make("streamingllm", "20t"), "chunked 1") == pytest.approx(nll(make("streamingllm", "20t"), "token"), abs=1e-3)
    assert nll(make("snapkv", "20t", {"window": 4}), "token") == pytest.approx(nll(make("snapkv", "20t", {"window": 4}), "prefix"), abs=1e-3)
    assert nll(make("h2o", "20t"), "token") != pytest.approx(nll(make("h2o", "20t"), "prefix"), abs=1e-3), "it drops while text is written"


def test_the_same_tokens_are_scored_whatever_the_method(local: LM) -> None:
    texts = {protocol: Text(local, TEXT, protocol, 64) for protocol in ("prefix", "chunked 7", "token")}
    rows = [next(text.rows(method)) for text in texts.values() for method in (Method(), make("snapkv", "0.1", {"window": 4}), make("kvzip", "0.5"))]
    assert {row["scored_tokens"] for row in rows} == {len(local.encode(TEXT.continuation, special=False)) - 1}
    assert all(row["kl"] > 1e-4 for row in rows[1::3])


# plans


def test_a_method_without_a_budget_is_one_point() -> None:
    plan = Plan(("full", "kivi", "quest", "snapkv", "snapkv+kivi", {"snapkv": {"window": 8}}), ("recall",), ("0.5", "0.25"))
    said = [(s.method.name, s.asked) for s in plan.settings()]
    assert said == [("full", None), ("kivi", None), ("quest", None), *[(name, b) for name in ("snapkv", "snapkv+kivi", "snapkv") for b in ("0.5", "0.25")]]
    assert json.loads(plan.settings()[-1].knobs) == {"window": 8, "kernel": 5, "pool": "avg"}


def test_yaml_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("methods: [full, {snapkv: {window: 8}}]\nbudgets: [1, 0.5, 20t]\ntasks: recall\nlengths: 256\nsamples: 2\ntemplate: no\n")
    plan = from_options(from_yaml(file))
    assert plan == Plan(("full", {"snapkv": {"window": 8}}), ("recall",), ("1", "0.5", "20t"), (256,), samples=2, template=False)
    assert [s.asked for s in plan.settings()] == [None, "1", "0.5", "20t"]
    assert from_options(plan.options()) == plan and "--config sweep.yaml" in plan.command()
    plan = Plan(("full", "snapkv+kivi"), ("recall", "ppl"), samples=2, protocols=("chunked 16",))
    call = shlex.split(plan.command())
    assert call[:4] == ["python", "-m", "kvlab", "sweep"] and from_options(parsed(call[4:])) == plan


def parsed(call: list[str]) -> dict:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_options(parser.parse_args(call))


@pytest.mark.parametrize(
    "change, says",
    [({"methods": ["snpkv"]}, "Did you mean snapkv"), ({"tasks": ["recal"]}, "Did you mean recall"), ({"budgets": ["2"]}, "2t"),
     ({"samples": "x"}, "whole number"),
     ({"modes": ["turn"]}, "no mode 'turn'"), ({"protocols": ["chunked"]}, "chunked with a number"), ({"colour": 1}, "no option 'colour'"),
     ({"methods": []}, "Say which methods"), ({"methods": [{"snapkv": 3}]}, "a name with knobs"), ({"methods": [{"snapkv": {"windw": 3}}]}, "no knob 'windw'"),
     ({"template": "maybe"}, "true or false"), ({"lengths": [0]}, "at least 1")],
)  # fmt: skip
def test_mistakes_in_a_plan_get_one_sentence(change: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_options({"methods": ["full"], "tasks": ["recall"], **change})
    assert [protocol_chunk(p) for p in ("prefix", "token", "chunked 16")] == [None, 1, 16]


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    for content, says in (("[1, 2", "is not YAML"), ("- a\n- b", "holds no options"), (None, "cannot be read")):
        file = tmp_path / "x.yaml"
        file.unlink(missing_ok=True)
        if content:
            file.write_text(content)
        with pytest.raises(ValueError, match=says):
            from_yaml(file)


# points


def answers(scores: list[float], per: int = 1, **said: object) -> list[dict]:
    from test_store import row

    made = [row(item=f"{said.get('method')}{i}", question=i % per, method="m", task="t", mode="requests", score=s, sample=i // per, status="done",
                better="higher", resident=100 + i, run="r" if i == 1 else None) for i, s in enumerate(scores)]  # fmt: skip
    return [{**dataclasses.asdict(r), **said} for r in made]


def test_intervals_are_those_of_the_textbook() -> None:
    point = points(answers([1.0] * 8 + [0.0] * 2)).iloc[0]
    assert (point["mean"], point["n"], point["interval"]) == (0.8, 10, "wilson")
    z, p, n = 1.959964, 0.8, 10
    middle, half = (p + z * z / 2 / n) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    assert (point["low"], point["high"]) == pytest.approx((middle - half, middle + half), abs=1e-5)
    assert point["resident"] == 104.5 and point["run"] == "r" and point["failed"] == 0
    point = points(answers([0.5, 0.25, 1.0, 0.5, 0.75, 0.5])).iloc[0]
    assert point["interval"] == "bootstrap" and point["low"] < point["mean"] < point["high"] and point["low"] > 0.25 and point["high"] < 1
    point = points(answers([1.0])).iloc[0]
    assert point["interval"] == "single" and point["n"] == 1


def test_questions_of_one_sample_are_no_independent_draws() -> None:
    point = points(answers([1.0, 1.0, 0.0, 0.0, 1.0, 1.0], per=2)).iloc[0]
    assert (point["n"], point["interval"], point["mean"]) == (3, "wilson", pytest.approx(2 / 3))


def test_perplexity_is_weighted_by_tokens() -> None:
    rows = answers([0.0] * 3)
    for r, (nll, count) in zip(rows, ((10.0, 10), (30.0, 10), (400.0, 200)), strict=True):
        r.update(nll=nll, scored_tokens=count, score=math.exp(nll / count), better="lower")
    point = points(rows).iloc[0]
    assert point["mean"] == pytest.approx(math.exp(440 / 220)) and point["interval"] == "bootstrap" and point["better"] == "lower"
    assert point["low"] <= point["mean"] <= point["high"]


def test_what_was_refused_counts_in_no_mean() -> None:
    rows = answers([1.0, 1.0, 0.0, 0.0])
    rows[3].update(status="refused: too small", score=None)
    point = points(rows).iloc[0]
    assert point["mean"] == pytest.approx(2 / 3) and point["failed"] == 1 and point["n"] == 3
    assert points([{**r, "status": "refused"} for r in rows]).empty and points([]).empty


# sweeps


def options(hub: Path, store: Path, out: Path) -> list[str]:
    return ["sweep", "--model", str(hub), "--device", "cpu", "--methods", "full,snapkv,kivi,kvsharer", "--budgets", "0.5,0.25", "--tasks", "kvlist,ppl",
            "--lengths", "300", "--samples", "2", "--no-template", "--store", str(store), "--out", str(out)]  # fmt: skip


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "samples.csv.gz").drop(columns=list(TIMES))


def start(call: list[str]) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # nicer than the test, which has to catch it in the middle
    return subprocess.Popen(["nice", sys.executable, "-m", "kvlab", *call], cwd=ROOT, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def undisturbed(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main(options(hub, folder / "runs", folder / "out")) == 0
    return folder


@pytest.mark.alone
def test_a_sweep_that_was_killed_goes_on_with_nothing_lost_or_repeated(hub: Path, undisturbed: Path, tmp_path: Path) -> None:
    store, call = tmp_path / "runs", options(hub, tmp_path / "runs", tmp_path / "out")
    first = start(call)
    deadline = time.monotonic() + 400
    while not (store.exists() and len(samples.done(store)) >= 4):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    before = {(r["item"], r["question"]): r for r in samples.rows(store)}
    assert 4 <= len({item for item, _ in before}) < 20, "the signal came in the middle"
    assert main(call) == 0
    after = {(r["item"], r["question"]): r for r in samples.rows(store)}
    assert all(after[key] == row for key, row in before.items()), "what was done was not done again"
    pd.testing.assert_frame_equal(table(tmp_path / "out"), table(undisturbed / "out"), atol=ROUNDING)
    assert {said["id"] for said in RunStore(store).list()} == {said["id"] for said in RunStore(undisturbed / "runs").list()}


def test_a_cancelled_sweep_keeps_what_was_done(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    done, save = [], Sweep.save

    def cancel(self: Sweep, measured: Measured) -> Measured:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(save(self, measured).item)
        return measured

    monkeypatch.setattr(Sweep, "save", cancel)
    assert main([*options(hub, tmp_path / "runs", tmp_path / "out"), "--no-runs"]) == 130
    assert samples.done(tmp_path / "runs") == set(done) and "18 of 20 runs are left" in capsys.readouterr().err
    assert set(pd.read_csv(tmp_path / "out" / "samples.csv.gz")["item"]) == set(done)


def test_a_sweep_leaves_tables_figures_and_the_runs_behind_its_points(undisturbed: Path, hub: Path, capsys: pytest.CaptureFixture) -> None:
    rows, found = pd.read_csv(undisturbed / "out" / "samples.csv.gz"), pd.read_csv(undisturbed / "out" / "points.csv")
    assert len(rows) == 5 * 2 * 2 + 5 * 2 and len(found) == 10 and set(found["n"]) == {2} and not rows["status"].str.startswith("refused").any()
    assert rows[rows["sample"] == 0]["run"].notna().all() and found["run"].notna().all()
    store = RunStore(undisturbed / "runs")
    for point in found.itertuples():
        behind = store.load(point.run)
        assert behind.manifest["method"] == point.method and not behind.trace.attention.size and behind.trace.kl.size
    assert from_options(from_yaml(undisturbed / "out" / "sweep.yaml")).samples == 2
    pages = {path.name: path.read_text() for path in (undisturbed / "out").glob("*.html")}
    assert set(pages) == {"quality-kvlist-300-requests.html", "quality-ppl-300-prefix.html"} and not any("https://cdn" in page for page in pages.values())
    spent = rows.groupby(["task", "sample"])["prefill_tokens"].sum()
    alone = rows[(rows["question"] == 0) & (rows["method"] == "kvsharer")].set_index(["task", "sample"])["prefill_tokens"]
    readings = (spent / alone).to_dict()
    assert {readings[task, 1] for task in ("kvlist", "ppl")} == {2}, "one reading for all that share, one for the method that cannot"
    assert {readings[task, 0] for task in ("kvlist", "ppl")} == {3}, "three settings went before the others to tell the time it takes"
    capsys.readouterr()
    assert main(options(hub, undisturbed / "runs", undisturbed / "again")) == 0
    told = capsys.readouterr()
    assert "20 are in the store already" in told.err and "kvlist, 300 tokens" in told.out
    pd.testing.assert_frame_equal(table(undisturbed / "again"), table(undisturbed / "out"))


def test_the_time_is_told_by_earlier_rows(local: LM, tmp_path: Path) -> None:
    job = Sweep(local, Plan(("full", "kivi"), ("kvlist", "ppl"), samples=2, lengths=(300,), template=False), RunStore(tmp_path / "runs"), keep=False)
    left = job.left()
    assert size(left) == 8 and expected_seconds(left, []) is None
    rows = [{"item": "a", "task": "kvlist", "length": 300, "mode": "requests", "method": "full", "seconds": s} for s in (1.0, 2.0)]
    assert expected_seconds(left, rows) == 8 * 3.0, "two questions of one item; nothing else is known"
    rows.append({"item": "b", "task": "ppl", "length": 300, "mode": "prefix", "method": "kivi", "seconds": 10.0})
    assert expected_seconds(left, rows) == 4 * 3.0 + 4 * 10.0


def test_what_cannot_run_is_a_row_that_says_why(local: LM) -> None:
    plan = Plan(("snapkv",), ("kvlist",), ("1kB",))
    row = Measure(local, plan, next(plan.groups()), ASKED)(plan.settings()[0]).rows[0]
    assert row.status.startswith("refused: SnapKV cannot fit") and row.score is None and row.resident is None


@pytest.mark.alone
def test_two_workers_of_ray_measure_the_same(hub: Path, undisturbed: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        assert main([*options(hub, tmp_path / "runs", tmp_path / "out"), "--engine", "ray"]) == 0
    finally:
        ray.shutdown()
    pd.testing.assert_frame_equal(table(tmp_path / "out"), table(undisturbed / "out"), atol=ROUNDING)
    assert {said["id"] for said in RunStore(tmp_path / "runs").list()} == {said["id"] for said in RunStore(undisturbed / "runs").list()}


def test_models_of_one_revision_only(local: LM) -> None:
    nameless = dataclasses.replace(load(local.name, device="cpu"), revision="")
    with pytest.raises(ValueError, match="has no revision"):
        Sweep(nameless, Plan(("full",), ("ppl",)), RunStore())
