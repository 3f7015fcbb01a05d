"""Each byte is fetched once, however many tasks, threads and processes want it at the same time."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import Readahead, blocking, open_fscache
from fscache_core.domain import Limits
from fscache_core.hookspecs import netfs_hook
from fscache_core.testing.faulty import Faults, Hang
from fscache_core.testing.one_file import OneFile
from fscache_memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from fscache_core import File
    from fscache_core.testing.http_origin import CountingOrigin
    from fscache_core.volume import Volume

MIB = 1 << 20
SIZE = 8 * MIB + 12_345

#: Reads a URL when it is told to, and prints the digest of what it read.
READER = """
import hashlib, sys
import trio
from fscache_core import Readahead, open_fscache
from fscache_core.domain import Limits

url, directory, window = sys.argv[1:]

async def main():
    readahead, limits = Readahead(max_size=int(window), fetch_size=1 << 20), Limits(store_size=1 << 20)
    async with open_fscache(readahead=readahead, limits=limits) as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        async with await fscache.open_file(url) as file:
            digest = hashlib.sha256()
            async for piece in file.stream():
                digest.update(piece)
    print(digest.hexdigest(), flush=True)

trio.run(main)
"""


class Reader:
    """A process that reads a file through the cache in a directory."""

    def __init__(self, url: str, directory: Path, window: int = 8 * MIB) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, url, str(directory), str(window)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def digest(self) -> str:
        out, _ = self.process.communicate(timeout=500)
        assert self.process.returncode == 0
        return out.strip()


def make(origin: CountingOrigin, size: int = SIZE) -> bytes:
    data = random.Random(5).randbytes(size)
    origin.put("a", data)
    return data


@pytest.mark.parametrize("backend", ["memory", "cachefiles"])
@pytest.mark.parametrize("piece", [50_000, 1 << 20])
async def test_64_tasks(
    fscache_http_origin: CountingOrigin, tmp_path: Path, backend: str, piece: int
) -> None:
    origin = fscache_http_origin
    data = make(origin)
    origin.rate = 20 * MIB
    async with open_fscache() as fscache:
        if backend == "memory":
            await fscache.add_cache(MemoryBackend())
        else:
            await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))

        async def reader(number: int) -> None:
            async with await fscache.open_file(origin.url("a")) as file:
                chooser = random.Random(number)
                for _ in range(number % 4):
                    offset = chooser.randrange(SIZE)
                    assert await file.read(offset, piece) == data[offset : offset + piece]
                for offset in range(0, SIZE, piece):
                    assert await file.read(offset, piece) == data[offset : offset + piece]

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(reader, number)
    assert origin.bytes_sent == SIZE


def test_8_threads(fscache_http_origin: CountingOrigin, tmp_path: Path) -> None:
    origin = fscache_http_origin
    data = make(origin)
    origin.rate = 20 * MIB
    right: list[bool] = []
    with blocking.open_fscache() as fscache:
        fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))

        def reader() -> None:
            with fscache.open_file(origin.url("a")) as file:
                right.append(file.read() == data)

        threads = [threading.Thread(target=reader) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 8
    assert origin.bytes_sent == SIZE


@pytest.mark.processes
def test_8_processes(fscache_http_origin: CountingOrigin, tmp_path: Path) -> None:
    origin = fscache_http_origin
    data = make(origin)
    origin.rate = 8 * MIB
    readers = [Reader(origin.url("a"), tmp_path / "cache") for _ in range(8)]
    for reader in readers:
        reader.wait_ready()
    for reader in readers:
        reader.go()
    expected = hashlib.sha256(data).hexdigest()
    assert [reader.digest() for reader in readers] == [expected] * 8
    assert origin.bytes_sent == SIZE


@pytest.mark.processes
@pytest.mark.crash
def test_when_the_process_that_fetches_is_killed_the_others_go_on_where_it_stopped(
    fscache_http_origin: CountingOrigin, tmp_path: Path
) -> None:
    origin = fscache_http_origin
    data = make(origin, 32 * MIB)
    origin.rate = 16 * MIB
    window = 2 * MIB
    readers = [Reader(origin.url("a"), tmp_path / "cache", window) for _ in range(5)]
    for reader in readers:
        reader.wait_ready()
    first, *others = readers
    first.go()
    while origin.bytes_sent < 8 * MIB:
        assert first.process.poll() is None
    for reader in others:
        reader.go()
    while origin.bytes_sent < 16 * MIB:
        pass
    first.process.send_signal(signal.SIGKILL)
    first.process.communicate()
    expected = hashlib.sha256(data).hexdigest()
    assert [reader.digest() for reader in others] == [expected] * 4
    # What it had in flight: a window ahead of the piece it read, and what it had not stored yet.
    assert origin.bytes_sent < 32 * MIB + 2 * window + 2 * MIB


class Slow(OneFile):
    """Gives a MiB of the range when it is told to."""

    name = "slow"

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.asked: list[tuple[int, int]] = []
        self.begun = trio.Event()
        self.given = [trio.Event() for _ in range(0, len(data), MIB)]

    @netfs_hook
    async def fetch(
        self, netfs_data: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]
    ) -> None:
        self.asked.append((offset, len(buffer)))
        self.begun.set()
        for at in range(0, len(buffer), MIB):
            await self.given[(offset + at) // MIB].wait()
            await super().fetch(netfs_data, offset + at, buffer[at : at + MIB], arrived)
            arrived(at + MIB)


async def wait_stored(volume: Volume, size: int) -> None:
    while True:
        status = await volume.status("file")
        if status is not None and status.cached_size == size:
            return
        await trio.sleep(0.01)


async def test_who_waits_for_a_slow_fetch_of_another_waits_as_long_as_bytes_arrive(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    size = 16 * MIB
    data = random.Random(5).randbytes(size)
    origin, faults = Slow(data), Faults()
    mock_clock.rate = 1
    limits, began = Limits(), trio.current_time()

    @asynccontextmanager
    async def opened() -> AsyncIterator[File]:  # to the locks on files each is another process
        readahead = Readahead(fetch_size=size, max_size=size)
        async with open_fscache(limits=limits, readahead=readahead) as fscache:
            await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"), wrappers=[faults])
            fscache.add_netfs(origin)
            async with await fscache.open_file("slow://file") as file:
                yield file

    async def read(file: File) -> None:
        assert await file.read(0, size) == data

    async with opened() as first, opened() as other, trio.open_nursery() as nursery:
        nursery.start_soon(read, first)
        await origin.begun.wait()
        waiting = faults.arm("lock_pages", Hang())
        nursery.start_soon(read, other)
        await waiting.wait_hit()
        waiting.release()
        for n_given, event in enumerate(origin.given, 1):
            event.set()
            await wait_stored(other.volume, n_given * MIB)
            # A fraction of what a hook may take: none that is under way has to end before the next piece.
            mock_clock.jump(limits.hook_seconds / 8)
    assert trio.current_time() - began > 2 * limits.hook_seconds
    assert origin.asked == [(0, size)]


@pytest.mark.parametrize("piece", [100_001, 333_333, MIB])
async def test_who_reads_in_order_without_any_cache_fetches_each_byte_once(
    fscache_http_origin: CountingOrigin, piece: int
) -> None:
    origin = fscache_http_origin
    data = random.Random(5).randbytes(24 * MIB + 123)
    origin.put("a", data)
    async with open_fscache() as fscache, await fscache.open_file(origin.url("a")) as file:
        for at in range(0, len(data), piece):
            assert await file.read(at, piece) == data[at : at + piece]
    assert origin.bytes_for("a") == len(data)
