"""Operations: units of work on an object, and their queue (reference section 7).

An operation is shared or exclusive.  Shared ones run side by side; an exclusive one runs alone, in
its turn.  Operations of one object start in the order of their submission.

Who runs it: with a ``processor`` core starts a task for it in the operation pool; without one the
submitter itself goes on when `Operation.wait_active` says so.

Nothing here awaits but `wait_active` and the processor's task: submission, completion and
cancellation are atomic in the trio thread.

A backend may take references (`Operation.get`) and so keep the operation counted on its object after its
hook has returned.  One that it never drops is collected after ``Limits.hook_seconds``, so that
nobody waits for it for ever.

Invariants of a queue, asserted after every change: ``n_ops >= n_in_progress``,
``n_ops >= n_exclusive``, and an exclusive operation in progress is alone.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NoReturn

import trio

from fscache_core.domain import log
from fscache_core.errors import PluginError
from fscache_core.folio import PageRuns
from fscache_core.hook_call import tell_netfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fscache_core.folio import Folio
    from fscache_core.object import CacheObject


class OperationState(enum.Enum):
    INITIALISED = "initialised"
    PENDING = "pending"
    IN_PROGRESS = "in progress"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    DEAD = "dead"


class SubmitOutcome(enum.Enum):
    ACCEPTED = "accepted"  #: queued or running
    DYING = "dying"  #: the object is dying or never came to life (ENOBUFS)
    BROKEN = "broken"  #: the cache stopped (EIO)


class Operation:
    """One unit of work.  Released by whoever made it with `put`, exactly once."""

    __slots__ = (
        "_active",
        "_released",
        "accepted",
        "debug_id",
        "exclusive",
        "object",
        "on_cancel",
        "processor",
        "state",
        "usage",
    )

    def __init__(
        self,
        obj: CacheObject,
        *,
        exclusive: bool = False,
        processor: Callable[[Operation], Awaitable[None]] | None = None,
        on_cancel: Callable[[], None] | None = None,
    ) -> None:
        self.object = obj
        self.exclusive = exclusive
        self.processor = processor
        self.on_cancel = on_cancel
        self.state = OperationState.INITIALISED
        self.accepted = False  #: counted in the object's ``n_ops`` until it is released
        self.usage = 1
        self.debug_id = next(obj.domain.operation_ids)
        self._active: trio.Event | None = None
        self._released: trio.Event | None = None
        obj.domain.stats.ops_ini += 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} OP{self.debug_id:x} {self.state.value} of {self.object}>"

    # -- for the submitter --

    async def wait_active(self) -> bool:
        """Wait until the operation runs (True) or was cancelled in the queue (False).

        Cancellation: the operation is taken out of the queue again.
        """
        if self.state is OperationState.PENDING:
            self._active = trio.Event()
            try:
                await self._active.wait()
            except trio.Cancelled:
                if self.state is OperationState.PENDING:
                    self.object.ops.cancel(self)
                raise
        return self.state is OperationState.IN_PROGRESS

    # -- for core and backends --

    def get(self) -> Operation:
        """Take one more reference."""
        self.usage += 1
        return self

    def put(self) -> None:
        """Drop a reference.  At the last one the operation must be complete or cancelled.

        Raises:
          PluginError: it was dropped too often.  The operation goes on as if that had not been done.
        """
        if self.usage == 0 or (self.usage == 1 and not self.ended):
            raise PluginError(
                f"backend {self.object.cache.backend.name}: {self!r} was put more often than it was got",
                plugin=self.object.cache.backend.name,
            )
        self.usage -= 1
        if self.usage == 0:
            self._release()

    def complete(self, *, cancelled: bool = False) -> None:
        """End an operation in progress.  (``fscache_op_complete``)"""
        self.object.ops.complete(self, cancelled=cancelled)

    def finish(self, *, cancelled: bool = False) -> None:
        """Complete it if it runs, and drop the submitter's reference (core only)."""
        if self.state is OperationState.IN_PROGRESS:
            self.complete(cancelled=cancelled)
        self.put()
        if self.usage:
            self.object.ops.defer(self)

    @property
    def ended(self) -> bool:
        """Whether it neither waits nor runs."""
        return self.state not in (OperationState.PENDING, OperationState.IN_PROGRESS)

    async def collect(self) -> None:
        """Wait until the backend drops its references, and at the end do without (core only)."""
        seconds = self.object.domain.limits.hook_seconds
        self._released = trio.Event()
        with trio.move_on_after(seconds):
            await self._released.wait()
        if self.usage:
            name = self.object.cache.backend.name
            log.error(
                "backend %s still holds %r %g s after its end; released without it", name, self, seconds
            )
            self.object.domain.stats.ops_gc += 1
            self.usage = 0
            self._release()

    def _woken(self) -> None:
        if self._active is not None:
            self._active.set()

    def _release(self) -> None:
        self.object.domain.stats.ops_rel += 1
        self.state = OperationState.DEAD
        if self._released is not None:
            self._released.set()
        if self.accepted:
            self.object.cookie.unuse()
            self.object.ops.released(self)


