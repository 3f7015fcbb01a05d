"""Cookies: the netfs's handles on what it wants cached (reference sections 2 to 5).

A cookie names an index, a data file or a special object below its parent cookie.  For each cache
it is cached in it has an object; data cookies have at most one.  Cookies live until they are relinquished
and must outlive their children.

Nothing here awaits but the ``async`` methods, so every other change of a cookie is atomic.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import trio

from fscache_core.domain import log
from fscache_core.errors import CallerError, FscacheError, NoMemoryError, PluginError
from fscache_core.folio import Folio, PageRuns
from fscache_core.operation import Operation, SubmitOutcome
from fscache_core.outcome import AuxOutcome, ConsistencyOutcome, CookieType, ReserveOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cache import Cache
    from fscache_core.domain import Domain
    from fscache_core.object import CacheObject

NetfsData = object  # a name for it that `Cookie.object` does not hide
P = ParamSpec("P")
T = TypeVar("T")

MAX_KEY_SIZE = 511  #: bytes
MAX_AUX_SIZE = 510  #: bytes


@dataclass(frozen=True, slots=True)
class CookieDefinition:
    """What kind of cookie it is and how the netfs answers for it (section 2).

    Every callable gets the cookie's ``netfs_data`` first, is called in the trio thread and must not block.
    """

    name: str  #: at most 15 characters; shown in the object list
    type: int  #: a `CookieType`, or 3 to 255 for further special types
    get_key: Callable[[object], bytes]
    get_attr: Callable[[object], int] | None = None  #: size in bytes
    #: Version evidence.  None, or an answer of None: whatever the cache holds is right (it is adopted),
    #: and nothing is created if it holds nothing.
    get_aux: Callable[[object], bytes | None] | None = None
    check_aux: Callable[[object, bytes, int], AuxOutcome] | None = None
    get_context: Callable[[object, object], None] | None = None
    put_context: Callable[[object, object], None] | None = None
    mark_pages_cached: Callable[[object, int, int], None] | None = None
    now_uncached: Callable[[object], None] | None = None
    select_cache: Callable[[object, object], str | None] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 15:
            raise CallerError(f"cookie definition name {self.name!r}: 1 to 15 characters are allowed")
        if not 0 <= self.type <= 255:
            raise CallerError(f"cookie definition {self.name}: type {self.type} is not 0 to 255")


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
        "storing",
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
        self.stores: deque[Folio] = deque()  #: pages waiting to be stored
        self.storing: Folio | None = None  #: pages being stored
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
        self._lot = trio.lowlevel.ParkingLot()  # woken whenever a flag or counter changes
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
        self._lot.unpark_all()

    def ask(
        self,
        expected: type[T],
        callback: Callable[Concatenate[NetfsData, P], T],
        *args: P.args,
        **kw: P.kwargs,
    ) -> T:
        """Call the netfs back for an answer of type ``expected``.

        Raises:
          PluginError: it raised something, or answered something else.  Names the cookie definition.
        """
        name = self.definition.name
        what = getattr(callback, "__name__", "a callback")
        try:
            answer = callback(self.netfs_data, *args, **kw)
        except FscacheError:
            raise
        except Exception as error:
            message = f"netfs {name}: {what} raised {type(error).__name__}: {error}"
            raise PluginError(message, plugin=name) from error
        if not isinstance(answer, expected):
            message = (
                f"netfs {name}: {what} returned {answer!r}, not {getattr(expected, '__name__', expected)}"
            )
            raise PluginError(message, plugin=name)
        return answer

    def tell(
        self, callback: Callable[Concatenate[NetfsData, P], None], *args: P.args, **kw: P.kwargs
    ) -> None:
        """Call the netfs back to let it know something.  What it raises is logged."""
        name = self.definition.name
        try:
            callback(self.netfs_data, *args, **kw)
        except Exception as error:
            what = getattr(callback, "__name__", "a callback")
            log.error("%r: netfs %s: %s raised %r", self, name, what, error, exc_info=error)

    async def wait_lookup(self) -> None:
        """Wait until it is known whether there is something stored."""
        while self.looking_up:
            await self._lot.park()

    async def wait_on_invalidate(self) -> None:
        """Wait until an invalidation is being carried out; reads issued later see no old data."""
        while self.invalidating:
            await self._lot.park()

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
                await self._lot.park()
            self.discard_stores()
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
            aux = self.ask(bytes | None, definition.get_aux)  # type: ignore[arg-type]
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
            size = self.ask(int, definition.get_attr)
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
            outcome = await obj.check_consistency(op)
            return ConsistencyOutcome.STALE if outcome is None else outcome
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
            op = Operation(obj, exclusive=True, processor=obj.process_attr_changed)
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
        return await self._reserve(lambda obj: obj.pin())

    async def unpin(self) -> None:
        """Undo `pin`."""
        await self._reserve(lambda obj: obj.unpin())

    async def reserve_space(self, reserved_size: int) -> ReserveOutcome:
        """Have room for ``reserved_size`` bytes promised to this file; 0 gives it back."""
        return await self._reserve(lambda obj: obj.reserve_space(reserved_size))

    async def _reserve(self, request: Callable[[CacheObject], Awaitable[ReserveOutcome]]) -> ReserveOutcome:
        self.check_holds_data()
        await self.wait_lookup()
        obj = self.object
        if obj is None or not self.enabled:
            return ReserveOutcome.REFUSED
        op = Operation(obj)
        try:
            if obj.ops.submit(op) is not SubmitOutcome.ACCEPTED or not await op.wait_active():
                return ReserveOutcome.REFUSED
            if not obj.active:
                return ReserveOutcome.REFUSED
            return await request(obj)
        finally:
            op.finish()

    # -- pages --

    def mark_pages_cached(self, first: int, n_pages: int) -> None:
        if n_pages and not self.marks.covers(first, n_pages):
            self.marks.add(first, n_pages)
            self.domain.stats.pages_mrk += n_pages
            if self.definition.mark_pages_cached is not None:
                self.tell(self.definition.mark_pages_cached, first, n_pages)

    def forget_marks(self) -> None:
        self.marks.clear()
        self.generation += 1

    def discard_stores(self) -> None:
        """Drop every page that waits to be stored; one being stored finishes."""
        if self.stores:
            dropped = sum(len(folio.buffer) for folio in self.stores)
            self.domain.stats.store_rxd += sum(folio.n_pages for folio in self.stores)
            self.stores.clear()
            self.stores_changed(-dropped)

    def stores_changed(self, size: int) -> None:
        """Note ``size`` more (or less) bytes of pages waiting to be stored."""
        self.domain.stores_size += size
        if size < 0:
            self.domain.stores_changed.unpark_all()
        self.wake()

    def writing(self, first: int, n_pages: int) -> bool:
        """Whether a store of any of these pages is pending or running."""
        end = first + n_pages
        storing = self.storing
        if storing is not None and storing.first < end and first < storing.end:
            return True
        return any(folio.first < end and first < folio.end for folio in self.stores)

    async def wait_on_stores(self) -> None:
        """Wait until nothing waits to be stored."""
        while self.stores or self.storing is not None:
            await self._lot.park()

    async def wait_on_page_write(self, first: int, n_pages: int = 1) -> None:
        """Wait until no store of these pages is pending or running."""
        while self.writing(first, n_pages):
            await self._lot.park()

    # -- objects --

    def acquire_objects(self) -> bool:
        """Give a data cookie an object, and its ancestors where they lack one (5.2).

        Returns False if no cache can take it.  Without any cache at all the answer is True: the
        cookie is attached when one is added.
        """
        if self.objects or not self.domain.caches:
            self.unavailable = not self.objects
            return True
        self.unavailable = True
        cache = self._select_cache() if self._is_below_enabled() else None
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
        if not any(obj.cache is cache for obj in self.objects):
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

    def _select_cache(self) -> Cache | None:
        """Choose a cache for a data cookie (section 9).

        Better than the reference: broken caches, and objects in them or dying, are passed over.
        """
        domain, index = self.domain, self.parent
        assert index is not None
        for obj in index.objects:
            if obj.live and obj.cache.usable:
                return obj.cache
        if index.type != CookieType.INDEX:
            return None
        tag_name = self._preferred_tag(index)
        if tag_name is not None:
            tag = domain.tags.get(tag_name)
            cache = tag.cache if tag is not None else None
            return cache if cache is not None and cache.usable else None
        return next((cache for cache in domain.caches if cache.usable), None)

    def _preferred_tag(self, index: Cookie) -> str | None:
        if index.definition.select_cache is None:
            return None
        try:
            return index.ask(str | None, index.definition.select_cache, self.netfs_data)  # type: ignore[arg-type]
        except FscacheError as error:
            log.error("%r: %s", self, error, exc_info=error.__cause__)
            return None


def acquire_cookie(
    domain: Domain,
    parent: Cookie,
    definition: CookieDefinition,
    netfs_data: object,
    *,
    enable: bool = True,
) -> Cookie:
    """Make a cookie below ``parent`` and, if enabled, start looking for what is stored (5.1).

    Returns at once.  Whether the file is cached shows in the outcome of reads.

    Raises:
      CallerError: a key or aux of wrong size, an index below something that is none, a parent that was
        relinquished, or a key that is in use (EEXIST).
    """
    stats = domain.stats
    cookie = Cookie(domain, parent, definition, netfs_data, b"")
    cookie.key = key = cookie.ask(bytes, definition.get_key)
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
        if definition.type != CookieType.INDEX and not cookie.acquire_objects():
            stats.acquire_nbf += 1
            return cookie
    stats.acquire_ok += 1
    return cookie
