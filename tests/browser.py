"""Fixtures for pages in a real browser: a server over a folder of runs, Debian's chromium, and a page that refuses to leave the machine.

They are a plugin of the suite (conftest.py). Without chromium the tests that ask for them are skipped with a sentence.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

CHROME = os.environ.get("KVLAB_CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
ROOT = Path(__file__).parent.parent
WAIT = 180_000
"""Milliseconds until a state that should come is given up. Nothing waits this long on a free machine; a busy one imports torch and draws slowly."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def runs_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`KVLAB_HOME` of the server: put runs under it with `RunStore(runs_home / "runs").save`."""
    return tmp_path_factory.mktemp("server-home")


@pytest.fixture(scope="session")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the server starts with: a tiny one of random weights, for where it is not the point what is written."""
    from conftest import save_tiny

    return save_tiny(tmp_path_factory.mktemp("letters"), template=False)


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes slowly and never ends by itself, so that there is time to cancel it."""
    from conftest import save_tiny

    return save_tiny(tmp_path_factory.mktemp("endless"), template=False, layers=1, end=False, wide=2**18)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, runs_home: Path, letters: Path) -> Iterator[str]:
    """The address of the running dashboard. A traceback in its log fails the session. One thread for the model: the browser needs the other core."""
    port, log = free_port(), open(tmp_path_factory.mktemp("st") / "server.log", "w+")  # noqa: SIM115
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.address", "127.0.0.1", "--server.headless", "true"]
    env = {**os.environ, "KVLAB_HOME": str(runs_home), "KVLAB_MODEL": str(letters), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + WAIT / 1000
    while time.monotonic() < end and process.poll() is None and not healthy(url):
        time.sleep(0.2)
    yield url
    process.terminate()
    process.wait(60)
    log.seek(0)
    said = log.read()
    log.close()
    # a tab that closes while the server is still sending leaves a traceback of the web server's own; every other one fails
    assert all("WebSocketDisconnected" in part for part in said.split("Traceback")[1:]), said


def healthy(url: str) -> bool:
    try:
        return urllib.request.urlopen(url + "/_stcore/health", timeout=2).read() == b"ok"
    except OSError:
        return False


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not os.path.exists(CHROME):
        pytest.skip(f"No chromium at {CHROME}. Install Debian's package, or set KVLAB_CHROMIUM.")
    playwright = pytest.importorskip("playwright.sync_api", reason="The Python package playwright is not installed.")
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as pw:
        chrome = pw.chromium.launch(executable_path=CHROME, args=FLAGS)
        yield chrome
        chrome.close()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


class Wire:
    """Listens to a page's WebSocket: what was asked last is answered when a script that began after it has come to its end. `asked`: how often it was.

    The end of a whole script is its `script_finished`, or the beginning of a fragment after it: a timer that asks just then can take the
    place of the finished script before its last message is sent, and a fragment never interrupts a whole script.
    """

    def __init__(self, page: Any) -> None:
        self.answered, self.begun, self.part, self.asked = False, False, "", 0
        page.on("websocket", self.listen)

    def listen(self, socket: Any) -> None:
        socket.on("framesent", self.sent)
        socket.on("framereceived", self.received)

    def sent(self, payload: bytes | str) -> None:
        message = BackMsg.FromString(payload) if isinstance(payload, bytes) else BackMsg()
        if message.WhichOneof("type") == "rerun_script" and not message.rerun_script.is_auto_rerun:  # timers ask all the time
            self.answered, self.begun, self.part = False, False, message.rerun_script.fragment_id
            self.asked += 1

    def received(self, payload: bytes | str) -> None:
        message = ForwardMsg.FromString(payload) if isinstance(payload, bytes) else ForwardMsg()
        kind, fragments = message.WhichOneof("type"), message.metadata.run.fragment_ids
        if kind == "new_session":
            self.answered |= self.begun and bool(fragments)
            self.begun |= not fragments or self.part in fragments
        elif kind == "script_finished" and (self.part or message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY):
            self.answered |= self.begun


WIRES: WeakKeyDictionary[Any, Wire] = WeakKeyDictionary()


def listen(page: Any) -> None:
    WIRES[page] = Wire(page)


@contextmanager
def visit(browser: Any, scheme: str, **options: Any) -> Iterator[Any]:
    """A page of 1440 x 960 in a context of its own. Any request to anywhere but this machine, which no name leads out of, and any script error fails.

    Requests are watched, not routed: routing turns the browser's cache off and brings every file through Python.
    """
    usual = {"viewport": {"width": 1440, "height": 960}, "color_scheme": scheme, "accept_downloads": True, "reduced_motion": "reduce"}
    context = browser.new_context(**{**usual, **options})
    outside, errors = [], []

    def asked(what: Any) -> None:
        if not re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:|about:", what.url):
            outside.append(what.url)

    def watched(page: Any) -> None:
        listen(page)
        page.on("websocket", asked)
        page.on("pageerror", lambda error: errors.append(str(error)))

    context.set_default_timeout(WAIT)
    context.on("request", asked)
    context.on("page", watched)
    yield context.new_page()
    context.close()
    assert not outside and not errors, (outside, errors)


@pytest.fixture
def page(browser: Any, scheme: str) -> Iterator[Any]:
    """A page in the scheme, see `visit`."""
    with visit(browser, scheme) as opened:
        yield opened


def settled(page: Any, ms: int = 150) -> None:
    """Wait until the server has answered everything this page asked of it; pictures that a component draws may still need a `wait_for` of their own."""
    page.wait_for_timeout(ms)
    end = time.monotonic() + 20  # a part of the page that was taken away in between is never answered
    while not WIRES[page].answered and time.monotonic() < end:
        page.wait_for_timeout(50)
    page.wait_for_selector("[data-testid='stApp'][data-test-connection-state='CONNECTED']", state="attached")
    # a script that a new question replaces just as it ends never reports its end: the page then says "running" for good, with all of it drawn
    while not page.locator("[data-testid='stApp'][data-test-script-state='notRunning']").count() and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert page.locator("[data-testid='stException']").count() == 0
