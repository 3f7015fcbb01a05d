"""Page I/O: reading, allocating, writing behind, letting go (reference sections 4 and 8)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import page
from fscache_core.domain import Limits
from fscache_core.errors import CacheIOError, FscacheError, NoSpaceError
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.hookspecs import cache_hook
from fscache_core.object import CacheObject
from fscache_core.operation import Operation, Storage, SubmitOutcome
from fscache_core.outcome import LookupOutcome, ReadOutcome, WriteOutcome
from fscache_core.testing.cache_session import Session, content, open_session, origin_file
from fscache_core.testing.faulty import Answer, Fail, Faults, Hang, Run
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fscache_core.cookie import Cookie

HIT, NO_DATA, NO_BUFFERS = ReadOutcome.HIT, ReadOutcome.NO_DATA, ReadOutcome.NO_BUFFERS
N_PAGES = 16
SIZE = N_PAGES * PAGE_SIZE
DATA = content(b"v1", SIZE)


class Bench(Session):
    """A session with a fault injector and a file."""

    faults: Faults
    cookie: Cookie

    @property
    def obj(self) -> CacheObject:
        return self.cookie.objects[0]

    async def read_all(self) -> tuple[ReadOutcome, dict[int, bytes]]:
        return await self.read(self.cookie, 0, N_PAGES)

    async def write(self, first: int, n_pages: int = 1, data: bytes = DATA) -> WriteOutcome:
        return await page.write_page(self.cookie, folio(first, n_pages, data))


def folio(first: int, n_pages: int = 1, data: bytes = DATA) -> Folio:
    return Folio(first, memoryview(data)[first * PAGE_SIZE : (first + n_pages) * PAGE_SIZE])


def scratch(first: int = 0, n_pages: int = N_PAGES) -> Folio:
    return Folio(first, memoryview(bytearray(n_pages * PAGE_SIZE)))


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    faults = Faults()
    limits = getattr(request, "param", None)
    async with open_session(MemoryBackend(), wrappers=[faults], limits=limits) as session:
        bench = Bench(session.domain, session.cache, session.volume)
        bench.faults = faults
        bench.cookie = await session.file(size=SIZE)
        yield bench
        faults.disarm()


small_stores = pytest.mark.parametrize("bench", [Limits(store_size=4 * PAGE_SIZE)], indirect=True)


# -- reading (4.2) ---------------------------------------------------------------------------


async def test_a_single_page_goes_through_the_single_page_hook(bench: Bench) -> None:
    calls = bench.faults.arm("read_or_alloc_page", Run(lambda: None))
    allocations = bench.faults.arm("allocate_page", Run(lambda: None))
    await bench.fill(bench.cookie)
    got = scratch(3, 1)
    assert await page.read_or_alloc_page(bench.cookie, got) is HIT
    assert bytes(got.buffer) == bytes(folio(3).buffer)
    assert await page.alloc_page(bench.cookie, scratch(3, 1)) is NO_DATA
    assert (calls.n_hits, allocations.n_hits) == (1, 1)


async def test_without_an_object_there_are_no_buffers(bench: Bench) -> None:
    await bench.cache.withdraw()
    assert await bench.read_all() == (NO_BUFFERS, {})
    assert await page.alloc_page(bench.cookie, scratch()) is NO_BUFFERS
    assert (bench.domain.stats.retrvls_nbf, bench.domain.stats.allocs_nbf) == (1, 1)


async def test_a_failed_lookup_leaves_readers_without_buffers(bench: Bench) -> None:
    bench.faults.arm("lookup_object", Answer(LookupOutcome.ABSENT))
    cookie = await bench.file(b"other")
    assert await bench.read(cookie, 0, 1) == (NO_BUFFERS, {})


async def test_a_read_that_is_cancelled_while_waiting_for_the_lookup_is_counted(bench: Bench) -> None:
    stuck = bench.faults.arm("lookup_object", Hang())
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                await bench.read(cookie, 0, 1)

            async def allocate() -> None:
                await page.alloc_page(cookie, scratch())

            nursery.start_soon(bench.file, b"other")
            await stuck.wait_hit()
            cookie = next(c for c in bench.domain.cookies.values() if c.key == b"other")
            nursery.start_soon(read)
            nursery.start_soon(allocate)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    stuck.release()
    stats = bench.domain.stats
    assert (stats.retrvls_wt, stats.allocs_wt, stats.retrvls_int, stats.allocs_int) == (2, 1, 1, 1)


async def test_a_read_that_is_cancelled_in_the_queue_is_taken_out(bench: Bench) -> None:
    stuck = bench.faults.arm("attr_changed", Hang())
    bench.cookie.attr_changed()
    await stuck.wait_hit()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.read_all)
            nursery.start_soon(page.alloc_page, bench.cookie, scratch())
            await trio.testing.wait_all_tasks_blocked()
            assert len(bench.obj.ops.pending) == 2
            assert bench.obj.ops.n_reads == 2
            scope.cancel()
    assert not bench.obj.ops.pending
    assert bench.obj.ops.n_reads == 0
    stuck.release()
    stats = bench.domain.stats
    assert (stats.retrvl_owt, stats.alloc_owt, stats.retrvls_int, stats.allocs_int) == (1, 1, 1, 1)


async def test_a_read_whose_object_dies_in_the_queue_is_aborted(bench: Bench) -> None:
    stuck = bench.faults.arm("attr_changed", Hang())
    bench.cookie.attr_changed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read_all)
        nursery.start_soon(page.alloc_page, bench.cookie, scratch())
        await stuck.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        bench.cookie.invalidate()  # discards the queue, that exclusive operation excepted
        await bench.cookie.wait_on_invalidate()
        stuck.release()
    stats = bench.domain.stats
    assert (stats.retrvl_abt, stats.alloc_abt) == (1, 1)


async def test_a_read_that_a_dying_object_refuses_has_no_buffers(bench: Bench) -> None:
    bench.obj.live = False
    assert await bench.read_all() == (NO_BUFFERS, {})
    bench.obj.live = True


async def test_a_read_that_was_overtaken_by_an_invalidation_leaves_no_mark(bench: Bench) -> None:
    """Bytes that were fetched for it are of the old version, and must not be stored later."""
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    outcomes: list[ReadOutcome] = []

    async def read() -> None:
        outcomes.append((await bench.read_all())[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await stuck.wait_hit()
        bench.cookie.invalidate()
        await bench.cookie.wait_on_invalidate()
        stuck.release()
    assert outcomes == [NO_BUFFERS]
    assert await bench.write(0) is WriteOutcome.NO_BUFFERS


async def test_what_the_callers_end_io_raises_comes_back_to_it(bench: Bench) -> None:
    await bench.fill(bench.cookie)

    def end_io(*_: object) -> None:
        raise ZeroDivisionError("the caller's bug")

    with pytest.raises(ZeroDivisionError):
        await page.read_or_alloc_pages(bench.cookie, [scratch()], end_io)
    assert bench.obj.live
    assert bench.obj.ops.n_in_progress == 0


async def test_a_hit_without_every_page_is_the_plugins_fault(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.faults.arm("read_or_alloc_pages", Answer(HIT))
    assert await bench.read_all() == (NO_BUFFERS, {})
    assert "backend MemoryBackend: <Retrieval" in caplog.text
    await trio.testing.wait_all_tasks_blocked()
    assert not bench.cookie.objects


@pytest.mark.parametrize("error", [NoSpaceError("full"), MemoryError()])
async def test_a_read_without_space_or_memory_costs_nothing_but_itself(
    error: Exception, bench: Bench
) -> None:
    bench.faults.arm("read_or_alloc_pages", Fail(error), at=1)
    assert (await bench.read_all())[0] is NO_BUFFERS
    assert bench.domain.stats.retrvls_oom == isinstance(error, MemoryError)
    assert (await bench.read_all())[0] is NO_DATA


async def test_a_read_that_fails_stops_the_cache_but_not_the_reader(bench: Bench) -> None:
    await bench.fill(bench.cookie)
    bench.faults.arm("read_or_alloc_pages", Fail(CacheIOError("gone"), after=True))
    outcome, pages = await bench.read_all()
    assert outcome is NO_BUFFERS
    assert len(pages) == N_PAGES, "pages ended before are good"
    assert bench.cache.broken
    assert bench.cookie.read_resident is None


async def test_a_read_that_the_backend_refuses_kills_the_object(bench: Bench) -> None:
    bench.faults.arm("read_or_alloc_pages", Fail(FscacheError("cannot")))
    assert (await bench.read_all())[0] is NO_BUFFERS
    await trio.testing.wait_all_tasks_blocked()
    assert not bench.cookie.objects


# -- the hot path ----------------------------------------------------------------------------


async def test_resident_bytes_are_offered_while_the_object_is_available(bench: Bench) -> None:
    await bench.fill(bench.cookie)
    read = bench.cookie.read_resident
    assert read is not None
    buffer = bytearray(100)
    assert read(50, memoryview(buffer)) == 100
    assert buffer == DATA[50:150]
    bench.cookie.attr_changed()
    assert not is_offered(bench.cookie), "not until the new size is in force"
    await trio.testing.wait_all_tasks_blocked()
    assert is_offered(bench.cookie)
    bench.obj.kill()
    assert not is_offered(bench.cookie)


def is_offered(cookie: Cookie) -> bool:
    return cookie.read_resident is not None


async def test_the_hot_path_of_a_backend_that_raises_is_closed_from_any_thread(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.faults.arm("read_resident", Fail(ZeroDivisionError("a bug")))
    read = bench.cookie.read_resident
    assert read is not None
    buffer = memoryview(bytearray(10))
    assert await trio.to_thread.run_sync(read, 0, buffer) == -1
    assert bench.cookie.read_resident is None
    await trio.testing.wait_all_tasks_blocked()
    assert "backend MemoryBackend: read_resident raised ZeroDivisionError" in caplog.text
    assert not bench.cookie.objects


# -- writing (4.3, 8) ------------------------------------------------------------------------


async def test_pages_are_stored_only_if_they_were_read_or_allocated(bench: Bench) -> None:
    assert await bench.write(0) is WriteOutcome.NO_BUFFERS
    await page.alloc_page(bench.cookie, scratch())
    assert await bench.write(0) is WriteOutcome.STORED
    assert page.check_page_write(bench.cookie, 0)
    await page.wait_on_page_write(bench.cookie, 0)
    assert not page.check_page_write(bench.cookie, 0)
    await bench.check(bench.cookie, DATA, [0])
    stats = bench.domain.stats
    assert (stats.stores_n, stats.stores_ok, stats.stores_nbf) == (2, 1, 1)


async def test_stores_are_done_in_order_so_that_the_later_bytes_win(bench: Bench) -> None:
    newer = content(b"newer", SIZE)
    await page.alloc_page(bench.cookie, scratch())
    for data in (DATA, newer):
        assert await bench.write(2, 3, data) is WriteOutcome.STORED
    await bench.cookie.wait_on_stores()
    assert bench.domain.stats.stores_agn == 1
    _, pages = await bench.read_all()
    assert {at: pages[at] for at in (2, 3, 4)} == {at: bytes(folio(at, 1, newer).buffer) for at in (2, 3, 4)}


async def test_nothing_is_stored_beyond_the_store_limit(bench: Bench) -> None:
    await page.alloc_page(bench.cookie, scratch())
    bench.obj.set_store_limit(PAGE_SIZE)
    await bench.write(0, 3)
    await bench.write(4)
    await bench.cookie.wait_on_stores()
    stats = bench.domain.stats
    assert (stats.store_olm, stats.store_pgs, stats.store_rxd) == (3, 1, 4)
    await page.write_page(bench.cookie, folio(4), object_size=SIZE)
    await bench.cookie.wait_on_stores()
    await bench.check(bench.cookie, DATA, [0, 4])


@small_stores
async def test_writers_wait_while_too_much_is_to_be_stored(bench: Bench) -> None:
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang())
    most = 0
    async with trio.open_nursery() as nursery:
        for first in range(0, N_PAGES, 2):
            nursery.start_soon(bench.write, first, 2)
        await stuck.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        most = bench.domain.stores_size
        stuck.release()
    await bench.cookie.wait_on_stores()
    assert most == 4 * PAGE_SIZE
    assert bench.domain.stores_size == 0
    await bench.check(bench.cookie, DATA)


@small_stores
async def test_a_writer_cancelled_while_it_waits_has_queued_nothing(bench: Bench) -> None:
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang())
    await bench.write(0, 4)
    await stuck.wait_hit()
    with trio.CancelScope() as scope:
        scope.cancel()
        await bench.write(8, 4)
    stuck.release()
    await bench.cookie.wait_on_stores()
    await bench.check(bench.cookie, DATA, range(4))


@small_stores
async def test_bytes_that_waited_over_an_invalidation_are_not_stored(bench: Bench) -> None:
    """Even if others have allocated the same pages since."""
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang())
    await bench.write(0, 4)
    await stuck.wait_hit()
    async with trio.open_nursery() as nursery:
        outcomes: list[WriteOutcome] = []

        async def late() -> None:
            outcomes.append(await bench.write(4, 4))

        nursery.start_soon(late)
        await trio.testing.wait_all_tasks_blocked()
        bench.cookie.invalidate()
        nursery.start_soon(page.alloc_page, bench.cookie, scratch())
        stuck.release()
    assert outcomes == [WriteOutcome.NO_BUFFERS]
    await bench.check(bench.cookie, DATA, [])


async def test_stores_wait_for_an_exclusive_operation_that_came_before_them(bench: Bench) -> None:
    order: list[str] = []
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang(), at=1)
    bench.faults.arm("write_page", Run(lambda: order.append("store")))
    bench.faults.arm("attr_changed", Run(lambda: order.append("attr_changed")))
    await bench.write(0)
    await stuck.wait_hit()
    bench.cookie.attr_changed()
    await bench.write(1)
    await bench.write(2)
    stuck.release()
    await bench.cookie.wait_on_stores()
    assert order == ["attr_changed", "store", "store"]
    await bench.check(bench.cookie, DATA, [0, 1, 2])


async def test_stores_left_by_an_exclusive_operation_are_taken_up_behind_it(bench: Bench) -> None:
    order: list[str] = []
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang(), at=1)
    bench.faults.arm("write_page", Run(lambda: order.append("store")))
    bench.faults.arm("attr_changed", Run(lambda: order.append("attr_changed")))
    await bench.write(0)
    await bench.write(1)
    await stuck.wait_hit()
    bench.cookie.attr_changed()
    stuck.release()
    await bench.cookie.wait_on_stores()
    assert order == ["attr_changed", "store"]
    await bench.check(bench.cookie, DATA, [0, 1])


@pytest.mark.parametrize(
    "answer",
    [Answer(WriteOutcome.NO_BUFFERS), Fail(NoSpaceError("full")), Fail(MemoryError())],
    ids=["no buffers", "no space", "no memory"],
)
async def test_a_store_without_room_is_only_a_hole(answer: Answer | Fail, bench: Bench) -> None:
    bench.faults.arm("write_page", answer, at=1)
    await page.alloc_page(bench.cookie, scratch())
    await bench.write(0)
    await bench.write(1)
    await bench.cookie.wait_on_stores()
    assert list(bench.cookie.marks) == [(1, N_PAGES - 1)]
    await bench.check(bench.cookie, DATA, [1])


async def test_a_store_that_stops_the_cache_drops_the_others(bench: Bench) -> None:
    bench.faults.arm("write_page", Fail(CacheIOError("gone")))
    await page.alloc_page(bench.cookie, scratch())
    for first in range(4):
        await bench.write(first)
    await bench.cookie.wait_on_stores()
    assert bench.domain.stores_size == 0
    assert await bench.write(5) is WriteOutcome.NO_BUFFERS
    assert bench.obj.live, "objects stay until the cache is withdrawn"


async def test_a_store_that_fails_deletes_the_object(bench: Bench) -> None:
    bench.faults.arm("write_page", Fail(FscacheError("cannot"), after=True))
    await page.alloc_page(bench.cookie, scratch())
    for first in range(4):
        await bench.write(first)
    await trio.testing.wait_all_tasks_blocked()
    assert not bench.cookie.objects
    assert bench.domain.stores_size == 0
    bench.faults.disarm()
    bench.cookie.acquire_objects()
    await bench.cookie.wait_lookup()
    await bench.check(bench.cookie, DATA, [])


async def test_a_store_that_cannot_be_queued_is_refused(bench: Bench) -> None:
    await page.alloc_page(bench.cookie, scratch())
    bench.cookie.n_active, n_active = 0, bench.cookie.n_active
    assert await bench.write(0) is WriteOutcome.NO_BUFFERS
    assert not bench.cookie.stores
    bench.cookie.n_active = n_active


async def test_stores_queue_behind_a_creation(bench: Bench) -> None:
    class Negative(Hang):
        def enter(self, args: tuple[object, ...], random: object) -> tuple[object, ...]:
            (obj,) = args
            assert isinstance(obj, CacheObject)
            obj.lookup_negative()
            return args

    stuck = bench.faults.arm("lookup_object", Negative())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.file, b"other")
        await stuck.wait_hit()
        bench.cookie = next(c for c in bench.domain.cookies.values() if c.key == b"other")
        assert (await bench.read_all())[0] is NO_DATA
        assert await bench.write(0, N_PAGES) is WriteOutcome.STORED
        stuck.release()
    await bench.cookie.wait_on_stores()
    await bench.check(bench.cookie, DATA)


async def test_a_backend_that_completes_a_store_itself_ends_it(bench: Bench) -> None:
    class Complete(Run):
        def enter(self, args: tuple[object, ...], random: object) -> tuple[object, ...]:
            op = args[0]
            assert isinstance(op, Operation)
            op.complete()
            return args

    bench.faults.arm("write_page", Complete(lambda: None), at=1)
    await page.alloc_page(bench.cookie, scratch())
    await bench.write(0)
    await bench.cookie.wait_on_stores()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.obj.ops.n_ops == 0


class Several(MemoryBackend):
    """Takes several runs in one call; notes the first pages of each."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[int]] = []
        self.answer: WriteOutcome | FscacheError | None = None

    @cache_hook
    async def write_page(self, op: Storage, folio: Folio) -> WriteOutcome:
        self.calls.append([folio.first])
        return await super().write_page(op, folio)

    @cache_hook
    async def write_pages(self, op: Storage, folios: Sequence[Folio]) -> WriteOutcome:
        self.calls.append([folio.first for folio in folios])
        if isinstance(self.answer, FscacheError):
            raise self.answer
        for folio in folios:
            await super().write_page(op, folio)
        return self.answer or WriteOutcome.STORED


