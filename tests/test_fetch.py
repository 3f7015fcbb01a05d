"""Fetches: which ranges an origin is asked for, as wholes or piece by piece, and what becomes of them."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import Limits, PluginError, Readahead, StaleError, open_fscache
from fscache_core.fetch import WHOLE_PATIENCE_SECONDS, WHOLE_SECONDS, WHOLE_SIZE
from fscache_core.fetch_memory import UNREAD_SECONDS
from fscache_core.hookspecs import netfs_hook
from fscache_core.inode_fetches import SMALLEST_FETCH
from fscache_core.testing.faulty import Faults
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

# How long the origin takes decides how it is asked: every test has a clock that the machine does not drive.

MIB = 1 << 20
SIZE = 24 * MIB + 12_345
DATA = random.Random(1).randbytes(SIZE)
FETCH_SIZE = 2 * MIB
READAHEAD = Readahead(max_size=2 * FETCH_SIZE, fetch_size=FETCH_SIZE)


class Origin(OneFile):
    """As fast as it is told to be; notes what it is asked for."""

    name = "origin"

    def __init__(self) -> None:
        super().__init__(DATA)
        self.seconds_per_byte = 0.0
        self.whole: list[tuple[int, int]] = []
        self.piecemeal: list[tuple[int, int]] = []
        self.answer: Callable[[int, int], object] = lambda offset, size: DATA[offset : offset + size]
        self.held: dict[int, trio.Event] = {}  # by offset: not answered before

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        self.piecemeal.append((offset, len(buffer)))
        if offset in self.held:
            await self.held[offset].wait()
        await trio.sleep(len(buffer) * self.seconds_per_byte)
        await super().fetch(netfs_data, offset, buffer, arrived)

    @netfs_hook
    async def fetch_whole(self, netfs_data: object, offset: int, size: int) -> Buffer:
        self.whole.append((offset, size))
        await trio.sleep(size * self.seconds_per_byte)
        return self.answer(offset, size)  # type: ignore[return-value]  # what it should not, too


async def read_all(origin: Origin, backend: MemoryBackend, *, offline: bool = False) -> bytes:
    """The file, a MiB at a time, until it is stored."""
    async with open_fscache(readahead=READAHEAD, offline=offline) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            pieces = [await file.read(offset, MIB) for offset in range(0, SIZE, MIB)]
            await file.inode.wait_stored()
    return b"".join(pieces)


def asked_for(origin: Origin) -> list[tuple[int, int]]:
    return sorted(origin.whole + origin.piecemeal)


def without_gaps_or_overlaps(ranges: list[tuple[int, int]]) -> bool:
    ends = [0] + [offset + size for offset, size in ranges]
    return [offset for offset, _ in ranges] == ends[:-1] and ends[-1] == SIZE


async def test_a_fast_origin_is_asked_for_wholes_and_all_of_them_are_right_and_stored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin, backend = Origin(), MemoryBackend()
    origin.seconds_per_byte = WHOLE_SECONDS / FETCH_SIZE / 2
    assert await read_all(origin, backend) == DATA
    assert without_gaps_or_overlaps(asked_for(origin))
    # Nothing was known when the first ones began.
    assert 2 <= len(origin.piecemeal) < len(origin.whole)
    assert await read_all(Origin(), backend, offline=True) == DATA


async def test_the_bytes_of_a_slow_origin_are_handed_on_as_they_arrive(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()
    origin.seconds_per_byte = 2 * WHOLE_SECONDS / WHOLE_SIZE
    assert await read_all(origin, MemoryBackend()) == DATA
    assert without_gaps_or_overlaps(asked_for(origin))
    assert all(size <= WHOLE_SIZE for _, size in origin.whole)


async def test_a_short_range_is_always_asked_for_as_a_whole(autojump_clock: trio.testing.MockClock) -> None:
    origin = Origin()
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(MIB + 1, 10_000) == DATA[MIB + 1 : MIB + 10_001]
            assert await file.read(SIZE - 10, 100) == DATA[-10:]
    assert not origin.piecemeal
    assert sum(size for _, size in origin.whole) < 30_000


async def test_one_request_brings_what_is_read_and_then_what_is_read_ahead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            await file.read(MIB // 8, 4096)
            await file.inode.wait_stored()
        origin.whole.clear()
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(0, MIB // 16) == DATA[: MIB // 16]
            await trio.testing.wait_all_tasks_blocked()
        # One after the other; what is cached already is left out.
        assert origin.piecemeal == [(0, MIB // 8), (MIB // 8 + 4096, MIB // 16 - 4096)]
        assert not origin.whole


async def test_what_is_longer_than_a_short_read_is_handed_on_as_it_arrives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody knows yet how fast the origin is: 192 KiB can take a minute."""
    origin = Origin()
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(0, MIB // 16) == DATA[: MIB // 16]
    assert origin.piecemeal == [(0, MIB // 16 * 3)]
    assert not origin.whole


async def test_an_origin_that_becomes_slow_is_asked_again_for_what_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            await file.read(0, MIB)
            await file.inode.wait_stored()
            origin.piecemeal.clear()
            origin.seconds_per_byte = WHOLE_PATIENCE_SECONDS / MIB * 2
            assert await file.read(8 * MIB, MIB) == DATA[8 * MIB : 9 * MIB]
            assert origin.piecemeal == origin.whole == [(8 * MIB, MIB)]
            assert await file.read(16 * MIB, 4096) == DATA[16 * MIB : 16 * MIB + 4096]
            assert len(origin.piecemeal) == 1


@pytest.mark.parametrize("answer", [None, 4096, b"", b"x", bytes(MIB), "text"], ids=repr)
async def test_what_is_not_the_range_is_the_adapters_fault_and_handed_to_nobody(
    answer: object, autojump_clock: trio.testing.MockClock
) -> None:
    origin, backend = Origin(), MemoryBackend()
    origin.answer = lambda offset, size: answer
    async with open_fscache() as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            with pytest.raises(PluginError, match="netfs origin: fetch_whole returned"):
                await file.read(MIB, 10_000)
            origin.answer = Origin().answer
            assert await file.read(MIB, 10_000) == DATA[MIB : MIB + 10_000]


async def test_a_version_that_is_gone_is_stale_and_nothing_of_it_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()

    def gone(offset: int, size: int) -> object:
        raise StaleError("another version")

    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(0, 4096) == DATA[:4096]
            origin.answer = gone
            with pytest.raises(StaleError):
                await file.read(MIB, 4096)


async def test_a_wrapper_sees_all_that_comes_from_the_origin(autojump_clock: trio.testing.MockClock) -> None:
    """It knows it by the name of `fetch`."""
    origin = Origin()
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin, wrappers=[Faults()])
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(0, 4096) == DATA[:4096]
    assert origin.piecemeal
    assert not origin.whole


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_memory_of_any_kind_will_do(
    kind: Callable[[bytes], object], autojump_clock: trio.testing.MockClock
) -> None:
    origin, backend = Origin(), MemoryBackend()
    origin.answer = lambda offset, size: kind(DATA[offset : offset + size])
    assert await read_all(origin, backend) == DATA
    assert await read_all(Origin(), backend, offline=True) == DATA


async def test_what_arrives_before_it_is_read_is_followed_by_more_up_to_two_windows_ahead(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()
    async with open_fscache(readahead=READAHEAD) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            at = 0
            while file._window.size < READAHEAD.max_size:
                await file.read(at, MIB // 2)
                at += MIB // 2
            await trio.testing.wait_all_tasks_blocked()
            furthest = max(offset + size for offset, size in asked_for(origin))
            assert at + READAHEAD.max_size + FETCH_SIZE < furthest <= at + 2 * READAHEAD.max_size


@pytest.mark.parametrize("n_readers", [2, 4])
@pytest.mark.parametrize("piece", [MIB // 16, MIB // 4])
async def test_readers_who_take_turns_on_one_file_are_read_ahead_for_each(
    n_readers: int, piece: int, autojump_clock: trio.testing.MockClock
) -> None:
    origin, part = Origin(), 24 * MIB // n_readers
    origin.seconds_per_byte = 0.1 / MIB
    async with open_fscache(readahead=READAHEAD) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            for at in range(0, part, piece):
                for start in range(at, 24 * MIB, part):
                    assert await file.read(start, piece) == DATA[start : start + piece]
                    await trio.testing.wait_all_tasks_blocked()
            await file.read(24 * MIB, MIB)
            await file.inode.wait_stored()
    assert without_gaps_or_overlaps(asked_for(origin))
    # Each of them asks for some short ranges first, and at the end of its part.
    assert len(asked_for(origin)) < 12 + 14 * n_readers


async def test_more_readers_who_take_turns_than_are_known_get_what_they_ask_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()
    async with open_fscache(readahead=READAHEAD) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            for at in range(4096, MIB, 4096):
                for start in range(at, 24 * MIB, 4 * MIB):
                    assert await file.read(start, 4096) == DATA[start : start + 4096]
            await file.inode.wait_stored()
    assert all(size == 4096 for _, size in asked_for(origin))


async def test_without_a_cache_what_was_read_ahead_is_kept_for_its_reader(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()
    async with open_fscache(readahead=Readahead(max_size=12 * MIB, fetch_size=FETCH_SIZE)) as fscache:
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            for offset in range(0, SIZE, MIB // 2):
                assert await file.read(offset, MIB // 2) == DATA[offset : offset + MIB // 2]
                await trio.testing.wait_all_tasks_blocked()
    assert without_gaps_or_overlaps(asked_for(origin))


async def test_of_a_range_longer_than_the_window_more_is_asked_for_as_some_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin = Origin()
    origin.held = {offset: trio.Event() for offset in range(FETCH_SIZE, SIZE, FETCH_SIZE)}
    readahead = Readahead(max_size=2 * FETCH_SIZE, fetch_size=FETCH_SIZE, initial_size=FETCH_SIZE)
    buffer = bytearray(SIZE)
    async with open_fscache(readahead=readahead) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin, wrappers=[Faults()])
        async with await fscache.open_file("origin://file") as file, trio.open_nursery() as nursery:
            nursery.start_soon(file.readinto, 0, memoryview(buffer))
            for offset, held in origin.held.items():
                await trio.testing.wait_all_tasks_blocked()
                following = min(offset + FETCH_SIZE, SIZE - 1)
                assert any(start <= following < start + size for start, size in origin.piecemeal)
                held.set()
    assert buffer == DATA
    assert without_gaps_or_overlaps(asked_for(origin))


@pytest.mark.parametrize("seconds_per_piece", [0.001, 1.0])
async def test_a_long_range_is_asked_for_in_whole_fetches_however_its_bytes_arrive(
    seconds_per_piece: float, autojump_clock: trio.testing.MockClock
) -> None:
    class Dripping(Origin):
        @netfs_hook
        async def fetch(
            self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
        ) -> None:
            await super().fetch(netfs_data, offset, buffer, arrived)
            for n_bytes in range(0, len(buffer), 64 << 10):
                arrived(n_bytes)
                await trio.sleep(seconds_per_piece)

    origin, buffer = Dripping(), bytearray(SIZE)
    async with open_fscache(readahead=READAHEAD) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin, wrappers=[Faults()])
        async with await fscache.open_file("origin://file") as file:
            await file.readinto(0, memoryview(buffer))
    assert buffer == DATA
    assert without_gaps_or_overlaps(asked_for(origin))
    assert [offset for offset, _ in asked_for(origin)] == list(range(0, SIZE, FETCH_SIZE))


@pytest.mark.parametrize("seconds_per_read", [0.0, 0.01])
async def test_what_many_readers_had_fetched_ahead_waits_for_them(
    seconds_per_read: float, autojump_clock: trio.testing.MockClock
) -> None:
    origin, n_files, size = Origin(), 16, 4 * MIB
    origin.data = DATA[:size]
    origin.seconds_per_byte = 0.01 / MIB

    async def read(number: int) -> None:
        async with await fscache.open_file(f"origin://{number}") as file:
            for offset in range(0, size, MIB // 4):
                assert await file.read(offset, MIB // 4) == DATA[offset : offset + MIB // 4]
                await trio.sleep(seconds_per_read)

    # Without a cache all of it is kept in memory only, of which there is too little.
    async with open_fscache(limits=Limits(fetch_size=n_files * size // 8)) as fscache:
        fscache.add_netfs(origin, wrappers=[Faults()])
        async with trio.open_nursery() as nursery:
            for number in range(n_files):
                nursery.start_soon(read, number)
    assert sum(size for _, size in asked_for(origin)) == n_files * size


async def test_what_nobody_comes_for_makes_room_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    origin, limits = Origin(), Limits(fetch_size=8 * MIB)
    async with open_fscache(limits=limits, readahead=READAHEAD) as fscache, AsyncExitStack() as idle:
        fscache.add_netfs(origin, wrappers=[Faults()])
        for number in range(8):
            file = await idle.enter_async_context(await fscache.open_file(f"origin://{number}"))
            for offset in range(0, MIB, MIB // 8):
                await file.read(offset, MIB // 8)
        await trio.testing.wait_all_tasks_blocked()
        assert fscache.domain.fetch_memory.room < MIB
        async with await fscache.open_file("origin://a") as file:
            await file.read(0, MIB)
            await trio.sleep(UNREAD_SECONDS)
            origin.piecemeal.clear()
            for offset in range(MIB, 8 * MIB, MIB):
                assert await file.read(offset, MIB) == DATA[offset : offset + MIB]
            assert max(size for _, size in origin.piecemeal) > MIB
            assert fscache.domain.fetch_memory.size <= limits.fetch_size + SMALLEST_FETCH


async def test_reads_that_are_given_up_take_no_more_memory_than_those_that_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    origin, limits = Origin(), Limits(fetch_size=MIB)
    origin.held = {offset: trio.Event() for offset in range(0, SIZE, SMALLEST_FETCH)}
    async with open_fscache(limits=limits, readahead=Readahead(max_size=0)) as fscache:
        fscache.add_netfs(origin, wrappers=[Faults()])
        async with await fscache.open_file("origin://file") as file:
            for offset in range(0, 100 * SMALLEST_FETCH, SMALLEST_FETCH):
                with trio.move_on_after(1):
                    await file.read(offset, SMALLEST_FETCH)
                await trio.testing.wait_all_tasks_blocked()
                assert fscache.domain.fetch_memory.size <= limits.fetch_size + SMALLEST_FETCH
            for held in origin.held.values():
                held.set()
            assert await file.read(0, MIB) == DATA[:MIB]


async def test_what_is_lent_to_a_reader_is_not_given_up_as_some_of_it_comes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Dripping(Origin):
        @netfs_hook
        async def fetch(
            self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
        ) -> None:
            await super().fetch(netfs_data, offset, buffer, arrived)
            for n_bytes in range(0, len(buffer), 32 << 10):
                arrived(n_bytes)
                await trio.sleep(0.01)

    async def read(number: int) -> None:
        async with await fscache.open_file(f"origin://{number}") as file:
            assert await file.read(0, MIB) == DATA[:MIB]

    origin, n_files = Dripping(), 16
    async with open_fscache(limits=Limits(fetch_size=MIB), readahead=Readahead(max_size=0)) as fscache:
        fscache.add_netfs(origin, wrappers=[Faults()])
        async with trio.open_nursery() as nursery:
            for number in range(n_files):
                nursery.start_soon(read, number)
    assert sum(size for _, size in asked_for(origin)) == n_files * MIB
