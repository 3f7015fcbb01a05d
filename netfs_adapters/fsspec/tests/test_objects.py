"""Objects of real stores: of Ceph through s3fs, of an emulator of Google Cloud Storage through gcsfs."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest
from fsspec_session import opened, read  # type: ignore[import-not-found]
from object_stores import GcsStore, S3Store  # type: ignore[import-not-found]

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
from fscache_core.testing.workspace import LOOPBACK
from netfs_fsspec import FsspecNetfs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

DATA = random.Random(41).randbytes(1_500_000)


@pytest.fixture(params=["s3", "gcs"])
def store(request: pytest.FixtureRequest) -> S3Store | GcsStore:
    return request.getfixturevalue(request.param)


async def test_an_object_is_looked_up_listed_and_read_in_ranges(store: S3Store | GcsStore) -> None:
    named = store.put("a/b c+ü.bin", DATA)
    netfs = store.netfs(piece_bytes=400_000)
    async with opened(netfs, store.url("a/b c+ü.bin")) as (volume, path):
        file = await netfs.look_up(volume, path)
        attributes = netfs.get_attr(file)
        assert (attributes.kind, attributes.size, attributes.strength) == (
            FileKind.FILE,
            len(DATA),
            Strength.STRONG,
        )
        assert all(each in attributes.evidence for each in named)
        assert await read(netfs, file, 0, len(DATA)) == DATA
        assert await read(netfs, file, 399_999, 2) == DATA[399_999:400_001]
        recalled = netfs.recall_file(volume, path, netfs.get_aux(file), len(DATA))
        assert await read(netfs, recalled, 1_000_000, 10) == DATA[1_000_000:1_000_010]
        (entry,) = await netfs.list_directory(volume, "/a")
        assert (entry.name, entry.attributes.size) == ("b c+ü.bin", len(DATA))
        if isinstance(store, GcsStore):  # S3 is less exact about the date of a single object
            assert entry.attributes == attributes
        assert netfs.get_attr(await netfs.look_up(volume, "/a")).kind is FileKind.DIRECTORY


async def test_an_object_that_is_overwritten_or_deleted_is_stale(store: S3Store | GcsStore) -> None:
    store.put("b/changing", DATA)
    netfs = store.netfs()
    async with opened(netfs, store.url("b/changing")) as (volume, path):
        await netfs.list_directory(volume, "/b")  # the filesystem could answer from it
        file = await netfs.look_up(volume, path)
        assert await read(netfs, file, 0, 10) == DATA[:10]
        store.put("b/changing", DATA[::-1])  # of equal size
        with pytest.raises(StaleError, match=r"^fsspec:.*/b/changing, bytes 10-19: it has changed"):
            await read(netfs, file, 10, 10)
        again = await netfs.look_up(volume, path)
        assert await read(netfs, again, 10, 10) == DATA[::-1][10:20]
        store.delete("b/changing")
        with pytest.raises((StaleError, OriginNotFoundError)):
            await read(netfs, again, 20, 10)
        with pytest.raises(OriginNotFoundError):
            await netfs.look_up(volume, path)


async def test_an_object_is_fetched_once_until_it_changes_and_read_without_its_origin(
    store: S3Store | GcsStore, tmp_path: Path
) -> None:
    store.put("c", DATA)
    url = store.url("c")
    with HttpProxy(LOOPBACK, store.port) as proxy:

        async def fetched(expected: bytes, offline: bool = False) -> int:
            """Read it in a session of its own.  Returns how many bytes of objects came for that."""
            before = len(proxy.exchanges)
            async with open_fscache(offline=offline) as fscache:
                await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
                fscache.add_netfs(store.netfs(proxy.port))
                async with await fscache.open_file(url) as file:
                    assert await file.read(0, len(expected)) == expected
            exchanges = proxy.exchanges[before:]
            assert bool(exchanges) is not offline
            return sum(each.body_bytes for each in exchanges if each.path.startswith(store.path("c")))

        assert await fetched(DATA) == len(DATA)
        assert await fetched(DATA) == 0
        store.put("c", DATA[::-1])
        assert await fetched(DATA[::-1]) == len(DATA)
        assert await fetched(DATA[::-1]) == 0
        assert await fetched(DATA[::-1], offline=True) == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=403), OriginPermissionError),
        (Fault(status=404), OriginNotFoundError),
        (Fault(status=416), OriginError),
        (Fault(truncated_by=10), OriginError),
        (Fault(extra=10), OriginError),
    ],
    ids=repr,
)
async def test_what_gcsfs_makes_of_a_fault_is_one_error_of_its_kind(
    gcs: GcsStore, fault: Fault, kind: type[OriginError]
) -> None:
    gcs.put("d", DATA)
    with HttpProxy(LOOPBACK, gcs.port) as proxy:
        netfs = gcs.netfs(proxy.port, retries=1)
        async with opened(netfs, gcs.url("d")) as (volume, path):
            file = await netfs.look_up(volume, path)
            proxy.fault(gcs.path("d"), fault, times=1_000_000)
            with pytest.raises(kind, match=rf"^{gcs.url('d')}, bytes 0-99: "):
                await read(netfs, file, 0, 100)
            proxy.clear_faults()
            assert await read(netfs, file, 0, 100) == DATA[:100]


# -- S3 alone ------------------------------------------------------------------------------


async def test_the_same_bytes_stored_again_are_no_change_of_bytes(s3: S3Store) -> None:
    s3.put("twice", DATA)
    netfs = s3.netfs()
    async with opened(netfs, s3.url("twice")) as (volume, path):
        file = await netfs.look_up(volume, path)
        s3.put("twice", DATA)
        try:
            assert await read(netfs, file, 0, 10) == DATA[:10]
        except StaleError as error:  # its date has changed, which is evidence too
            said = str(error)
            assert "LastModified" in said


async def test_who_may_not_is_told_so(s3: S3Store) -> None:
    server = s3.server
    if "authentication" in server.lacks:
        pytest.skip(f"{server.name} has no authentication")
    of_s3 = {
        "key": server.access_key,
        "secret": "wrong",
        "client_kwargs": {"endpoint_url": server.endpoint, "region_name": server.region},
    }
    netfs = FsspecNetfs(storage_options={"s3": of_s3})
    async with opened(netfs, s3.url("a")) as (volume, path):
        with pytest.raises(OriginPermissionError):
            await netfs.look_up(volume, path)


@pytest.fixture
def proxy(s3: S3Store) -> Iterator[HttpProxy]:
    with HttpProxy(LOOPBACK, s3.port) as proxy:
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
    s3: S3Store, proxy: HttpProxy, tmp_path: Path, fault: Fault, kind: type[OriginError]
) -> None:
    s3.put("f", DATA)
    url = s3.url("f")
    for healthy in (False, True):
        async with open_fscache() as fscache:
            await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
            fscache.add_netfs(s3.netfs(proxy.port, retries=1, deadline_seconds=60))
            if healthy:
                async with await fscache.open_file(url) as file:
                    assert await file.read(0, len(DATA)) == DATA
                break
            async with await fscache.open_file(url) as file:
                proxy.fault(s3.path("f"), fault, times=1_000_000)
                with pytest.raises((kind, OriginTimeoutError)) as caught:
                    await file.read(0, len(DATA))
                assert str(caught.value).startswith(url)
                assert "\n" not in str(caught.value)
            proxy.clear_faults()
    async with open_fscache(offline=True) as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        fscache.add_netfs(s3.netfs(proxy.port))
        async with await fscache.open_file(url) as file:
            assert await file.read(0, len(DATA)) == DATA


async def test_calls_cancelled_at_any_step_leave_the_filesystem_usable(s3: S3Store) -> None:
    s3.put("c", DATA)
    netfs = s3.netfs(piece_bytes=500_000)
    async with opened(netfs, s3.url("c")) as (volume, path):
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
