"""Files over cache and origin: right bytes, fetched once, few bytes."""

from __future__ import annotations

import copy
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import (
    CacheIOError,
    CallerError,
    FsCache,
    NoSpaceError,
    OfflineError,
    OriginError,
    OriginNotFoundError,
    OriginUnreachableError,
    PluginError,
    Readahead,
    StaleError,
    open_fscache,
)
from fscache_core.domain import Limits
from fscache_core.hookspecs import netfs_hook
from fscache_core.inode_fetches import SMALLEST_FETCH
from fscache_core.outcome import ReadOutcome, WriteOutcome
from fscache_core.testing.faulty import Answer, Fail, Faults, Hang
from fscache_core.testing.faulty import Fault as Bad
from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall
from fscache_memory import MemoryBackend
from netfs_http import HttpNetfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1 << 20


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@asynccontextmanager
async def memory_cache(backend: MemoryBackend | None = None, **options: object) -> AsyncIterator[FsCache]:
    async with open_fscache(**options) as fscache:  # type: ignore[arg-type]
        await fscache.add_cache(backend or MemoryBackend())
        yield fscache


async def read_all(fscache: FsCache, url: str, piece: int = 100_000) -> bytes:
    async with await fscache.open_file(url) as file:
        pieces: list[bytes] = []
        while data := await file.read(sum(map(len, pieces)), piece):
            pieces.append(data)
        return b"".join(pieces)


async def test_what_is_read_is_what_the_origin_has(fscache_http_origin: CountingOrigin) -> None:
    fscache_http_origin.put("a", data := content(3 * MIB + 123))
    async with memory_cache() as fscache:
        assert await read_all(fscache, fscache_http_origin.url("a")) == data


async def test_a_second_read_costs_the_origin_no_byte(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(3 * MIB + 123))
    async with memory_cache() as fscache:
        await read_all(fscache, origin.url("a"))
        assert origin.bytes_sent == len(data)
        assert await read_all(fscache, origin.url("a")) == data
        assert origin.bytes_sent == len(data)
        (volume,) = fscache.volumes
        assert volume.stats.bytes_from_origin == len(data)


async def test_what_one_run_fetched_the_next_one_finds(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB + 1))
    backend = MemoryBackend()
    async with memory_cache(backend) as fscache:
        await read_all(fscache, origin.url("a"))
    async with memory_cache(backend) as fscache:
        assert await read_all(fscache, origin.url("a")) == data
    assert origin.bytes_sent == len(data)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, 65537])
async def test_a_file_of_any_size_is_cached_whole(fscache_http_origin: CountingOrigin, size: int) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(size))
    backend = MemoryBackend()
    for _ in range(2):
        async with memory_cache(backend) as fscache:
            assert await read_all(fscache, origin.url("a")) == data
    assert origin.bytes_sent == size


async def test_random_reads_return_the_right_bytes_and_fetch_little(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(16 * MIB))
    offsets = random.Random(2).sample(range(16 * MIB - 65536), 10)
    async with memory_cache() as fscache, await fscache.open_file(origin.url("a")) as file:
        for offset in offsets:
            assert await file.read(offset, 65536) == data[offset : offset + 65536]
    assert origin.bytes_sent <= 2.0 * 10 * 65536


