"""Files: bytes at offsets, over cache and origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from fscache_core.errors import CallerError, StaleError
from fscache_core.folio import PAGE_SHIFT, page_count
from fscache_core.readahead import NEVER, Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from fscache_core.hookspecs import FileAttributes
    from fscache_core.inode import Inode
    from fscache_core.volume import Volume

#: Hits between two full checkpoints: a full one costs more than the hit.
CHECKPOINT_EVERY = 32

#: Bytes per piece when a file is read as a stream.
CHUNK_SIZE = 1 << 20


class File:
    """An open file: one version of it from open to close.

    Reads may be issued from several tasks at once.  A hit yields to other tasks only every
    `CHECKPOINT_EVERY` reads (`trio.lowlevel.checkpoint_if_cancelled` in between).
    """

    def __init__(self, volume: Volume, inode: Inode, *, reopen: bool) -> None:
        self.volume = volume
        self._inode = inode
        self._window = Window(volume.readahead)
        self._hits = 0
        self._closed = False
        self._may_reopen = reopen  # until something was handed out

    def __repr__(self) -> str:
        return f"<File {self._inode}{' (closed)' if self._closed else ''}>"

    @property
    def attributes(self) -> FileAttributes:
        """What the origin said, or the label says, of the version that is open."""
        attributes = self._inode.attributes
        assert attributes is not None
        return attributes

    @property
    def size(self) -> int:
        """Bytes."""
        return self._inode.size

    @property
    def inode(self) -> Inode:
        return self._inode

    @property
    def closed(self) -> bool:
        return self._closed

    async def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``; fewer, or none, only at the end of the file.

        Raises: as `readinto`.
        """
        size = max(0, min(size, self.size - offset))
        buffer = bytearray(size)
        # A reopened file may have become shorter.
        n = await self.readinto(offset, buffer)
        return bytes(memoryview(buffer)[:n])

    async def readinto(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill ``buffer`` from ``offset``; returns the number of bytes, less than asked only at the end.

        Raises:
          StaleError: the origin has another version, and this one is not cached there.
          OriginError: what is not cached could not be fetched; names origin, file and cause.
          CallerError: the file is closed, or the offset negative.

        Cancellation: the content of the buffer is undefined; nothing else is changed.
        """
        view = memoryview(buffer).cast("B") if not isinstance(buffer, bytearray) else memoryview(buffer)
        n = self._clamp(offset, len(view))
        if n == 0:
            await trio.lowlevel.checkpoint()
            return 0
        if n < len(view):
            view = view[:n]
        inode = self._inode
        read = inode.cookie.read_resident
        if read is not None and read(offset, view) == n:
            stats = self.volume.stats
            stats.hits += 1
            stats.bytes_from_cache += n
            self._may_reopen = False
            window = self._window
            window.expected = end = offset + n
            if end >= window.trigger:
                self.read_on(end)
            self._hits += 1
            if self._hits % CHECKPOINT_EVERY:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
            return n
        return await self._readinto_slowly(offset, view)

    def read_on(self, end: int) -> None:
        """Read ahead of a sequential reader that has come to ``end``."""
        if not self._closed:
            self._inode.read_ahead(*self._window.advance(end))

    async def _readinto_slowly(self, offset: int, view: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            inode = self._inode
            try:
                if not await inode.read_into(offset, view, self._window.read(offset, len(view))):
                    self._window.trigger = NEVER  # all of it is cached: nothing to read ahead of
            except StaleError:
                if not self._may_reopen:
                    raise
                await self._reopen()
                view = view[: self._clamp(offset, len(view))]
                if not view:
                    return 0
                continue
            self._may_reopen = False
            return len(view)

    def _clamp(self, offset: int, size: int) -> int:
        """How many of ``size`` bytes at ``offset`` the file has."""
        if self._closed:
            raise CallerError(f"{self!r} cannot be read")
        if offset < 0:
            raise CallerError(f"{self!r}: offset {offset} is negative")
        return max(0, min(size, self._inode.size - offset))

    async def _reopen(self) -> None:
        """Take up the origin's present version; nothing of the old one was handed out."""
        old = self._inode
        self._inode = await self.volume.open_inode(old.path)
        self._may_reopen = False  # once: a file that changes faster than it is read is the caller's to handle
        self._window = Window(self.volume.readahead)
        self.volume.close_inode(old)

    async def stream(self, offset: int = 0) -> AsyncIterator[memoryview]:
        """Yield the file from ``offset`` to its end, in pieces; each is valid until the next is asked for."""
        buffer = memoryview(bytearray(min(CHUNK_SIZE, max(1, self.size - offset))))
        while n := await self.readinto(offset, buffer):
            yield buffer[:n]
            offset += n

    async def warm(self, advance: Callable[[int], None] | None = None) -> None:
        """Fetch what is not cached yet, and wait until it is stored.

        Args:
          advance: told how many bytes more are cached; they add up to the file's size.

        Raises: as `readinto`.
        """
        await self._inode.cookie.wait_lookup()
        obj = self._inode.cookie.object
        cached = await obj.resident_pages() if obj is not None and obj.active else None
        buffer = memoryview(bytearray(min(CHUNK_SIZE, max(1, self.size))))
        offset = 0
        while offset < self.size:
            n = min(len(buffer), self.size - offset)
            if cached is None or not cached.covers(offset >> PAGE_SHIFT, page_count(n)):
                await self.readinto(offset, buffer[:n])
            offset += n
            if advance is not None:
                advance(n)
        await self._inode.wait_stored()

    async def aclose(self) -> None:
        """Close the file.  What was fetched goes on being stored.  Idempotent."""
        self.close_now()
        await trio.lowlevel.checkpoint()

    def close_now(self) -> None:
        """`aclose` for the trio thread's synchronous code."""
        if not self._closed:
            self._closed = True
            self.volume.close_inode(self._inode)

    def close_warm(self) -> bool:
        """`close_now` from any thread; True if the trio thread must call `settle` afterwards."""
        if self._closed:
            return False
        self._closed = True
        return self.volume.close_warm(self._inode)

    def settle(self) -> None:
        """The rest of `close_warm`."""
        self.volume.settle_inode(self._inode)

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
