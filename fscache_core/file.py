"""Files: bytes at offsets, over cache and origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from fscache_core.errors import CallerError, StaleError
from fscache_core.folio import PAGE_SHIFT, page_count
from fscache_core.object_request import resident_pages
from fscache_core.readahead import Window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from fscache_core.hookspecs import FileAttributes
    from fscache_core.inode import Inode
    from fscache_core.volume import Volume

#: Hits between two full checkpoints: a full one costs more than the hit.
CHECKPOINT_EVERY = 32

#: Bytes copied out of fetches between two full checkpoints.
CHECKPOINT_SIZE = 4 << 20

#: Sequential readers that an open file may have taking turns, each with a window.
N_WINDOWS = 4

#: Bytes per piece when a file is read as a stream.
CHUNK_SIZE = 1 << 20


class File:
    """An open file: one version of it from open to close.

    Reads may be issued from several tasks at once.  A hit yields to other tasks only every
    `CHECKPOINT_EVERY` reads (`trio.lowlevel.checkpoint_if_cancelled` in between).
    """

    __slots__ = (
        "_closed",
        "_decided",
        "_hits",
        "_other_windows",
        "_reopening",
        "_told_size",
        "_unyielded",
        "_version",
        "_window",
        "inode",
        "volume",
    )

    def __init__(self, volume: Volume, inode: Inode, *, reopen: bool) -> None:
        self.volume = volume
        self.inode = inode  #: read-only; another one once it is reopened
        self._window = Window(volume.readahead)  # of whoever missed something last
        self._other_windows: tuple[Window, ...] = ()  # the latest first
        self._hits = 0
        self._unyielded = 0  # bytes
        self._closed = False
        # The version that bytes were handed out of.  In a table of one, because `dict.setdefault` lets one
        # of several threads decide, without a lock that a fork could leave taken.
        self._decided: dict[None, Inode] = {} if reopen else {None: inode}
        self._version: Inode | None = None  # the same, for a quick look
        self._told_size = False  # whether the caller was told how long it is
        self._reopening: trio.Lock | None = None

    def __repr__(self) -> str:
        return f"<File {self.inode}{' (closed)' if self._closed else ''}>"

    @property
    def attributes(self) -> FileAttributes:
        """What the origin said, or the label says, of the version that is open."""
        attributes = self.inode.attributes
        assert attributes is not None
        return attributes

    @property
    def size(self) -> int:
        """Bytes."""
        self._told_size = True
        return self.inode.size

    @property
    def closed(self) -> bool:
        return self._closed

    async def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``; fewer, or none, only at the end of the file.

        Raises: as `readinto`.
        """
        while True:
            inode = self.inode
            buffer = bytearray(max(0, min(size, inode.size - offset)))
            n = await self.readinto(offset, buffer)
            if inode is self.inode:  # else it was reopened, and has another size
                return bytes(memoryview(buffer)[:n])

    async def readinto(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill ``buffer`` from ``offset``; returns the number of bytes, less than asked only at the end.

        Raises:
          StaleError: the origin has another version, and this one is not cached there.
          OriginError: what is not cached could not be fetched; names origin, file and cause.
          NoMemoryError: there is no memory to fetch it into; names file and range.
          CallerError: the file is closed, or the offset negative.

        Cancellation: the content of the buffer is undefined; nothing else is changed.
        """
        view = whole = memoryview(buffer)
        if not isinstance(buffer, bytearray):
            if view.readonly:
                raise TypeError("a writable buffer is needed")
            view = whole = view.cast("B")
        n = self._clamp(offset, len(view))
        if n == 0:
            self._told_size = True
            await trio.lowlevel.checkpoint()
            return 0
        if n < len(view):
            view = view[:n]
        inode = self.inode
        read = inode.cookie.read_resident
        if (
            read is not None
            and not (inode.fetches and inode.has_arrived(offset))
            and read(offset, view) == n
            and (self._version is inode or self.decide(inode))
        ):
            stats = self.volume.stats
            stats.hits += 1
            stats.bytes_from_cache += n
            window = self._window
            end = offset + n
            if end >= window.trigger:
                if offset == window.expected:
                    self.read_on(end)
                else:
                    window.rest()
            window.expected = end
            self._hits += 1
            if self._hits % CHECKPOINT_EVERY:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
            return n
        return await self._readinto_slowly(offset, whole)

    def decide(self, inode: Inode) -> bool:
        """Before bytes of a version are handed out: whether this file is, from now on, of that version.

        May be called from any thread.  False: it was reopened, and another version is the one.
        """
        if self._decided.setdefault(None, inode) is not inode:
            return False
        self._version = inode
        return True

    def read_on(self, end: int) -> None:
        """Read ahead of a sequential reader that has come to ``end``."""
        if not self._closed:
            self.inode.fetching.read_ahead(*self._window.advance(end), self._window)

    async def _readinto_slowly(self, offset: int, buffer: memoryview) -> int:
        self._unyielded += len(buffer)
        if self._unyielded < CHECKPOINT_SIZE and self.inode.has_arrived(offset):
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()
        while True:
            n = self._clamp(offset, len(buffer))
            if n == 0:
                self._told_size = True
                return 0
            inode, window = self.inode, self._window_at(offset)
            asked = window.ahead
            try:
                missed = await inode.read_into(offset, buffer[:n], *window.read(offset, n), window)
            except StaleError:
                if not await self._reopen(inode):
                    raise
                continue
            if self._version is inode or self.decide(inode):
                if not missed:
                    window.found(offset + n, asked)
                return n

    def _window_at(self, offset: int) -> Window:
        """The window of the reader who comes to ``offset``; a new one if that is nobody known.

        Two who take turns, or one who reads two parts side by side, look like jumps.
        """
        window, others = self._window, self._other_windows
        if offset == window.expected and window.comes_to(offset):
            return window
        for known in (window, *others):
            if known.comes_to(offset):
                known.expected = offset  # hits of another may have come between
                if known is not window:
                    self._window = known
                    self._other_windows = (window, *(other for other in others if other is not known))
                return known
        if offset != window.expected and window.ahead:
            for dropped in others[N_WINDOWS - 2 :]:
                dropped.rest()
            self._window = Window(self.volume.readahead)
            self._other_windows = (window, *others[: N_WINDOWS - 2])
        return self._window

    def _rest(self) -> None:
        """Read nothing ahead until the next miss."""
        self._window.rest()
        for window in self._other_windows:
            window.rest()

    def _clamp(self, offset: int, size: int) -> int:
        """How many of ``size`` bytes at ``offset`` the file has."""
        if self._closed:
            raise CallerError(f"{self!r} cannot be read")
        if offset < 0:
            raise CallerError(f"{self!r}: offset {offset} is negative")
        return max(0, min(size, self.inode.size - offset))

    async def _reopen(self, stale: Inode) -> bool:
        """Take up the origin's present version in place of ``stale``.

        False if it is too late for that: bytes of ``stale`` were handed out, or its size, which is
        another one now.  A file is reopened once at most: one that changes faster than it is read is the
        caller's to handle.
        """
        if self._reopening is None:
            self._reopening = trio.Lock()
        async with self._reopening:  # several tasks may have met the change at once
            if self._decided:
                return self._decided[None] is not stale
            inode = await self.volume.namei.open(stale.path)
            if (
                self._closed
                or (self._told_size and inode.size != stale.size)
                or not self.decide(inode)  # meanwhile somebody got bytes that had been fetched before
            ):
                self.volume.icache.close(inode)
                return False
            self.inode = inode
            self._rest()
            self._window, self._other_windows = Window(self.volume.readahead), ()
            self.volume.icache.close(stale)
            return True

    async def stream(self, offset: int = 0) -> AsyncIterator[memoryview]:
        """Yield the file from ``offset`` to its end, in pieces; each is valid until the next is asked for."""
        buffer = memoryview(bytearray(min(CHUNK_SIZE, max(1, self.inode.size - offset))))
        while n := await self.readinto(offset, buffer):
            yield buffer[:n]
            offset += n

    async def warm(self, advance: Callable[[int], None] | None = None) -> None:
        """Fetch what is not cached yet, and wait until it is stored.

        Args:
          advance: told how many bytes more are cached; they add up to the file's size.

        Raises: as `readinto`.
        """
        told = 0  # bytes
        while True:
            inode = self.inode
            await inode.cookie.wait_lookup()
            obj = inode.cookie.object
            cached = await resident_pages(obj) if obj is not None and obj.active else None
            buffer = memoryview(bytearray(min(CHUNK_SIZE, max(1, inode.size))))
            offset = 0
            while offset < inode.size and inode is self.inode:
                n = min(len(buffer), inode.size - offset)
                if cached is None or not cached.covers(offset >> PAGE_SHIFT, page_count(n)):
                    await self.readinto(offset, buffer[:n])
                offset += n
                if advance is not None and offset > told and inode is self.inode:
                    advance(offset - told)
                    told = offset
            if inode is self.inode:  # else what was warmed is of a version that is gone
                return await inode.wait_stored()

    async def aclose(self) -> None:
        """Close the file.  What was fetched goes on being stored.  Idempotent."""
        self.close_now()
        await trio.lowlevel.checkpoint()

    def close_now(self) -> None:
        """`aclose` for the trio thread's synchronous code."""
        if not self._closed:
            self._closed = True
            self._rest()
            self.volume.icache.close(self.inode)

    def close_warm(self) -> bool:
        """`close_now` from any thread, once bytes were handed out.

        True if the trio thread must call `settle` afterwards.
        """
        assert self._version is not None
        self._closed = True
        self._rest()
        return self.volume.icache.release(self._version)

    def settle(self) -> None:
        """The rest of `close_warm`."""
        self.volume.icache.settle(self.inode)

    async def __aenter__(self) -> File:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
