"""Operations: units of work on an object, and their queue (reference section 7).

An operation is shared or exclusive.  Shared ones run side by side; an exclusive one runs alone, in
its turn.  Operations of one object start in the order of their submission.

Who runs it: with a ``processor`` core starts a task for it in the operation pool; without one the
submitter itself goes on when `Operation.wait_active` says so.

Nothing here awaits but `wait_active` and the processor's task: submission, completion and
cancellation are atomic in the trio thread.

Invariants of a queue, asserted after every change: ``n_ops >= n_in_progress``,
``n_ops >= n_exclusive``, and an exclusive operation in progress is alone.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import TYPE_CHECKING

import trio

from fscache_core.domain import log
from fscache_core.errors import PluginError
from fscache_core.folio import page_count

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
        "debug_id",
        "exclusive",
        "object",
        "on_cancel",
        "processor",
        "queued_at",
        "state",
        "usage",
        "uses_cookie",
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
        self.usage = 1
        self.uses_cookie = False
        self.debug_id = next(obj.domain.operation_ids)
        self.queued_at = 0.0
        self._active: trio.Event | None = None
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
        """Drop a reference.  At the last one the operation must be complete or cancelled."""
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

    def _woken(self) -> None:
        if self._active is not None:
            self._active.set()

    def _release(self) -> None:
        if self.state in (OperationState.PENDING, OperationState.IN_PROGRESS):
            raise PluginError(f"{self!r} was released before it ended", plugin=self.object.cache.backend.name)
        stats = self.object.domain.stats
        stats.ops_rel += 1
        accepted = self.state in (OperationState.COMPLETE, OperationState.CANCELLED)
        self.state = OperationState.DEAD
        if self.uses_cookie:
            self.uses_cookie = False
            self.object.cookie.unuse()
        if accepted:
            self.object.ops.released(self)


class Retrieval(Operation):
    """A read or an allocation of pages, as handed to ``read_or_alloc_pages`` and ``allocate_pages``."""

    __slots__ = ("_end_io", "context", "first_error", "n_pages", "started_at")

    def __init__(
        self,
        obj: CacheObject,
        n_pages: int,
        end_io: Callable[[int, int, BaseException | None], None] | None = None,
        context: object | None = None,
    ) -> None:
        super().__init__(obj)
        self.n_pages = n_pages  #: pages not yet dealt with
        self.context = context
        self.first_error: BaseException | None = None
        self.started_at = trio.current_time()
        self._end_io = end_io
        if context is not None and obj.cookie.definition.get_context is not None:
            obj.cookie.definition.get_context(obj.cookie.netfs_data, context)

    def end_io(self, first: int, n_pages: int, error: BaseException | None = None) -> None:
        """Report that these pages are in their buffers, or, with ``error``, that they are not.

        Every page at most once, ascending within one folio.  Accounts for the pages as well.
        (``fscache_end_io``, with ``fscache_retrieval_complete``)
        """
        self.retrieval_complete(n_pages)
        if error is None:
            self.mark_pages_cached(first, n_pages)
        elif self.first_error is None:
            self.first_error = error
        if self._end_io is not None:
            self._end_io(first, n_pages, error)

    def retrieval_complete(self, n_pages: int) -> None:
        """Account for pages that were dealt with otherwise.  Optional: core does it when the hook returns."""
        if self.state is not OperationState.IN_PROGRESS or n_pages < 0 or n_pages > self.n_pages:
            raise PluginError(
                f"{self!r}: {n_pages} pages completed with {self.n_pages} outstanding",
                plugin=self.object.cache.backend.name,
            )
        self.n_pages -= n_pages

    def mark_pages_cached(self, first: int, n_pages: int) -> None:
        """Mark pages as cached, or to be cached, and tell the netfs."""
        self.object.cookie.mark_pages_cached(first, n_pages)

    def finish(self, *, cancelled: bool = False) -> None:
        """Account for what the hook left, complete and release (core only)."""
        self.n_pages = 0
        cookie = self.object.cookie
        if self.context is not None and cookie.definition.put_context is not None:
            cookie.definition.put_context(cookie.netfs_data, self.context)
        self.object.domain.histogram.note("retrievls", trio.current_time() - self.started_at)
        super().finish(cancelled=cancelled)


class Storage(Operation):
    """The writer of an object's pending stores, as handed to ``write_page``."""

    __slots__ = ("store_limit",)

    def __init__(self, obj: CacheObject, processor: Callable[[Operation], Awaitable[None]]) -> None:
        super().__init__(obj, processor=processor)
        self.store_limit = page_count(obj.store_limit_size)  #: pages, as of its submission


