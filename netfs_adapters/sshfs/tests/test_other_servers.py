"""Servers that are not OpenSSH, and some that keep nothing that the protocol promises."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import threading
from typing import TYPE_CHECKING

import asyncssh
import pytest
import trio
import trio.testing

from fscache_core.errors import OriginError, StaleError
from netfs_sshfs import SshfsNetfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from netfs_sshfs.file import File
    from netfs_sshfs.volume import Volume

    MakeFile = Callable[..., str]
    Read = Callable[[SshfsNetfs, File, int, int], Awaitable[bytes]]

pytestmark = pytest.mark.integration

MIB = 1 << 20


@contextlib.asynccontextmanager
async def serving(
    tmp_path: Path,
    server: type[asyncssh.SFTPServer] | None,
    server_version: str = "Other_1",
    deadline_seconds: float = 60,
) -> AsyncIterator[tuple[SshfsNetfs, Volume]]:
    """asyncssh's server in a thread of its own, its SFTP done by ``server``; yields a volume of it."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    client_key = asyncssh.generate_private_key("ssh-ed25519")
    client_key.write_private_key(str(tmp_path / "key"))
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    listening = threading.Event()
    port = 0

    async def serve() -> None:
        nonlocal port
        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=asyncssh.import_authorized_keys(client_key.export_public_key().decode()),
            sftp_factory=server,
            server_version=server_version,
        )
        port = acceptor.get_port()
        listening.set()
        await stop.wait()
        acceptor.close()
        await acceptor.wait_closed()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    listening.wait()
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {host_key.export_public_key().decode()}")
    netfs = SshfsNetfs(
        config="", client_keys=tmp_path / "key", known_hosts=known_hosts, deadline_seconds=deadline_seconds
    )
    volume = await netfs.open_volume(netfs.parse_url(f"sshfs://joe@127.0.0.1:{port}"))
    try:
        yield netfs, volume
    finally:
        await netfs.close_volume(volume)
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


class ShortReads(asyncssh.SFTPServer):
    """Never returns more than 10 000 bytes."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        data = super().read(file_obj, offset, min(size, 10_000))
        assert isinstance(data, bytes)
        return data


class TooMuch(asyncssh.SFTPServer):
    """Returns a byte more than was asked for."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        data = super().read(file_obj, offset, size)
        assert isinstance(data, bytes)
        return data + b"x"


class EndsEarly(asyncssh.SFTPServer):
    """Says that a file ends after 100 000 bytes, whatever its attributes say."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        if offset >= 100_000:
            return b""
        data = super().read(file_obj, offset, min(size, 100_000 - offset))
        assert isinstance(data, bytes)
        return data


class ChangesBeforeReading(asyncssh.SFTPServer):
    """Somebody always gets in between: each read finds the file rewritten a moment ago."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        assert isinstance(file_obj, io.IOBase)
        with open(f"/proc/self/fd/{file_obj.fileno()}", "r+b") as file:
            file.write(b"new")
        data = super().read(file_obj, offset, size)
        assert isinstance(data, bytes)
        return data


