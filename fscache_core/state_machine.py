"""The life of an object: runs the table of `fscache_core.object_state` (reference section 6).

One dispatcher, in a task of its own while there is something to do; an object at rest has no task.  Raising
an event is atomic and may be done from anywhere in the trio thread.

A bug of core's own, in a state or between two, counts as ERROR: the object is retired and dies, and nobody
waits for it for ever.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from fscache_core import object_change
from fscache_core.domain import log
from fscache_core.errors import FscacheError, PluginError
from fscache_core.hook_call import call_backend, tell_netfs
from fscache_core.hot_path import close_hot_path, open_hot_path
from fscache_core.object_state import (
    ERROR,
    EVENTS,
    INVALIDATE,
    KILL,
    NEW_CHILD,
    OUT_OF_BAND,
    PARENT_READY,
    STATES,
    State,
)
from fscache_core.operation import Operation, SubmitOutcome
from fscache_core.outcome import LookupOutcome

if TYPE_CHECKING:
    from fscache_core.object import CacheObject

#: How long a lookup that is stuck behind another object waits before the next attempt, at most.
LOOKUP_PAUSE_SECONDS = 0.1


class StateMachine:
    """The machine of one object."""

    __slots__ = (
        "_buried",
        "_counted_in_parent",
        "_created_at",
        "_dispatching",
        "_in_pool",
        "_lookup_called",
        "_lookup_until",
        "_oob_target",
        "_pause",
        "_rested",
        "event_mask",
        "events",
        "judged_at",
        "object",
        "state",
    )

    def __init__(self, obj: CacheObject) -> None:
        self.object = obj
        self.state = STATES["WAIT_FOR_INIT"]
        self.events = 0
        self.event_mask = NEW_CHILD | OUT_OF_BAND
        self.judged_at = -1  #: the cookie's ``invalidated_at`` when the lookup began
        self._oob_target: str | None = "ABORT_INIT"
        self._dispatching = False
        self._in_pool = False
        self._buried = False  # let go of by all that core has of it
        self._created_at = trio.current_time()
        self._counted_in_parent = False
        self._lookup_called = False
        self._lookup_until = math.inf  # trio time at which a lookup that gets nowhere is given up
        self._pause: trio.CancelScope | None = None  # around a wait that ERROR and KILL end
        self._rested: trio.lowlevel.ParkingLot | None = None  # who waits for the machine to come to rest

    @property
    def dead(self) -> bool:
        return self.state.name == "OBJECT_DEAD"

    @property
    def doomed(self) -> bool:
        """Whether ERROR was raised, or the machine is past all states that ERROR or KILL end."""
        return bool(self.events & ERROR) or self._oob_target is None

    @property
    def work(self) -> int:
        """Whether it rests (0), waits for a place in the pool (1) or runs (2)."""
        return self._dispatching + (self._dispatching and self._in_pool)

    def begin(self) -> None:
        """Start the life of a new object."""
        self._created_at = trio.current_time()
        self.raise_event(NEW_CHILD)

    def be_available(self) -> None:
        """Put a master index's object, which is never looked up, where others are after it."""
        self.state = STATES["WAIT_FOR_CMD"]
        self._oob_target = "KILL_OBJECT"
        self.event_mask = OUT_OF_BAND | NEW_CHILD

    def raise_event(self, event: int) -> None:
        if not self.events & event:
            self.events |= event
            if self._pause is not None and event & OUT_OF_BAND:
                self._pause.cancel()
            if self.event_mask & event and not self._dispatching and not self.dead:
                self._start()

    async def wait_rest(self) -> None:
        """Wait until the machine comes to rest once more."""
        if self._rested is None:
            self._rested = trio.lowlevel.ParkingLot()
        await self._rested.park()

    # -- the dispatcher ------------------------------------------------------------------

    def _start(self) -> None:
        self._dispatching = True
        self.object.grab()
        self.object.domain.spawn(self._dispatch, f"OBJ{self.object.debug_id:x}")

    async def _dispatch(self) -> None:
        obj = self.object
        started = trio.current_time()
        interrupted = False
        try:
            async with obj.domain.object_pool:
                self._in_pool = True
                failed = False
                while not await self._come_to_rest():
                    if failed or self._buried:
                        self._bury()
                        self.state = STATES["OBJECT_DEAD"]
                        break
                    failed = True
                    self._oob_target = None
                    self.state = STATES["KILL_OBJECT"]  # to end in order, if it still can
        except BaseException:
            # Ctrl-C may hit any task.  It goes on to whoever opened the cache; the object must go even so.
            interrupted = not obj.domain.stopped
            raise
        finally:
            self._dispatching = self._in_pool = False
            obj.domain.histogram.note("obj_runs", trio.current_time() - started)
            if interrupted and not self.dead:
                self._start()
            if self._rested is not None:
                self._rested.unpark_all()
                self._rested = None
            obj.machine_rests()

    async def _come_to_rest(self) -> bool:
        """Run states until there is none to run; False if a bug came between two of them."""
        try:
            while (state := self._next_state()) is not None:
                self.state = state
                if state.work is not None:
                    await self._run(state)
        except Exception as error:
            self.object.bug(f"behind state {self.state.name}", error)
            return False
        return True

    async def _run(self, state: State) -> None:
        event = ""
        try:
            following: str = await getattr(self, str(state.work))()
            assert following in state.leads_to
        except Exception as error:
            self.object.bug(f"state {state.name}", error)
            event, following = "ERROR", self._oob_target or "DROP_OBJECT"
            self._oob_target = None
            if state.name == "DROP_OBJECT":
                following = "OBJECT_DEAD"
        if following == "OBJECT_DEAD":
            self._bury()
        self._enter(event, following)

    def _next_state(self) -> State | None:
        """The state to run now, or None to rest in a wait state.  Atomic with `raise_event`."""
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
        if self.object.domain.limits.debug & 4:
            log.debug("%r: %s -%s-> %s", self.object, self.state.name, event, target)
        self.state = STATES[target]
        return self.state

    # -- init ----------------------------------------------------------------------------

    async def _init_object(self) -> str:
        obj = self.object
        parent = obj.parent
        if parent is None or parent.dying:
            return "DROP_OBJECT"
        if parent.available:
            return "PARENT_READY"
        obj.grab()
        parent.dependents.append(obj)
        parent.machine.raise_event(NEW_CHILD)
        return "WAIT_FOR_PARENT"

    async def _parent_ready(self) -> str:
        parent = self.object.parent
        assert parent is not None
        parent.ops.n_obj_ops += 1
        self._counted_in_parent = True
        self._lookup_until = trio.current_time() + self.object.domain.limits.hook_seconds
        return "LOOK_UP_OBJECT"

    def _leave_parent(self) -> None:
        """Undo what `_parent_ready` counted, whatever way the lookup took (the reference forgets one)."""
        if self._counted_in_parent:
            parent = self.object.parent
            assert parent is not None
            self._counted_in_parent = False
            parent.ops.n_obj_ops -= 1
            if parent.ops.n_ops == 0:
                parent.cleared()

    async def _abort_init(self) -> str:
        self._leave_dependents()
        self._leave_parent()
        return "KILL_OBJECT"

    def _leave_dependents(self) -> None:
        obj = self.object
        if obj.parent is not None and obj in obj.parent.dependents:
            obj.parent.dependents.remove(obj)
            obj.drop_reference()

    # -- lookup --------------------------------------------------------------------------

    async def _look_up_object(self) -> str:
        obj = self.object
        self._oob_target = "LOOKUP_FAILURE"
        cookie, stats, backend = obj.cookie, obj.domain.stats, obj.cache.backend
        assert obj.parent is not None
        if obj.parent.dying or obj.cache.broken or not cookie.use():
            return "LOOKUP_FAILURE"
        try:
            older = obj.cache.retiring(obj)
            if older is None:
                stats.lookups_n += 1
                self._lookup_called = True
                self.judged_at = cookie.invalidated_at
                outcome = await object_change.change(obj, "luo", LookupOutcome, backend.lookup_object, obj)
            else:
                outcome = LookupOutcome.RETRY  # it would delete what we find
        except FscacheError as error:
            obj.hook_failed(error)
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
        if not obj.available:
            if outcome is LookupOutcome.CREATED:
                obj.lookup_negative()
            obj.obtained_object()
        return "OBJECT_AVAILABLE"

    async def _wait_turn(self, older: CacheObject | None) -> None:
        """Wait a little, or for an older object to be gone, without a place in the pool: it needs one too."""
        if self.events & OUT_OF_BAND:
            return
        pool = self.object.domain.object_pool
        seconds = self._lookup_until - trio.current_time() if older is not None else LOOKUP_PAUSE_SECONDS
        pool.release()
        self._in_pool = False
        try:
            with trio.move_on_after(seconds) as self._pause:
                if older is None:
                    await trio.sleep_forever()
                else:
                    await older.wait_dead()
        finally:
            self._pause = None
            await pool.acquire()
            self._in_pool = True

    def _lookup_stuck(self, older: CacheObject | None) -> None:
        obj = self.object
        seconds, name = obj.domain.limits.hook_seconds, obj.cache.backend.name
        if older is not None:
            log.warning("%r (%r): %r has not gone away within %g s", obj, obj.cookie, older, seconds)
            return
        message = f"backend {name}: lookup_object still says RETRY after {seconds:g} s"
        obj.hook_failed(PluginError(message, plugin=name))

    async def _complete_lookup(self) -> None:
        obj = self.object
        hook = obj.cache.backend.lookup_complete
        if hook is not None and self._lookup_called:
            try:
                await call_backend(obj.cache, "luc", type(None), hook, obj)
            except FscacheError as error:
                obj.hook_failed(error)

    async def _lookup_failure(self) -> str:
        obj = self.object
        self._oob_target = None
        await self._complete_lookup()
        obj.killed_by_cache = True
        cookie = obj.cookie
        cookie.unavailable = True
        cookie.looking_up = False
        cookie.wake()
        self._leave_parent()
        return "KILL_OBJECT"

    # -- run -----------------------------------------------------------------------------

    async def _object_available(self) -> str:
        obj = self.object
        self._oob_target = "KILL_OBJECT"
        self._leave_parent()
        open_hot_path(obj)
        obj.ops.start()
        await self._complete_lookup()
        obj.domain.stats.objects_avl += 1
        obj.domain.histogram.note("obj_inst", trio.current_time() - self._created_at)
        return "JUMPSTART_DEPS"

    async def _jumpstart_dependents(self) -> str:
        for dependent in self._take_dependents():
            dependent.machine.raise_event(PARENT_READY)
            dependent.drop_reference()
        return "WAIT_FOR_CMD"

    def _take_dependents(self) -> list[CacheObject]:
        dependents, self.object.dependents = self.object.dependents, []
        return dependents

    async def _invalidate_object(self) -> str:
        obj = self.object
        cookie = obj.cookie
        cookie.stores.discard()
        obj.storage = None
        obj.ops.cancel_all()
        cookie.forget_marks()
        op = Operation(obj, exclusive=True, processor=object_change.invalidate_object)
        accepted = obj.ops.submit(op) is SubmitOutcome.ACCEPTED
        op.put()
        if accepted:
            obj.invalidation = op
        else:
            obj.distrust()
        cookie.no_data_yet = True
        cookie.invalidating = False
        cookie.wake()
        return "UPDATE_OBJECT" if accepted else "KILL_OBJECT"

    async def _update_object(self) -> str:
        await object_change.update_object(self.object)
        return "WAIT_FOR_CMD"

    # -- the end -------------------------------------------------------------------------

    async def _kill_object(self) -> str:
        obj = self.object
        self._oob_target = None
        obj.live = False
        close_hot_path(obj)
        if obj.retired:
            obj.storage = None
            obj.ops.cancel_all()
        if not obj.dependents and obj.ops.n_ops == 0 and obj.n_children == 0:
            return "DROP_OBJECT"
        if obj.ops.n_in_progress == 0:
            obj.ops.start()
        return "KILL_DEPENDENTS" if obj.dependents else "WAIT_FOR_CLEARANCE"

    async def _kill_dependents(self) -> str:
        for dependent in self._take_dependents():
            dependent.kill()
            dependent.drop_reference()
        return "WAIT_FOR_CLEARANCE"

    async def _drop_object(self) -> str:
        obj, cookie = self.object, self.object.cookie
        self._oob_target = None
        obj.live = False
        close_hot_path(obj)
        if self.events & INVALIDATE:
            obj.distrust()
        if cookie.aux_updated and not obj.retired and obj.available and not obj.cache.broken:
            await object_change.update_object(obj)
        # After the next await the cookie may have another object; so what is done to it is done now.
        obj.unlink()
        if self._lookup_called:
            try:
                await object_change.change(obj, "dro", type(None), obj.cache.backend.drop_object, obj)
            except FscacheError as error:
                obj.hook_failed(error)
        if not cookie.relinquished and cookie.definition.now_uncached is not None:
            tell_netfs(cookie, "now_uncached", cookie.definition.now_uncached)
        return "OBJECT_DEAD"

    def _bury(self) -> None:
        """Let go of all that may wait for the object; most is done already, unless it dies of a bug."""
        if self._buried:
            return
        self._buried = True
        obj = self.object
        obj.live = False
        obj.unlink()
        for dependent in self._take_dependents():
            dependent.kill()
            dependent.drop_reference()
        self._leave_dependents()
        self._leave_parent()
        if obj.parent is not None:
            obj.parent.child_dropped()
        obj.domain.stats.objects_ded += 1
        obj.drop_reference()  # the dispatcher holds another
