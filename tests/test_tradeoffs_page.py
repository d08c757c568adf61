"""The Trade-offs page without a browser: what it reads, what it says when it cannot, what a link restores, what files say, whose mark is whose."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import fake_sweep as fake
import pandas as pd
import pytest
from alone import html as said
from alone import link, page_alone
from fake_runs import fake as run_of
from streamlit.testing.v1 import AppTest

from kvlab import plots
from kvlab.claims import LISTED
from kvlab.plots.looks import SYMBOL
from kvlab.registry import registry
from kvlab.runs import RunStore
from kvlab.schema import check_run
from kvlab.ui import choice, imported, marks, point_card, provenance, report, sweeps
from kvlab.ui.byte_stack import byte_stack
from kvlab.ui.finding import finding
from kvlab.ui.inside import wanted
from kvlab.ui.mini_map import mini_map
from kvlab.ui.palette import AXIS_TOKEN

HOSTILE = "![x](http://evil.test/a.png) <script>alert(1)</script><img src=x onerror=alert(1)> $x$ :material/home:"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No sweep is shipped, and the own ones are in a folder of the test."""
    monkeypatch.setattr(sweeps, "DATA", tmp_path / "data")
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "sweeps"


opened = functools.partial(page_alone, "tradeoffs.py")


def figures(at: AppTest) -> list[dict]:
    return [json.loads(part.proto.spec) for part in at.get("plotly_chart")]


def runs_drawn(figure: dict) -> int:
    return sum(len(trace["customdata"]) for trace in figure["data"] if trace.get("customdata"))


def table_of(data: pd.DataFrame) -> bytes:
    return data.to_csv(index=False).encode()


def test_without_a_sweep_the_page_says_what_to_do(home: Path) -> None:
    at = opened()
    assert "No sweep is stored yet" in said(at) and any("python -m kvlab sweep" in code.value for code in at.code)
    assert not at.get("plotly_chart")


def test_a_stored_sweep_is_drawn_with_its_sentences_tables_and_source(home: Path) -> None:
    fake.write(home / "made")
    at = opened()
    points, _ = fake.sweep()
    first = points[(points["task"] == "niah") & (points["length"] == 256)]
    assert runs_drawn(figures(at)[0]) == len(first) and len(at.dataframe[0].value) == len(first)
    assert len(figures(at)) == 3, "the main figure, task by task, and the needles; the claims stay folded"
    assert "20 samples for each point · seed 0 · bundled abc123 · cpu, float32 · kvlab 0.1.0, torch 2.0" in said(at)
    assert "python -m kvlab sweep --methods full,snapkv --tasks niah --samples 20" in said(at)
    assert "is not stored here" in said(at) and "inside?run=" not in said(at)
    assert {name: link(at)[name] for name in ("sweep", "task", "length")} == {"sweep": "made", "task": "niah", "length": "256"}


def test_a_link_restores_the_view_and_choices_change_the_link(home: Path) -> None:
    fake.write(home / "made")
    at = opened(sweep="made", task="recall", length="512", x="share", front="0", methods="snapkv kivi", scheme="dark")
    assert (at.selectbox(key="trade-task").value, at.selectbox(key="trade-length").value) == ("recall", 512)
    assert at.segmented_control(key="trade-x").value == "share" and not at.toggle(key="trade-front").value
    figure = figures(at)[0]
    assert {custom[1] for trace in figure["data"] for custom in trace.get("customdata", [])} == {"full", "snapkv", "kivi"}
    assert not any(trace.get("meta") == "front" for trace in figure["data"]) and figure["layout"]["paper_bgcolor"] == "#16191C"
    at.selectbox(key="trade-task").set_value("ppl").run()
    assert not at.exception and link(at)["task"] == "ppl" and link(at)["mode"] == "prefix"
    assert link(at)["methods"] == "snapkv kivi" and "Perplexity" in str(figures(at)[0])


