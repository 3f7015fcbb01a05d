"""Bytes on their way from a worker thread into the reader's buffer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Arrival:
    """A buffer being filled from its start, by one thread at a time.

    A context manager around the fetch, in the trio thread.  Once it is left, `put` refuses: a thread that
    was abandoned by a cancelled fetch never touches the buffer again.  The lock makes that exact; leaving
    waits for at most one chunk to be copied.

    What ``arrived`` raises ends the fetch on the spot and comes out where the context manager is left.
    """

    def __init__(self, buffer: memoryview, arrived: Callable[[int], None]) -> None:
        self._buffer = buffer
        self._arrived = arrived
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._open = True
        self._told = 0
        self._scope = trio.CancelScope()  # around the fetch
        self._error: BaseException | None = None  # of ``arrived``
        self.capacity = len(buffer)  #: bytes the buffer takes
        self.size = 0  #: bytes in the buffer

    def __enter__(self) -> Arrival:
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._tell()
        with self._lock:
            self._open = False
            del self._buffer
        self._scope.__exit__(kind, error, traceback)
        if self._error is not None:
            raise self._error

    @property
    def is_open(self) -> bool:
        """Whether somebody still waits."""
        return self._open

    def put(self, chunk: bytes) -> bool:
        """Append ``chunk``, known to be of the right version.  From a worker thread.

        Returns:
          False if nobody waits any more, or there is more than the buffer takes: stop.
        """
        with self._lock:
            end = self.size + len(chunk)
            if not self._open or end > self.capacity:
                return False
            self._buffer[self.size : end] = chunk
            self.size = end
        try:
            # Does not wait for the trio thread: the next chunk is read meanwhile.
            self._token.run_sync_soon(self._tell, idempotent=True)
        except trio.RunFinishedError:
            return False
        return True

    def _tell(self) -> None:
        if self._open and self.size > self._told:
            self._told = self.size
            try:
                self._arrived(self.size)
            except BaseException as error:  # it would end trio, whose task this may be
                self._error = error
                self._open = False
                self._scope.cancel()
