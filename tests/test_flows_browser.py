"""What holds for all pages in a real browser: contrast, a telephone, the Tab key, strangers' text; and two visitors at once, files out, a sweep."""

from __future__ import annotations

import io
import json
import re
import threading
import urllib.request
from pathlib import Path
from typing import Any

import fake_sweep
import pandas as pd
import pytest
from browser import settled, visit
from fake_runs import fake
from playwright.sync_api import TimeoutError, expect

from kvlab.engine import Request, run
from kvlab.models import LM, load
from kvlab.registry import make
from kvlab.runs import RunStore, StoredRun, manifest
from kvlab.ui import own_tasks

pytestmark = pytest.mark.browser
TEXT = "The code of the green falcon is 2916. The code of the silver ribbon is 8644. Hugo left the blue orchid in the park. "
BAD = "![x](http://evil.test/a.png) <script>window.bad=1</script><img src=http://evil.test/b.png onerror='window.bad=1'> $\\frac{1}{2}$ :material/home: "
HOSTILE = BAD + "\x00 \u202eevil\u202c "
MAIN = "document.querySelector('[data-testid=stMain]')"
FOCUSED = """(goal) => { let at = document.activeElement; while (at && at.shadowRoot) at = at.shadowRoot.activeElement;
  return !!at && at.matches(goal); }"""
FAINT = Path(__file__).with_name("contrast.js").read_text()


@pytest.fixture
def scheme() -> str:
    return "light"


@pytest.fixture(scope="module")
def lm(letters: Path) -> LM:
    return load(str(letters), device="cpu")


@pytest.fixture(scope="module")
def stored(runs_home: Path, lm: LM) -> dict[str, StoredRun]:
    """Made runs in the server's store: one to look at, and two on one hostile prompt of 100 kB."""
    made = {"evict": fake("evict"), "real": alone(lm, runs_home, "snapkv", max_new_tokens=4)}
    words = [BAD, "\x00", " \u202eevil\u202c ", *[" falcon"] * 14_500]
    for number, kind in enumerate(("full", "same")):
        one = fake(kind, layers=1, heads=1, pieces=words)
        asked = {"prompt": "".join(words), "question": HOSTILE, "seed": 0, "temperature": 0.0, "max_new_tokens": 8}
        one.manifest.update(id=f"{0xBAD0 + number:016x}", text=HOSTILE, title=f"{BAD}{number}", request=asked, model=lm.name)
        one.manifest["pieces"][-8:] = [HOSTILE] * 8
        made[f"hostile {kind}"] = one
    assert len(asked["prompt"].encode()) > 100_000
    store = RunStore(runs_home / "runs")
    for one in made.values():
        store.save(one.manifest, one.trace)
    return made


@pytest.fixture(scope="module")
def swept(runs_home: Path, stored: dict[str, StoredRun]) -> str:
    """A made-up sweep of the server; one run is behind all its points."""
    points, samples = fake_sweep.sweep(("niah",), (256,))
    return fake_sweep.write(runs_home / "sweeps" / "flows", points.assign(run=stored["evict"].id), samples).name


def test_the_server_says_that_it_is_well(server: str) -> None:
    answer = urllib.request.urlopen(server + "/_stcore/health", timeout=10)
    assert answer.status == 200 and answer.read() == b"ok"


def shows(page: Any, what: str) -> Any:
    """Wait until the page has drawn this."""
    page.locator(what).first.wait_for()
    settled(page)
    return page