async def write_one_by_one(session: Session) -> Cookie:
    cookie = await session.file(size=SIZE)
    await page.alloc_page(cookie, scratch())
    for first in range(N_PAGES):
        assert page.write_page_nowait(cookie, folio(first)) is WriteOutcome.STORED
    await cookie.wait_on_stores()
    return cookie


async def test_runs_that_wait_go_to_the_backend_in_one_call() -> None:
    backend = Several()
    async with open_session(backend) as session:
        cookie = await write_one_by_one(session)
        await session.check(cookie, DATA)
        assert session.domain.stores_size == 0
        stats = session.domain.stats
        assert (stats.store_run, stats.store_pgs, stats.store_rxd) == (N_PAGES, N_PAGES, N_PAGES)
    assert backend.calls == [list(range(N_PAGES))]


async def test_one_call_takes_half_of_what_may_wait() -> None:
    backend = Several()
    async with open_session(backend, limits=Limits(store_size=8 * PAGE_SIZE)) as session:
        await write_one_by_one(session)
    assert backend.calls == [list(range(first, first + 4)) for first in range(0, N_PAGES, 4)]


async def test_a_run_that_does_not_wait_goes_alone() -> None:
    backend = Several()
    async with open_session(backend) as session:
        cookie = await session.file(size=SIZE)
        await page.alloc_page(cookie, scratch())
        for first in (0, 4):
            await page.write_page(cookie, folio(first, 4))
            await cookie.wait_on_stores()
    assert backend.calls == [[0], [4]]


