"""Operations: submission, order of starting, completion, cancellation, release (reference section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.domain import Limits
from fscache_core.errors import PluginError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.operation import Operation, OperationState, Retrieval, SubmitOutcome
from fscache_core.testing.cache_session import Session, open_session
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from fscache_core.object import CacheObject

PENDING, RUNNING = OperationState.PENDING, OperationState.IN_PROGRESS
CANCELLED, COMPLETE, DEAD = OperationState.CANCELLED, OperationState.COMPLETE, OperationState.DEAD


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with open_session(MemoryBackend()) as session:
        yield session


@pytest.fixture
async def obj(session: Session) -> AsyncIterator[CacheObject]:
    """An available object; what the test leaves of its operations is ended."""
    obj = session.object(await session.file(size=4 * PAGE_SIZE))
    yield obj
    while obj.ops.unreleased:
        for op in list(obj.ops.unreleased):
            end(op)


def end(op: Operation) -> None:
    if op.state is PENDING:
        op.object.ops.cancel(op)
    elif op.state is RUNNING:
        op.complete()
    while op.usage and op.ended:
        op.put()


def submit(obj: CacheObject, *kinds: str) -> list[Operation]:
    """Submit operations, ``s`` for shared and ``x`` for exclusive."""
    ops = [Operation(obj, exclusive=kind == "x") for kind in kinds]
    for op in ops:
        assert obj.ops.submit(op) is SubmitOutcome.ACCEPTED
    return ops


def states(ops: Iterable[Operation]) -> str:
    """One letter each: p pending, r running, c complete, d dead, - cancelled."""
    letters = {PENDING: "p", RUNNING: "r", COMPLETE: "c", DEAD: "d", CANCELLED: "-"}
    return "".join(letters[op.state] for op in ops)


# -- submission (7.3) ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("s", "r"),
        ("x", "r"),
        ("ss", "rr"),
        ("sx", "rp"),
        ("xs", "rp"),
        ("xx", "rp"),
        ("sxs", "rpp"),
        ("ssxss", "rrppp"),
        ("xsx", "rpp"),
    ],
)
async def test_shared_operations_run_side_by_side_and_exclusive_ones_alone(
    kinds: str, expected: str, obj: CacheObject
) -> None:
    assert states(submit(obj, *kinds)) == expected


async def test_a_dying_object_refuses(obj: CacheObject) -> None:
    obj.live = False
    cancelled: list[bool] = []
    op = Operation(obj, on_cancel=lambda: cancelled.append(True))
    assert obj.ops.submit(op) is SubmitOutcome.DYING
    assert (op.state, cancelled, obj.ops.n_ops) == (CANCELLED, [True], 0)
    assert obj.domain.stats.ops_rej == 1
    op.put()
    assert op.state is DEAD
    obj.live = True


async def test_a_stopped_cache_refuses(obj: CacheObject) -> None:
    obj.cache.io_error("a test")
    op = Operation(obj)
    assert obj.ops.submit(op) is SubmitOutcome.BROKEN
    assert op.state is CANCELLED
    assert obj.domain.stats.ops_rej == 0
    op.put()


async def test_an_object_that_was_only_looked_up_queues(obj: CacheObject) -> None:
    obj.available = False
    (op,) = submit(obj, "s")
    assert states([op]) == "p"
    obj.available = True
    obj.ops.start()
    assert states([op]) == "r"


@pytest.mark.parametrize("killed", [False, True])
async def test_an_object_that_was_not_looked_up_refuses(killed: bool, obj: CacheObject) -> None:
    obj.available, obj.looked_up, obj.killed_by_cache = False, killed, killed
    op = Operation(obj)
    assert obj.ops.submit(op) is SubmitOutcome.DYING
    op.put()
    obj.available, obj.looked_up, obj.killed_by_cache = True, True, False


async def test_a_cookie_that_was_drained_refuses(obj: CacheObject) -> None:
    obj.cookie.n_active = 0
    op = Operation(obj)
    assert obj.ops.submit(op) is SubmitOutcome.DYING
    op.put()
    obj.cookie.n_active = 1


# -- the order of starting (7.4) ---------------------------------------------------------------


async def test_operations_start_in_the_order_of_their_submission(obj: CacheObject) -> None:
    ops = submit(obj, *"sxssx")
    assert states(ops) == "rpppp"
    ops[0].complete()
    assert states(ops) == "crppp"
    ops[1].complete()
    assert states(ops) == "ccrrp"
    ops[2].complete()
    assert states(ops) == "cccrp"
    ops[3].complete()
    assert states(ops) == "ccccr"
    assert obj.domain.stats.ops_pend == 4


async def test_nothing_overtakes_a_waiting_exclusive_operation(obj: CacheObject) -> None:
    ops = submit(obj, *"sxs")
    ops += submit(obj, "s")
    ops[0].complete()
    assert states(ops) == "crpp"


# -- completion, cancellation, release (7.5) ---------------------------------------------------


async def test_counts_follow_operations_from_submission_to_release(obj: CacheObject) -> None:
    queue = obj.ops
    shared, exclusive = submit(obj, *"sx")
    assert (queue.n_ops, queue.n_in_progress, queue.n_exclusive) == (2, 1, 1)
    shared.complete()
    assert (queue.n_ops, queue.n_in_progress, queue.n_exclusive) == (2, 1, 1)
    exclusive.complete()
    assert (queue.n_ops, queue.n_in_progress, queue.n_exclusive) == (2, 0, 0)
    shared.put()
    exclusive.put()
    assert queue.n_ops == 0
    assert states([shared, exclusive]) == "dd"


async def test_a_cancelled_exclusive_operation_lets_those_behind_it_go_on(obj: CacheObject) -> None:
    ops = submit(obj, *"sxs")
    assert obj.ops.cancel(ops[1])
    assert states(ops) == "r-r"
    assert obj.ops.n_exclusive == 0
    assert obj.domain.stats.ops_can == 1


async def test_a_running_exclusive_operation_is_counted_once_when_it_is_cancelled(obj: CacheObject) -> None:
    """The reference subtracts it twice."""
    ops = submit(obj, *"xx")
    assert not obj.ops.cancel(ops[0])
    assert obj.ops.cancel(ops[0], also_running=True)
    assert states(ops) == "-r"
    assert obj.ops.n_exclusive == 1
    assert not obj.ops.cancel(ops[0], also_running=True)


async def test_cancel_all_leaves_what_runs(obj: CacheObject) -> None:
    ops = submit(obj, *"sxsx")
    obj.ops.cancel_all()
    assert states(ops) == "r---"
    assert obj.domain.stats.ops_can == 3


async def test_completing_as_cancelled_calls_back(obj: CacheObject) -> None:
    cancelled: list[bool] = []
    op = Operation(obj, on_cancel=lambda: cancelled.append(True))
    obj.ops.submit(op)
    op.complete(cancelled=True)
    assert (op.state, cancelled) == (CANCELLED, [True])
    other = Operation(obj, exclusive=True, on_cancel=lambda: cancelled.append(False))
    submit(obj, "s")
    obj.ops.submit(other)
    obj.ops.cancel(other)
    assert cancelled == [True, False]


async def test_completing_twice_is_the_plugins_fault(obj: CacheObject) -> None:
    (op,) = submit(obj, "s")
    op.complete()
    with pytest.raises(PluginError, match=r"backend MemoryBackend: .*OP.* was completed") as caught:
        op.complete()
    assert caught.value.plugin == "MemoryBackend"
    assert obj.ops.n_in_progress == 0


async def test_putting_too_often_is_the_plugins_fault_and_changes_nothing(obj: CacheObject) -> None:
    (op,) = submit(obj, "s")
    with pytest.raises(PluginError, match="put more often"):
        op.put()
    assert states([op]) == "r"
    op.finish()
    with pytest.raises(PluginError, match="put more often"):
        op.put()


async def test_the_submitter_waits_for_its_turn(obj: CacheObject) -> None:
    first, second = submit(obj, *"xs")
    turns: list[bool] = []
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            turns.append(await second.wait_active())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert turns == []
        first.complete()
    assert turns == [True]
    assert await second.wait_active()


async def test_a_submitter_whose_operation_is_cancelled_is_told(obj: CacheObject) -> None:
    _, second = submit(obj, *"xs")
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            assert not await second.wait_active()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        obj.ops.cancel(second)


async def test_a_cancelled_submitter_takes_its_operation_out_of_the_queue(obj: CacheObject) -> None:
    ops = submit(obj, *"sxs")
    with trio.CancelScope() as scope:
        scope.cancel()
        await ops[1].wait_active()
    assert states(ops) == "r-r"


async def test_a_submitter_cancelled_when_its_turn_has_come_keeps_it(obj: CacheObject) -> None:
    first, second = submit(obj, *"xs")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.wait_active)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            first.complete()
    assert states([second]) == "r"


async def test_a_processor_runs_in_a_task_and_the_object_waits_for_it(obj: CacheObject) -> None:
    order: list[str] = []

    async def processor(op: Operation) -> None:
        order.append("begun")
        await trio.lowlevel.checkpoint()
        op.complete()
        order.append("ended")

    op = Operation(obj, processor=processor)
    obj.ops.submit(op)
    op.put()
    assert obj.ops.n_ops == 1
    await trio.testing.wait_all_tasks_blocked()
    assert order == ["begun", "ended"]
    assert (obj.ops.n_ops, op.state) == (0, DEAD)


async def test_a_processor_that_completes_nothing_is_ended_for_it(
    obj: CacheObject, caplog: pytest.LogCaptureFixture
) -> None:
    async def processor(op: Operation) -> None:
        del op

    op = Operation(obj, processor=processor)
    obj.ops.submit(op)
    op.put()
    await trio.testing.wait_all_tasks_blocked()
    assert op.state is DEAD
    assert "without completing it" in caplog.text


async def test_no_more_processors_run_at_once_than_the_limit_says() -> None:
    async with open_session(MemoryBackend(), limits=Limits(operation_max_active=2)) as session:
        running, most = 0, 0

        async def processor(op: Operation) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            running -= 1
            op.complete()

        for number in range(6):
            op = Operation(session.object(await session.file(b"%d" % number)), processor=processor)
            op.object.ops.submit(op)
            op.put()
        await trio.testing.wait_all_tasks_blocked()
        assert most == 2


async def test_an_operation_the_backend_holds_on_to_is_waited_for(obj: CacheObject) -> None:
    (op,) = submit(obj, "s")
    op.get()
    op.finish()
    stats = obj.domain.stats
    assert (op.state, obj.ops.n_ops, stats.ops_dfr) == (COMPLETE, 1, 1)
    await trio.testing.wait_all_tasks_blocked()
    op.put()
    assert (op.state, obj.ops.n_ops, stats.ops_gc) == (DEAD, 0, 0)


@pytest.mark.parametrize("kind", ["without a processor", "with a processor"])
async def test_an_operation_the_backend_never_lets_go_of_is_collected(
    kind: str, obj: CacheObject, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def processor(op: Operation) -> None:
        op.get()
        op.complete()

    op = Operation(obj, processor=None if kind == "without a processor" else processor)
    obj.ops.submit(op)
    if op.processor is None:
        op.get()
        op.finish()
    else:
        op.put()
    await trio.sleep(obj.domain.limits.hook_seconds + 1)
    stats = obj.domain.stats
    assert (op.state, obj.ops.n_ops, stats.ops_dfr, stats.ops_gc) == (DEAD, 0, 1, 1)
    assert "backend MemoryBackend still holds" in caplog.text
    with pytest.raises(PluginError):
        op.put()


async def test_what_was_made_was_released(session: Session, obj: CacheObject) -> None:
    for op in submit(obj, *"sxsxs"):
        end(op)
    refused = Operation(obj)
    refused.put()
    stats = session.domain.stats
    assert stats.ops_ini == stats.ops_rel > 5


# -- retrievals --------------------------------------------------------------------------------


def retrieval(obj: CacheObject, *runs: tuple[int, int]) -> tuple[Retrieval, list[tuple[int, int, bool]]]:
    ended: list[tuple[int, int, bool]] = []
    folios = [Folio(first, memoryview(bytearray(n_pages * PAGE_SIZE))) for first, n_pages in runs]
    op = Retrieval(obj, folios, lambda first, n_pages, error: ended.append((first, n_pages, error is None)))
    assert obj.ops.submit(op) is SubmitOutcome.ACCEPTED
    return op, ended


async def test_pages_are_ended_in_any_order_across_folios(obj: CacheObject) -> None:
    op, ended = retrieval(obj, (0, 2), (2, 1), (8, 4))
    op.end_io(9, 2)
    op.end_io(0, 3)
    assert (op.n_pages, op.all_ended) == (2, False)
    op.end_io(8, 1, OSError("bad page"))
    op.end_io(11, 1)
    assert (op.n_pages, op.all_ended) == (0, True)
    assert ended == [(9, 2, True), (0, 3, True), (8, 1, False), (11, 1, True)]
    assert list(obj.cookie.marks) == [(0, 3), (9, 3)]
    op.finish()


@pytest.mark.parametrize(("first", "n_pages"), [(0, 1), (3, 1), (4, 1), (2, 3), (5, 0), (6, -1), (0, 100)])
async def test_pages_ended_twice_or_unasked_are_the_plugins_fault(
    first: int, n_pages: int, obj: CacheObject
) -> None:
    op, ended = retrieval(obj, (0, 2), (5, 2))
    op.end_io(0, 1)
    with pytest.raises(PluginError, match="not asked for, or twice") as caught:
        op.end_io(first, n_pages)
    assert caught.value.plugin == "MemoryBackend"
    assert ended == [(0, 1, True)]
    op.finish()


async def test_pages_may_be_accounted_for_without_being_read(obj: CacheObject) -> None:
    op, _ = retrieval(obj, (0, 4))
    op.retrieval_complete(3)
    with pytest.raises(PluginError, match="2 pages completed with 1 outstanding"):
        op.retrieval_complete(2)
    assert not op.all_ended
    op.finish()
    with pytest.raises(PluginError, match="after its end"):
        op.retrieval_complete(0)


async def test_pages_of_a_retrieval_from_before_an_invalidation_are_not_marked(obj: CacheObject) -> None:
    op, _ = retrieval(obj, (0, 4))
    obj.cookie.forget_marks()
    op.end_io(0, 4)
    assert op.outdated
    assert not obj.cookie.marks
    op.finish()