def pages(stored: dict[str, StoredRun], swept: str) -> dict[str, tuple[str, str, str]]:
    """Address -> what is there once all is drawn, and what the Tab key must reach."""
    evict, real = stored["evict"].id, stored["real"].id
    return {
        "": (".preset canvas >> nth=5", "a[aria-label^='Open: ']"),
        f"run?run={real}": ("article.done", ".st-key-do-run button"),
        f"inside?run={evict}&step=1": (".inside .tok", "[role=slider]"),
        "compare": (".compare .tok", "[role=slider]"),
        f"tradeoffs?sweep={swept}": (".kv-pt-head", "[data-testid=stDataFrame] canvas"),
        "plan?shape=llama-3.1-8b": (".kv-pl-row >> nth=1", "input[aria-label='Users at once']"),
        "learn?lesson=budgets&step=1": (".lesson footer .act.main", ".lesson footer .act.main"),
        "learn": (".kv-lessons", ".kv-lessons a"),
        "library": (".library .run", ".library .run input"),
        "methods": (".mini", "[role=slider]"),
        "methods?m=snapkv": (".entries", "[role=slider]"),
    }


def test_all_pages_can_be_read_in_both_schemes_fit_a_telephone_and_are_reached_by_tab(
    page: Any, server: str, stored: dict[str, StoredRun], swept: str, tmp_path: Path
) -> None:
    """Contrast of every visible word against its ground is at least 4.5; no page of 390 px scrolls sideways; Tab reaches what the page is for."""
    wrong: dict[str, Any] = {}
    for address, (drawn, goal) in pages(stored, swept).items():
        page.set_viewport_size({"width": 1440, "height": 960})
        page.emulate_media(color_scheme="light")
        page.goto(f"{server}/{address}", wait_until="commit")
        shows(page, drawn)
        if not tab_to(page, goal):
            wrong[f"{address}: Tab"] = goal
        for scheme, ground in (("light", "rgb(250, 250, 248)"), ("dark", "rgb(15, 17, 19)")):
            page.emulate_media(color_scheme=scheme)
            expect(page.locator("[data-testid=stApp]")).to_have_css("background-color", ground)
            if scheme == "dark" and page.locator(".js-plotly-plot").count():  # the server draws figures, and hears of the scheme with the next question
                page.reload(wait_until="commit")
                shows(page, drawn)
            said = page.evaluate(FAINT)
            assert said["seen"] > 30, "words were found"
            if said["faint"]:
                wrong[f"{address}: {scheme}"] = said["faint"]
        page.set_viewport_size({"width": 390, "height": 844})
        try:
            page.wait_for_function(f"Math.max(document.documentElement.scrollWidth, {MAIN}.scrollWidth) <= 390", timeout=8000)
        except TimeoutError:
            wrong[f"{address}: 390"] = page.evaluate(f"{MAIN}.scrollWidth")
        if address.startswith("run"):  # the bar with Run leaves room for the page
            page.wait_for_function("document.querySelector('[data-testid=stBottom]').getBoundingClientRect().height < 130")
    assert not wrong, json.dumps(wrong, indent=1)


def tab_to(page: Any, goal: str, most: int = 140) -> bool:
    """Press Tab until what matches `goal` has the focus, also inside a component."""
    page.evaluate("document.activeElement && document.activeElement.blur()")
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED, goal):
            return True
    return False


def test_hostile_text_of_100_kb_is_text_on_every_page_that_shows_runs(page: Any, server: str, stored: dict[str, StoredRun]) -> None:
    """The page's fixture fails on any request to elsewhere. A NUL and marks of direction are shown by their codes."""
    full, same = stored["hostile full"].id, stored["hostile same"].id
    for address, drawn, words in (
        (f"inside?run={same}", ".inside .tok", ".inside .text"), (f"compare?cmp={full},{same}", ".compare .tok", ".compare"),
        ("library?lib_find=evil.test&lib_from=own", ".library .run >> nth=1", ".library"), (f"run?run={same}", "article.done", "article.done"),
    ):  # fmt: skip
        page.goto(f"{server}/{address}", wait_until="commit")
        shows(page, drawn)
        text = page.locator(words).first.inner_text()
        assert all(part in text for part in BAD.split()), address
        assert "\x00" not in text and "\u202e" not in text, address
        assert page.evaluate("window.bad") is None and page.get_by_role("dialog").count() == 0
        assert page.locator("[data-testid=stApp] img[src*=evil], [data-testid=stApp] .katex, [data-testid=stApp] [src*=evil]").count() == 0
    page.get_by_text(re.compile("NUL character at place")).first.wait_for()  # the form is filled with it, and refuses it in a sentence
    expect(page.locator(".st-key-do-run button")).to_be_disabled()


