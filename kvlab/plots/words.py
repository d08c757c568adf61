"""What a figure of points says in words: its finding, its measure, one sentence for who cannot see it, and the table beside it."""

from __future__ import annotations

from html import escape

import pandas as pd

from kvlab.plots.looks import percent, size
from kvlab.plots.points import AXES, PANEL, check, comparable, panel, pareto, shown, single
from kvlab.plots.scales import interval, is_share, score

MEASURES = {"ppl": "Perplexity", "perplexity": "Perplexity", "kl": "KL divergence from the full cache, nats", "top1": "Same next token as the full cache, %"}
FEWER = 0.995
"""Of the full cache's bytes: what takes less than this share counts as smaller."""
BYTES = {"resident": "of the bytes held", "share": "of the bytes held", "peak": "of the peak bytes", "read_per_step": "of the bytes read"}


def measure(table: pd.DataFrame) -> str:
    """The words of the y axis: what was measured and of how many prompts."""
    task, better = str(table["task"].iloc[0]), table["better"].iloc[0]
    name = MEASURES.get(task, "Score, %" if is_share(table) else "Score")
    counts = table.loc[~single(table) & (table["source"] == "measured"), "n"].astype(int)
    many = "" if counts.empty else f" of {counts.min()} prompts" if counts.min() == counts.max() else f" of {counts.min()} to {counts.max()} prompts"
    return name + many + (", lower is better" if better == "lower" else "")


def setting(table: pd.DataFrame) -> str:
    """The line under the title: task, length, mode, model."""
    row = table.iloc[0]
    mode = str(row["mode"]).strip()
    return " · ".join(part for part in (str(row["task"]), f"{row['length']:,} tokens" if pd.notna(row["length"]) else "", mode, str(row["model"])) if part)


def finding(table: pd.DataFrame, x: str = "resident") -> str:
    """The figure's title, computed: the fewest bytes at which neither interval tells the two means apart, or that there are none, or the measure."""
    reference = table[table["axis"] == "reference"]
    rows = table[comparable(table) & (table["axis"] != "reference")]
    if reference.empty or rows.empty:
        return f"{measure(table).split(' of ')[0].split(',')[0]} against measured bytes"
    full = reference["x"].iloc[0]
    held = kept(table)
    if held.empty:
        smaller = (rows["x"] / full < FEWER).any()
        return "No setting below the full cache keeps its score within the interval" if smaller else "No setting takes fewer bytes than the full cache"
    first = held.iloc[0]
    return f"{percent(first['x'] / full)} {BYTES[x]}, no loss that {int(first['n'])} prompts can show: {first['title']}"


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, by rising bytes `x`, that take fewer bytes than the full cache and whose score the intervals do not tell from its score."""
    reference = table[table["axis"] == "reference"]
    rows = table[comparable(table) & (table["axis"] != "reference")]
    if reference.empty or rows.empty:
        return rows.head(0)
    full = reference.iloc[0]
    smaller = rows[rows["x"] / full["x"] < FEWER]
    higher = full["better"] == "higher"
    near = smaller["high"] >= full["mean"] if higher else smaller["low"] <= full["mean"]
    inside = smaller["mean"] >= full["low"] if higher else smaller["mean"] <= full["high"]
    return smaller[near & inside].sort_values("x", kind="stable")


def alt(points: pd.DataFrame, x: str = "resident") -> str:
    """One sentence for a reader who cannot see the figure. Points of several tasks are summed up by their tasks."""
    table = check(points)
    if len(table[PANEL].drop_duplicates()) > 1:
        tasks, methods = table["task"].nunique(), table["title"].nunique()
        return f"{AXES[x]} and quality of {methods} methods on {tasks} tasks, {len(table)} points; the table beside it has every value."
    table = panel(points, x)
    best = pareto(table[comparable(table)], x)
    ends = [_point(row, x, table) for _, row in best.iloc[[0, -1] if len(best) > 1 else range(len(best))].iterrows()]
    where = f", from {ends[0]} to {ends[1]}" if len(ends) > 1 else "".join(f", {end}" for end in ends)
    return f"{finding(table, x)}. {len(table)} points of {table['title'].nunique()} methods; {len(best)} on the stepped front{where}."


def table(points: pd.DataFrame, x: str = "resident") -> pd.DataFrame:
    """The table twin: one row per point in the figure's order, numbers as text for reading, `Run` to open it."""
    found = check(points)
    found = found.assign(x=shown(found, x))
    best = set(pareto(found[comparable(found)], x).index)
    rows = []
    for _, group in found.groupby(PANEL, sort=False, dropna=False):
        share = is_share(group)
        for i, row in group.sort_values(["x", "method"]).iterrows():
            rows.append({
                "Method": row["title"], "Setting": row["setting"], "Task": row["task"], "Tokens": row["length"], "Measured": size(row["resident"]),
                "Of full": percent(row["resident"] / row["full"]), "Score": score(row["mean"], share), "Interval": interval(row, share),
                "Prompts": int(row["n"]), "Standing": _standing(i, row, best),
                "Peak": size(row["peak"]) if row["peak"] > 0 else "", "Run": row["run"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def _standing(index: int, row: pd.Series, best: set[int]) -> str:
    if row["source"] == "imported":
        return "imported"
    if row["axis"] == "reference":
        return "reference"
    if row["n"] <= 1 or row["interval"] == "single":
        return "one prompt"
    return "on the front" if index in best else "dominated"


def _point(row: pd.Series, x: str, table: pd.DataFrame) -> str:
    across = f"{row['x']:.0f} % of the bytes" if x == "share" else size(row["x"])
    return f"{row['title']} at {across} and {score(row['mean'], is_share(table))}"


def custom(rows: pd.DataFrame) -> list[list[str]]:
    """What a click on a point hands over: run id, method, setting, source."""
    return [["" if pd.isna(run) else str(run), *rest] for run, *rest in rows[["run", "method", "setting", "source"]].itertuples(index=False)]


def hover(rows: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """What a point says under the pointer; the table twin says the same."""
    said, share = [], is_share(table)
    for row in rows.to_dict("records"):
        lines = [f"<b>{escape(str(row['title']))}</b>" + (f", {escape(str(row['setting']))}" if row["setting"] else "")]
        alone = row["n"] <= 1 or row["interval"] == "single"
        count = "one prompt: not a rate" if alone else f"{interval(row, share)}, {row['n']:.0f} prompts, {row['interval']}"
        lines.append(f"{score(row['mean'], share)} {count}")
        lines.append(f"{size(row['resident'])} held, {percent(row['resident'] / row['full'])} of the full cache")
        if row["source"] == "imported":
            lines.append("imported, not measured here")
        elif pd.notna(row["run"]):
            lines.append(f"run {escape(str(row['run']))}")
        said.append("<br>".join(lines))
    return said
