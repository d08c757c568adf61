"""The dashboard in a browser: paint, preset, widget, scrub step, bytes of a map and many sessions, each beside a bare Streamlit page.

Needs the Python package playwright and a chromium (`--chromium`); the two servers run on this machine, and every figure is taken in turn.
Not counted: the first start of the server, which imports torch.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kvlab.engine import Request, run, versions
from kvlab.models import load
from kvlab.registry import make
from kvlab.runs import RunStore, manifest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
WAIT = 240_000  # milliseconds
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often and how many."""
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of the run whose map is sent")
    parser.add_argument("--chromium", default="/usr/bin/chromium")


@contextlib.contextmanager
def served(script: Path, home: str) -> Iterator[tuple[str, int]]:
    """Address and process of a Streamlit server of this script."""
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
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(60)


class Visitor:
    """A fresh tab, and the bytes its WebSocket received."""

    def __init__(self, browser: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 960})
        self.context.add_init_script(path=HERE / "_ui.js")
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.bytes = 0
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, payload: bytes | str) -> None:
        self.bytes += len(payload)

    def open(self, address: str, *painted: str) -> float:
        """Milliseconds until these selectors are on the page."""
        start = time.perf_counter()
        self.page.goto(address, wait_until="commit")
        for selector in painted:
            self.page.locator(selector).first.wait_for(state="visible")
        return 1000 * (time.perf_counter() - start)

    def settle(self) -> None:
        """Wait until the script rests for half a second."""
        self.page.wait_for_timeout(500)
        self.page.wait_for_selector("[data-testid='stApp'][data-test-script-state='notRunning']", state="attached")

    def close(self) -> None:
        self.context.close()


def opened(browser: Any, address: str, *painted: str) -> float:
    """Milliseconds of a fresh tab."""
    visitor = Visitor(browser)
    try:
        return visitor.open(address, *painted)
    finally:
        visitor.close()


def round_trip(browser: Any, address: str, box: str, painted: str, count: int) -> list[float]:
    """Milliseconds from leaving a text box, changed, to the end of the script that it started."""
    visitor = Visitor(browser)
    visitor.open(address, painted)
    visitor.settle()
    found = []
    for i in range(count):
        field = visitor.page.get_by_role("textbox", name=box).first
        field.fill(f"word {'x' * i}")
        visitor.page.evaluate("window.kvlabBench.last = window.kvlabBench.answered()")
        field.press("Tab")
        found.append(visitor.page.evaluate("window.kvlabBench.last"))
        visitor.settle()
    visitor.close()
    return found


def scrubbed(browser: Any, address: str, count: int = 60) -> tuple[list[float], int]:
    """Milliseconds of each step of the scrubber in the browser, and the bytes that opening the run sent."""
    visitor = Visitor(browser)
    visitor.open(address, ".inside .tok")
    visitor.settle()
    rail = visitor.page.get_by_role("slider", name="Step of the answer")
    found = rail.evaluate(f"rail => window.kvlabBench.steps(rail, {count})")
    visitor.close()
    return found, visitor.bytes


def bytes_of(browser: Any, address: str, painted: str) -> int:
    """Bytes that a page received over its WebSocket."""
    visitor = Visitor(browser)
    visitor.open(address, painted)
    visitor.settle()
    visitor.close()
    return visitor.bytes


def crowd(browser: Any, address: str, painted: str, count: int) -> list[float]:
    """Milliseconds until each of `count` tabs that open at once has painted."""
    visitors = [Visitor(browser) for _ in range(count)]
    start, found = time.perf_counter(), []
    for visitor in visitors:
        visitor.page.goto(address, wait_until="commit")
    for visitor in visitors:
        visitor.page.locator(painted).first.wait_for(state="visible")
        found.append(1000 * (time.perf_counter() - start))
    for visitor in visitors:
        visitor.close()
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process holds (Linux)."""
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in fields if line.startswith("VmRSS"))


def long_run(home: str, tokens: int) -> str:
    """Id of a stored run of SnapKV over a context of about `tokens` tokens."""
    lm = load("bundled")
    text = "The grass is green. The sky is blue. "
    prompt = text * (tokens // len(lm.encode(text, special=False)))
    request = Request(prompt, make("snapkv", "0.25"), max_new_tokens=24, compare=True, stop_at_end=False)
    result = run(lm, request)
    return RunStore(Path(home) / "runs").save(manifest(lm, request, result), result.trace)


def in_turn(rounds: int, kvlab: Callable[[], float], bare: Callable[[], float]) -> dict[str, float]:
    """Medians of both, taken in turn, and their ratio."""
    pairs = [(kvlab(), bare()) if i % 2 else (bare(), kvlab())[::-1] for i in range(rounds)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"kvlab_ms": ours, "bare_ms": theirs, "ratio": ours / theirs, "rounds": rounds}


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; milliseconds on a small machine say little, the bare page beside them says what Streamlit itself takes."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as home, served(ROOT / "app.py", home) as (ours, pid), served(HERE / "_bare.py", home) as (bare, bare_pid):
        stored, preset = long_run(home, args.tokens), RunStore(ROOT / "data" / "runs").list()[0]["id"]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=args.chromium, args=FLAGS)
            figures = measured(browser, args, ours, bare, stored, preset)
            figures["resident_bytes_after"] = {"kvlab": resident(pid), "bare": resident(bare_pid)}
            browser.close()
    return {
        "what": "the dashboard beside a bare Streamlit page",
        **figures,
        "cores": os.cpu_count(),
        "versions": versions(),
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m kvlab bench ui --rounds {args.rounds} --sessions {args.sessions} --tokens {args.tokens}",
    }


def measured(browser: Any, args: argparse.Namespace, ours: str, bare: str, stored: str, preset: str) -> dict[str, Any]:
    """The figures, after one warm visit of every page."""
    token, title = ".inside .tok", "h1"
    for address, painted in ((ours, title), (f"{ours}/run", "textarea"), (f"{ours}/inside?run={preset}", token), (bare, title)):
        opened(browser, address, painted)
    steps, sent = scrubbed(browser, f"{ours}/inside?run={stored}")
    trips, plain = round_trip(browser, f"{ours}/run", "Question", "textarea", args.rounds), round_trip(browser, bare, "Word", title, args.rounds)
    many, few = crowd(browser, f"{ours}/inside?run={preset}", token, args.sessions), crowd(browser, bare, title, args.sessions)
    trip, bare_trip = statistics.median(trips), statistics.median(plain)
    paint = lambda address, painted: lambda: opened(browser, address, painted)  # noqa: E731
    return {
        "first_paint": in_turn(args.rounds, paint(ours, title), paint(bare, title)),
        "preset_open": in_turn(args.rounds, paint(f"{ours}/inside?run={preset}", token), paint(bare, title)),
        "widget_round_trip": {"kvlab_ms": trip, "bare_ms": bare_trip, "ratio": trip / bare_trip, "rounds": args.rounds},
        "scrub_step": {"tokens": args.tokens, "median_ms": statistics.median(steps), "p95_ms": sorted(steps)[int(0.95 * len(steps))], "steps": len(steps)},
        "map_bytes": {"kvlab_whole_page": sent, "bare_plotly_2048x2048": bytes_of(browser, f"{bare}/?map", ".js-plotly-plot")},
        "sessions": {
            "count": args.sessions, "kvlab_median_ms": statistics.median(many), "kvlab_last_ms": many[-1],
            "bare_median_ms": statistics.median(few), "bare_last_ms": few[-1],
        },
    }  # fmt: skip