async def test_a_wrapper_sees_every_run_as_write_page() -> None:
    backend, faults = Several(), Faults()
    calls = faults.arm("write_page", Run(lambda: None))
    async with open_session(backend, wrappers=[faults]) as session:
        await write_one_by_one(session)
    assert calls.n_hits == N_PAGES
    assert backend.calls == [[first] for first in range(N_PAGES)]


async def test_runs_for_which_there_was_no_room_are_forgotten_together() -> None:
    backend = Several()
    backend.answer = WriteOutcome.NO_BUFFERS
    async with open_session(backend) as session:
        cookie = await write_one_by_one(session)
        assert not cookie.marks
        assert page.write_page_nowait(cookie, folio(0)) is WriteOutcome.NO_BUFFERS


async def test_of_several_runs_only_what_the_file_has_is_stored() -> None:
    backend = Several()
    async with open_session(backend) as session:
        cookie = await session.file(size=SIZE - PAGE_SIZE - 5)
        await page.alloc_page(cookie, scratch())
        for first in range(0, N_PAGES, 2):
            page.write_page_nowait(cookie, folio(first, 2))
        await cookie.wait_on_stores()
        stats = session.domain.stats
        assert (stats.store_pgs, stats.store_olm, stats.store_rxd) == (N_PAGES - 1, 1, N_PAGES)
        await session.check(cookie, DATA[: SIZE - PAGE_SIZE - 5])


