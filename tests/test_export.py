"""Files to take away: they parse back to what was on the page, say what made them, fetch nothing, and show strangers' text as text."""

from __future__ import annotations

import io
import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from fake_runs import fake
from streamlit.testing.v1 import AppTest

from kvlab import bundle, cli
from kvlab.engine import Request
from kvlab.registry import make
from kvlab.runs import RunStore, StoredRun
from kvlab.ui import export, report, report_html
from kvlab.ui.palette import plotly_template

HOSTILE = '</script><script>alert(1)</script><img src="http://evil.test/a.png" onerror=alert(1)> ![x](http://evil.test/b.png) # "quoted", \'n\' = \\ \u202e'
TABLE = pd.DataFrame({"method": ["snapkv", HOSTILE, "two\nlines"], "kept": [0.1 + 0.2, 1 / 3, np.nan], "n": [1, 2, 3], "sure": [True, False, True]})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRun:
    """A stored run whose prompt and answer are hostile."""
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    made = fake("evict")
    asked = {**vars(Request(HOSTILE, make("full"), HOSTILE, seed=7, compare=True))} | {"method": None}
    asked.pop("method")
    run = StoredRun({**made.manifest, "method": "snapkv", "knobs": {"budget": "0.5", "window": 16}, "text": HOSTILE, "request": asked}, made.trace)
    RunStore().save(run.manifest, run.trace)
    return run


class Tags(HTMLParser):
    """The tags of a page, and its text outside of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text, self.inside = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.inside in ("script", "style") else data

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""


def test_a_csv_parses_back_to_the_same_table_and_says_what_made_it() -> None:
    said = report.about(HOSTILE + "\n", {"seed": 3, "budget": HOSTILE}, "python -m kvlab sweep")
    text = report.csv_text(TABLE, said)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text), comment="#"), TABLE)
    assert json.loads(text.splitlines()[1][2:]) == said and said["seed"] == 3 and said["command"] == "python -m kvlab sweep"
    assert '"\'=1+1"' in report.csv_text(pd.DataFrame({"text": ["=1+1"]}), said), "a spreadsheet computes nothing"
    grouped = TABLE.set_index("method")[["n"]]
    assert list(pd.read_csv(io.StringIO(report.csv_text(grouped, said)), comment="#").columns) == ["method", "n"], "a named index is data too"


def test_json_parses_and_holds_tables_settings_versions_and_command(run: StoredRun) -> None:
    said = report.about("Title", {"budget": np.float32(0.5), "of": {"x": np.inf}}, runs=[run.manifest])
    told = json.loads(report.json_text(said, {"Points": TABLE}), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["tables"]["Points"] == [{**row, "kept": None if row["kept"] != row["kept"] else row["kept"]} for row in TABLE.to_dict("records")]
    assert told["settings"] == {"budget": 0.5, "of": {"x": None}} and told["seed"] == 7
    assert {"kvlab", "torch", "transformers", "python", "streamlit", "plotly"} == set(told["versions"])
    assert told["runs"][0]["request"]["prompt"] == HOSTILE and told["command"] == told["runs"][0]["command"]


def test_the_command_asks_for_the_same_run(run: StoredRun) -> None:
    """The shell splits it, the command line reads it."""
    command = report.command_of({**run.manifest, "model": "bundled"})
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    args = cli.parser().parse_args(split[3:])
    assert (args.method, args.budget, args.set, args.seed, args.question) == ("snapkv", "0.5", ["window=16"], 7, HOSTILE)
    assert args.prompt_file.name == f"{run.id}.txt" and args.keep and "dashboard" not in command
    odd = {**run.manifest, "request": {**run.manifest["request"], "stop_at_end": False}}
    assert command_note(odd) == "and with stop_at_end=false, in the dashboard", "what the command line has no option for is said"


def command_note(manifest: dict) -> str:
    return report.command_of(manifest).rsplit("  # ", 1)[1]


def test_the_report_fetches_nothing_and_shows_text_as_text(run: StoredRun) -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], text=[HOSTILE, ""]), {"title": HOSTILE, "meta": {"alt": HOSTILE}})
    said = report.about(HOSTILE, {"prompt": HOSTILE, HOSTILE: [HOSTILE]}, HOSTILE, [run.manifest])
    page = report.html_text(said, {HOSTILE: TABLE.rename(columns={"n": HOSTILE})}, {"First": figure, HOSTILE: figure})
    tags = Tags(page)
    assert not {tag for tag, _ in tags.found} & {"img", "link", "iframe", "object", "embed", "a", "form", "base", "svg", "video", "audio", "source"}
    assert not [attrs for _, attrs in tags.found if {"src", "href", "srcset", "data", "action", "onerror", "onclick"} & attrs.keys()]
    assert "default-src 'none'" in page and page.count("Plotly.newPlot(") == 2 and page.count("plotly.js v") == 1, "Plotly is inside, once"
    assert HOSTILE.replace("\u202e", "") in tags.text.replace("\u202e", "") and "alert(1)" not in "".join(page.split("plotly.js v")[0].split("<script")[1:])
    assert all(version in tags.text for version in said["versions"].values()) and '"showSendToCloud": false' in page


def test_a_long_table_is_cut_and_says_so() -> None:
    page = report.html_text(report.about("T"), {"Rows": pd.DataFrame({"n": range(report_html.MOST + 1)})})
    assert f"The first {report_html.MOST} of {report_html.MOST + 1} rows" in page and page.count("<tr>") == report_html.MOST + 1
    assert "<script" not in page, "no figure, no script"


def test_a_figure_stands_on_the_ground_its_letters_were_made_for() -> None:
    for theme in ("light", "dark"):
        figure = go.Figure(layout={"template": plotly_template(theme)})
        assert report_html.scheme(figure) == theme and f'style="color-scheme:{theme}"' in report.html_text(report.about("T"), figures={"One": figure})
    assert report_html.scheme(go.Figure()) == "light"


def test_a_bundle_imports_equal(run: StoredRun, tmp_path: Path) -> None:
    (path := tmp_path / "runs.zip").write_bytes(report.bundle_bytes(RunStore(), [run.id, run.id]))
    other = RunStore(tmp_path / "other")
    assert bundle.load(other, path) == [run.id]
    again = other.load(run.id)
    assert again.manifest == RunStore().load(run.id).manifest and again.trace.equal(run.trace)
    with pytest.raises(ValueError, match="not stored here"):
        report.bundle_bytes(RunStore(), ["0" * 16])


def page_with_exports(run: str) -> None:
    import pandas as pd

    from kvlab.ui.export import export_row

    def costly() -> pd.DataFrame:
        raise AssertionError("drawing the page made a file")

    export_row("a", "Some title", tables={"Points": costly, "Rows": pd.DataFrame({"n": [1]})}, figures={"F": costly}, runs=[run, "0" * 16])
    export_row("b", "Another", runs=["0" * 16])


def test_drawing_the_buttons_makes_no_file(run: StoredRun) -> None:
    at = AppTest.from_function(page_with_exports, args=(run.id,)).run()
    assert not at.exception
    assert [button.label for button in at.get("download_button")] == [
        "Points, CSV", "Rows, CSV", "All as JSON", "Report, one HTML page", "The runs, bundle to import", "All as JSON", "Report, one HTML page"]  # fmt: skip


def test_figures_of_pages_have_no_logo_and_send_nothing_away() -> None:
    assert export.CHART["modeBarButtons"] == [["toImage"]] and not export.CHART["displaylogo"] and not export.CHART["showSendToCloud"]
