"""Objects: the cache-side record of a cookie, and its state machine (reference section 6).

The machine is data: `STATES` with the transitions of the wait states, and an out-of-band table per phase
for ERROR and KILL.  One dispatcher, `CacheObject._dispatch`, runs it in a task of its own while there is
something to do; an object at rest has no task.

Phases and where ERROR or KILL lead, looked at before every state:

    init    until LOOK_UP_OBJECT first runs    ABORT_INIT
    lookup  until OBJECT_AVAILABLE runs        LOOKUP_FAILURE
    run     from then on                       KILL_OBJECT

Raising an event is atomic and may be done from anywhere in the trio thread.  Every async hook of the
backend is called through `CacheObject.call`, which bounds its time and counts it; whatever a hook raises ends
at most this object (and, for `CacheIOError`, stops the cache).  Hooks that change what an object refers to
run one at a time, under its ``lock``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import trio

from fscache_core.domain import log
from fscache_core.errors import CacheIOError, FscacheError, NoMemoryError, NoSpaceError, PluginError
from fscache_core.folio import PageRuns
from fscache_core.operation import Operation, OperationQueue, SubmitOutcome
from fscache_core.outcome import (
    NOT_RESIDENT,
    AuxOutcome,
    ConsistencyOutcome,
    CookieType,
    KillReason,
    LookupOutcome,
    ReserveOutcome,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.operation import Storage
    from fscache_core.stats import Stats

P = ParamSpec("P")
T = TypeVar("T")

# Events, by bit (6.1).
NEW_CHILD = 1 << 0
PARENT_READY = 1 << 1
UPDATE = 1 << 2
INVALIDATE = 1 << 3
CLEARED = 1 << 4
ERROR = 1 << 5
KILL = 1 << 6
OUT_OF_BAND = ERROR | KILL

#: How long a lookup that is stuck behind another object waits before the next attempt, at most.
LOOKUP_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class State:
    """A row of the table: a wait state has transitions, a work state a method of `CacheObject`."""

    name: str
    short: str
    transitions: tuple[tuple[int, str], ...] = ()  #: (event, next state), first match wins
    work: str | None = None
    leads_to: tuple[str, ...] = ()  #: the states that the work can end in


STATES = {
    state.name: state
    for state in (
        State("WAIT_FOR_INIT", "?INI", transitions=((NEW_CHILD, "INIT_OBJECT"),)),
        State("INIT_OBJECT", "INIT", (), "_init_object", ("DROP_OBJECT", "PARENT_READY", "WAIT_FOR_PARENT")),
        State("WAIT_FOR_PARENT", "?PRN", transitions=((PARENT_READY, "PARENT_READY"),)),
        State("PARENT_READY", "PRDY", (), "_parent_ready", ("LOOK_UP_OBJECT",)),
        State(
            "LOOK_UP_OBJECT",
            "LOOK",
            (),
            "_look_up_object",
            ("LOOK_UP_OBJECT", "LOOKUP_FAILURE", "OBJECT_AVAILABLE"),
        ),
        State("CREATE_OBJECT", "CRTO"),  # never entered, as in the reference: creation is part of lookup
        State("OBJECT_AVAILABLE", "AVBL", (), "_object_available", ("JUMPSTART_DEPS",)),
        State("JUMPSTART_DEPS", "JUMP", (), "_jumpstart_dependents", ("WAIT_FOR_CMD",)),
        State(
            "WAIT_FOR_CMD",
            "?CMD",
            transitions=(
                (INVALIDATE, "INVALIDATE_OBJECT"),
                (UPDATE, "UPDATE_OBJECT"),
                (NEW_CHILD, "JUMPSTART_DEPS"),
            ),
        ),
        State("INVALIDATE_OBJECT", "INVL", (), "_invalidate_object", ("UPDATE_OBJECT", "KILL_OBJECT")),
        State("UPDATE_OBJECT", "UPDT", (), "_update_object", ("WAIT_FOR_CMD",)),
        State("ABORT_INIT", "ABRT", (), "_abort_init", ("KILL_OBJECT",)),
        State("LOOKUP_FAILURE", "LCFL", (), "_lookup_failure", ("KILL_OBJECT",)),
        State(
            "KILL_OBJECT",
            "KILL",
            (),
            "_kill_object",
            ("DROP_OBJECT", "KILL_DEPENDENTS", "WAIT_FOR_CLEARANCE"),
        ),
        State("KILL_DEPENDENTS", "KDEP", (), "_kill_dependents", ("WAIT_FOR_CLEARANCE",)),
        State("WAIT_FOR_CLEARANCE", "?CLR", transitions=((CLEARED, "KILL_OBJECT"),)),
        State("DROP_OBJECT", "DROP", (), "_drop_object", ("OBJECT_DEAD",)),
        State("OBJECT_DEAD", "DEAD"),
    )
}

#: The out-of-band table: where ERROR or KILL lead, by phase, and the states that may be due then.  (Others
#: are run in the same step as the one before, so that no event comes in between.)
OUT_OF_BAND_TABLE = {
    "ABORT_INIT": ("WAIT_FOR_INIT", "WAIT_FOR_PARENT", "LOOK_UP_OBJECT"),
    "LOOKUP_FAILURE": ("LOOK_UP_OBJECT", "OBJECT_AVAILABLE"),
    "KILL_OBJECT": ("JUMPSTART_DEPS", "WAIT_FOR_CMD"),
}

EVENTS = {
    NEW_CHILD: "NEW_CHILD",
    PARENT_READY: "PARENT_READY",
    UPDATE: "UPDATE",
    INVALIDATE: "INVALIDATE",
    CLEARED: "CLEARED",
    ERROR: "ERROR",
    KILL: "KILL",
}


def transitions() -> list[tuple[str, str, str]]:
    """The whole table, as (state, event, next state); the event is empty where a work state ends."""
    table = []
    for state in STATES.values():
        table += [(state.name, EVENTS[event], target) for event, target in state.transitions]
        table += [(state.name, "", target) for target in state.leads_to]
    for target, due in OUT_OF_BAND_TABLE.items():
        table += [(name, EVENTS[event], target) for name in due for event in (ERROR, KILL)]
    return table


#: Public: state name -> the short name of the object list.
object_states: dict[str, str] = {state.name: state.short for state in STATES.values()}


class CacheObject:
    """The record of one cookie in one cache.  Backends subclass it to add their own fields.

    For backends: ``cache``, ``cookie``, ``parent``, ``retired``, ``store_limit_size`` and the methods under
    "for backends".  Everything else is core's.
    """

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
        # The machine.
        self.state = STATES["WAIT_FOR_INIT"]
        self.events = 0
        self.event_mask = NEW_CHILD | OUT_OF_BAND
        self._oob_target: str | None = "ABORT_INIT"
        self._dispatching = False
        self._in_pool = False
        self._counted_in_parent = False
        self._lookup_called = False
        self._created_at = 0.0
        self._rested = trio.lowlevel.ParkingLot()  # woken whenever the machine comes to rest
        self._destroyed: trio.Event | None = None
        self._judged_at = -1  # the cookie's ``invalidated_at`` when the lookup began
        self._lookup_until = math.inf  # trio time at which a lookup that gets nowhere is given up
        self._pause: trio.CancelScope | None = None  # around a wait that ERROR and KILL end
        self._invalidation: Operation | None = None  # submitted, and the backend has not begun it

    def __repr__(self) -> str:
        return f"OBJ{self.debug_id:x}"

    # -- for backends --------------------------------------------------------------------

    def lookup_negative(self) -> bool:
        """Tell that nothing valid is stored, before creating it.  (``fscache_object_lookup_negative``)

        Readers stop waiting and get ``NO_DATA``; writers queue.

        Returns False if nothing may be created: the lookup is to end with ``ABSENT``.
        """
        if not self.looked_up:
            self.looked_up = True
            self.domain.stats.lookups_neg += 1
            if self.cookie.aux is None:
                return False
            self._lookup_known(no_data_yet=True)
        return self.cookie.aux is not None

    def obtained_object(self) -> None:
        """Tell that the object exists, found or created.  (``fscache_obtained_object``)"""
        if not self.looked_up:
            self.looked_up = True
            self.domain.stats.lookups_pos += 1
            self._lookup_known(no_data_yet=False)
        elif not self.available:
            self.domain.stats.lookups_crt += 1
            # Unlike the reference: another process may fill it from here on, so reads must look.
            self.cookie.no_data_yet = False
        if self._judged_at == self.cookie.invalidated_at:
            self.cookie.distrusted = False
        self.available = True

    def lookup_error(self) -> None:
        """Flag that the lookup failed.  (``fscache_object_lookup_error``)"""
        self.events |= ERROR

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
                outcome = cookie.ask(AuxOutcome, check, aux, object_size)
            except FscacheError as error:  # the netfs's fault, not for the backend to see
                log.error("%r (%r): %s", self, cookie, error, exc_info=error.__cause__)
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
    def dying(self) -> bool:
        return not self.live

    @property
    def ending(self) -> bool:
        """Whether the object is on its way out, even if its machine has not got round to it."""
        return not self.dead and (self.dying or self.retired or bool(self.events & OUT_OF_BAND))

    @property
    def active(self) -> bool:
        """Whether operations may be carried out: available, live, and the cache is not broken.

        Unlike in the reference an object that failed is not, even before its machine runs: what it holds may
        be what an invalidation could not discard.
        """
        doomed = self.events & ERROR or self._oob_target is None
        return self.available and self.live and not doomed and not self.cache.broken

    @property
    def dead(self) -> bool:
        return self.state.name == "OBJECT_DEAD"

    @property
    def name(self) -> tuple[tuple[int, bytes], ...]:
        """The path of (type, key) from the master index, which names what is stored."""
        above = self.parent.name if self.parent is not None else ()
        return (*above, (self.cookie.type, self.cookie.key))

    @property
    def work(self) -> int:
        """Whether its machine rests (0), waits for a place in the pool (1) or runs (2)."""
        return self._dispatching + (self._dispatching and self._in_pool)

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
        self._put()

    def _put(self) -> None:
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
        self.state = STATES["WAIT_FOR_CMD"]
        self._oob_target = "KILL_OBJECT"
        self.event_mask = OUT_OF_BAND | NEW_CHILD

    def begin(self) -> None:
        """Start the life of a new object."""
        self._created_at = trio.current_time()
        self._raise(NEW_CHILD)

    def kill(self) -> None:
        self.cookie_detached()
        self._raise(KILL)

    def abort(self) -> None:
        """End the object because something of it failed."""
        self.cookie_detached()
        self._raise(ERROR)

    def update(self) -> None:
        self._raise(UPDATE)

    def invalidate(self) -> None:
        if self.live:
            self._raise(INVALIDATE)
        else:
            self._cannot_invalidate()
            self.cookie.invalidating = False
            self.cookie.wake()

    def _cannot_invalidate(self) -> None:
        """The data must go all the same: delete it, and believe no label of it until then."""
        self.retired = True
        self.cookie.distrusted = True

    def cleared(self) -> None:
        """The last operation was released, or the last child dropped."""
        self._raise(CLEARED)

    def cookie_detached(self) -> None:
        """Take the hot path away from readers."""
        if self.cookie.object is self:
            self.cookie.read_resident = None

    async def wait_dead(self) -> None:
        while not self.dead:
            await self._rested.park()

    async def wait_known(self) -> None:
        """Wait until the object is available or never will be."""
        while self.live and not self.available:
            await self._rested.park()

    async def call(
        self,
        gauge: str | None,
        expected: type[T],
        hook: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call an async hook of the backend; the only way core does.

        Args:
          gauge: the key of the ``CacheOp`` counter of calls under way, if the hook has one.
          expected: the type of what the hook must return.

        Raises:
          FscacheError: as the hook's contract says; anything else the hook does comes as `PluginError`.
        """
        stats, backend, limits = self.domain.stats, self.cache.backend, self.domain.limits
        seconds = limits.drop_seconds if gauge == "dro" else limits.hook_seconds
        _count_call(stats, gauge, 1)
        try:
            with trio.move_on_after(seconds) as scope:
                result = await hook(*args, **kwargs)
            if scope.cancelled_caught:
                raise PluginError(
                    f"backend {backend.name}: {_name(hook)} did not return within {seconds:g} s",
                    plugin=backend.name,
                )
        except FscacheError:
            raise
        except MemoryError as error:
            raise NoMemoryError(f"backend {backend.name}: {_name(hook)}: out of memory") from error
        except Exception as error:
            raise PluginError(
                f"backend {backend.name}: {_name(hook)} raised {type(error).__name__}: {error}",
                plugin=backend.name,
            ) from error
        finally:
            _count_call(stats, gauge, -1)
        if not isinstance(result, expected):
            raise PluginError(
                f"backend {backend.name}: {_name(hook)} returned {result!r}, not a {expected.__name__}",
                plugin=backend.name,
            )
        return result

    async def _change(
        self,
        gauge: str,
        expected: type[T],
        hook: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """`call` a hook that changes what the object refers to."""
        backend = self.cache.backend
        if self.lock.locked():
            await self.lock.acquire()
        else:
            self.lock.acquire_nowait()
        try:
            if backend.lock_object is not None:
                await self.call(None, type(None), backend.lock_object, self)
            try:
                return await self.call(gauge, expected, hook, *args, **kwargs)
            finally:
                if backend.unlock_object is not None:
                    self.tell(backend.unlock_object)
        finally:
            self.lock.release()

    def tell(self, hook: Callable[Concatenate[CacheObject, P], None], *args: P.args, **kw: P.kwargs) -> None:
        """Call a hook of the backend that is not async and returns nothing."""
        name = self.cache.backend.name
        try:
            hook(self, *args, **kw)
        except Exception as error:
            log.error("%r: backend %s: %s raised %r", self, name, _name(hook), error, exc_info=error)
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

    async def check_consistency(self, op: Operation) -> ConsistencyOutcome | None:
        try:
            return await self.call(None, ConsistencyOutcome, self.cache.backend.check_consistency, op)
        except FscacheError as error:
            self.hook_failed(error)
            return None

    async def pin(self) -> ReserveOutcome:
        return await self._reserve(ReserveOutcome, self.cache.backend.pin_object, self)

    async def unpin(self) -> ReserveOutcome:
        return await self._reserve(type(None), self.cache.backend.unpin_object, self)

    async def is_pinned(self) -> bool:
        try:
            return await self.call(None, bool, self.cache.backend.is_pinned, self)
        except FscacheError as error:
            self.hook_failed(error)
            return False

    async def get_check_time(self) -> float:
        """When the origin last confirmed what is stored; 0.0 if that is not known."""
        try:
            return await self.call(None, float, self.cache.backend.get_check_time, self)
        except FscacheError as error:
            self.hook_failed(error)
            return 0.0

    async def set_check_time(self, check_time: float) -> None:
        try:
            await self.call(None, type(None), self.cache.backend.set_check_time, self, check_time)
        except FscacheError as error:
            self.hook_failed(error)

    async def resident_pages(self) -> PageRuns | None:
        """Which pages are stored; None if the backend cannot tell."""
        hook = self.cache.backend.resident_pages
        if hook is None:
            return None
        try:
            found = await self.call(None, Sequence, hook, self)  # type: ignore[type-abstract]
        except FscacheError as error:
            self.hook_failed(error)
            return None
        runs = PageRuns()
        for first, n_pages in found:
            runs.add(first, n_pages)
        return runs

    async def reserve_space(self, reserved_size: int) -> ReserveOutcome:
        return await self._reserve(ReserveOutcome, self.cache.backend.reserve_space, self, reserved_size)

    async def _reserve(
        self,
        expected: type[ReserveOutcome | None],
        hook: Callable[P, Awaitable[ReserveOutcome | None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> ReserveOutcome:
        try:
            outcome = await self.call(None, expected, hook, *args, **kwargs)
        except NoSpaceError:
            return ReserveOutcome.REFUSED
        except FscacheError as error:
            self.hook_failed(error)
            return ReserveOutcome.REFUSED
        return ReserveOutcome.GRANTED if outcome is None else outcome

    # -- the machine ---------------------------------------------------------------------

    def _raise(self, event: int) -> None:
        if not self.events & event:
            self.events |= event
            if self._pause is not None and event & OUT_OF_BAND:
                self._pause.cancel()
            if self.event_mask & event and not self._dispatching and not self.dead:
                self._dispatching = True
                self.grab()
                self.domain.spawn(self._dispatch, f"OBJ{self.debug_id:x}")

    async def _dispatch(self) -> None:
        started = trio.current_time()
        try:
            async with self.domain.object_pool:
                self._in_pool = True
                while (state := self._next_state()) is not None:
                    self.state = state
                    if state.work is not None:
                        following: str = await getattr(self, state.work)()
                        assert following in state.leads_to
                        self._enter("", following)
        finally:
            self._dispatching = self._in_pool = False
            self.domain.histogram.note("obj_runs", trio.current_time() - started)
            self._rested.unpark_all()
            self._put()
            if self.dead and self.usage:  # core holds no reference to a dead object
                self.domain.spawn(self._collect, f"OBJ{self.debug_id:x} collector")

    def _next_state(self) -> State | None:
        """The state to run now, or None to rest in a wait state.  Atomic with `_raise`."""
        out_of_band = self.events & OUT_OF_BAND
        if out_of_band and self._oob_target is not None:
            self.events &= ~out_of_band
            target, self._oob_target = self._oob_target, None
            return self._enter(EVENTS[KILL if out_of_band & KILL else ERROR], target)
        if self.state.work is not None:
            return self.state
        for event, target in self.state.transitions:
            if self.events & event:
                self.events &= ~event
                return self._enter(EVENTS[event], target)
        self.event_mask = OUT_OF_BAND if self._oob_target is not None else 0
        for event, _ in self.state.transitions:
            self.event_mask |= event
        return None

    def _enter(self, event: str, target: str) -> State:
        if self.domain.limits.debug & 4:
            log.debug("%r: %s -%s-> %s", self, self.state.name, event, target)
        self.state = STATES[target]
        return self.state

    async def _init_object(self) -> str:
        parent = self.parent
        if parent is None or parent.dying:
            return "DROP_OBJECT"
        if parent.available:
            return "PARENT_READY"
        self.grab()
        parent.dependents.append(self)
        parent._raise(NEW_CHILD)
        return "WAIT_FOR_PARENT"

    async def _parent_ready(self) -> str:
        assert self.parent is not None
        self.parent.ops.n_obj_ops += 1
        self._counted_in_parent = True
        self._lookup_until = trio.current_time() + self.domain.limits.hook_seconds
        return "LOOK_UP_OBJECT"

    def _leave_parent(self) -> None:
        """Undo what `_parent_ready` counted, whatever way the lookup took (the reference forgets one)."""
        if self._counted_in_parent:
            assert self.parent is not None
            self._counted_in_parent = False
            self.parent.ops.n_obj_ops -= 1
            if self.parent.ops.n_ops == 0:
                self.parent.cleared()

    async def _look_up_object(self) -> str:
        self._oob_target = "LOOKUP_FAILURE"
        cookie, stats = self.cookie, self.domain.stats
        assert self.parent is not None
        if self.parent.dying or self.cache.broken or not cookie.use():
            return "LOOKUP_FAILURE"
        older = self.cache.retiring(self)
        try:
            if older is None:
                stats.lookups_n += 1
                self._lookup_called = True
                self._judged_at = cookie.invalidated_at
                outcome = await self._change("luo", LookupOutcome, self.cache.backend.lookup_object, self)
            else:
                outcome = LookupOutcome.RETRY  # it would delete what we find
        except FscacheError as error:
            self.hook_failed(error)
            return "LOOKUP_FAILURE"
        finally:
            cookie.unuse()
        if outcome is LookupOutcome.RETRY:
            stats.lookups_tmo += 1
            if trio.current_time() >= self._lookup_until:
                self._lookup_stuck(older)
                return "LOOKUP_FAILURE"
            await self._wait_turn(older)
            return "LOOK_UP_OBJECT"
        if outcome is LookupOutcome.ABSENT:
            return "LOOKUP_FAILURE"
        if not self.available:
            if outcome is LookupOutcome.CREATED:
                self.lookup_negative()
            self.obtained_object()
        return "OBJECT_AVAILABLE"

    async def _wait_turn(self, older: CacheObject | None) -> None:
        """Wait a little, or for an older object to be gone, without a place in the pool: it needs one too."""
        if self.events & OUT_OF_BAND:
            return
        pool = self.domain.object_pool
        seconds = self._lookup_until - trio.current_time() if older is not None else LOOKUP_PAUSE_SECONDS
        pool.release()
        self._in_pool = False
        with trio.move_on_after(seconds) as self._pause:
            if older is None:
                await trio.sleep_forever()
            else:
                await older.wait_dead()
        self._pause = None
        await pool.acquire()
        self._in_pool = True

    def _lookup_stuck(self, older: CacheObject | None) -> None:
        seconds, name = self.domain.limits.hook_seconds, self.cache.backend.name
        if older is not None:
            log.warning("%r (%r): %r has not gone away within %g s", self, self.cookie, older, seconds)
            return
        message = f"backend {name}: lookup_object still says RETRY after {seconds:g} s"
        self.hook_failed(PluginError(message, plugin=name))

    def _lookup_known(self, *, no_data_yet: bool) -> None:
        cookie = self.cookie
        cookie.no_data_yet = no_data_yet
        cookie.unavailable = False
        cookie.looking_up = False
        cookie.wake()

    async def _object_available(self) -> str:
        self._oob_target = "KILL_OBJECT"
        self._leave_parent()
        self._offer_resident()
        self.ops.start()
        await self._complete_lookup()
        self.domain.stats.objects_avl += 1
        self.domain.histogram.note("obj_inst", trio.current_time() - self._created_at)
        return "JUMPSTART_DEPS"

    def _offer_resident(self) -> None:
        read = self.cache.backend.read_resident
        cookie = self.cookie
        if read is not None and cookie.type != CookieType.INDEX and self.active and not cookie.invalidating:
            cookie.read_resident = functools.partial(self._read_resident, read)

    def _read_resident(
        self, read: Callable[[CacheObject, int, memoryview], int], offset: int, buffer: memoryview
    ) -> int:
        # Any thread.
        try:
            return read(self, offset, buffer)
        except Exception as error:
            self.cookie.read_resident = None
            name = self.cache.backend.name
            message = f"backend {name}: read_resident raised {type(error).__name__}: {error}"
            failed = PluginError(message, plugin=name)
            failed.__cause__ = error
            self.domain.token.run_sync_soon(self.hook_failed, failed)
            return NOT_RESIDENT

    async def _complete_lookup(self) -> None:
        hook = self.cache.backend.lookup_complete
        if hook is not None and self._lookup_called:
            try:
                await self.call("luc", type(None), hook, self)
            except FscacheError as error:
                self.hook_failed(error)

    async def _jumpstart_dependents(self) -> str:
        dependents, self.dependents = self.dependents, []
        for dependent in dependents:
            dependent._raise(PARENT_READY)
            dependent._put()
        return "WAIT_FOR_CMD"

    async def _invalidate_object(self) -> str:
        cookie = self.cookie
        cookie.discard_stores()
        self.storage = None
        self.ops.cancel_all()
        cookie.forget_marks()
        op = Operation(self, exclusive=True, processor=self._process_invalidate)
        accepted = self.ops.submit(op) is SubmitOutcome.ACCEPTED
        op.put()
        if accepted:
            self._invalidation = op
        else:
            self._cannot_invalidate()
        cookie.no_data_yet = True
        cookie.invalidating = False
        cookie.wake()
        return "UPDATE_OBJECT" if accepted else "KILL_OBJECT"

    async def _process_invalidate(self, op: Operation) -> None:
        self.domain.stats.invals_run += 1
        if self._invalidation is op:
            self._invalidation = None
        cookie = self.cookie
        self.set_store_limit(cookie.object_size)
        cookie.aux_updated = False  # the hook labels what it makes
        try:
            if self.cache.broken:
                raise CacheIOError(f"cache {self.cache.tag} was stopped")
            await self._change("inv", type(None), self.cache.backend.invalidate_object, op)
        except FscacheError as error:
            self.hook_failed(error)
            self._cannot_invalidate()
            self.abort()
        else:
            cookie.no_data_yet = False
            self._offer_resident()
        finally:
            if not op.ended:  # the backend may have completed it
                op.complete()

    async def process_attr_changed(self, op: Operation) -> None:
        stats = self.domain.stats
        stats.attrchg_run += 1
        try:
            if self.active:
                await self._change("atc", type(None), self.cache.backend.attr_changed, self)
                self.set_store_limit(self.cookie.object_size)
        except FscacheError as error:
            if isinstance(error, NoMemoryError):
                stats.attrchg_oom += 1
            self.hook_failed(error)
            self.retired = True
            self.abort()
        else:
            self._offer_resident()
        finally:
            if not op.ended:
                op.complete()

    async def _update_object(self) -> str:
        await self._write_aux()
        return "WAIT_FOR_CMD"

    async def _write_aux(self) -> None:
        cookie = self.cookie
        if cookie.aux is None or self._invalidation is not None:
            # In the second case the data is still the old, and must not get the new label, not even for a
            # moment: other processes would believe it.
            return
        self.domain.stats.updates_run += 1
        cookie.aux_updated = False
        try:
            await self._change("upo", type(None), self.cache.backend.update_object, self)
        except FscacheError as error:
            # A label that could not be written must not be believed later.
            self.hook_failed(error)
            self.retired = True
            self.abort()

    async def _abort_init(self) -> str:
        if self.parent is not None and self in self.parent.dependents:
            self.parent.dependents.remove(self)
            self._put()
        self._leave_parent()
        return "KILL_OBJECT"

    async def _lookup_failure(self) -> str:
        self._oob_target = None
        await self._complete_lookup()
        self.killed_by_cache = True
        cookie = self.cookie
        cookie.unavailable = True
        cookie.looking_up = False
        cookie.wake()
        self._leave_parent()
        return "KILL_OBJECT"

    async def _kill_object(self) -> str:
        self._oob_target = None
        self.live = False
        self.cookie_detached()
        if self.retired:
            self.storage = None
            self.ops.cancel_all()
        if not self.dependents and self.ops.n_ops == 0 and self.n_children == 0:
            return "DROP_OBJECT"
        if self.ops.n_in_progress == 0:
            self.ops.start()
        return "KILL_DEPENDENTS" if self.dependents else "WAIT_FOR_CLEARANCE"

    async def _kill_dependents(self) -> str:
        dependents, self.dependents = self.dependents, []
        for dependent in dependents:
            dependent.kill()
            dependent._put()
        return "WAIT_FOR_CLEARANCE"

    async def _drop_object(self) -> str:
        self._oob_target = None
        self.live = False
        cookie, stats = self.cookie, self.domain.stats
        self.cookie_detached()
        if self.events & INVALIDATE:
            self._cannot_invalidate()
        if cookie.aux_updated and not self.retired and self.available and not self.cache.broken:
            await self._write_aux()
        # From here on the cookie may have another object, so nothing of it is touched after the next await.
        if self in cookie.objects:
            cookie.objects.remove(self)
        cookie.discard_stores()
        cookie.forget_marks()
        cookie.looking_up = False
        if not cookie.objects:
            cookie.invalidating = False
            cookie.no_data_yet = True
        cookie.wake()
        if self._lookup_called:
            try:
                await self._change("dro", type(None), self.cache.backend.drop_object, self)
            except FscacheError as error:
                self.hook_failed(error)
        if not cookie.relinquished and cookie.definition.now_uncached is not None:
            cookie.tell(cookie.definition.now_uncached)
        parent = self.parent
        if parent is not None:
            parent.n_children -= 1
            if parent.n_children == 0:
                parent.cleared()
        stats.objects_ded += 1
        self._put()  # the dispatcher holds another
        return "OBJECT_DEAD"


def _count_call(stats: Stats, gauge: str | None, difference: int) -> None:
    if gauge is not None:
        field = f"cacheop_{gauge}"
        setattr(stats, field, getattr(stats, field) + difference)


def _name(hook: object) -> str:
    return getattr(hook, "__name__", "hook")