async def test_a_backend_that_cannot_take_several_runs_loses_the_object() -> None:
    backend = Several()
    backend.answer = FscacheError("cannot")
    async with open_session(backend) as session:
        cookie = await write_one_by_one(session)
        await trio.testing.wait_all_tasks_blocked()
        assert not cookie.objects
        assert session.domain.stores_size == 0


# -- letting go ------------------------------------------------------------------------------


async def test_uncaching_unmarks_and_tells_a_backend_that_wants_to_know() -> None:
    told: list[tuple[int, int]] = []

    class Tracking(MemoryBackend):
        @cache_hook
        async def uncache_page(self, obj: CacheObject, first: int, n_pages: int) -> None:
            told.append((first, n_pages))
            if first == 9:
                raise ZeroDivisionError("a bug")

    async with open_session(Tracking()) as session:
        cookie = await session.file(size=SIZE)
        await page.uncache_page(cookie, 0)
        assert told == [], "it was not marked"
        data = await session.fill(cookie)
        await page.uncache_page(cookie, 0, 2)
        assert told == [(0, 2)]
        assert list(cookie.marks) == [(2, N_PAGES - 2)]
        await page.readpages_cancel(cookie, [scratch(0, 2), scratch(4, 1), scratch(6, 2)])
        assert told == [(0, 2), (4, 1), (6, 2)]
        await session.check(cookie, data)
        await page.uncache_all_inode_pages(cookie)
        assert not cookie.marks
        await session.read(cookie, 9, 1)
        await page.uncache_page(cookie, 9)
        await trio.testing.wait_all_tasks_blocked()
        assert not cookie.objects, "its backend broke the contract"
        cookie.mark_pages_cached(1, 1)
        await page.uncache_page(cookie, 1)
        assert not cookie.marks


