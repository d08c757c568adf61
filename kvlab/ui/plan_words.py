"""The Plan page in words: its title, its figures, and the sentences around the list. All computed from the answer; plain text."""

from __future__ import annotations

from collections.abc import Sequence

from kvlab.method import Method
from kvlab.planner.answer import Line, Row, verdict_of
from kvlab.planner.formulas import size
from kvlab.planner.gpus import GPUS
from kvlab.planner.memory import Demand
from kvlab.planner.shapes import Shape
from kvlab.ui.head import Figure, Words
from kvlab.ui.plan import words
from kvlab.ui.plan_asked import Asked

LOOK = (("Read each bar against the black line. A bar that fits says nothing of the answers: look for the ", False), ("evidence", True),
        (" below it.", False))  # fmt: skip


def look(rows: Sequence[Row], lines: Sequence[Line]) -> Words:
    """What to look for: where the setting that holds most is known to lose the answers, that."""
    if not rows:
        return (("The reason stands beside the form. ", False), ("No figure is shown", True), (" where one would be a guess.", False))
    most = max(rows, key=lambda row: row.bill.users)
    line = verdict_of(lines, most.method)
    if line is None or line.evidence is None or line.verdict != "below":
        return LOOK
    one = line.evidence
    whose = "this model" if line.own else "the bundled model" if one.model == "bundled" else one.model
    said = f"{line.method.title} would hold {line.users:,}, but keeps {100 * one.share:.0f} % of the full cache's score on {one.task}, "
    return ((said, False), (f"measured on {whose}", True), (". Bytes that fit are no answers that stay right.", False))


def setting(shape: Shape | None, asked: Asked) -> str:
    """The line above the title."""
    gpu = GPUS[asked.gpu].title if asked.gpu in GPUS else f"GPU of {asked.mem:g} GiB"
    many = f"{asked.gpus} \u00d7 {gpu}" if asked.gpus > 1 else gpu
    model = shape.title if shape else "no model"
    return f"{model} · weights in {asked.weights} · {many} · {asked.context:,} tokens, {asked.written:,} of them written · nothing is loaded"


def title(shape: Shape | None, asked: Asked, rows: Sequence[Row], lines: Sequence[Line]) -> str:
    """The finding: what the full cache holds, and of the settings that are not known to fall below the floor the one that holds most."""
    if not rows:
        return f"{shape.title} cannot be planned here" if shape and shape.refused else "Something of this plan is missing"
    full = rows[0].bill
    others = [row for row in rows[1:] if (line := verdict_of(lines, row.method)) and line.verdict != "below"]
    user = f"{asked.users:,} user{'s' * (asked.users > 1)} at {asked.context:,} tokens"
    if full.weights > full.usable:
        return f"The weights alone need {size(full.weights)} of {size(full.usable)}"
    if full.short <= 0:
        return f"The full cache holds {user}, and {full.users:,} at most"
    best = max(others, key=lambda row: row.bill.users, default=None)
    stops = "holds no user" if not full.users else f"stops at {full.users:,} user{'s' * (full.users > 1)}"
    if best is None or best.bill.users <= full.users:
        return f"The full cache {stops} of {asked.users:,}" + ("; nothing chosen that keeps the floor holds more" if rows[1:] else "")
    return f"The full cache {stops} of {asked.users:,}; {best.method.title} would hold {best.bill.users:,}"


def figures(rows: Sequence[Row], asked: Asked) -> list[Figure]:
    """The figures beside the title."""
    if not rows:
        return []
    full = rows[0].bill
    least = min(rows, key=lambda row: row.bill.each)
    said: list[Figure] = [("One user, full cache", size(full.each), "", f" {asked.context:,} tokens")]
    if least is not rows[0]:
        said.append((f"One user, {least.method.title}", size(least.bill.each), "", f" {100 * least.bill.each / full.each:.0f} %"))
    return said


def beyond(demand: Demand) -> str:
    """A sentence where the context is longer than the model was made for."""
    end = demand.geometry.context
    said = f"{demand.shape.title} was made for {end:,} positions; {demand.context:,} are asked for. The bytes hold, the answers may not."
    return said if demand.context > end else ""


def key(method: Method) -> str:
    """A setting in one word for the link: name, budget, and the knobs."""
    return f"{method.name}:{','.join(f'{name}={value}' for name, value in method.knobs().items())}"[:120]


def named(method: Method) -> str:
    return f"{method.title}, {words(method)}"


def list_title(lines: Sequence[Line], floor: int) -> str:
    """How many settings keep the floor, and how many may."""
    meets, maybe = (sum(line.verdict == verdict for line in lines) for verdict in ("meets", "open"))
    unknown = sum(line.verdict == "unmeasured" for line in lines)
    many = f"{meets} setting{'s are' if meets > 1 else ' is'}" if meets else "No setting is"
    own = any(line.own for line in lines)
    said = f"{many} shown to keep {floor} % of the full cache's score" + ("" if own or not (meets or maybe) else " on another model")
    return said + (f", {maybe} may" if maybe else "") + (f", {unknown} without a measurement" if unknown else "")


def caution(lines: Sequence[Line], demand: Demand) -> str:
    """Of which models and lengths the evidence is; said above the list and never carried over."""
    measured = [line.evidence for line in lines if line.evidence]
    if not measured:
        return "Nothing was measured: every figure below is an estimate by formula."
    models = sorted({one.model for one in measured})
    own = demand.shape.repo in models
    lengths = sorted({one.length for one in measured})
    spread = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"
    whose = " and ".join("the bundled model" if model == "bundled" else model for model in models)
    said = f"Measured on {whose}, at {spread} tokens."
    if own and models == [demand.shape.repo] and lengths[-1] >= demand.context:
        return said
    wanted = f"{demand.shape.title} at {demand.context:,} tokens"
    return f"{said} What it says of {wanted} is not known: bytes are computed for it, scores are not carried over. Run the command above to measure."


def hidden(lines: Sequence[Line], shown: Sequence[Line]) -> str:
    """What the list leaves out."""
    count = len(lines) - len(shown)
    return f"{count} measured setting{'s' * (count > 1)} below the floor {'are' if count > 1 else 'is'} not shown." if count else ""
