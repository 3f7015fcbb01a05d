"""Fetching: one range of one version, from the origin into memory and on into the cache.

A fetch runs in a task of its own.  Readers that want its pages wait for them and copy them out as they
arrive; the pages are queued for storing as they arrive, and the fetch stays known to its inode until
they are stored, so that nobody asks the origin for them a second time.

Between processes the backend's fill lock decides who fetches.  Having it, the fetch looks into the cache
once more: what another process stored meanwhile is taken from there.
"""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import FscacheError, NoMemoryError, OfflineError, PluginError, StaleError
from fscache_core.fill_lock import lock_pages, unlock_pages
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, Folio, PageRuns, page_count
from fscache_core.outcome import WriteOutcome
from fscache_core.page import read_or_alloc_pages, write_page_nowait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_core.inode import Inode
    from fscache_core.object import CacheObject
    from fscache_core.readahead import Window

#: A range is asked for as a whole, if the adapter can, where all of it is likely to be there within so many
#: seconds; and in any case up to so many bytes, few enough to come within seconds over the slowest line.
#: Else its bytes are handed on as they arrive.
WHOLE_SECONDS = 0.25
WHOLE_SIZE = 64 << 10

#: Seconds after which an origin that was fast is not any more.  Then what is long is asked for anew, and its
#: bytes are handed on as they arrive.  Long, for what was sent is lost; a machine that is busy is no reason.
WHOLE_PATIENCE_SECONDS = 30.0

#: Arrived bytes are stored in runs of at least this many bytes while more are to come.
STORE_SIZE = 1 << 20

#: Where more is to come, stores end at a multiple of this in the file: to add to a part of a backend's block
#: costs it reading what is there.
STORE_ALIGNMENT = 64 << 10

#: Seconds after which less is stored, if the origin is slow: other processes wait for it.
STORE_SECONDS = 0.5


