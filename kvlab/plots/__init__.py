"""Tables in, Plotly figures out: pure functions, one fixed mark per method, light and dark.

Every figure has its alt sentence (in `layout.meta["alt"]` too) and its table twin: `alt` and `table` for points, `<figure>_alt` and
`<figure>_table` for the others. What a figure shows was measured here, but for points whose source is "imported" and for the left of `claims`.
"""

from kvlab.plots.beside import claims, claims_alt, claims_table
from kvlab.plots.divergence import first_differences, steps, steps_alt, steps_table
from kvlab.plots.heatmap import needles, needles_alt, needles_table
from kvlab.plots.multiples import tasks
from kvlab.plots.points import COLUMNS, pareto
from kvlab.plots.stack import parts, parts_alt, parts_table
from kvlab.plots.tradeoff import quality
from kvlab.plots.words import alt, table

__all__ = [
    "COLUMNS", "alt", "claims", "claims_alt", "claims_table", "first_differences", "needles", "needles_alt", "needles_table", "pareto", "parts", "parts_alt",
    "parts_table", "quality", "steps", "steps_alt", "steps_table", "table", "tasks",
]  # fmt: skip