async def test_a_page_that_is_not_marked_may_be_released(bench: Bench) -> None:
    assert await page.maybe_release_page(bench.cookie, 0)


async def test_a_stored_page_may_be_released(bench: Bench) -> None:
    await bench.fill(bench.cookie)
    assert await page.maybe_release_page(bench.cookie, 0)
    assert 0 not in bench.cookie.marks
    assert bench.domain.stats.vmscan_nos == 1


async def test_a_page_being_stored_is_kept_unless_the_caller_may_wait(bench: Bench) -> None:
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang())
    await bench.write(0, 2)
    await stuck.wait_hit()
    assert not await page.maybe_release_page(bench.cookie, 1)
    assert bench.domain.stats.vmscan_bsy == 1
    released: list[bool] = []

    async def release() -> None:
        released.append(await page.maybe_release_page(bench.cookie, 1, may_wait=True))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
        await trio.testing.wait_all_tasks_blocked()
        stuck.release()
    assert released == [True]
    assert (bench.domain.stats.vmscan_wt, bench.domain.stats.vmscan_nos) == (1, 1)


async def test_a_page_being_stored_is_waited_for_a_second_at_most(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang())
    await bench.write(0)
    await stuck.wait_hit()
    started = trio.current_time()
    assert not await page.maybe_release_page(bench.cookie, 0, may_wait=True)
    assert trio.current_time() - started == 1
    stuck.release()


