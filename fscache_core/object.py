"""Objects: the cache-side record of a cookie (reference section 6).

What happens to it when is its `StateMachine`'s to say; here is what it is, and what backends tell and ask it.
What is asked of its backend is in `fscache_core.object_request`, what the backend is to change in
`fscache_core.object_change`.

Every async hook of the backend is called through `call_backend`, which bounds its time and counts it;
whatever a hook raises ends at most this object (and, for `CacheIOError`, stops the cache).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Concatenate, ParamSpec

import trio

from fscache_core.domain import log
from fscache_core.errors import (
    CacheIOError,
    FscacheError,
    NoSpaceError,
    PluginError,
)
from fscache_core.hook_call import (
    ask_netfs,
    blame_netfs,
    hook_name,
    passes_through,
)
from fscache_core.hot_path import close_hot_path
from fscache_core.object_state import (
    CLEARED,
    ERROR,
    INVALIDATE,
    KILL,
    OUT_OF_BAND,
    STATES,
    UPDATE,
    State,
    object_states,
    transitions,
)
from fscache_core.operation import OperationQueue
from fscache_core.outcome import (
    AuxOutcome,
    KillReason,
)
from fscache_core.state_machine import StateMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.operation import Operation, Storage

__all__ = ["STATES", "CacheObject", "object_states", "transitions"]

P = ParamSpec("P")


class CacheObject:
    """The record of one cookie in one cache.  Backends subclass it to add their own fields.

    For backends: ``cache``, ``cookie``, ``parent``, ``retired``, ``store_limit_size`` and the methods under
    "for backends".  Everything else is core's.
    """

    __slots__ = (
        "__weakref__",
        "_destroyed",
        "available",
        "cache",
        "cookie",
        "debug_id",
        "dependents",
        "domain",
        "invalidation",
        "killed_by_cache",
        "live",
        "lock",
        "looked_up",
        "machine",
        "n_children",
        "ops",
        "parent",
        "retired",
        "storage",
        "store_limit_size",
        "usage",
    )

    def __init__(self, cache: Cache, cookie: Cookie) -> None:
        self.cache = cache
        self.cookie = cookie
        self.domain = cache.domain
        self.parent: CacheObject | None = None  #: the object of the parent cookie in this cache
        self.debug_id = next(self.domain.object_ids)
        self.store_limit_size = 0  #: bytes; nothing is stored beyond it
        self.ops = OperationQueue(self)
        self.usage = 1
        self.n_children = 0
        self.dependents: list[CacheObject] = []
        # Flags of 6.4.
        self.storage: Storage | None = None  #: queued or running, and will take what is to be stored
        self.live = True
        self.looked_up = False
        self.available = False
        self.retired = False
        self.killed_by_cache = False
        self.lock = trio.Lock()  # held by hooks that change what the object refers to
        self.invalidation: Operation | None = None  # submitted, and the backend has not begun it
        self.machine = StateMachine(self)
        self._destroyed: trio.Event | None = None

    def __repr__(self) -> str:
        return f"OBJ{self.debug_id:x}"

    # -- for backends --------------------------------------------------------------------

    def lookup_negative(self) -> bool:
        """Tell that nothing valid is stored, before creating it.  (``fscache_object_lookup_negative``)

        Readers stop waiting and get ``NO_DATA``; writers queue.

        Returns False if nothing may be created: the lookup is to end with ``ABSENT``.
        """
        self._check_in_lookup("lookup_negative")
        if not self.looked_up:
            self.looked_up = True
            self.domain.stats.lookups_neg += 1
            if self.cookie.aux is None:
                return False
            self._lookup_known(no_data_yet=True)
        return self.cookie.aux is not None

    def obtained_object(self) -> None:
        """Tell that the object exists, found or created.  (``fscache_obtained_object``)"""
        self._check_in_lookup("obtained_object")
        if not self.looked_up:
            self.looked_up = True
            self.domain.stats.lookups_pos += 1
            self._lookup_known(no_data_yet=False)
        elif not self.available:
            self.domain.stats.lookups_crt += 1
            # Unlike the reference: another process may fill it from here on, so reads must look.
            self.cookie.no_data_yet = False
        if self.machine.judged_at == self.cookie.invalidated_at:
            self.cookie.distrusted = False
        self.available = True

    def _check_in_lookup(self, told: str) -> None:
        """Refuse what a hook tells that was given up: the cookie may have another object by now."""
        if not self.live:
            name = self.cache.backend.name
            raise PluginError(f"backend {name}: {told} of {self!r}, whose lookup is over", plugin=name)

    def _lookup_known(self, *, no_data_yet: bool) -> None:
        cookie = self.cookie
        cookie.no_data_yet = no_data_yet
        cookie.unavailable = False
        cookie.looking_up = False
        cookie.wake()

    def lookup_error(self) -> None:
        """Flag that the lookup failed.  (``fscache_object_lookup_error``)"""
        self.machine.events |= ERROR

    def verification_failed(self, n_pages: int) -> None:
        """Count stored pages that were found damaged and are treated as holes."""
        self.cookie.n_damaged += n_pages

    def retrying_stale(self) -> None:
        """Count a stale object that was retired during lookup.  (``fscache_object_retrying_stale``)"""
        self.domain.stats.cacheev_stl += 1

    def mark_killed(self, why: KillReason) -> None:
        """Tell that the backend ended this object; it is killed.  (``fscache_object_mark_killed``)"""
        if self.killed_by_cache:
            log.error("%r of cache %s was killed twice", self, self.cache.tag)
            return
        self.killed_by_cache = True
        stats = self.domain.stats
        match why:
            case KillReason.IS_STALE:
                stats.cacheev_stl += 1
            case KillReason.NO_SPACE:
                stats.cacheev_nsp += 1
            case KillReason.WAS_RETIRED:
                stats.cacheev_rtr += 1
            case KillReason.WAS_CULLED:
                stats.cacheev_cul += 1
        self.abort()

    def check_aux(self, aux: bytes, object_size: int) -> AuxOutcome:
        """Ask whether a stored label is valid.  (``fscache_check_aux``)

        Args:
          aux: the label's aux data, without any type byte.
          object_size: size of what is stored, bytes.
        """
        cookie, stats = self.cookie, self.domain.stats
        check = cookie.definition.check_aux
        if cookie.distrusted:
            outcome = AuxOutcome.OBSOLETE
        elif check is None:
            stats.chkaux_non += 1
            outcome = AuxOutcome.OKAY
        else:
            try:
                outcome = ask_netfs(cookie, "check_aux", AuxOutcome, check, aux, object_size)
            except FscacheError as error:  # the netfs's fault, not for the backend to see
                blame_netfs(cookie, "check_aux", error)
                outcome = AuxOutcome.OBSOLETE
        if outcome is AuxOutcome.OBSOLETE:
            stats.chkaux_obs += 1
            return outcome
        if cookie.aux is None:
            cookie.adopt(aux, object_size)
            self.set_store_limit(object_size)
        if outcome is AuxOutcome.NEEDS_UPDATE:
            stats.chkaux_upd += 1
        elif check is not None:
            stats.chkaux_ok += 1
        return outcome

    def set_store_limit(self, size: int) -> None:
        """Set up to which byte pages may be stored.  (``fscache_set_store_limit``)"""
        self.store_limit_size = size

    async def sleep_till_congested(self, seconds: float) -> bool:
        """Sleep up to ``seconds``; True if the object pool is congested, so that the lookup should end
        and requeued.  (``fscache_object_sleep_till_congested``)"""
        deadline = trio.current_time() + seconds
        while not self.domain.congested:
            left = deadline - trio.current_time()
            if left <= 0:
                return False
            await trio.sleep(min(left, 0.05))
        return True

    # -- for core ------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.machine.state

    @property
    def dying(self) -> bool:
        return not self.live

    @property
    def ending(self) -> bool:
        """Whether the object is on its way out, even if its machine has not got round to it."""
        return not self.dead and (self.dying or self.retired or bool(self.machine.events & OUT_OF_BAND))

    @property
    def active(self) -> bool:
        """Whether operations may be carried out: available, live, and the cache is not broken.

        Unlike in the reference an object that failed is not, even before its machine runs: what it holds may
        be what an invalidation could not discard.
        """
        return self.available and self.live and not self.machine.doomed and not self.cache.broken

    @property
    def dead(self) -> bool:
        return self.machine.dead

    @property
    def name(self) -> tuple[tuple[int, bytes], ...]:
        """The path of (type, key) from the master index, which names what is stored."""
        above = self.parent.name if self.parent is not None else ()
        return (*above, (self.cookie.type, self.cookie.key))

    @property
    def work(self) -> int:
        """Whether its machine rests (0), waits for a place in the pool (1) or runs (2)."""
        return self.machine.work

    @property
    def flags(self) -> int:
        """The flag bits of 6.4, for the object list."""
        return (
            (self.storage is not None) << 1
            | self.live << 3
            | self.looked_up << 4
            | self.available << 5
            | self.retired << 6
            | self.killed_by_cache << 7
        )

    def grab(self) -> None:
        self.usage += 1
        hook = self.cache.backend.grab_object
        if hook is not None:
            self.domain.stats.cacheop_gro += 1
            self.tell(hook)
            self.domain.stats.cacheop_gro -= 1

    def put(self) -> None:
        """Drop a reference that `grab` took.

        Raises:
          PluginError: it was dropped too often.  Nothing was changed.
        """
        if self.usage == 0 or (self.usage == 1 and not self.dead):
            name = self.cache.backend.name
            raise PluginError(f"backend {name}: {self!r} was put more often than it was grabbed", plugin=name)
        self.drop_reference()

    def drop_reference(self) -> None:
        """Drop one of core's references."""
        if self.usage == 1 and not self.dead:
            log.error("backend %s: %r was put more often than it was grabbed", self.cache.backend.name, self)
            return
        self.usage -= 1
        hook = self.cache.backend.put_object
        if hook is not None:
            self.domain.stats.cacheop_pto += 1
            self.tell(hook)
            self.domain.stats.cacheop_pto -= 1
        if self.usage == 0:
            self.cache.object_destroyed(self)
            if self._destroyed is not None:
                self._destroyed.set()

    def machine_rests(self) -> None:
        """Drop the reference that the machine's task held (core only)."""
        self.drop_reference()
        if self.dead and self.usage:  # core holds no reference to a dead object
            self.domain.spawn(self._collect, f"OBJ{self.debug_id:x} collector")

    async def _collect(self) -> None:
        """Wait until the backend drops its references to a dead object, and at the end do without."""
        seconds = self.domain.limits.hook_seconds
        self._destroyed = trio.Event()
        with trio.move_on_after(seconds):
            await self._destroyed.wait()
        if self.usage:
            name = self.cache.backend.name
            log.error(
                "backend %s still holds %r %g s after its death; destroyed without it", name, self, seconds
            )
            self.usage = 0
            self.cache.object_destroyed(self)

    def is_new(self, cache: Cache, cookie: Cookie) -> bool:
        """Whether this is an object for that cookie which was never used (core only)."""
        return (
            getattr(self, "cookie", None) is cookie
            and self.cache is cache
            and self.state.name == "WAIT_FOR_INIT"
            and self.debug_id not in cache.objects
        )

    def be_available(self) -> None:
        """Put a master index's object, which is never looked up, where others are after it (core only)."""
        self.looked_up = self.available = True
        self.machine.be_available()

    def begin(self) -> None:
        """Start the life of a new object."""
        self.machine.begin()

    def kill(self) -> None:
        close_hot_path(self)
        self.machine.raise_event(KILL)

    def abort(self) -> None:
        """End the object because something of it failed."""
        close_hot_path(self)
        self.machine.raise_event(ERROR)

    def update(self) -> None:
        self.machine.raise_event(UPDATE)

    def invalidate(self) -> None:
        if self.live:
            self.machine.raise_event(INVALIDATE)
        else:
            self.distrust()
            self.cookie.invalidating = False
            self.cookie.wake()

    def distrust(self) -> None:
        """The data must go all the same: delete it, and believe no label of it until then."""
        self.retired = True
        self.cookie.distrusted = True

    def cleared(self) -> None:
        """The last operation was released, or the last child dropped."""
        self.machine.raise_event(CLEARED)

    async def wait_dead(self) -> None:
        while not self.dead:
            await self.machine.wait_rest()

    async def wait_known(self) -> None:
        """Wait until the object is available or never will be."""
        while self.live and not self.available:
            await self.machine.wait_rest()

    def tell(self, hook: Callable[Concatenate[CacheObject, P], None], *args: P.args, **kw: P.kwargs) -> None:
        """Call a hook of the backend that is not async and returns nothing."""
        name = self.cache.backend.name
        try:
            hook(self, *args, **kw)
        except BaseException as error:
            if passes_through(error):
                raise
            log.error("%r: backend %s: %s raised %r", self, name, hook_name(hook), error, exc_info=error)
            self.abort()

    def hook_failed(self, error: FscacheError) -> None:
        """React to what a hook raised: stop the cache, or end this object; attribute a fault."""
        match error:
            case CacheIOError():
                self.cache.io_error(str(error))
            case NoSpaceError():
                if not self.killed_by_cache:
                    self.mark_killed(KillReason.NO_SPACE)
            case PluginError():
                log.error("%r (%r): %s", self, self.cookie, error, exc_info=error.__cause__)
                self.abort()
            case _:
                log.warning("%r (%r): %s", self, self.cookie, error)

    def unlink(self) -> None:
        """Take the object off its cookie, and undo what it did to that.  No-op the second time."""
        cookie = self.cookie
        if self not in cookie.objects:
            return
        cookie.objects.remove(self)
        cookie.stores.discard()
        cookie.forget_marks()
        cookie.looking_up = False
        if not cookie.objects:
            cookie.invalidating = False
            cookie.no_data_yet = True
        cookie.wake()

    def child_dropped(self) -> None:
        self.n_children -= 1
        if self.n_children == 0:
            self.cleared()

    def bug(self, where: str, error: Exception) -> None:
        """Core itself failed in a task of this object: what it left is not to be believed (core only)."""
        self.domain.bug(f"{self!r} ({self.cookie!r}), {where}", error)
        self.distrust()
        self.abort()
