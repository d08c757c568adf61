"""The panel beside a trade-off figure: one point, its figures, its prompts paired with the full cache's, and the way to the run behind it."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

import pandas as pd

from kvlab.plots.looks import percent, size
from kvlab.plots.points import single
from kvlab.plots.scales import interval, is_share, score
from kvlab.registry import registry
from kvlab.runs import RunStore
from kvlab.ui import marks
from kvlab.ui.byte_stack import byte_stack
from kvlab.ui.finding import finding
from kvlab.ui.mini_map import mini_map
from kvlab.ui.palette import AXIS_TOKEN

MANY = 200
"""Squares at most: above that the counts alone are read."""
SOURCES = {"mixed": "partly reconstructed from its paper", "recon": "reconstructed from its paper"}


def has_run(run: object) -> bool:
    """Whether a run of this id is stored here, so that a link to it opens something."""
    try:
        return isinstance(run, str) and RunStore().holds(run)
    except ValueError:
        return False


def link(run: str, words: str = "Look inside this run", kind: str = "kv-go") -> str:
    """A plain link, so that the browser changes the page and no timer of this one is left over."""
    return f'<a class="{kind}" target="_self" href="inside?run={quote(run)}">{escape(words)}</a>'


def mark(method: str, axis: str) -> str:
    """The method's mark: its shape cut out of its hue; of a composition the second hue is the edge."""
    said = marks.marker(method) if any(part in registry() for part in method.split("+")) else None
    hue = AXIS_TOKEN.get(axis, "small")
    own = said or {"outline": marks.outline(marks.shape(method)), "fill": hue, "edge": hue}
    corners = [tuple(map(float, corner.split(","))) for corner in own["outline"].split()]
    cut = f"polygon({', '.join(f'{50 + 50 * x:g}% {50 + 50 * y:g}%' for x, y in corners)})" if corners else "circle(44%)"
    inner = f'<i style="clip-path:{cut};background:var(--{own["fill"]})"></i>' if own["fill"] != own["edge"] else ""
    return f'<i class="kv-mark" aria-hidden="true" style="clip-path:{cut};background:var(--{own["edge"]})">{inner}</i>'


def paired(samples: pd.DataFrame, row: pd.Series) -> list[str] | None:
    """What became of each question that the full cache and this setting were both asked: "both", "gained", "lost", "neither", in this order.

    None where scores are not right or wrong, or nothing is paired.
    """
    here = samples[(samples["status"] == "done") & samples["score"].notna()] if len(samples) else samples
    for name, value in (("model", row["model"]), ("task", row["task"]), ("length", row["length"]), ("mode", row["protocol"])):
        here = here[here[name] == value] if name in here else here
    asked = ["seed", "sample", "question"]
    budget = here["budget"].fillna("") == (row["budget"] if isinstance(row["budget"], str) else "")
    mine = here[(here["method"] == row["method"]) & (here["setting"] == row["knobs"]) & budget].set_index(asked)["score"]
    full = here[here["method"] == "full"].set_index(asked)["score"]
    both = pd.concat([full[~full.index.duplicated()], mine[~mine.index.duplicated()]], axis=1, join="inner", keys=["full", "mine"])
    if row["method"] == "full" or both.empty or not both.isin((0, 1)).all(axis=None):
        return None
    names = {(1, 1): "both", (0, 1): "gained", (1, 0): "lost", (0, 0): "neither"}
    found = [names[int(a), int(b)] for a, b in both.itertuples(index=False)]
    return sorted(found, key=list(names.values()).index)


def card(row: pd.Series, points: pd.DataFrame, samples: pd.DataFrame) -> str:
    """The panel as HTML; every text of the tables is escaped. `points` are those of the row's panel."""
    share = is_share(points)
    alone = bool(single(pd.DataFrame([row])).iloc[0])
    full = points[points["axis"] == "reference"]
    of_full = f"full cache {score(full['mean'].iloc[0], share)}" if len(full) and row["axis"] != "reference" else ""
    within = "one prompt" if alone else interval(row, share).strip("[]").replace(", ", "\u2013")
    kind = "not a rate" if alone else f"{str(row['interval']).capitalize() if row['interval'] == 'wilson' else row['interval']}, n = {row['n']:.0f}"
    setting = f"<span>{escape(str(row['setting']))}</span>" if row["setting"] else ""
    row = row.copy()
    row["full_run"] = full["run"].iloc[0] if of_full else None
    head = f'<div class="kv-pt-head">{mark(row["method"], row["axis"])}<b>{escape(str(row["title"]))}</b>{setting}</div>'
    note = _note(row)
    held = f"{percent(row['resident'] / row['full'])} of {size(row['full'])}"
    figures = _figures([
        ("Score" if share else "Measure", score(row["mean"], share), of_full),
        ("Held, measured" if row["source"] == "measured" else "Held", size(row["resident"]), held),
        ("95 % interval", within, kind),
    ])  # fmt: skip
    return f'<div class="kv-pt">{head}{note}{figures}{_pairs(paired(samples, row))}{_facts(row)}{_map(row)}{_way(row)}</div>'


