"""The hooks, called as core calls them, against a real HTTP server."""

from __future__ import annotations

import os
import random
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.errors import (
    CallerError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from fscache_core.hookspecs import AuxOutcome, FileKind, Location, Strength
from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall
from fscache_core.testing.interruption import cancelled_after
from netfs_http import HttpNetfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from netfs_adapters.http.tests.conftest import Request, ScriptedOrigin

DATA = bytes(range(256)) * 4096  # 1 MiB
OLD = 1_000_000_000.0


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    with CountingOrigin() as server:
        server.put("a.bin", DATA, modified=OLD)
        yield server


def quick(**options: object) -> HttpNetfs:
    """An adapter that does not wait long before it tries again."""
    return HttpNetfs(**{"backoff_seconds": 0.001, **options})  # type: ignore[arg-type]


@asynccontextmanager
async def opened(netfs: HttpNetfs, url: str) -> AsyncIterator[tuple[object, str]]:
    location = netfs.parse_url(url)
    volume = await netfs.open_volume(location)
    try:
        yield volume, location.path
    finally:
        with trio.CancelScope(shield=True):
            await netfs.close_volume(volume)


async def read(
    netfs: HttpNetfs,
    file: object,
    offset: int = 0,
    size: int | None = None,
    seen: Callable[[int], None] = lambda n: None,
) -> bytes:
    buffer = bytearray(netfs.get_attr(file).size - offset if size is None else size)
    await netfs.fetch(file, offset, memoryview(buffer), seen)
    return bytes(buffer)


# -- the ordinary case -------------------------------------------------------------------


async def test_a_file_is_looked_up_and_its_ranges_read(origin: CountingOrigin) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        attributes = netfs.get_attr(file)
        assert (attributes.kind, attributes.size, attributes.mtime_ns) == (
            FileKind.FILE,
            len(DATA),
            int(OLD * 1e9),
        )
        assert attributes.strength is Strength.STRONG
        assert attributes.evidence.startswith(f"etag {origin.etag('a.bin')}")
        for offset, size in [(0, len(DATA)), (1, 4096), (len(DATA) - 1, 1), (4095, 300_001)]:
            assert await read(netfs, file, offset, size) == DATA[offset : offset + size]
    gets = [exchange for exchange in origin.exchanges if exchange.method == "GET"]
    assert [exchange.asked for exchange in gets] == [
        (0, len(DATA) - 1),
        (1, 4096),
        (len(DATA) - 1, len(DATA) - 1),
        (4095, 304_095),
    ]
    assert {exchange.headers["accept-encoding"] for exchange in origin.exchanges} == {"identity"}
    assert origin.bytes_sent == sum(e.body_bytes for e in gets) == len(DATA) + 4096 + 1 + 300_001
    assert origin.n_connections == 1
    # A proxy's cache is to be asked again what there is, but may well serve the bytes of that.
    assert [exchange.headers.get("cache-control") for exchange in origin.exchanges] == [
        "no-cache",
        *[None] * 4,
    ]


async def test_bytes_are_announced_as_they_arrive(origin: CountingOrigin) -> None:
    stall = Stall(after=100_000)
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path), trio.open_nursery() as nursery:
        file = await netfs.look_up(volume, path)
        origin.fault("a.bin", Fault(stall=stall))
        seen: list[int] = []
        half = trio.Event()

        def arrived(n_bytes: int) -> None:
            seen.append(n_bytes)
            if n_bytes == 100_000:
                half.set()

        buffer = bytearray(len(DATA))
        nursery.start_soon(netfs.fetch, file, 0, memoryview(buffer), arrived)
        with trio.fail_after(120):
            await half.wait()
        assert buffer[:100_000] == DATA[:100_000]
        stall.release()
    assert buffer == DATA
    assert seen == sorted(set(seen))
    assert seen[-1] == len(DATA)


async def test_an_empty_file_is_empty(origin: CountingOrigin) -> None:
    origin.put("empty", b"")
    netfs = quick()
    async with opened(netfs, origin.url("empty")) as (volume, path):
        assert netfs.get_attr(await netfs.look_up(volume, path)).size == 0


async def test_a_recalled_version_is_read_only_while_it_is_there(origin: CountingOrigin) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        recalled = netfs.recall_file(volume, path, netfs.get_aux(file), len(DATA))
        assert netfs.get_attr(recalled) == netfs.get_attr(file)
        assert netfs.get_key(recalled) == netfs.get_key(file) == netfs.get_key(netfs.name_file(volume, path))
        assert await read(netfs, recalled, 5, 100) == DATA[5:105]
        origin.put("a.bin", DATA[::-1])
        with pytest.raises(StaleError):
            await read(netfs, recalled, 5, 100)


