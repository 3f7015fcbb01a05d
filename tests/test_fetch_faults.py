"""What goes wrong in a fetch: it costs this fetch, and its reader is told."""

from __future__ import annotations

import errno
import mmap
import random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import Limits, NoMemoryError, PluginError, Readahead, fetch_buffers, open_fscache
from fscache_core.hookspecs import netfs_hook
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typing_extensions import Buffer

MIB = 1 << 20
DATA = random.Random(1).randbytes(4 * MIB)


class Origin(OneFile):
    name = "origin"


class WholeOrigin(Origin):
    """Gives ranges as wholes, in whatever memory it is told to."""

    def __init__(self, answer: Callable[[int, int], object]) -> None:
        super().__init__(DATA)
        self.answer = answer

    @netfs_hook
    async def fetch_whole(self, netfs_data: object, offset: int, size: int) -> Buffer:
        return self.answer(offset, size)  # type: ignore[return-value]  # what it should not, too


async def test_what_arrives_of_a_fetch_that_was_given_up_is_stored_though_its_file_is_evicted() -> None:
    class Lingering(Origin):
        """It knows how much it has only when it has put away the rest."""

        may_end = trio.Event()

        @netfs_hook
        async def fetch(
            self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
        ) -> None:
            buffer[:] = DATA[offset : offset + len(buffer)]
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self.may_end.wait()
                arrived(len(buffer) // 2)

    origin, backend = Lingering(DATA), MemoryBackend()
    async with open_fscache(limits=Limits(warm_inodes=0)) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file, trio.open_nursery() as nursery:
            nursery.start_soon(file.read, 0, 2 * MIB)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()  # but for what lingers, the file is put away
        origin.may_end.set()
    async with open_fscache(offline=True) as fscache:
        await fscache.add_cache(backend)
        fscache.add_netfs(Origin(DATA))
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(0, MIB) == DATA[:MIB]


async def test_a_file_that_an_adapter_maps_into_memory_is_read_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("r+b") as mapped:
        origin = WholeOrigin(lambda offset, size: mmap.mmap(mapped.fileno(), size, offset=offset))
        async with open_fscache(limits=Limits(warm_inodes=0)) as fscache:
            await fscache.add_cache(MemoryBackend())
            fscache.add_netfs(origin)
            async with await fscache.open_file("origin://file") as file:
                for offset in range(0, len(DATA), MIB // 4):
                    assert await file.read(offset, MIB // 4) == DATA[offset : offset + MIB // 4]
                await file.inode.wait_stored()
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY, mmap.ACCESS_WRITE])
async def test_mapped_memory_will_do_whatever_may_be_done_with_it(tmp_path: Path, access: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("r+b") as mapped:
        origin = WholeOrigin(
            lambda offset, size: mmap.mmap(mapped.fileno(), size, offset=offset, access=access)
        )
        async with open_fscache() as fscache:
            await fscache.add_cache(MemoryBackend())
            fscache.add_netfs(origin)
            async with await fscache.open_file("origin://file") as file:
                for offset in range(0, MIB, MIB // 4):
                    assert await file.read(offset, MIB // 4) == DATA[offset : offset + MIB // 4]


def released(offset: int, size: int) -> memoryview:
    memory = memoryview(DATA)[offset : offset + size]
    memory.release()
    return memory


def closed(_offset: int, size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size)
    memory.close()
    return memory


def every_second_byte(offset: int, size: int) -> memoryview:
    return memoryview(DATA)[offset : offset + 2 * size : 2]


@pytest.mark.parametrize("answer", [released, closed, every_second_byte])
async def test_memory_that_cannot_be_read_is_the_adapters_fault_and_harms_nobody_else(
    answer: Callable[[int, int], object],
) -> None:
    origin = WholeOrigin(answer)
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            with pytest.raises(PluginError, match="netfs origin: fetch_whole returned"):
                await file.read(MIB, 10_000)
            origin.answer = lambda offset, size: DATA[offset : offset + size]
            assert await file.read(MIB, 10_000) == DATA[MIB : MIB + 10_000]


class ScarceMemory(fetch_buffers._Memory):
    """What fetches get of the system, unless it is told to refuse."""

    is_refused: Callable[[int], bool]  #: asked with the size

    def __new__(cls, fileno: int, size: int, **options: int) -> ScarceMemory:
        if cls.is_refused(size):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return super().__new__(cls, fileno, size, **options)


@pytest.fixture
def scarce_memory(monkeypatch: pytest.MonkeyPatch) -> type[ScarceMemory]:
    monkeypatch.setattr(ScarceMemory, "is_refused", lambda size: True, raising=False)
    monkeypatch.setattr(fetch_buffers, "_Memory", ScarceMemory)
    return ScarceMemory


async def test_without_memory_a_reader_is_told_what_cannot_be_fetched_and_can_try_again(
    scarce_memory: type[ScarceMemory],
) -> None:
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(Origin(DATA))
        async with await fscache.open_file("origin://file") as file:
            with pytest.raises(NoMemoryError, match=r"origin://file, bytes 1048576 to 2097151, .* no memory"):
                await file.read(MIB, MIB)
            scarce_memory.is_refused = lambda size: False
            assert await file.read(MIB, MIB) == DATA[MIB : 2 * MIB]


async def test_without_memory_nothing_is_read_ahead_until_there_is_some(
    scarce_memory: type[ScarceMemory],
) -> None:
    class Noting(Origin):
        def __init__(self) -> None:
            super().__init__(DATA)
            self.sizes: list[int] = []

        @netfs_hook
        async def fetch(
            self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
        ) -> None:
            self.sizes.append(len(buffer))
            await super().fetch(netfs_data, offset, buffer, arrived)

    origin, piece = Noting(), MIB // 16
    async with open_fscache() as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(origin)
        async with await fscache.open_file("origin://file") as file:
            for offset in range(0, 2 * MIB, piece):
                assert await file.read(offset, piece) == DATA[offset : offset + piece]
            assert max(origin.sizes) < fetch_buffers.SMALLEST_KEPT
            scarce_memory.is_refused = lambda size: False
            for offset in range(2 * MIB, 4 * MIB, piece):
                assert await file.read(offset, piece) == DATA[offset : offset + piece]
            assert max(origin.sizes) >= MIB


async def test_where_there_is_memory_for_some_of_a_range_the_rest_comes_after_it(
    scarce_memory: type[ScarceMemory],
) -> None:
    asked: list[int] = []

    def refuse_second(size: int) -> bool:
        asked.append(size)
        return len(asked) == 2

    scarce_memory.is_refused = refuse_second
    async with open_fscache(readahead=Readahead(fetch_size=MIB)) as fscache:
        await fscache.add_cache(MemoryBackend())
        fscache.add_netfs(Origin(DATA))
        async with await fscache.open_file("origin://file") as file:
            assert await file.read(0, 4 * MIB) == DATA
    assert len(asked) > 2
