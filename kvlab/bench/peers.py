"""kvlab beside kvpress: the same weights, prompt, budget and knobs, in turn in one run.

kvpress needs transformers below 5.3, so it lives in an environment of its own (`kvlab/bench/README.md`); `--peer-python` is its interpreter,
which runs the worker `_kvpress.py`. In a round every pair reads the prompt and writes on both sides, which take turns every `BLOCK` tokens
in the order A B B A; each side reads its own two clocks, wall time and the CPU time of its process. A ratio is one round's, kvlab / kvpress.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kvlab.bench._pairs import PAIRS, Pair
from kvlab.bench.frame import BLOCK, malloc, ratio
from kvlab.calibration import artefact
from kvlab.engine import kept_positions, versions
from kvlab.models import DATA, LM, load
from kvlab.session import Session, timed
from kvlab.tasks import find

WORKER = Path(__file__).parent / "_kvpress.py"


class Peer:
    """The worker under another interpreter."""

    def __init__(self, python: str) -> None:
        try:
            self.process = subprocess.Popen([python, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise ValueError(f"--peer-python {python} cannot be run: {error.strerror}. Make it as kvlab/bench/README.md says.") from None

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """One request and its answer. Raises ValueError with the worker's own words when it fails."""
        with contextlib.suppress(BrokenPipeError):  # it is gone: the answer below is missing
            print(json.dumps({"do": do, **more}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        told = json.loads(line) if line else {"error": "the worker stopped; its own words are above"}
        if "error" in told:
            raise ValueError(f"kvpress could not {do}: {told['error']}. How to make its environment is in kvlab/bench/README.md.")
        return told

    def close(self) -> None:
        """Let the worker end."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Ours:
    """kvlab with the worker's answers."""

    def __init__(self, lm: LM, pair: Pair, budget: float) -> None:
        self.session = Session(lm, pair.ours(budget), chunk=lm.geometry.context)

    @torch.no_grad()
    def start(self, ids: list[int]) -> dict[str, Any]:
        """Read the prompt; the first token."""
        return self._timed(lambda: [self._next(self.session.prefill(torch.tensor([ids], device=self.session.lm.device)))])

    @torch.no_grad()
    def write(self, count: int) -> dict[str, Any]:
        """`count` greedy tokens."""
        return self._timed(lambda: [self._next(self.session.decode(self.token)) for _ in range(count)])

    def _next(self, logits: torch.Tensor) -> int:
        self.token = logits.argmax(-1)
        return int(self.token)

    def _timed(self, act: Any) -> dict[str, Any]:
        wall, cpu = timed(self.session.lm.device), time.process_time()
        tokens = act()
        return {"seconds": timed(self.session.lm.device) - wall, "cpu": time.process_time() - cpu, "tokens": tokens, "bytes": self.session.cache.nbytes()}


def one_round(ours: Ours, peer: Peer, start: dict[str, Any], new: int, turn: int) -> tuple[np.ndarray, list[list[int]], list[int]]:
    """Seconds [kvlab and kvpress, prompt or tokens, wall or CPU], the tokens of each and the bytes each held after the prompt."""
    seconds, written, held = np.zeros((2, 2, 2)), [[], []], [0, 0]
    for block, count in enumerate([0] + [min(BLOCK, new - at) for at in range(0, new, BLOCK)]):
        for side in (0, 1) if (turn + block) % 2 == 0 else (1, 0):
            if count:
                told = ours.write(count) if side == 0 else peer.ask("write", count=count)
            else:
                told = ours.start(start["ids"]) if side == 0 else peer.ask("start", **start)
                held[side] = told["bytes"]
            seconds[side, min(block, 1)] += told["seconds"], told["cpu"]
            written[side] += told["tokens"]
    return seconds, written, held


def compared(ours: list[list[list[int]]], theirs: list[list[list[int]]]) -> dict[str, Any]:
    """Kept positions [layer][head] of both: how many heads keep the same, and the share of kvlab's entries that kvpress keeps too."""
    pairs = [(set(a), set(b)) for mine, others in zip(ours, theirs, strict=True) for a, b in zip(mine, others, strict=True)]
    kept = sum(len(a) for a, _ in pairs)
    return {
        "equal": all(a == b for a, b in pairs),
        "heads_equal": sum(a == b for a, b in pairs),
        "heads": len(pairs),
        "shared": round(sum(len(a & b) for a, b in pairs) / kept, 4),
        "entries": {"kvlab": kept, "kvpress": sum(len(b) for _, b in pairs)},
    }


def clock(seconds: np.ndarray, full: np.ndarray, new: int) -> dict[str, Any]:
    """Of one clock, seconds [R, side, prompt or tokens]: ratios kvlab / kvpress of the prompt, the tokens and both together, each side's
    tokens against its own full cache, medians.
    """
    return {
        "prefill": ratio(seconds[:, 0, 0], seconds[:, 1, 0]),
        "decode": ratio(seconds[:, 0, 1], seconds[:, 1, 1]),
        "total": ratio(seconds[:, 0].sum(1), seconds[:, 1].sum(1)),
        "decode_of_full": {side: ratio(seconds[:, i, 1], full[:, i, 1]) for i, side in enumerate(("kvlab", "kvpress"))},
        "prefill_s": dict(zip(("kvlab", "kvpress"), np.median(seconds[:, :, 0], axis=0).round(4).tolist(), strict=True)),
        "token_ms": dict(zip(("kvlab", "kvpress"), (np.median(seconds[:, :, 1], axis=0) / new * 1e3).round(3).tolist(), strict=True)),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--peer-python", help="interpreter of the environment that has kvpress (kvlab/bench/README.md)")
    parser.add_argument("--show", type=Path, help="measure nothing: print the table of the figures in this file")
    parser.add_argument("--pairs", default=",".join(PAIRS), help="which of them; the full cache is always there")
    parser.add_argument("--prompt", type=int, default=2048, help="prompt tokens")
    parser.add_argument("--budget", type=float, default=0.5, help="kept fraction")
    parser.add_argument("--new", type=int, default=64, help="tokens written")
    parser.add_argument("--rounds", type=int, default=9)


def prompt(lm: LM, tokens: int) -> list[int]:
    """Ids of a haystack with a needle, cut to `tokens`."""
    sample = find("niah").samples(1, tokens + 64, 0, lambda text: len(lm.encode(text, special=False)))[0]
    ids = lm.encode(sample.context, special=False)[:tokens]
    if len(ids) < tokens:
        raise ValueError(f"The haystack has {len(ids)} tokens, fewer than the {tokens} asked for.")
    return ids


def asked(lm: LM, pair: Pair, budget: float, ids: list[int]) -> dict[str, Any]:
    """What the worker is told: the press, its knobs with the ratio that keeps as many slots as kvlab, the ids, and filters where it needs some."""
    method = pair.ours(budget)
    kept = round(method.kept(len(ids), len(ids)))
    told = {**pair.theirs(1 - (kept + 0.25) / len(ids)), "ids": ids, "every": kept if pair.every else None}  # theirs are cut by int()
    if "calibration" in method.needs:
        told["filters"] = (-artefact(method, lm)["filters"]).tolist()  # kvpress keeps what lies away from its filters
    return told


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """All pairs over `args.rounds` rounds, after one that warms up; or the figures of `--show`."""
    if args.show:
        return json.loads(args.show.read_text())
    if not args.peer_python:
        raise ValueError("--peer-python is missing: the interpreter of an environment with kvpress. kvlab/bench/README.md says how to make one.")
    if unknown := set(args.pairs.split(",")) - set(PAIRS):
        raise ValueError(f"No such pair: {', '.join(sorted(unknown))}. There are {', '.join(PAIRS)}.")
    names = [name for name in PAIRS if name == "full" or name in args.pairs.split(",")]
    lm, before = load("bundled", "cpu", "float32"), os.getloadavg()
    with contextlib.closing(Peer(args.peer_python)) as peer:
        theirs = peer.ask("load", model=str(DATA / "model"), dtype="float32", threads=torch.get_num_threads())
        found = measured(lm, peer, names, prompt(lm, args.prompt), args)
    return {
        "what": "kvlab beside kvpress on the same weights and prompt, in turn; ratios are kvlab / kvpress, bytes those of the cache's tensors after the prompt",
        "pairs": found,
        "setting": {
            "model": "bundled", "prompt": args.prompt, "budget": args.budget, "new": args.new, "rounds": args.rounds, "block": BLOCK,
            "device": "cpu", "dtype": "float32", "threads": torch.get_num_threads(), "malloc": malloc(),
        },
        "machine": {"cores": os.cpu_count(), "load_before": before, "load_after": os.getloadavg()},
        "versions": versions(),
        "peer_versions": theirs,
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m kvlab bench peers --peer-python PATH --prompt {args.prompt} --budget {args.budget} --new {args.new} --rounds {args.rounds}",
    }  # fmt: skip


def measured(lm: LM, peer: Peer, names: list[str], ids: list[int], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """By pair: kept positions, bytes and times. A round goes through all pairs, so that each has its full cache close by."""
    told = {name: asked(lm, PAIRS[name], args.budget, ids) for name in names}
    found = {name: positions(lm, peer, PAIRS[name], told[name], args.budget) for name in names}
    taken: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for turn in range(args.rounds + 1):
        print(f"round {turn} of {args.rounds}", file=sys.stderr)
        for name in names:
            seconds, (mine, others), held = one_round(Ours(lm, PAIRS[name], args.budget), peer, told[name], args.new, turn)
            taken[name].append(seconds)
            found[name] |= {"bytes": dict(zip(("kvlab", "kvpress"), held, strict=True)), "same_tokens": mine == others}
    for name in names:
        each, full = (np.stack(taken[of][1:]) for of in (name, "full"))
        found[name] |= {kind: clock(each[..., i], full[..., i], args.new) for i, kind in enumerate(("wall", "cpu"))}
    return found


def positions(lm: LM, peer: Peer, pair: Pair, told: dict[str, Any], budget: float) -> dict[str, Any]:
    """What both keep of the prompt, and why it differs where it does."""
    ours = Ours(lm, pair, budget)
    ours.start(told["ids"])
    result = compared(kept_positions(ours.session), peer.ask("kept", **told)["kept"])
    said = {"kvlab": {"method": pair.method, **pair.knobs}, "kvpress": {"press": told["press"], **told["knobs"], "every": told["every"]}, "positions": result}
    return said if result["equal"] else {**said, "why": pair.why}


def table(figures: dict[str, Any]) -> str:
    """The figures for a person, in Markdown."""
    setting, theirs = figures["setting"], figures["peer_versions"]
    rows = [
        f"kvlab {figures['versions']['kvlab']} (transformers {figures['versions']['transformers']}) beside kvpress {theirs['kvpress']} "
        f"(transformers {theirs['transformers']}), {setting['model']} model, {setting['prompt']:,} prompt tokens, kept fraction {setting['budget']}, "
        f"{setting['threads']} thread(s). Times: CPU time, kvlab / kvpress, median of {setting['rounds']} rounds and its 95 % interval."
        f"{' Both keep the memory they free.' if all(setting['malloc'].values()) else ''}",
        "",
        "| pair | entries both keep | bytes kvlab | bytes kvpress | prefill | per token | both | per token of full: kvlab, kvpress |",
        "|---|---|---|---|---|---|---|---|",
    ]
    said = lambda r: f"{r['median']:.2f} [{r['interval'][0]:.2f}, {r['interval'][1]:.2f}]"  # noqa: E731
    for name, pair in figures["pairs"].items():
        same = "all" if pair["positions"]["equal"] else f"{pair['positions']['shared']:.1%}"
        cpu, full = pair["cpu"], figures["pairs"]["full"]["bytes"]
        held = [f"{pair['bytes'][side]:,} ({pair['bytes'][side] / full[side]:.1%})" for side in ("kvlab", "kvpress")]
        of_full = cpu["decode_of_full"]
        rows.append(
            f"| {name} | {same} | {held[0]} | {held[1]} | {said(cpu['prefill'])} | {said(cpu['decode'])} | {said(cpu['total'])} | "
            f"{of_full['kvlab']['median']:.2f}, {of_full['kvpress']['median']:.2f} |"
        )
    every = [name for name, pair in figures["pairs"].items() if pair["kvpress"]["every"]]
    if every:
        rows += ["", f"{', '.join(every)}: both go on dropping at every token, kvpress by its DecodingPress."]
    whys = [f"{name}: {pair['why']}" for name, pair in figures["pairs"].items() if "why" in pair]
    return "\n".join([*rows, "", *(["Where the entries differ:", "", *(f"- {why}" for why in whys)] if whys else [])])