async def test_a_label_is_checked(origin: CountingOrigin) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        aux = netfs.get_aux(file)
        assert netfs.check_aux(file, aux, len(DATA)) is AuxOutcome.OKAY
        assert netfs.check_aux(file, aux, len(DATA) + 1) is AuxOutcome.OBSOLETE
        assert netfs.check_aux(file, b"rubbish", len(DATA)) is AuxOutcome.OBSOLETE
        touched = aux.replace(b"Sun, 09 Sep 2001 01:46:40 GMT", b"Sun, 09 Sep 2001 01:46:41 GMT")
        assert touched != aux
        assert netfs.check_aux(file, touched, len(DATA)) is AuxOutcome.NEEDS_UPDATE
        origin.put("a.bin", DATA[::-1])
        assert netfs.check_aux(await netfs.look_up(volume, path), aux, len(DATA)) is AuxOutcome.OBSOLETE


def test_importing_the_adapter_does_not_import_httpx() -> None:
    program = "import sys, netfs_http; netfs_http.HttpNetfs(); print('httpx' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == "False"


# -- versions ----------------------------------------------------------------------------


@pytest.mark.parametrize("validators", ["strong", "weak", "date"])
async def test_a_file_that_changed_between_two_ranges_is_stale(
    origin: CountingOrigin, validators: str
) -> None:
    origin.validators = validators  # type: ignore[assignment]
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        await read(netfs, file, 0, 4096)
        origin.put("a.bin", DATA[::-1], modified=OLD + 5)
        sent = origin.bytes_sent
        with pytest.raises(StaleError, match=r"^http://.*/a.bin, bytes 4096-8191: it has changed"):
            await read(netfs, file, 4096, 4096)
        assert origin.bytes_sent - sent == 0  # a precondition costs no body


