"""An origin that is slow, silent, broken, gone, or changes while it is read."""

from __future__ import annotations

import os
import sys

import pytest
import trio
import trio.testing

from fscache_core.errors import (
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from fscache_core.hookspecs import Strength
from fscache_core.testing.http_origin import CountingOrigin, Fault, Stall
from fscache_core.testing.workspace import free_port
from netfs_adapters.s3.tests.conftest import DATA, PATH, Reader, reading
from netfs_s3.bucket import CHUNK_SIZE


def assert_one_line_naming(error: OriginError, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert "Debug" not in text
    assert "{" not in text
    for part in ("s3://photos/cat.jpg", *parts):
        assert part in text


async def test_a_fetch_asks_for_its_range_of_its_version(
    origin: CountingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with reading("s3://photos", endpoint=origin.url(), requester_pays=True) as reader:
        file = await reader.look_up("cat.jpg")
        await reader.fetch(file, 1000, 2000)
        head, get = origin.exchanges
        assert (head.method, get.method) == ("HEAD", "GET")
        assert get.headers["if-match"] == origin.etag(PATH)
        assert get.asked == (1000, 2999)
        assert head.headers["x-amz-request-payer"] == get.headers["x-amz-request-payer"] == "requester"


# -- what passes -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_busy_origin_is_asked_again(origin: CountingOrigin, reader: Reader, status: int) -> None:
    origin.fault(PATH, Fault(status=status), times=2)
    file = await reader.look_up("cat.jpg")
    origin.fault(PATH, Fault(status=status), times=2)
    assert await reader.fetch(file) == DATA
    assert [exchange.status for exchange in origin.exchanges] == [status, status, 200, status, status, 206]


@pytest.mark.parametrize(
    "fault", [Fault(reset_after=700_000), Fault(short_by=800_000)], ids=["reset", "short"]
)
async def test_a_broken_transfer_goes_on_where_it_broke(
    origin: CountingOrigin, reader: Reader, fault: Fault
) -> None:
    file = await reader.look_up("cat.jpg")
    origin.fault(PATH, fault)
    assert await reader.fetch(file) == DATA
    (_, first), (again, last) = origin.ranges_for(PATH)
    assert first == last == len(DATA) - 1
    # A reset may take with it what the client's kernel had received.
    assert (0 if fault.reset_after else 1) <= again <= 700_000
    assert reader.arrivals == sorted(set(reader.arrivals))


async def test_an_origin_that_breaks_several_times_is_read_to_the_end(
    origin: CountingOrigin, reader: Reader
) -> None:
    file = await reader.look_up("cat.jpg")
    origin.fault(PATH, Fault(reset_after=700_000), times=4)
    assert await reader.fetch(file) == DATA
    assert len(origin.ranges_for(PATH)) > 2


async def test_a_silent_transfer_is_begun_anew(
    origin: CountingOrigin, autojump_clock: trio.testing.MockClock
) -> None:
    stall = Stall(after=500_000)
    async with reading("s3://photos", endpoint=origin.url(), anonymous=True, deadline_seconds=6) as reader:
        file = await reader.look_up("cat.jpg")
        origin.fault(PATH, Fault(stall=stall))
        assert await reader.fetch(file) == DATA
        assert len(origin.ranges_for(PATH)) > 1


async def test_slow_progress_is_progress(origin: CountingOrigin, mock_clock: trio.testing.MockClock) -> None:
    """The deadline counts from the last byte that arrived."""
    mock_clock.rate = 1
    async with reading("s3://photos", endpoint=origin.url(), anonymous=True, deadline_seconds=90) as reader:
        file = await reader.look_up("cat.jpg")
        origin.rate = 3_000_000  # so that most of it has arrived when the connection is reset
        origin.fault(PATH, Fault(reset_after=450_000), times=100)
        buffer = bytearray(len(DATA))
        began = trio.current_time()
        await reader.netfs.fetch(file, 0, memoryview(buffer), lambda n: mock_clock.jump(45))
        assert buffer == DATA
        assert trio.current_time() - began > 90


async def test_what_came_is_handed_on_though_little_did(origin: CountingOrigin, reader: Reader) -> None:
    file = await reader.look_up("cat.jpg")
    stall, came, buffer = Stall(after=2 * CHUNK_SIZE), trio.Event(), bytearray(len(DATA))
    origin.fault(PATH, Fault(stall=stall))

    def arrived(n_bytes: int) -> None:
        if n_bytes >= CHUNK_SIZE:
            came.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.netfs.fetch, file, 0, memoryview(buffer), arrived)
        await came.wait()  # the origin sends no more until then
        stall.release()
    assert buffer == DATA


async def test_an_origin_that_comes_back_is_read_on(origin: CountingOrigin) -> None:
    options: dict[str, str | float] = {"endpoint": origin.url(), "anonymous": True, "deadline_seconds": 900}
    async with (
        reading("s3://photos", connect_seconds=900, **options) as reader,
        reading("s3://photos", connect_seconds=0.5, **options) as hasty,
    ):
        file = await reader.look_up("cat.jpg")
        origin.stop()
        buffer = bytearray(len(DATA))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.netfs.fetch, file, 0, memoryview(buffer), reader.arrivals.append)
            with pytest.raises(OriginUnreachableError):
                await hasty.look_up("cat.jpg")
            origin.start()
        assert buffer == DATA


# -- what does not pass --------------------------------------------------------------------


# Where the clock jumps, only the pauses between attempts count: obstore's own silence is measured by another.


async def test_a_busy_origin_is_reported_at_the_deadline(
    origin: CountingOrigin, autojump_clock: trio.testing.MockClock
) -> None:
    async with reading("s3://photos", endpoint=origin.url(), anonymous=True, deadline_seconds=60) as reader:
        file = await reader.look_up("cat.jpg")
        origin.fault(PATH, Fault(status=503), times=1000)
        with pytest.raises(OriginError) as raised:
            await reader.fetch(file, 10, 90)
        assert type(raised.value) is OriginError
        assert_one_line_naming(
            raised.value, origin.url().rstrip("/"), "bytes 10-99", "503 Service Unavailable"
        )


async def test_a_silent_origin_is_reported_at_the_deadline(
    origin: CountingOrigin, reader: Reader, autojump_clock: trio.testing.MockClock
) -> None:
    aux = reader.netfs.get_aux(await reader.look_up("cat.jpg"))
    async with reading("s3://photos", endpoint=origin.url(), anonymous=True, deadline_seconds=0.6) as hasty:
        file = hasty.netfs.recall_file(hasty.volume, "cat.jpg", aux, len(DATA))
        origin.fault(PATH, Fault(stall=Stall(after=0)), times=1000)
        with pytest.raises(OriginTimeoutError) as raised:
            await hasty.fetch(file)
        assert_one_line_naming(raised.value, "no answer")
        assert len(origin.ranges_for(PATH)) > 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, OriginPermissionError), (403, OriginPermissionError), (400, OriginError), (416, StaleError)],
)
async def test_a_refusal_is_reported_at_once(
    origin: CountingOrigin, reader: Reader, status: int, kind: type[OriginError]
) -> None:
    file = await reader.look_up("cat.jpg")
    origin.fault(PATH, Fault(status=status), times=1000)
    with pytest.raises(OriginError) as raised:
        await reader.fetch(file)
    assert type(raised.value) is kind
    assert_one_line_naming(raised.value, str(status))
    assert len(origin.ranges_for(PATH)) == 1


