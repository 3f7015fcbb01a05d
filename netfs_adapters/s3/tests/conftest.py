"""The real server and what the tests read with."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing.http_origin import CountingOrigin
from netfs_s3 import S3Netfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fscache_core.testing.s3_server import S3Server
    from netfs_s3.bucket import Bucket
    from netfs_s3.netfs import S3File

BUCKET = "netfs-s3-test"
VERSIONED = "netfs-s3-test-versioned"

#: What the server that misbehaves as told has.
PATH = "photos/cat.jpg"
DATA = os.urandom(1_500_000)


@pytest.fixture(scope="session")
def server(fscache_s3: S3Server) -> S3Server:
    fscache_s3.create_bucket(BUCKET)
    fscache_s3.create_bucket(VERSIONED, versioning=True)
    return fscache_s3


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """No account of whoever runs the tests; and nobody asks the metadata service of a cloud."""

    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def account(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with the usual variables pointing at it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    monkeypatch.setenv("AWS_REGION", server.region)
    return server


@dataclass
class Reader:
    """One volume, used as core uses it."""

    netfs: S3Netfs
    volume: Bucket
    arrivals: list[int] = field(default_factory=list)

    async def look_up(self, path: str) -> S3File:
        return await self.netfs.look_up(self.volume, path)

    async def fetch(self, file: S3File, offset: int = 0, size: int | None = None) -> bytes:
        buffer = bytearray(self.netfs.get_attr(file).size - offset if size is None else size)
        self.arrivals.clear()
        await self.netfs.fetch(file, offset, memoryview(buffer), self.arrivals.append)
        return bytes(buffer)

    async def read(self, path: str) -> bytes:
        return await self.fetch(await self.look_up(path))


@asynccontextmanager
async def reading(url: str = f"s3://{BUCKET}", **options: str | float | bool) -> AsyncIterator[Reader]:
    netfs = S3Netfs(**options)  # type: ignore[arg-type]  # options come as text too
    volume = await netfs.open_volume(netfs.parse_url(url))
    try:
        yield Reader(netfs, volume)
    finally:
        await netfs.close_volume(volume)


@pytest.fixture
def origin() -> Iterator[CountingOrigin]:
    """Answers GET and HEAD of objects as S3 does, listings not at all, and misbehaves as told."""
    with CountingOrigin({PATH: DATA}) as origin:
        yield origin


@pytest.fixture
async def reader(origin: CountingOrigin) -> AsyncIterator[Reader]:
    """Of that server; only a hang would reach its deadline."""
    async with reading("s3://photos", endpoint=origin.url(), anonymous=True, deadline_seconds=900) as reader:
        yield reader
