"""Writing through, to a real S3 server."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import CallerError, OriginUnreachableError, StaleError
from fscache_core.hookspecs import AuxOutcome
from netfs_adapters.s3.tests.conftest import BUCKET, VERSIONED, Reader, reading
from netfs_s3.bucket import PART_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fscache_core.testing.s3_server import S3Server

pytestmark = pytest.mark.integration

SMALL = os.urandom(100_000)
LARGE = os.urandom(2 * PART_SIZE + 12345)


@pytest.fixture
async def reader(account: S3Server) -> AsyncIterator[Reader]:
    async with reading() as reader:
        yield reader


async def chunks(data: bytes, size: int = 1_000_003) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[start : start + size]


def unfinished_uploads(server: S3Server) -> bytes:
    return server.client.request("GET", BUCKET, query={"uploads": ""}).body


@pytest.mark.parametrize("data", [b"", b"x", SMALL, LARGE], ids=["empty", "byte", "small", "large"])
@pytest.mark.parametrize("key", ["plain.bin", "odd//key\x01/é #?"], ids=["plain", "odd"])
async def test_what_is_put_is_read(account: S3Server, reader: Reader, data: bytes, key: str) -> None:
    file = await reader.netfs.put_file(reader.volume, key, chunks(data), None)
    assert account.get(BUCKET, key) == data
    assert reader.netfs.get_attr(file).size == len(data)
    now = await reader.look_up(key)
    assert reader.netfs.check_aux(now, reader.netfs.get_aux(file), len(data)) is AuxOutcome.OKAY
    if data:
        assert await reader.fetch(file) == data


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_version_that_is_still_there_is_replaced(
    account: S3Server, reader: Reader, data: bytes
) -> None:
    account.put(BUCKET, "replaced", b"old")
    old = await reader.look_up("replaced")
    new = await reader.netfs.put_file(reader.volume, "replaced", chunks(data), old)
    assert account.get(BUCKET, "replaced") == data
    with pytest.raises(StaleError):
        await reader.fetch(old)
    assert await reader.fetch(new) == data


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_version_that_was_overwritten_is_not_replaced(
    account: S3Server, reader: Reader, data: bytes
) -> None:
    account.put(BUCKET, "contended", b"old")
    old = await reader.look_up("contended")
    account.put(BUCKET, "contended", b"of somebody else")
    with pytest.raises(StaleError, match=f"s3://{BUCKET}/contended"):
        await reader.netfs.put_file(reader.volume, "contended", chunks(data), old)
    assert account.get(BUCKET, "contended") == b"of somebody else"
    assert b"contended" not in unfinished_uploads(account)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_version_that_was_deleted_is_not_replaced(
    account: S3Server, reader: Reader, data: bytes
) -> None:
    account.put(BUCKET, "deleted", b"old")
    old = await reader.look_up("deleted")
    account.delete(BUCKET, "deleted")
    with pytest.raises(StaleError):
        await reader.netfs.put_file(reader.volume, "deleted", chunks(data), old)


async def test_a_put_makes_a_version_that_is_readable_by_id(account: S3Server) -> None:
    async with reading(f"s3://{VERSIONED}") as reader:
        first = await reader.netfs.put_file(reader.volume, "put", chunks(b"one"), None)
        assert first.version is not None
        await reader.netfs.put_file(reader.volume, "put", chunks(b"two"), first)
        assert await reader.read(f"put?versionId={first.version.version_id}") == b"one"
        assert await reader.read("put") == b"two"


class _ConditionServer:
    """Has one object and takes a PUT only under a condition without quotes, like Ceph before 17."""

    def __init__(self) -> None:
        self.conditions: list[str | None] = []
        outer = self

        class Conversation(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(200)

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.conditions.append(self.headers["If-Match"])
                self._answer(200 if self.headers["If-Match"] == "v1" else 412)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("ETag", '"v1"')
                self.send_header("Content-Length", "3" if self.command == "HEAD" else "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Conversation)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


async def test_the_condition_is_sent_as_the_server_understands_it() -> None:
    server = _ConditionServer()
    try:
        endpoint = f"http://127.0.0.1:{server.server.server_port}"
        async with reading("s3://photos", endpoint=endpoint, anonymous=True) as reader:
            old = await reader.look_up("x")
            await reader.netfs.put_file(reader.volume, "x", chunks(b"new"), old)
    finally:
        server.close()
    assert server.conditions == ['"v1"', "v1"]


class SourceError(Exception):
    pass


@pytest.mark.parametrize("good_size", [0, 10, PART_SIZE + 10, 3 * PART_SIZE])
async def test_a_source_that_fails_leaves_the_object_as_it_was(
    account: S3Server, reader: Reader, good_size: int
) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield bytes(good_size)
        raise SourceError

    account.put(BUCKET, "kept", b"as it was")
    with pytest.raises(SourceError):
        await reader.netfs.put_file(reader.volume, "kept", source(), None)
    assert account.get(BUCKET, "kept") == b"as it was"
    assert b"kept" not in unfinished_uploads(account)


async def test_a_cancelled_upload_leaves_the_object_as_it_was(account: S3Server, reader: Reader) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield bytes(2 * PART_SIZE)
        scope.cancel()
        await trio.sleep_forever()

    account.put(BUCKET, "kept", b"as it was")
    with trio.fail_after(120), trio.CancelScope() as scope:
        await reader.netfs.put_file(reader.volume, "kept", source(), None)
    assert scope.cancelled_caught
    assert account.get(BUCKET, "kept") == b"as it was"
    assert b"kept" not in unfinished_uploads(account)


@pytest.mark.parametrize("key", ["unlinked", "odd//unlinked"])
async def test_an_unlinked_object_is_gone(account: S3Server, reader: Reader, key: str) -> None:
    account.put(BUCKET, key, b"x")
    account.put(BUCKET, "unlinked-not", b"x")
    await reader.netfs.unlink(reader.volume, key)
    with pytest.raises(FileNotFoundError):
        await reader.look_up(key)
    await reader.netfs.unlink(reader.volume, key)
    assert await reader.read("unlinked-not") == b"x"


@pytest.mark.parametrize("path", ["", "x?versionId=abc"])
async def test_a_bucket_or_a_single_version_is_not_written(
    account: S3Server, reader: Reader, path: str
) -> None:
    with pytest.raises(CallerError):
        await reader.netfs.put_file(reader.volume, path, chunks(b"x"), None)
    with pytest.raises(CallerError):
        await reader.netfs.unlink(reader.volume, path)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_writing_to_an_origin_that_is_not_there_fails_in_one_line(
    account: S3Server, data: bytes
) -> None:
    async with reading(endpoint="http://127.0.0.1:1", connect_seconds=0.3, deadline_seconds=1) as reader:
        with trio.fail_after(120), pytest.raises(OriginUnreachableError) as raised:
            await reader.netfs.put_file(reader.volume, "x", chunks(data), None)
        assert "\n" not in str(raised.value)