class FailsToRead(asyncssh.SFTPServer):
    """Has a broken disk."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        raise asyncssh.SFTPFailure("Input/output error")


class ListsSlowly(asyncssh.SFTPServer):
    """Takes a second for each hundred names."""

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        n_names = 0
        async for entry in super().scandir(path):
            n_names += 1
            if n_names % 100 == 0:
                await asyncio.sleep(1)
            yield entry


async def test_a_listing_may_take_longer_than_the_deadline_if_it_comes(tmp_path: Path) -> None:
    names = [f"{number:04}" for number in range(790)]
    directory = tmp_path / "many"
    directory.mkdir()
    for name in names:
        (directory / name).touch()
    async with serving(tmp_path, ListsSlowly, deadline_seconds=5) as (netfs, volume):
        assert [entry.name for entry in await netfs.list_directory(volume, str(directory))] == names


async def test_who_jumps_does_not_wait_for_all_that_was_read_ahead(
    tmp_path: Path, make_file: MakeFile, read: Read
) -> None:
    asked: list[int] = []  # offsets
    busy, may_go_on = threading.Event(), threading.Event()

    class Waits(asyncssh.SFTPServer):
        """Answers when it is let."""

        def read(self, file_obj: object, offset: int, size: int) -> bytes:
            asked.append(offset)
            busy.set()
            may_go_on.wait()
            data = super().read(file_obj, offset, size)
            assert isinstance(data, bytes)
            return data

    data = random.Random(2).randbytes(20 * MIB)
    path = make_file(tmp_path / "a", data)
    async with serving(tmp_path, Waits) as (netfs, volume):
        file = await netfs.look_up(volume, path)

        async def check(offset: int, size: int) -> None:
            assert await read(netfs, file, offset, size) == data[offset : offset + size]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(check, 0, 4 * MIB)
            await trio.to_thread.run_sync(busy.wait)
            nursery.start_soon(check, 4 * MIB, 4 * MIB)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(check, 16 * MIB, 4096)
            await trio.testing.wait_all_tasks_blocked()
            may_go_on.set()
    # Of the 33, it would be the last.
    assert asked.index(16 * MIB) < 24


@pytest.mark.parametrize("server_version", ["Other_1", "OpenSSH_9.2"])
@pytest.mark.parametrize("size", [100, MIB])
async def test_a_change_between_two_requests_does_not_go_unnoticed(
    tmp_path: Path, make_file: MakeFile, server_version: str, size: int
) -> None:
    path = make_file(tmp_path / "a", b"old" + bytes(size - 3))
    async with serving(tmp_path, ChangesBeforeReading, server_version) as (netfs, volume):
        file = await netfs.look_up(volume, path)
        arrivals: list[int] = []
        with pytest.raises(StaleError, match="changed at the origin"):
            await netfs.fetch(file, 0, memoryview(bytearray(size)), arrivals.append)
        assert arrivals == []


@pytest.mark.parametrize("kind", [asyncssh.SFTPServer, ShortReads])
async def test_any_range_is_read_right(
    tmp_path: Path, make_file: MakeFile, read: Read, kind: type[asyncssh.SFTPServer]
) -> None:
    data = random.Random(1).randbytes(2 * MIB + 777)
    path = make_file(tmp_path / "a", data)
    async with serving(tmp_path, kind) as (netfs, volume):
        file = await netfs.look_up(volume, path)
        for offset, size in [(0, len(data)), (5, 20_000), (len(data) - 1, 1), (MIB, 65536)]:
            assert await read(netfs, file, offset, size) == data[offset : offset + size]


async def test_files_are_written_listed_and_removed(tmp_path: Path, read: Read) -> None:
    data = random.Random(2).randbytes(MIB + 5)

    async def source() -> AsyncIterator[bytes]:
        yield data

    async with serving(tmp_path, asyncssh.SFTPServer) as (netfs, volume):
        directory = f"{tmp_path}/d"
        await netfs.mkdir(volume, directory, 0o755)
        file = await netfs.put_file(volume, f"{directory}/a", source(), None)
        assert await read(netfs, file, 0, len(data)) == data
        await netfs.store(file, 3, memoryview(b"abc"))
        assert (tmp_path / "d/a").read_bytes() == data[:3] + b"abc" + data[6:]
        await netfs.rename(volume, f"{directory}/a", f"{directory}/b")
        assert [entry.name for entry in await netfs.list_directory(volume, directory)] == ["b"]
        await netfs.unlink(volume, f"{directory}/b")
        await netfs.rmdir(volume, directory)
    assert "d" not in os.listdir(tmp_path)


async def test_more_data_than_asked_for_is_an_error(tmp_path: Path, make_file: MakeFile, read: Read) -> None:
    path = make_file(tmp_path / "a", bytes(1000))
    async with serving(tmp_path, TooMuch) as (netfs, volume):
        file = await netfs.look_up(volume, path)
        with pytest.raises(OriginError, match="bytes 0 to 99: more data than asked for"):
            await read(netfs, file, 0, 100)


async def test_a_file_that_ends_before_its_size_is_stale(
    tmp_path: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(tmp_path / "a", bytes(MIB))
    async with serving(tmp_path, EndsEarly) as (netfs, volume):
        file = await netfs.look_up(volume, path)
        assert await read(netfs, file, 0, 100_000) == bytes(100_000)
        with pytest.raises(StaleError, match=r"ends at byte [0-9]+: shorter than it was"):
            await read(netfs, file, 0, MIB)


async def test_a_failure_to_read_says_what_the_server_says(
    tmp_path: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(tmp_path / "a", bytes(1000))
    async with serving(tmp_path, FailsToRead) as (netfs, volume):
        file = await netfs.look_up(volume, path)
        with pytest.raises(OriginError, match=f"{path}, bytes 0 to 99: Input/output error"):
            await read(netfs, file, 0, 100)


async def test_a_server_without_sftp_is_an_origin_error(tmp_path: Path) -> None:
    async with serving(tmp_path, None) as (netfs, volume):
        with pytest.raises(OriginError, match="/a: no SFTP to be had"):
            await netfs.look_up(volume, "/a")
