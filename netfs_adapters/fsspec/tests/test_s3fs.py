"""Objects of real Ceph through s3fs: a filesystem of fsspec whose files are objects of a store."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
from fsspec_session import opened, read  # type: ignore[import-not-found]

from fscache_core import open_fscache
from fscache_core.errors import (
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from fscache_core.hookspecs import FileKind, Strength
from fscache_core.testing.http_origin import Fault
from fscache_core.testing.http_proxy import HttpProxy
from fscache_core.testing.interruption import cancelled_after
from netfs_fsspec import FsspecNetfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from fscache_core.testing.s3_server import S3Server

pytest.importorskip("s3fs", reason="no s3fs (pip install s3fs)")
pytestmark = pytest.mark.integration

BUCKET, VERSIONED = "netfs-fsspec-test", "netfs-fsspec-versions"
DATA = random.Random(31).randbytes(1_500_000)


@pytest.fixture(scope="session")
def server(fscache_s3: S3Server) -> S3Server:
    fscache_s3.create_bucket(BUCKET)
    fscache_s3.create_bucket(VERSIONED, versioning=True)
    return fscache_s3


def netfs_for(server: S3Server, endpoint: str = "", **options: object) -> FsspecNetfs:
    of_s3 = {
        "key": server.access_key,
        "secret": server.secret_key,
        "client_kwargs": {"endpoint_url": endpoint or server.endpoint, "region_name": server.region},
        # botocore would ask again itself, and longer than the adapter's deadline.
        "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 60, "read_timeout": 60},
    }
    return FsspecNetfs(storage_options={"s3": of_s3}, **{"backoff_seconds": 0.001, **options})  # type: ignore[arg-type]


async def test_an_object_is_looked_up_listed_and_read_in_ranges(server: S3Server) -> None:
    server.put(BUCKET, "a/b c+ü.bin", DATA)
    netfs = netfs_for(server, piece_bytes=400_000)
    async with opened(netfs, f"fsspec:s3://{BUCKET}/a/b c+ü.bin") as (volume, path):
        file = await netfs.look_up(volume, path)
        attributes = netfs.get_attr(file)
        assert (attributes.kind, attributes.size, attributes.strength) == (
            FileKind.FILE,
            len(DATA),
            Strength.STRONG,
        )
        assert "ETag" in attributes.evidence
        assert await read(netfs, file) == DATA
        assert await read(netfs, file, 399_999, 2) == DATA[399_999:400_001]
        recalled = netfs.recall_file(volume, path, netfs.get_aux(file), len(DATA))
        assert await read(netfs, recalled, 1_000_000, 10) == DATA[1_000_000:1_000_010]
        (entry,) = await netfs.list_directory(volume, "/a")
        assert (entry.name, entry.attributes.size) == ("b c+ü.bin", len(DATA))
        assert netfs.get_attr(await netfs.look_up(volume, "/a")).kind is FileKind.DIRECTORY


async def test_an_object_that_is_overwritten_or_deleted_is_stale(server: S3Server) -> None:
    server.put(BUCKET, "changing", DATA)
    netfs = netfs_for(server)
    async with opened(netfs, f"fsspec:s3://{BUCKET}/changing") as (volume, path):
        file = await netfs.look_up(volume, path)
        assert await read(netfs, file, 0, 10) == DATA[:10]
        server.put(BUCKET, "changing", DATA[::-1])  # of equal size, within the same second
        with pytest.raises(StaleError, match=r"^fsspec:s3://.*/changing, bytes 10-19: it has changed"):
            await read(netfs, file, 10, 10)
        again = await netfs.look_up(volume, path)
        assert await read(netfs, again, 10, 10) == DATA[::-1][10:20]
        server.delete(BUCKET, "changing")
        with pytest.raises((StaleError, OriginNotFoundError)):
            await read(netfs, again, 20, 10)
        with pytest.raises(OriginNotFoundError):
            await netfs.look_up(volume, path)


async def test_the_same_bytes_stored_again_are_no_change_of_bytes(server: S3Server) -> None:
    server.put(BUCKET, "twice", DATA)
    netfs = netfs_for(server)
    async with opened(netfs, f"fsspec:s3://{BUCKET}/twice") as (volume, path):
        file = await netfs.look_up(volume, path)
        server.put(BUCKET, "twice", DATA)
        try:
            assert await read(netfs, file, 0, 10) == DATA[:10]
        except StaleError as error:  # its date has changed, which is evidence too
            said = str(error)
            assert "LastModified" in said


async def test_who_may_not_is_told_so(server: S3Server) -> None:
    if "authentication" in server.lacks:
        pytest.skip(f"{server.name} has no authentication")
    of_s3 = {
        "key": server.access_key,
        "secret": "wrong",
        "client_kwargs": {"endpoint_url": server.endpoint, "region_name": server.region},
    }
    netfs = FsspecNetfs(storage_options={"s3": of_s3})
    async with opened(netfs, f"fsspec:s3://{BUCKET}/a") as (volume, path):
        with pytest.raises(OriginPermissionError):
            await netfs.look_up(volume, path)


@pytest.fixture
def proxy(server: S3Server) -> Iterator[HttpProxy]:
    with HttpProxy(server.host, server.port) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=401), OriginPermissionError),
        (Fault(status=403), OriginPermissionError),
        (Fault(status=404), OriginNotFoundError),
        (Fault(status=412), OriginError),
        (Fault(status=416), OriginError),
        (Fault(status=429), OriginError),
        (Fault(status=500), OriginError),
        (Fault(status=503), OriginUnreachableError),
        (Fault(reset_after=0), OriginError),
        (Fault(reset_after=100_000), OriginError),
        (Fault(short_by=10), OriginError),
        (Fault(truncated_by=10), OriginError),
        (Fault(extra=10), OriginError),
    ],
    ids=repr,
)
async def test_a_fault_that_lasts_is_one_error_and_leaves_nothing_wrong(
    server: S3Server, proxy: HttpProxy, tmp_path: Path, fault: Fault, kind: type[OriginError]
) -> None:
    server.put(BUCKET, "f", DATA)
    url = f"fsspec:s3://{BUCKET}/f"
    endpoint = f"http://{proxy.host}:{proxy.port}"
    for healthy in (False, True):
        async with open_fscache() as fscache:
            await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
            fscache.add_netfs(netfs_for(server, endpoint, retries=1, deadline_seconds=60))
            if healthy:
                async with await fscache.open_file(url) as file:
                    assert await file.read(0, len(DATA)) == DATA
                break
            async with await fscache.open_file(url) as file:
                proxy.fault(f"{BUCKET}/f", fault, times=1_000_000)
                with pytest.raises((kind, OriginTimeoutError)) as caught:
                    await file.read(0, len(DATA))
                assert str(caught.value).startswith(url)
                assert "\n" not in str(caught.value)
            proxy.clear_faults()
    async with open_fscache(offline=True) as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        fscache.add_netfs(netfs_for(server, endpoint))
        async with await fscache.open_file(url) as file:
            assert await file.read(0, len(DATA)) == DATA


async def test_calls_cancelled_at_any_step_leave_the_filesystem_usable(server: S3Server) -> None:
    server.put(BUCKET, "c", DATA)
    netfs = netfs_for(server, piece_bytes=500_000)
    async with opened(netfs, f"fsspec:s3://{BUCKET}/c") as (volume, path):
        file = await netfs.look_up(volume, path)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "look_up": partial(netfs.look_up, volume, path),
            "list": partial(netfs.list_directory, volume, "/"),
            "fetch": partial(read, netfs, file),
        }
        for call in calls.values():
            for n_steps in range(1000):
                cancelled, _ = await cancelled_after(n_steps, call)
                assert await read(netfs, file, 700_000, 10) == DATA[700_000:700_010]
                if not cancelled:
                    break
            assert not cancelled
