"""Cookies: the netfs's handles on what it wants cached (reference sections 2 to 5).

A cookie names an index, a data file or a special object below its parent cookie.  For each cache
it is cached in it has an object; data cookies have at most one.  Cookies live until they are relinquished
and must outlive their children.

Nothing here awaits but the ``async`` methods, so every other change of a cookie is atomic.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

import trio

from fscache_core import object_change, object_request
from fscache_core.cache_selection import choose_cache
from fscache_core.cookie_definition import MAX_AUX_SIZE, MAX_KEY_SIZE, CookieDefinition
from fscache_core.errors import CallerError, FscacheError, NoMemoryError, PluginError
from fscache_core.folio import PageRuns
from fscache_core.hook_call import ask_netfs, tell_netfs
from fscache_core.operation import Operation, SubmitOutcome
from fscache_core.outcome import ConsistencyOutcome, CookieType, ReserveOutcome
from fscache_core.pending_stores import PendingStores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cache import Cache
    from fscache_core.domain import Domain
    from fscache_core.object import CacheObject

T = TypeVar("T")

__all__ = ["MAX_AUX_SIZE", "MAX_KEY_SIZE", "Cookie", "CookieDefinition", "acquire_cookie"]


class Cookie:
    """One cookie.  Made by `acquire_cookie`; the attributes are read-only for netfs and backend."""

    __slots__ = (
        "__weakref__",
        "_enablement",
        "_lot",
        "aux",
        "aux_updated",
        "children",
        "definition",
        "distrusted",
        "domain",
        "enabled",
        "generation",
        "invalidated_at",
        "invalidating",
        "key",
        "looking_up",
        "marks",
        "n_active",
        "n_children",
        "n_damaged",
        "netfs_data",
        "no_data_yet",
        "object_size",
        "objects",
        "parent",
        "read_resident",
        "relinquished",
        "stores",
        "type",
        "unavailable",
        "usage",
    )

    def __init__(
        self,
        domain: Domain,
        parent: Cookie | None,
        definition: CookieDefinition,
        netfs_data: object,
        key: bytes,
    ) -> None:
        self.domain = domain
        self.parent = parent
        self.definition = definition
        self.type = definition.type
        self.netfs_data = netfs_data
        self.key = key  #: raw bytes
        self.aux: bytes | None = None  #: version evidence; None: adopt what is stored
        self.object_size = 0  #: bytes
        self.objects: list[CacheObject] = []
        self.marks = PageRuns()  #: pages known to be cached, or to be stored
        self.generation = 0  #: how often all marks were forgotten
        self.invalidated_at = 0  #: the ``generation`` of the last invalidation
        self.n_damaged = 0  #: stored pages that were found damaged
        self.stores = PendingStores(domain)
        #: The hot path: ``read_resident(offset, buffer)`` while there is an object that can answer.
        self.read_resident: Callable[[int, memoryview], int] | None = None
        # Flags, bits 0 to 9 of section 3.
        self.looking_up = False
        self.no_data_yet = True
        self.unavailable = False
        self.invalidating = False
        self.relinquished = False
        self.enabled = False
        self.aux_updated = False
        #: What is stored was invalidated and may not have been discarded: no label of it is good.
        self.distrusted = False
        # Counters of section 3.
        self.usage = 1
        self.n_children = 0
        self.children: dict[tuple[int, bytes], Cookie] = {}  #: those whose key is in use
        self.n_active = 1
        self._lot: trio.lowlevel.ParkingLot | None = None  # who waits for a flag or counter to change
        self._enablement = trio.Lock()

    def __repr__(self) -> str:
        return f"<Cookie {self.definition.name} {self.key!r}>"

    # -- what others ask --

    @property
    def object(self) -> CacheObject | None:
        """The object that operations go to."""
        return self.objects[0] if self.objects else None

    @property
    def acquired(self) -> bool:
        """Whether this cookie occupies its key."""
        return self.parent is None or self.parent.children.get((self.type, self.key)) is self

    @property
    def flags(self) -> int:
        """The flag bits of section 3, for the object list."""
        return (
            self.looking_up
            | self.no_data_yet << 1
            | self.unavailable << 2
            | self.invalidating << 3
            | self.relinquished << 4
            | self.enabled << 5
            | self._enablement.locked() << 6
            | self.aux_updated << 8
            | self.acquired << 9
        )

    def check_usable(self) -> None:
        """Raise `CallerError` after relinquish."""
        if self.relinquished:
            raise CallerError(f"{self!r} was relinquished; it cannot be used any more", errno=errno.EBADF)

    def check_holds_data(self) -> None:
        self.check_usable()
        if self.type == CookieType.INDEX:
            raise CallerError(f"{self!r} is an index; only data files and special objects hold pages")

    def wake(self) -> None:
        """Let everybody who waits for something of this cookie look again."""
        if self._lot is not None:
            self._lot.unpark_all()
            self._lot = None

    async def _wait_change(self) -> None:
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()

    async def wait_lookup(self) -> None:
        """Wait until it is known whether there is something stored."""
        while self.looking_up:
            await self._wait_change()

    async def wait_on_invalidate(self) -> None:
        """Wait until an invalidation is being carried out; reads issued later see no old data."""
        while self.invalidating:
            await self._wait_change()

    # -- references --

    def use(self) -> bool:
        """Keep netfs data in place for an operation; False once relinquishment or disabling drained it."""
        if self.n_active == 0:
            return False
        self.n_active += 1
        return True

    def unuse(self) -> None:
        self.n_active -= 1
        assert self.n_active >= 0
        if self.n_active == 0:
            self.wake()

    def get(self) -> None:
        self.usage += 1

    def put(self) -> None:
        self.usage -= 1
        assert self.usage >= 0
        if self.usage == 0 and self.parent is not None:
            self.parent.put()

    # -- the netfs's calls --
    # (Those on pages are in `fscache_core.page`.)

    async def enable(self, can_enable: Callable[[], bool] | None = None) -> None:
        """Let the cookie be cached again after `disable`.  No-op if it is enabled. (5.3)"""
        self.check_usable()
        async with self._enablement:
            self.check_usable()  # it may have been relinquished while we waited
            if self.enabled:
                return
            self.refresh()
            self.aux_updated = False  # the lookup judges by it
            if can_enable is not None and not can_enable():
                return
            if self.type != CookieType.INDEX:
                await self.wait_on_invalidate()
                self.check_usable()
                if not self.acquire_objects():
                    return
            self.enabled = True

    async def disable(self, *, invalidate: bool = False) -> None:
        """Stop caching; with ``invalidate`` what is stored is deleted.  No-op if it is disabled. (5.4)"""
        self.check_usable()
        if self.n_children:
            raise CallerError(f"{self!r} has {self.n_children} children; disable or relinquish them first")
        with trio.CancelScope(shield=True):  # a half-disabled cookie helps nobody; every hook is bounded
            await self._disable_now(invalidate)

    async def _disable_now(self, invalidate: bool) -> None:
        async with self._enablement:
            if not self.enabled:
                if not (invalidate and self.relinquished and self.acquired):
                    return
                # Unlike the reference's: what a disabled cookie left stored goes as well.
                await self.wait_on_invalidate()
                if not self.acquire_objects():
                    return
                self.n_active = 1
            if invalidate:
                await self.wait_lookup()  # what was not looked up cannot be deleted
            self.enabled = False
            self.read_resident = None
            await self.wait_on_invalidate()
            self.invalidating = True
            for obj in self.objects:
                if invalidate:
                    obj.retired = True
                obj.storage = None
                obj.kill()
            if not self.objects:
                self.invalidating = False
            self.unuse()
            if self.n_active and self.relinquished:
                self.domain.stats.relinqs_wcr += 1
            while self.n_active:
                await self._wait_change()
            self.stores.discard()
            if not self.relinquished:
                self.n_active = 1
                self.no_data_yet = True
            self.wake()

    async def relinquish(self, *, retire: bool = False) -> None:
        """Give the cookie back; with ``retire`` what is stored is deleted. (5.5)

        Pages not yet stored are discarded: `wait_on_page_write` first to keep them.

        Raises:
          CallerError: it has children, or was relinquished before.
        """
        self.check_usable()
        if self.n_children:
            raise CallerError(f"{self!r} has {self.n_children} children that must be relinquished first")
        stats = self.domain.stats
        stats.relinqs_n += 1
        if retire:
            stats.relinqs_rtr += 1
        self.relinquished = True
        with trio.CancelScope(shield=True):  # as in `disable`
            await self._disable_now(retire)
        self.supersede()
        self.domain.cookies.pop(id(self), None)
        self.forget_marks()
        if self.parent is not None:
            self.parent.n_children -= 1
        self.put()

    def supersede(self) -> None:
        """Let the same key be acquired again while this cookie goes on with its own version."""
        if self.acquired and self.parent is not None:
            del self.parent.children[self.type, self.key]

    def refresh(self) -> None:
        """Ask the netfs for size and version evidence again."""
        self.refresh_size()
        definition = self.definition
        aux: bytes | None = b""
        if definition.get_aux is not None:
            aux = ask_netfs(self, "get_aux", bytes | None, definition.get_aux)  # type: ignore[arg-type]
        if aux is not None and len(aux) > MAX_AUX_SIZE:
            raise CallerError(
                f"{definition.name}: {len(aux)} bytes of aux data; at most {MAX_AUX_SIZE} are allowed"
            )
        if aux != self.aux:
            self.aux = aux
            self.aux_updated = aux is not None

    def refresh_size(self) -> None:
        definition = self.definition
        if definition.get_attr is not None:
            size = ask_netfs(self, "get_attr", int, definition.get_attr)
            if size < 0:
                name = definition.name
                raise PluginError(f"netfs {name}: get_attr returned a size of {size} bytes", plugin=name)
            self.object_size = size

    def adopt(self, aux: bytes, object_size: int) -> None:
        """Take version evidence and size from what is stored (core only)."""
        self.aux = aux
        self.object_size = object_size
        self.aux_updated = False

    def update(self) -> None:
        """Tell the cache that the version evidence changed while the data stays good. (5.6)"""
        self.check_usable()
        self.domain.stats.updates_n += 1
        self.refresh()
        if self.enabled:
            for obj in self.objects:
                obj.update()

    def invalidate(self) -> None:
        """Make the cache forget all data of this file, and take its new size and evidence. (5.7)

        Returns at once; reads issued later wait or miss.
        """
        self.check_holds_data()
        self.domain.stats.invals_n += 1
        try:
            self.refresh()
        finally:
            self.generation += 1
            self.invalidated_at = self.generation
            if not self.enabled or not self.objects:
                self.distrusted = True  # better than the reference, where this would be no invalidation
                self.aux_updated = False
            elif not self.invalidating:
                self.read_resident = None
                self.invalidating = True
                self.objects[0].invalidate()

    async def check_consistency(self) -> ConsistencyOutcome:
        """Compare what is stored with the netfs's present evidence. (4.1)"""
        self.check_usable()
        if not self.enabled:
            return ConsistencyOutcome.CONSISTENT
        # The evidence is not taken over here: a cookie found stale must not label its old data with it.
        if self.looking_up:
            self.domain.stats.retrvls_wt += 1
        await self.wait_lookup()
        obj = self.object
        if obj is None:
            return ConsistencyOutcome.CONSISTENT
        op = Operation(obj)
        try:
            if not self.enabled or obj.ops.submit(op) is not SubmitOutcome.ACCEPTED:
                return ConsistencyOutcome.STALE
            if not await op.wait_active() or not obj.active:
                return ConsistencyOutcome.CONSISTENT
            return await object_request.check_consistency(obj, op)
        finally:
            op.finish()

    def attr_changed(self) -> bool:
        """Tell the cache that the size changed.  True if that was queued, False if not cached."""
        self.check_holds_data()
        stats = self.domain.stats
        if not self.enabled:
            return False
        stats.attrchg_n += 1
        self.refresh_size()
        obj = self.object
        if obj is not None:
            op = Operation(obj, exclusive=True, processor=object_change.attr_changed)
            accepted = obj.ops.submit(op) is SubmitOutcome.ACCEPTED
            op.put()
            if accepted:
                self.read_resident = None  # until the new size is in force
                stats.attrchg_ok += 1
                return True
        stats.attrchg_nbf += 1
        return False

    async def pin(self) -> ReserveOutcome:
        """Keep what is stored from being culled, over restarts too."""
        return await self._request(ReserveOutcome.REFUSED, object_request.pin)

    async def unpin(self) -> None:
        """Undo `pin`."""
        await self._request(None, object_request.unpin)

    async def reserve_space(self, reserved_size: int) -> ReserveOutcome:
        """Have room for ``reserved_size`` bytes promised to this file; 0 gives it back."""
        return await self._request(
            ReserveOutcome.REFUSED, lambda obj: object_request.reserve_space(obj, reserved_size)
        )

    async def _request(self, otherwise: T, request: Callable[[CacheObject], Awaitable[T]]) -> T:
        self.check_holds_data()
        await self.wait_lookup()
        obj = self.object
        if obj is None or not self.enabled:
            return otherwise
        op = Operation(obj)
        try:
            if obj.ops.submit(op) is not SubmitOutcome.ACCEPTED or not await op.wait_active():
                return otherwise
            return await request(obj) if obj.active else otherwise
        finally:
            op.finish()

    # -- pages --

    def mark_pages_cached(self, first: int, n_pages: int) -> None:
        if n_pages and not self.marks.covers(first, n_pages):
            self.marks.add(first, n_pages)
            self.domain.stats.pages_mrk += n_pages
            if self.definition.mark_pages_cached is not None:
                callback = self.definition.mark_pages_cached
                tell_netfs(self, "mark_pages_cached", callback, first, n_pages)

    def forget_marks(self) -> None:
        self.marks.clear()
        self.generation += 1

    async def wait_on_stores(self) -> None:
        """Wait until nothing waits to be stored."""
        await self.stores.wait_empty()

    async def wait_on_page_write(self, first: int, n_pages: int = 1) -> None:
        """Wait until no store of these pages is pending or running."""
        await self.stores.wait_pages(first, n_pages)

    # -- objects --

    def acquire_objects(self, cache: Cache | None = None) -> bool:
        """Give a data cookie an object, and its ancestors where they lack one (5.2).

        Args:
          cache: where; None for the one that `choose_cache` says.

        Returns False if no cache can take it.  Without any cache at all the answer is True: the
        cookie is attached when one is added.
        """
        if self.objects or not self.domain.caches:
            self.unavailable = not self.objects
            return True
        self.unavailable = True
        assert self.parent is not None
        if not self._is_below_enabled():
            cache = None
        elif cache is None:
            cache = choose_cache(self.parent, self.netfs_data)
        if cache is None:
            self.domain.stats.acquire_noc += 1
            return False
        try:
            new = cache.alloc_objects(self)
        except FscacheError as error:
            self.domain.stats.objects_nal += 1
            if isinstance(error, NoMemoryError):
                self.domain.stats.acquire_oom += 1
            cache.refused(self, error)
            return False
        if not new:
            return False
        self.looking_up = True
        new[0].set_store_limit(self.object_size)
        new[0].begin()
        return True

    async def index_object(self, cache: Cache) -> CacheObject | None:
        """The available object of an index in a cache, made if needed; None if it cannot be had."""
        if self.enabled and not any(obj.cache is cache for obj in self.objects):
            for obj in cache.alloc_objects(self)[:1]:
                obj.begin()
        for obj in self.objects:
            if obj.cache is cache:
                await obj.wait_known()
                return obj if obj.active else None
        return None

    def _is_below_enabled(self) -> bool:
        above = self.parent
        while above is not None:
            if not above.enabled:
                return False
            above = above.parent
        return True