@pytest.mark.parametrize(
    ("validators", "modified", "strength"),
    [
        ("weak", OLD, Strength.WEAK),
        ("date", OLD, Strength.STRONG),
        ("date", None, Strength.WEAK),
        ("none", OLD, Strength.NONE),
    ],
)
async def test_weak_evidence_is_declared(
    origin: CountingOrigin, validators: str, modified: float | None, strength: Strength
) -> None:
    origin.validators = validators  # type: ignore[assignment]
    netfs = quick()
    # A whole second ahead, so that the answer is not two seconds younger whatever the machine does meanwhile.
    origin.put("b.bin", DATA, modified=modified if modified is not None else 4_000_000_000.0)
    async with opened(netfs, origin.url("b.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        assert netfs.get_attr(file).strength is strength
        assert await read(netfs, file, 7, 70) == DATA[7:77]


@pytest.mark.parametrize("size", [10, len(DATA) + 1])
async def test_without_validators_another_size_is_still_another_version(
    origin: CountingOrigin, size: int
) -> None:
    origin.validators = "none"
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        origin.put("a.bin", bytes(size))
        with pytest.raises(StaleError):
            await read(netfs, file, 4096, 4096)


# -- servers without ranges --------------------------------------------------------------


async def test_a_server_without_ranges_is_read_once_for_ascending_ranges_and_this_is_said(
    origin: CountingOrigin, caplog: pytest.LogCaptureFixture
) -> None:
    origin.ranges = False
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        assert "no ranges" in netfs.get_attr(file).evidence
        step = len(DATA) // 8
        for offset in range(0, len(DATA), step):
            assert await read(netfs, file, offset, step) == DATA[offset : offset + step]
        assert origin.bytes_sent == len(DATA)
        assert await read(netfs, file, 100, 10) == DATA[100:110]  # backwards: from the start again
    assert [record.message for record in caplog.records if "no range requests" in record.message] == [
        f"http://127.0.0.1:{origin.port}: no range requests: "
        "files are read from their start, one reader at a time"
    ]


async def test_readers_of_a_file_without_ranges_take_turns(origin: CountingOrigin) -> None:
    origin.ranges = False
    netfs = quick(connections=8)
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        step = len(DATA) // 8
        buffer = bytearray(len(DATA))
        async with trio.open_nursery() as nursery:
            for offset in range(0, len(DATA), step):
                part = memoryview(buffer)[offset : offset + step]
                nursery.start_soon(netfs.fetch, file, offset, part, lambda n: None)
        assert buffer == DATA
        assert origin.bytes_sent == len(DATA)  # in whatever order trio started them


async def test_a_range_that_comes_late_is_served_from_what_was_skipped(origin: CountingOrigin) -> None:
    origin.ranges = False
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        for offset, size in ((300_000, 1000), (100_000, 200_000), (900_000, len(DATA) - 900_000)):
            assert await read(netfs, file, offset, size) == DATA[offset : offset + size]
        # The answer has ended; what follows lies in three places.
        assert await read(netfs, file, 0, 100_000) == DATA[:100_000]
        assert await read(netfs, file, 301_000, 599_000) == DATA[301_000:900_000]
        assert origin.bytes_sent == len(DATA)


@pytest.mark.parametrize("ranges", [True, False])
async def test_until_it_is_known_whether_there_are_ranges_one_request_is_under_way(
    origin: CountingOrigin, ranges: bool
) -> None:
    origin.ranges, origin.tells_ranges = ranges, False
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        buffer, step = bytearray(len(DATA)), len(DATA) // 8
        async with trio.open_nursery() as nursery:
            for offset in range(0, len(DATA), step):
                nursery.start_soon(
                    netfs.fetch, file, offset, memoryview(buffer)[offset : offset + step], lambda n: None
                )
        assert buffer == DATA
        assert origin.bytes_sent == len(DATA)


async def test_a_reader_of_a_range_does_not_wait_for_another_one_once_ranges_are_known(
    origin: CountingOrigin,
) -> None:
    origin.tells_ranges = False
    netfs = quick()
    stall = Stall(after=1000)
    origin.fault(
        "a.bin", Fault(stall=stall), times=2
    )  # of HEAD, where it has no effect, and of the first GET
    async with opened(netfs, origin.url("a.bin")) as (volume, path), trio.open_nursery() as nursery:
        file = await netfs.look_up(volume, path)
        nursery.start_soon(netfs.fetch, file, 0, memoryview(bytearray(2000)), lambda n: None)
        await trio.to_thread.run_sync(stall.wait_reached)
        with trio.fail_after(120):
            assert await read(netfs, file, 4000, 2000) == DATA[4000:6000]
        stall.release()


async def test_a_reader_that_is_cancelled_while_it_waits_for_its_turn_does_not_keep_it(
    origin: CountingOrigin,
) -> None:
    origin.ranges = False
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path), trio.open_nursery() as nursery:
        file = await netfs.look_up(volume, path)
        stall = Stall(after=1000)
        origin.fault("a.bin", Fault(stall=stall))
        first, third = bytearray(2000), bytearray(2000)
        nursery.start_soon(netfs.fetch, file, 0, memoryview(first), lambda n: None)
        await trio.to_thread.run_sync(stall.wait_reached)
        nursery.start_soon(netfs.fetch, file, 4000, memoryview(third), lambda n: None)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as second:
                second.start_soon(netfs.fetch, file, 2000, memoryview(bytearray(2000)), lambda n: None)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        stall.release()
    assert first == DATA[:2000]
    assert third == DATA[4000:6000]


async def test_a_changed_file_without_ranges_is_stale_although_an_answer_of_the_old_one_was_kept(
    origin: CountingOrigin,
) -> None:
    origin.ranges = False
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        old = await netfs.look_up(volume, path)
        await read(netfs, old, 0, 10)
        origin.put("a.bin", DATA[::-1])
        new = await netfs.look_up(volume, path)
        assert await read(netfs, new, 10, 10) == DATA[::-1][10:20]
        with pytest.raises(StaleError):
            await read(netfs, old, 30, 10)


@pytest.mark.parametrize("connections", [1, 2])
async def test_answers_kept_open_do_not_use_up_the_connections(
    origin: CountingOrigin, connections: int
) -> None:
    origin.ranges = False
    for number in range(6):
        origin.put(f"{number}", DATA)
    netfs = quick(connections=connections)
    async with opened(netfs, origin.url()) as (volume, _):
        with trio.fail_after(120):
            for number in range(6):
                file = await netfs.look_up(volume, f"/{number}")
                assert await read(netfs, file, 10, 10) == DATA[10:20]


# -- faults ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(reset_after=0),
        Fault(reset_after=100_000),
        Fault(short_by=1),
        Fault(short_by=500_000),
        Fault(truncated_by=1),
        Fault(extra=1),
        Fault(content_range="bytes 1-1048576/1048576"),
        Fault(content_range="bytes 0-2097151/1048576"),
        Fault(content_range="rubbish"),
        Fault(status=500),
        Fault(status=502),
        Fault(status=503),
        Fault(status=504),
        Fault(status=429),
    ],
    ids=repr,
)
async def test_a_fault_that_passes_is_survived_and_one_that_stays_is_one_error(
    origin: CountingOrigin, fault: Fault
) -> None:
    netfs = quick(retries="3")
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        origin.fault("a.bin", fault, times=2)
        seen: list[int] = []
        assert await read(netfs, file, seen=seen.append) == DATA
        assert seen == sorted(set(seen))
        origin.fault("a.bin", fault, times=100)
        good = 0
        buffer = bytearray(len(DATA))

        def arrived(n_bytes: int) -> None:
            nonlocal good
            good = n_bytes

        with pytest.raises(OriginError) as caught:
            await netfs.fetch(file, 0, memoryview(buffer), arrived)
        assert not isinstance(caught.value, StaleError)
        assert str(caught.value).startswith(f"{origin.url('a.bin')}, bytes {good}-1048575: ")
        assert "\n" not in str(caught.value)
        assert buffer[:good] == DATA[:good]