def alone(lm: LM, runs_home: Path, method: str, **more: Any) -> StoredRun:
    """A run made here, by itself, and stored: its link fills the form of Run with it."""
    stop = threading.Event()
    asked = Request(TEXT, make(method, None if method == "kivi" else "0.3"), compare=True, **more)
    result = run(lm, asked, (lambda event: stop.set()) if more.get("max_new_tokens", 0) > 100 else (lambda event: None), stop)
    said = manifest(lm, asked, result)
    RunStore(runs_home / "runs").save(said, result.trace)
    return StoredRun(said, result.trace)


def fill(page: Any, server: str, made: StoredRun) -> None:
    """Fill the form as this run was."""
    page.goto(f"{server}/run?run={made.id}", wait_until="commit")
    page.locator("article").first.wait_for()
    settled(page)
    expect(page.locator(".st-key-do-run button")).to_be_enabled()


def begin(page: Any) -> None:
    page.locator(".st-key-do-run button").click()
    page.wait_for_function("location.search.includes('job=')")


def test_two_visitors_share_one_model_and_the_second_waits_for_the_first(
    browser: Any, server: str, runs_home: Path, lm: LM, endless: Path, scheme: str
) -> None:
    """Two contexts: the second is queued behind the first and starts once that is cancelled, by the keyboard; then two methods at once, results as alone."""
    store = RunStore(runs_home / "runs")
    slow = alone(load(str(endless), device="cpu"), runs_home, "snapkv", max_new_tokens=1000)
    made = [alone(lm, runs_home, method, max_new_tokens=12) for method in ("snapkv", "kivi")]
    with visit(browser, scheme) as one, visit(browser, scheme) as two:
        fill(two, server, made[0])
        fill(one, server, slow)
        begin(one)
        one.locator("article.running").wait_for()
        begin(two)
        two.locator("article.queued", has_text="before it").first.wait_for()
        expect(two.locator(".st-key-lanes-lane").locator("article.done, article.running")).to_have_count(0)
        assert tab_to(one, ".st-key-do-cancel button")
        one.keyboard.press("Enter")
        one.locator("article.stopped").first.wait_for()
        two.locator(".st-key-lanes-lane article.done >> nth=1").wait_for()
        settled(two)
        both = (one, made[0]), (two, made[1])
        for page, single in both:
            fill(page, server, single)
            store.delete(single.id)  # what is there afterwards was run anew
        for page, _ in both:
            begin(page)
        for page, single in both:
            page.wait_for_function("(run) => new URLSearchParams(location.search).get('run')?.includes(run)", arg=single.id)
            again = store.load(single.id)
            assert again.manifest["tokens"] == single.manifest["tokens"] and again.manifest["bytes"] == single.manifest["bytes"]
            assert all((getattr(again.trace, name) == getattr(single.trace, name)).all() for name in ("left_at", "resident", "top", "bits", "born"))


