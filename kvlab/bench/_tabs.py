"""One stage of `bench ui` in a browser of its own: a worker, run by its path, that needs only playwright and Streamlit.

The request is one JSON argument, the answer one JSON line. Whoever starts it gives it a time and ends it with its browser when that is over.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

WAIT = 45_000
"""Milliseconds until one thing that should come is given up."""

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
TITLE, TOKEN, RAIL = "h1", ".inside .tok", "Step of the answer"


class Tab:
    """A fresh tab, and the bytes its WebSocket received."""

    def __init__(self, browser: Browser) -> None:
        self.context = browser.new_context(viewport={"width": 1440, "height": 960})
        self.context.add_init_script(path=Path(__file__).parent / "_ui.js")
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.bytes, self.begun, self.ended = 0, False, 0.0
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._received))

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def _received(self, payload: bytes | str) -> None:
        self.bytes += len(payload)
        kind = ForwardMsg.FromString(payload).WhichOneof("type") if isinstance(payload, bytes) else ""
        self.begun |= kind == "new_session"
        if self.begun and kind == "script_finished":
            self.ended = time.perf_counter()

    def open(self, address: str, painted: str) -> float:
        """Milliseconds until this selector is on the page."""
        start = time.perf_counter()
        self.page.goto(address, wait_until="commit")
        self.page.locator(painted).first.wait_for(state="visible")
        return 1000 * (time.perf_counter() - start)

    def settle(self) -> None:
        """Until the script rests for half a second. A script replaced just as it ends never says so: after ten seconds that is taken for rest."""
        end = time.monotonic() + 10
        rest = 0
        while rest < 5 and time.monotonic() < end:
            self.page.wait_for_timeout(100)
            rest = rest + 1 if self.page.locator("[data-testid='stApp'][data-test-script-state='notRunning']").count() else 0


def opened(browser: Browser, address: str, painted: str) -> float:
    """Milliseconds of a fresh tab."""
    with Tab(browser) as tab:
        return tab.open(address, painted)


def warm(browser: Browser, asked: dict[str, Any]) -> dict[str, Any]:
    """One visit of every page: the first one of a server imports torch."""
    ours = asked["ours"]
    for address, painted in ((ours, TITLE), (f"{ours}/run", "textarea"), (f"{ours}/inside?run={asked['preset']}", TOKEN), (asked["bare"], TITLE)):
        opened(browser, address, painted)
    return {}


def paint(browser: Browser, asked: dict[str, Any]) -> dict[str, Any]:
    """A page of ours and the bare one, in turn."""
    one = lambda side: opened(browser, *asked[side])  # noqa: E731
    pairs = [(one("kvlab"), one("bare")) if turn % 2 else (one("bare"), one("kvlab"))[::-1] for turn in range(asked["rounds"])]
    return beside(*([pair[side] for pair in pairs] for side in (0, 1)))


def beside(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Medians of both and their ratio."""
    mine, bare = statistics.median(ours), statistics.median(theirs)
    return {"kvlab_ms": mine, "bare_ms": bare, "ratio": mine / bare, "rounds": len(ours)}


def trip(browser: Browser, asked: dict[str, Any]) -> dict[str, Any]:
    """From leaving a text box, changed, to the end of the script that it started; on our page and the bare one, in turn."""
    found: dict[str, list[float]] = {"kvlab": [], "bare": []}
    with Tab(browser) as kvlab, Tab(browser) as bare:
        for side, tab in (("kvlab", kvlab), ("bare", bare)):
            tab.open(asked[side][0], asked[side][1])
            tab.settle()
        for turn in range(asked["rounds"]):
            for side, tab in (("kvlab", kvlab), ("bare", bare)) if turn % 2 else (("bare", bare), ("kvlab", kvlab)):
                found[side].append(left(tab, asked[side][2], f"word {'x' * turn}"))
    return beside(found["kvlab"], found["bare"])


def left(tab: Tab, box: str, text: str) -> float:
    """Milliseconds of one text box that is filled and left, to the last message of the script. Raises ValueError when no script begins and ends."""
    tab.page.bring_to_front()
    field = tab.page.get_by_role("textbox", name=box).first
    field.fill(text)
    tab.begun, tab.ended, start = False, 0.0, time.perf_counter()
    field.press("Tab")
    while not tab.ended and time.perf_counter() - start < 10:
        tab.page.wait_for_timeout(5)
    if not tab.ended:
        raise ValueError(f"no script began and ended within 10 s of leaving the box {box!r}")
    took = 1000 * (tab.ended - start)
    tab.settle()
    return took


def scrub(browser: Browser, asked: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of each step of the scrubber: its script and the style and layout that it causes."""
    with Tab(browser) as tab:
        tab.open(asked["address"], asked["painted"])
        tab.settle()
        if asked.get("unfold"):
            tab.page.locator(".cells").first.evaluate(f"canvas => window.kvlabBench.unfold(canvas, {asked['unfold']})")
        if asked.get("show"):
            tab.page.locator(asked["show"]).first.scroll_into_view_if_needed()
            tab.page.wait_for_timeout(200)
        rail = tab.page.get_by_role("slider", name=RAIL)
        rail.evaluate("rail => window.kvlabBench.scrub(rail, 6)")
        found = sorted(rail.evaluate(f"rail => window.kvlabBench.scrub(rail, {asked['count']})"))
        p95, sent = found[int(0.95 * len(found))], tab.bytes
        return {"median_ms": statistics.median(found), "p95_ms": p95, "most_ms": found[-1], "steps": len(found), "page_bytes": sent}


def sent(browser: Browser, asked: dict[str, Any]) -> dict[str, Any]:
    """Bytes that each page received over its WebSocket, and milliseconds until its map was there."""
    found = {}
    for name, (address, painted) in asked["pages"].items():
        with Tab(browser) as tab:
            took = tab.open(address, painted)
            tab.settle()
            found[name] = {"bytes": tab.bytes, "open_ms": took}
    return found


STAGES = {"warm": warm, "paint": paint, "trip": trip, "scrub": scrub, "sent": sent}

if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    with sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=request["chromium"], args=FLAGS)
        print(json.dumps(STAGES[request["stage"]](chrome, request)))
        chrome.close()
