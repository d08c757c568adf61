"""What kvlab costs, measured: every file here is one benchmark, `python -m kvlab bench <name>`. No list to keep.

A file has `add_arguments(parser)`, for its options, and `bench(args) -> dict`, its figures with the setting, versions and command that made
them; where it also has `table(figures) -> str`, that is printed instead of JSON. Figures that ship lie in `data/benchmarks`.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path


def names() -> list[str]:
    """Names of all benchmarks."""
    return [file.stem for file in sorted(Path(__file__).parent.glob("[!_]*.py"))]


def main(argv: list[str]) -> int:
    """Run the benchmark that `argv` names and print its figures. Returns the exit status."""
    top = argparse.ArgumentParser(prog="python -m kvlab bench", description="Measure; figures go to data/benchmarks.")
    kinds = top.add_subparsers(required=True, metavar=" | ".join(names()))
    for name in names() if not argv or argv[0] not in names() else argv[:1]:
        module = importlib.import_module(f"kvlab.bench.{name}")
        parser = kinds.add_parser(name, help=(module.__doc__ or "").split(".")[0].split(":")[0])
        module.add_arguments(parser)
        parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
        parser.set_defaults(bench=module.bench, table=getattr(module, "table", None))
    args = top.parse_args(argv)
    figures = args.bench(args)
    text = json.dumps(figures, indent=1)
    print(args.table(figures) if args.table else text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    return 0