async def test_after_a_reset_only_the_rest_is_fetched(origin: CountingOrigin) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        seen: list[int] = []
        stall = Stall(after=500_000)
        origin.fault("a.bin", Fault(stall=stall, reset_after=500_000))

        def arrived(n_bytes: int) -> None:
            seen.append(n_bytes)
            if n_bytes == 500_000:  # a reset may overtake bytes that are under way
                stall.release()

        assert await read(netfs, file, seen=arrived) == DATA
    assert origin.ranges_for("a.bin") == [(0, 1_048_575), (500_000, 1_048_575)]
    assert origin.bytes_sent == len(DATA)


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_goes_wrong_the_bytes_are_right_or_there_is_an_error(
    origin: CountingOrigin, seed: int
) -> None:
    chance = random.Random(seed)
    versions = [chance.randbytes(300_000) for _ in range(2)]
    origin.ranges = chance.random() < 0.8
    origin.validators = chance.choice(["strong", "strong", "weak", "date"])
    origin.put("f", versions[0], modified=OLD)
    netfs = quick(retries=chance.randrange(4))
    async with opened(netfs, origin.url("f")) as (volume, path):
        file = await netfs.look_up(volume, path)
        for _ in range(20):
            fault = Fault(
                status=chance.choice([None] * 6 + [500, 503]),
                reset_after=chance.choice([None, None, chance.randrange(100_000)]),
                short_by=chance.choice([0, 0, chance.randrange(1000)]),
                truncated_by=chance.choice([0, 0, 0, chance.randrange(1000)]),
                extra=chance.choice([0, 0, 0, chance.randrange(1000)]),
                content_range=chance.choice([None, None, None, "bytes 5-9/300000", "bytes */300000"]),
            )
            origin.fault("f", fault, times=chance.randrange(4))
            if chance.random() < 0.05:
                origin.put("f", versions[1], modified=OLD + 10)
            offset = chance.randrange(300_000)
            expected = versions[0][offset : offset + chance.randrange(1, 100_000)]
            buffer = bytearray(len(expected))
            seen = [0]
            try:
                await netfs.fetch(file, offset, memoryview(buffer), seen.append)
            except OriginError:
                assert buffer[: seen[-1]] == expected[: seen[-1]]
            else:
                assert buffer == expected


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, OriginPermissionError),
        (403, OriginPermissionError),
        (404, OriginNotFoundError),
        (410, OriginNotFoundError),
        (412, StaleError),
        (416, StaleError),
        (418, OriginError),
        (204, OriginError),
    ],
)
async def test_a_refusal_is_final_and_told_by_its_kind(
    origin: CountingOrigin, status: int, kind: type[OriginError]
) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        origin.reset_counters()
        origin.fault("a.bin", Fault(status=status), times=100)
        with pytest.raises(kind, match=f"{status}"):
            await read(netfs, file, 0, 10)
        assert origin.n_requests == 1
        if status not in (204, 412, 416):
            with pytest.raises(kind, match=f"^{origin.url('a.bin')}: {status}"):
                await netfs.look_up(volume, path)


async def test_a_missing_file_is_named_without_the_secrets_of_its_query(origin: CountingOrigin) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("none") + "?sig=abc") as (volume, path):
        with pytest.raises(OriginNotFoundError) as caught:
            await netfs.look_up(volume, path)
    assert str(caught.value) == f"{origin.url('none')}?sig=...: 404 Not Found"


async def test_an_origin_that_is_away_is_told_at_once_at_a_look_up(origin: CountingOrigin) -> None:
    netfs = HttpNetfs(backoff_seconds=1000)
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        origin.stop()
        with pytest.raises(OriginUnreachableError, match=r"no connection: .*Connection refused"):
            await netfs.look_up(volume, path)
        origin.start()
        assert netfs.get_attr(await netfs.look_up(volume, path)).size == len(DATA)


async def test_an_origin_that_comes_back_during_a_fetch_is_read_on(origin: CountingOrigin) -> None:
    netfs = quick(retries=1000, backoff_seconds=0.01)
    async with opened(netfs, origin.url("a.bin")) as (volume, path), trio.open_nursery() as nursery:
        file = await netfs.look_up(volume, path)
        stall = Stall(after=300_000)
        origin.fault("a.bin", Fault(stall=stall))
        buffer = bytearray(len(DATA))
        half = trio.Event()
        nursery.start_soon(
            netfs.fetch, file, 0, memoryview(buffer), lambda n: half.set() if n >= 300_000 else None
        )
        with trio.fail_after(120):
            await half.wait()
        await trio.to_thread.run_sync(origin.stop)
        await trio.to_thread.run_sync(origin.start)
    assert buffer == DATA


