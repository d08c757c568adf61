"""The dashboard in a browser: paint, preset, widget, scrub step, bytes of a map and many sessions, each beside a bare Streamlit page.

Needs the Python package playwright and a chromium (`--chromium`). Both servers run on this machine, and what is compared is taken in turn. Every
stage is a process of its own with a time limit: a figure that does not come is named, and the others still come. Not counted: the first start of the
server, which imports torch. Sessions by the dozen are not browser tabs, which would measure the browser, but speak Streamlit's protocol (`_wire.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvlab.bench import _made
from kvlab.engine import versions
from kvlab.runs import RunStore

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TOKEN, TITLE = ".inside .tok", "h1"
TIMED = {"first_paint": "first page painted", "preset_open": "preset open (bare: its first page)", "widget_round_trip": "widget round trip"}
SCRUBBED = {
    "inside": "Look inside", "inside_all_heads": "Look inside, all heads unfolded",
    "compare": "Compare", "compare_with_prompt": "Compare, the prompt on screen",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often and how many."""
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--steps", type=int, default=80, help="steps of the scrubber that are timed")
    parser.add_argument("--limit", type=float, default=90, help="seconds until a figure is given up")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--show", type=Path, help="measure nothing: print the table of the figures in this file")


@contextlib.contextmanager
def served(script: Path, home: str) -> Iterator[tuple[str, int]]:
    """Address and process of a Streamlit server of this script. Raises ValueError when it does not answer within two minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port), "--server.address", "127.0.0.1", "--server.headless", "true"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "KVLAB_HOME": home}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1)
                break
            time.sleep(0.2)
        else:
            raise ValueError(f"the Streamlit server of {script.name} did not answer within two minutes")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(60)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds (Linux)."""
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in fields if line.startswith("VmRSS"))


