"""`python -m kvlab runs`: what is stored, and taking it elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from kvlab import bundle, samples
from kvlab.runs import RunStore


def main(argv: list[str]) -> int:
    """The command; returns its exit status."""
    top = argparse.ArgumentParser(prog="python -m kvlab runs", description="List, tag, delete, export and import stored runs.")
    top.add_argument("--store", type=Path, help="folder of the runs and their index (default KVLAB_HOME/runs)")
    kinds = top.add_subparsers(required=True, metavar="list | tag | untag | delete | export | import")
    listed = kinds.add_parser("list", help="newest first")
    listed.add_argument("--tag", help="only runs with this tag")
    listed.set_defaults(command=_list)
    for name, command in (("tag", RunStore.tag), ("untag", RunStore.untag)):
        tagged = kinds.add_parser(name, help=f"{name} a run")
        tagged.add_argument("run")
        tagged.add_argument("tags", nargs="+")
        tagged.set_defaults(command=lambda store, args, command=command: command(store, args.run, *args.tags))
    gone = kinds.add_parser("delete", help="delete runs; shipped ones stay")
    gone.add_argument("runs", nargs="+")
    gone.set_defaults(command=lambda store, args: [store.delete(run) for run in args.runs])
    out = kinds.add_parser("export", help="write runs to one file")
    out.add_argument("file", type=Path)
    out.add_argument("runs", nargs="*", help="ids; none: all runs of the store, and all rows of its sweeps")
    out.set_defaults(command=_export)
    into = kinds.add_parser("import", help="read a file made by export")
    into.add_argument("file", type=Path)
    into.set_defaults(command=lambda store, args: print(*bundle.load(store, args.file), sep="\n"))
    args = top.parse_args(argv)
    args.command(RunStore(args.store), args)
    return 0


def _list(store: RunStore, args: argparse.Namespace) -> None:
    for said in store.list(args.tag):
        tags = " ".join(said["tags"])
        print(f"{said['id']}  {said['created']}  {said['method']:24} {said['budget']['asked'] or '':>8}  {said['prompt_tokens']:6,} tokens  {tags}".rstrip())


def _export(store: RunStore, args: argparse.Namespace) -> None:
    runs = args.runs or [said["id"] for said in store.list() if (store.folder / said["id"]).exists()]
    bundle.export(store, args.file, runs, [] if args.runs else samples.rows(store.folder))
