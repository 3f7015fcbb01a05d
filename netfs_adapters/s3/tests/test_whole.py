"""Ranges that are fetched as a whole: of one version, of the right size, or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from fscache_core.errors import OriginError, OriginUnreachableError, StaleError
from fscache_core.testing.http_origin import Fault, Stall
from netfs_adapters.s3.tests.conftest import DATA, PATH, VERSIONED, Reader, reading

if TYPE_CHECKING:
    from fscache_core.testing.http_origin import CountingOrigin
    from fscache_core.testing.s3_server import S3Server
    from netfs_s3.netfs import S3File


async def fetch_whole(reader: Reader, file: S3File, offset: int, size: int) -> bytes:
    return bytes(memoryview(await reader.netfs.fetch_whole(file, offset, size)))


async def test_it_is_one_request_for_the_range_of_the_version(origin: CountingOrigin, reader: Reader) -> None:
    file = await reader.look_up("cat.jpg")
    assert await fetch_whole(reader, file, 1000, 1_200_000) == DATA[1000:1_201_000]
    head, get = origin.exchanges
    assert (head.method, get.method) == ("HEAD", "GET")
    assert get.headers["if-match"] == origin.etag(PATH)
    assert get.asked == (1000, 1_200_999)


async def test_what_was_overwritten_is_stale(origin: CountingOrigin, reader: Reader) -> None:
    file = await reader.look_up("cat.jpg")
    origin.put(PATH, os.urandom(len(DATA)))
    with pytest.raises(StaleError) as raised:
        await reader.netfs.fetch_whole(file, 10, 20)
    assert "s3://photos/cat.jpg" in str(raised.value)
    assert "bytes 10-29" in str(raised.value)


async def test_a_server_that_ignores_if_match_is_found_out(origin: CountingOrigin, reader: Reader) -> None:
    origin.validators = "weak"  # If-Match cannot be asked of a weak ETag
    file = await reader.look_up("cat.jpg")
    assert await fetch_whole(reader, file, 0, 100) == DATA[:100]
    origin.put(PATH, os.urandom(len(DATA)))
    with pytest.raises(StaleError, match="ETag"):
        await reader.netfs.fetch_whole(file, 0, 100)


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
        await reader.netfs.fetch_whole(file, 1000, 5000)
    assert "bytes 1000-5999" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(reset_after=700_000), Fault(short_by=800_000)], ids=repr
)
async def test_what_passes_is_asked_for_again(origin: CountingOrigin, reader: Reader, fault: Fault) -> None:
    file = await reader.look_up("cat.jpg")
    origin.fault(PATH, fault, times=2)
    assert await fetch_whole(reader, file, 0, len(DATA)) == DATA
    assert len(origin.ranges_for(PATH)) == 3


async def test_what_breaks_off_twice_goes_on_where_it_broke(origin: CountingOrigin, reader: Reader) -> None:
    file = await reader.look_up("cat.jpg")
    origin.fault(PATH, Fault(short_by=800_000), times=2)
    assert await fetch_whole(reader, file, 0, len(DATA)) == DATA
    first, again, third = (start for start, _ in origin.ranges_for(PATH))
    assert first == again == 0 < third


async def test_an_origin_that_went_away_is_reported(
    origin: CountingOrigin, autojump_clock: trio.testing.MockClock
) -> None:
    options = {"anonymous": True, "deadline_seconds": 900, "connect_seconds": 20}
    async with reading("s3://photos", endpoint=origin.url(), **options) as reader:
        file = await reader.look_up("cat.jpg")
        origin.close()
        with pytest.raises(OriginUnreachableError, match="bytes 0-99"):
            await reader.netfs.fetch_whole(file, 0, 100)


@pytest.mark.integration
async def test_an_overwritten_version_is_still_read_where_the_bucket_keeps_versions(
    account: S3Server,
) -> None:
    account.put(VERSIONED, "whole", b"version 1")
    async with reading(f"s3://{VERSIONED}") as reader:
        file = await reader.look_up("whole")
        account.put(VERSIONED, "whole", b"VERSION 2")
        assert await fetch_whole(reader, file, 0, 9) == b"version 1"
        account.delete(VERSIONED, "whole")
        assert await fetch_whole(reader, file, 1, 4) == b"ersi"


async def test_a_cancelled_one_ends_at_once(origin: CountingOrigin, reader: Reader) -> None:
    file = await reader.look_up("cat.jpg")
    stall = Stall(after=1_000_000)
    origin.fault(PATH, Fault(stall=stall))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.netfs.fetch_whole, file, 0, len(DATA))
            await trio.to_thread.run_sync(stall.wait_reached)
            scope.cancel()
    assert scope.cancelled_caught
    stall.release()