@pytest.mark.parametrize(("released", "left"), [(4, [5, 6]), (5, [4, 6]), (6, [4, 5])])
async def test_a_page_waiting_to_be_stored_is_taken_out_of_its_run(
    released: int, left: list[int], bench: Bench
) -> None:
    await page.alloc_page(bench.cookie, scratch())
    stuck = bench.faults.arm("write_page", Hang())
    await bench.write(0)
    await stuck.wait_hit()
    await bench.write(4, 3)
    assert await page.maybe_release_page(bench.cookie, released)
    stats = bench.domain.stats
    assert (stats.vmscan_can, stats.store_rxd) == (1, 1)
    assert bench.domain.stores_size == 3 * PAGE_SIZE
    stuck.release()
    await bench.cookie.wait_on_stores()
    await bench.check(bench.cookie, DATA, [0, *left])


# -- what operations of the netfs meet -------------------------------------------------------------


async def test_an_exclusive_operation_waits_for_a_running_read(bench: Bench) -> None:
    stuck = bench.faults.arm("read_or_alloc_pages", Hang())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.read_all)
        await stuck.wait_hit()
        origin_file(bench.cookie.netfs_data).size = SIZE
        assert bench.cookie.attr_changed()
        second = Operation(bench.obj)
        assert bench.obj.ops.submit(second) is SubmitOutcome.ACCEPTED
        assert len(bench.obj.ops.pending) == 2
        stuck.release()
    assert await second.wait_active()
    second.finish()


def test_limits_can_be_changed_one_by_one() -> None:
    assert replace(Limits(), store_size=1).store_size == 1
