"""A real SSH server, and a volume of it."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from fscache_core.testing.sftp_server import OpenSSHServer, openssh_missing
from netfs_sshfs import SshfsNetfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from fscache_core.testing.sftp_server import SftpServer
    from netfs_sshfs.file import File
    from netfs_sshfs.volume import Volume

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(fscache_sftp: SftpServer) -> OpenSSHServer:
    """A server for tests that let it run."""
    if not isinstance(fscache_sftp, OpenSSHServer):
        pytest.skip("not OpenSSH")
    return fscache_sftp


@pytest.fixture
def own_server() -> Iterator[OpenSSHServer]:
    """A server for a test that stops it."""
    if missing := openssh_missing():
        pytest.skip(missing)
    with OpenSSHServer() as server:
        yield server


@pytest.fixture
def directory(server: OpenSSHServer) -> Path:
    """A fresh directory at the server."""
    directory = server.root / f"test-{next(_numbers)}"
    directory.mkdir()
    return directory


@pytest.fixture
def make_netfs() -> Callable[..., SshfsNetfs]:
    """``make_netfs(server, **options)``: an adapter that may log in there and reads no configuration."""

    def make(server: OpenSSHServer, **options: object) -> SshfsNetfs:
        defaults = {"known_hosts": server.known_hosts, "client_keys": server.client_key, "config": ""}
        return SshfsNetfs(**{**defaults, **options})  # type: ignore[arg-type]

    return make


@pytest.fixture
def netfs(server: OpenSSHServer, make_netfs: Callable[..., SshfsNetfs]) -> SshfsNetfs:
    return make_netfs(server)


@pytest.fixture
async def volume(netfs: SshfsNetfs, server: OpenSSHServer) -> AsyncIterator[Volume]:
    volume = await netfs.open_volume(netfs.parse_url(server.url))
    yield volume
    await netfs.close_volume(volume)


@pytest.fixture
def make_file() -> Callable[..., str]:
    """``make_file(path, data)`` writes a file whose modification time has aged; returns its path as a str."""

    def make(path: Path, data: bytes, mtime: float = 1_000_000_000) -> str:
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))
        return os.fspath(path)

    return make


@pytest.fixture
def read() -> Callable[[SshfsNetfs, File, int, int], Awaitable[bytes]]:
    """``await read(netfs, file, offset, size)`` fetches a range and checks that it arrives as it should."""

    async def read(netfs: SshfsNetfs, file: File, offset: int, size: int) -> bytes:
        buffer = bytearray(b"\xaa" * size)
        arrivals: list[int] = []
        await netfs.fetch(file, offset, memoryview(buffer), arrivals.append)
        assert arrivals == sorted(set(arrivals))
        assert all(0 < n <= size for n in arrivals)
        return bytes(buffer)

    return read
