"""An origin that fails in every way: readers get right bytes or one clear error, the cache right bytes."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import pytest
import trio
import trio.testing

from fscache_core import (
    OfflineError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    Readahead,
    StaleError,
    open_fscache,
)
from fscache_core.domain import Limits
from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall
from fscache_core.testing.interruption import cancelled_after
from fscache_memory import MemoryBackend
from netfs_http import HttpNetfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from fscache_core import Cache, FsCache

    AddCache = Callable[[FsCache], Awaitable[Cache]]

P = ParamSpec("P")
R = TypeVar("R")
MIB = 1 << 20
PIECE = 65536


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(params=["memory", "cachefiles"])
def add_cache(request: pytest.FixtureRequest, tmp_path: Path) -> AddCache:
    """Adds the same cache each time it is called."""
    backend = MemoryBackend()

    async def add(fscache: FsCache) -> Cache:
        if request.param == "memory":
            return await fscache.add_cache(backend)
        return await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))

    return add


def impatient() -> HttpNetfs:
    """Asks once more and at once, however slow the machine is."""
    return HttpNetfs(timeout_seconds=60, deadline_seconds=120, retries=1, backoff_seconds=0)


async def cached_of(add_cache: AddCache, url: str, *versions: bytes) -> int:
    """How many bytes the cache has of a file; every one must be of the same one of these versions."""
    async with open_fscache(offline=True) as fscache:
        await add_cache(fscache)
        try:
            file = await fscache.open_file(url)
        except OfflineError:
            return 0
        n = 0
        async with file:
            possible = [version for version in versions if len(version) == file.size]
            assert possible, f"a size of {file.size} bytes that no version has"
            for offset in range(0, file.size, PIECE):
                try:
                    piece = await file.read(offset, PIECE)
                except OfflineError:
                    continue
                n += len(piece)
                possible = [version for version in possible if version[offset : offset + PIECE] == piece]
                assert possible, f"wrong bytes at {offset}"
        return n


FAULTS: list[tuple[Fault, type[OriginError]]] = [
    (Fault(reset_after=0), OriginUnreachableError),
    (Fault(reset_after=100_000), OriginUnreachableError),
    (Fault(short_by=1), OriginUnreachableError),
    (Fault(short_by=100_000), OriginUnreachableError),
    (Fault(truncated_by=5000), OriginError),
    (Fault(extra=5000), OriginError),
    (Fault(content_range="bytes 0-5/4194304"), OriginError),
    (Fault(content_range="bytes 65536-4194303/5000000"), OriginError),
    (Fault(content_range="nonsense"), OriginError),
    (Fault(status=401), OriginPermissionError),
    (Fault(status=403), OriginPermissionError),
    (Fault(status=404), OriginNotFoundError),
    (Fault(status=412), StaleError),
    (Fault(status=416), StaleError),
    (Fault(status=429), OriginError),
    (Fault(status=500), OriginError),
    (Fault(status=503), OriginError),
    (Fault(status=204), OriginError),
    (Fault(status=304), OriginError),
]


def name_of(value: object) -> str | None:
    if isinstance(value, Fault):
        fields = {"status", "reset_after", "short_by", "truncated_by", "extra", "content_range"}
        return "-".join(f"{name}={getattr(value, name)}" for name in sorted(fields) if getattr(value, name))
    return None


@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=name_of)
async def test_a_fault_that_lasts_is_one_clear_error_and_leaves_only_right_bytes(
    fscache_http_origin: CountingOrigin, add_cache: AddCache, fault: Fault, kind: type[OriginError]
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(4 * MIB))
    url = origin.url("a")
    async with open_fscache() as fscache:
        await add_cache(fscache)
        fscache.add_netfs(impatient(), scheme="http")
        async with await fscache.open_file(url) as file:
            assert await file.read(0, PIECE) == data[:PIECE]
            await trio.testing.wait_all_tasks_blocked(0.05)
            origin.fault("a", fault, times=1000)
            try:
                assert await file.read(0, 4 * MIB) == data, "wrong bytes"
            except kind as error:
                text = str(error)
                assert text.startswith(url), text
                assert "bytes" in text, text
                assert "\n" not in text, text
                if fault.status is not None:
                    assert str(fault.status) in text
            else:
                # What came before a reset or a short answer is kept, so each attempt gets further.
                assert fault.reset_after or fault.short_by or fault.truncated_by or fault.extra
            origin.clear_faults()
            if kind is not StaleError:
                assert await file.read(0, 4 * MIB) == data
    cached = await cached_of(add_cache, url, data)
    assert PIECE <= cached <= 4 * MIB
    assert kind is StaleError or cached == 4 * MIB


@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=name_of)
async def test_after_a_fault_that_passes_the_file_is_read_as_it_is(
    fscache_http_origin: CountingOrigin, add_cache: AddCache, fault: Fault, kind: type[OriginError]
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(4 * MIB))
    url = origin.url("a")
    async with open_fscache() as fscache:
        await add_cache(fscache)
        fscache.add_netfs(impatient(), scheme="http")
        origin.fault("a", fault)
        for attempt in range(2):
            try:
                async with await fscache.open_file(url) as file:
                    origin.fault("a", fault, times=1 - attempt)
                    assert await file.read(0, 4 * MIB) == data
            except kind:
                assert attempt == 0
    assert await cached_of(add_cache, url, data) == 4 * MIB


async def test_an_origin_that_stalls_is_given_up_at_the_deadline(
    fscache_http_origin: CountingOrigin, add_cache: AddCache, mock_clock: trio.testing.MockClock
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(4 * MIB))
    stall = Stall(after=100_000)
    mock_clock.rate = 1

    async def let_time_pass() -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked(0.05)
            mock_clock.jump(61)

    async with open_fscache(limits=Limits(hook_seconds=10**9)) as fscache:
        await add_cache(fscache)
        fscache.add_netfs(impatient(), scheme="http")
        async with await fscache.open_file(origin.url("a")) as file:
            origin.fault("a", Fault(stall=stall), times=1000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(let_time_pass)
                with pytest.raises(OriginTimeoutError, match="bytes"):
                    await file.read(0, 4 * MIB)
                nursery.cancel_scope.cancel()
            stall.release()
            origin.clear_faults()
            assert await file.read(0, 4 * MIB) == data
    assert await cached_of(add_cache, origin.url("a"), data) == 4 * MIB


class Slow:
    """A wrapper of an adapter: some seconds pass before each piece that arrives."""

    def __init__(self, clock: trio.testing.MockClock, seconds: float, stall: Stall) -> None:
        self.clock, self.seconds, self.stall = clock, seconds, stall

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        if hook != "fetch":
            return proceed
        fetch = cast("Callable[..., Awaitable[None]]", proceed)

        async def slow(file: object, offset: int, buffer: memoryview, arrived: Callable[[int], None]) -> None:
            def later(n_bytes: int) -> None:
                self.clock.jump(self.seconds)
                self.stall.release()
                arrived(n_bytes)

            await fetch(file, offset, buffer, later)

        return cast("Callable[P, R]", slow)


async def test_an_origin_that_is_slow_is_waited_for(
    fscache_http_origin: CountingOrigin, add_cache: AddCache, mock_clock: trio.testing.MockClock
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    origin.fault(
        "a", Fault(stall=(stall := Stall(after=MIB // 2))), times=100
    )  # it comes in two pieces at least
    mock_clock.rate = 1
    began = trio.current_time()
    async with open_fscache(limits=Limits(hook_seconds=10**9)) as fscache:
        await add_cache(fscache)
        netfs = HttpNetfs(deadline_seconds=60, timeout_seconds=60)
        fscache.add_netfs(netfs, scheme="http", wrappers=[Slow(mock_clock, 40, stall)])
        async with await fscache.open_file(origin.url("a")) as file:
            assert await file.read(0, MIB) == data
    assert origin.bytes_sent == MIB
    assert trio.current_time() - began > 60


async def test_an_origin_that_goes_away_and_comes_back_is_read_on(
    fscache_http_origin: CountingOrigin, add_cache: AddCache
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(4 * MIB))
    async with open_fscache(readahead=Readahead(max_size=0)) as fscache:
        await add_cache(fscache)
        fscache.add_netfs(impatient(), scheme="http")
        async with await fscache.open_file(origin.url("a")) as file:
            assert await file.read(0, PIECE) == data[:PIECE]
            for place in (1, 2, 3):
                await trio.to_thread.run_sync(origin.stop)
                with pytest.raises(OriginUnreachableError):
                    await file.read(place * MIB, MIB)
                assert await file.read(0, PIECE) == data[:PIECE]  # that is cached
                origin.start()
                assert await file.read(place * MIB, MIB) == data[place * MIB : (place + 1) * MIB]
            assert await file.read(0, 4 * MIB) == data
    assert await cached_of(add_cache, origin.url("a"), data) == 4 * MIB


async def test_a_change_between_two_ranges_leaves_nothing_of_the_new_version_under_the_old(
    fscache_http_origin: CountingOrigin, add_cache: AddCache
) -> None:
    origin = fscache_http_origin
    origin.put("a", old := content(4 * MIB, 1))
    url = origin.url("a")
    async with open_fscache(readahead=Readahead(max_size=0)) as fscache:
        await add_cache(fscache)
        async with await fscache.open_file(url) as file:
            assert await file.read(0, MIB) == old[:MIB]
            origin.put("a", new := content(4 * MIB, 2))
            with pytest.raises(StaleError, match="bytes"):
                await file.read(0, 4 * MIB)
            assert await file.read(0, MIB) == old[:MIB]
    assert await cached_of(add_cache, url, old) == MIB
    async with open_fscache() as fscache:
        await add_cache(fscache)
        async with await fscache.open_file(url) as file:
            assert await file.read(0, 4 * MIB) == new
    assert await cached_of(add_cache, url, new) == 4 * MIB


async def test_a_name_that_cannot_be_resolved_is_one_clear_error(add_cache: AddCache) -> None:
    async with open_fscache() as fscache:
        await add_cache(fscache)
        fscache.add_netfs(impatient(), scheme="http")
        with pytest.raises(OriginUnreachableError, match=r"http://nowhere\.invalid/a"):
            await fscache.open_file("http://nowhere.invalid/a")


# -- cancellation ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["open", "read", "read all", "warm", "close"])
async def test_cancelled_at_any_step_nothing_is_lost_and_the_next_try_succeeds(
    fscache_http_origin: CountingOrigin, add_cache: AddCache, what: str
) -> None:
    origin = fscache_http_origin
    origin.put("a", data := content(MIB))
    url = origin.url("a")
    for n_steps in range(300):
        async with open_fscache() as fscache:
            await add_cache(fscache)
            if n_steps % 2:  # now cold, now warm
                path = fscache.locate(url).path
                await (await fscache.open_volume(url)).invalidate(path)
            file = await fscache.open_file(url)
            steps: dict[str, Callable[[], Awaitable[object]]] = {
                "open": functools.partial(fscache.open_file, url),
                "read": functools.partial(file.read, 300_000, 10),
                "read all": functools.partial(file.read, 0, MIB),
                "warm": file.warm,
                "close": file.aclose,
            }
            cancelled, result = await cancelled_after(n_steps, steps[what])
            if what == "open" and result is not None:
                await result.aclose()  # type: ignore[attr-defined]
            inode = file.inode
            if what == "close":
                await file.aclose()
                file = await fscache.open_file(url)
            assert await file.read(0, MIB) == data
            await file.aclose()
            assert inode.n_open == 0
            await inode.wait_stored()
        assert fscache.domain.fetch_memory.size == 0
        if n_steps < 20 or not n_steps % 10:
            assert await cached_of(add_cache, url, data) == MIB
        if not cancelled:
            return
    raise AssertionError("it never ends")
