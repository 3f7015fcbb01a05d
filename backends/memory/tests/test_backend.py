"""What is particular to the memory backend: the ceiling, what goes first, what stays."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core import page
from fscache_core.errors import CallerError
from fscache_core.folio import PAGE_SIZE, Folio, page_count
from fscache_core.fscache import open_fscache
from fscache_core.hookspecs import NOT_RESIDENT
from fscache_core.outcome import ReadOutcome, ReserveOutcome, WriteOutcome
from fscache_core.testing.cache_session import content, open_session, origin_file
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from fscache_core.cookie import Cookie
    from fscache_core.testing.cache_session import Session

KIB, MIB = 1024, 1024 * 1024
BLOCK = 64 * KIB


async def n_stored(session: Session, cookie: Cookie) -> int:
    """How many pages of a file are stored."""
    _, pages = await session.read(cookie, 0, page_count(cookie.object_size))
    return len(pages)


# -- options -----------------------------------------------------------------------------


def test_the_ceiling_may_be_given_as_text() -> None:
    assert MemoryBackend("20MiB").space.max_bytes == 20 * MIB
    assert MemoryBackend("1048576").space.max_bytes == MemoryBackend(MIB).space.max_bytes == MIB
    assert MemoryBackend().space.max_bytes is None


@pytest.mark.parametrize("max_bytes", ["lots", "", 0, "0K", -1, "-5", True, False])
def test_a_ceiling_that_makes_no_sense_is_refused(max_bytes: int | str) -> None:
    with pytest.raises(CallerError, match="max_bytes"):
        MemoryBackend(max_bytes)


async def test_it_is_found_by_its_name() -> None:
    async with open_fscache() as fscache:
        cache = await fscache.add_cache("memory", max_bytes="1048576")
        assert isinstance(cache.backend.plugin, MemoryBackend)


async def test_one_backend_serves_one_cache_at_a_time() -> None:
    backend = MemoryBackend()
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(backend, tag="one")
        with pytest.raises(CallerError, match="cache one"):
            await fscache.add_cache(backend, tag="two")
        await fscache.withdraw_cache(cache)
        await fscache.add_cache(backend, tag="two")


# -- the ceiling -------------------------------------------------------------------------


async def test_a_file_larger_than_the_ceiling_is_cached_in_part_and_stays_below_it() -> None:
    backend = MemoryBackend(MIB)
    async with open_session(backend) as session:
        cookie = await session.file(size=4 * MIB)
        data = content(b"v1", 4 * MIB)
        for offset in range(0, len(data), BLOCK):
            outcome = await session.store(cookie, offset // PAGE_SIZE, data[offset : offset + BLOCK])
            assert outcome is WriteOutcome.STORED
            assert backend.space.charged <= MIB
        _, pages = await session.read(cookie, 0, page_count(len(data)))
        assert 14 * 16 <= len(pages) < 16 * 16
        assert max(pages) == page_count(len(data)) - 1
        for at, page_bytes in pages.items():
            assert page_bytes == data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]


async def test_a_store_larger_than_the_ceiling_is_not_kept() -> None:
    backend = MemoryBackend(MIB)
    async with open_session(backend) as session:
        cookie = await session.file(size=2 * MIB)
        other = await session.file(b"other", size=BLOCK)
        await session.fill(other)
        await session.store(cookie, 0, content(b"v1", 2 * MIB))
        assert await n_stored(session, cookie) == 0
        assert await n_stored(session, other) == 16


async def test_what_was_used_longest_ago_goes_first() -> None:
    async with open_session(MemoryBackend(5 * (BLOCK + 4 * KIB) + 8 * KIB)) as session:
        files = [await session.file(b"%d" % number, size=BLOCK) for number in range(6)]
        for cookie in files[:5]:
            await session.fill(cookie)
        # By both ways of reading; no eviction so far.
        assert await n_stored(session, files[0]) == 16
        hook = session.cache.backend.read_resident
        assert hook is not None
        assert hook(session.object(files[1]), 5, memoryview(bytearray(10))) == 10
        await session.fill(files[5])
        assert hook(session.object(files[2]), 5, memoryview(bytearray(10))) == NOT_RESIDENT
        assert [await n_stored(session, cookie) for cookie in files] == [16, 16, 0, 16, 16, 16]


async def test_files_that_nobody_uses_go_with_their_records() -> None:
    """However many small files pass through, what they leave stays below the ceiling."""
    backend = MemoryBackend(256 * KIB)
    async with open_session(backend) as session:
        for number in range(500):
            cookie = await session.file(b"%d" % number, size=100)
            await session.fill(cookie, b"%d" % number)
            obj = session.object(cookie)
            await cookie.relinquish()
            await obj.wait_dead()
        kept = []
        for number in range(500):
            cookie = await session.file(b"%d" % number, aux=None)
            if cookie.aux is not None:
                kept.append(number)
                if number > kept[0]:  # of which the record may be left, but not the page
                    await session.check(cookie, content(b"%d" % number, 100))
            await cookie.relinquish()
        assert kept == list(range(kept[0], 500))
        assert 20 < len(kept) < 130


async def test_volumes_that_nobody_uses_go_too() -> None:
    backend = MemoryBackend(64 * KIB)
    async with open_session(backend) as session:
        for number in range(200):
            index = session.index(b"%d" % number)
            cookie = await session.file(size=100, below=index)
            assert await session.store(cookie, 0, content(b"v1", 100)) is WriteOutcome.STORED
            await cookie.relinquish()
            await index.relinquish()
        assert backend.space.charged <= 64 * KIB


async def test_when_everything_is_in_use_there_is_no_room_for_another_file() -> None:
    backend = MemoryBackend(32 * KIB)
    async with open_session(backend) as session:
        outcomes = []
        for number in range(40):
            cookie = await session.file(b"%d" % number, size=100)
            outcomes.append((await session.read(cookie, 0, 1))[0])
        n_room = outcomes.count(ReadOutcome.NO_DATA)
        assert 0 < n_room < 16
        assert outcomes == [ReadOutcome.NO_DATA] * n_room + [ReadOutcome.NO_BUFFERS] * (40 - n_room)
        assert backend.space.charged <= 32 * KIB
        assert session.cache.stats.cacheev_nsp >= 24


@pytest.mark.parametrize("seed", range(8))
async def test_the_ceiling_holds_and_no_byte_is_wrong_whatever_happens(seed: int) -> None:
    random = Random(seed)
    ceiling = random.choice([128 * KIB, 300 * KIB, MIB])
    backend = MemoryBackend(ceiling)
    async with open_session(backend) as session:
        files: dict[bytes, Cookie] = {}
        for _ in range(400):
            key = b"%d" % random.randrange(6)
            if key not in files:
                size = random.choice([1, 5000, BLOCK, 3 * BLOCK + 77, 20 * BLOCK])
                files[key] = await session.file(key, size=size, aux=b"%d" % size)
                continue
            cookie = files[key]
            data = content(key, cookie.object_size)
            n_pages = page_count(len(data))
            first = random.randrange(n_pages)
            length = random.randrange(1, min(40, n_pages - first) + 1)
            match random.randrange(12):
                case 0:
                    await files.pop(key).relinquish(retire=random.random() < 0.3)
                case 1:
                    await cookie.pin()
                case 2 | 3:
                    await cookie.unpin()
                case 4:
                    await cookie.reserve_space(random.choice([0, 0, len(data), 50 * KIB]))
                case 5:
                    cookie.invalidate()
                    await cookie.wait_on_invalidate()
                case 6 | 7 | 8:
                    await session.store(cookie, first, data[first * PAGE_SIZE :][: length * PAGE_SIZE])
                case _:
                    _, pages = await session.read(cookie, first, length)
                    for at, page_bytes in pages.items():
                        assert page_bytes == data[at * PAGE_SIZE :][:PAGE_SIZE]
            assert backend.space.charged <= ceiling
            assert backend.space.floor <= backend.space.charged
    assert backend.space.floor <= backend.space.charged <= ceiling


async def test_retiring_all_gives_all_memory_back() -> None:
    backend = MemoryBackend()
    async with open_session(backend) as session:
        before = backend.space.charged
        for number in range(10):
            await session.fill(cookie := await session.file(b"%d" % number))
            await cookie.pin()
            await cookie.relinquish(retire=True)
    assert backend.space.charged <= before + 3 * 2048  # the indices of the netfs and the volume


# -- sizes that come with the pages ------------------------------------------------------


async def test_pages_that_come_with_a_larger_size_make_the_object_grow() -> None:
    async with open_session(MemoryBackend()) as session:
        cookie = await session.file(size=PAGE_SIZE + 100)
        await session.fill(cookie)
        data = content(b"v1", 3 * PAGE_SIZE)
        folio = Folio(2, memoryview(data)[2 * PAGE_SIZE :])
        await page.alloc_page(cookie, Folio(2, memoryview(bytearray(PAGE_SIZE))))
        await page.write_page(cookie, folio, object_size=3 * PAGE_SIZE)
        await page.wait_on_page_write(cookie, 2)
        origin_file(cookie.netfs_data).size = 3 * PAGE_SIZE
        cookie.refresh()
        await session.check(cookie, data, [0, 2])  # page 1 was cut at the old end


async def test_a_page_cut_where_the_object_does_not_end_is_not_kept() -> None:
    async with open_session(MemoryBackend()) as session:
        cookie = await session.file(size=3 * PAGE_SIZE)
        data = content(b"v1", 3 * PAGE_SIZE)
        await session.store(cookie, 1, data[PAGE_SIZE : PAGE_SIZE + 100])
        assert await n_stored(session, cookie) == 0
        await session.check(cookie, await session.fill(cookie))


# -- pins and reservations ---------------------------------------------------------------


async def test_what_is_pinned_stays_until_it_is_unpinned() -> None:
    async with open_session(MemoryBackend(MIB)) as session:
        pinned = await session.file(b"pinned", size=5 * BLOCK)
        data = await session.fill(pinned)
        assert await pinned.pin() is ReserveOutcome.GRANTED
        await pinned.relinquish()
        flood = await session.file(b"flood", size=4 * MIB)
        for first in range(0, 1024, 16):
            await session.store(flood, first, bytes(BLOCK))
        pinned = await session.file(b"pinned", size=5 * BLOCK)
        await session.check(pinned, data)
        await pinned.unpin()
        await pinned.relinquish()
        for first in range(0, 1024, 16):
            await session.store(flood, first, bytes(BLOCK))
        pinned = await session.file(b"pinned", size=5 * BLOCK)
        assert await n_stored(session, pinned) == 0


async def test_when_all_is_pinned_others_get_no_buffers_and_the_pinned_stay() -> None:
    async with open_session(MemoryBackend(MIB)) as session:
        pinned = await session.file(b"pinned", size=15 * BLOCK)
        data = await session.fill(pinned)
        await pinned.pin()
        other = await session.file(b"other", size=4 * BLOCK)
        assert (await session.read(other, 0, 64))[0] is ReadOutcome.NO_BUFFERS
        await session.check(pinned, data)


async def test_a_reservation_is_room_that_others_cannot_take() -> None:
    async with open_session(MemoryBackend(MIB)) as session:
        reserved = await session.file(b"reserved", size=8 * BLOCK)
        assert await reserved.reserve_space(8 * BLOCK) is ReserveOutcome.GRANTED
        data = content(b"v1", 8 * BLOCK)
        assert await session.store(reserved, 0, data[:BLOCK]) is WriteOutcome.STORED
        flood = await session.file(b"flood", size=4 * MIB)
        for first in range(0, 1024, 16):
            await session.store(flood, first, bytes(BLOCK))
        assert 0 < await n_stored(session, flood) < 8 * 16
        await session.check(reserved, data, range(16))
        for first in range(16, 128, 16):
            piece = data[first * PAGE_SIZE :][:BLOCK]
            assert await session.store(reserved, first, piece) is WriteOutcome.STORED
        await session.check(reserved, data)


async def test_more_than_there_is_cannot_be_reserved() -> None:
    backend = MemoryBackend(MIB)
    async with open_session(backend) as session:
        one, two = await session.file(b"one"), await session.file(b"two")
        assert await one.reserve_space(2 * MIB) is ReserveOutcome.REFUSED
        assert await one.reserve_space(600 * KIB) is ReserveOutcome.GRANTED
        assert await two.reserve_space(600 * KIB) is ReserveOutcome.REFUSED
        assert await one.reserve_space(0) is ReserveOutcome.GRANTED
        assert await two.reserve_space(600 * KIB) is ReserveOutcome.GRANTED
        obj = session.object(two)
        await two.relinquish()
        await obj.wait_dead()
        assert await one.reserve_space(600 * KIB) is ReserveOutcome.GRANTED


async def test_pin_and_reservation_outlast_an_invalidation() -> None:
    async with open_session(MemoryBackend(MIB)) as session:
        cookie = await session.file(size=5 * BLOCK)
        await session.fill(cookie)
        await cookie.pin()
        await cookie.reserve_space(5 * BLOCK)
        cookie.invalidate()
        await cookie.wait_on_invalidate()
        await session.read(cookie, 0, 1)
        other = await session.file(b"other")
        assert await other.reserve_space(700 * KIB) is ReserveOutcome.REFUSED
        data = await session.fill(cookie)
        flood = await session.file(b"flood", size=4 * MIB)
        for first in range(0, 1024, 16):
            await session.store(flood, first, bytes(BLOCK))
        await session.check(cookie, data)


# -- memory ------------------------------------------------------------------------------


async def test_a_large_sparse_file_costs_what_it_holds() -> None:
    backend = MemoryBackend()
    tracemalloc.start()
    try:
        async with open_session(backend) as session:
            size = 1 << 44
            cookie = await session.file(size=size)
            before = tracemalloc.get_traced_memory()[0]
            for page_index in (0, 1 << 20, (1 << 32) - 1):
                assert await session.store(cookie, page_index, bytes(PAGE_SIZE)) is WriteOutcome.STORED
            assert tracemalloc.get_traced_memory()[0] - before < 4 * BLOCK
            hook = session.cache.backend.resident_pages
            assert hook is not None
            assert list(await hook(session.object(cookie))) == [(0, 1), (1 << 20, 1), ((1 << 32) - 1, 1)]
    finally:
        tracemalloc.stop()


async def test_the_estimate_of_memory_is_not_below_the_truth() -> None:
    """``max_bytes`` counts records by estimate; many tiny files are where that shows."""
    backend = MemoryBackend()
    async with open_session(backend) as session:
        tracemalloc.start()
        try:
            gc.collect()
            before, charged = tracemalloc.get_traced_memory()[0], backend.space.charged
            for number in range(300):
                cookie = await session.file(b"%0511d" % number, size=10, aux=b"x" * 500)
                await session.fill(cookie)
                await cookie.relinquish()
            del cookie
            gc.collect()  # cookies and objects, which are core's
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert taken <= backend.space.charged - charged


# -- threads -----------------------------------------------------------------------------


async def test_readers_in_threads_survive_constant_eviction() -> None:
    """Eviction by the trio thread and touches by reading threads share one order of use."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    backend = MemoryBackend(6 * BLOCK)
    try:
        async with open_session(backend) as session:
            cookie = await session.file(size=16 * BLOCK)
            data = content(b"v1", 16 * BLOCK)
            obj, read_resident = session.object(cookie), backend.read_resident
            stop = threading.Event()
            n_hits = [0, 0]

            def read(reader: int) -> None:
                random = Random(reader)
                while not stop.is_set():
                    offset = random.randrange(len(data) - 1)
                    buffer = bytearray(random.randrange(1, min(2 * BLOCK, len(data) - offset)))
                    if read_resident(obj, offset, memoryview(buffer)) != NOT_RESIDENT:  # type: ignore[arg-type]
                        n_hits[reader] += 1
                        assert buffer == data[offset : offset + len(buffer)]

            async with trio.open_nursery() as nursery:
                for reader in range(2):
                    nursery.start_soon(trio.to_thread.run_sync, read, reader)
                try:
                    n_rounds = 0
                    while n_rounds < 15 or not all(n_hits):  # both have begun, however busy the machine is
                        for first in range(0, 256, 8):
                            await session.store(cookie, first, data[first * PAGE_SIZE :][: 8 * PAGE_SIZE])
                            assert backend.space.charged <= 6 * BLOCK, n_rounds
                        n_rounds += 1
                finally:
                    stop.set()
    finally:
        sys.setswitchinterval(interval)