class OperationQueue:
    """The operations of one object: counts, order, starting (sections 7.2 to 7.5)."""

    __slots__ = ("n_exclusive", "n_in_progress", "n_obj_ops", "n_ops", "n_reads", "object", "pending")

    def __init__(self, obj: CacheObject) -> None:
        self.object = obj
        self.n_ops = 0  #: not yet released, lookups of children included
        self.n_obj_ops = 0  #: lookups of children
        self.n_in_progress = 0
        self.n_exclusive = 0  #: queued or running
        self.n_reads = 0
        self.pending: deque[Operation] = deque()

    def check(self) -> None:
        assert 0 <= self.n_in_progress <= self.n_ops
        assert 0 <= self.n_exclusive <= self.n_ops
        assert 0 <= self.n_obj_ops <= self.n_ops

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
        if obj.killed_by_cache or not (obj.available or obj.looked_up) or not obj.cookie.use():
            self._refuse(op)
            return SubmitOutcome.DYING
        op.uses_cookie = True
        self.n_ops += 1
        if op.exclusive:
            self.n_exclusive += 1
            obj.pending_write = False  # later stores need a storage op behind this one
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
                self.pending.popleft()
                self._run(op)
                op.put()
                return
            if self._exclusive_running():
                return
            self.pending.popleft()
            self._run(op)
            op.put()

    def complete(self, op: Operation, *, cancelled: bool) -> None:
        if op.state is not OperationState.IN_PROGRESS:
            raise PluginError(
                f"{op!r} was completed, but it is not in progress", plugin=self.object.cache.backend.name
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

    def cancel(self, op: Operation) -> bool:
        """Take a pending operation out of the queue; False if it is running or over."""
        if op.state is not OperationState.PENDING:
            return False
        self.pending.remove(op)
        self.object.domain.stats.ops_can += 1
        if op.exclusive:
            self.n_exclusive -= 1
        self._end_unrun(op)
        op.put()
        self.start()  # it may have been the exclusive one that others waited behind
        return True

    def cancel_all(self) -> None:
        for op in list(self.pending):
            self.cancel(op)

    def released(self, op: Operation) -> None:
        del op
        self.n_ops -= 1
        self.check()
        if self.n_ops == 0:
            self.object.cleared()

    def _exclusive_running(self) -> bool:
        # Pending exclusive ops are counted in n_exclusive too; one that runs is not in `pending`.
        return self.n_exclusive > sum(1 for op in self.pending if op.exclusive)

    def _queue(self, op: Operation) -> None:
        self.object.domain.stats.ops_pend += 1
        op.state = OperationState.PENDING
        op.queued_at = trio.current_time()
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
        finally:
            if op.state is OperationState.IN_PROGRESS:
                log.error("%r: its processor returned without completing it", op)
                self.complete(op, cancelled=True)
            self.object.domain.histogram.note("op_runs", trio.current_time() - started)
            op.put()

    def _refuse(self, op: Operation) -> None:
        """Cancel an operation that never got into the queue."""
        op.state = OperationState.INITIALISED  # so that its release leaves n_ops alone
        if op.on_cancel is not None:
            op.on_cancel()

    def _end_unrun(self, op: Operation) -> None:
        op.state = OperationState.CANCELLED
        if op.on_cancel is not None:
            op.on_cancel()
        op._woken()
