"""Fault injection by itself, around hooks that are plain functions here."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from fscache_core.errors import CacheIOError, CallerError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.testing.faulty import Answer, Cancel, Corrupt, Delay, Fail, Faults, Hang, Run, Twice


class Calls:
    """Hooks that note with what they were called."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def write_page(self, op: object, folio: Folio) -> str:
        del op
        await trio.lowlevel.checkpoint()
        self.seen.append(bytes(folio.buffer))
        return "stored"

    def read_resident(self, obj: object, offset: int, buffer: memoryview) -> int:
        del obj, offset
        buffer[:] = bytes(len(buffer))
        self.seen.append(b"")
        return len(buffer)


def zeros(n_pages: int) -> Folio:
    return Folio(0, memoryview(bytearray(n_pages * PAGE_SIZE)))


async def test_a_wrapper_without_faults_changes_nothing() -> None:
    calls, faults = Calls(), Faults()
    write_page = faults.wrap("write_page", calls.write_page)
    assert await write_page(None, zeros(1)) == "stored"
    assert calls.seen == [bytes(PAGE_SIZE)]


async def test_a_fault_fires_at_the_calls_it_was_armed_for_and_no_others() -> None:
    calls, faults = Calls(), Faults()
    write_page = faults.wrap("write_page", calls.write_page)
    fault = faults.arm("write_page", Fail(CacheIOError("gone")), at=(2, 3))
    await write_page(None, zeros(1))
    for _ in range(2):
        with pytest.raises(CacheIOError, match="gone"):
            await write_page(None, zeros(1))
    await write_page(None, zeros(1))
    assert (fault.n_calls, fault.n_hits, len(calls.seen)) == (4, 2, 2)


async def test_the_same_seed_gives_the_same_faults_and_another_seed_others() -> None:
    async def pattern(seed: int) -> list[str]:
        faults = Faults(seed)
        write_page = faults.wrap("write_page", Calls().write_page)
        faults.arm("write_page", Answer("hit"), probability=0.5)
        return [await write_page(None, zeros(1)) for _ in range(50)]

    assert await pattern(1) == await pattern(1)
    assert await pattern(1) != await pattern(2)
    assert set(await pattern(1)) == {"hit", "stored"}


async def test_failing_afterwards_leaves_the_work_done() -> None:
    calls, faults = Calls(), Faults()
    write_page = faults.wrap("write_page", calls.write_page)
    faults.arm("write_page", Fail(CacheIOError("gone"), after=True))
    with pytest.raises(CacheIOError):
        await write_page(None, zeros(1))
    assert len(calls.seen) == 1


async def test_each_failure_is_an_exception_of_its_own() -> None:
    faults = Faults()
    write_page = faults.wrap("write_page", Calls().write_page)
    error = CacheIOError("gone")
    faults.arm("write_page", Fail(error))
    with pytest.raises(CacheIOError) as first:
        await write_page(None, zeros(1))
    with pytest.raises(CacheIOError) as second:
        await write_page(None, zeros(1))
    assert len({id(error), id(first.value), id(second.value)}) == 3


async def test_an_answer_stands_in_for_the_hook() -> None:
    calls, faults = Calls(), Faults()
    faults.arm("write_page", Answer(17))
    result: object = await faults.wrap("write_page", calls.write_page)(None, zeros(1))
    assert (result, calls.seen) == (17, [])


async def test_twice_does_the_work_of_the_hook_twice() -> None:
    calls, faults = Calls(), Faults()
    faults.arm("write_page", Twice())
    await faults.wrap("write_page", calls.write_page)(None, zeros(1))
    assert len(calls.seen) == 2


async def test_a_hanging_hook_goes_on_when_it_is_released() -> None:
    calls, faults = Calls(), Faults()
    write_page = faults.wrap("write_page", calls.write_page)
    hang = faults.arm("write_page", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_page, None, zeros(1))
        await hang.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        assert calls.seen == []
        hang.release()
    assert len(calls.seen) == 1
    await write_page(None, zeros(1))  # and does not hang again


