"""Figures from tables: the front against a plain reference, what every mark stands for, alt sentences and table twins, and one look in a browser."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import fake_points as fake
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from kvlab import plots
from kvlab.claims import load
from kvlab.plots.labels import Box, place
from kvlab.plots.looks import linear_ticks, log_ticks, look, percent, size
from kvlab.plots.points import comparable
from kvlab.ui.palette import axis_colour, colour

TASKS = ("niah", "recall", "ppl")


def traces(figure: go.Figure, meta: str) -> list[Any]:
    return [trace for trace in figure.data if trace.meta == meta]


def plain_front(table: pd.DataFrame) -> set[int]:
    """The definition, pair by pair."""
    kept, rows = set(), table.to_dict("index")
    for i, a in rows.items():
        beaten = False
        for j, b in rows.items():
            if i == j or any(a[same] != b[same] for same in ("model", "task", "length", "mode")):
                continue
            gain_a, gain_b = (a["mean"], b["mean"]) if a["better"] == "higher" else (-a["mean"], -b["mean"])
            beaten |= b["resident"] <= a["resident"] and gain_b >= gain_a and (b["resident"] < a["resident"] or gain_b > gain_a)
        if not beaten:
            kept.add(i)
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_the_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [fake.row("snapkv", "SnapKV", "eviction", 0.5, task, 20, mean=float(rng.integers(0, 6)) / 5, resident=float(rng.integers(1, 7)), run=f"{i}",
                     better="lower" if task == "ppl" else "higher") for i, task in enumerate(rng.choice(["niah", "ppl"], 24))]  # fmt: skip
    table = pd.DataFrame(rows, index=rng.permutation(24))
    assert set(plots.pareto(table).index) == plain_front(table)


def test_the_front_of_one_row_and_of_none() -> None:
    table = fake.points()
    assert len(plots.pareto(table.head(1))) == 1 and plots.pareto(table.head(0)).empty


@pytest.mark.parametrize("scheme, x", [("light", "resident"), ("dark", "peak"), ("light", "read_per_step"), ("dark", "share")])
def test_every_point_is_drawn_once_and_opens_its_run(scheme: str, x: str) -> None:
    table = fake.odd(fake.points())
    figure = plots.quality(table, scheme, x)
    runs = [custom[0] for trace in traces(figure, "points") + traces(figure, "imported") for custom in trace.customdata]
    assert sorted(runs) == sorted(table["run"])
    drawn = [trace for trace in figure.data if trace.customdata is not None]
    shown = {custom[0]: (float(a), float(b)) for trace in drawn for custom, a, b in zip(trace.customdata, trace.x, trace.y, strict=True)}
    for _, row in table.iterrows():
        expected = 100 * row["resident"] / row["full"] if x == "share" else row[x]
        assert shown[row["run"]] == pytest.approx((expected, row["mean"]))


def test_marks_say_who_is_single_imported_and_on_the_front() -> None:
    table = fake.odd(fake.points())
    figure = plots.quality(table)
    best = set(plots.pareto(table[comparable(table)])["run"])
    assert best and not any("imported" in run for run in best)
    for trace in traces(figure, "points"):
        for custom, fill, edge, wide in zip(trace.customdata, trace.marker.color, trace.marker.line.width, trace.marker.size, strict=True):
            row = table[table["run"] == custom[0]].iloc[0]
            assert (fill == colour("panel", "light")) == (row["n"] == 1 or row["axis"] == "reference")
            assert edge > 0 if row["n"] == 1 or "+" in row["method"] or row["axis"] == "reference" else edge == 0
            assert (wide > 10) == (custom[0] in best)
    imported = traces(figure, "imported")[0]
    assert "imported" in imported.name and all("imported, not measured here" in text for text in imported.text)
    assert not any("imported" in str(trace.name) for trace in traces(figure, "line"))
    said = " ".join(a.text for a in figure.layout.annotations)
    assert "H2O (imported)" in said and "one&nbsp;prompt:&nbsp;not&nbsp;a&nbsp;rate" in said


def test_noise_is_shown_as_it_was_measured() -> None:
    table = fake.points()
    table.loc[table["run"] == "lagkv-0.125-niah", ["mean", "low", "high"]] = (0.95, 0.85, 0.99)
    line = next(trace for trace in traces(plots.quality(table), "line") if trace.name == "LagKV")
    own = table[table["method"] == "lagkv"].sort_values("resident")
    assert list(line.y) == own["mean"].tolist() and line.line.shape is None and not own["mean"].is_monotonic_increasing


@pytest.mark.parametrize("figure", [plots.quality, plots.tasks])
def test_a_line_joins_the_budgets_of_one_setting(figure: Callable) -> None:
    def lines(table: pd.DataFrame) -> int:
        return sum(len(trace.x) > 1 for trace in traces(figure(table), "line"))

    table = fake.points().assign(knobs="{}")
    level = table[table["method"] == "lagkv"].assign(knobs='{"lag": 64}', mean=lambda own: own["mean"] + 0.01)
    assert lines(pd.concat([table, level], ignore_index=True)) == lines(table) + 1
    # bits are a knob and no budget: a line goes through them, and another where something else is set otherwise
    bits = table[table["method"].isin(["full", "kivi"])].assign(budget=None, knobs=["{}", '{"bits": 4, "group": 32}', '{"bits": 2, "group": 32}'])
    other = bits[1:].assign(knobs=['{"bits": 4, "group": 64}', '{"bits": 2, "group": 64}'], mean=lambda own: own["mean"] - 0.02)
    words = bits[1:].assign(knobs=['{"bits": 3, "kind": "a"}', '{"bits": 3, "kind": "b"}'])
    assert [lines(each) for each in (bits, pd.concat([bits, other], ignore_index=True), pd.concat([bits[:1], words]))] == [1, 2, 0]


def test_the_sentence_tells_the_ends_of_the_front_in_the_bytes_that_are_drawn() -> None:
    table = fake.points()
    front = plots.pareto(table.assign(resident=table["read_per_step"]))
    said = plots.alt(table, "read_per_step")
    assert f"{size(front['read_per_step'].iloc[0])} and" in said and f" to {front['title'].iloc[-1]} at {size(front['read_per_step'].iloc[-1])} and" in said
    assert re.search(r"from .* at \d+ % of the bytes and .* to ", plots.alt(table, "share"))
    one = plots.alt(table[table["method"] == "full"].head(1))
    assert f"1 on the stepped front, Full cache at {size(fake.FULL)} and" in one and " to " not in one.split("front")[1]


def test_the_front_is_a_staircase_and_may_be_left_out() -> None:
    table = fake.points()
    stairs = traces(plots.quality(table), "front")[0]
    assert stairs.line.shape == "hv"
    assert list(stairs.x[1:-1]) == plots.pareto(table)["resident"].tolist()
    figure = plots.quality(table, front=False)
    assert not traces(figure, "front") and all(wide == 10 for trace in traces(figure, "points") for wide in trace.marker.size)


def test_perplexity_gets_a_log_axis_and_its_front_goes_down() -> None:
    figure = plots.quality(fake.points(("ppl",)))
    assert figure.layout.yaxis.type == "log" and plots.quality(fake.points()).layout.yaxis.type == "linear"
    heights = list(traces(figure, "front")[0].y)
    assert heights == sorted(heights, reverse=True)
    assert any("lower is better" in a.text for a in figure.layout.annotations)


def test_the_title_never_claims_more_than_the_intervals() -> None:
    table = fake.points()
    assert "no loss that 56 prompts can show" in plots.quality(table).layout.title.text
    poor = table.assign(mean=table["mean"].where(table["axis"] == "reference", 0.1), high=table["high"].where(table["axis"] == "reference", 0.2),
                        low=table["low"].where(table["axis"] == "reference", 0.05))  # fmt: skip
    assert plots.quality(poor).layout.title.text == "No setting below the full cache keeps its score within the interval"
    assert plots.quality(table[table["axis"] != "reference"]).layout.title.text == "Score against measured bytes"
    assert "no loss" not in plots.quality(fake.odd(poor)).layout.title.text


def test_the_selected_point_gets_its_ring_and_pills() -> None:
    figure = plots.quality(fake.points(), chosen="kivi-0.25-niah")
    ring, row = traces(figure, "ring")[0], fake.points().set_index("run").loc["kivi-0.25-niah"]
    assert (ring.x[0], ring.y[0]) == (row["resident"], row["mean"])
    assert {size(row["resident"]), percent(row["mean"])} <= {a.text for a in figure.layout.annotations}
    assert not traces(plots.quality(fake.points(), chosen="no such run"), "ring")


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda t: t.drop(columns="run"), "lacks run"), (lambda t: t.assign(better="more"), "Column better"),
        (lambda t: t.assign(mean=np.nan), "no points to draw"), (lambda t: t.assign(full=0), "above 0"),
        (lambda t: pd.concat([t, fake.points(("recall",))]), "one task at a time"), (lambda t: t.assign(source="seen"), "source"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_gets_a_sentence(spoil: Callable[[pd.DataFrame], pd.DataFrame], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        plots.quality(spoil(fake.points()))


def test_an_unknown_axis_gets_a_sentence() -> None:
    with pytest.raises(ValueError, match="x is one of"):
        plots.quality(fake.points(), x="seconds")
    with pytest.raises(ValueError, match="not known for every point"):
        plots.quality(fake.points().assign(peak=0), x="peak")


def test_text_from_tables_is_never_markup() -> None:
    evil = "<b onclick=x>Bad</b><a href='http://out'>out</a>"
    table = fake.points().assign(title=evil, setting=evil, run=evil, task=evil, model=evil, mode=evil)
    needles = fake.samples().assign(title=evil)
    for figure in (plots.quality(table), plots.tasks(table), plots.needles(needles), plots.parts(fake.bytes_by_part().assign(title=evil)),
                   plots.steps(fake.curves().assign(title=evil)), plots.claims(load(), table)):  # fmt: skip
        shown = figure.to_plotly_json()
        shown["layout"] = {k: v for k, v in shown["layout"].items() if k != "meta"}
        for trace in shown["data"]:
            trace.pop("customdata", None) if trace.get("hoverinfo") == "text" else None
            trace.pop("name", None) if not trace.get("showlegend") else None
        assert "<a href" not in str(shown) and "<b onclick" not in str(shown)


def test_one_look_per_method_and_scheme() -> None:
    for scheme in ("light", "dark"):
        assert look("snapkv", "eviction", scheme).fill == axis_colour("eviction", scheme)
        both = look("snapkv+kivi", "eviction", scheme)
        assert (both.fill, both.edge, both.composed) == (axis_colour("eviction", scheme), axis_colour("quantization", scheme), True)
        theirs = look("theirs", "merging", scheme)
        assert theirs == look("theirs", "merging", scheme) and theirs.fill == axis_colour("merging", scheme)


def test_tasks_have_a_panel_each_on_one_axis_of_bytes() -> None:
    table = fake.points(TASKS)
    figure = plots.tasks(table)
    axes = [figure.layout[name] for name in figure.layout.to_plotly_json() if name.startswith("xaxis")]
    assert len(axes) == 3 and len({tuple(axis.range) for axis in axes}) == 1
    assert sum(len(trace.x) for trace in traces(figure, "points")) == (table["axis"] != "reference").sum()
    assert len(traces(figure, "reference")) == 3
    assert len(traces(figure, "key")) == table.loc[table["axis"] != "reference", "method"].nunique()
    assert not any("polar" in name or "radar" in name for name in figure.layout.to_plotly_json())


def test_needle_maps_share_one_scale_and_show_their_numbers() -> None:
    samples = fake.samples()
    figure = plots.needles(samples)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert maps[0].name == "Full cache" and len(maps) == 5 and {trace.coloraxis for trace in maps} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    one = samples[(samples["method"] == "snapkv") & (samples["length"] == 2048) & (samples["depth"] == 0.4)]
    snap = next(trace for trace in maps if trace.name.startswith("SnapKV"))
    assert snap.z[2][3] == pytest.approx(one["score"].mean()) and snap.text[2][3] == f"{100 * one['score'].mean():.0f}" and snap.texttemplate
    lag = next(trace for trace in maps if trace.name.startswith("LagKV"))
    assert np.isnan(lag.z[5][4]) and lag.text[5][4] == ""
    assert [(trace.x, trace.y) for trace in traces(figure, "gap")] == [(("4,096",), ("100 %",))]
    assert plots.needles(samples, width=300).data[0].texttemplate is None
    swept = samples.assign(budget=samples["budget"].map({1.0: None, 0.25: "0.25"}))  # as sweeps write it: text, and none where there is no budget
    swept = pd.concat([swept, swept.head(1).assign(task="vt", depth=None)], ignore_index=True)
    assert [trace.name for trace in plots.needles(swept).data if trace.type == "heatmap"] == [trace.name for trace in maps]


def test_a_point_without_a_stored_run_opens_nothing() -> None:
    figure = plots.quality(fake.points().assign(run=None))
    assert {custom[0] for trace in traces(figure, "points") for custom in trace.customdata} == {""}
    assert not any("run None" in text for trace in traces(figure, "points") for text in trace.text)


def test_bytes_by_part_add_up() -> None:
    table = fake.bytes_by_part()
    figure = plots.parts(table)
    assert sum(sum(trace.x) for trace in figure.data if trace.type == "bar") == table["bytes"].sum()
    assert len([shape for shape in figure.layout.shapes if shape.name == "full cache"]) == table["title"].nunique()
    twin = plots.parts_table(table)
    assert twin["held"].sum() == table["bytes"].sum() and (twin["full"] == fake.FULL).all()
    with pytest.raises(ValueError, match="no part 'glue'"):
        plots.parts(table.assign(part="glue"))


def test_first_differences_are_marked_where_they_are() -> None:
    curves = fake.curves()
    found = plots.first_differences(curves)
    assert found.to_dict() == {("lagkv", 0): 21, ("snapkv", 0): 9, ("streamingllm", 0): 2}
    figure = plots.steps(curves)
    assert [list(trace.x) for trace in traces(figure, "first")] == [[21], [9], [2]]
    for trace in traces(figure, "first"):
        assert trace.y[0] in curves["kl"].to_list()
    assert "KIVI never differs" in figure.layout.title.text and "one prompt: a story, not a rate" in figure.layout.title.subtitle.text
    many = plots.steps(fake.curves(20))
    assert sum("20 differ" in a.text for a in many.layout.annotations) == 3


def test_claims_and_measurements_never_share_an_axis() -> None:
    figure = plots.claims(load(), fake.points())
    assert {trace.xaxis for trace in traces(figure, "claim")} == {"x"} and {trace.xaxis for trace in traces(figure, "measured")} == {"x2"}
    assert all(trace.customdata is None for trace in traces(figure, "claim"))
    domains = figure.layout.xaxis.domain, figure.layout.xaxis2.domain
    assert domains[0][1] < domains[1][0]
    assert any(a.text == "Claimed by the papers, not measured here" for a in figure.layout.annotations)
    claimed, here = plots.claims_table(load(), fake.points())
    assert set(claimed["system"]) <= {part for method in fake.METHODS for part in method.split("+")} | {"kivi"}
    assert len(here) == sum(len(trace.x) for trace in traces(figure, "measured")) and not set(claimed.columns) & {"run", "n"}


def every_figure() -> dict[str, tuple[go.Figure, str, pd.DataFrame]]:
    """Name -> (figure, its alt sentence, its table twin)."""
    points, several, samples, held, curves = fake.points(), fake.points(TASKS), fake.samples(), fake.bytes_by_part(), fake.curves()
    return {
        "quality": (plots.quality(points), plots.alt(points), plots.table(points)),
        "tasks": (plots.tasks(several), plots.alt(several, "share"), plots.table(several)),
        "needles": (plots.needles(samples), plots.needles_alt(samples), plots.needles_table(samples)),
        "parts": (plots.parts(held), plots.parts_alt(held), plots.parts_table(held)),
        "steps": (plots.steps(curves), plots.steps_alt(curves), plots.steps_table(curves)),
        "claims": (plots.claims(load(), points), plots.claims_alt(load(), points), plots.claims_table(load(), points)[1]),
    }  # fmt: skip


def test_every_figure_has_a_sentence_a_twin_and_a_title() -> None:
    for name, (figure, sentence, twin) in every_figure().items():
        assert figure.layout.meta["alt"] == sentence, name
        assert sentence.endswith(".") and len(sentence) > 40 and len(twin), name
        assert figure.layout.title.text and figure.layout.title.font.family.startswith("Source Serif"), name
        sizes = [a.font.size for a in figure.layout.annotations if a.font.size] + [figure.layout.title.subtitle.font.size]
        assert min(sizes) >= 12, name


def test_the_table_twin_has_every_point_and_its_standing() -> None:
    table = fake.odd(fake.points())
    twin = plots.table(table)
    assert sorted(twin["Run"]) == sorted(table["run"])
    assert twin["Standing"].value_counts().to_dict()["imported"] == 2 and (twin["Standing"] == "one prompt").sum() == 2
    assert set(twin.loc[twin["Standing"] == "on the front", "Run"]) == set(plots.pareto(table[comparable(table)])["run"])


def test_labels_cover_no_mark_and_no_other_label() -> None:
    area = Box(0, 0, 400, 300)
    lines = [[(50, 40 + 30 * i), (200, 60 + 30 * i), (300, 90 + 30 * i)] for i in range(6)]
    names = [f"Method {i}" for i in range(6)]
    boxes = []
    for name, line, spot in zip(names, lines, place(names, lines, area), strict=True):
        assert spot is not None
        width, (across, up) = 6.9 * len(name) + 2, line[spot.index]
        left = across + spot.dx - {"left": 0, "center": width / 2, "right": width}[spot.anchor]
        boxes.append(Box(left, up + spot.dy - 8, left + width, up + spot.dy + 8))
    assert all(box.within(area) for box in boxes)
    assert not any(a.meets(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.holds(p) for box in boxes for line in lines for p in line)
    assert place(["Much too long a name for this place"], [[(20, 20)]], Box(0, 0, 60, 60)) == [None]


def test_ticks_are_round_and_few() -> None:
    assert log_ticks(35, 550) == [40, 50, 60, 80, 100, 150, 200, 300, 400, 500] and log_ticks(2, 3000) == [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    assert log_ticks(1.05, 1.45) == [1.1, 1.2, 1.3, 1.4]
    assert linear_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1] and linear_ticks(0, 540, 6) == [0, 100, 200, 300, 400, 500]
    assert (size(96_256), size(2.5 * 2**20), size(12)) == ("94 KiB", "2.5 MiB", "12 B")


@pytest.mark.browser
def test_a_browser_draws_every_mark(browser: Any) -> None:
    table = fake.odd(fake.points())
    page = browser.new_page(viewport={"width": 1200, "height": 700})
    page.set_content(plots.quality(table).to_html(include_plotlyjs=True, config={"displayModeBar": False}))
    page.wait_for_selector(".scatterlayer .points path", state="attached")
    drawn = page.locator(".scatterlayer .points path").count()
    unseen = sum(len(trace.x) for trace in traces(plots.quality(table), "interval"))
    crosses = sum(len(trace.x) for trace in traces(plots.quality(table), "cross"))
    assert drawn - unseen - crosses == len(table)
    right = page.evaluate("Math.max(...[...document.querySelectorAll('.annotation-text')].map(e => e.getBoundingClientRect().right))")
    assert right <= 1200
    page.close()
