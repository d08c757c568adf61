"""Protect and rerun: the same run again with some entries that may not be dropped, beside the page that shows the first one."""

from __future__ import annotations

import dataclasses
from html import escape
from typing import Any

import streamlit as st

from kvlab.engine import Request, Token
from kvlab.jobs import Group, Job
from kvlab.lanes import lane as work_of
from kvlab.registry import make
from kvlab.runs import StoredRun
from kvlab.ui import access, estimate
from kvlab.ui.form import problem
from kvlab.ui.inside import first_difference, no_pin, show
from kvlab.ui.lane import visible, waiting
from kvlab.ui.service import card, service, visitor

TICK = 1.0
"""Seconds between two looks at a live job."""
KEY = "again"
"""The group's id in the address and in the session, so that a reload finds it."""


def request_of(manifest: dict[str, Any], first: int, last: int) -> Request:
    """The run's own request with the positions `first` to `last` pinned, and those that were pinned before. Raises ValueError with a sentence."""
    if why := no_pin(manifest):
        raise ValueError(why)
    asked, end = manifest["request"], manifest["prompt_tokens"] + manifest["question_tokens"]
    if not 0 <= first <= last < end:
        raise ValueError("Only tokens of the prompt and the question can be protected.")
    known = {f.name for f in dataclasses.fields(Request)} - {"method", "pinned", "compare"}
    method = make(manifest["method"], manifest["budget"]["asked"], dict(manifest["knobs"]))
    pinned = tuple(sorted({*asked.get("pinned", ()), *range(first, last + 1)}))
    return Request(method=method, pinned=pinned, compare=True, **{name: value for name, value in asked.items() if name in known})


def start(run: StoredRun, first: int, last: int) -> Group:
    """Queue it. Raises ValueError with a sentence: nothing to protect, another model by now, too many jobs waiting."""
    m, s = run.manifest, service()
    request = request_of(m, first, last)
    here = card(m["model"], s.device)
    if here.lm.revision != m["versions"].get("model_revision"):
        raise ValueError(f"The model {m['model']} is not the one of this run any more, so another answer would prove nothing. Make the run anew first.")
    total = m["prompt_tokens"] + m["question_tokens"] + request.max_new_tokens
    work = work_of(s.shelf, s.store, m["model"], request, total, access.me())
    took = m["seconds"]["prefill"] * 2 + m["seconds"]["decode_per_token"] * len(m["tokens"])
    words = "".join(m["pieces"][first : last + 1])
    return s.jobs.submit(visitor(), [Job(visitor(), m["title"], work, took)], {"again": run.id, "words": show(words), "pinned": len(request.pinned)})


def current(run: str) -> Group | None:
    """The rerun of this run that the address or the session names."""
    key = st.query_params.get(KEY) or st.session_state.get(KEY)
    group = service().jobs.group(key) if key else None
    return group if group and isinstance(group.note, dict) and group.note.get("again") == run else None


def panel(run: StoredRun) -> None:
    """What became of the rerun; nothing where none was asked for. Looks again by itself while it is live."""
    group = current(run.id)
    if group is None:
        return
    with st.container(border=True, key="card-again"):
        st.fragment(_panel, run_every=TICK if group.live else None)(run, group)


def _panel(run: StoredRun, group: Group) -> None:
    job = group.jobs[0]
    service().jobs.look(group)
    st.html(f'<p class="kv-small" role="status"><b>Run again with \u201c{escape(group.note["words"])}\u201d protected</b> {escape(line(run, job))}</p>')
    if job.live:
        if st.button("Cancel", key="again-cancel"):
            service().jobs.cancel(group)
        return
    if job.error:
        problem(job.error)
    if job.result:
        st.html(answer(run, service().store.load(job.result["id"]), group.note["pinned"]))
    if st.session_state.get("again_ended") != group.id:
        st.session_state["again_ended"] = group.id
        st.rerun()


def line(run: StoredRun, job: Job) -> str:
    """Where the job is, in words."""
    if job.state == "queued":
        return waiting(job, service().jobs)
    written = [e for e in job.events() if isinstance(e, Token)]
    if job.state == "running":
        return f"token {len(written)} of at most {run.manifest['request']['max_new_tokens']}" if written else "reading the prompt"
    return {"stopped": "was cancelled", "failed": "did not work"}.get(job.state, f"took {job.seconds:.1f} s")


def answer(before: StoredRun, after: StoredRun, pinned: int) -> str:
    """Both answers as HTML, what changed, what it cost, and the ways on."""
    old, new = before.manifest, after.manifest
    held = [f"{estimate.size(one['bytes']['resident'])} after {len(one['tokens'])} tokens" for one in (old, new)]
    said = [f'<p class="kv-look">{escape(verdict(before, after))}</p>', '<dl class="kv-both">']
    for name, one in (("before", old), ("protected", new)):
        said.append(f"<dt>{name}</dt><dd><bdi>{escape(visible(one['text'].strip()) or 'nothing')}</bdi></dd>")
    entries = "1 position" if pinned == 1 else f"{pinned} positions"
    said.append(f"<dt>cost</dt><dd>{entries} in every head, on top of the budget: {held[0]} before, {held[1]} now</dd></dl>")
    links = (f"inside?run={after.id}", "Look inside the new run"), (f"compare?cmp={before.id},{after.id}", "Compare both")
    said.append("<p>" + " &nbsp; ".join(f'<a class="kv-link" href="{href}">{words}</a>' for href, words in links) + "</p>")
    return "".join(said)


def verdict(before: StoredRun, after: StoredRun) -> str:
    """Whether the answer changed, and whether it is now the full cache's, as far as that is known."""
    if after.manifest["tokens"] == before.manifest["tokens"]:
        return "The answer is the same, token by token. What is missing lies elsewhere."
    if agrees(after):
        return "The answer is repaired: every token is now the full cache's choice. What you protected is what was missing."
    return "The answer changed, but it is not the full cache's."


def agrees(run: StoredRun) -> bool:
    """Whether the full cache would have written every token of the run."""
    return bool(run.trace.top.size) and first_difference(run.trace) is None
