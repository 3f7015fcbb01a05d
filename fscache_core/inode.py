"""One version of one file, as all who have it open in this process share it.

An inode ties together what the adapter calls the file (``netfs_data``), its cookie, and the fetches
under way.  It never changes its version: what the origin replaced gets a new inode, and this one goes on
with what it has until it is closed.

A read is answered, page by page, from the first that has it: a fetch under way, the cache, the origin.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from fscache_core.coherency import CoherencyMode
from fscache_core.cookie import Cookie, CookieDefinition, acquire_cookie
from fscache_core.domain import log
from fscache_core.errors import CallerError, PluginError, StaleError
from fscache_core.fetch import Fetch
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, Folio, PageRuns, page_count
from fscache_core.hookspecs import FileAttributes, Strength
from fscache_core.netfs import acquire_or_go_without
from fscache_core.object_request import get_check_time, set_check_time
from fscache_core.outcome import AuxOutcome, CookieType
from fscache_core.page import read_or_alloc_pages

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.plugins import NetfsFacade
    from fscache_core.readahead import Window
    from fscache_core.volume import Volume

#: Bytes of fetched pages that could not be stored, kept for the readers who are about to want them; more if
#: more may have been read ahead.
KEPT_SIZE = 16 << 20

#: Bytes that a reader may always have fetched, however little memory is left for fetches.
SMALLEST_FETCH = 128 << 10

# What the file layer puts in front of the adapter's aux data in a label: how strong the evidence was.  Weak
# evidence may be equal though the bytes are not, so it is followed by what makes each such label another one:
# or a backend would take what two processes stored for one version.
_STRONG = b"\x01"
_OLD_WEAK = b"\x02"  # not followed by anything
_WEAK = b"\x03"
_NONCE_SIZE = 8


class Inode:
    """One version of one file."""

    __slots__ = (
        "_absent",
        "_check_time_kept",
        "_damaged_seen",
        "_evicted",
        "_kept",
        "_weak_mark",
        "attributes",
        "checked_at",
        "cookie",
        "doubtful",
        "fetches",
        "n_open",
        "netfs",
        "netfs_data",
        "path",
        "size",
        "stale",
        "volume",
    )

    def __init__(
        self,
        volume: Volume,
        path: str,
        netfs_data: object,
        *,
        adopt: Cache | None = None,
        checked_at: float = 0.0,
    ) -> None:
        """Make an inode and its cookie.

        Args:
          netfs_data: from the adapter's ``look_up``; with ``adopt``, from its ``name_file``.
          adopt: take the version that this cache has, whatever it is (`wait_adopted`).
        """
        self.volume = volume
        self.netfs: NetfsFacade = volume.netfs
        self.path = path
        self.netfs_data = netfs_data
        self.attributes: FileAttributes | None = (
            None if adopt is not None else self.netfs.get_attr(netfs_data)
        )
        self.size = 0 if self.attributes is None else self.attributes.size  #: bytes; as the attributes say
        #: When the origin last said that this is the present version, seconds since the epoch.
        self.checked_at = checked_at
        self.fetches: list[Fetch] = []
        self.n_open = 0
        self.stale = False  #: the origin has another version
        self.doubtful = False  #: adopted, and not the version that the origin had when it was last asked
        self._evicted: trio.Event | None = None
        self._kept: list[Fetch] = []
        self._damaged_seen = 0
        self._weak_mark = b""  # of the label, if the evidence is weak
        self._check_time_kept = 0.0
        self._absent: list[PageRuns] = []  # of every reader: pages that the cache did not have
        names = volume.domain, volume.cookie, volume.definition, self
        self.cookie: Cookie = (
            acquire_or_go_without(*names) if adopt is None else acquire_cookie(*names, cache=adopt)
        )

    def __str__(self) -> str:
        return self.volume.named(self.path)

    @property
    def weak(self) -> bool:
        return self.attributes is None or self.attributes.strength is not Strength.STRONG

    @property
    def at_rest(self) -> bool:
        """Whether nothing is being fetched or kept in memory."""
        return not self.fetches and not self._kept

    def is_version(self, netfs_data: object, attributes: FileAttributes) -> bool:
        """Whether what the origin just described is, provably, this version."""
        if attributes.strength is not Strength.STRONG or self.weak or self.stale or not self.cookie.enabled:
            return False
        try:
            evidence = self.netfs.get_aux(netfs_data), self.netfs.get_aux(self.netfs_data)
        except PluginError as error:
            log.error("%s; %s is looked for anew", error, self, exc_info=error.__cause__)
            return False
        return attributes.size == self.size and evidence[0] == evidence[1]

    def bytes_of(self, first: int, n_pages: int) -> int:
        """How many bytes the file has in these pages."""
        return max(0, min(self.size, (first + n_pages) << PAGE_SHIFT) - (first << PAGE_SHIFT))

    # -- the cookie's definition ---------------------------------------------------------

    def get_aux(self) -> bytes | None:
        if self.attributes is None:
            return None
        if not self.weak:
            return _STRONG + self.netfs.get_aux(self.netfs_data)
        if not self._weak_mark:
            self._weak_mark = _WEAK + os.urandom(_NONCE_SIZE)
        return self._weak_mark + self.netfs.get_aux(self.netfs_data)

    def check_aux(self, aux: bytes, object_size: int) -> AuxOutcome:
        strength = aux[:1]
        mark_size = 1 + _NONCE_SIZE if strength == _WEAK else 1
        mark, aux = aux[:mark_size], aux[mark_size:]
        if self.attributes is None:
            try:
                recalled = self.netfs.recall_file(self.volume.data, self.path, aux, object_size)
            except CallerError:
                return AuxOutcome.OBSOLETE
            self.netfs_data = recalled
            attributes = self.netfs.get_attr(recalled)
            if strength != _STRONG and attributes.strength is Strength.STRONG:
                # It has aged since, but what was cached was fetched when it proved nothing.
                attributes = replace(attributes, strength=Strength.WEAK)
            self.attributes = attributes
            self.size = attributes.size
            self.doubtful = self.volume.doubts(self.path, aux)
            if strength in (_WEAK, _OLD_WEAK):
                self._weak_mark = mark
            return AuxOutcome.OKAY
        if self.weak or strength != _STRONG:
            return AuxOutcome.OBSOLETE  # equal evidence would prove nothing
        return self.netfs.check_aux(self.netfs_data, aux, object_size)

    async def wait_adopted(self) -> bool:
        """Wait until it is known whether some version is cached; False if none is."""
        await self.cookie.wait_lookup()
        obj = self.cookie.object
        if self.attributes is None or obj is None:
            return False
        if self.volume.coherency.mode is CoherencyMode.TTL:
            self.checked_at = self._check_time_kept = await get_check_time(obj)
        return True

    # -- reading -------------------------------------------------------------------------

    async def read_into(
        self, offset: int, buffer: memoryview, asked: int, ahead: int, window: Window
    ) -> bool:
        """Fill ``buffer`` from ``offset``; the range is within the file and not empty.

        Returns whether anything had to be fetched.

        Args:
          ahead: byte offset up to which to fetch beyond the range, if anything must be fetched at all.
          asked: byte offset up to which this reader has been read ahead for already.
          window: the reader's.

        Raises:
          StaleError, OriginError: what is missing cannot be had.  The buffer's content is undefined.
        """
        first, stats = offset >> PAGE_SHIFT, self.volume.stats
        end = page_count(offset + len(buffer))
        have, absent, missed = PageRuns(), PageRuns(), False
        self._absent.append(absent)
        try:
            while (gap := next(have.gaps(first, end - first), None)) is not None:
                page, n_pages = gap
                fetch = self._fetch_of(page)
                if fetch is not None:
                    missed = True
                    if asked < ahead:
                        self.read_ahead(asked, ahead, window)
                        asked = ahead
                    # Of a range longer than a window, more as some of it comes.
                    reach = page + min(n_pages, self._window_pages())
                    if fetch.end < reach:
                        self._fetch_on(fetch.end << PAGE_SHIFT, reach << PAGE_SHIFT, window)
                    if not await self._wait_ready(fetch, page):
                        continue
                    ready_end = min(fetch.ready_end(page), page + n_pages)
                    low = max(offset, page << PAGE_SHIFT)
                    high = min(offset + len(buffer), ready_end << PAGE_SHIFT)
                    fetch.copy_to(buffer[low - offset : high - offset], low)
                    have.add(page, ready_end - page)
                    continue
                self.volume.check_open()
                n_pages = self._until_fetch(page, n_pages)
                unasked = next(absent.gaps(page, n_pages), None)
                if unasked is not None and unasked[0] == page:
                    absent.add(*unasked)
                    await self._read_cached(*unasked, offset, buffer, have)
                    continue
                if unasked is not None:
                    n_pages = unasked[0] - page
                if await self._wait_store_room():
                    continue  # what was missing may have come meanwhile
                self._start_fetches(page, n_pages, ahead, window)
        finally:
            self._absent.remove(absent)
        if missed:
            stats.misses += 1
        else:
            stats.hits += 1
        if self.cookie.n_damaged != self._damaged_seen:
            stats.verification_failures += self.cookie.n_damaged - self._damaged_seen
            self._damaged_seen = self.cookie.n_damaged
        return missed

    async def _read_cached(
        self, first: int, n_pages: int, offset: int, buffer: memoryview, have: PageRuns
    ) -> None:
        """Read what the cache has of these pages into their place in ``buffer`` and add them to ``have``."""
        start, size = first << PAGE_SHIFT, self.bytes_of(first, n_pages)
        inside = start >= offset and start + size <= offset + len(buffer)
        # Pages that stick out of the caller's range take a way round; whole ones go straight into place.
        target = buffer[start - offset : start - offset + size] if inside else memoryview(bytearray(size))

        def end_io(page: int, n: int, error: BaseException | None) -> None:
            if error is not None:
                return
            have.add(page, n)
            self.volume.stats.bytes_from_cache += self.bytes_of(page, n)
            if not inside:
                low = max(offset, page << PAGE_SHIFT)
                high = min(offset + len(buffer), (page + n) << PAGE_SHIFT)
                if low < high:
                    buffer[low - offset : high - offset] = target[low - start : high - start]

        await read_or_alloc_pages(self.cookie, [Folio(first, target)], end_io, self.netfs_data)

    async def _wait_ready(self, fetch: Fetch, page: int) -> bool:
        try:
            return await fetch.wait_ready(page)
        except StaleError:
            self.become_stale()
            raise

    def become_stale(self) -> None:
        """Note that the origin has another version, so that the next open asks for it."""
        if not self.stale:
            self.stale = True
            self.cookie.supersede()
            self.volume.outdated(self)

    # -- fetching ------------------------------------------------------------------------

    def has_arrived(self, offset: int) -> bool:
        """Whether the byte at ``offset`` has been fetched and is not stored yet, as far as is known."""
        page = offset >> PAGE_SHIFT
        for fetch in self.fetches:  # noqa: SIM110  # a generator takes longer than the rest
            if page in fetch.ready:
                return True
        return False

    def _fetch_of(self, page: int) -> Fetch | None:
        for fetch in self.fetches:
            if fetch.first <= page < fetch.end and (
                page in fetch.ready or not (fetch.done or fetch.given_up)
            ):
                return fetch
        for fetch in self._kept:
            if page in fetch.ready:
                return fetch
        return None

    def overlapping(self, fetch: Fetch) -> list[Fetch]:
        """Fetches that were started before this one and want some of its pages."""
        older = self.fetches[: self.fetches.index(fetch)]
        return [other for other in older if other.first < fetch.end and fetch.first < other.end]

    def _until_fetch(self, page: int, n_pages: int) -> int:
        """How many of the pages come before the next fetch under way."""
        starts = [
            fetch.first for fetch in (*self.fetches, *self._kept) if page < fetch.first < page + n_pages
        ]
        return min(starts) - page if starts else n_pages

    async def _wait_store_room(self) -> bool:
        """Wait while the cache is so much slower than the origin that memory would fill up.

        Returns whether it was.
        """
        domain = self.volume.domain
        waited = False
        while domain.stores_size > domain.limits.store_size:
            waited = True
            await domain.stores_changed.park()
        return waited

    def _window_pages(self) -> int:
        """How much of one range to fetch at a time: a share of the memory there is for fetches.

        A reader gets a little even when there is none left: it has lent us as much itself, and to wait could
        mean to wait for another origin that hangs.
        """
        limits = self.volume.readahead
        share = max(SMALLEST_FETCH, self.volume.domain.fetch_room // 4)
        return min(share, max(limits.max_size, limits.fetch_size, PAGE_SIZE)) >> PAGE_SHIFT

    def _start_fetches(self, page: int, n_pages: int, ahead: int, reader: Window) -> None:
        """Start fetching a gap, at most a window of it; and what lies ahead, if the reader wants that."""
        obj = self.cookie.object
        if self.volume.domain.has_caches and (obj is None or not obj.active):
            self.volume.stats.fallbacks += 1
        window = self._window_pages()
        self._start_run(page, min(n_pages, window), reader, ask_cache=False)
        last = page + min(n_pages, window)
        if n_pages <= window and ahead > last << PAGE_SHIFT:
            self.read_ahead(last << PAGE_SHIFT, ahead, reader)

    def read_ahead(self, offset: int, ahead: int, reader: Window) -> None:
        """Start fetching, or reading from the cache, what lies from ``offset`` to ``ahead``."""
        if offset < ahead and not self._fetch_on(offset, ahead, reader):
            reader.refused(offset)

    def _fetch_on(self, offset: int, ahead: int, reader: Window) -> bool:
        """`read_ahead`; False if it is not the time."""
        domain = self.volume.domain
        if domain.stores_size > domain.limits.store_size // 2 or self.volume.closed:
            return False
        page, end = offset >> PAGE_SHIFT, page_count(min(ahead, self.size))
        end = min(end, page + (domain.fetch_room // 4 >> PAGE_SHIFT))
        known = PageRuns()
        for fetch in (*self.fetches, *self._kept):
            known.add(fetch.first, fetch.end - fetch.first)
        for first, n_pages in list(known.gaps(page, end - page)):
            self._start_run(first, n_pages, reader, ask_cache=True)
        return True

    def _start_run(self, page: int, n_pages: int, reader: Window, *, ask_cache: bool) -> None:
        domain = self.volume.domain
        step = max(1, self.volume.readahead.fetch_size >> PAGE_SHIFT)
        while n_pages > 0:
            # More than one end where the next reader's would, too.
            n = n_pages if n_pages <= step else step - page % step
            domain.make_fetch_room(n << PAGE_SHIFT)
            fetch = Fetch(self, page, n, reader, ask_cache=ask_cache)
            domain.fetches_size += fetch.size
            self.fetches.append(fetch)
            domain.spawn(fetch.run, f"fetch {self.path}")
            page += n
            n_pages -= n

    def fetch_ended(self, fetch: Fetch) -> None:
        """Called by a fetch's task at its end."""
        self.fetches.remove(fetch)
        for absent in self._absent:
            absent.remove(fetch.first, fetch.end - fetch.first)
        if isinstance(fetch.error, StaleError):
            self.become_stale()
        domain = self.volume.domain
        if fetch.stored or not self.n_open or domain.fetches_size > domain.limits.fetch_size:
            # What was broken off may be written to still, by a plugin that does not keep to the contract.
            if not fetch.n_waiting and fetch.error is None and not fetch.given_up:
                fetch.give_buffer()
            domain.give_fetch_room(fetch.size)
            return
        self._kept.append(fetch)
        domain.kept_fetches[fetch] = lambda: self._let_go(fetch)
        domain.kept_fetches_size += fetch.size
        readahead = self.volume.readahead
        size = max(KEPT_SIZE, 2 * (readahead.max_size + readahead.fetch_size))
        while sum(kept.size for kept in self._kept) > size:
            self._let_go(self._kept[0])

    def _let_go(self, fetch: Fetch) -> None:
        """Free a fetch that was kept."""
        domain = self.volume.domain
        self._kept.remove(fetch)
        del domain.kept_fetches[fetch]
        domain.kept_fetches_size -= fetch.size
        domain.give_fetch_room(fetch.size)

    # -- closing -------------------------------------------------------------------------

    def closed(self) -> None:
        """The last reader is gone: stop what nobody waits for."""
        for fetch in list(self._kept):
            self._let_go(fetch)
        for fetch in self.fetches:
            if not fetch.n_waiting and not fetch.done:
                fetch.give_up()

    async def keep_check_time(self) -> None:
        """Have the cache remember when this version was last confirmed, if a ttl makes that worth knowing."""
        obj = self.cookie.object
        if (
            self.volume.coherency.mode is CoherencyMode.TTL
            and self.checked_at > self._check_time_kept
            and not self.stale
            and obj is not None
            and obj.active
        ):
            self._check_time_kept = self.checked_at
            await set_check_time(obj, self.checked_at)

    async def wait_stored(self) -> None:
        """Wait until everything fetched is stored."""
        await self.cookie.wait_on_stores()

    async def evict(self) -> None:
        """Give the cookie back (the data stays cached).  Idempotent; returns when it is done."""
        if self._evicted is not None:
            await self._evicted.wait()
            return
        self._evicted = trio.Event()
        try:
            await self.cookie.relinquish()
        finally:
            self._evicted.set()


