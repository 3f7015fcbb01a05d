"""Files of a real FTP server: a filesystem of one connection, which looks files up in listings."""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING

import pytest
from fsspec_session import opened  # type: ignore[import-not-found]

from fscache_core import open_fscache
from fscache_core.errors import OriginNotFoundError, StaleError
from fscache_core.hookspecs import FileKind, Strength
from fscache_core.testing.workspace import LOOPBACK, Workspace, free_port, port_is_open
from netfs_fsspec import FsspecNetfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("pyftpdlib", reason="no pyftpdlib (pip install pyftpdlib)")
pytestmark = pytest.mark.integration

DATA = random.Random(21).randbytes(300_000)
LONG_AGO = 1_000_000_000


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The URL of the directory ``served`` of ``tmp_path``."""
    root = tmp_path / "served"
    root.mkdir()
    port = free_port()
    workspace = Workspace("ftp", tmp_path)
    try:
        options = ["-i", LOOPBACK, "-p", str(port), "-d", str(root)]
        server = workspace.spawn([sys.executable, "-m", "pyftpdlib", *options], "ftp.log")
        server.wait_ready(lambda: port_is_open(port), 240, "pyftpdlib")
        yield f"fsspec:ftp://{LOOPBACK}:{port}"
    finally:
        workspace.close()


def put(path: Path, data: bytes, modified: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (modified, modified))


async def test_a_file_that_changes_is_noticed_by_the_session_that_has_looked_at_it(
    url: str, tmp_path: Path
) -> None:
    put(tmp_path / "served/a/f", DATA, LONG_AGO)
    netfs = FsspecNetfs(backoff_seconds=0.001, piece_bytes=100_000)
    async with opened(netfs, f"{url}/a/f") as (volume, path):
        (entry,) = await netfs.list_directory(volume, "/a")
        file = await netfs.look_up(volume, path)
        attributes = netfs.get_attr(file)
        assert entry.attributes == attributes
        assert (attributes.kind, attributes.size, attributes.strength, attributes.mtime_ns) == (
            FileKind.FILE,
            len(DATA),
            Strength.STRONG,
            LONG_AGO * 1_000_000_000,
        )
        buffer = bytearray(len(DATA))

        def change(n_bytes: int) -> None:
            if n_bytes == 100_000:
                put(tmp_path / "served/a/f", DATA[::-1], LONG_AGO + 10)

        with pytest.raises(StaleError, match=r"/a/f, bytes 100000-199999: it has changed"):
            await netfs.fetch(file, 0, memoryview(buffer), change)
        assert buffer == DATA[:100_000] + bytes(200_000)
        again = await netfs.look_up(volume, path)
        await netfs.fetch(again, 0, memoryview(buffer), lambda n_bytes: None)
        assert buffer == DATA[::-1]
        (tmp_path / "served/a/f").unlink()
        with pytest.raises(OriginNotFoundError):
            await netfs.look_up(volume, path)
        assert await netfs.list_directory(volume, "/a") == []


async def test_a_change_is_noticed_through_a_directory_of_the_server(url: str, tmp_path: Path) -> None:
    put(tmp_path / "served/a/b/f", DATA, LONG_AGO)
    netfs = FsspecNetfs(backoff_seconds=0.001)
    async with opened(netfs, url.replace("fsspec:", "fsspec:dir://b/f::") + "/a") as (volume, path):
        await netfs.list_directory(volume, "/b")
        file = await netfs.look_up(volume, path)
        put(tmp_path / "served/a/b/f", DATA[::-1], LONG_AGO + 10)
        with pytest.raises(StaleError):
            await netfs.fetch(file, 0, memoryview(bytearray(10)), lambda n_bytes: None)


async def test_a_file_put_in_the_place_of_another_with_its_size_and_date_is_noticed(
    url: str, tmp_path: Path
) -> None:
    put(tmp_path / "served/f", DATA, LONG_AGO)
    put(tmp_path / "served/other", DATA[::-1], LONG_AGO)
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"))
        fscache.add_netfs(FsspecNetfs(backoff_seconds=0.001))
        async with await fscache.open_file(f"{url}/f") as file:
            assert await file.read(0, len(DATA)) == DATA
        (tmp_path / "served/other").rename(tmp_path / "served/f")
        async with await fscache.open_file(f"{url}/f") as file:
            assert await file.read(0, len(DATA)) == DATA[::-1]