def _note(row: pd.Series) -> str:
    known = registry().get(str(row["method"]).split("+")[0])
    said = ["imported, not measured here"] if row["source"] == "imported" else []
    said += [SOURCES[known.source]] if known and known.source in SOURCES else []
    return f'<p class="kv-small">{escape("; ".join(said))}</p>' if said else ""


def _figures(cells: list[tuple[str, str, str]]) -> str:
    made = "".join(f"<div><span>{escape(a)}</span><b>{escape(b)}</b><small>{escape(c)}</small></div>" for a, b, c in cells)
    return f'<div class="kv-pt-figs">{made}</div>'


def _pairs(found: list[str] | None) -> str:
    if not found:
        return ""
    count = {name: found.count(name) for name in ("both", "gained", "lost", "neither")}
    lost = f"<b>{count['lost']} lost</b>" if count["lost"] else "0 lost"
    said = f"{count['both']} right in both · {count['gained']} gained (+) · {lost} · {count['neither']} wrong in both"
    boxes = "".join(f'<i class="{name}"></i>' for name in found) if len(found) <= MANY else ""
    title = f"The same {len(found)} question{'s' * (len(found) > 1)}, paired with the full cache"
    squares = f'<div class="kv-pairs" aria-hidden="true">{boxes}</div>'
    return f'<div class="kv-pt-part"><h4>{title}</h4>{squares}<p class="kv-small kv-counts">{said}</p></div>'


def _facts(row: pd.Series) -> str:
    said = []
    for name, words in (("peak", "Peak"), ("read_per_step", "Read per step"), ("predicted", "Predicted by its formula")):
        if (value := _number(row, name)) is not None and value > 0:
            said.append((words, size(value)))
    if (value := _number(row, "kept_fraction")) is not None:
        said.append(("Entries kept", percent(value)))
    if (value := _number(row, "top1")) is not None:
        said.append(("Same next token as the full cache", percent(value)))
    if (value := _number(row, "kl")) is not None:
        said.append(("KL from the full cache", f"{value:.3g} nats" if value >= 5e-4 else "below 0.001 nats"))
    if (value := _number(row, "failed")) is not None and value > 0:
        said.append(("Samples that could not be run", f"{value:.0f}"))
    rows = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in said)
    return f'<dl class="kv-pt-part kv-facts">{rows}</dl>' if rows else ""


def _number(row: pd.Series, name: str) -> float | None:
    value = pd.to_numeric(row.get(name), errors="coerce")
    return None if pd.isna(value) else float(value)


def _map(row: pd.Series) -> str:
    """What one of its runs keeps, where one is stored."""
    if not has_run(row["run"]):
        return ""
    try:
        run = RunStore().load(row["run"])
    except ValueError:  # a broken file: the page it leads to says so
        return ""
    parts, m = run.manifest.get("parts"), run.manifest  # runs of earlier versions do not tell them
    said = f'<div class="kv-pt-part"><h4>Where the bytes are, one of its runs</h4>{byte_stack(parts, m["bytes"]["full"])}</div>' if parts else ""
    if len(run.trace.written):
        said += f'<div class="kv-pt-part"><h4>Kept entries, the same run</h4>{mini_map(run, finding(run).view.step)}</div>'
    return said


def _way(row: pd.Series) -> str:
    if has_run(row["run"]):
        full, pair = row["full_run"], ""
        if has_run(full):
            pair = f'<a class="kv-go kv-go-two" target="_self" href="compare?cmp={quote(full)},{quote(row["run"])}">Compare with full cache</a>'
        return f'<div class="kv-pt-way">{link(row["run"])}{pair}</div>'
    if isinstance(row["run"], str):
        said = f"The run behind this point ({escape(row['run'])}) is not stored here. The command under the figure makes it again."
    else:
        said = "No run was stored behind this point."
    return f'<p class="kv-pt-way kv-small">{said}</p>'
