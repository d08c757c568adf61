"""`python -m kvlab sweep`: the plan from options or YAML, what it will take, progress, and the tables and figures of what was measured."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tqdm import tqdm

from kvlab import samples
from kvlab.models import load
from kvlab.runs import RunStore
from kvlab.sweep.drive import Sweep, expected_seconds, probes, size
from kvlab.sweep.measure import Measured
from kvlab.sweep.plan import MODES, Plan, from_options, from_yaml
from kvlab.sweep.points import points

LISTS = {
    "methods": "names and compositions such as snapkv+kivi (knobs: in YAML)",
    "budgets": "kept fractions (0.25), tokens (512t) or bytes (20MB), for the methods that take one",
    "tasks": "names of tasks",
    "lengths": "tokens of a sample at most",
    "seeds": "seeds of the samples",
    "modes": "; ".join(f"{name}: {says}" for name, says in MODES.items()),
    "protocols": "how a text is scored: prefix, 'chunked 16' (any number), token",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the sweep; those that define it have the names they have in YAML."""
    defaults = {f.name: f.default for f in dataclasses.fields(Plan)}
    parser.add_argument("--config", type=Path, help="a YAML file with any of the options that follow; the command line goes before it")
    for name, says in LISTS.items():
        shown = "" if defaults[name] is dataclasses.MISSING else f" (default {','.join(map(str, defaults[name]))})"
        parser.add_argument(f"--{name}", help=f"comma-separated: {says}{shown}".replace("%", "%%"))
    parser.add_argument("--samples", help=f"samples of each task, length and seed (default {defaults['samples']})")
    parser.add_argument("--chunk", help=f"most prompt tokens per forward call (default {defaults['chunk']})")
    parser.add_argument("--no-template", dest="template", action="store_false", default=None, help="do not apply the tokenizer's chat template")
    for name in ("model", "device", "dtype"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--store", type=Path, help="folder of the runs and their index (default KVLAB_HOME/runs)")
    parser.add_argument("--out", type=Path, help="folder for the CSV files and figures (default: sweeps beside the runs)")
    parser.add_argument("--no-runs", action="store_true", help="store no run behind the points")
    parser.add_argument("--naive", action="store_true", help="read every context anew for every setting, for comparison")
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--address", help="of a Ray cluster (default: one on this machine)")


def main(argv: list[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m kvlab sweep", description="Measure methods x budgets x tasks; goes on where it stopped.")
    add_arguments(parser)
    return sweep(parser.parse_args(argv))


def options(args: argparse.Namespace) -> dict[str, Any]:
    """What defines the sweep: the YAML file, then the command line."""
    given = from_yaml(args.config) if args.config else {}
    for f in dataclasses.fields(Plan):
        value = getattr(args, f.name)
        if value is not None:
            given[f.name] = [part.strip() for part in value.split(",") if part.strip()] if f.name in LISTS else value
    return given


def sweep(args: argparse.Namespace) -> int:
    """Run it; exit status 0 when all is measured, 130 after a Ctrl-C, which keeps everything that was done."""
    plan = from_options(options(args))  # mistakes are told before a model is loaded
    lm = load(plan.model, plan.device, plan.dtype)
    job = Sweep(lm, plan, RunStore(args.store), not args.no_runs, not args.naive, plan.command())
    status = 0
    try:
        run(job, args.engine, args.address)
    except KeyboardInterrupt:
        say(f"Stopped. {size(job.left()):,} of {len(job.items):,} runs are left; the same command goes on with them.")
        status = 130
    name = "-".join([*plan.tasks[:4], hashlib.sha256(plan.command().encode()).hexdigest()[:6]])
    write(job, args.out or job.store.folder.parent / "sweeps" / name)
    return status


def run(job: Sweep, engine: str, address: str | None) -> None:
    """Measure what is left, with progress on standard error."""
    left, total = job.left(), len(job.items)
    say(f"{total:,} runs over {len(set(group for group, _ in job.items.values())):,} contexts, {len(job.plan.settings())} settings; "
        f"{total - size(left):,} are in the store already.")  # fmt: skip
    if not left:
        return
    if engine == "ray":
        from kvlab.sweep.cluster import on_ray

        follow(on_ray(job, left, address), size(left))
        return
    if (seconds := expected(job, left)) is None:
        first = probes(left)
        follow(job.here(first), size(first))
        left = job.left()
        seconds = expected(job, left)
    say(f"About {duration(seconds)} to go.")
    follow(job.here(left), size(left))


def expected(job: Sweep, left: dict) -> float | None:
    """Seconds that `left` will take, by rows of this model on this device."""
    rows = [row for row in samples.rows(job.store.folder) if row["revision"] == job.lm.revision and row["device"] == str(job.lm.device)]
    return expected_seconds(left, rows)


def follow(items: Iterable[Measured], total: int) -> None:
    """Watch items come out."""
    with tqdm(total=total, unit="run", file=sys.stderr, smoothing=0.05, mininterval=0.5 if sys.stderr.isatty() else 15) as bar:
        for measured in items:
            bar.set_postfix_str(f"{measured.rows[0].method} on {measured.rows[0].task}", refresh=False)
            bar.update()


def write(job: Sweep, folder: Path) -> None:
    """samples.csv.gz, points.csv, sweep.yaml (the plan) and figures of what is measured, and a short table on standard output."""
    rows = job.rows()
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    found = points(rows)
    (folder / samples.FILE).write_bytes(samples.packed(rows))
    found.to_csv(folder / "points.csv", index=False)
    (folder / "sweep.yaml").write_text(f"# {job.command}\n" + yaml.safe_dump(job.plan.options(), sort_keys=False))
    figures(found, folder)
    for reason in sorted({f"{row['title']}: {row['status']}" for row in rows if row["status"] != "done"}):
        say(reason)
    print(summary(found))
    say(f"Written to {folder}.")


def figures(found: pd.DataFrame, folder: Path) -> None:
    """Quality against measured bytes: one HTML page for each task, length and mode."""
    from kvlab.plots import quality

    for (task, length, mode), part in found.groupby(["task", "length", "mode"], sort=False):
        name = f"quality-{task}-{length}-{mode}.html".replace(" ", "-")
        quality(part).write_html(folder / name, include_plotlyjs="directory", config={"displaylogo": False, "showSendToCloud": False})


def summary(found: pd.DataFrame) -> str:
    """Points as lines of text: score with its interval, and bytes held."""
    lines = []
    for (task, length, mode), part in found.groupby(["task", "length", "mode"], sort=False):
        lines.append(f"{task}, {length} tokens, {mode} ({part['better'].iloc[0]} is better)")
        for p in part.itertuples():
            within = "" if p.interval == "single" else f"  [{p.low:.3f}, {p.high:.3f}]"
            lines.append(f"  {p.method:24} {p.budget if isinstance(p.budget, str) else '':>8}  {p.mean:8.3f}{within}  n={p.n}  held {p.resident / p.full:6.1%}")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(text: str) -> None:
    print(f"kvlab: {text}", file=sys.stderr)