def test_a_link_to_nothing_shows_what_there_is(home: Path) -> None:
    fake.write(home / "made")
    at = opened(sweep="../../etc", task="<b>", length="many", x="seconds", point="zz", methods="nobody")
    assert link(at)["sweep"] == "made" and link(at)["x"] == "resident" and "point" not in link(at)


def test_a_point_with_a_stored_run_links_to_it(home: Path) -> None:
    from fake_runs import fake as run_of

    from kvlab.runs import RunStore

    run = run_of("evict")
    RunStore().save(run.manifest, run.trace)
    points, samples = fake.sweep()
    points.loc[points.index[5], "run"] = run.id
    fake.write(home / "made", points, samples)
    swept = sweeps.stored("made")
    point = swept.points["point"].iloc[5]
    at = opened(sweep="made", point=point)
    assert f'<a class="kv-go" target="_self" href="inside?run={run.id}">Look inside this run</a>' in said(at)
    assert at.dataframe[0].value["Open"].dropna().tolist() == [f"inside?run={run.id}"]
    assert any(trace.get("meta") == "ring" for trace in figures(at)[0]["data"])


def test_pairs_are_counted_question_by_question(home: Path) -> None:
    points, samples = fake.sweep(("niah",), (256,))
    swept = sweeps.stored(fake.write(home / "made", points, samples).name)
    row = swept.points[(swept.points["method"] == "kivi")].iloc[1]
    mine = swept.samples[(swept.samples["method"] == "kivi") & (swept.samples["setting"] == row["knobs"])]
    full = swept.samples[swept.samples["method"] == "full"]
    both = sum(a and b for a, b in zip(mine["score"], full["score"], strict=True))
    found = point_card.paired(swept.samples, row)
    assert found.count("both") == both and len(found) == fake.SAMPLES
    assert point_card.paired(swept.samples, swept.points[swept.points["method"] == "full"].iloc[0]) is None
    assert point_card.paired(swept.samples.assign(score=0.5), row) is None


def test_settings_are_words() -> None:
    assert sweeps.setting_words("snapkv", "0.25", '{"window": 16}') == "25 % kept"
    assert sweeps.setting_words("snapkv", "64t", '{"window": 16}', ["window"]) == "64 tokens kept, window 16"
    assert sweeps.setting_words("kivi", None, '{"bits": 4, "group": 32}') == "bits 4, group 32"
    assert sweeps.setting_words("full", None, "{}") == "every entry" and sweeps.setting_words("theirs", None, "as in table 2") == "as in table 2"


def spoilt() -> list[tuple[object, str]]:
    good = fake.sweep(("niah",), (256,))[0]
    cell = lambda column, value: table_of(good.astype({column: object}).assign(**{column: [value, *good[column][1:]]}))  # noqa: E731
    return [
        (b"\xff\xfe", "not UTF-8"), (b"", "no table"), (b"a,b\n1,2\n", "lacks the columns model, method"),
        (table_of(good.drop(columns="full")), "lacks the column full"),
        (table_of(good.head(0)), "no rows"), (cell("mean", "high"), "Line 2: mean is a number, not 'high'"), (cell("mean", ""), "Line 2: mean is empty"),
        (cell("mean", "inf"), "Line 2: mean is a number"), (cell("better", "more"), "higher or lower"),
        (cell("interval", "sd"), "wilson or bootstrap or single"),
        (cell("low", "2"), "does not lie between"), (cell("n", "0"), "whole number from 1"), (cell("resident", "-1"), "bytes above 0"),
        (cell("length", "1.5"), "whole number of tokens"), (cell("task", "t" * 400), "more than 300 letters"), (b"a\x00b", "NUL"),
    ]  # fmt: skip


def test_every_mistake_of_a_file_gets_one_sentence() -> None:
    for data, says in spoilt():
        with pytest.raises(ValueError, match=says) as found:
            imported.read_import(data, "points.csv")
        assert str(found.value).endswith(".") and "\n" not in str(found.value)
    with pytest.raises(ValueError, match=r"Only .csv"):
        imported.read_import(b"", "points.xlsx")


