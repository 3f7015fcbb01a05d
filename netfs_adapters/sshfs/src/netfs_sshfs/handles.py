"""Files that are open at the server, and reading ranges of them.

A handle belongs to one looked-up file, that is to one version.  If the file is replaced by another of its
name the handle goes on reading the old one; if it is changed in place the attributes of the handle change.

Everything here runs in the asyncio loop, except that a file may be forgotten in any thread.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncssh

from fscache_core.errors import StaleError
from netfs_sshfs.faults import FAULTS
from netfs_sshfs.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from netfs_sshfs.file import File
    from netfs_sshfs.options import Options

_CHECK_SIZE = 1 << 20  #: bytes that have arrived are checked and handed on in pieces of about this size


class Handle:
    """One open file."""

    def __init__(self, remote: asyncssh.SFTPClientFile, version: Version, margin_ns: int) -> None:
        self.remote = remote
        self.version = version
        self.n_readers = 0
        self._margin_ns = margin_ns

    async def check(self) -> None:
        """Make sure that the file is still the version it was opened as.

        Raises:
          StaleError: it is not.
        """
        attributes = await self.remote.stat()
        now = Version.from_attributes(attributes, time.time_ns(), self._margin_ns)
        if not now.same_bytes(self.version):
            raise StaleError(f"changed at the origin: was {self.version}, is {now}")


class Handles:
    """The open files of a session: at most so many, the least recently used are closed first."""

    def __init__(self, sftp: asyncssh.SFTPClient, options: Options) -> None:
        self._sftp = sftp
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._opened: OrderedDict[weakref.ref[File], asyncio.Task[Handle]] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        # What a server does not tell (limits@openssh.com) is what every server must do: 32 KiB.
        self._block_size = sftp.limits.max_read_len or 32768

    async def read(
        self,
        file: File,
        offset: int,
        buffer: memoryview,
        arrived: Callable[[int], None],
        progressed: Callable[[], None],
    ) -> None:
        """Read a range of exactly the file's version into ``buffer``.

        Args:
          arrived: called with the number of first bytes of ``buffer`` that are there and of this version.
          progressed: called when anything arrived.

        Raises:
          StaleError: the origin has no such version any more.
        """
        handle = await self._get(file)
        handle.n_readers += 1
        try:
            await _Range(handle, offset, buffer, arrived, progressed).read(
                self._block_size, self._options.max_requests
            )
        finally:
            handle.n_readers -= 1
            self._close_idle()

    async def _get(self, file: File) -> Handle:
        """The handle of a file, opening it if it is not open.  Who want it at the same time share it."""
        reference = weakref.ref(file, self._forgotten)
        opening = self._opened.get(reference)
        if opening is None:
            opening = self._opened[reference] = asyncio.create_task(
                self._open(file.wire_path, file.known_version)
            )
            opening.add_done_callback(
                lambda opening: _succeeded(opening) or self._opened.pop(reference, None)
            )
        self._opened.move_to_end(reference)
        return await asyncio.shield(opening)

    async def _open(self, path: bytes, version: Version) -> Handle:
        try:
            # Without a block size, a read is one request: how many of them are under way is ours to say.
            remote = await self._sftp.open(path, asyncssh.FXF_READ, encoding=None, block_size=None)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise StaleError("gone at the origin") from error
        handle = Handle(remote, version, self._options.clock_margin_ns)
        try:
            await handle.check()
        except BaseException:
            self.close_later(handle.remote)
            raise
        return handle

    def _forgotten(self, reference: weakref.ref[File]) -> None:
        """Called in whatever thread drops the last reference to a file."""
        with suppress(RuntimeError):  # the loop has ended, and every handle with it
            self._loop.call_soon_threadsafe(self._forget, reference)

    def _forget(self, reference: weakref.ref[File]) -> None:
        opening = self._opened.pop(reference, None)
        if opening is not None:
            self._discard(opening)

    def _close_idle(self) -> None:
        """Close what is over the limit and not being read, least recently used first."""
        excess = len(self._opened) - self._options.max_open_files
        if excess > 0:
            idle = [
                r
                for r, opening in self._opened.items()
                if _succeeded(opening) and not opening.result().n_readers
            ]
            for reference in idle[:excess]:
                self.close_later(self._opened.pop(reference).result().remote)

    def _discard(self, opening: asyncio.Task[Handle]) -> None:
        def opened(done: asyncio.Task[Handle]) -> None:
            if _succeeded(done):
                self.close_later(done.result().remote)

        opening.add_done_callback(opened)

    def close_later(self, remote: asyncssh.SFTPClientFile) -> None:
        """Close a file without waiting until that is done."""
        closing = asyncio.create_task(_close(remote))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


def _succeeded(opening: asyncio.Task[Handle]) -> bool:
    return opening.done() and not opening.cancelled() and opening.exception() is None


async def _close(remote: asyncssh.SFTPClientFile) -> None:
    with suppress(*FAULTS):  # with the connection lost the server closes it
        await remote.close()


class _Range:
    """One range being read by a few tasks, each with one request under way: for a block, or for a check.

    A check of what has arrived goes beside the requests for what comes next: only its own piece waits for it.
    """

    def __init__(
        self,
        handle: Handle,
        offset: int,
        buffer: memoryview,
        arrived: Callable[[int], None],
        progressed: Callable[[], None],
    ) -> None:
        self._remote: asyncssh.SFTPClientFile = handle.remote
        self._handle = handle
        self._offset = offset
        self._buffer = buffer
        self._size = len(buffer)
        self._arrived = arrived
        self._progressed = progressed
        # First bytes of the buffer: asked for, there, of which a check was asked, known to be good.
        self._requested = self._received = self._asked = self._good = 0
        self._islands: dict[int, int] = {}  # start -> end of what arrived beyond a gap

    async def read(self, block_size: int, max_requests: int) -> None:
        n_requests = min(max_requests, (self._size + block_size - 1) // block_size)
        if n_requests == 1:
            await self._request(block_size)
            return
        # Not a TaskGroup: in Python 3.11 and 3.12 one that fails leaves its task counted as cancelled,
        # and the deadline around it is then not recognized (python/cpython issue 116720).
        requests = [asyncio.create_task(self._request(block_size)) for _ in range(n_requests)]
        try:
            await asyncio.gather(*requests)
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

    async def _request(self, block_size: int) -> None:
        while self._requested < self._size:
            start = position = self._requested
            end = self._requested = min(start + block_size, self._size)
            while position < end:
                data: bytes = await self._remote.read(end - position, self._offset + position)
                if not data:
                    raise StaleError(f"ends at byte {self._offset + position}: shorter than it was")
                if len(data) > end - position:
                    raise asyncssh.SFTPBadMessage("more data than asked for")
                self._buffer[position : position + len(data)] = data
                position += len(data)
                self._progressed()
            self._islands[start] = end
            while (end := self._islands.pop(self._received, 0)) > 0:
                self._received = end
            if self._received - self._asked >= _CHECK_SIZE or self._asked < self._received == self._size:
                await self._check()

    async def _check(self) -> None:
        received = self._asked = self._received
        await self._handle.check()
        self._progressed()
        if received > self._good:
            self._good = received
            self._arrived(received)
