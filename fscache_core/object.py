"""Objects: the cache-side record of a cookie, and its state machine (reference section 6).

The machine is data: `STATES` with the transitions of the wait states, and an out-of-band table per phase
for ERROR and KILL.  One dispatcher, `CacheObject._dispatch`, runs it in a task of its own while there is
something to do; an object at rest has no task.

Phases and where ERROR or KILL lead, looked at before every state:

    init    until LOOK_UP_OBJECT first runs    ABORT_INIT
    lookup  until OBJECT_AVAILABLE runs        LOOKUP_FAILURE
    run     from then on                       KILL_OBJECT

Raising an event is atomic and may be done from anywhere in the trio thread.  Every hook of the backend
is called through `CacheObject.call`, which bounds its time and counts it; whatever a hook raises ends at most
this object (and, for `CacheIOError`, stops the cache).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from fscache_core.domain import log
from fscache_core.errors import CacheIOError, FscacheError, NoSpaceError, PluginError
from fscache_core.operation import Operation, OperationQueue, SubmitOutcome
from fscache_core.outcome import (
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

#: How long a lookup waits for an older, retired object of the same name before it is requeued.
OLDER_OBJECT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """A row of the table: a wait state has transitions, a work state a method of `CacheObject`."""

    name: str
    short: str
    transitions: tuple[tuple[int, str], ...] = ()  #: (event, next state), first match wins
    work: str | None = None


STATES = {
    state.name: state
    for state in (
        State("WAIT_FOR_INIT", "?INI", transitions=((NEW_CHILD, "INIT_OBJECT"),)),
        State("INIT_OBJECT", "INIT", work="_init_object"),
        State("WAIT_FOR_PARENT", "?PRN", transitions=((PARENT_READY, "PARENT_READY"),)),
        State("PARENT_READY", "PRDY", work="_parent_ready"),
        State("LOOK_UP_OBJECT", "LOOK", work="_look_up_object"),
        State("CREATE_OBJECT", "CRTO", work="_look_up_object"),  # never entered, as in the reference
        State("OBJECT_AVAILABLE", "AVBL", work="_object_available"),
        State("JUMPSTART_DEPS", "JUMP", work="_jumpstart_dependents"),
        State(
            "WAIT_FOR_CMD",
            "?CMD",
            transitions=(
                (INVALIDATE, "INVALIDATE_OBJECT"),
                (UPDATE, "UPDATE_OBJECT"),
                (NEW_CHILD, "JUMPSTART_DEPS"),
            ),
        ),
        State("INVALIDATE_OBJECT", "INVL", work="_invalidate_object"),
        State("UPDATE_OBJECT", "UPDT", work="_update_object"),
        State("ABORT_INIT", "ABRT", work="_abort_init"),
        State("LOOKUP_FAILURE", "LCFL", work="_lookup_failure"),
        State("KILL_OBJECT", "KILL", work="_kill_object"),
        State("KILL_DEPENDENTS", "KDEP", work="_kill_dependents"),
        State("WAIT_FOR_CLEARANCE", "?CLR", transitions=((CLEARED, "KILL_OBJECT"),)),
        State("DROP_OBJECT", "DROP", work="_drop_object"),
        State("OBJECT_DEAD", "DEAD"),
    )
}

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
        self.pending_write = False
        self.live = True
        self.looked_up = False
        self.available = False
        self.retired = False
        self.killed_by_cache = False
        # The machine.
        self.state = STATES["WAIT_FOR_INIT"]
        self.events = 0
        self.event_mask = NEW_CHILD | OUT_OF_BAND
        self._oob_target: str | None = "ABORT_INIT"
        self._dispatching = False
        self._counted_in_parent = False
        self._lookup_called = False
        self._created_at = 0.0
        self._rested = trio.lowlevel.ParkingLot()  # woken whenever the machine comes to rest

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
        """Tell that the backend ended this object.  (``fscache_object_mark_killed``)"""
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

    def check_aux(self, aux: bytes, object_size: int) -> AuxOutcome:
        """Ask whether a stored label is valid.  (``fscache_check_aux``)

        Args:
          aux: the label's aux data, without any type byte.
          object_size: size of what is stored, bytes.
        """
        cookie, stats = self.cookie, self.domain.stats
        check = cookie.definition.check_aux
        if check is None:
            stats.chkaux_non += 1
            outcome = AuxOutcome.OKAY
        else:
            outcome = check(cookie.netfs_data, aux, object_size)
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
    def active(self) -> bool:
        """Whether operations may be carried out: available, live, and the cache is not broken."""
        return self.available and self.live and not self.cache.broken

    @property
    def dead(self) -> bool:
        return self.state.name == "OBJECT_DEAD"

    @property
    def name(self) -> tuple[tuple[int, bytes], ...]:
        """The path of (type, key) from the master index, which names what is stored."""
        above = self.parent.name if self.parent is not None else ()
        return (*above, (self.cookie.type, self.cookie.key))

    @property
    def flags(self) -> int:
        """The flag bits of 6.4, for the object list."""
        return (
            self.pending_write << 1
            | self.live << 3
            | self.looked_up << 4
            | self.available << 5
            | self.retired << 6
            | self.killed_by_cache << 7
        )

    def grab(self) -> None:
        self.usage += 1
        if self.cache.backend.grab_object is not None:
            self.cache.backend.grab_object(self)

    def put(self) -> None:
        self.usage -= 1
        assert self.usage >= 0, self
        if self.cache.backend.put_object is not None:
            self.domain.stats.cacheop_pto += 1
            try:
                self.cache.backend.put_object(self)
            finally:
                self.domain.stats.cacheop_pto -= 1
        if self.usage == 0:
            self.cache.object_destroyed(self)

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
            self.cookie.invalidating = False
            self.cookie.wake()

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
        gauge: str,
        expected: type[T],
        hook: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a hook of the backend; the only way core awaits one for an object.

        Raises:
          FscacheError: as the hook's contract says; anything else the hook does comes as `PluginError`.
        """
        stats, backend = self.domain.stats, self.cache.backend
        field = f"cacheop_{gauge}"
        limit = self.domain.limits
        seconds = limit.drop_seconds if gauge == "dro" else limit.hook_seconds
        setattr(stats, field, getattr(stats, field) + 1)
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
        except Exception as error:
            raise PluginError(
                f"backend {backend.name}: {_name(hook)} raised {type(error).__name__}: {error}",
                plugin=backend.name,
            ) from error
        finally:
            setattr(stats, field, getattr(stats, field) - 1)
        if not isinstance(result, expected):
            raise PluginError(
                f"backend {backend.name}: {_name(hook)} returned {result!r}, not a {expected.__name__}",
                plugin=backend.name,
            )
        return result

    def hook_failed(self, error: FscacheError) -> None:
        """React to what a hook raised: stop the cache, count lack of room, log the rest."""
        match error:
            case CacheIOError():
                self.cache.io_error(str(error))
            case NoSpaceError():
                if not self.killed_by_cache:
                    self.mark_killed(KillReason.NO_SPACE)
            case PluginError():
                log.error("%r (%r): %s", self, self.cookie, error, exc_info=error.__cause__)
            case _:
                log.warning("%r (%r): %s", self, self.cookie, error)

    async def check_consistency(self, op: Operation) -> ConsistencyOutcome | None:
        try:
            return await self.call("luo", ConsistencyOutcome, self.cache.backend.check_consistency, op)
        except FscacheError as error:
            self.hook_failed(error)
            return None

    async def pin(self) -> ReserveOutcome:
        return await self._reserve(self.cache.backend.pin_object, self)

    async def unpin(self) -> ReserveOutcome:
        try:
            await self.call("upo", type(None), self.cache.backend.unpin_object, self)
        except FscacheError as error:
            self.hook_failed(error)
            return ReserveOutcome.REFUSED
        return ReserveOutcome.GRANTED

    async def reserve_space(self, reserved_size: int) -> ReserveOutcome:
        return await self._reserve(self.cache.backend.reserve_space, self, reserved_size)

    async def _reserve(
        self, hook: Callable[P, Awaitable[ReserveOutcome]], *args: P.args, **kwargs: P.kwargs
    ) -> ReserveOutcome:
        try:
            return await self.call("upo", ReserveOutcome, hook, *args, **kwargs)
        except FscacheError as error:
            self.hook_failed(error)
            return ReserveOutcome.REFUSED

    # -- the machine ---------------------------------------------------------------------

    def _raise(self, event: int) -> None:
        if not self.events & event:
            self.events |= event
            if self.event_mask & event and not self._dispatching and not self.dead:
                self._dispatching = True
                self.grab()
                self.domain.spawn(self._dispatch, f"OBJ{self.debug_id:x}")

    async def _dispatch(self) -> None:
        started = trio.current_time()
        try:
            async with self.domain.object_pool:
                while (state := self._next_state()) is not None:
                    self.state = state
                    if state.work is not None:
                        following: str = await getattr(self, state.work)()
                        self.state = STATES[following]
        finally:
            self._dispatching = False
            self.domain.histogram.note("obj_runs", trio.current_time() - started)
            self._rested.unpark_all()
            self.put()

    def _next_state(self) -> State | None:
        """The state to run now, or None to rest in a wait state.  Atomic with `_raise`."""
        out_of_band = self.events & OUT_OF_BAND
        if out_of_band and self._oob_target is not None:
            self.events &= ~out_of_band
            target, self._oob_target = self._oob_target, None
            return STATES[target]
        if self.state.work is not None:
            return self.state
        for event, target in self.state.transitions:
            if self.events & event:
                self.events &= ~event
                return STATES[target]
        self.event_mask = OUT_OF_BAND if self._oob_target is not None else 0
        for event, _ in self.state.transitions:
            self.event_mask |= event
        return None

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
        self.parent.ops.n_ops += 1
        self.parent.ops.n_obj_ops += 1
        self._counted_in_parent = True
        return "LOOK_UP_OBJECT"

    def _leave_parent(self) -> None:
        """Undo what `_parent_ready` counted, whatever way the lookup took (the reference forgets one)."""
        if self._counted_in_parent:
            assert self.parent is not None
            self._counted_in_parent = False
            self.parent.ops.n_obj_ops -= 1
            self.parent.ops.n_ops -= 1
            if self.parent.ops.n_ops == 0:
                self.parent.cleared()

    async def _look_up_object(self) -> str:
        self._oob_target = "LOOKUP_FAILURE"
        cookie, stats = self.cookie, self.domain.stats
        assert self.parent is not None
        if self.parent.dying or self.cache.broken or not cookie.use():
            return "LOOKUP_FAILURE"
        try:
            if not await self._wait_for_older():
                stats.lookups_tmo += 1
                return "LOOK_UP_OBJECT"
            stats.lookups_n += 1
            self._lookup_called = True
            outcome = await self.call("luo", LookupOutcome, self.cache.backend.lookup_object, self)
        except FscacheError as error:
            self.hook_failed(error)
            return "LOOKUP_FAILURE"
        finally:
            cookie.unuse()
        if outcome is LookupOutcome.RETRY:
            stats.lookups_tmo += 1
            return "LOOK_UP_OBJECT"
        if outcome is LookupOutcome.ABSENT:
            return "LOOKUP_FAILURE"
        if not self.available:
            if outcome is LookupOutcome.CREATED:
                self.lookup_negative()
            self.obtained_object()
        return "OBJECT_AVAILABLE"

    async def _wait_for_older(self) -> bool:
        """Wait for a retired object of the same name to be gone, lest it delete what we find."""
        older = self.cache.retiring(self)
        if older is None:
            return True
        with trio.move_on_after(OLDER_OBJECT_SECONDS):
            await older.wait_dead()
        return older.dead

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
            cookie.read_resident = functools.partial(read, self)

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
            dependent.put()
        return "WAIT_FOR_CMD"

    async def _invalidate_object(self) -> str:
        cookie = self.cookie
        cookie.discard_stores()
        self.pending_write = False
        self.ops.cancel_all()
        cookie.marks.clear()
        op = Operation(self, exclusive=True, processor=self._process_invalidate)
        accepted = self.ops.submit(op) is SubmitOutcome.ACCEPTED
        op.put()
        if not accepted:
            # The old data must go all the same.
            self.retired = True
            self.abort()
        cookie.no_data_yet = True
        cookie.invalidating = False
        cookie.wake()
        return "UPDATE_OBJECT" if accepted else "WAIT_FOR_CMD"

    async def _process_invalidate(self, op: Operation) -> None:
        stats = self.domain.stats
        stats.invals_run += 1
        self.set_store_limit(self.cookie.object_size)
        try:
            await self.call("inv", type(None), self.cache.backend.invalidate_object, op)
        except FscacheError as error:
            self.hook_failed(error)
            self.retired = True
            self.abort()
        else:
            self.cookie.no_data_yet = False
            self._offer_resident()
        finally:
            if op.state.value == "in progress":  # the backend may have completed it
                op.complete()

    async def process_attr_changed(self, op: Operation) -> None:
        stats = self.domain.stats
        stats.attrchg_run += 1
        try:
            if self.active:
                await self.call("atc", type(None), self.cache.backend.attr_changed, self)
                self.set_store_limit(self.cookie.object_size)
        except FscacheError as error:
            self.hook_failed(error)
            self.retired = True
            self.abort()
        else:
            self._offer_resident()
        finally:
            op.complete()

    async def _update_object(self) -> str:
        await self._write_aux()
        return "WAIT_FOR_CMD"

    async def _write_aux(self) -> None:
        cookie = self.cookie
        if cookie.aux is None:
            return
        self.domain.stats.updates_run += 1
        cookie.aux_updated = False
        try:
            await self.call("upo", type(None), self.cache.backend.update_object, self)
        except FscacheError as error:
            # A label that could not be written must not be believed later.
            self.hook_failed(error)
            self.retired = True
            self.abort()

    async def _abort_init(self) -> str:
        if self.parent is not None and self in self.parent.dependents:
            self.parent.dependents.remove(self)
            self.put()
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
            self.pending_write = False
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
            dependent.put()
        return "WAIT_FOR_CLEARANCE"

    async def _drop_object(self) -> str:
        self._oob_target = None
        self.live = False
        cookie, stats = self.cookie, self.domain.stats
        self.cookie_detached()
        if cookie.aux_updated and not self.retired and self.available and not self.cache.broken:
            await self._write_aux()
        if self._lookup_called:
            try:
                await self.call("dro", type(None), self.cache.backend.drop_object, self)
            except FscacheError as error:
                self.hook_failed(error)
        if self in cookie.objects:
            cookie.objects.remove(self)
        cookie.discard_stores()
        if not cookie.objects:
            cookie.invalidating = False
            cookie.no_data_yet = True
        cookie.looking_up = False
        cookie.marks.clear()
        cookie.wake()
        if not cookie.relinquished and cookie.definition.now_uncached is not None:
            cookie.definition.now_uncached(cookie.netfs_data)
        parent = self.parent
        if parent is not None:
            parent.n_children -= 1
            if parent.n_children == 0:
                parent.cleared()
        stats.objects_ded += 1
        self.put()
        return "OBJECT_DEAD"


def _name(hook: object) -> str:
    return getattr(hook, "__name__", "hook")
