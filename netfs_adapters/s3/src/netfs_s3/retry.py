"""Asking again: with back-off, up to a deadline, in trio.

obstore could do this itself, but not be cancelled while it does, and not tell a server that is not there
(soon reported) from one that is busy (worth waiting for).  So its own retries are off.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import trio

from netfs_s3.fault import Fault, FaultKind

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Both count from the last progress: the start, or the last byte that arrived."""

    deadline_seconds: float  #: until a silent or busy origin is reported
    connect_seconds: float  #: until an origin that does not accept connections is reported

    def of(self, kind: FaultKind) -> float:
        if kind is FaultKind.UNREACHABLE:
            return min(self.connect_seconds, self.deadline_seconds)
        if kind in (FaultKind.LOST, FaultKind.TIMEOUT, FaultKind.BUSY):
            return self.deadline_seconds
        return 0.0

    @property
    def silence_seconds(self) -> float:
        """How long one request may be silent.  A third: a new connection often cures a stalled one."""
        return self.deadline_seconds / 3


class Patience:
    """How long one operation goes on trying."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self.progress()

    def progress(self) -> None:
        """Something arrived: start afresh."""
        self._since = trio.current_time()
        self._delay = _FIRST_DELAY_SECONDS

    async def wait_before_retry(self, fault: Fault) -> None:
        """Sleep, if ``fault`` may pass; otherwise, or once the deadline would be missed, raise it."""
        # Full jitter, so that the many readers of one origin do not come back together.
        delay = random.uniform(0.5, 1.0) * self._delay
        self._delay = min(2 * self._delay, _LONGEST_DELAY_SECONDS)
        if trio.current_time() + delay > self._since + self._deadlines.of(fault.kind):
            raise fault
        await trio.sleep(delay)
