"""Methods ranked at equal measured bytes: the best point that each setting has within a limit on each task.

A limit is a number of bytes (400kB), or what a ruler holds on a task, by default Random at some budget (0.25): all tokens of a question and an
answer stay after a prompt's cut, so a budget of a quarter is more than a quarter of the bytes, and by how much is up to the task. Nothing is read
between two points: a setting has the score of a point that was measured, or none. `python -m kvlab.sweep.ranking data/sweeps/selection` prints
the tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from kvlab.budget import Budget

SLACK = 0.03


def named(points: pd.DataFrame) -> pd.Series:
    """Title of each point's setting, with the knobs in which the settings of one method differ."""
    said = {}
    for method, rows in points.groupby("method", sort=False):
        knobs = {text: json.loads(text or "{}") for text in rows["setting"].fillna("{}").unique()}
        differ = [name for name in dict.fromkeys(k for one in knobs.values() for k in one) if len({json.dumps(one.get(name)) for one in knobs.values()}) > 1]
        for text, one in knobs.items():
            words = ", ".join(f"{name.rpartition('.')[2]} {one[name]}" for name in differ if name in one)
            said[method, text] = f"{rows['title'].iloc[0]} ({words})" if words else rows["title"].iloc[0]
    return pd.Series([said[row.method, row.setting if isinstance(row.setting, str) else "{}"] for row in points.itertuples()], points.index)


def within(points: pd.DataFrame, limits: pd.Series) -> pd.DataFrame:
    """Rows: settings (`named`); columns: tasks. The best mean among the points that hold at most `limits` [task] bytes; NaN where none does.

    On a task where lower is better the best is the lowest. The full cache is always there. `SLACK` is added: a list of positions is no other budget.
    A point that could not be run on some samples is left out: what is left of them is another, often easier, set.
    """
    points = points[points["failed"] == 0]
    fits = (points["resident"] <= points["task"].map(limits) * (1 + SLACK)) | (points["axis"] == "reference")
    table = points.assign(name=named(points), better=points["better"].eq("lower"))[fits]
    best = {key: rows["mean"].min() if rows["better"].iloc[0] else rows["mean"].max() for key, rows in table.groupby(["name", "task"], sort=False)}
    return pd.Series(best).unstack(sort=False)


def ranked(points: pd.DataFrame, limits: pd.Series) -> pd.DataFrame:
    """`within`, the best first: by the mean score over the tasks where higher is better; settings without a point on one of these come last."""
    found = within(points, limits)
    scores = found[[task for task in found if (points[points["task"] == task]["better"] != "lower").all()]]
    return found.assign(mean=scores.mean(axis=1, skipna=False)).sort_values("mean", ascending=False, kind="stable", na_position="last")


def held_by(points: pd.DataFrame, method: str, budget: str) -> pd.Series:
    """Bytes that a method holds under a budget, [task]; a budget in bytes is its own measure. Raises ValueError where the method was not measured."""
    if (known := Budget.parse(budget)).unit == "bytes":
        return pd.Series(known.amount, points["task"].unique())
    rows = points[(points["method"] == method) & (points["budget"] == budget)]
    if rows.empty:
        raise ValueError(f"{method} was not measured at the budget {budget}, so there is no limit to rank at.")
    return rows.groupby("task")["resident"].min()


def markdown(table: pd.DataFrame, lower: set[str]) -> str:
    """The table for a person; perplexities with one decimal, scores in per cent, a dash where nothing fits."""
    cell = lambda value, task: "-" if np.isnan(value) else f"{value:.1f}" if task in lower else f"{100 * value:.0f}"  # noqa: E731
    heads = list(table.columns)
    rows = ["| setting | " + " | ".join(heads) + " |", "|---" + "|---:" * len(heads) + "|"]
    for name, row in table.iterrows():
        rows.append(f"| {name} | " + " | ".join(cell(value, head) for value, head in zip(row, heads, strict=True)) + " |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> None:
    """Print the tables of a stored sweep, one for each way of asking and each limit."""
    parser = argparse.ArgumentParser(prog="python -m kvlab.sweep.ranking", description="Methods ranked at equal measured bytes.")
    parser.add_argument("sweep", type=Path, help="a folder with points.csv")
    parser.add_argument("--ruler", default="random", help="the method whose bytes are the limit")
    parser.add_argument("--budgets", default="0.5,0.25,0.125,0.0625", help="its budgets, or limits in bytes")
    args = parser.parse_args(argv)
    points = pd.read_csv(args.sweep / "points.csv", dtype={"setting": str, "budget": str})
    lower = set(points[points["better"] == "lower"]["task"])
    for mode in [mode for mode in points["mode"].unique() if mode != "prefix"]:
        here = points[points["mode"] == mode] if mode == "aware" else points[points["mode"].isin([mode, "prefix"])]
        for budget in args.budgets.split(","):
            limits = held_by(here, args.ruler, budget)
            full = here[here["axis"] == "reference"].groupby("task")["resident"].min()
            said = ", ".join(f"{task} {100 * limits[task] / full[task]:.0f} %" for task in limits.index)
            whose = budget if Budget.parse(budget).unit == "bytes" else f"the bytes of {args.ruler} at {budget}"
            print(f"\n{mode}: at most {whose} (of the full cache: {said})\n")
            print(markdown(ranked(here, limits), lower))


if __name__ == "__main__":
    main()