def test_an_import_is_marked_and_joins_no_front(home: Path) -> None:
    points, _ = fake.sweep(("niah",), (256,))
    theirs = imported.read_import(table_of(points.assign(mean=0.99, high=1.0, source="measured")), "theirs.csv")
    assert set(theirs.points["source"]) == {"imported"} and theirs.points["point"].is_unique
    swept = sweeps.stored(fake.write(home / "made").name)
    both = sweeps.beside(swept, [theirs])
    assert len(both.points) == len(swept.points) + len(points) - 1, "their full cache stays out"
    panel = both.points[(both.points["task"] == "niah") & (both.points["length"] == 256)]
    figure = plots.quality(panel)
    stairs = next(trace for trace in figure.data if trace.meta == "front")
    assert max(stairs.y) <= swept.points["mean"].max() and provenance.about(both.raw)["source"].endswith("marked")
    twice = imported.read_import(table_of(pd.concat([points, points])), "twice.csv")
    assert twice.points["point"].is_unique
    short = imported.read_import(table_of(points[list(imported.NEEDED)]), "short.csv")
    assert short.points["title"].tolist() == points["title"].tolist() and short.points["axis"].tolist() == points["axis"].tolist()


def test_an_uploaded_file_is_shown_as_imported_and_its_words_stay_text(home: Path) -> None:
    points, _ = fake.sweep(("niah",), (256,))
    evil = points.assign(task=HOSTILE, title=HOSTILE, model=HOSTILE, mode=HOSTILE, setting=HOSTILE, run="../../etc/passwd")
    at = opened()
    at.file_uploader(key="trade-file").upload("theirs.csv", table_of(evil), "text/csv").run()
    assert not at.exception and "Nothing here was measured by this kvlab" in said(at)
    assert "<script" not in said(at) and "<img" not in said(at) and "&lt;script&gt;" in said(at)
    assert not any("evil" in part.value for part in (*at.markdown, *at.caption)), "never through Markdown"
    assert "inside?run=" not in said(at)
    at.file_uploader(key="trade-file").upload("bad.csv", b"a,b\n1,2\n", "text/csv").run()
    assert not at.exception and "The file lacks the columns" in said(at)


def test_an_axis_that_was_not_recorded_is_a_sentence(home: Path) -> None:
    points, samples = fake.sweep(("niah",), (256,))
    fake.write(home / "made", points.assign(peak=0), samples)
    at = opened(x="peak")
    assert "is not known for every point" in said(at) and at.segmented_control(key="trade-x").value == "peak"
    at.segmented_control(key="trade-x").set_value("share").run()
    assert not at.exception and figures(at)


def test_a_broken_sweep_is_a_sentence(home: Path) -> None:
    fake.write(home / "made").joinpath("points.csv").write_text("model,method\n1,2\n")
    assert "lacks" in said(opened())


def test_exports_say_versions_seed_and_command(home: Path) -> None:
    swept = sweeps.stored(fake.write(home / "made").name)
    points = swept.points[(swept.points["task"] == "niah") & (swept.points["length"] == 256)]
    raw = swept.raw.loc[points.index]
    about = provenance.about(raw)
    again = imported.read_import(table_of(raw), "again.csv").points
    assert again["mean"].tolist() == points["mean"].tolist() and {"versions", "seeds", "command"} <= set(again)
    at = opened(sweep="made")
    assert [button.label for button in at.get("download_button")][:3] == ["Points, CSV", "All as JSON", "Report, one HTML page"]
    made = report.csv_text(raw, report.about("A title", {"seed": about["seeds"]}, provenance.runnable(fake.COMMAND)))
    assert "--methods full,snapkv" in made and imported.read_import(made.encode(), "again.csv").points["mean"].tolist() == points["mean"].tolist()
    signed = provenance.signed(plots.quality(points), about, "light").to_json()
    assert "kvlab 0.1.0" in signed and "--methods full,snapkv" in signed and "seed 0" in signed
    assert provenance.runnable("made by hand") == "made by hand"