class Fetch:
    """Pages ``first`` to ``end - 1`` on their way.  Made and started by `InodeFetches`.

    Raises:
      NoMemoryError: there is none for them; names file and range.
    """

    __slots__ = (
        "_ask_cache",
        "_buffer",
        "_locked",
        "_lot",
        "done",
        "end",
        "error",
        "first",
        "inode",
        "n_waiting",
        "over",
        "read",
        "reader",
        "ready",
        "scope",
        "size",
        "stored",
        "wanted",
    )

    def __init__(self, inode: Inode, first: int, n_pages: int, reader: Window, *, ask_cache: bool) -> None:
        self.inode = inode
        self.reader = reader  #: whose read, or read-ahead, it was started for
        self.first = first
        self.end = first + n_pages
        self._ask_cache = ask_cache
        self.wanted = not ask_cache  #: a reader missed all of it, and nothing was read ahead
        offset = first << PAGE_SHIFT
        self.size = min(n_pages << PAGE_SHIFT, inode.size - offset)  #: bytes
        try:
            self._buffer = memoryview(inode.volume.domain.fetch_buffers.take(self.size))
        except NoMemoryError as error:
            raise NoMemoryError(self._failure(str(error))) from error.__cause__
        self._locked: CacheObject | None = None  # whose fill lock we have
        self._lot = trio.lowlevel.ParkingLot()
        self.ready = PageRuns()  #: pages whose bytes are in the buffer, known to be right
        self.read = PageRuns()  #: pages that some reader has had
        self.error: FscacheError | None = None
        self.done = False  #: nothing more will become ready
        self.over = False
        self.stored = True  #: whether every ready page is in the cache, as far as is known
        self.n_waiting = 0
        self.scope = trio.CancelScope(shield=True)

    def __repr__(self) -> str:
        return f"<Fetch pages {self.first}..{self.end - 1} of {self.inode}>"

    async def wait_ready(self, page_index: int) -> bool:
        """Wait until a page is ready; False if the fetch was given up before it came.

        Raises:
          FscacheError: the fetch failed before it came.
        """
        self.n_waiting += 1
        try:
            while page_index not in self.ready:
                if self.error is not None:
                    # One each: a traceback belongs to one reader.
                    raise copy.copy(self.error) from self.error.__cause__
                if self.done:
                    return False
                await self._lot.park()
        except trio.Cancelled:
            if self.n_waiting == 1:
                self.inode.fetching.abandoned(self)
            raise
        finally:
            self.n_waiting -= 1
        return True

    def give_up(self) -> None:
        """Stop fetching; what is ready is still stored."""
        self.scope.cancel()

    @property
    def given_up(self) -> bool:
        return self.scope.cancel_called

    async def wait_over(self) -> None:
        """Wait until the task has ended and holds no lock any more."""
        while not self.over:
            await self._lot.park()

    def ready_end(self, page_index: int) -> int:
        """Index after the last page that is ready without a gap from ``page_index`` on."""
        gap = next(self.ready.gaps(page_index, self.end - page_index), None)
        return self.end if gap is None else gap[0]

    def copy_to(self, buffer: memoryview, offset: int) -> None:
        """Copy ready bytes of the file at ``offset`` into ``buffer``."""
        start = offset - (self.first << PAGE_SHIFT)
        buffer[:] = self._buffer[start : start + len(buffer)]

    def give_buffer(self) -> None:
        """Let the next fetch have the memory.  Nothing more is ready."""
        self.ready = PageRuns()
        self._put_buffer(memoryview(b""))

    def _put_buffer(self, buffer: memoryview) -> None:
        """Take ``buffer`` for what is ready, and give back the memory there was."""
        memory, old, self._buffer = self._buffer.obj, self._buffer, buffer
        try:
            old.release()
        except BufferError:
            return
        self.inode.volume.domain.fetch_buffers.give(memory)

    async def run(self) -> None:
        """The task.  It ends when what arrived is stored, so that until then readers find it here.

        Whatever fails costs this fetch: only a cancellation or Ctrl-C comes out.
        """
        inode, n_pages = self.inode, self.end - self.first
        try:
            with self._contained(), self.scope:
                for other in inode.fetching.overlapping(self):
                    await other.wait_over()  # one that was given up: our ranges may not overlap
                    self._ask_cache = True  # it may have got further after we looked
                self._locked = await lock_pages(inode.cookie, self.first, n_pages, self._look_again)
                if self._locked is not None or self._ask_cache:
                    await self._read_cached()
                for first, n_missing in list(self.ready.gaps(self.first, n_pages)):
                    await self._fetch(first, n_missing)
                if inode.n_open:
                    inode.fetching.read_ahead(*self.reader.arrived(), self.reader)
        finally:
            self.done = True
            self._lot.unpark_all()
            with self._contained():
                await inode.cookie.wait_on_page_write(self.first, n_pages)
                marks = inode.cookie.marks  # which the cookie has of pages it could store
                self.stored = self.stored and all(marks.covers(*run) for run in self.ready)
            with self._contained():
                if self._locked is not None:
                    unlock_pages(self._locked, self.first, n_pages)
            self.over = True
            self._lot.unpark_all()
            with self._contained():
                inode.fetch_ended(self)

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Let what fails within fail this fetch.  A bug of core's own is reported, too."""
        try:
            yield
        except FscacheError as error:
            self.error = self.error or error
        except MemoryError as error:
            self._fail(NoMemoryError(self._failure("no memory")), error)
        except Exception as error:
            self.inode.volume.domain.bug(repr(self), error)
            why = f"bug in fscache: {type(error).__name__}: {error}"
            self._fail(FscacheError(self._failure(why)), error)

    def _fail(self, error: FscacheError, cause: Exception) -> None:
        error.__cause__ = cause
        self.error = self.error or error
        self.stored = False  # as far as is known

    def _failure(self, why: str) -> str:
        start = self.first << PAGE_SHIFT
        return f"{self.inode}, bytes {start} to {start + self.size - 1}, cannot be fetched: {why}"

    async def _look_again(self) -> int:
        """Take what another process has stored meanwhile; returns how many pages are missing still."""
        self.inode.volume.stats.joined += 1
        await self._read_cached()
        return self.end - self.first - self.ready.total()

    async def _read_cached(self) -> None:
        """Take from the cache what is there by now."""
        folios = [self._folio(*gap) for gap in self.ready.gaps(self.first, self.end - self.first)]
        if folios:
            await read_or_alloc_pages(self.inode.cookie, folios, self._end_io, self.inode.netfs_data)

    def _end_io(self, first: int, n_pages: int, error: BaseException | None) -> None:
        if error is None:
            self.ready.add(first, n_pages)
            self.inode.volume.stats.bytes_from_cache += self.inode.bytes_of(first, n_pages)
            self._lot.unpark_all()

    def _folio(self, first: int, n_pages: int) -> Folio:
        start = (first - self.first) << PAGE_SHIFT
        return Folio(first, self._buffer[start : start + (n_pages << PAGE_SHIFT)])

    async def _fetch(self, first: int, n_pages: int) -> None:
        inode = self.inode
        stats = inode.volume.stats
        offset, size = first << PAGE_SHIFT, inode.bytes_of(first, n_pages)
        if inode.volume.coherency.offline:
            raise OfflineError(f"{inode}: offline, and bytes {offset} to {offset + size - 1} are not cached")
        self._check_overwritten()
        at = 0  # bytes arrived
        ready = 0  # whole pages made ready
        kept = 0  # pages handed to the cache
        kept_at = trio.current_time()

        def keep(pages: int) -> None:
            nonlocal kept, kept_at
            self._store(first + kept, pages - kept)
            kept, kept_at = pages, trio.current_time()

        def arrived(n_bytes: int) -> None:
            nonlocal at, ready
            if not at <= n_bytes <= size:
                raise PluginError(
                    f"netfs {inode.netfs.name}: fetch said that {n_bytes} bytes of {size} arrived after {at}",
                    plugin=inode.netfs.name,
                )
            stats.bytes_from_origin += n_bytes - at
            at = n_bytes
            if inode.overwritten:
                return
            whole = page_count(at) if at == size else at // PAGE_SIZE
            if whole > ready:
                self.ready.add(first + ready, whole - ready)
                ready = whole
                self._lot.unpark_all()
            aligned = ready - (first + ready) % (STORE_ALIGNMENT >> PAGE_SHIFT)
            if at == size:
                keep(ready)
            elif (aligned - kept) << PAGE_SHIFT >= STORE_SIZE:
                keep(aligned)
            elif ready > kept and trio.current_time() - kept_at >= STORE_SECONDS:
                keep(aligned if aligned > kept else ready)

        try:
            started = trio.current_time()
            if not await self._fetch_whole(offset, size):
                netfs, buffer = inode.netfs, self._folio(first, n_pages).buffer
                await netfs.call("fetch", netfs.fetch, inode.netfs_data, offset, buffer, arrived)
            if size > WHOLE_SIZE:
                inode.volume.fetch_speed = size / max(trio.current_time() - started, 1e-6)
            if at < size:
                arrived(size)
            self._check_overwritten()
        finally:
            keep(ready)

    def _check_overwritten(self) -> None:
        """Raise StaleError if what the origin gives could be of a later version and nobody would know."""
        if self.inode.overwritten:
            raise StaleError(
                f"{self.inode}: changed through this cache since it was opened; its old version cannot be "
                "told from the new one"
            )

    async def _fetch_whole(self, offset: int, size: int) -> bool:
        """Have the adapter's own memory for a buffer.  False if that cannot be, or would take too long."""
        inode = self.inode
        netfs, likely = inode.netfs, inode.volume.fetch_speed * WHOLE_SECONDS
        if netfs.fetch_whole is None or size != self.size or size > max(WHOLE_SIZE, likely):
            return False
        with trio.move_on_after(WHOLE_PATIENCE_SECONDS if size > WHOLE_SIZE else math.inf) as patience:
            memory = await netfs.call("fetch_whole", netfs.fetch_whole, inode.netfs_data, offset, size)
        if patience.cancelled_caught:
            return False
        message = f"netfs {netfs.name}: fetch_whole returned {type(memory).__name__}, not {size} bytes"
        try:
            buffer = memoryview(memory).cast("B")
        except Exception as error:  # no memory, or let go of already; its type may raise what it likes
            raise PluginError(message, plugin=netfs.name) from error
        if len(buffer) != size:
            raise PluginError(message, plugin=netfs.name)
        self._put_buffer(buffer)
        return True

    def _store(self, first: int, n_pages: int) -> None:
        if n_pages:
            outcome = write_page_nowait(self.inode.cookie, self._folio(first, n_pages))
            if outcome is WriteOutcome.STORED:
                self.inode.volume.stats.bytes_stored += self.inode.bytes_of(first, n_pages)
            else:
                self.stored = False