class Stages:
    """Runs workers one after another; says on stderr which, and keeps what is missing and why."""

    def __init__(self, chromium: str, limit: float) -> None:
        self.chromium, self.limit, self.start = chromium, limit, time.monotonic()
        self.missing: dict[str, str] = {}

    def say(self, text: str) -> None:
        """One line of progress."""
        print(f"{time.monotonic() - self.start:6.1f} s  {text}", file=sys.stderr, flush=True)

    def run(self, name: str, worker: str, **asked: Any) -> dict[str, Any] | None:
        """The answer of a worker, or None: then `missing` says why."""
        self.say(name)
        command = [sys.executable, str(HERE / worker), json.dumps({**asked, "chromium": self.chromium})]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            told, words = process.communicate(timeout=self.limit)
            if process.returncode == 0:
                return json.loads(told)
            self.missing[name] = next((line for line in reversed(words.splitlines()) if ": " in line), "the worker stopped without a word")
        except subprocess.TimeoutExpired:
            self.missing[name] = f"not there after {self.limit:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # its browser goes with it
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self.say(f"{name}: MISSING, {self.missing[name]}")
        return None


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; milliseconds on a small machine say little, the bare page beside them says what Streamlit itself takes."""
    if args.show:
        return json.loads(args.show.read_text())
    stages = Stages(args.chromium, args.limit)
    stages.say("servers and made-up runs")
    with tempfile.TemporaryDirectory() as home, served(ROOT / "app.py", home) as (ours, pid), served(HERE / "_bare.py", home) as (bare, bare_pid):
        store = RunStore(Path(home) / "runs")
        runs = {"preset": RunStore(ROOT / "data" / "runs").list()[0]["id"], "big": _made.big(store), "square": _made.square(store)}
        figures = measured(stages, args, ours, bare, runs)
        figures["resident_bytes_after"] = {"kvlab": resident(pid), "bare": resident(bare_pid)}
    stages.say("done")
    return {
        "what": "the dashboard beside a bare Streamlit page",
        **figures,
        "missing": stages.missing,
        "cores": os.cpu_count(),
        "versions": versions(),
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m kvlab bench ui --rounds {args.rounds} --sessions {args.sessions} --steps {args.steps}",
    }


def measured(stages: Stages, args: argparse.Namespace, ours: str, bare: str, runs: dict[str, Any]) -> dict[str, Any]:
    """The figures, after one warm visit of every page."""
    preset, (one, two), rounds = f"{ours}/inside?run={runs['preset']}", runs["big"], args.rounds
    both = f"{ours}/compare?cmp={one},{two}"
    tabs = lambda name, stage, **asked: stages.run(name, "_tabs.py", stage=stage, **asked)  # noqa: E731
    scrub = lambda name, address, **more: tabs(f"scrub step, {name}", "scrub", address=address, painted=TOKEN, count=args.steps, **more)  # noqa: E731
    tabs("first visit", "warm", ours=ours, bare=bare, preset=runs["preset"])
    pages = {"kvlab": (f"{ours}/inside?run={runs['square']}", TOKEN)}
    pages |= {f"plotly_{kind}": (f"{bare}/?map={kind}", ".js-plotly-plot .hm") for kind in ("uint8", "float32")}
    return {
        "first_paint": tabs("first page painted", "paint", kvlab=(ours, TITLE), bare=(bare, TITLE), rounds=rounds),
        "preset_open": tabs("preset open", "paint", kvlab=(preset, TOKEN), bare=(bare, TITLE), rounds=rounds),
        "widget_round_trip": tabs("widget round trip", "trip", kvlab=(f"{ours}/run", "textarea", "Question"), bare=(bare, TITLE, "Word"), rounds=rounds),
        "scrub_step": {
            "layers": 28, "kv_heads": 8, "tokens": 2048,
            "inside": scrub("Look inside", f"{ours}/inside?run={one}&step=0"),
            "inside_all_heads": scrub("Look inside, all heads unfolded", f"{ours}/inside?run={one}&step=0", unfold=28),
            "compare": scrub("Compare", f"{both}&step=0"),
            "compare_with_prompt": scrub("Compare, the prompt on screen", f"{both}&step=0", show=".strip"),
        },
        "map_2048x2048": tabs("a map of 2,048 x 2,048", "sent", pages=pages),
        "sessions": {
            "count": args.sessions, "driven": "by WebSocket, Streamlit's own protocol, no browser; kvlab: Look inside with a stored run",
            **(stages.run(f"{args.sessions} sessions", "_wire.py", ours=ours, bare=bare, preset=runs["preset"], count=args.sessions, rounds=2) or {}),
        },
    }  # fmt: skip


def table(figures: dict[str, Any]) -> str:
    """The figures for a person, in Markdown."""
    ms = lambda value: f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms"  # noqa: E731
    head = f"kvlab {figures['versions']['kvlab']} on {figures['cores']} cores, {figures['when']}."
    rows = [head, "", "| what | kvlab | bare Streamlit | ratio |", "|---|---|---|---|"]
    for name, words in TIMED.items():
        if one := figures[name]:
            rows.append(f"| {words} | {ms(one['kvlab_ms'])} | {ms(one['bare_ms'])} | {one['ratio']:.2f} |")
    if maps := figures["map_2048x2048"]:
        said = {kind: f"{one['bytes'] / 2**20:.1f} MiB, {ms(one['open_ms'])}" for kind, one in maps.items()}
        theirs = "; ".join(f"{kind[7:]} {words}" for kind, words in said.items() if kind != "kvlab")
        rows.append(f"| a map of 2,048 x 2,048 (bare: Plotly) | half precision {said['kvlab']} | {theirs} | |")
    many = figures["sessions"]
    for words, name in (("open", "open_last_ms"), ("ask again", "again_last_ms")) if "kvlab" in many else ():
        mine, bare = many["kvlab"][name], many["bare"][name]
        rows.append(f"| {many['count']} sessions {words} at once, until the last is answered | {ms(mine)} | {ms(bare)} | {mine / bare:.2f} |")
    step = figures["scrub_step"]
    size = f"{step['layers']} layers x {step['kv_heads']} KV heads x {step['tokens']:,} tokens"
    rows += ["", f"Sessions are driven {many['driven']}.", "", f"| one step of the scrubber, {size} | median | 95 % are under | most |", "|---|---|---|---|"]
    rows += [f"| {words} | {ms(one['median_ms'])} | {ms(one['p95_ms'])} | {ms(one['most_ms'])} |" for name, words in SCRUBBED.items() if (one := step[name])]
    rows += ["", "A step is its script and the style and layout that it causes, without the frame in which it is painted."]
    return "\n".join([*rows, *(f"\nMissing: {name} ({why})." for name, why in figures["missing"].items())])
