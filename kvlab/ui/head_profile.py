"""What each head of a run's model is for, under the pictures of Look inside: the table that `python -m kvlab profile` made, where there is one."""

from __future__ import annotations

import shlex
from typing import NamedTuple

import streamlit as st
from safetensors.torch import load_file
from torch import Tensor

from kvlab import profile_plot
from kvlab.calibration import find
from kvlab.profile import SCORES
from kvlab.registry import make
from kvlab.runs import StoredRun
from kvlab.ui.palette import colour


class Known(NamedTuple):
    """All of a model that the name of its artefact depends on."""

    revision: str
    dtype: str


def table_of(run: StoredRun) -> dict[str, Tensor] | None:
    """The scores of the run's model, [L, Hq] each; None where nobody has made them. Loads no model."""
    said = run.manifest["versions"]
    path = find(make("headkv"), Known(said.get("model_revision", ""), said.get("dtype", "")))  # HeadKV's artefact is the profile
    return _read(str(path)) if path else None


@st.cache_resource(max_entries=4, show_spinner=False)
def _read(path: str) -> dict[str, Tensor]:
    return load_file(path)


def part(run: StoredRun) -> None:
    """Folded: the four grids, their sentence and their table; or the command that makes them."""
    with st.expander("What each head is for, measured once for this model", key="inside_profile", on_change="rerun") as fold:
        if not fold.open:
            return
        table = table_of(run)
        if table is None:
            st.html('<p class="kv-small">Nobody has measured the heads of this model here yet. This command does, once:</p>')
            return st.code(f"python -m kvlab profile --model {shlex.quote(run.manifest['model'])}", language=None)
        theme = "dark" if st.context.theme.type == "dark" else "light"
        figure = profile_plot.figure(table, theme).update_layout(paper_bgcolor=colour("panel", theme))
        said, group = profile_plot.alt(table), run.manifest["geometry"]["query_heads"] // run.manifest["geometry"]["kv_heads"]
        look = f"A KV head serves {group} query heads here: query heads {group}h to {group}h + {group - 1} read what KV head h keeps. " if group > 1 else ""
        words = "; ".join(f"{line[0].lower()}{line[1:]}" for line in SCORES.values())
        st.html(f'<p class="kv-small">{look}A head that retrieves, robbed of the needle, cannot. The scores: {words}.</p>')
        with st.container(key="wide-profile"):
            st.plotly_chart(figure, theme=None, key="figure-profile", alt=said, config={"displaylogo": False, "showSendToCloud": False})
        st.html(f'<p class="kv-small">{said}</p>')
        if st.toggle("Show the heads as table", key="inside_profile_table"):
            st.dataframe(profile_plot.twin(table, run.manifest["geometry"]["kv_heads"]), hide_index=True, alt=said, height=280)