def test_where_there_are_many_methods_those_that_lead_are_drawn(home: Path) -> None:
    points, _ = fake.sweep(("niah",), (256,))
    more = pd.concat([points, *(points[points["method"] == "random"].assign(method=f"m{i}", title=f"M{i}") for i in range(20))], ignore_index=True)
    _, table = sweeps.tables(more)
    led = choice.leading(table, 6)
    best = set(plots.pareto(table[table["axis"] != "reference"])["method"])
    assert len(led) == 7 and "full" in led and (best <= set(led) or len(best) > 6)


def test_a_method_keeps_its_mark_whoever_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: marks.marker(name) for name in registry()}
    fewer = {name: kind for i, (name, kind) in enumerate(registry().items()) if i % 3}
    monkeypatch.setattr(marks, "registry", lambda: fewer)
    assert all(marks.marker(name) == before[name] for name in fewer)
    assert set(SYMBOL) == {*marks.SHAPES, *marks.MORE} and not set(marks.SHAPES) & set(marks.MORE)
    assert set(marks.KNOWN) <= {*registry(), *LISTED} and set(marks.KNOWN.values()) <= set(marks.SHAPES)
    hues: dict[str, list[str]] = {}
    for name in set(marks.KNOWN) & set(registry()):
        hues.setdefault(AXIS_TOKEN[registry()[name].axis], []).append(marks.shape(name))
    assert all(len(set(shapes)) == len(shapes) for shapes in hues.values())
    assert all(marks.shape(name) in marks.MORE for name in registry() if name not in marks.KNOWN)


def test_the_bytes_of_a_run_are_stacked_in_the_width_of_the_full_cache() -> None:
    drawn = byte_stack({"codes": 300, "scales": 100, "window": 98, "positions": 2}, 1000)
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", drawn)]
    assert widths == [30.0, 10.0, 9.8, 0.2] and "positions 2 B" in re.search('aria-label="([^"]+)"', drawn)[1], "spoken in full"
    assert "positions" not in drawn.rsplit("kv-stack-keys", 1)[1], "too small to be named"


def test_the_panel_shows_what_one_of_its_runs_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVLAB_HOME", str(tmp_path))
    run = run_of("evict")
    drawn = mini_map(run, 0)
    lost = int(wanted(run.trace, 0).sum())
    assert drawn.count("<i ") == lost > 0 and "% of entries held" in drawn
    points, samples = fake.sweep(("niah",), (256,))
    said = sweeps.tables(points.assign(run=run.id))[1]
    row = said[said["method"] == "snapkv"].iloc[0]
    assert "kv-mini" not in point_card.card(row, said, samples), "the run is not stored here"
    RunStore().save(run.manifest, run.trace)
    panel = point_card.card(row, said, samples)
    assert mini_map(run, finding(run).view.step) in panel and f"compare?cmp={run.id},{run.id}" in panel


def test_the_method_of_the_chosen_point_is_drawn_even_where_it_does_not_lead() -> None:
    points = sweeps.tables(fake.sweep(("niah",), (256,))[0])[1]
    leads = choice.shown_methods(points, choice.Choice("made", "bundled", "niah", 256, "requests"), most=1)
    last = next(row for row in points.itertuples() if row.method not in leads)
    asked = choice.Choice("made", "bundled", "niah", 256, "requests", point=last.point)
    assert {*leads, last.method} == set(choice.shown_methods(points, asked, most=1))


def test_parts_from_elsewhere_are_numbers_or_refused() -> None:
    run = run_of("evict")
    check_run({**run.manifest, "parts": {"codes": 3}}, run.trace)
    with pytest.raises(ValueError, match="parts"):
        check_run({**run.manifest, "parts": {"codes": "<img src=x>"}}, run.trace)
