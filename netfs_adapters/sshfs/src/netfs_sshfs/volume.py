"""A volume: one account of one server, and the thread in which its connection lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fscache_core.errors import OriginUnreachableError
from fscache_core.late_import import importing
from netfs_sshfs.url import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from netfs_sshfs.connection import Connection
    from netfs_sshfs.loop import LoopThread
    from netfs_sshfs.options import Options
    from netfs_sshfs.url import Endpoint

T = TypeVar("T")


def _ignore(_: int) -> None:
    pass


class Volume:
    """Costs nothing until the server is needed: only then comes asyncssh, a thread and a connection."""

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        self.endpoint = endpoint
        self.options = options
        self._thread: LoopThread | None = None
        self._connection: Connection | None = None
        self._closed = False

    def __str__(self) -> str:
        return str(self.endpoint)

    def describe(self, path: str) -> str:
        """Origin and file, for a one-line message."""
        return f"{self}{printable(path)}"

    async def run(
        self,
        work: Callable[[Connection, Callable[[int], None]], Coroutine[object, object, T]],
        progress: Callable[[int], None] = _ignore,
    ) -> T:
        """Run ``work(connection, report)`` in the connection's thread; see `LoopThread.run`."""

        # asyncio and asyncssh are imported here, because that takes longer than reading a cached file.
        if self._thread is None:
            with importing:
                import netfs_sshfs.loop  # noqa: F401
        from netfs_sshfs.loop import LoopClosedError, LoopThread

        async def job(report: Callable[[int], None]) -> T:
            if self._connection is None:
                with importing:
                    from netfs_sshfs.connection import Connection
                self._connection = Connection(self.endpoint, self.options)
            return await work(self._connection, report)

        try:
            if self._closed:
                raise LoopClosedError
            if self._thread is None:
                self._thread = LoopThread(f"netfs {self}")
            return await self._thread.run(job, progress)
        except LoopClosedError:
            raise OriginUnreachableError(f"{self}: the volume was closed") from None

    async def close(self) -> None:
        """End connection, loop and thread.  Idempotent."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is None:
            return

        async def close_connection(report: Callable[[int], None]) -> None:
            if self._connection is not None:
                await self._connection.close()

        try:
            await thread.run(close_connection)
        finally:
            await thread.close()
