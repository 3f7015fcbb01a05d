"""Files that are open at the server, and reading ranges of them.

A handle belongs to one looked-up file, that is to one version.  If the file is replaced by another of its
name the handle goes on reading the old one; if it is changed in place the attributes of the handle change.

Everything here runs in the asyncio loop, except that a file may be forgotten in any thread.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import asyncssh

from fscache_core.errors import StaleError
from netfs_sshfs.faults import FAULTS
from netfs_sshfs.flight import Flight
from netfs_sshfs.loop import together
from netfs_sshfs.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from netfs_sshfs.file import File
    from netfs_sshfs.options import Options

#: Bytes are checked and handed on about this often, seconds, but in pieces of no more than so many bytes.
_CHECK_SECONDS = 0.1
_CHECK_SIZE_MAX = 4 << 20


class Handle:
    """One open file, or one being opened."""

    def __init__(self, opening: asyncio.Task[asyncssh.SFTPClientFile], version: Version) -> None:
        self.opening = opening
        self.version = version
        self.n_readers = 0
        self.streams: dict[int, object] = {}  #: by the offset where the last range of each ends

    @property
    def opened(self) -> bool:
        return self.opening.done() and not self.opening.cancelled() and self.opening.exception() is None

    @property
    def remote(self) -> asyncssh.SFTPClientFile:
        return self.opening.result()

    async def check(self) -> None:
        """Make sure that the file is of the version.

        What was read before this was asked is of the version then too: a change leaves its mark for good.

        Raises:
          StaleError: it is not.
        """
        there = Version.from_attributes(await self.remote.stat(), 0, 0)
        if not there.same_bytes(self.version):
            raise StaleError(f"changed at the origin: was {self.version}, is {there}")


class Handles:
    """The open files of a session: at most so many, the least recently used are closed first.

    Args:
      in_order: whether the server is known to execute requests in the order they come.  The protocol demands
        it for the requests of one file, but there are servers with many threads.
    """

    def __init__(self, sftp: asyncssh.SFTPClient, options: Options, *, in_order: bool) -> None:
        self._sftp = sftp
        self._options = options
        self._in_order = in_order
        self._flight = Flight()
        self._loop = asyncio.get_running_loop()
        self._handles: OrderedDict[weakref.ref[File], Handle] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()
        # What a server does not tell (limits@openssh.com) is what every server must do: 32 KiB.
        self._block_size = min(sftp.limits.max_read_len or 32768, 262144)
        self._check_size = self._block_size  # bytes; grows with the speed that is seen

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
          arrived: called with the number of first bytes of ``buffer`` that are there and of this version,
            except for all of them.
          progressed: called when anything arrived.

        Raises:
          StaleError: the origin has no such version any more.
        """
        handle = self._get(file)
        handle.n_readers += 1
        end = offset + len(buffer)
        # Who reads on takes turns with who jumps, who then does not wait for all that was read ahead.
        stream = handle.streams[end] = handle.streams.pop(offset, None) or object()
        try:
            await asyncio.shield(handle.opening)
            reading = _Range(
                handle, self._flight, stream, offset, buffer, arrived, progressed, in_order=self._in_order
            )
            began = self._loop.time()
            await reading.read(self._block_size, self._options.max_requests, self._check_size)
            if len(buffer) > self._block_size:  # else the time is that of the way there and back
                speed = len(buffer) / max(self._loop.time() - began, 1e-6)
                self._check_size = max(self._block_size, min(int(speed * _CHECK_SECONDS), _CHECK_SIZE_MAX))
        finally:
            if handle.streams.get(end) is stream:
                del handle.streams[end]
            handle.n_readers -= 1
            self._close_idle()

    def _get(self, file: File) -> Handle:
        """The handle of a file, which is opened if it is not yet.  Who want it at the same time share it."""
        reference = weakref.ref(file, self._forgotten)
        handle = self._handles.get(reference)
        if handle is None:
            handle = Handle(asyncio.create_task(self._open(file.wire_path)), file.known_version)
            handle.opening.add_done_callback(partial(self._opened, reference, handle))
            self._handles[reference] = handle
        self._handles.move_to_end(reference)
        return handle

    async def _open(self, path: bytes) -> asyncssh.SFTPClientFile:
        try:
            # Without a block size, a read is one request: how many of them are under way is ours to say.
            return await self._sftp.open(path, asyncssh.FXF_READ, encoding=None, block_size=None)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise StaleError("gone at the origin") from error

    def _opened(self, reference: weakref.ref[File], handle: Handle, opening: object) -> None:
        kept = self._handles.get(reference) is handle
        if not handle.opened and kept:
            del self._handles[reference]
        elif handle.opened and not kept:  # forgotten meanwhile
            self.close_later(handle.remote)

    def _forgotten(self, reference: weakref.ref[File]) -> None:
        """Called in whatever thread drops the last reference to a file."""
        with suppress(RuntimeError):  # the loop has ended, and every handle with it
            self._loop.call_soon_threadsafe(self._forget, reference)

    def _forget(self, reference: weakref.ref[File]) -> None:
        handle = self._handles.pop(reference, None)
        if handle is not None and handle.opened:
            self.close_later(handle.remote)

    def _close_idle(self) -> None:
        """Close what is over the limit and not being read, least recently used first."""
        excess = len(self._handles) - self._options.max_open_files
        if excess > 0:
            idle = [key for key, handle in self._handles.items() if handle.opened and not handle.n_readers]
            for key in idle[:excess]:
                self.close_later(self._handles.pop(key).remote)

    def close_later(self, remote: asyncssh.SFTPClientFile) -> None:
        """Close a file without waiting until that is done."""
        closing = asyncio.create_task(_close(remote))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class _Range:
    """One range being read by a few tasks, each with one request under way: for a block, or for a check.

    A check goes beside the requests for what comes next: only its own piece waits for it.  A server that
    keeps requests in order is asked for it right behind the piece, so that it costs no time at all.
    """

    def __init__(
        self,
        handle: Handle,
        flight: Flight,
        stream: object,
        offset: int,
        buffer: memoryview,
        arrived: Callable[[int], None],
        progressed: Callable[[], None],
        *,
        in_order: bool,
    ) -> None:
        self._handle = handle
        self._flight = flight
        self._stream = stream
        self._offset = offset
        self._buffer = buffer
        self._size = len(buffer)
        self._arrived = arrived
        self._progressed = progressed
        self._in_order = in_order
        # First bytes of the buffer: asked for; there; of which a check was asked; of the version if they are
        # there; handed on.
        self._requested = self._received = self._asked = self._checked = self._told = 0
        self._islands: dict[int, int] = {}  # start -> end of what arrived beyond a gap
        self._departing = asyncio.Lock()  # so that requests leave in the order of the file

    async def read(self, block_size: int, max_requests: int, check_size: int) -> None:
        """Read it all.

        Args:
          max_requests: how many may be under way at once.
          check_size: bytes that are checked together.
        """
        n_requests = min(max_requests, -(-self._size // block_size))
        await together(*(self._request(block_size, check_size) for _ in range(n_requests)))

    async def _request(self, block_size: int, check_size: int) -> None:
        while True:
            async with self._departing:
                start = self._requested
                if start == self._size:
                    return
                end = self._requested = min(start + block_size, self._size)
                departure = await self._flight.take_off(self._stream, end - start, self._progressed)
            n_reads: int | None = None
            try:
                if self._in_order and self._is_piece(end, check_size):
                    self._asked = end
                    n_reads, _ = await together(self._fill(start, end), self._check(end))
                else:
                    n_reads = await self._fill(start, end)
            finally:
                self._flight.landed(departure, whole=n_reads is not None)
            if n_reads != 1 and self._in_order:
                await self._handle.check()  # the one that was asked for went before the rest of the block
            self._islands[start] = end
            while (end := self._islands.pop(self._received, 0)) > 0:
                self._received = end
            self._tell()
            if not self._in_order and self._is_piece(self._received, check_size):
                self._asked = self._received
                await self._check(self._received)

    def _is_piece(self, end: int, check_size: int) -> bool:
        """Whether there is enough to check up to ``end``."""
        return end - self._asked >= check_size or self._asked < end == self._size

    async def _fill(self, start: int, end: int) -> int:
        """Read a part of the buffer; returns how many requests it took."""
        n_reads = 0
        while start < end:
            try:
                data: bytes = await self._handle.remote.read(end - start, self._offset + start)
            except asyncssh.SFTPFailure:
                await self._handle.check()  # because of a change, perhaps: a directory now
                raise
            if not data:
                raise StaleError(f"ends at byte {self._offset + start}: shorter than it was")
            if len(data) > end - start:
                raise asyncssh.SFTPBadMessage("more data than asked for")
            self._buffer[start : start + len(data)] = data
            start += len(data)
            n_reads += 1
            self._progressed()
        return n_reads

    async def _check(self, end: int) -> None:
        await self._handle.check()
        self._progressed()
        self._checked = max(self._checked, end)
        self._tell()

    def _tell(self) -> None:
        good = min(self._received, self._checked)
        # The return tells that all is there; to say so before costs a change of threads.
        if self._told < good < self._size:
            self._told = good
            self._arrived(good)


async def _close(remote: asyncssh.SFTPClientFile) -> None:
    with suppress(*FAULTS):  # with the connection lost the server closes it
        await remote.close()
