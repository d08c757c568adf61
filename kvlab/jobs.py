"""A queue in front of the devices: one worker thread each, fair between visitors, every job cancellable at any time.

Nothing here knows of models or pages. A job's work is a function `work(job, device)` that says what happens through `job.emit`, looks at
`job.stop`, returns its result, and raises `Partial` when it was stopped half way.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

EVENTS = 4096
"""Events a job remembers; older ones are forgotten first."""


class Partial(Exception):
    """Raised by work that was stopped; carries what was kept of it."""

    def __init__(self, result: Any = None) -> None:
        super().__init__("stopped")
        self.result = result


@dataclass(eq=False)
class Job:
    """One piece of work. `state`: queued, running, done, stopped or failed. `error` is a sentence for the screen, `detail` the technical text."""

    owner: str
    title: str
    work: Callable[[Job, str], Any]
    estimate: float | None = None  # device seconds, if known
    background: bool = False  # waits behind its owner's other jobs, such as the points of a sweep
    state: str = "queued"
    order: int = 0
    started: float | None = None
    seconds: float = 0.0  # on the device, once it ended
    result: Any = None
    error: str = ""
    detail: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    _events: deque = field(default_factory=lambda: deque(maxlen=EVENTS))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def emit(self, event: Any) -> None:
        """Add an event; called by the worker."""
        with self._lock:
            self._events.append(event)

    def events(self) -> list[Any]:
        """A copy of the events so far; called by the page."""
        with self._lock:
            return list(self._events)

    @property
    def live(self) -> bool:
        return self.state in ("queued", "running")


@dataclass(frozen=True, eq=False)
class Group:
    """Jobs that were asked for together. `note` is whatever the asker wants back with them."""

    id: str
    owner: str
    jobs: tuple[Job, ...]
    note: Any = None

    @property
    def live(self) -> bool:
        return any(job.live for job in self.jobs)


@dataclass(frozen=True)
class Place:
    """Where a queued job stands: jobs before it, the running ones among them, and the seconds they need (None: not known)."""

    ahead: int
    seconds: float | None


class JobManager:
    """Runs jobs. `waiting`: most queued jobs of one owner, and `points` of those in the background.

    `half_life`: seconds after which half of what an owner used is forgiven."""

    def __init__(
        self, devices: Sequence[str] = ("cpu",), waiting: int = 12, points: int = 400, half_life: float = 600.0, remember: int = 64,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.waiting, self.points, self.half_life, self.remember, self.clock = waiting, points, half_life, remember, clock
        self._ready = threading.Condition()
        self._queues: dict[str, deque[Job]] = {}
        self._running: list[Job] = []
        self._spent: dict[str, tuple[float, float]] = {}  # owner -> device seconds, and when they were counted
        self._groups: OrderedDict[str, Group] = OrderedDict()
        self._looks: dict[str, int] = {}  # group -> how often a page looked at it
        self._order = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, args=(d,), name=f"kvlab {d}", daemon=True) for d in devices]
        for thread in self._threads:
            thread.start()

    def submit(self, owner: str, jobs: Sequence[Job], note: Any = None) -> Group:
        """Queue jobs, all or none. Raises ValueError with a sentence when the owner has too many waiting."""
        with self._ready:
            queue = self._queues.setdefault(owner, deque())
            self._check(queue, jobs)
            for job in jobs:
                self._order += 1
                job.order = self._order
            group = Group(uuid.uuid4().hex, owner, tuple(jobs), note)
            self._queues[owner] = deque(sorted([*queue, *jobs], key=lambda job: (job.background, job.order)))
            self._groups[group.id] = group
            self._forget()
            self._ready.notify_all()
        return group

    def _check(self, queue: deque[Job], jobs: Sequence[Job]) -> None:
        for background, most, what, less in ((False, self.waiting, "lanes", "methods"), (True, self.points, "points", "methods, budgets or tasks")):
            there, more = (sum(job.background == background for job in some) for some in (queue, jobs))
            if more and there + more > most:
                raise ValueError(f"You have {there} {what} waiting and asked for {more} more; at most {most} may wait. Cancel some, or choose fewer {less}.")

    def group(self, key: str) -> Group | None:
        """A group by its id, while it is remembered."""
        with self._ready:
            return self._groups.get(key)

    def of(self, owner: str) -> list[Group]:
        """What an owner asked for, newest first, while it is remembered."""
        with self._ready:
            return [group for group in reversed(self._groups.values()) if group.owner == owner]

    def look(self, group: Group) -> None:
        """A page shows this group: somebody still wants it."""
        with self._ready:
            self._looks[group.id] = self._looks.get(group.id, 0) + 1

    def left(self, owner: str, grace: float = 60.0) -> threading.Timer:
        """The owner's tab is gone, or was reloaded: what no page looks at within `grace` seconds is cancelled. Jobs in the background go on."""
        before = {group.id: self._looks.get(group.id, 0) for group in self.of(owner) if group.live and not all(job.background for job in group.jobs)}

        def end() -> None:
            for key, looks in before.items():
                if (group := self.group(key)) and group.live and self._looks.get(key, 0) == looks:
                    log.info("group %s was left alone and is cancelled", key)
                    self.cancel(group)

        timer = threading.Timer(grace, end)
        timer.daemon = True
        timer.start()
        return timer

    def cancel(self, group: Group) -> None:
        """Take queued jobs out of the queue and tell running ones to stop."""
        with self._ready:
            for job in group.jobs:
                job.stop.set()
                if job.state == "queued":
                    self._queues[job.owner].remove(job)
                    job.state = "stopped"
            self._ready.notify_all()

    def counts(self) -> tuple[int, int]:
        """Jobs running and jobs waiting, of everybody."""
        with self._ready:
            return len(self._running), sum(map(len, self._queues.values()))

    def place(self, job: Job) -> Place:
        """Plays the queue forward until it is the job's turn, so that what is said is what the rule will do."""
        with self._ready:
            now = self.clock()
            used = {owner: self._used(owner, now) for owner in self._queues}
            queues = {owner: deque(queue) for owner, queue in self._queues.items()}
            ahead = len(self._running)
            waits = [None if j.estimate is None else max(0.0, j.estimate - (now - j.started)) for j in self._running]
            while (owner := _next(queues, used)) is not None:
                first = queues[owner].popleft()
                if first is job:
                    break
                ahead += 1
                waits.append(first.estimate)
                used[owner] += first.estimate or 0.0
        known = all(w is not None for w in waits)
        return Place(ahead, sum(waits) / len(self._threads) if known else None)

    def close(self) -> None:
        """Stop everything and end the threads."""
        with self._ready:
            self._closed = True
            for group in self._groups.values():
                self.cancel(group) if group.live else None
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(10)

    def _used(self, owner: str, now: float) -> float:
        """Device seconds of an owner: past ones decayed, running ones in full."""
        seconds, then = self._spent.get(owner, (0.0, now))
        return seconds * 0.5 ** ((now - then) / self.half_life) + sum(now - j.started for j in self._running if j.owner == owner)

    def _forget(self) -> None:
        """Let go of the oldest finished groups, of empty queues and of debts that have faded."""
        for key in [key for key, group in self._groups.items() if not group.live][: max(0, len(self._groups) - self.remember)]:
            del self._groups[key]
            self._looks.pop(key, None)
        now = self.clock()
        self._queues = {owner: queue for owner, queue in self._queues.items() if queue}
        self._spent = {owner: spent for owner, spent in self._spent.items() if self._used(owner, now) > 1e-3}

    def _serve(self, device: str) -> None:
        """The life of a worker thread."""
        while True:
            with self._ready:
                while (job := self._take()) is None:
                    if self._closed:
                        return
                    self._ready.wait()
            self._do(job, device)

    def _take(self) -> Job | None:
        now = self.clock()
        owner = _next(self._queues, {owner: self._used(owner, now) for owner in self._queues})
        if owner is None:
            return None
        job = self._queues[owner].popleft()
        job.state, job.started = "running", now
        self._running.append(job)
        return job

    def _do(self, job: Job, device: str) -> None:
        state = "failed"
        try:
            job.result, state = job.work(job, device), "done"
        except Partial as stopped:
            job.result, state = stopped.result, "stopped"
        except ValueError as error:
            job.error = str(error)
        except Exception as error:  # whatever a job does, the worker lives on
            job.error = "Something went wrong inside kvlab. Other lanes are not affected; the technical text says more."
            job.detail = f"{type(error).__name__}: {error}"
            log.exception("job %r failed", job.title)
        with self._ready:
            now = self.clock()
            used = self._used(job.owner, now)  # while it still counts as running
            self._running.remove(job)
            self._spent[job.owner] = used, now
            job.seconds = now - job.started
            job.state = state
            self._ready.notify_all()


def _next(queues: dict[str, deque[Job]], used: dict[str, float]) -> str | None:
    """Whose turn it is: the owner who used least, of two equal ones who asked first."""
    waiting = [owner for owner, queue in queues.items() if queue]
    return min(waiting, key=lambda owner: (used[owner], queues[owner][0].order)) if waiting else None
