"""Real OpenSSH on a road with faults: right bytes or one clear error, and only right bytes stay."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from fscache_core import (
    OfflineError,
    OriginError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    open_fscache,
)
from fscache_core.testing.sftp_server import OpenSSHServer
from fscache_core.testing.tcp_proxy import TcpProxy
from fscache_core.verification import verify
from netfs_sshfs import SshfsNetfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from fscache_core import File, FsCache
    from fscache_core.testing.sftp_server import SftpServer

pytestmark = pytest.mark.integration

T = TypeVar("T")
MIB = 1 << 20
PIECE = 65536
SIZE = 6 * MIB + 7
DATA = random.Random(51).randbytes(SIZE)


@dataclass
class Road:
    """A file on a server, the way there, and what somebody needs to go it."""

    proxy: TcpProxy
    user: str
    path: Path
    known_hosts: Path
    client_key: Path
    cache: Path

    @property
    def url(self) -> str:
        return f"sshfs://{self.user}@{self.proxy.host}:{self.proxy.port}{self.path}"


@pytest.fixture
async def road(fscache_sftp: SftpServer, tmp_path: Path) -> AsyncIterator[Road]:
    server = fscache_sftp
    if not isinstance(server, OpenSSHServer):
        pytest.skip("not OpenSSH")
    path = server.root / f"road-{tmp_path.name}"
    path.write_bytes(DATA)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    proxy = TcpProxy(server.host, server.port)
    known_hosts, client_key = tmp_path / "known_hosts", tmp_path / "client_key"
    host_key = server.known_hosts.read_text().split(" ", 1)[1]
    known_hosts.write_text(f"[{proxy.host}]:{proxy.port} {host_key}")
    shutil.copy(server.client_key, client_key)  # with its mode
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield Road(proxy, server.user, path, known_hosts, client_key, tmp_path / "cache")
        proxy.stop()
    path.unlink(missing_ok=True)


@asynccontextmanager
async def session(road: Road, *, offline: bool = False, **options: float) -> AsyncIterator[FsCache]:
    async with open_fscache(offline=offline) as fscache:
        await fscache.add_cache("cachefiles", dir=str(road.cache))
        netfs = SshfsNetfs(known_hosts=road.known_hosts, client_keys=road.client_key, config="", **options)  # type: ignore[arg-type]
        fscache.add_netfs(netfs)
        yield fscache


async def cached_of(road: Road) -> int:
    """How many bytes are cached; every one must be right, and everything stored be in order."""
    n_bytes = 0
    async with session(road, offline=True) as fscache:
        (cache,) = fscache.caches
        assert not (await verify(cache)).problems
        async with await fscache.open_file(road.url) as file:
            for offset in range(0, SIZE, PIECE):
                try:
                    piece = await file.read(offset, PIECE)
                except OfflineError:
                    continue
                assert piece == DATA[offset : offset + PIECE], f"wrong bytes at {offset}"
                n_bytes += len(piece)
    return n_bytes


async def fails(road: Road, file: File, kind: type[OriginError], cause: str) -> None:
    """The rest of a file cannot be read; what is cached of it can."""
    with trio.fail_after(180), pytest.raises(kind, match=cause) as caught:
        await file.read(0, SIZE)
    text = str(caught.value)
    assert type(caught.value) is kind
    assert text.startswith(f"{road.url.replace(str(road.path), '')}{road.path}, bytes ")
    assert "\n" not in text
    assert await file.read(0, 10) == DATA[:10]


async def in_the_end(call: Callable[[], Awaitable[T]]) -> T:
    """What comes of it once nothing takes so long that the deadline passes: only the machine is slow."""
    while True:
        with suppress(OriginTimeoutError):
            return await call()


async def test_connections_that_are_reset_again_and_again_are_made_again(road: Road) -> None:
    async with session(road) as fscache, await fscache.open_file(road.url) as file:
        assert await file.read(0, PIECE) == DATA[:PIECE]
        road.proxy.reset_after(1000, 100_000, 1_500_000, 300, 2_000_000)
        road.proxy.reset_connections()
        assert await file.read(0, SIZE) == DATA
    assert road.proxy.n_connections == 7
    assert await cached_of(road) == SIZE


async def test_a_road_that_is_always_reset_before_anything_comes(road: Road) -> None:
    async with session(road, outage_seconds=1) as fscache, await fscache.open_file(road.url) as file:
        assert await file.read(0, PIECE) == DATA[:PIECE]
        road.proxy.reset_after(*[500] * 10_000)
        road.proxy.reset_connections()
        await fails(road, file, OriginUnreachableError, "cannot connect: ")
    road.proxy.clear_resets()
    async with session(road) as fscache, await fscache.open_file(road.url) as file:
        assert await file.read(0, SIZE) == DATA
    assert await cached_of(road) == SIZE


async def test_a_road_on_which_nothing_moves_is_given_up_at_the_deadline(road: Road) -> None:
    async with (
        session(road, deadline_seconds=2, keepalive_seconds=0) as fscache,
        await in_the_end(partial(fscache.open_file, road.url)) as file,
    ):
        assert await in_the_end(partial(file.read, 0, PIECE)) == DATA[:PIECE]
        road.proxy.block()
        await fails(road, file, OriginTimeoutError, "no answer for 2 s")
        road.proxy.clear()
        assert await in_the_end(partial(file.read, 0, SIZE)) == DATA
    assert await cached_of(road) == SIZE


async def test_a_server_nobody_listens_at_any_more_fails_within_the_outage(road: Road) -> None:
    async with session(road, outage_seconds=1) as fscache, await fscache.open_file(road.url) as file:
        assert await file.read(0, PIECE) == DATA[:PIECE]
        road.proxy.stop()
        await fails(road, file, OriginUnreachableError, "cannot connect: Connection refused")
    assert PIECE <= await cached_of(road) < SIZE


@pytest.mark.parametrize("what", ["host key", "client key"])
async def test_a_key_that_is_another_when_the_connection_is_made_again(road: Road, what: str) -> None:
    async with (
        session(road, outage_seconds=900, deadline_seconds=900) as fscache,
        await fscache.open_file(road.url) as file,
    ):
        assert await file.read(0, PIECE) == DATA[:PIECE]
        changed, cause = (
            (road.known_hosts, "host key has changed")
            if what == "host key"
            else (road.client_key, "login refused")
        )
        right = changed.read_text()
        other = road.cache.parent / "other"
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)]
        await trio.run_process(make, stdout=subprocess.DEVNULL)
        if what == "host key":
            host = right.split(" ")[0]
            changed.write_text(f"{host} {other.with_suffix('.pub').read_text()}")
        else:
            changed.write_text(other.read_text())
        road.proxy.reset_connections()
        await fails(road, file, OriginPermissionError, cause)
        changed.write_text(right)
        assert await file.read(0, SIZE) == DATA
    assert await cached_of(road) == SIZE


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to log in as somebody else")
@pytest.mark.parametrize("when", ["before it was opened", "before it is opened again"])
async def test_a_file_that_may_not_be_read_any_more(road: Road, fscache_sftp: SftpServer, when: str) -> None:
    road.user = "nobody"
    assert isinstance(fscache_sftp, OpenSSHServer)
    fscache_sftp.client_key.parent.chmod(0o711)  # sshd reads authorized_keys as the user who logs in
    try:
        async with session(road) as fscache, await fscache.open_file(road.url) as file:
            if when == "before it is opened again":
                assert await file.read(0, PIECE) == DATA[:PIECE]
            road.path.chmod(0)
            road.proxy.reset_connections()
            with pytest.raises(OriginPermissionError, match=rf"{road.path}, bytes .*: permission denied"):
                await file.read(0, SIZE)
            road.path.chmod(0o644)
            assert await file.read(0, SIZE) == DATA
        assert await cached_of(road) == SIZE
    finally:
        fscache_sftp.client_key.parent.chmod(0o700)


async def test_a_file_removed_or_replaced_while_the_road_was_closed_is_not_mixed(road: Road) -> None:
    new = random.Random(52).randbytes(SIZE)
    async with session(road) as fscache:
        for change in ("replace", "remove"):
            async with await fscache.open_file(road.url) as file:
                before = await file.read(0, 10)
                if change == "replace":
                    other = road.path.with_name(f"{road.path.name}.new")
                    other.write_bytes(new)
                    os.utime(other, (1_000_000_009, 1_000_000_009))
                    other.replace(road.path)
                else:
                    road.path.unlink()
                road.proxy.reset_connections()
                with pytest.raises(OriginError, match=r"bytes .*: (changed|gone) at the origin") as caught:
                    await file.read(SIZE - MIB, MIB)
                assert caught.type.__name__ == "StaleError"
                assert await file.read(0, 10) == before