async def test_a_hanging_hook_can_be_cancelled() -> None:
    calls, faults = Calls(), Faults()
    write_page = faults.wrap("write_page", calls.write_page)
    hang = faults.arm("write_page", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_page, None, zeros(1))
        await hang.wait_hit()
        nursery.cancel_scope.cancel()
    assert calls.seen == []


async def test_a_delayed_hook_lets_others_run_first() -> None:
    calls, faults = Calls(), Faults()
    write_page = faults.wrap("write_page", calls.write_page)
    faults.arm("write_page", Delay(20), at=1)
    ones = Folio(0, memoryview(b"\1" * PAGE_SIZE))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_page, None, zeros(1))
        await trio.lowlevel.checkpoint()
        nursery.start_soon(write_page, None, ones)
    assert [data[0] for data in calls.seen] == [1, 0]


async def test_cancelling_before_the_hook_stops_it_at_its_first_checkpoint() -> None:
    calls, faults = Calls(), Faults()
    with trio.CancelScope() as scope:
        faults.arm("write_page", Cancel(scope))
        await faults.wrap("write_page", calls.write_page)(None, zeros(1))
    assert scope.cancelled_caught
    assert calls.seen == []


async def test_cancelling_after_the_hook_leaves_its_work_done() -> None:
    calls, faults = Calls(), Faults()
    with trio.CancelScope() as scope:
        faults.arm("write_page", Cancel(scope, after=True))
        await faults.wrap("write_page", calls.write_page)(None, zeros(1))
    assert scope.cancel_called
    assert len(calls.seen) == 1


async def test_a_corrupted_write_differs_in_every_page_and_leaves_the_callers_bytes_alone() -> None:
    calls, faults = Calls(), Faults()
    faults.arm("write_page", Corrupt())
    folio = zeros(3)
    await faults.wrap("write_page", calls.write_page)(None, folio)
    assert bytes(folio.buffer) == bytes(3 * PAGE_SIZE)
    (stored,) = calls.seen
    for start in range(0, len(stored), PAGE_SIZE):
        assert stored[start : start + PAGE_SIZE].count(0) == PAGE_SIZE - 1


def test_a_corrupted_read_differs_in_every_page() -> None:
    faults = Faults()
    faults.arm("read_resident", Corrupt())
    buffer = bytearray(PAGE_SIZE + 10)
    faults.wrap("read_resident", Calls().read_resident)(None, 0, memoryview(buffer))
    assert buffer[:PAGE_SIZE].count(0) == PAGE_SIZE - 1
    assert buffer[PAGE_SIZE:].count(0) == 9


def test_an_action_runs_when_its_hook_is_called() -> None:
    calls, faults = Calls(), Faults()
    order: list[str] = []
    faults.arm("read_resident", Run(lambda: order.append(f"before {len(calls.seen)}")), at=1)
    faults.arm("read_resident", Run(lambda: order.append(f"after {len(calls.seen)}"), after=True), at=2)
    read_resident = faults.wrap("read_resident", calls.read_resident)
    for _ in range(3):
        read_resident(None, 0, memoryview(bytearray(1)))
    assert order == ["before 0", "after 2"]


def test_a_hook_that_is_not_async_can_neither_hang_nor_be_delayed() -> None:
    for fault in (Hang(), Delay()):
        faults = Faults()
        faults.arm("read_resident", fault)
        with pytest.raises(CallerError, match="not async"):
            faults.wrap("read_resident", Calls().read_resident)(None, 0, memoryview(bytearray(1)))


async def test_disarming_all_releases_what_hangs() -> None:
    calls, faults = Calls(), Faults()
    write_page = faults.wrap("write_page", calls.write_page)
    hang = faults.arm("write_page", Hang())
    faults.arm("write_page", Fail(CacheIOError("gone")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_page, None, zeros(1))
        await hang.wait_hit()
        faults.disarm()
    await write_page(None, zeros(1))
    assert len(calls.seen) == 2


def test_a_fault_is_armed_once_and_in_one_way() -> None:
    faults = Faults()
    fault = faults.arm("write_page", Twice())
    with pytest.raises(CallerError):
        faults.arm("write_page", fault)
    with pytest.raises(CallerError):
        faults.arm("write_page", Twice(), at=1, probability=0.5)
