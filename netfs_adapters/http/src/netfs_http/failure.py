"""What went wrong in one attempt, whether another one may help, and how long to go on."""

from __future__ import annotations

import math
import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import OriginError, OriginTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failure(Exception):
    """One attempt failed.  It becomes an `OriginError` when origin, file and range are known."""

    def __init__(
        self,
        kind: type[OriginError],
        cause: str,
        *,
        transient: bool = False,
        connecting: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(cause)
        self.kind = kind
        self.cause = cause
        self.transient = transient  #: the same request may well succeed later
        self.connecting = connecting  #: nothing was sent: the origin is not there at all
        self.retry_after_seconds = retry_after_seconds  #: what the origin asked for

    def error(self, where: str) -> OriginError:
        return self.kind(f"{where}: {self.cause}")


@dataclass(slots=True)
class Patience:
    """How long one call goes on after failures: so many of them, and so long without progress."""

    retries: int
    backoff_seconds: float
    deadline_seconds: float
    scope: trio.CancelScope
    failures: int = 0
    last: Failure | None = None

    def progressed(self) -> None:
        """Note that bytes came: the deadline moves."""
        self.scope.deadline = trio.current_time() + self.deadline_seconds

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While in the block nothing is asked of the origin, so its silence means nothing."""
        began, left = trio.current_time(), self.scope.deadline
        self.scope.deadline = math.inf
        try:
            yield
        finally:
            self.scope.deadline = left + trio.current_time() - began

    async def wait(self, failure: Failure) -> None:
        """Wait before the next attempt, or raise ``failure`` if there is to be none."""
        self.failures += 1
        self.last = failure
        if not failure.transient or self.failures > self.retries:
            raise failure
        # Half of the delay is random, so that readers who failed together do not come back together.
        delay = min(10.0, self.backoff_seconds * 2.0 ** min(self.failures, 64)) * random.uniform(0.5, 1)
        if failure.retry_after_seconds is not None:
            delay = failure.retry_after_seconds
        if trio.current_time() + delay > self.scope.deadline:
            raise failure
        await trio.sleep(delay)


@contextmanager
def patience(retries: int, backoff_seconds: float, deadline_seconds: float) -> Iterator[Patience]:
    """Give the block that long between two signs of progress; raises `Failure` when time is up."""
    with trio.CancelScope(deadline=trio.current_time() + deadline_seconds) as scope:
        patient = Patience(retries, backoff_seconds, deadline_seconds, scope)
        yield patient
    if scope.cancelled_caught:
        cause = f"nothing came for {deadline_seconds:g} s"
        raise Failure(OriginTimeoutError, f"{cause} ({patient.last.cause})" if patient.last else cause)
