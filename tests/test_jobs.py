"""The queue: order, fairness, cancelling, crashes, caps. Work is fake and waits for the test, so nothing depends on speed."""

from __future__ import annotations

import threading
import time

import pytest

from kvlab.jobs import EVENTS, Job, JobManager, Partial


class Clock:
    """Stands still unless told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A manager whose jobs block until the test lets them go, and that writes down their order."""

    def __init__(self, **settings: object) -> None:
        self.clock, self.order, self.gates = Clock(), [], {}
        self.manager = JobManager(clock=self.clock, **settings)

    def job(self, owner: str, title: str, takes: float = 1.0, **fields: object) -> Job:
        gate = self.gates[title] = threading.Event()

        def work(job: Job, device: str) -> str:
            self.order.append(title)
            while not gate.wait(0.002):
                if job.stop.is_set():
                    raise Partial("half")
            self.clock.now += takes
            return title + " on " + device

        return Job(owner, title, work, **fields)

    def submit(self, owner: str, *titles: str, takes: float = 1.0) -> list[Job]:
        return list(self.manager.submit(owner, [self.job(owner, t, takes) for t in titles]).jobs)

    def finish(self, job: Job) -> None:
        self.gates[job.title].set()
        until(lambda: not job.live)


def until(true: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


@pytest.fixture
def desk():
    made = Desk()
    yield made
    made.manager.close()


def test_one_owner_is_served_in_order(desk):
    jobs = desk.submit("a", "1", "2", "3")
    for job in jobs:
        until(lambda job=job: job.state == "running")
        assert [j.state for j in jobs].count("running") == 1
        desk.finish(job)
    assert desk.order == ["1", "2", "3"]
    assert jobs[0].result == "1 on cpu" and jobs[0].seconds == 1.0


def test_the_owner_who_used_least_goes_next(desk):
    mine = desk.submit("a", "a1", "a2", "a3", takes=10)
    until(lambda: mine[0].state == "running")
    theirs = desk.submit("b", "b1", "b2", takes=4)
    everything = {j.title: j for j in [*mine, *theirs]}
    for title in ("a1", "b1", "b2", "a2", "a3"):  # 10 : 0, 10 : 4, 10 : 8, then b has none left
        until(lambda title=title: everything[title].state == "running")
        desk.finish(everything[title])
    assert desk.order == ["a1", "b1", "b2", "a2", "a3"]


def test_what_was_used_is_forgiven_with_time():
    desk = Desk(half_life=10)
    try:
        (first,) = desk.submit("a", "a1", takes=100)
        until(lambda: first.state == "running")
        desk.finish(first)
        desk.clock.now += 100  # ten half-lives: 100 s count as 0.1
        (other,) = desk.submit("b", "b1", takes=1)
        until(lambda: other.state == "running")
        mine, theirs = desk.submit("a", "a2")[0], desk.submit("b", "b2")[0]
        desk.finish(other)
        until(lambda: mine.state == "running")
        assert theirs.state == "queued"
    finally:
        desk.manager.close()


def test_a_queued_job_leaves_the_queue_when_cancelled(desk):
    first, second = desk.submit("a", "1")[0], desk.job("a", "2")
    group = desk.manager.submit("a", [second])
    third = desk.submit("a", "3")[0]
    desk.manager.cancel(group)
    assert second.state == "stopped" and desk.manager.counts()[1] <= 2
    desk.finish(first)
    until(lambda: third.state == "running")
    desk.finish(third)
    assert desk.order == ["1", "3"]


def test_a_running_job_stops_and_keeps_its_part(desk):
    group = desk.manager.submit("a", [desk.job("a", "1"), desk.job("a", "2")])
    until(lambda: group.jobs[0].state == "running")
    desk.manager.cancel(group)
    until(lambda: not group.live)
    assert [j.state for j in group.jobs] == ["stopped", "stopped"]
    assert group.jobs[0].result == "half" and group.jobs[1].result is None
    (after,) = desk.submit("b", "3")
    until(lambda: after.state == "running")


def test_a_crash_is_told_and_the_worker_lives_on(desk):
    def crash(job: Job, device: str) -> None:
        raise RuntimeError("a tensor fell over")

    def refuse(job: Job, device: str) -> None:
        raise ValueError("Shorten the prompt.")

    crashed, refused = desk.manager.submit("a", [Job("a", "crash", crash), Job("a", "refuse", refuse)]).jobs
    until(lambda: not refused.live)
    assert crashed.state == "failed" and "tensor" not in crashed.error and crashed.detail == "RuntimeError: a tensor fell over"
    assert refused.state == "failed" and refused.error == "Shorten the prompt." and not refused.detail
    (after,) = desk.submit("a", "after")
    desk.finish(after)
    assert after.state == "done"


def test_the_cap_counts_waiting_jobs_and_takes_all_or_none():
    desk = Desk(waiting=2)
    try:
        (running,) = desk.submit("a", "1")
        until(lambda: running.state == "running")
        desk.submit("a", "2")
        with pytest.raises(ValueError, match="1 lanes waiting and asked for 2 more; at most 2"):
            desk.submit("a", "3", "4")
        assert desk.manager.counts() == (1, 1)
        desk.submit("b", "5", "6")  # another owner has a cap of their own
        assert desk.manager.counts() == (1, 3)
    finally:
        desk.manager.close()


def test_place_and_wait_follow_the_rule(desk):
    first = desk.manager.submit("a", [desk.job("a", "a1", estimate=10.0)]).jobs[0]
    until(lambda: first.state == "running")
    desk.clock.now += 4
    (second,) = desk.manager.submit("a", [desk.job("a", "a2", estimate=5.0)]).jobs
    (other,) = desk.manager.submit("b", [desk.job("b", "b1", estimate=2.0)]).jobs
    assert (desk.manager.place(other).ahead, desk.manager.place(other).seconds) == (1, 6.0)
    assert (desk.manager.place(second).ahead, desk.manager.place(second).seconds) == (2, 8.0)
    (unknown,) = desk.manager.submit("c", [desk.job("c", "c1")]).jobs
    assert desk.manager.place(unknown).seconds == 8.0
    (last,) = desk.manager.submit("c", [desk.job("c", "c2", estimate=1.0)]).jobs
    assert desk.manager.place(last).seconds is None


def test_what_a_closed_tab_asked_for_is_cancelled_after_a_grace_but_not_what_a_reload_looks_at(desk):
    alone, kept = (desk.manager.submit("a", [desk.job("a", title)]) for title in ("1", "2"))
    sweep = desk.manager.submit("a", [desk.job("a", "p", background=True)])
    other = desk.manager.submit("b", [desk.job("b", "3")])
    desk.manager.look(kept)
    timer = desk.manager.left("a", grace=0.05)
    desk.manager.look(kept)  # the page that was loaded anew
    timer.join(5)
    until(lambda: not alone.live)
    assert alone.jobs[0].state == "stopped" and kept.live and sweep.live and other.live
    desk.finish(kept.jobs[0])
    assert kept.jobs[0].state == "done"


def test_events_are_copied_and_bounded(desk):
    job = desk.job("a", "1")
    for i in range(EVENTS + 3):
        job.emit(i)
    seen = job.events()
    job.emit("later")
    assert len(seen) == EVENTS and seen[0] == 3 and seen[-1] == EVENTS + 2


def test_old_groups_are_forgotten_but_never_live_ones():
    desk = Desk(remember=1)
    try:
        live = desk.manager.submit("a", [desk.job("a", "1")])
        done = desk.manager.submit("b", [])
        desk.manager.submit("b", [])
        assert desk.manager.group(live.id) is live and desk.manager.group(done.id) is None
        assert desk.manager.group("nothing") is None
    finally:
        desk.manager.close()


def test_two_devices_work_at_once():
    desk = Desk(devices=("one", "two"))
    try:
        jobs = desk.submit("a", "1", "2")
        until(lambda: all(j.state == "running" for j in jobs))
        for job in jobs:
            desk.finish(job)
        assert {j.result[-3:] for j in jobs} == {"one", "two"}
    finally:
        desk.manager.close()
