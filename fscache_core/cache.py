"""A bound cache and its tag (reference section 9)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import trio

from fscache_core.cookie import Cookie, CookieDefinition
from fscache_core.domain import Domain, log
from fscache_core.errors import CacheIOError, CallerError, FscacheError, NoMemoryError, PluginError
from fscache_core.hook_call import call_backend, passes_through
from fscache_core.hot_path import close_hot_path
from fscache_core.object import CacheObject
from fscache_core.outcome import CookieType
from fscache_core.statistics import StatisticsKeeper

if TYPE_CHECKING:
    from fscache_core.plugins import BackendFacade

MAX_TAG_SIZE = 35  #: characters

# By id() of a backend in use: the cache that it is bound to.  One table for the process, since whatever a
# backend keeps of a cache it has once, whichever fscache that cache is of.
_bound: dict[int, Cache] = {}

FSDEF_INDEX = CookieDefinition(".FS-Cache", CookieType.INDEX, get_key=lambda _: b"")


def make_master_index(domain: Domain) -> Cookie:
    """The cookie above all others; it has an object in every cache."""
    cookie = Cookie(domain, None, FSDEF_INDEX, None, b"")
    cookie.aux = b""
    cookie.enabled = True
    return cookie


class CacheTag:
    """A name for a cache that exists before the cache does and after it."""

    __slots__ = ("cache", "name", "usage")

    def __init__(self, name: str) -> None:
        self.name = name
        self.cache: Cache | None = None
        self.usage = 0


def lookup_cache_tag(domain: Domain, name: str) -> CacheTag:
    """The tag of that name, made if needed, with one more reference."""
    if not 1 <= len(name) <= MAX_TAG_SIZE:
        raise CallerError(f"cache tag {name!r}: 1 to {MAX_TAG_SIZE} characters are allowed")
    tag = domain.tags.setdefault(name, CacheTag(name))
    tag.usage += 1
    return tag


def release_cache_tag(domain: Domain, tag: CacheTag) -> None:
    tag.usage -= 1
    if tag.usage == 0:
        del domain.tags[tag.name]


class Cache:
    """One cache.  Backends may use ``tag``, ``stats`` and `io_error`; the rest is core's."""

    def __init__(self, domain: Domain, backend: BackendFacade, tag: CacheTag, master_index: Cookie) -> None:
        self.domain = domain
        self.backend = backend
        self.tag = tag.name
        self.stats = domain.stats
        self.broken = False  #: stopped by an I/O error
        self.withdrawn = False
        self.objects: dict[int, CacheObject] = {}  # by debug id
        self.master: CacheObject  #: the object of the master index
        self._namesakes: dict[tuple[int, bytes], list[CacheObject]] = {}  # by cookie type and key
        self._tag = tag
        self._master_index = master_index
        self._emptied = trio.Event()
        self._keeper: StatisticsKeeper | None = None

    def __repr__(self) -> str:
        return f"<Cache {self.tag} ({self.backend.name})>"

    # -- for backends --

    def io_error(self, text: str) -> None:
        """Stop the cache: the backing store failed.  (``fscache_io_error``)

        What is under way goes on from the origin.  Objects stay until the cache is withdrawn.
        """
        if not self.broken:
            self.broken = True
            log.error("cache %s stopped: I/O error: %s", self.tag, text)
            for obj in self.objects.values():
                close_hot_path(obj)

    # -- for core --

    @property
    def usable(self) -> bool:
        """Whether cookies may get objects here."""
        return not self.broken and not self.withdrawn

    async def add(self) -> None:
        """Bind the backend and become selectable.

        Raises:
          CallerError: the tag is in use (EEXIST), or the backend (EBUSY).
          FscacheError: as ``bind_cache``.  Nothing is left behind.
        """
        if self._tag.cache is not None:
            raise CallerError(f"a cache with the tag {self.tag!r} exists already", errno=errno.EEXIST)
        backend = self.backend
        user = _bound.setdefault(id(backend.plugin), self)
        if user is not self:
            in_use = f"backend {backend.name} is in use by cache {user.tag}; make another one"
            raise CallerError(in_use, errno=errno.EBUSY)
        self._tag.cache = self
        try:
            await call_backend(self, None, type(None), backend.bind_cache, self)
            try:
                self.master = self._alloc(self._master_index)
            except BaseException:
                await self._unbind()
                raise
        except BaseException:
            self._tag.cache = None
            del _bound[id(backend.plugin)]
            raise
        self._attach(self.master, None)
        self.master.be_available()
        self.domain.caches.insert(0, self)
        if backend.add_statistics is not None:
            self._keeper = StatisticsKeeper(self, backend.add_statistics)
            # Not shielded, as other tasks are: nothing is lost if it is cancelled before the withdrawal.
            self.domain.nursery.start_soon(self._keeper.run, name=f"statistics of {self.tag}")
        # Better than the reference: what was uncached for want of a cache is attached now.
        for cookie in list(self.domain.cookies.values()):
            if cookie.enabled and cookie.type != CookieType.INDEX and not cookie.objects:
                cookie.acquire_objects()

    async def withdraw(self) -> None:
        """Take the cache away: kill every object, wait until none is left, let go of the backend.

        Its cookies survive, uncached.  What is stored stays.  The order is the reference's.
        """
        if self.withdrawn:
            raise CallerError(f"cache {self.tag} was withdrawn before", errno=errno.EBADF)
        log.info("cache %s: withdrawing", self.tag)
        self.withdrawn = True
        try:
            with trio.CancelScope(shield=True):  # bounded: every hook is
                await self._leave()
        finally:
            del _bound[id(self.backend.plugin)]
        release_cache_tag(self.domain, self._tag)

    async def _leave(self) -> None:
        if self in self.domain.caches:
            self.domain.caches.remove(self)
        self._tag.cache = None
        for gauge, hook in (("syn", self.backend.sync_cache), ("dsp", self.backend.dissociate_pages)):
            try:
                await call_backend(self, gauge, type(None), hook)
            except FscacheError as error:
                self.hook_failed(error)
        for obj in list(self.objects.values()):
            obj.kill()
        await self._emptied.wait()
        if self._keeper is not None:
            await self._keeper.close()
        await self._unbind()

    async def _unbind(self) -> None:
        seconds = self.domain.limits.drop_seconds
        with trio.move_on_after(seconds) as scope:
            scope.shield = True
            try:
                await self.backend.unbind_cache()
            except BaseException as error:
                if passes_through(error):
                    raise
                log.exception("cache %s: backend %s failed to unbind", self.tag, self.backend.name)
        if scope.cancelled_caught:
            log.error("cache %s: backend %s did not unbind in %g s", self.tag, self.backend.name, seconds)

    def alloc_objects(self, cookie: Cookie) -> list[CacheObject]:
        """Allocate objects for a cookie and those of its ancestors that have none here (5.2).

        Returns them child first; none if an ancestor's object is dying.

        Raises:
          FscacheError: from ``alloc_object``; nothing is left behind.
        """
        missing: list[Cookie] = []
        above: CacheObject | None = None
        at: Cookie | None = cookie
        while at is not None:
            above = next((obj for obj in at.objects if obj.cache is self), None)
            if above is not None:
                break
            missing.append(at)
            at = at.parent
        if above is None or above.dying or not self.usable:
            return []
        new = [self._alloc(each) for each in missing]
        for obj in reversed(new):
            self._attach(obj, above)
            above = obj
        return new

    def retiring(self, obj: CacheObject) -> CacheObject | None:
        """An older object of the same name that is about to delete, or to let go of, what is stored."""
        for other in self._namesakes.get((obj.cookie.type, obj.cookie.key), ()):
            if other is not obj and other.ending and other.name == obj.name:
                return other
        return None

    def hook_failed(self, error: FscacheError) -> None:
        """React to what a hook raised that concerns the whole cache."""
        if isinstance(error, CacheIOError):
            self.io_error(str(error))
        else:
            log.error("cache %s: %s", self.tag, error, exc_info=error.__cause__)

    def refused(self, cookie: Cookie, error: FscacheError) -> None:
        """Note that the backend has no object for a cookie."""
        level = log.error if isinstance(error, PluginError) else log.info
        level("cache %s: no object for %r: %s", self.tag, cookie, error)

    def object_destroyed(self, obj: CacheObject) -> None:
        """The last reference to an object is gone.  (``fscache_object_destroyed``)"""
        obj.cookie.put()
        del self.objects[obj.debug_id]
        name = obj.cookie.type, obj.cookie.key
        self._namesakes[name].remove(obj)
        if not self._namesakes[name]:
            del self._namesakes[name]
        if not self.objects:
            self._emptied.set()

    def _alloc(self, cookie: Cookie) -> CacheObject:
        stats, name = self.stats, self.backend.name
        stats.cacheop_alo += 1
        try:
            obj = self.backend.alloc_object(self, cookie)
        except FscacheError:
            raise
        except MemoryError as error:
            raise NoMemoryError(f"backend {name}: alloc_object: out of memory") from error
        except BaseException as error:
            if passes_through(error):
                raise
            raise PluginError.raised("backend", name, "alloc_object", error) from error
        finally:
            stats.cacheop_alo -= 1
        if not isinstance(obj, CacheObject) or not obj.is_new(self, cookie):
            raise PluginError(
                f"backend {name}: alloc_object returned {obj!r}, not a new object of {cookie!r}", plugin=name
            )
        stats.objects_alc += 1
        return obj

    def _attach(self, obj: CacheObject, parent: CacheObject | None) -> None:
        obj.parent = parent
        if parent is not None:
            parent.n_children += 1
        self.objects[obj.debug_id] = obj
        self._namesakes.setdefault((obj.cookie.type, obj.cookie.key), []).append(obj)
        objects = obj.cookie.objects
        # The file has its newest one.  A volume goes on with its oldest: to look into another cache for
        # something is no reason to store the next file there.
        objects.insert(len(objects) if obj.cookie.type == CookieType.INDEX else 0, obj)
        obj.cookie.get()