def test_points_open_their_run_by_keyboard_and_files_of_a_figure_stand_alone(
    page: Any, server: str, stored: dict[str, StoredRun], swept: str, tmp_path: Path, browser: Any
) -> None:
    page.goto(f"{server}/tradeoffs?sweep={swept}", wait_until="commit")
    shows(page, ".kv-pt-head")
    page.get_by_role("button", name="Export", exact=True).click()
    files = {}
    for words in ("Points, CSV", "All as JSON", "Report, one HTML page"):
        with page.expect_download() as got:
            page.get_by_role("button", name=words).click()
        got.value.save_as(tmp_path / words)
        files[words] = (tmp_path / words).read_text(encoding="utf-8")
    page.keyboard.press("Escape")
    table = pd.read_csv(io.StringIO(files["Points, CSV"]), comment="#")
    said = json.loads(files["All as JSON"])
    assert len(table) == len(said["tables"]["Points"]) > 5 and set(table["method"]) >= {"full", "snapkv"}
    assert said["command"].startswith("python -m kvlab sweep")
    report = files["Report, one HTML page"]
    assert not re.search(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)\s*=\s*['\"]?(?:https?:)?//", report)
    with visit(browser, "light") as apart:  # it fails on any request to elsewhere
        apart.set_content(report)
        apart.locator(".js-plotly-plot .main-svg").first.wait_for()
        apart.locator(".js-plotly-plot").first.hover()
        assert set(apart.get_by_role("button").all_inner_texts()) == {"PNG", "SVG"} and apart.locator(".modebar-btn").count() == 0, "none that shares"
    page.locator("summary", has_text="The same points as a list of links").press("Enter")
    link = page.locator(".kv-list a.kv-in").nth(1)
    link.wait_for()
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(f"/inside\\?run={stored['evict'].id}"))
    page.locator(".inside .tok").first.wait_for()


def test_a_sweep_starts_from_trade_offs_and_its_points_appear(page: Any, server: str, runs_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One job for each point: the count goes up to all of them, and the figure holds as many."""
    monkeypatch.setenv("KVLAB_HOME", str(runs_home))
    lines = [{"context": TEXT, "question": "Which code has the falcon?", "answers": ["2916"]}]
    task = own_tasks.keep("\n".join(map(json.dumps, lines)).encode(), "falcons.jsonl")
    page.goto(f"{server}/tradeoffs?tasks={task}", wait_until="commit")
    page.get_by_text(re.compile("5 runs in 5 points")).wait_for()  # the full cache, and two methods under two budgets each
    settled(page)
    page.get_by_role("button", name="Start the sweep").click()
    page.wait_for_url(re.compile("job="))
    page.get_by_text(re.compile("5 of 5 points measured")).wait_for()
    page.locator(".kv-from", has_text="1 sample for each point").wait_for()
    settled(page)
    points = pd.read_csv(next(path for path in (runs_home / "sweeps").glob("*/points.csv") if "falcons" in path.read_text()))
    assert len(points) == 5 and set(points["method"]) == {"full", "snapkv", "streamingllm"} and (points["n"] == 1).all()
    page.get_by_text("The same points as a list of links").click()
    expect(page.locator(".kv-list li")).to_have_count(5)


def test_reproduce_in_the_library_fills_the_form_and_the_bundled_model_writes_the_same_again(page: Any, server: str, runs_home: Path) -> None:
    """A shipped run of the bundled model, the one that the browser tests run for real."""
    store = RunStore(runs_home / "runs")
    first = min((m for m in store.ships() if m["method"] == "snapkv"), key=lambda m: m["prompt_tokens"])
    page.goto(f"{server}/library?lib_find={first['id']}", wait_until="commit")
    shows(page, ".library .run")
    page.get_by_role("link", name=re.compile("^Reproduce: ")).click()
    page.wait_for_url(re.compile(f"/run\\?run={first['id']}"))
    expect(page.get_by_role("textbox", name="Question")).to_have_value(first["request"]["question"])
    pressed = page.locator("[data-testid=stButtonGroup] button[aria-pressed=true]")
    expect(pressed.filter(has_text=first["title"])).to_have_count(1)
    settled(page)
    page.locator(".st-key-do-run button").click()
    page.wait_for_function("location.search.includes('job=')")
    page.locator("article.done >> nth=1").wait_for()
    page.wait_for_function("(run) => new URLSearchParams(location.search).get('run')?.includes(run)", arg=first["id"])
    again = store.load(first["id"])
    assert (store.folder / first["id"]).exists() and again.manifest["text"] == first["text"] and again.manifest["bytes"] == first["bytes"]
    store.delete(first["id"])