async def test_a_missing_key_is_not_found(reader: Reader) -> None:
    with pytest.raises(OriginNotFoundError):
        await reader.look_up("dog.jpg")


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:{port}", "http://host.invalid:{port}"], ids=["refused", "dns"]
)
@pytest.mark.parametrize("path", ["cat.jpg", "odd//cat.jpg", ""])
async def test_an_origin_that_is_not_there_is_reported_in_one_line_after_the_time_to_connect(
    endpoint: str, path: str, autojump_clock: trio.testing.MockClock
) -> None:
    url = endpoint.format(port=free_port())
    async with reading("s3://photos", endpoint=url, anonymous=True, connect_seconds=20) as reader:
        began = trio.current_time()
        with pytest.raises(OriginUnreachableError) as raised:
            await reader.look_up(path)
        assert 10 < trio.current_time() - began <= 20
        assert url in str(raised.value)
        causes = ("refused", "Name or service", "name resolution")  # the last: of a resolver that is slow
        assert any(cause in str(raised.value) for cause in causes)
        assert "\n" not in str(raised.value)


async def test_no_credentials_anywhere_is_a_permission_error(origin: CountingOrigin) -> None:
    async with reading("s3://photos", endpoint=origin.url()) as reader:
        with pytest.raises(OriginPermissionError, match="no credentials"):
            await reader.look_up("cat.jpg")
    assert origin.n_requests == 0


async def test_a_metadata_service_that_refuses_means_no_credentials(
    origin: CountingOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CountingOrigin() as metadata:  # to a request for a token it says 501, as whatever is there may
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.url().rstrip("/"))
        async with reading("s3://photos", endpoint=origin.url()) as reader:
            for ask in (reader.netfs.look_up, reader.netfs.list_directory):
                with pytest.raises(OriginPermissionError, match="no credentials"):
                    await ask(reader.volume, "cat.jpg")
    assert origin.n_requests == 0


# -- another version ---------------------------------------------------------------------------


async def test_a_change_in_the_middle_of_a_transfer_keeps_what_had_arrived(
    origin: CountingOrigin, reader: Reader
) -> None:
    file = await reader.look_up("cat.jpg")
    stall = Stall(after=1_000_000)
    origin.fault(PATH, Fault(stall=stall, reset_after=1_200_000))
    buffer = bytearray(len(DATA))

    async def change() -> None:
        await trio.to_thread.run_sync(stall.wait_reached)
        while not reader.arrivals:
            await trio.lowlevel.checkpoint()
        origin.put(PATH, os.urandom(len(DATA)))
        stall.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        with pytest.raises(StaleError):
            await reader.netfs.fetch(file, 0, memoryview(buffer), reader.arrivals.append)
    arrived = reader.arrivals[-1]
    assert 0 < arrived < len(DATA)
    assert buffer[:arrived] == DATA[:arrived]