def acquire_cookie(
    domain: Domain,
    parent: Cookie,
    definition: CookieDefinition,
    netfs_data: object,
    *,
    enable: bool = True,
    cache: Cache | None = None,
) -> Cookie:
    """Make a cookie below ``parent`` and, if enabled, start looking for what is stored (5.1).

    Returns at once.  Whether the file is cached shows in the outcome of reads.

    Args:
      cache: where to look, if that is not for the netfs and core to choose.

    Raises:
      CallerError: a key or aux of wrong size, an index below something that is none, a parent that was
        relinquished, or a key that is in use (EEXIST).
    """
    stats = domain.stats
    cookie = Cookie(domain, parent, definition, netfs_data, b"")
    cookie.key = key = ask_netfs(cookie, "get_key", bytes, definition.get_key)
    if not 1 <= len(key) <= MAX_KEY_SIZE:
        raise CallerError(f"{definition.name}: a key of {len(key)} bytes; 1 to {MAX_KEY_SIZE} are allowed")
    stats.acquire_n += 1
    parent.check_usable()
    if definition.type == CookieType.INDEX and parent.type != CookieType.INDEX:
        raise CallerError(f"{definition.name}: index {key!r} below {parent!r}, which is not an index")
    if (definition.type, key) in parent.children:
        raise CallerError(f"{definition.name}: key {key!r} is in use below {parent!r}", errno=errno.EEXIST)
    cookie.refresh()
    cookie.aux_updated = False
    match definition.type:
        case CookieType.INDEX:
            stats.cookies_idx += 1
        case CookieType.DATA:
            stats.cookies_dat += 1
        case _:
            stats.cookies_spc += 1
    domain.cookies[id(cookie)] = cookie
    parent.get()
    parent.n_children += 1
    parent.children[definition.type, key] = cookie
    if enable:
        # Better than the reference, which hands out no cookie then: this one stays uncached until a cache
        # that can take it is added, or until it is tried again.
        cookie.enabled = True
        if definition.type != CookieType.INDEX and not cookie.acquire_objects(cache):
            stats.acquire_nbf += 1
            return cookie
    stats.acquire_ok += 1
    return cookie