class Retrieval(Operation):
    """A read or an allocation of pages, as handed to ``read_or_alloc_pages`` and ``allocate_pages``."""

    __slots__ = ("_end_io", "_generation", "_outstanding", "caller_error", "context", "n_pages", "started_at")

    def __init__(
        self,
        obj: CacheObject,
        folios: Sequence[Folio],
        end_io: Callable[[int, int, BaseException | None], None] | None = None,
        context: object | None = None,
    ) -> None:
        super().__init__(obj)
        self.n_pages = 0  #: pages not yet dealt with
        self._outstanding = PageRuns()  # pages not yet ended
        for folio in folios:
            self.n_pages += folio.n_pages
            self._outstanding.add(folio.first, folio.n_pages)
        self.context = context
        self.caller_error: BaseException | None = None  #: what the netfs's ``end_io`` raised
        self.started_at = trio.current_time()
        self._end_io = end_io
        self._generation = obj.cookie.generation
        if context is not None and obj.cookie.definition.get_context is not None:
            tell_netfs(obj.cookie, "get_context", obj.cookie.definition.get_context, context)

    def end_io(self, first: int, n_pages: int, error: BaseException | None = None) -> None:
        """Report that these pages are in their buffers, or, with ``error``, that they are not.

        Every page at most once, ascending within one folio.  Accounts for the pages as well.
        (``fscache_end_io``, with ``fscache_retrieval_complete``)
        """
        if n_pages <= 0 or not self._outstanding.covers(first, n_pages):
            self._accuse(
                f"pages {first} to {first + n_pages - 1} were ended, which it was not asked for, or twice"
            )
        self.retrieval_complete(n_pages)
        self._outstanding.remove(first, n_pages)
        if error is None:
            self.mark_pages_cached(first, n_pages)
        if self._end_io is not None:
            try:
                self._end_io(first, n_pages, error)
            except Exception as raised:  # the netfs's fault, so it is not for the backend to see
                self.caller_error = self.caller_error or raised

    def retrieval_complete(self, n_pages: int) -> None:
        """Account for pages that were dealt with otherwise.  Optional: core does it when the hook returns."""
        if self.state is not OperationState.IN_PROGRESS:
            self._accuse("pages completed after its end")
        if not 0 <= n_pages <= self.n_pages:
            self._accuse(f"{n_pages} pages completed with {self.n_pages} outstanding")
        self.n_pages -= n_pages

    def _accuse(self, what: str) -> NoReturn:
        name = self.object.cache.backend.name
        raise PluginError(f"backend {name}: {self!r}: {what}", plugin=name)

    @property
    def all_ended(self) -> bool:
        """Whether every page was ended."""
        return not self._outstanding

    @property
    def outdated(self) -> bool:
        """Whether the cookie was invalidated since."""
        return self._generation != self.object.cookie.generation

    def mark_pages_cached(self, first: int, n_pages: int) -> None:
        """Mark pages as cached, or to be cached, and tell the netfs."""
        if not self.outdated:  # else bytes fetched before an invalidation could be stored after it
            self.object.cookie.mark_pages_cached(first, n_pages)

    def finish(self, *, cancelled: bool = False) -> None:
        """Account for what the hook left, complete and release (core only)."""
        self.n_pages = 0
        cookie = self.object.cookie
        if self.context is not None and cookie.definition.put_context is not None:
            tell_netfs(cookie, "put_context", cookie.definition.put_context, self.context)
        self.object.domain.histogram.note("retrievls", trio.current_time() - self.started_at)
        super().finish(cancelled=cancelled)


class Storage(Operation):
    """The writer of an object's pending stores, as handed to ``write_page``."""

    __slots__ = ()