async def test_a_keep_alive_connection_that_the_server_closed_is_no_fault(origin: CountingOrigin) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        origin.reset_connections()
        assert await read(netfs, file, 0, 10) == DATA[:10]
        origin.reset_connections()
        await netfs.look_up(volume, path)


async def test_a_host_that_has_no_address_is_unreachable() -> None:
    netfs = quick()
    async with opened(netfs, "http://no-such-host.invalid/a") as (volume, path):
        with pytest.raises(OriginUnreachableError, match=r"^http://no-such-host\.invalid/a: no connection: "):
            await netfs.look_up(volume, path)


async def test_a_stall_is_a_timeout_and_what_came_before_is_kept(
    origin: CountingOrigin, mock_clock: trio.testing.MockClock
) -> None:
    """On a clock that stands still but for us, so that nothing is a stall but what we make one."""
    netfs = quick(timeout_seconds="20", retries="1", backoff_seconds=0)
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        origin.fault("a.bin", Fault(stall=Stall(after=100_000)), times=100)
        buffer = bytearray(len(DATA))
        seen: list[int] = []
        came = {100_000: trio.Event(), 200_000: trio.Event()}

        def arrived(n_bytes: int) -> None:
            seen.append(n_bytes)
            if n_bytes in came:
                came[n_bytes].set()

        async def let_time_pass() -> None:
            for event in came.values():
                await event.wait()
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(21)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass)
            with pytest.raises(OriginTimeoutError, match="stopped answering"):
                await netfs.fetch(file, 0, memoryview(buffer), arrived)
        assert seen[-1] == 200_000  # two attempts
        assert buffer[:200_000] == DATA[:200_000]


async def test_the_deadline_ends_a_call_that_makes_no_progress(
    origin: CountingOrigin, mock_clock: trio.testing.MockClock
) -> None:
    """On a clock that stands still until something goes wrong, and goes fast then."""
    netfs = HttpNetfs(deadline_seconds=60, timeout_seconds=600, retries=10**6, backoff_seconds=0.01)
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        mock_clock.rate = 100
        origin.fault("a.bin", Fault(reset_after=0), times=10**6)
        with pytest.raises(OriginUnreachableError):
            await read(netfs, file)
        origin.fault("a.bin", Fault(stall=Stall(after=0)), times=10**6)
        with pytest.raises(OriginTimeoutError, match="nothing came for 60 s"):
            await read(netfs, file)


