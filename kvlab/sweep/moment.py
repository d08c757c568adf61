"""A moment of a session to come back to: the cache, the counts of its meter, and where in the conversation it stands."""

from __future__ import annotations

from kvlab.session import Session
from kvlab.sweep.meter import Meter


class Moment:
    """Taken now; `back` may be called as often as needed. Free: tensors are never changed in place."""

    def __init__(self, session: Session) -> None:
        self.session, self.cache = session, session.cache.snapshot()
        self.turn, self.step = session.turn, session.step
        self.counts = session.recorder.mark() if isinstance(session.recorder, Meter) else None

    def back(self) -> None:
        """The session as it was."""
        self.session.cache.restore(self.cache)
        self.session.turn, self.session.step = self.turn, self.step
        if self.counts is not None:
            self.session.recorder.back(self.counts)
