"""What one reading per context saves: a sweep that shares readings against the naive one, which reads each context for every setting.

Same items, same rows; the two in turn on each context, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from kvlab.engine import versions
from kvlab.models import LM, load
from kvlab.samples import Row
from kvlab.sweep.measure import Measure
from kvlab.sweep.plan import Plan, from_options
from kvlab.tasks import find

METHODS = "random,streamingllm,snapkv,pyramidkv,tova,lagkv,keydiff,knorm,expectedattention,qfilters,adakv,dynamickv,kvcrush,snapkv+kivi"
SAME = ("answer", "score", "nll", "kl", "resident", "peak", "read_per_step", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to sweep."""
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--budgets", default="0.5,0.25,0.125,0.0625")
    parser.add_argument("--tasks", default="niah")
    parser.add_argument("--length", type=int, default=4096, help="tokens of a sample")
    parser.add_argument("--samples", type=int, default=1)


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Prompt tokens read and seconds of both, and their ratios; the ratio of seconds depends on how long contexts and answers are."""
    names = {"methods": args.methods, "budgets": args.budgets, "tasks": args.tasks}
    plan = from_options({**{k: v.split(",") for k, v in names.items()}, "lengths": args.length, "samples": args.samples, "model": args.model})
    lm = load(plan.model)
    rows, seconds = _both(lm, plan)
    same = all(getattr(a, name) == getattr(b, name) for a, b in zip(rows[True], rows[False], strict=True) for name in SAME)
    if not same:
        print("kvlab: the two sweeps measured different things, so their times do not compare", file=sys.stderr)
    tokens = {share: sum(row.prefill_tokens for row in found) for share, found in rows.items()}
    return {
        "what": "a sweep that reads each context once against one that reads it for every setting",
        "ratio_prefill_tokens": tokens[True] / tokens[False],
        "ratio_seconds": seconds[True][0] / seconds[False][0],
        "ratio_cpu_seconds": seconds[True][1] / seconds[False][1],
        "prefill_tokens": {"shared": tokens[True], "naive": tokens[False]},
        "seconds": {"shared": seconds[True][0], "naive": seconds[False][0]},
        "cpu_seconds": {"shared": seconds[True][1], "naive": seconds[False][1]},
        "rows": len(rows[True]),
        "same_rows": same,
        "setting": {
            "model": args.model, "methods": len(args.methods.split(",")), "budgets": args.budgets, "tasks": args.tasks, "length": args.length,
            "samples": args.samples, "device": str(lm.device), "dtype": lm.dtype, "threads": torch.get_num_threads(),
        },
        "versions": versions(),
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m kvlab bench sweep --model {args.model} --methods {args.methods} --budgets {args.budgets} --tasks {args.tasks} "
                   f"--length {args.length} --samples {args.samples}",
    }  # fmt: skip


def _both(lm: LM, plan: Plan) -> tuple[dict[bool, list[Row]], dict[bool, list[float]]]:
    """Rows of the shared (True) and of the naive sweep, and their seconds: wall time, and CPU time of this process."""
    rows: dict[bool, list[Row]] = {True: [], False: []}
    seconds = {True: [0.0, 0.0], False: [0.0, 0.0]}
    count = lambda text: len(lm.encode(text, special=False))  # noqa: E731
    made = {(task, seed): find(task).samples(plan.samples, plan.lengths[0], seed, count) for task in plan.tasks for seed in plan.seeds}
    for group in plan.groups():
        for share in (True, False):
            start = time.perf_counter(), time.process_time()
            measure = Measure(lm, plan, group, made[group.task, group.seed][group.sample], share)
            for setting in plan.settings():
                rows[share] += measure(setting).rows
            seconds[share][0] += time.perf_counter() - start[0]
            seconds[share][1] += time.process_time() - start[1]
    return rows, seconds
