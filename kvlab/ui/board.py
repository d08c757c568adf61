"""The lanes on the right of the Run page: results of this job, predictions for what is only planned, and the run that a link asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from kvlab.engine import Token
from kvlab.jobs import Group, Job, JobManager
from kvlab.lanes import lane
from kvlab.ui import access, estimate, form
from kvlab.ui import lane as lanes
from kvlab.ui.compare import MOST
from kvlab.ui.plan import Plan, Planned
from kvlab.ui.service import earlier, service, visitor


def current() -> Group | None:
    """The job of this session or of the link, if the server still remembers it. After a reload the form comes back as it was."""
    key = st.query_params.get("job") or st.session_state.get("job")
    group = service().jobs.group(key) if key else None
    if group and "form" not in group.note:  # a sweep, or a rerun that Look inside asked for
        return None
    if group and st.session_state.get("job") != key:
        form.restore(group.note["form"])
        st.session_state["job"] = key
    if group and st.query_params.get("job") != key:
        st.query_params["job"] = key
    return group


def submit(plan: Plan, times: list[float | None]) -> None:
    """Queue all lanes of a plan. Raises ValueError with a sentence when the visitor has too many waiting."""
    s = service()
    work = [lane(s.shelf, s.store, plan.model, planned.request, plan.sizes.total, access.me()) for planned in plan.lanes]
    jobs = [Job(visitor(), planned.title, one, time) for planned, one, time in zip(plan.lanes, work, times, strict=True)]
    group = s.jobs.submit(visitor(), jobs, {"form": form.snapshot(), "plan": plan})
    st.session_state["job"] = st.query_params["job"] = group.id
    st.query_params.pop("run", None)


def seconds(plan: Plan, finished: int) -> tuple[list[float | None], int]:
    """Expected seconds of each lane and the earlier runs they come from (the fewest behind any lane)."""
    runs = earlier(str(service().store.folder), finished)
    speeds = [estimate.speed(runs, plan.model, service().device, planned.name) for planned in plan.lanes]
    return [s and s.seconds(plan.sizes) for s in speeds], min((s.runs for s in speeds if s), default=0)


def remember_runs(group: Group) -> None:
    """Put the ids of stored lanes into the address, so that the link outlives the server's memory."""
    ids = ",".join(finished(group))
    if ids and st.query_params.get("run") != ids:
        st.query_params["run"] = ids


def compare(ids: Sequence[str]) -> None:
    """The way to Compare with these runs; nothing where there are fewer than two or more than it takes."""
    if 2 <= len(ids) <= MOST:
        st.html(f'<p class="kv-way"><a class="kv-link" href="compare?cmp={",".join(ids)}">Compare these {len(ids)} runs</a></p>')


def finished(group: Group) -> list[str]:
    """Ids of its lanes that wrote something, each once."""
    return list(dict.fromkeys(job.result["id"] for job in group.jobs if job.result))


def views(group: Group | None, plan: Plan | None) -> list[dict[str, Any]]:
    """Lanes to draw: while a job runs, its own; afterwards those of the form, done where nothing changed, then what belongs to earlier settings."""
    if group is None:
        return [_before(plan, planned) for planned in plan.lanes] if plan else []
    ran: Plan = group.note["plan"]
    done = [_view(planned, job, group, service().jobs) for planned, job in zip(ran.lanes, group.jobs, strict=True)]
    if group.live or plan is None or plan.signature == ran.signature:
        return done
    old = {_key(ran.model, planned): view for planned, view in zip(ran.lanes, done, strict=True)}
    wanted = [old.pop(_key(plan.model, planned), None) or _before(plan, planned) for planned in plan.lanes]
    return wanted + [view | {"stale": True} for view in old.values()]


def _before(plan: Plan, planned: Planned) -> dict[str, Any]:
    """A lane that was not run in this session: what is stored of the very same run, else, or where that cannot be read, what is predicted."""
    listed, reference = {m["id"] for m in access.runs(service().store)}, plan.lanes[0].run
    if planned.run not in listed:
        return lanes.base(planned)
    try:
        run = service().store.load(planned.run)
        full = service().store.load(reference).manifest["tokens"] if reference in listed else None
    except ValueError:
        return lanes.base(planned)
    said = lanes.stored(run.manifest, run.trace, full)
    return lanes.base(planned) | said | {"setting": planned.setting, "note": f"stored run of {run.manifest['created'][:10]}", "predicted": planned.predicted}


def _key(model: str, planned: Planned) -> str:
    return repr((model, sorted((k, str(v)) for k, v in vars(planned.request).items())))


def _view(planned: Planned, job: Job, group: Group, jobs: JobManager) -> dict[str, Any]:
    reference = [e.token for e in group.jobs[0].events() if isinstance(e, Token)] if job is not group.jobs[0] else None
    before = group.jobs[group.jobs.index(job) - 1] if job is not group.jobs[0] else None
    line = "waits for the lane above" if before is not None and before.live else ""
    said = lanes.view(planned, job, reference, jobs, line)
    first = next((j for j in group.jobs if j.state == "queued"), None)
    if job is first:
        said["wait"] = "Lanes run one after another on one device. The dotted line is the prediction."
    return said


def linked() -> list[dict[str, Any]]:
    """Stored runs that the address names, the full cache first. Raises ValueError with a sentence for an unknown id."""
    ids = [run for run in st.query_params.get("run", "").split(",") if run][:8]
    runs = sorted((service().store.load(run) for run in ids), key=lambda run: run.manifest["method"] != "full")
    same = next((run.manifest for run in runs if run.manifest["method"] == "full"), None)
    return [lanes.stored(run.manifest, run.trace, same and same["tokens"]) for run in runs]
