"""The command line: run one prompt, sweep, keep runs, list the methods, train the bundled model, measure.

Every error a user can cause is one sentence on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from kvlab.method import AXES
from kvlab.registry import describe, make, registry

OWN = {
    "sweep": ("kvlab.sweep.command", "measure methods x budgets x tasks; goes on where it stopped"),
    "runs": ("kvlab.keep", "list, tag, delete, export and import stored runs"),
    "bench": ("kvlab.bench", "measure; figures go to data/benchmarks"),
    "train": ("kvlab.bundled.train", "make the bundled model"),
    "profile": ("kvlab.profile", "what each attention head of a model is for; made once and kept"),
}
"""Commands that read their own arguments with a `main(argv)`: loaded only when they are asked for."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in OWN:
            return importlib.import_module(OWN[argv[0]][0]).main(argv[1:])
        args = parser().parse_args(argv)
        return args.command(args)
    except ValueError as error:
        print(f"kvlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kvlab: stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands; those of `OWN` by name only."""
    top = argparse.ArgumentParser(prog="python -m kvlab", description="Run, see and measure KV-cache compression.")
    commands = top.add_subparsers(required=True, metavar=" | ".join(["run", "methods", "presets", *OWN]))
    _run_parser(commands.add_parser("run", help="run a prompt under a method and print one JSON object"))
    methods = commands.add_parser("methods", help="list every method")
    methods.add_argument("--json", action="store_true", help="everything known of each, as JSON")
    methods.add_argument("--table", action="store_true", help="the table of the README")
    methods.set_defaults(command=_methods)
    stored = commands.add_parser("presets", help="run every bundled prompt and store the runs that ship in data/runs")
    stored.add_argument("--out", type=Path, default=Path("data/runs"))
    stored.add_argument("--clean", action="store_true", help="then delete every other run in that folder, such as those of an earlier model")
    stored.set_defaults(command=_presets)
    for name, (_, says) in OWN.items():
        commands.add_parser(name, help=f"{says} (python -m kvlab {name} --help)")
    return top


def _run_parser(run: argparse.ArgumentParser) -> None:
    run.add_argument("--prompt-file", type=Path, required=True, help="the context, UTF-8 text")
    run.add_argument("--question", default="", help="fed after the context was compressed")
    run.add_argument("--query-aware", action="store_true", help="join the question to the context: compression sees it")
    run.add_argument("--method", default="full", help="a name, or a composition such as snapkv+kivi")
    run.add_argument("--budget", help="kept fraction of tokens (0.25), tokens (512t) or bytes of cache (20MB)")
    run.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="a knob, as often as needed")
    run.add_argument("--model", default="bundled", help="bundled, a local folder or a Hugging Face id")
    run.add_argument("--device", default="auto")
    run.add_argument("--dtype", default="auto")
    run.add_argument("--max-new-tokens", type=int, default=64)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    run.add_argument("--top-k", type=int, default=0)
    run.add_argument("--top-p", type=float, default=1.0)
    run.add_argument("--chunk", type=int, default=1024, help="most prompt tokens per forward call")
    run.add_argument("--no-template", action="store_true", help="do not apply the tokenizer's chat template")
    run.add_argument("--trace", type=Path, help="save the trace (.npz) here, with attention and the full cache's rows")
    run.add_argument("--keep", action="store_true", help="store the run, with its trace, for the dashboard")
    run.add_argument("--json", action="store_true", help="print one JSON object (without it: the text and a summary)")
    run.set_defaults(command=_run)


def knobs(pairs: list[str]) -> dict[str, str]:
    """`--set a=1 --set b=2` as a dict."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set takes KNOB=VALUE, not {pair!r}.")
    return dict(pair.split("=", 1) for pair in pairs)


def read_prompt(path: Path) -> str:
    """Text of a prompt file; anything that is not UTF-8 text is refused with a sentence."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(f"The prompt file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"{path} holds NUL characters, so it is no text file.")
    return text


def _run(args: argparse.Namespace) -> int:
    method = make(args.method, args.budget, knobs(args.set))
    if args.max_new_tokens < 1:
        raise ValueError("--max-new-tokens is at least 1.")
    text = read_prompt(args.prompt_file)
    # the model is loaded last: mistakes in the call are told at once
    from kvlab.engine import Request, run
    from kvlab.models import load

    traced = args.trace is not None or args.keep
    request = Request(
        prompt=text, method=method, question=args.question, aware=args.query_aware, max_new_tokens=args.max_new_tokens, seed=args.seed,
        temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, chunk=args.chunk, template=not args.no_template, attention=traced, compare=traced,
    )  # fmt: skip
    lm = load(args.model, args.device, args.dtype)
    result = run(lm, request)
    told = result.as_dict()
    if args.trace:
        result.trace.save(args.trace)
    if args.keep:
        from kvlab.runs import RunStore, manifest

        told["run"] = RunStore().save(manifest(lm, request, result), result.trace)
    print(json.dumps(told, ensure_ascii=False) if args.json else summary(told))
    return 0


def summary(result: dict[str, Any]) -> str:
    """A run in a few lines for a person."""
    held, full = result["bytes"]["resident"], result["bytes"]["full"]
    rows = [
        result["text"],
        "",
        f"{result['method']} on {result['model']}: {result['prompt_tokens']} prompt tokens, {len(result['tokens'])} written",
        f"held {held:,} of {full:,} bytes ({held / full:.1%}), predicted {result['bytes']['predicted']:,}, peak {result['bytes']['peak']:,}",
        f"prefill {result['seconds']['prefill']:.3f} s, {result['seconds']['decode_per_token'] * 1000:.1f} ms per token",
    ]
    if "run" in result:
        rows.append(f"kept as {result['run']}: open /inside?run={result['run']} in the dashboard")
    return "\n".join(rows)


def _presets(args: argparse.Namespace) -> int:
    from kvlab.models import load
    from kvlab.presets import store_all

    store_all(load("bundled"), args.out, print, args.clean)
    return 0


def _methods(args: argparse.Namespace) -> int:
    found = [describe(kind) for kind in registry().values()]
    if args.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    elif args.table:
        print(table(found))
    else:
        for m in found:
            print(f"{m['name']:14} {m['axis']:13} {m['title']:20} {m['phases']}")
    return 0


def table(found: list[dict[str, Any]]) -> str:
    """The methods as a Markdown table: what each does, when, and what stands behind it."""
    source = {"code": "authors' code read", "mixed": "partly reconstructed", "recon": "reconstruction"}
    rows = ["| method | what it does | acts at | paper | source |", "|---|---|---|---|---|"]
    rows += [f"| `{m['name']}` {m['title']} | {AXES[m['axis']]} | {m['phases']} | {m['paper']} ({m['year']}) | {source[m['source']]} |" for m in found]
    return "\n".join(rows)
