"""Real Ceph behind a proxy that spoils answers: right bytes or one clear error, and only right bytes stay."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core import (
    OfflineError,
    OriginError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
    open_fscache,
)
from fscache_core.domain import Limits
from fscache_core.testing.http_origin import Fault, Stall
from fscache_core.testing.http_proxy import HttpProxy
from fscache_core.verification import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from fscache_core import FsCache
    from tests.integration.conftest import Origins

pytestmark = pytest.mark.integration

MIB = 1 << 20
PIECE = 65536
SIZE = 3 * MIB + 5
DATA = random.Random(21).randbytes(SIZE)
BUCKET, KEY = "fscache-s3-faults", "a/b.bin"
URL = f"s3://{BUCKET}/{KEY}"
PATH = f"{BUCKET}/{KEY}"

LASTING: list[tuple[Fault, type[OriginError], bool]] = [
    # whether it is tried again, until the deadline
    (Fault(status=401), OriginPermissionError, False),
    (Fault(status=403, body=b"<Error><Code>AccessDenied</Code></Error>"), OriginPermissionError, False),
    (Fault(status=403, body=b"<Error><Code>ExpiredToken</Code></Error>"), OriginPermissionError, False),
    (Fault(status=404), StaleError, False),
    (Fault(status=404, body=b"<Error><Code>NoSuchKey</Code></Error>"), StaleError, False),
    (Fault(status=412), StaleError, False),
    (Fault(status=416), StaleError, False),
    (Fault(status=429), OriginError, True),
    (Fault(status=500), OriginError, True),
    (Fault(status=503, body=b"<Error><Code>SlowDown</Code></Error>"), OriginError, True),
    (Fault(reset_after=0), OriginUnreachableError, True),
    (Fault(reset_after=10_000), OriginUnreachableError, True),
    (Fault(truncated_by=5000), OriginError, False),
    (Fault(extra=5000), OriginError, False),
    (Fault(content_range=f"bytes 0-5/{SIZE}"), OriginError, False),
    (Fault(content_range=f"bytes 65536-{SIZE - 1}/5000000"), OriginError, False),
    (Fault(content_range="nonsense"), OriginError, False),
]
# Each attempt gets further, so that the end is reached.
PROGRESSING = [
    Fault(reset_after=700_000),
    Fault(reset_after=100_000),
    Fault(short_by=1),
    Fault(short_by=100_000),
]


def name_of(value: object) -> str | None:
    if isinstance(value, Fault):
        fields = ("status", "reset_after", "short_by", "truncated_by", "extra", "content_range")
        text = "-".join(
            f"{name}={getattr(value, name)}" for name in fields if getattr(value, name) not in (None, 0)
        )
        return text + (f"-{value.body.decode()}" if value.body else "")
    return None


@pytest.fixture
def proxy(origins: Origins, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpProxy]:
    for name, value in origins.environment.items():
        monkeypatch.setenv(name, value)
    origins.s3.create_bucket(BUCKET)
    origins.s3.put(BUCKET, KEY, DATA)
    with HttpProxy(origins.s3.host, origins.s3.port) as proxy:
        yield proxy


@asynccontextmanager
async def session(
    proxy: HttpProxy, directory: Path, deadline_seconds: float = 60, **options: object
) -> AsyncIterator[FsCache]:
    async with open_fscache(**options) as fscache:  # type: ignore[arg-type]
        await fscache.add_cache("cachefiles", dir=str(directory / "cache"))
        fscache.add_netfs(
            "s3",
            endpoint=f"http://{proxy.host}:{proxy.port}",
            region="us-east-1",
            deadline_seconds=deadline_seconds,
            connect_seconds=deadline_seconds,
        )
        yield fscache


async def read_all(proxy: HttpProxy, directory: Path) -> None:
    """Read the file as somebody who comes later, and then without the origin."""
    async with session(proxy, directory) as fscache, await fscache.open_file(URL) as file:
        assert await file.read(0, SIZE) == DATA
    assert await cached_of(proxy, directory) == SIZE


async def cached_of(proxy: HttpProxy, directory: Path) -> int:
    """How many bytes are cached; every one must be right, and everything stored be in order."""
    n_bytes = 0
    async with session(proxy, directory, offline=True) as fscache:
        (cache,) = fscache.caches
        report = await verify(cache)
        assert not report.problems
        async with await fscache.open_file(URL) as file:
            for offset in range(0, SIZE, PIECE):
                try:
                    piece = await file.read(offset, PIECE)
                except OfflineError:
                    continue
                assert piece == DATA[offset : offset + PIECE], f"wrong bytes at {offset}"
                n_bytes += len(piece)
    return n_bytes


@pytest.mark.parametrize(("fault", "kind", "retried"), LASTING, ids=name_of)
async def test_a_fault_that_lasts_is_one_clear_error_and_nothing_of_it_is_kept(
    proxy: HttpProxy,
    tmp_path: Path,
    fault: Fault,
    kind: type[OriginError],
    retried: bool,
    mock_clock: trio.testing.MockClock,
) -> None:
    async def let_time_pass() -> None:
        while True:  # as always until it was asked again, however busy the machine is; then to the deadline
            await trio.testing.wait_all_tasks_blocked(0.01)
            if was_asked_again():
                mock_clock.jump(5)

    def was_asked_again() -> bool:
        return max(Counter(proxy.ranges_for(PATH)).values(), default=0) > 1

    mock_clock.rate = 1
    async with session(proxy, tmp_path) as fscache, await fscache.open_file(URL) as file:
        assert await file.read(0, PIECE) == DATA[:PIECE]
    before = await cached_of(proxy, tmp_path)
    # Immutable: what is cached is opened without asking, so that the first to meet the fault is the fetch.
    async with (
        session(proxy, tmp_path, coherency="immutable", limits=Limits(hook_seconds=10**9)) as fscache,
        await fscache.open_file(URL) as file,
    ):
        assert await file.read(0, 10) == DATA[:10]  # so that it is not opened again when it seems to be gone
        proxy.reset_counters()
        proxy.fault(PATH, fault, times=1_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass)
            with pytest.raises(kind) as caught:
                await file.read(MIB, SIZE)
            nursery.cancel_scope.cancel()
        text = str(caught.value)
        assert "\n" not in text
        assert "Debug" not in text
        assert text.startswith(f"{URL} at http://{proxy.host}:{proxy.port}, bytes ")
        if fault.status is not None:
            assert str(fault.status) in text
        assert was_asked_again() == retried
        assert await file.read(0, PIECE) == DATA[:PIECE]  # that is cached
    proxy.clear_faults()
    # What came in its place before the answer turned out to be wrong is of the version, and may stay.
    after = await cached_of(proxy, tmp_path)
    assert before <= after < SIZE
    assert after == before or fault.reset_after or fault.truncated_by or fault.extra
    await read_all(proxy, tmp_path)


@pytest.mark.parametrize("asked", ["look up", "fetch"])
@pytest.mark.parametrize(
    ("fault", "retried"),
    [*((fault, retried) for fault, _, retried in LASTING), *((fault, True) for fault in PROGRESSING)],
    ids=name_of,
)
async def test_after_a_fault_that_passes_the_file_is_read_as_it_is(
    proxy: HttpProxy, tmp_path: Path, fault: Fault, retried: bool, asked: str
) -> None:
    async with session(proxy, tmp_path) as fscache:
        if asked == "look up":
            proxy.fault(PATH, fault)
        errors: list[OriginError] = []
        try:
            async with await fscache.open_file(URL) as file:
                if asked == "fetch":
                    proxy.fault(PATH, fault)
                assert await file.read(0, SIZE) == DATA
        except OriginError as error:
            errors.append(error)
        assert all(URL in str(error) for error in errors)
        assert not (retried and errors)
    proxy.clear_faults()
    await read_all(proxy, tmp_path)


@pytest.mark.parametrize("fault", PROGRESSING, ids=name_of)
async def test_a_connection_that_breaks_again_and_again_gets_to_the_end(
    proxy: HttpProxy, tmp_path: Path, fault: Fault
) -> None:
    async with session(proxy, tmp_path) as fscache, await fscache.open_file(URL) as file:
        proxy.fault(PATH, fault, times=6)
        assert await file.read(0, SIZE) == DATA
    assert await cached_of(proxy, tmp_path) == SIZE


async def test_a_server_that_stalls_is_left_for_another_connection(
    proxy: HttpProxy, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 0.1  # not obstore's, which leaves a connection after three seconds as often as need be
    stall = Stall(after=500_000)
    async with session(proxy, tmp_path, deadline_seconds=9) as fscache, await fscache.open_file(URL) as file:
        proxy.fault(PATH, Fault(stall=stall))
        assert await file.read(0, SIZE) == DATA
        stall.release()
    assert await cached_of(proxy, tmp_path) == SIZE


async def test_a_server_that_stalls_for_good_is_given_up_at_the_deadline(
    proxy: HttpProxy, tmp_path: Path
) -> None:
    async with session(proxy, tmp_path) as fscache, await fscache.open_file(URL) as file:
        assert await file.read(0, PIECE) == DATA[:PIECE]
    stall = Stall(after=0)
    async with (
        session(proxy, tmp_path, deadline_seconds=2, coherency="immutable") as fscache,
        await fscache.open_file(URL) as file,
    ):
        proxy.fault(PATH, Fault(stall=stall), times=1_000_000)
        with pytest.raises(OriginTimeoutError, match=r"bytes .*: no answer"):
            await file.read(0, SIZE)
        proxy.clear_faults()
        stall.release()
    await read_all(proxy, tmp_path)


async def test_a_gateway_that_is_gone_for_a_while_is_waited_for(proxy: HttpProxy, tmp_path: Path) -> None:
    async with (
        session(proxy, tmp_path, deadline_seconds=900) as fscache,
        await fscache.open_file(URL) as file,
    ):
        stall = Stall(after=MIB)
        proxy.fault(PATH, Fault(stall=stall))
        found: list[bytes] = []

        async def read() -> None:
            found.append(await file.read(0, SIZE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.to_thread.run_sync(stall.wait_reached)
            await trio.to_thread.run_sync(proxy.stop)
            proxy.start()
        assert found == [DATA]
    assert await cached_of(proxy, tmp_path) == SIZE


async def test_a_version_that_is_replaced_amid_its_body_is_not_mixed_with_the_next(
    proxy: HttpProxy, origins: Origins, tmp_path: Path
) -> None:
    new = random.Random(22).randbytes(SIZE)
    async with session(proxy, tmp_path) as fscache:
        async with await fscache.open_file(URL, reopen="never") as file:
            stall = Stall(after=MIB)
            proxy.fault(PATH, Fault(stall=stall, reset_after=MIB + 1))

            async def replace() -> None:
                await trio.to_thread.run_sync(stall.wait_reached)
                await trio.to_thread.run_sync(origins.s3.put, BUCKET, KEY, new)
                stall.release()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(replace)
                with pytest.raises(StaleError, match="bytes"):
                    await file.read(0, SIZE)
        async with await fscache.open_file(URL) as file:
            assert await file.read(0, SIZE) == new
