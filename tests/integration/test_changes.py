"""Writing through to real servers, and who sees it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from fscache_core import OriginNotFoundError, StaleError, open_fscache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from fscache_core import FsCache
    from tests.integration.conftest import Origins

pytestmark = pytest.mark.integration

MIB = 1 << 20
BUCKET = "fscache-changes"
OLD, NEW = random.Random(1).randbytes(5 * MIB + 3), random.Random(2).randbytes(5 * MIB + 3)


@pytest.fixture(params=["sshfs", "s3"])
def directory(
    request: pytest.FixtureRequest, origins: Origins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """URL of an empty directory."""
    for name, value in origins.environment.items():
        monkeypatch.setenv(name, value)
    if request.param == "s3":
        origins.s3.create_bucket(BUCKET)
        return f"s3://{BUCKET}/{tmp_path.name}"
    path = origins.sftp.root / f"changes-{tmp_path.name}"
    path.mkdir()
    return f"sshfs://{origins.sftp.user}@{origins.sftp.host}:{origins.sftp.port}{path}"


async def start(fscache: FsCache, origins: Origins, tmp_path: Path) -> None:
    await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
    for name, options in origins.netfs_options.items():
        fscache.add_netfs(name, **options)  # type: ignore[arg-type]


async def read_all(fscache: FsCache, url: str) -> bytes:
    async with await fscache.open_file(url) as file:
        return await file.read(0, file.size)


async def test_what_one_puts_another_who_has_the_old_version_cached_reads(
    directory: str, origins: Origins, tmp_path: Path
) -> None:
    url = f"{directory}/a file"
    async with open_fscache() as one, open_fscache() as other:  # to the cache they are two processes
        await start(one, origins, tmp_path)
        await start(other, origins, tmp_path)
        await one.put_file(url, OLD)
        assert await read_all(other, url) == OLD
        await one.put_file(url, NEW)
        assert await read_all(other, url) == NEW
        assert await read_all(one, url) == NEW
        await other.unlink(url)
        with pytest.raises(OriginNotFoundError):
            await one.open_file(url)


async def test_what_was_put_is_not_fetched_to_be_read_back(
    directory: str, origins: Origins, tmp_path: Path
) -> None:
    url = f"{directory}/back"
    for n in range(2):
        async with open_fscache(coherency="ttl=600") as fscache:
            await start(fscache, origins, tmp_path)
            if n == 0:
                await fscache.put_file(url, NEW)
            assert await read_all(fscache, url) == NEW
            assert sum(volume.stats.bytes_from_origin for volume in fscache.volumes) == 0


async def test_a_long_stream_is_put_in_parts_and_read_back(
    directory: str, origins: Origins, tmp_path: Path
) -> None:
    url = f"{directory}/long"
    pieces = [random.Random(n).randbytes(MIB + n) for n in range(40)]

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with open_fscache() as fscache:
        await start(fscache, origins, tmp_path)
        await fscache.put_file(url, stream())
        assert await read_all(fscache, url) == b"".join(pieces)


async def test_who_read_another_version_does_not_replace_it(
    directory: str, origins: Origins, tmp_path: Path
) -> None:
    url = f"{directory}/contended"
    async with open_fscache() as one, open_fscache() as other:
        await start(one, origins, tmp_path)
        await start(other, origins, tmp_path)
        await one.put_file(url, OLD)
        async with await one.open_file(url) as file:
            await other.put_file(url, NEW + b"!")  # SFTP tells whole seconds: only the size may be another
            with pytest.raises(StaleError):
                await one.put_file(url, b"lost", replaces=file)
        assert await read_all(one, url) == NEW + b"!"


async def test_a_file_is_changed_in_place(directory: str, origins: Origins, tmp_path: Path) -> None:
    if directory.startswith("s3:"):
        pytest.skip("objects are replaced whole")
    url, expected = f"{directory}/in-place", bytearray(OLD)
    async with open_fscache() as fscache:
        await start(fscache, origins, tmp_path)
        await fscache.put_file(url, OLD)
        assert await read_all(fscache, url) == OLD
        expected[MIB - 5 : MIB + 5] = b"0123456789"
        await fscache.write(url, MIB - 5, b"0123456789")
        assert await read_all(fscache, url) == expected
        await fscache.truncate(url, 2 * MIB + 1)
        assert await read_all(fscache, url) == expected[: 2 * MIB + 1]
        await fscache.mkdir(f"{directory}/d")
        await fscache.rename(url, f"{directory}/d/moved")
        await fscache.symlink("moved", f"{directory}/d/link")
        await fscache.chmod(f"{directory}/d/moved", 0o600)
        await fscache.utimens(f"{directory}/d/moved", 10**9, 2 * 10**9)
        async with await fscache.open_file(f"{directory}/d/link") as file:
            assert await file.read(0, file.size) == expected[: 2 * MIB + 1]
            assert file.attributes.mtime_ns == 2 * 10**9
        with pytest.raises(OriginNotFoundError):
            await fscache.open_file(url)
        for name in ("link", "moved"):
            await fscache.unlink(f"{directory}/d/{name}")
        await fscache.rmdir(f"{directory}/d")
        assert [entry.name for entry in await fscache.list_directory(directory)] == []


async def test_what_a_source_raises_comes_out_as_it_is_and_the_file_stays(
    directory: str, origins: Origins, tmp_path: Path
) -> None:
    url = f"{directory}/a file"

    async def source(n_pieces: int) -> AsyncIterator[bytes]:
        for _ in range(n_pieces):
            yield bytes(MIB)
        raise ZeroDivisionError

    async with open_fscache() as fscache:
        await start(fscache, origins, tmp_path)
        await fscache.put_file(url, OLD)
        for n_pieces in (0, 1, 20):
            with pytest.raises(ZeroDivisionError):
                await fscache.put_file(url, source(n_pieces))
            assert await read_all(fscache, url) == OLD
        await fscache.put_file(url, NEW)
        assert await read_all(fscache, url) == NEW