def _get_key(inode: object) -> bytes:
    assert isinstance(inode, Inode)
    return inode.netfs.get_key(inode.netfs_data)


def _get_attr(inode: object) -> int:
    assert isinstance(inode, Inode)
    return 0 if inode.attributes is None else inode.attributes.size


def _get_aux(inode: object) -> bytes | None:
    assert isinstance(inode, Inode)
    return inode.get_aux()


def _check_aux(inode: object, aux: bytes, object_size: int) -> AuxOutcome:
    assert isinstance(inode, Inode)
    return inode.check_aux(aux, object_size)


def inode_definition(netfs: NetfsFacade) -> CookieDefinition:
    """The definition of the cookies of a netfs's files."""

    def get_context(inode: object, context: object) -> None:
        assert isinstance(inode, Inode)
        assert netfs.get_context is not None
        netfs.get_context(inode.netfs_data, context)

    def put_context(inode: object, context: object) -> None:
        assert isinstance(inode, Inode)
        assert netfs.put_context is not None
        netfs.put_context(inode.netfs_data, context)

    def mark_pages_cached(inode: object, first: int, n_pages: int) -> None:
        assert isinstance(inode, Inode)
        assert netfs.mark_pages_cached is not None
        netfs.mark_pages_cached(inode.netfs_data, first, n_pages)

    def now_uncached(inode: object) -> None:
        assert isinstance(inode, Inode)
        assert netfs.now_uncached is not None
        netfs.now_uncached(inode.netfs_data)

    return CookieDefinition(
        name=netfs.name[:15],
        netfs=netfs.name,
        type=CookieType.DATA,
        get_key=_get_key,
        get_attr=_get_attr,
        get_aux=_get_aux,
        check_aux=_check_aux,
        get_context=get_context if netfs.get_context is not None else None,
        put_context=put_context if netfs.put_context is not None else None,
        mark_pages_cached=mark_pages_cached if netfs.mark_pages_cached is not None else None,
        now_uncached=now_uncached if netfs.now_uncached is not None else None,
    )
