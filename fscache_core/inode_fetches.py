"""The fetches of one inode: what is on its way and what is kept, and how much to fetch at a time.

A fetch is under way until its pages are stored.  If they could not be, it is kept a little longer, for
readers who are about to want it.  The memory of both is bounded over all inodes (``Limits.fetch_size``).

Nothing here awaits but `InodeFetches.wait_store_room`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.errors import NoMemoryError
from fscache_core.fetch import Fetch
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, PageRuns, page_count

if TYPE_CHECKING:
    from fscache_core.inode import Inode
    from fscache_core.readahead import Window

#: Bytes of fetched pages that could not be stored, kept for the readers who are about to want them; more if
#: more may have been read ahead.
KEPT_SIZE = 16 << 20

#: Bytes that a reader may always have fetched, however little memory is left for fetches.
SMALLEST_FETCH = 128 << 10


class InodeFetches:
    """See the module."""

    __slots__ = ("_inode", "_volume", "kept", "under_way")

    def __init__(self, inode: Inode) -> None:
        self._inode = inode
        self._volume = inode.volume
        self.under_way: list[Fetch] = []  #: in the order of their starts
        self.kept: list[Fetch] = []  #: over, but not stored; oldest first

    def of(self, page: int) -> Fetch | None:
        """The fetch that has a page, or is about to; None if there is none."""
        for fetch in self.under_way:
            if fetch.first <= page < fetch.end and (
                page in fetch.ready or not (fetch.done or fetch.given_up)
            ):
                return fetch
        for fetch in self.kept:
            if page in fetch.ready:
                return fetch
        return None

    def overlapping(self, fetch: Fetch) -> list[Fetch]:
        """Fetches that were started before this one and want some of its pages."""
        older = self.under_way[: self.under_way.index(fetch)]
        return [other for other in older if other.first < fetch.end and fetch.first < other.end]

    def until_next(self, page: int, n_pages: int) -> int:
        """How many of the pages come before the next fetch under way."""
        starts = [
            fetch.first for fetch in (*self.under_way, *self.kept) if page < fetch.first < page + n_pages
        ]
        return min(starts) - page if starts else n_pages

    async def wait_store_room(self) -> bool:
        """Wait while the cache is so much slower than the origin that memory would fill up.

        Returns whether it was.
        """
        domain = self._volume.domain
        waited = False
        while domain.stores_size > domain.limits.store_size:
            waited = True
            await domain.stores_changed.park()
        return waited

    def window_pages(self) -> int:
        """How much of one range to fetch at a time: a share of the memory there is for fetches.

        A reader gets a little even when there is none left: it has lent us as much itself, and to wait could
        mean to wait for another origin that hangs.
        """
        limits = self._volume.readahead
        share = max(SMALLEST_FETCH, self._volume.domain.fetch_memory.room // 4)
        return min(share, max(limits.max_size, limits.fetch_size, PAGE_SIZE)) >> PAGE_SHIFT

    def reach(self, page: int, n_pages: int) -> int:
        """Index after the page up to which to fetch of a run while its first page is awaited.

        At most a window further, and as a window moves on with each byte that comes, to where a fetch ends.
        """
        window = self.window_pages()
        if n_pages <= window:
            return page + n_pages
        return (page + window) // self._step * self._step

    def start(self, page: int, n_pages: int, ahead: int, reader: Window) -> None:
        """Start fetching a gap, at most a window of it; and what lies ahead, if the reader wants that.

        Raises:
          NoMemoryError: there is none for ``page``; names file and range.
        """
        obj = self._inode.cookie.object
        if self._volume.domain.has_caches and (obj is None or not obj.active):
            self._volume.stats.fallbacks += 1
        window = self.window_pages()
        last = reach = page + min(n_pages, window)
        if n_pages <= window:
            # One request brings first what is waited for; another beside it would take half of the line.
            most = min(self._ahead_end(last, ahead), (last // self._step + 1) * self._step)
            reach = page + self.until_next(page, max(last, most) - page)
        try:
            self._start_run(page, reach - page, reader, missed=last)
        except NoMemoryError:
            if self.of(page) is None:
                self._start_run(page, last - page, reader, missed=last)
            return  # as this comes, its reader asks for more
        if n_pages <= window and ahead > reach << PAGE_SHIFT:
            self.read_ahead(reach << PAGE_SHIFT, ahead, reader)

    def read_ahead(self, offset: int, ahead: int, reader: Window) -> None:
        """Start fetching, or reading from the cache, what lies from ``offset`` to ``ahead``."""
        if offset < ahead and not self.fetch_on(offset, ahead, reader):
            reader.refused(offset)

    def fetch_on(self, offset: int, ahead: int, reader: Window) -> bool:
        """`read_ahead`; False if it is not the time, or there is no memory for all of it."""
        if not self._may_read_ahead:
            return False
        page = page_count(offset)
        end = self._ahead_end(page, ahead)
        known = PageRuns()
        for fetch in (*self.under_way, *self.kept):
            known.add(fetch.first, fetch.end - fetch.first)
        for first, n_pages in list(known.gaps(page, end - page)):
            try:
                self._start_run(first, n_pages, reader, missed=first)
            except NoMemoryError:
                return False
        return True

    @property
    def _may_read_ahead(self) -> bool:
        domain = self._volume.domain
        return domain.stores_size <= domain.limits.store_size // 2 and not self._volume.closed

    def _ahead_end(self, page: int, ahead: int) -> int:
        """Index after the last page that may be fetched ahead from ``page`` on: at most to byte ``ahead``."""
        if not self._may_read_ahead:
            return page
        room = self._volume.domain.fetch_memory.room // 4 >> PAGE_SHIFT
        return min(page_count(min(ahead, self._inode.size)), page + room)

    @property
    def _step(self) -> int:
        """Pages of the longest fetch."""
        return max(1, self._volume.readahead.fetch_size >> PAGE_SHIFT)

    def _start_run(self, page: int, n_pages: int, reader: Window, *, missed: int) -> None:
        """Start fetching a run.  Of what is before page ``missed`` it is known that the cache has none."""
        domain, step = self._volume.domain, self._step
        while n_pages > 0:
            # More than one end where the next reader's would, too.
            n = n_pages if n_pages <= step else step - page % step
            fetch = Fetch(self._inode, page, n, reader, ask_cache=page + n > missed)
            domain.fetch_memory.take(fetch.size)
            self.under_way.append(fetch)
            domain.spawn(fetch.run, f"fetch {self._inode.path}")
            page += n
            n_pages -= n

    def ended(self, fetch: Fetch) -> None:
        """Take out a fetch that is over, or keep it: the cache could not take it, and readers may want it."""
        self.under_way.remove(fetch)
        memory = self._volume.domain.fetch_memory
        if fetch.stored or not self._inode.n_open or self._is_lent(fetch):
            # What was broken off may be written to still, by a plugin that does not keep to the contract.
            if not fetch.n_waiting and fetch.error is None and not fetch.given_up:
                fetch.give_buffer()
            memory.give(fetch.size)
            self._tidy()
            return
        self.kept.append(fetch)
        memory.keep(fetch, fetch.size, lambda: self._let_go(fetch))
        self._note_read(fetch)
        if not self._inode.n_open:  # closed in another thread, which took us to be at rest
            self._let_go(fetch)
            return
        readahead = self._volume.readahead
        size = max(KEPT_SIZE, 2 * (readahead.max_size + readahead.fetch_size))
        while sum(kept.size for kept in self.kept) > size:
            self._let_go(self.kept[0])

    def abandoned(self, fetch: Fetch) -> None:
        """Note that the last who waited for a fetch was cancelled: what is lent to nobody is given up."""
        if not fetch.done and self._is_lent(fetch):
            fetch.give_up()

    def _is_lent(self, fetch: Fetch) -> bool:
        """Whether a fetch has memory that there is not, for those who wait for it alone."""
        memory = self._volume.domain.fetch_memory
        return memory.is_overdrawn and fetch.wanted and fetch.size <= SMALLEST_FETCH

    def read(self, fetch: Fetch, page: int, end: int) -> None:
        """Note that a reader has had the bytes of a fetch from the beginning of ``page`` to byte ``end``."""
        last = page_count(end) if end == self._inode.size else end >> PAGE_SHIFT
        if last > page:
            fetch.read.add(page, last - page)
            if fetch in self.kept:
                self._note_read(fetch)

    def _note_read(self, fetch: Fetch) -> None:
        if fetch.read.covers(fetch.first, fetch.end - fetch.first):
            self._volume.domain.fetch_memory.read(fetch)

    def _let_go(self, fetch: Fetch) -> None:
        """Free a fetch that was kept."""
        self.kept.remove(fetch)
        self._volume.domain.fetch_memory.let_go(fetch)
        self._tidy()

    def _tidy(self) -> None:
        domain = self._volume.domain
        if not domain.fetch_memory.size:
            domain.fetch_buffers.clear()

    def rest(self) -> None:
        """Nobody has the file open: free what is kept, and stop what nobody waits for."""
        for fetch in list(self.kept):
            self._let_go(fetch)
        for fetch in self.under_way:
            if not fetch.n_waiting and not fetch.done:
                fetch.give_up()
