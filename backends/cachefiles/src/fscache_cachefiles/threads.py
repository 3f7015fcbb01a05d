"""Worker threads of one cache: everything that may wait for the disk runs there."""

import time
import traceback
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from fscache_cachefiles.fault import translated
from fscache_cachefiles.secctx import CreationLabel
from fscache_core.errors import FscacheError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_N_THREADS = 16
_TELL_SECONDS = 0.05  # between two reports of progress: each is a round to the trio thread


class Threads:
    """Runs blocking work, as many at once as one cache may.

    Args:
      label: of the files that are made.
    """

    def __init__(self, label: CreationLabel) -> None:
        self._label = label
        self._limiter = trio.CapacityLimiter(_N_THREADS)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run blocking work; what the filesystem says comes out as the contract wants it."""
        done: list[T] = []
        failed: list[OSError] = []
        await trio.to_thread.run_sync(
            _note_outcome, done, failed, self._label, function, *args, limiter=self._limiter
        )
        if not failed:
            return done.pop()
        error = failed.pop()
        # Whoever keeps the exception, a log for instance, must not keep descriptors open by it.
        chain: BaseException | None = error
        while chain is not None:
            traceback.clear_frames(chain.__traceback__)
            chain = chain.__cause__ or chain.__context__
        if isinstance(error, FscacheError):
            raise error
        raise translated(error, getattr(function, "__name__", "work")) from error


def _note_outcome(
    done: list[T], failed: list[OSError], label: CreationLabel, function: Callable[[*Ts], T], *args: *Ts
) -> None:
    """In a thread, which would keep an error that it raised, and all frames of it, until its next work."""
    try:
        done.append(label.run(function, *args))
    except OSError as error:
        failed.append(error)


def tell_now_and_then(progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """For work in a thread: passes on some of the reports of its progress, and ends it if it is cancelled."""
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        trio.from_thread.check_cancelled()
        if done == total or time.monotonic() - told > _TELL_SECONDS:
            trio.from_thread.run_sync(progress, done, total)
            told = time.monotonic()

    return tell