async def test_a_read_across_cached_and_uncached_pages_fetches_only_the_gaps(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    async with (
        memory_cache(readahead=Readahead(max_size=0x100000)) as fscache,
        await fscache.open_file(origin.url("a")) as file,
    ):
        await file.read(200 * 4096, 4096)
        await file.read(100 * 4096, 4096)
        assert origin.bytes_sent == 2 * 4096
        assert await file.read(0, MIB) == data
    assert origin.bytes_sent == MIB


async def test_64_tasks_that_read_one_cold_file_fetch_it_once(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(4 * MIB))
    origin.rate = 40 * MIB
    async with memory_cache() as fscache:

        async def reader(number: int) -> None:
            async with await fscache.open_file(origin.url("a")) as file:
                start = number * 50_000
                assert await file.read(start, MIB) == data[start : start + MIB]
                assert await file.read(0, 4 * MIB) == data

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(reader, number)
    assert origin.bytes_sent == len(data)


async def test_bytes_are_handed_on_as_they_arrive(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(4 * MIB))
    stall = Stall(after=MIB)
    origin.fault("a", Fault(stall=stall))
    async with (
        memory_cache(readahead=Readahead(initial_size=4 * MIB)) as fscache,
        await fscache.open_file(origin.url("a")) as file,
    ):
        assert await file.read(0, 65536) == data[:65536]  # though the rest of the range does not come
        stall.release()
        assert await file.read(0, 4 * MIB) == data


async def test_without_any_cache_files_are_read_from_the_origin(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(2 * MIB + 5))
    async with open_fscache() as fscache:
        assert await read_all(fscache, origin.url("a")) == data
        assert origin.bytes_sent == len(data)  # one sequential reader needs each byte once all the same


async def test_a_cache_added_later_is_used_by_files_that_are_open(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    async with open_fscache() as fscache:
        async with await fscache.open_file(origin.url("a")) as file:
            await file.read(0, 4096)
            await fscache.add_cache(MemoryBackend())
            assert await file.read(0, MIB) == data
        assert await read_all(fscache, origin.url("a")) == data
    assert origin.bytes_sent <= MIB + 4096 + (128 << 10)  # and what was read ahead without a cache


async def test_withdrawing_the_cache_leaves_open_files_readable(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(MemoryBackend())
        async with await fscache.open_file(origin.url("a")) as file:
            await file.read(0, MIB)
            await fscache.withdraw_cache(cache)
            assert await file.read(0, MIB) == data


async def test_an_io_error_of_the_cache_leaves_open_files_readable(
    fscache_http_origin: CountingOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    async with open_fscache() as fscache:
        cache = await fscache.add_cache(MemoryBackend())
        async with await fscache.open_file(origin.url("a")) as file:
            await file.read(0, MIB)
            await trio.testing.wait_all_tasks_blocked()  # stored
            cache.io_error("the disk is on fire")
            assert await file.read(0, MIB) == data
            (volume,) = fscache.volumes
            assert volume.stats.fallbacks > 0
    assert "the disk is on fire" in caplog.text


# -- versions ----------------------------------------------------------------------------


async def test_a_changed_file_is_read_in_its_new_version(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB, 1))
    async with memory_cache() as fscache:
        await read_all(fscache, origin.url("a"))
        origin.put("a", new := content(MIB, 2))
        assert await read_all(fscache, origin.url("a")) == new


async def test_an_open_file_goes_on_with_its_version_where_that_is_cached(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", old := content(MIB, 1))
    async with memory_cache() as fscache, await fscache.open_file(origin.url("a")) as file:
        assert await file.read(0, MIB) == old
        origin.put("a", new := content(MIB, 2))
        assert await read_all(fscache, origin.url("a")) == new
        assert await file.read(0, MIB) == old


async def test_an_open_file_whose_version_is_gone_raises_stale(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", old := content(4 * MIB, 1))
    async with memory_cache(readahead=Readahead(max_size=0)) as fscache:
        async with await fscache.open_file(origin.url("a")) as file:
            assert await file.read(0, 4096) == old[:4096]
            origin.put("a", new := content(4 * MIB, 2))
            with pytest.raises(StaleError):
                await file.read(2 * MIB, 4096)
            assert await file.read(0, 4096) == old[:4096]
        assert await read_all(fscache, origin.url("a")) == new


async def test_a_file_that_changed_before_its_first_read_is_opened_again(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB, 1))
    async with memory_cache() as fscache, await fscache.open_file(origin.url("a")) as file:
        origin.put("a", new := content(2 * MIB, 2))
        assert await file.read(0, MIB) == new[:MIB]
        assert file.size == 2 * MIB


async def test_reopen_never_raises_stale_instead(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB, 1))
    async with (
        memory_cache() as fscache,
        await fscache.open_file(origin.url("a"), reopen="never") as file,
    ):
        origin.put("a", content(MIB, 2))
        with pytest.raises(StaleError):
            await file.read(0, MIB)


async def test_a_file_without_validators_is_fetched_at_each_open(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.validators = "none"
    origin.put("a", content(MIB, 1))
    async with memory_cache() as fscache:
        await read_all(fscache, origin.url("a"))
        origin.put("a", new := content(MIB, 2))
        assert await read_all(fscache, origin.url("a")) == new
        (volume,) = fscache.volumes
        assert volume.stats.weak == 2


# -- offline and errors ------------------------------------------------------------------


async def test_offline_reads_what_is_cached_and_never_contacts_the_origin(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    backend = MemoryBackend()
    async with memory_cache(backend) as fscache:
        await read_all(fscache, origin.url("a"))
    requests = len(origin.exchanges)
    async with memory_cache(backend, offline=True) as fscache:
        assert await read_all(fscache, origin.url("a")) == data
        assert (await fscache.look_up(origin.url("a"))).size == MIB
        with pytest.raises(OfflineError):
            await fscache.open_file(origin.url("b"))
        with pytest.raises(OfflineError):
            await fscache.list_directory(origin.url(""))
    assert len(origin.exchanges) == requests


async def test_offline_a_file_that_is_cached_in_part_says_what_is_missing(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    backend = MemoryBackend()
    async with (
        memory_cache(backend, readahead=Readahead(max_size=0)) as fscache,
        await fscache.open_file(origin.url("a")) as file,
    ):
        await file.read(0, 65536)
    requests = len(origin.exchanges)
    async with (
        memory_cache(backend, offline=True) as fscache,
        await fscache.open_file(origin.url("a")) as file,
    ):
        assert await file.read(0, 65536) == data[:65536]
        with pytest.raises(OfflineError):
            await file.read(65536, 65536)
    assert len(origin.exchanges) == requests


async def test_an_unreachable_origin_is_one_clear_error(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB))
    origin.stop()
    async with memory_cache() as fscache:
        with pytest.raises(OriginUnreachableError):
            await fscache.open_file(origin.url("a"))


async def test_stale_if_error_serves_what_is_cached_when_the_origin_is_gone(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    backend = MemoryBackend()
    async with memory_cache(backend) as fscache:
        await read_all(fscache, origin.url("a"))
    origin.stop()
    async with memory_cache(backend, stale_if_error=True) as fscache:
        assert await read_all(fscache, origin.url("a")) == data
        (volume,) = fscache.volumes
        assert volume.stats.stale_served == 1


async def test_within_the_ttl_an_open_does_not_ask_the_origin(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    async with memory_cache(coherency="ttl=600") as fscache:
        await read_all(fscache, origin.url("a"))
        requests = len(origin.exchanges)
        for _ in range(5):
            assert await read_all(fscache, origin.url("a")) == data
        assert len(origin.exchanges) == requests


async def test_an_immutable_volume_never_asks_about_what_is_cached(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    backend = MemoryBackend()
    async with memory_cache(backend, coherency="immutable") as fscache:
        await read_all(fscache, origin.url("a"))
    requests = len(origin.exchanges)
    async with memory_cache(backend, coherency="immutable") as fscache:
        assert await read_all(fscache, origin.url("a")) == data
    assert len(origin.exchanges) == requests


async def test_a_missing_file_is_not_found(fscache_http_origin: CountingOrigin) -> None:
    async with memory_cache() as fscache:
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(fscache_http_origin.url("nothing"))
        with pytest.raises(FileNotFoundError):
            await fscache.look_up(fscache_http_origin.url("nothing"))


async def test_a_fetch_that_fails_in_the_middle_leaves_only_right_bytes(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(4 * MIB))
    async with memory_cache() as fscache, await fscache.open_file(origin.url("a")) as file:
        origin.fault("a", Fault(status=403))
        with pytest.raises(OriginError):
            await file.read(0, 4 * MIB)
        origin.clear_faults()
        assert await file.read(0, 4 * MIB) == data


async def test_a_cancelled_reader_leaves_the_others_undisturbed(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(2 * MIB))
    stall = Stall(after=MIB)
    origin.fault("a", Fault(stall=stall))
    async with (
        memory_cache(readahead=Readahead(initial_size=2 * MIB)) as fscache,
        await fscache.open_file(origin.url("a")) as file,
    ):
        found = bytearray(2 * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.readinto, 0, found)
            with trio.CancelScope() as scope:
                scope.cancel()
                await file.read(0, 2 * MIB)
            assert scope.cancelled_caught
            stall.release()
        assert found == data
    assert origin.bytes_sent == 2 * MIB


async def test_closing_while_fetching_and_opening_again_fetches_no_byte_twice(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(8 * MIB))
    async with memory_cache() as fscache:
        for _ in range(20):
            async with await fscache.open_file(origin.url("a")) as file:
                assert await file.read(0, 65536) == data[:65536]
        assert await read_all(fscache, origin.url("a")) == data
        (volume,) = fscache.volumes
        assert volume.stats.bytes_from_origin <= len(data) + MIB


# -- the caller's mistakes ---------------------------------------------------------------


async def test_a_closed_file_cannot_be_read(fscache_http_origin: CountingOrigin) -> None:
    fscache_http_origin.put("a", content(10))
    async with memory_cache() as fscache:
        file = await fscache.open_file(fscache_http_origin.url("a"))
        await file.aclose()
        await file.aclose()
        with pytest.raises(CallerError):
            await file.read(0, 1)


async def test_reads_beyond_the_end_are_short_or_empty(fscache_http_origin: CountingOrigin) -> None:
    fscache_http_origin.put("a", data := content(10))
    async with memory_cache() as fscache, await fscache.open_file(fscache_http_origin.url("a")) as file:
        assert await file.read(5, 100) == data[5:]
        assert await file.read(10, 1) == b""
        assert await file.read(1000, 1) == b""
        with pytest.raises(CallerError):
            await file.read(-1, 1)


# -- one open file is one version --------------------------------------------------------


async def test_a_file_reopened_by_two_tasks_at_once_is_opened_once(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB, 1))
    async with memory_cache(readahead=Readahead(max_size=0)) as fscache:
        file = await fscache.open_file(origin.url("a"))
        old = file.inode
        origin.put("a", new := content(MIB, 2))
        found: list[bytes] = []

        async def reader(offset: int) -> None:
            found.append(await file.read(offset, 65536))
            assert found[-1] == new[offset : offset + 65536]

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(reader, number * 4 * 65536)
        assert len(found) == 4
        assert old.n_open == 0
        assert file.inode.n_open == 1
        await file.aclose()
        assert file.inode.n_open == 0


async def test_a_file_is_not_reopened_behind_a_reader_that_gets_old_bytes_meanwhile(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", old := content(4 * MIB, 1))
    stall = Stall(after=0)
    origin.fault("a", Fault(stall=stall))
    faults = Faults()
    async with memory_cache(readahead=Readahead(max_size=0)) as fscache:
        fscache.add_netfs(HttpNetfs(), scheme="http", wrappers=[faults])
        origin.clear_faults()
        file = await fscache.open_file(origin.url("a"))
        origin.fault("a", Fault(stall=stall))
        looking_up = faults.arm("look_up", Hang())

        handed_out = trio.Event()

        async def early() -> None:
            assert await file.read(0, 65536) == old[:65536]
            handed_out.set()

        async def late() -> None:
            with pytest.raises(StaleError):
                await file.read(2 * MIB, 65536)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(early)
            await trio.to_thread.run_sync(stall.wait_reached)
            origin.put("a", content(4 * MIB, 2))
            nursery.start_soon(late)
            await looking_up.wait_hit()  # it is being reopened
            stall.release()
            with trio.fail_after(120):
                await handed_out.wait()  # the old bytes
            looking_up.release()
        assert await file.read(0, 65536) == old[:65536]
        await file.aclose()


async def test_a_file_whose_size_was_told_is_not_reopened_with_another(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB, 1))
    async with memory_cache() as fscache, await fscache.open_file(origin.url("a")) as file:
        size = file.size
        origin.put("a", content(2 * MIB, 2))
        with pytest.raises(StaleError):  # else half a file would pass for a whole one
            await file.read(0, size)


async def test_a_reopened_file_is_read_to_its_new_end(fscache_http_origin: CountingOrigin) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB, 1))
    async with memory_cache() as fscache, await fscache.open_file(origin.url("a")) as file:
        origin.put("a", new := content(3 * MIB, 2))
        assert await file.read(0, 10 * MIB) == new


async def test_warming_a_file_that_changed_meanwhile_warms_all_of_the_new_version(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", content(4 * MIB, 1))
    async with memory_cache(backend, readahead=Readahead(max_size=0)) as fscache:
        async with await fscache.open_file(origin.url("a")) as file:
            await file.read(0, 2 * MIB)
        async with await fscache.open_file(origin.url("a")) as file:
            origin.put("a", new := content(4 * MIB, 2))
            told: list[int] = []
            await file.warm(told.append)  # which finds the first half cached, and the second gone
            assert sum(told) == 4 * MIB
    async with memory_cache(backend, offline=True) as fscache:
        assert await read_all(fscache, origin.url("a")) == new


async def test_a_buffer_that_cannot_be_written_is_the_callers_mistake_and_harms_nothing(
    fscache_http_origin: CountingOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    async with memory_cache() as fscache:
        await read_all(fscache, origin.url("a"))
        async with await fscache.open_file(origin.url("a")) as file:
            with pytest.raises(TypeError):
                await file.readinto(0, memoryview(bytes(10)))
            assert await file.read(0, MIB) == data
    assert origin.bytes_sent == MIB
    assert not caplog.records


# -- read-ahead --------------------------------------------------------------------------


async def fetched(fscache: FsCache) -> None:
    """Wait until all that is being fetched has come and is stored, however slow the origin is."""
    await trio.testing.wait_all_tasks_blocked()
    memory = fscache.domain.fetch_memory
    while memory.size > memory.kept_size:
        await trio.lowlevel.checkpoint()


async def test_a_sequential_reader_that_starts_to_jump_about_in_what_is_cached_reads_nothing_ahead(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, backend = fscache_http_origin, MemoryBackend()
    origin.put("a", content(64 * MIB))
    places = range(8 * MIB, 64 * MIB, 8 * MIB)
    async with (
        memory_cache(backend, readahead=Readahead(max_size=0)) as fscache,
        await fscache.open_file(origin.url("a")) as file,
    ):
        for place in places:
            await file.read(place, 65536)
    async with memory_cache(backend) as fscache, await fscache.open_file(origin.url("a")) as file:
        await file.read(0, 65536)
        await file.read(65536, 65536)
        await fetched(fscache)
        before = origin.bytes_sent
        for place in places:
            await file.read(place, 65536)
        await fetched(fscache)
        assert origin.bytes_sent == before


async def test_a_sequential_reader_never_comes_to_what_was_not_asked_for(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(16 * MIB))
    origin.rate = 64 * MIB  # slower than the reader
    async with (
        memory_cache(readahead=Readahead(max_size=2 * MIB, fetch_size=MIB)) as fscache,
        await fscache.open_file(origin.url("a")) as file,
    ):
        for offset in range(0, 16 * MIB, 256 << 10):
            assert await file.read(offset, 256 << 10) == data[offset : offset + (256 << 10)]
    asked = sorted(exchange.asked or (0, 0) for exchange in origin.exchanges if exchange.method == "GET")
    # Once it knows that the reader is sequential: whole fetches, one at the end of the other.
    whole: list[tuple[int, int | None]] = [(at, at + MIB - 1) for at in range(4 * MIB, 16 * MIB, MIB)]
    assert asked[-len(whole) :] == whole
    assert origin.bytes_sent == 16 * MIB


# -- when things go wrong ----------------------------------------------------------------


async def test_readers_that_share_a_fetch_that_fails_get_an_exception_each(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("a", content(MIB))
    async with memory_cache() as fscache, await fscache.open_file(origin.url("a")) as file:
        origin.fault("a", Fault(status=403), times=100)
        raised: list[OriginError] = []

        async def reader() -> None:
            with pytest.raises(OriginError) as caught:
                await file.read(0, 65536)
            raised.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(reader)
        assert len({id(error) for error in raised}) == 4
        assert len({str(error) for error in raised}) == 1
        assert "403" in str(raised[0])


async def test_what_could_not_be_stored_is_not_fetched_again_at_once(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, faults = fscache_http_origin, Faults()
    origin.put("a", data := content(MIB))
    faults.arm("write_page", Answer(WriteOutcome.NO_BUFFERS))
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend(), wrappers=[faults])
        async with await fscache.open_file(origin.url("a")) as file:
            for _ in range(3):
                assert await file.read(0, MIB) == data
    assert origin.bytes_sent == MIB


# -- memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
async def test_readers_of_many_files_share_the_memory_for_fetches(
    fscache_http_origin: CountingOrigin, cached: bool
) -> None:
    origin = fscache_http_origin
    datas = [content(8 * MIB, seed) for seed in range(8)]
    for number, data in enumerate(datas):
        origin.put(str(number), data)
    limits = Limits(fetch_size=8 * MIB)
    most = 0
    async with open_fscache(limits=limits) as fscache:
        if cached:
            await fscache.add_cache(MemoryBackend())  # else all of it could be kept

        async def reader(number: int) -> None:
            nonlocal most
            async with await fscache.open_file(origin.url(str(number))) as file:
                for offset in range(0, 8 * MIB, 65536):
                    assert await file.read(offset, 65536) == datas[number][offset : offset + 65536]
                    most = max(most, fscache.domain.fetch_memory.size)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(reader, number)
        assert most <= limits.fetch_size + 8 * SMALLEST_FETCH
        assert most > limits.fetch_size // 2
        assert origin.bytes_sent == 8 * 8 * MIB
    assert fscache.domain.fetch_memory.size == 0


async def test_a_cache_that_does_not_store_for_a_while_keeps_memory_bounded_and_readers_right(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin, faults = fscache_http_origin, Faults()
    origin.put("a", data := content(48 * MIB))
    stuck = faults.arm("write_page", Hang(), at=3)
    limits = Limits(store_size=4 * MIB, fetch_size=16 * MIB)
    most = 0
    async with open_fscache(limits=limits) as fscache:
        await fscache.add_cache(MemoryBackend(), wrappers=[faults])
        async with await fscache.open_file(origin.url("a")) as file, trio.open_nursery() as nursery:

            async def reader() -> None:
                nonlocal most
                for offset in range(0, 48 * MIB, 65536):
                    assert await file.read(offset, 65536) == data[offset : offset + 65536]
                    most = max(most, fscache.domain.fetch_memory.size)

            nursery.start_soon(reader)
            await stuck.wait_hit()
            await trio.sleep(0.5)  # as much as comes in this time must not be too much
            assert fscache.domain.fetch_memory.size <= limits.fetch_size + SMALLEST_FETCH
            stuck.release()
        assert most <= limits.fetch_size + SMALLEST_FETCH
    assert origin.bytes_sent == 48 * MIB


async def test_a_reader_goes_on_though_fetches_that_hang_elsewhere_hold_all_the_memory(
    fscache_http_origin: CountingOrigin,
) -> None:
    origin = fscache_http_origin
    origin.put("slow", content(8 * MIB))
    origin.put("a", data := content(8 * MIB, 2))
    stall = Stall(after=0)
    async with open_fscache(limits=Limits(fetch_size=MIB)) as fscache:
        await fscache.add_cache(MemoryBackend())
        slow = await fscache.open_file(origin.url("slow"))
        origin.fault("slow", Fault(stall=stall), times=1000)
        async with trio.open_nursery() as nursery:
            for at in range(6):
                nursery.start_soon(slow.read, at * MIB, MIB)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await read_all(fscache, origin.url("a")) == data
            stall.release()
        await slow.aclose()


# -- plugins that misbehave --------------------------------------------------------------

HOOKS_OF_A_READ = ("alloc_object", "lookup_object", "read_or_alloc_pages", "write_page", "read_resident")


async def read_through(origin: CountingOrigin, hook: str, fault: Bad, at: int | None, data: bytes) -> None:
    """Read a file twice in two runs with a fault in a hook of the backend."""
    backend = MemoryBackend()
    for _ in range(2):
        async with open_fscache(limits=Limits(hook_seconds=0.2, drop_seconds=0.2)) as fscache:
            faults = Faults()
            await fscache.add_cache(backend, wrappers=[faults])
            faults.arm(hook, copy.copy(fault), at=at)
            for _ in range(2):
                assert await read_all(fscache, origin.url("a")) == data


@pytest.mark.parametrize("hook", HOOKS_OF_A_READ)
@pytest.mark.parametrize(
    "fault",
    [
        Fail(RuntimeError("a bug")),
        Fail(CacheIOError("the disk is gone")),
        Fail(NoSpaceError("full")),
        Fail(MemoryError()),
        Answer(None),
        Answer("nonsense"),
        Answer(12345),
        Answer(ReadOutcome.HIT),
    ],
    ids=lambda fault: f"{type(fault).__name__} {getattr(fault, 'error', getattr(fault, 'value', ''))!r}",
)
@pytest.mark.parametrize("at", [1, 2, None])
async def test_a_backend_whose_hooks_raise_or_lie_never_fails_a_read(
    fscache_http_origin: CountingOrigin, hook: str, fault: Bad, at: int | None
) -> None:
    fscache_http_origin.put("a", data := content(300_000))
    await read_through(fscache_http_origin, hook, fault, at, data)


@pytest.mark.parametrize(
    "hook", ["lookup_object", "lookup_complete", "read_or_alloc_pages", "write_page", "drop_object"]
)
async def test_a_backend_whose_hooks_hang_never_fails_a_read(
    fscache_http_origin: CountingOrigin, hook: str
) -> None:
    fscache_http_origin.put("a", data := content(300_000))
    await read_through(fscache_http_origin, hook, Hang(), None, data)


@pytest.mark.parametrize(
    "hook", ["mark_pages_cached", "now_uncached", "select_cache", "get_context", "put_context"]
)
async def test_a_netfs_whose_optional_hooks_raise_never_fails_a_read_and_is_named(
    fscache_http_origin: CountingOrigin, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(300_000))

    class Netfs(HttpNetfs):
        name = "a netfs with a long name"

        @netfs_hook
        def mark_pages_cached(self, netfs_data: object, first: int, n_pages: int) -> None:
            del netfs_data, first, n_pages
            self.called("mark_pages_cached")

        @netfs_hook
        def now_uncached(self, netfs_data: object) -> None:
            del netfs_data
            self.called("now_uncached")

        @netfs_hook
        def select_cache(self, parent_netfs_data: object, netfs_data: object) -> str | None:
            del parent_netfs_data, netfs_data
            self.called("select_cache")
            return None

        @netfs_hook
        def get_context(self, netfs_data: object, context: object) -> None:
            del netfs_data, context
            self.called("get_context")

        @netfs_hook
        def put_context(self, netfs_data: object, context: object) -> None:
            del netfs_data, context
            self.called("put_context")

        def called(self, name: str) -> None:
            if name == hook:
                raise RuntimeError("a bug")

    async with open_fscache() as fscache:
        cache = await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(Netfs(), scheme="http")
        assert await read_all(fscache, origin.url("a")) == data
        async with await fscache.open_file(origin.url("a")) as file:
            await fscache.withdraw_cache(cache)
            assert await file.read(0, 300_000) == data
    assert f"netfs a netfs with a long name: {hook}" in caplog.text
    assert "a bug" in caplog.text


@pytest.mark.parametrize("hook", ["get_key", "get_attr", "get_aux", "name_file", "parse_url", "recall_file"])
async def test_a_netfs_whose_mandatory_hooks_raise_is_named_in_one_error(
    fscache_http_origin: CountingOrigin, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    origin, faults = fscache_http_origin, Faults()
    origin.put("a", data := content(300_000))
    errors: list[str] = []
    async with open_fscache(coherency="ttl=600") as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(HttpNetfs(), scheme="http", wrappers=[faults])
        assert await read_all(fscache, origin.url("a")) == data
        for at in range(1, 6):
            origin.put(f"a{at}", data)  # one that nothing is known of
            url = origin.url(f"a{at}")
            faults.arm(hook, Fail(RuntimeError("a bug")), at=at)
            try:
                read = await read_all(fscache, url)
            except PluginError as error:
                errors.append(str(error))
            else:
                assert read == data
            faults.disarm()
            assert await read_all(fscache, url) == data
    assert bool(errors) is (hook in ("get_attr", "parse_url"))
    assert all(error.startswith(f"netfs http: {hook} raised RuntimeError: a bug") for error in errors), errors
    if not errors and hook != "recall_file":  # which was not called, with nothing cached
        assert f"netfs http: {hook} raised RuntimeError: a bug" in caplog.text
