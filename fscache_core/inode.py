"""One version of one file, as all who have it open in this process share it.

An inode ties together what the adapter calls the file (``netfs_data``), its cookie, and the fetches
under way.  It never changes its version: what the origin replaced gets a new inode, and this one goes on
with what it has until it is closed.

A read is answered, page by page, from the first that has it: a fetch under way, the cache, the origin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from fscache_core.coherency import CoherencyMode
from fscache_core.cookie import Cookie, acquire_cookie
from fscache_core.domain import log
from fscache_core.errors import CallerError, PluginError, StaleError
from fscache_core.folio import PAGE_SHIFT, Folio, PageRuns, page_count
from fscache_core.hookspecs import FileAttributes, Strength
from fscache_core.inode_fetches import InodeFetches
from fscache_core.label import STRONG_MARK, Label, new_weak_mark
from fscache_core.netfs import acquire_or_go_without
from fscache_core.object_request import get_check_time, set_check_time
from fscache_core.outcome import AuxOutcome
from fscache_core.page import read_or_alloc_pages

if TYPE_CHECKING:
    from fscache_core.cache import Cache
    from fscache_core.fetch import Fetch
    from fscache_core.plugins import NetfsFacade
    from fscache_core.readahead import Window
    from fscache_core.volume import Volume


class Inode:
    """One version of one file."""

    __slots__ = (
        "_absent",
        "_check_time_kept",
        "_damaged_seen",
        "_evicted",
        "_weak_mark",
        "attributes",
        "checked_at",
        "cookie",
        "doubtful",
        "fetches",
        "fetching",
        "leaving",
        "netfs",
        "netfs_data",
        "opens",
        "overwritten",
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
        self.fetching = InodeFetches(self)
        self.fetches: list[Fetch] = self.fetching.under_way  #: the same list, at hand for every hit
        #: One entry per open, of no meaning: unlike a number, a list is added to and taken from in one step,
        #: which no other thread and no signal handler can come between.
        self.opens: list[None] = []
        self.leaving = False  #: it is being evicted
        self.stale = False  #: the origin has another version
        #: We have changed the file since, and the evidence is too weak to show it: no more is fetched.
        self.overwritten = False
        self.doubtful = False  #: adopted, and not the version that the origin had when it was last asked
        self._evicted: trio.Event | None = None
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
    def n_open(self) -> int:
        return len(self.opens)

    @property
    def weak(self) -> bool:
        return self.attributes is None or self.attributes.strength is not Strength.STRONG

    @property
    def at_rest(self) -> bool:
        """Whether nothing is being fetched or kept in memory."""
        return not self.fetches and not self.fetching.kept

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
            return STRONG_MARK + self.netfs.get_aux(self.netfs_data)
        if not self._weak_mark:
            self._weak_mark = new_weak_mark()
        return self._weak_mark + self.netfs.get_aux(self.netfs_data)

    def check_aux(self, aux: bytes, object_size: int) -> AuxOutcome:
        label = Label.read(aux)
        if self.attributes is None:
            try:
                recalled = self.netfs.recall_file(self.volume.data, self.path, label.evidence, object_size)
            except CallerError:
                return AuxOutcome.OBSOLETE
            self.netfs_data = recalled
            attributes = self.netfs.get_attr(recalled)
            if not label.strong and attributes.strength is Strength.STRONG:
                # It has aged since, but what was cached was fetched when it proved nothing.
                attributes = replace(attributes, strength=Strength.WEAK)
            self.attributes = attributes
            self.size = attributes.size
            self.doubtful = self.volume.outdated_paths.doubts(self.path, label.evidence)
            if label.weak:
                self._weak_mark = label.mark
            return AuxOutcome.OKAY
        if self.weak or not label.strong:
            return AuxOutcome.OBSOLETE  # equal evidence would prove nothing
        return self.netfs.check_aux(self.netfs_data, label.evidence, object_size)

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
        first, stats, fetching = offset >> PAGE_SHIFT, self.volume.stats, self.fetching
        end = page_count(offset + len(buffer))
        have, absent, missed = PageRuns(), PageRuns(), False
        self._absent.append(absent)
        try:
            while (gap := next(have.gaps(first, end - first), None)) is not None:
                page, n_pages = gap
                fetch = fetching.of(page)
                if fetch is not None:
                    missed = True
                    if asked < ahead:
                        fetching.read_ahead(asked, ahead, window)
                        asked = ahead
                    # Of a range longer than a window, more as some of it comes.
                    if fetch.end < (reach := fetching.reach(page, n_pages)):
                        fetching.fetch_on(fetch.end << PAGE_SHIFT, reach << PAGE_SHIFT, window)
                    if not await self._wait_ready(fetch, page):
                        continue
                    ready_end = min(fetch.ready_end(page), page + n_pages)
                    low = max(offset, page << PAGE_SHIFT)
                    high = min(offset + len(buffer), ready_end << PAGE_SHIFT)
                    fetch.copy_to(buffer[low - offset : high - offset], low)
                    fetching.read(fetch, page, high)
                    have.add(page, ready_end - page)
                    continue
                self.volume.check_open()
                n_pages = fetching.until_next(page, n_pages)
                unasked = next(absent.gaps(page, n_pages), None)
                if unasked is not None and unasked[0] == page:
                    absent.add(*unasked)
                    await self._read_cached(*unasked, offset, buffer, have)
                    continue
                if unasked is not None:
                    n_pages = unasked[0] - page
                if await fetching.wait_store_room():
                    continue  # what was missing may have come meanwhile
                fetching.start(page, n_pages, ahead, window)
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
            self.volume.namei.outdated(self)

    # -- fetching ------------------------------------------------------------------------

    def has_arrived(self, offset: int) -> bool:
        """Whether the byte at ``offset`` has been fetched and is not stored yet, as far as is known."""
        page = offset >> PAGE_SHIFT
        for fetch in self.fetches:  # noqa: SIM110  # a generator takes longer than the rest
            if page in fetch.ready:
                return True
        return False

    def fetch_ended(self, fetch: Fetch) -> None:
        """Called by a fetch's task at its end."""
        for absent in self._absent:
            absent.remove(fetch.first, fetch.end - fetch.first)
        if isinstance(fetch.error, StaleError):
            self.become_stale()
        self.fetching.ended(fetch)

    # -- closing -------------------------------------------------------------------------

    def closed(self) -> None:
        """The last reader is gone: stop what nobody waits for."""
        self.fetching.rest()

    async def keep_check_time(self) -> None:
        """Have the cache remember when this version was last confirmed, if a ttl makes that worth knowing."""
        obj = self.cookie.object
        if (
            self.volume.coherency.mode is CoherencyMode.TTL
            and self.checked_at != self._check_time_kept  # an earlier one too: the clock was set back
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