class OperationQueue:
    """The operations of one object: counts, order, starting (sections 7.2 to 7.5)."""

    __slots__ = ("n_exclusive", "n_in_progress", "n_obj_ops", "n_reads", "object", "pending", "unreleased")

    def __init__(self, obj: CacheObject) -> None:
        self.object = obj
        self.unreleased: set[Operation] = set()  # accepted and not yet released
        self.n_obj_ops = 0  #: lookups of children
        self.n_in_progress = 0
        self.n_exclusive = 0  #: queued or running
        self.n_reads = 0
        self.pending: list[Operation] = []  # few, and mostly none: an empty deque is 13 times as large

    @property
    def n_ops(self) -> int:
        """Operations not yet released, lookups of children included."""
        return len(self.unreleased) + self.n_obj_ops

    def check(self) -> None:
        assert 0 <= self.n_in_progress <= self.n_ops
        assert 0 <= self.n_exclusive <= self.n_ops
        assert self.n_obj_ops >= 0

    def submit(self, op: Operation) -> SubmitOutcome:
        """Run the operation now, queue it, or refuse it (section 7.3, in its order)."""
        obj, stats = self.object, self.object.domain.stats
        if not obj.live:
            stats.ops_rej += 1
            self._refuse(op)
            return SubmitOutcome.DYING
        if obj.cache.broken:
            self._refuse(op)
            return SubmitOutcome.BROKEN
        if not obj.available and (obj.killed_by_cache or not obj.looked_up):
            self._refuse(op)
            return SubmitOutcome.DYING
        if not obj.cookie.use():
            self._refuse(op)
            return SubmitOutcome.DYING
        op.accepted = True
        self.unreleased.add(op)
        if op.exclusive:
            self.n_exclusive += 1
            obj.storage = None  # later stores need a storage op behind this one
        if not obj.available:
            self._queue(op)
        elif op.exclusive:
            if self.n_in_progress or self.pending:
                self._queue(op)
                self.start()
            else:
                self._run(op)
        elif self.n_exclusive or self.pending:
            self._queue(op)
            self.start()
        else:
            self._run(op)
        self.check()
        return SubmitOutcome.ACCEPTED

    def start(self) -> None:
        """Start what may run, first come first served (section 7.4)."""
        while self.pending:
            op = self.pending[0]
            if op.exclusive:
                if self.n_in_progress:
                    return
                self.pending.pop(0)
                self._run(op)
                op.put()
                return
            if self._exclusive_running():
                return
            self.pending.pop(0)
            self._run(op)
            op.put()

    def complete(self, op: Operation, *, cancelled: bool) -> None:
        if op.state is not OperationState.IN_PROGRESS:
            raise PluginError(
                f"backend {self.object.cache.backend.name}: {op!r} was completed, but it is not in progress",
                plugin=self.object.cache.backend.name,
            )
        op.state = OperationState.CANCELLED if cancelled else OperationState.COMPLETE
        if cancelled and op.on_cancel is not None:
            op.on_cancel()
        if op.exclusive:
            self.n_exclusive -= 1
        self.n_in_progress -= 1
        self.check()
        if self.n_in_progress == 0:
            self.start()

    def cancel(self, op: Operation, *, also_running: bool = False) -> bool:
        """Take a pending operation out of the queue, or end a running one; False if that cannot be.

        Whoever runs an operation that was ended so finds it in state CANCELLED.
        """
        if op.state is OperationState.PENDING:
            self.pending.remove(op)
            if op.exclusive:
                self.n_exclusive -= 1
            op.state = OperationState.CANCELLED
            if op.on_cancel is not None:
                op.on_cancel()
            op._woken()
            op.put()
            self.start()  # it may have been the exclusive one that others waited behind
        elif also_running and op.state is OperationState.IN_PROGRESS:
            self.complete(op, cancelled=True)
        else:
            return False
        self.object.domain.stats.ops_can += 1
        return True

    def cancel_all(self) -> None:
        for op in reversed(self.pending.copy()):  # last first, so that none starts behind another that goes
            self.cancel(op)

    def released(self, op: Operation) -> None:
        self.unreleased.remove(op)
        self.check()
        if self.n_ops == 0:
            self.object.cleared()

    def defer(self, op: Operation) -> None:
        """Wait elsewhere for the backend to drop its references to an operation that has ended."""
        self.object.domain.stats.ops_dfr += 1
        self.object.domain.spawn(op.collect, f"OP{op.debug_id:x} collector")

    def _exclusive_running(self) -> bool:
        # Pending exclusive ops are counted in n_exclusive too; one that runs is not in `pending`.
        return self.n_exclusive > sum(1 for op in self.pending if op.exclusive)

    def _queue(self, op: Operation) -> None:
        self.object.domain.stats.ops_pend += 1
        op.state = OperationState.PENDING
        self.pending.append(op.get())

    def _run(self, op: Operation) -> None:
        stats = self.object.domain.stats
        op.state = OperationState.IN_PROGRESS
        self.n_in_progress += 1
        stats.ops_run += 1
        op._woken()
        if op.processor is not None:
            stats.ops_enq += 1
            op.get()
            self.object.domain.spawn(lambda: self._process(op), f"OP{op.debug_id:x}")

    async def _process(self, op: Operation) -> None:
        started = trio.current_time()
        try:
            async with self.object.domain.operation_pool:
                assert op.processor is not None
                await op.processor(op)
        except Exception as error:
            self.object.bug(f"operation {op!r}", error)
        finally:
            if op.state is OperationState.IN_PROGRESS:
                log.error("%r: its processor returned without completing it", op)
                self.complete(op, cancelled=True)
            self.object.domain.histogram.note("op_runs", trio.current_time() - started)
            op.put()
            if op.usage:
                self.defer(op)

    def _refuse(self, op: Operation) -> None:
        """Cancel an operation that never got into the queue."""
        op.state = OperationState.CANCELLED
        if op.on_cancel is not None:
            op.on_cancel()