async def test_a_cancelled_fetch_does_not_touch_the_buffer_any_more_and_the_volume_goes_on(
    origin: CountingOrigin,
) -> None:
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        for after in (0, 100_000):
            stall = Stall(after=after)
            origin.fault("a.bin", Fault(stall=stall))
            buffer = bytearray(len(DATA))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(netfs.fetch, file, 0, memoryview(buffer), lambda n: None)
                await trio.to_thread.run_sync(stall.wait_reached)
                nursery.cancel_scope.cancel()
            copy = bytes(buffer)
            stall.release()
            assert await read(netfs, file) == DATA
            assert bytes(buffer) == copy


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_fetch_cancelled_at_any_step_leaves_good_bytes_and_gives_its_connection_back(
    origin: CountingOrigin, ranges: bool
) -> None:
    origin.ranges = ranges
    data = DATA[:300_000]
    origin.put("b.bin", data)
    # With one connection, one that is not given back makes the next call hang.
    netfs = quick(connections=1, deadline_seconds=60)
    async with opened(netfs, origin.url("b.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        for n_steps in range(10_000):
            buffer = bytearray(200_000)
            seen = [0]
            fetch = partial(netfs.fetch, file, 50_000, memoryview(buffer), seen.append)
            cancelled, _ = await cancelled_after(n_steps, fetch)
            copy = bytes(buffer)
            assert buffer[: seen[-1]] == data[50_000 : 50_000 + seen[-1]]
            assert await read(netfs, file, 100_000, 10) == data[100_000:100_010]
            assert buffer == copy
            if not cancelled:
                break
        assert n_steps > 3
        assert seen[-1] == len(buffer)


async def test_a_look_up_cancelled_at_any_step_gives_its_connection_back(origin: CountingOrigin) -> None:
    for n_steps in range(10_000):
        netfs = quick(connections=1, deadline_seconds=60)
        async with opened(netfs, origin.url("a.bin")) as (volume, path):
            cancelled, _ = await cancelled_after(n_steps, partial(netfs.look_up, volume, path))
            assert netfs.get_attr(await netfs.look_up(volume, path)).size == len(DATA)
        if not cancelled:
            break
    assert n_steps > 3


async def test_who_are_cancelled_while_they_wait_for_a_connection_do_not_use_it_up(
    origin: CountingOrigin,
) -> None:
    """The pool of httpx loses a connection that it makes for a request which is being cancelled."""
    origin.put("b.bin", b"another")  # which takes no fault of the first
    netfs = quick(connections=1, deadline_seconds=40)
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        for n_rounds in range(100):
            stall = Stall(after=1000)
            origin.fault("a.bin", Fault(stall=stall))
            async with trio.open_nursery() as nursery:
                reading = await nursery.start(_cancellable, partial(read, netfs, file))
                await trio.to_thread.run_sync(stall.wait_reached)
                waiting = await nursery.start(_cancellable, partial(netfs.look_up, volume, "/b.bin"))
                await trio.testing.wait_all_tasks_blocked()
                reading.cancel()
                for _ in range(n_rounds % 20):  # it gives its connection up some steps later
                    await trio.lowlevel.checkpoint()
                waiting.cancel()
            stall.release()
        assert netfs.get_attr(await netfs.look_up(volume, path)).size == len(DATA)


async def _cancellable(
    function: Callable[[], Awaitable[object]], task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await function()


async def test_to_wait_for_a_connection_is_not_the_silence_of_the_origin(
    origin: CountingOrigin, mock_clock: trio.testing.MockClock
) -> None:
    """On a clock that goes on with each piece that arrives, and not otherwise."""
    netfs = quick(connections=1, deadline_seconds=3, timeout_seconds=30)
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        stall = Stall(after=1000)
        origin.fault("a.bin", Fault(stall=stall))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, netfs, file, 0, None, lambda n: mock_clock.jump(2.5))
            await trio.to_thread.run_sync(stall.wait_reached)
            nursery.start_soon(netfs.look_up, volume, path)
            await trio.testing.wait_all_tasks_blocked()
            stall.release()
        assert trio.current_time() - began > 3


# -- answers that no proper server gives -------------------------------------------------

HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "v1"\r\n\r\n'
PARTIAL = b'HTTP/1.1 206 Partial Content\r\nETag: "v1"\r\n'


def answering(*gets: bytes) -> Callable[[Request], bytes]:
    left = list(gets)

    def answer(request: Request) -> bytes:
        if request.method == "HEAD":
            return HEAD
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


@pytest.mark.parametrize(
    ("get", "kind", "cause"),
    [
        (
            b'HTTP/1.1 206 OK\r\nETag: "v2"\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nabc',
            StaleError,
            "etag",
        ),
        (
            PARTIAL + b"Content-Range: bytes 2-4/11\r\nContent-Length: 3\r\n\r\nabc",
            StaleError,
            "11 bytes instead of 10",
        ),
        (
            b"HTTP/1.1 206 OK\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nabc",
            OriginError,
            "without the ETag",
        ),
        (
            PARTIAL
            + b"Content-Encoding: gzip\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nabc",
            StaleError,
            "gzip",
        ),
        (
            PARTIAL + b"Content-Type: multipart/byteranges; boundary=x\r\nContent-Length: 3\r\n\r\nabc",
            OriginError,
            "Content-Range",
        ),
        (
            PARTIAL
            + b"Content-Range: bytes 2-4/10\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
            OriginError,
            "more bytes",
        ),
        (
            PARTIAL
            + b"Content-Range: bytes 2-4/10\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            OriginError,
            "1 bytes early",
        ),
        (PARTIAL + b"Content-Range: bytes 2-4/10\r\n\r\nab", OriginError, "1 bytes early"),
        (b'HTTP/1.1 200 OK\r\nETag: "v2"\r\nContent-Length: 10\r\n\r\n0123456789', StaleError, "etag"),
        (b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 9\r\n\r\n012345678', StaleError, "9 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nBad gateway?", OriginError, "without the ETag"),
        (b'HTTP/1.1 200 OK\r\nETag: "v1"\r\n\r\n012345678', OriginError, "1 bytes early"),
        (b"rubbish\r\n\r\n", OriginUnreachableError, "connection lost"),
        (b"", OriginUnreachableError, "connection lost"),
    ],
)
async def test_no_byte_of_a_wrong_answer_is_handed_on(
    scripted: ScriptedOrigin, get: bytes, kind: type[OriginError], cause: str
) -> None:
    scripted.answer = answering(get)
    netfs = quick(retries=1)
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        file = await netfs.look_up(volume, path)
        seen: list[int] = []
        with pytest.raises(kind, match=cause) as caught:
            await read(netfs, file, 2, 3, seen.append)
        assert type(caught.value) is kind or kind is OriginError
        assert seen == []


@pytest.mark.parametrize(
    "get",
    [
        PARTIAL
        + b"Content-Range: bytes 2-4/10\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        PARTIAL + b"Content-Range: bytes 2-4/*\r\nContent-Length: 3\r\n\r\nabc",
        PARTIAL + b"Content-Range: bytes 2-4/10\r\n\r\nabc",
        b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\na\r\n01abc56789\r\n0\r\n\r\n',
        b'HTTP/1.0 200 OK\r\nETag: "v1"\r\n\r\n01abc56789',
    ],
)
async def test_an_unusual_but_right_answer_is_read(scripted: ScriptedOrigin, get: bytes) -> None:
    scripted.answer = answering(get)
    netfs = quick()
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        assert await read(netfs, await netfs.look_up(volume, path), 2, 3) == b"abc"


async def test_a_server_may_send_less_than_asked_for_and_is_asked_for_the_rest(
    scripted: ScriptedOrigin,
) -> None:
    def one_byte(request: Request) -> bytes:
        if request.method == "HEAD":
            return HEAD
        first = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
        return (
            PARTIAL
            + b"Connection: close\r\nContent-Range: bytes %d-%d/10\r\nContent-Length: 1\r\n\r\n%d"
            % (
                first,
                first,
                first,
            )
        )

    scripted.answer = one_byte
    netfs = quick(retries=0)
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        assert await read(netfs, await netfs.look_up(volume, path), 2, 3) == b"234"


async def test_a_server_that_ignores_preconditions_is_seen_through(scripted: ScriptedOrigin) -> None:
    scripted.answer = answering(
        PARTIAL + b"Content-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\nabc",
        b'HTTP/1.1 206 OK\r\nETag: "v2"\r\nContent-Range: bytes 5-7/10\r\nContent-Length: 3\r\n\r\ndef',
    )
    netfs = quick()
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        file = await netfs.look_up(volume, path)
        assert await read(netfs, file, 2, 3) == b"abc"
        with pytest.raises(StaleError):
            await read(netfs, file, 5, 3)
    assert [request.headers.get("if-match") for request in scripted.requests] == [None, '"v1"', '"v1"']


@pytest.mark.parametrize(
    ("head", "get", "size"),
    [
        (b"405 No", b"206 OK\r\nContent-Range: bytes 0-0/10\r\nContent-Length: 1\r\n\r\na", 10),
        (b"501 No", b"206 OK\r\nContent-Range: bytes 0-0/10\r\nContent-Length: 1\r\n\r\na", 10),
        (b"403 No", b"206 OK\r\nContent-Range: bytes 0-0/10\r\nContent-Length: 1\r\n\r\na", 10),
        (b"405 No", b"200 OK\r\nContent-Length: 10\r\n\r\n0123456789", 10),
        (b"405 No", b"416 No\r\nContent-Range: bytes */0\r\nContent-Length: 0\r\n\r\n", 0),
        (
            b"200 OK\r\nContent-Length: 0",
            b"206 OK\r\nContent-Range: bytes 0-0/10\r\nContent-Length: 1\r\n\r\na",
            10,
        ),
        (b"200 OK", b"206 OK\r\nContent-Range: bytes 0-0/10\r\nContent-Length: 1\r\n\r\na", 10),
        (b"200 OK", b"200 OK\r\n\r\n0123456789", None),
        (b"200 OK", b"206 OK\r\nContent-Range: bytes 0-0/*\r\nContent-Length: 1\r\n\r\na", None),
    ],
)
async def test_the_size_is_found_where_head_does_not_tell_it(
    scripted: ScriptedOrigin, head: bytes, get: bytes, size: int | None
) -> None:
    scripted.answer = lambda request: b"HTTP/1.1 " + (head + b"\r\n\r\n" if request.method == "HEAD" else get)
    netfs = quick()
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        if size is None:
            with pytest.raises(OriginError, match="does not tell how long it is"):
                await netfs.look_up(volume, path)
        else:
            assert netfs.get_attr(await netfs.look_up(volume, path)).size == size


async def test_what_retry_after_says_takes_the_place_of_the_back_off(scripted: ScriptedOrigin) -> None:
    answers = [b"HTTP/1.1 503 Later\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n", HEAD]
    scripted.answer = lambda request: answers.pop(0) if len(answers) > 1 else answers[0]
    netfs = HttpNetfs(backoff_seconds=10**6)
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        await netfs.look_up(volume, path)
        for later in (b"99999999", b"Fri, 31 Dec 2399 23:59:59 GMT"):
            answers.insert(0, b"HTTP/1.1 429 Later\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % later)
            with pytest.raises(OriginError, match="429"):  # after the deadline, so at once
                await netfs.look_up(volume, path)


# -- redirections and credentials --------------------------------------------------------


def redirecting(to: str) -> Callable[[Request], bytes]:
    return lambda request: f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


async def test_redirections_are_followed_and_the_volume_stays_as_asked(
    origin: CountingOrigin, scripted: ScriptedOrigin
) -> None:
    scripted.answer = redirecting(origin.url("a.bin"))
    netfs = quick()
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        file = await netfs.look_up(volume, path)
        assert await read(netfs, file, 3, 30) == DATA[3:33]
        assert netfs.get_key(volume) == f"http://127.0.0.1:{scripted.port}".encode()


async def test_a_circle_of_redirections_is_an_error(scripted: ScriptedOrigin) -> None:
    scripted.answer = redirecting("/f")
    netfs = quick()
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        with pytest.raises(OriginError, match="redirections"):
            await netfs.look_up(volume, path)


async def test_credentials_go_to_their_hosts_alone_and_make_another_volume(
    origin: CountingOrigin, scripted: ScriptedOrigin
) -> None:
    scripted.answer = redirecting(origin.url("a.bin").replace("127.0.0.1", "localhost"))
    options = {"headers": "Authorization: Bearer geheim\nX-Api-Key: geheim", "hosts": "127.0.0.1"}
    netfs = quick(**options)
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        await netfs.look_up(volume, path)
        assert scripted.requests[0].headers["x-api-key"] == "geheim"
        assert scripted.requests[0].headers["authorization"] == "Bearer geheim"
        assert not {"x-api-key", "authorization"} & origin.exchanges[0].headers.keys()
        assert b"geheim" not in netfs.get_key(volume)
        keys = {netfs.get_key(volume)}
        assert "geheim" not in repr(volume) + repr(vars(netfs))
    for other in (
        HttpNetfs(),
        HttpNetfs(**options, identity="team"),
        HttpNetfs(headers="X: y", hosts="127.0.0.1"),
    ):
        keys.add(other.get_key(await other.open_volume(other.parse_url(scripted.url("/f")))))
    assert len(keys) == 4
    elsewhere = await netfs.open_volume(Location("http://elsewhere", "/"))
    assert netfs.get_key(elsewhere) == b"http://elsewhere"


async def test_a_login_comes_from_netrc(scripted: ScriptedOrigin, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login joe password geheim\n")
    (tmp_path / "netrc").chmod(0o600)
    scripted.answer = answering(b"")
    netfs = quick(netrc=str(tmp_path / "netrc"))
    async with opened(netfs, scripted.url("/f")) as (volume, path):
        await netfs.look_up(volume, path)
        assert scripted.requests[0].headers["authorization"] == "Basic am9lOmdlaGVpbQ=="
        assert netfs.get_key(volume).endswith(b" joe")


async def test_a_proxy_is_never_asked_for_loopback(
    origin: CountingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    netfs = quick()
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        await netfs.look_up(volume, path)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    made = subprocess.run(
        [
            *command.split(),
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"cannot make a certificate: {made.stderr.decode()}")
    return tmp_path


async def test_a_server_is_believed_only_with_a_certificate(
    scripted: ScriptedOrigin, certificate: Path
) -> None:
    scripted.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    scripted.tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    scripted.answer = answering(b"")
    netfs = quick()
    async with opened(netfs, scripted.url("/f", "https")) as (volume, path):
        with pytest.raises(OriginError, match="TLS: CERTIFICATE_VERIFY_FAILED") as caught:
            await netfs.look_up(volume, path)
        assert not isinstance(caught.value, OriginUnreachableError)  # not to be served stale
    netfs = quick(ca_file=str(certificate / "cert.pem"))
    async with opened(netfs, scripted.url("/f", "https")) as (volume, path):
        assert netfs.get_attr(await netfs.look_up(volume, path)).size == 10
        scripted.answer = redirecting("http://127.0.0.1:1/f")
        with pytest.raises(OriginError, match="redirected from https to http"):
            await netfs.look_up(volume, path)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_seconds": "soon"},
        {"retries": "-1"},
        {"connections": "0"},
        {"trust_env": "maybe"},
        {"headers": "no colon", "hosts": "host"},
        {"headers": "Range: bytes=1-2", "hosts": "host"},
        {"headers": "X-Key: 1"},
        {"user_agent": "caf\xe9"},
        {"user_agent": "a\r\nX-Key: 1"},
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(CallerError, match=next(iter(options))):
        HttpNetfs(**options)


@pytest.mark.parametrize("name", ["/a\0b", "/a\ud800b"])
async def test_a_netrc_that_no_file_can_be_is_refused_by_name(name: str) -> None:
    netfs = HttpNetfs(netrc=name)
    with pytest.raises(CallerError, match="netrc"):
        await netfs.open_volume(Location("http://host", "/"))


@pytest.mark.parametrize("name", [os.devnull + "/none", "/a\0b", "/a\ud800b"])
async def test_a_missing_ca_file_is_refused_by_name(origin: CountingOrigin, name: str) -> None:
    netfs = HttpNetfs(ca_file=name)
    async with opened(netfs, origin.url("a.bin")) as (volume, path):
        with pytest.raises(CallerError, match="ca_file"):
            await netfs.look_up(volume, path)