async def test_a_server_that_ignores_if_match_is_found_out(origin: CountingOrigin, reader: Reader) -> None:
    origin.validators = "weak"  # If-Match cannot be asked of a weak ETag
    file = await reader.look_up("cat.jpg")
    assert reader.netfs.get_attr(file).strength is Strength.WEAK
    assert await reader.fetch(file, 0, 100) == DATA[:100]
    origin.put(PATH, os.urandom(len(DATA)))
    with pytest.raises(StaleError, match="ETag"):
        await reader.fetch(file, 0, 100)
    assert reader.arrivals == []


async def test_without_any_validator_the_size_is_all_that_is_checked(
    origin: CountingOrigin, reader: Reader
) -> None:
    origin.validators = "none"
    file = await reader.look_up("cat.jpg")
    assert reader.netfs.get_attr(file).strength is Strength.NONE
    origin.put(PATH, DATA + b"x")
    with pytest.raises(StaleError, match="size"):
        await reader.fetch(file, 0, 100)


@pytest.mark.parametrize(
    "fault",
    [Fault(truncated_by=1000), Fault(extra=1000), Fault(content_range="bytes 0-9/1500000")],
    ids=["shorter", "longer", "other range"],
)
async def test_an_answer_of_the_wrong_size_is_never_taken(
    origin: CountingOrigin, reader: Reader, fault: Fault
) -> None:
    file = await reader.look_up("cat.jpg")
    origin.fault(PATH, fault)
    with pytest.raises(OriginError) as raised:
        await reader.fetch(file, 1000, 5000)
    assert_one_line_naming(raised.value, "bytes 1000-5999")


async def test_a_server_without_ranges_is_an_error_that_says_so(
    origin: CountingOrigin, reader: Reader
) -> None:
    origin.ranges = False
    file = await reader.look_up("cat.jpg")
    with pytest.raises(OriginError, match="range"):
        await reader.fetch(file, 0, 100)


# -- cancellation ------------------------------------------------------------------------------


async def test_a_cancelled_fetch_ends_at_once_and_leaves_the_buffer_alone(
    origin: CountingOrigin, reader: Reader
) -> None:
    file = await reader.look_up("cat.jpg")
    stall = Stall(after=1_000_000)
    origin.fault(PATH, Fault(stall=stall))
    buffer = bytearray(len(DATA))
    with trio.fail_after(60), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.netfs.fetch, file, 0, memoryview(buffer), reader.arrivals.append)
            await trio.to_thread.run_sync(stall.wait_reached)
            while not reader.arrivals:
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught
    arrived = reader.arrivals[-1]
    assert buffer[:arrived] == DATA[:arrived]
    n_arrivals = len(reader.arrivals)
    buffer[:] = bytes(len(buffer))
    stall.release()
    # closing waits for the thread that was left behind
    await reader.netfs.close_volume(reader.volume)
    assert not any(buffer)
    assert len(reader.arrivals) == n_arrivals


async def test_waiting_before_a_retry_is_cancelled_at_once(origin: CountingOrigin, reader: Reader) -> None:
    origin.fault(PATH, Fault(status=503), times=1000)
    with trio.fail_after(120), trio.move_on_after(0.5) as scope:
        await reader.look_up("cat.jpg")
    assert scope.cancelled_caught


async def test_a_process_that_ends_in_the_middle_of_a_fetch_ends_cleanly(origin: CountingOrigin) -> None:
    """The thread that was left behind is inside Rust while the interpreter goes down."""
    stall = Stall(after=1_000_000)
    origin.fault(PATH, Fault(stall=stall), times=1000)
    program = f"""
import trio, netfs_s3
async def main():
    netfs = netfs_s3.S3Netfs(endpoint={origin.url()!r}, anonymous=True)
    volume = await netfs.open_volume(netfs.parse_url('s3://photos'))
    file = await netfs.look_up(volume, 'cat.jpg')
    with trio.CancelScope() as scope:
        await netfs.fetch(file, 0, memoryview(bytearray({len(DATA)})), lambda n: scope.cancel())
trio.run(main)
print("end")
"""
    run = await trio.run_process([sys.executable, "-c", program], capture_stdout=True, capture_stderr=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"end\n", b"")


async def test_a_forked_process_is_told_instead_of_hanging(origin: CountingOrigin) -> None:
    program = f"""
import os, trio, netfs_s3, fscache_core.errors
async def main():
    netfs = netfs_s3.S3Netfs(endpoint={origin.url()!r}, anonymous=True)
    volume = await netfs.open_volume(netfs.parse_url('s3://photos'))
    await netfs.look_up(volume, 'cat.jpg')
trio.run(main)
if os.fork() == 0:
    try:
        trio.run(main)
    except fscache_core.errors.UnsupportedError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""
    with trio.fail_after(60):
        run = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert b"forked" in run.stdout
