"""Real servers that are killed, restarted and given new files while they are read."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trio

from fscache_core import OfflineError, OriginNotFoundError, OriginUnreachableError, StaleError, open_fscache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fscache_core import File, FsCache
    from tests.integration.conftest import Origins

pytestmark = pytest.mark.integration

MIB = 1 << 20
SIZE = 24 * MIB + 777
BUCKET = "fscache-faults"


@dataclass(frozen=True, slots=True)
class Origin:
    """One of the two servers."""

    url: str  #: of a file that does not exist yet
    netfs: str
    options: dict[str, object]
    put: Callable[[bytes], None]  #: give the file this content
    remove: Callable[[], None]
    stop: Callable[[], None]
    start: Callable[[], None]


@pytest.fixture(params=["sshfs", "s3"])
def origin(
    request: pytest.FixtureRequest, origins: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Origin]:
    for name, value in origins.environment.items():
        monkeypatch.setenv(name, value)
    patience: dict[str, object] = (
        {"deadline_seconds": 60, "reconnect_seconds": 2, "outage_seconds": 4}
        if request.param == "sshfs"
        else {"deadline_seconds": 60}
    )
    options = {**origins.netfs_options[request.param], **patience}
    if request.param == "sshfs":
        server = origins.sftp
        path = server.root / f"faults-{tmp_path.name}"

        def put(data: bytes) -> None:
            new = path.with_name(path.name + ".new")
            new.write_bytes(data)
            os.utime(new, ns=(0, random.getrandbits(58)))  # long ago, so that it proves something
            new.replace(path)

        url = f"sshfs://{server.user}@{server.host}:{server.port}{path}"
        yield Origin(url, "sshfs", options, put, path.unlink, server.stop, server.start)
        server.start()
        path.unlink(missing_ok=True)
    else:
        s3 = origins.s3
        s3.create_bucket(BUCKET)
        key = tmp_path.name

        def put_object(data: bytes) -> None:
            s3.put(BUCKET, key, data)

        yield Origin(
            f"s3://{BUCKET}/{key}",
            "s3",
            options,
            put_object,
            lambda: s3.delete(BUCKET, key),
            s3.stop,
            s3.start,
        )
        s3.start()


async def start(origin: Origin, fscache: FsCache, directory: Path) -> None:
    await fscache.add_cache("cachefiles", dir=str(directory))
    fscache.add_netfs(origin.netfs, **origin.options)  # type: ignore[arg-type]


async def cached_of(origin: Origin, directory: Path, data: bytes) -> int:
    """How many bytes are cached; every one must be right."""
    n = 0
    async with open_fscache(offline=True) as fscache:
        await start(origin, fscache, directory)
        try:
            file = await fscache.open_file(origin.url)
        except OfflineError:
            return 0
        async with file:
            for offset in range(0, file.size, 65536):
                try:
                    piece = await file.read(offset, 65536)
                except OfflineError:
                    continue
                assert piece == data[offset : offset + 65536], f"wrong bytes at {offset}"
                n += len(piece)
    return n


async def test_a_server_that_is_killed_and_restarted_in_the_middle_of_a_read(
    origin: Origin, tmp_path: Path
) -> None:
    data = random.Random(11).randbytes(SIZE)
    await trio.to_thread.run_sync(origin.put, data)
    async with open_fscache() as fscache:
        await start(origin, fscache, tmp_path / "cache")
        async with await fscache.open_file(origin.url) as file:
            found = bytearray(SIZE)
            half = trio.Event()
            errors: list[str] = []

            async def reader() -> None:
                offset = 0
                while offset < SIZE:
                    try:
                        n = await file.readinto(offset, memoryview(found)[offset : offset + 300_000])
                    except OriginUnreachableError as error:
                        errors.append(str(error))
                    else:
                        offset += n
                    if offset > SIZE // 4:
                        half.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader)
                await half.wait()
                await trio.to_thread.run_sync(origin.stop)
                await trio.to_thread.run_sync(origin.start)
            assert found == data
            assert all(urlsplit(origin.url).path in error for error in errors), errors
    assert await cached_of(origin, tmp_path / "cache", data) == SIZE


async def test_a_server_that_is_gone_is_one_clear_error_and_what_is_cached_is_right(
    origin: Origin, tmp_path: Path
) -> None:
    data = random.Random(12).randbytes(SIZE)
    await trio.to_thread.run_sync(origin.put, data)
    async with open_fscache() as fscache:
        await start(origin, fscache, tmp_path / "cache")
        async with await fscache.open_file(origin.url) as file:
            assert await file.read(0, MIB) == data[:MIB]
            await trio.to_thread.run_sync(origin.stop)
            with pytest.raises(OriginUnreachableError, match="bytes") as caught:
                await file.read(0, SIZE)
            assert urlsplit(origin.url).path in str(caught.value)
            assert "\n" not in str(caught.value)
            assert await file.read(0, MIB) == data[:MIB]
    assert await cached_of(origin, tmp_path / "cache", data) >= MIB


async def is_of_its_version(file: File, data: bytes) -> None:
    """Read what is not cached of a version that has gone: its bytes (SFTP has the file open) or an error."""
    try:
        assert await file.read(SIZE - MIB, MIB) == data[-MIB:]
    except (StaleError, OriginNotFoundError) as error:
        said = str(error)
        assert "bytes" in said
    assert await file.read(0, MIB) == data[:MIB]


async def test_a_file_that_is_replaced_or_removed_between_two_ranges(origin: Origin, tmp_path: Path) -> None:
    old, new = random.Random(13).randbytes(SIZE), random.Random(14).randbytes(SIZE)
    await trio.to_thread.run_sync(origin.put, old)
    async with open_fscache() as fscache:
        await start(origin, fscache, tmp_path / "cache")
        async with await fscache.open_file(origin.url) as file:
            assert await file.read(0, MIB) == old[:MIB]
            await trio.to_thread.run_sync(origin.put, new)
            await is_of_its_version(file, old)
        async with await fscache.open_file(origin.url) as file:
            assert await file.read(0, MIB) == new[:MIB]
            await trio.to_thread.run_sync(origin.remove)
            await is_of_its_version(file, new)
    assert await cached_of(origin, tmp_path / "cache", new) >= MIB
