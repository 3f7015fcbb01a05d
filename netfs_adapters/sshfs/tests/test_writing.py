"""Writing through to a real server."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import (
    CallerError,
    OriginError,
    OriginNotFoundError,
    OriginUnreachableError,
    StaleError,
)
from fscache_core.hookspecs import FileKind

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from fscache_core.testing.sftp_server import OpenSSHServer
    from netfs_sshfs import SshfsNetfs
    from netfs_sshfs.file import File
    from netfs_sshfs.volume import Volume

    MakeFile = Callable[..., str]
    MakeNetfs = Callable[..., SshfsNetfs]
    Read = Callable[[SshfsNetfs, File, int, int], Awaitable[bytes]]

pytestmark = pytest.mark.integration

MIB = 1 << 20


async def chunks(*parts: bytes) -> AsyncGenerator[bytes, None]:
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


# -- whole files -------------------------------------------------------------------------


async def test_a_file_is_created_from_a_stream(
    netfs: SshfsNetfs, volume: Volume, directory: Path, read: Read
) -> None:
    data = random.Random(1).randbytes(9 * MIB + 123)
    parts = [data[n : n + 1_000_003] for n in range(0, len(data), 1_000_003)]
    file = await netfs.put_file(volume, f"{directory}/a", chunks(*parts), None)
    assert (directory / "a").read_bytes() == data
    assert os.listdir(directory) == ["a"]
    assert netfs.get_attr(file).size == len(data)
    assert await read(netfs, file, 5 * MIB, 100) == data[5 * MIB : 5 * MIB + 100]
    assert netfs.get_aux(file) == netfs.get_aux(await netfs.look_up(volume, f"{directory}/a"))


async def test_an_empty_file_is_created(netfs: SshfsNetfs, volume: Volume, directory: Path) -> None:
    file = await netfs.put_file(volume, f"{directory}/a", chunks(), None)
    assert (directory / "a").read_bytes() == b""
    assert netfs.get_attr(file).size == 0


async def test_a_file_is_replaced_at_once_and_keeps_its_permissions(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(directory / "a", b"old")
    os.chmod(path, 0o604)
    old = await netfs.look_up(volume, path)
    assert await read(netfs, old, 0, 1) == b"o"

    async def source() -> AsyncGenerator[bytes, None]:
        yield bytes(5 * MIB)
        assert (directory / "a").read_bytes() == b"old"
        yield b"end"

    await netfs.put_file(volume, path, source(), old)
    assert (directory / "a").read_bytes() == bytes(5 * MIB) + b"end"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o604
    assert await read(netfs, old, 1, 2) == b"ld"  # who has the old file open goes on in it


async def test_a_file_that_is_not_the_one_to_be_replaced_stays(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"old")
    old = await netfs.look_up(volume, path)
    make_file(directory / "a", b"somebody else's")
    with pytest.raises(StaleError, match=f"{path}: changed at the origin"):
        await netfs.put_file(volume, path, chunks(b"new"), old)
    assert (directory / "a").read_bytes() == b"somebody else's"
    os.unlink(path)
    with pytest.raises(StaleError, match="gone at the origin"):
        await netfs.put_file(volume, path, chunks(b"new"), old)
    assert os.listdir(directory) == []


async def test_a_file_behind_a_symbolic_link_is_replaced_and_not_the_link(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    make_file(directory / "a", b"old")
    (directory / "link").symlink_to("a")
    await netfs.put_file(volume, f"{directory}/link", chunks(b"new"), None)
    assert (directory / "link").is_symlink()
    assert (directory / "a").read_bytes() == b"new"


async def test_a_source_that_fails_leaves_nothing(netfs: SshfsNetfs, volume: Volume, directory: Path) -> None:
    async def source() -> AsyncGenerator[bytes, None]:
        yield bytes(5 * MIB)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await netfs.put_file(volume, f"{directory}/a", source(), None)
    assert os.listdir(directory) == []


async def test_a_cancelled_upload_leaves_nothing(netfs: SshfsNetfs, volume: Volume, directory: Path) -> None:
    with trio.CancelScope() as scope:

        async def source() -> AsyncGenerator[bytes, None]:
            yield bytes(5 * MIB)
            scope.cancel()
            yield bytes(5 * MIB)

        async with contextlib.aclosing(source()) as stream:
            await netfs.put_file(volume, f"{directory}/a", stream, None)
    assert scope.cancelled_caught
    assert os.listdir(directory) == []


async def test_an_upload_whose_connection_is_lost_fails_and_leaves_nothing(
    own_server: OpenSSHServer, make_netfs: MakeNetfs
) -> None:
    netfs = make_netfs(own_server)
    volume = await netfs.open_volume(netfs.parse_url(own_server.url))

    async def source() -> AsyncGenerator[bytes, None]:
        yield bytes(5 * MIB)
        own_server.kill_connections()
        yield bytes(5 * MIB)

    with pytest.raises(OriginUnreachableError, match="whether it was done is not known"):
        await netfs.put_file(volume, f"{own_server.root}/a", source(), None)
    assert os.listdir(own_server.root) == []
    await netfs.close_volume(volume)


async def test_nothing_is_put_in_place_of_a_directory_or_into_a_missing_one(
    netfs: SshfsNetfs, volume: Volume, directory: Path
) -> None:
    with pytest.raises(OriginError, match="is a directory") as caught:
        await netfs.put_file(volume, str(directory), chunks(b"1"), None)
    assert caught.value.errno == errno.EISDIR
    with pytest.raises(OriginNotFoundError):
        await netfs.put_file(volume, f"{directory}/no/a", chunks(b"1"), None)


# -- parts of files ----------------------------------------------------------------------


async def test_bytes_are_stored_in_the_middle_and_beyond_the_end(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    data = bytearray(random.Random(2).randbytes(3 * MIB))
    path = make_file(directory / "a", bytes(data))
    file = await netfs.look_up(volume, path)
    new = random.Random(3).randbytes(2 * MIB + 5)
    for offset in (MIB - 7, 3 * MIB + 4096):
        file = await netfs.store(file, offset, memoryview(new))
        data.extend(bytes(max(0, offset + len(new) - len(data))))
        data[offset : offset + len(new)] = new
        assert (directory / "a").read_bytes() == data
        assert netfs.get_attr(file).size == len(data)
    assert await read(netfs, file, 0, len(data)) == data


async def test_a_file_changed_by_somebody_else_is_not_stored_into(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"old")
    file = await netfs.look_up(volume, path)
    make_file(directory / "a", b"somebody else's")
    with pytest.raises(StaleError, match=f"{path}, bytes 0 to 2: changed at the origin"):
        await netfs.store(file, 0, memoryview(b"new"))
    with pytest.raises(StaleError):
        await netfs.truncate(file, 0)
    assert (directory / "a").read_bytes() == b"somebody else's"


async def test_a_file_is_cut_and_extended(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"12345")
    file = await netfs.truncate(await netfs.look_up(volume, path), 2)
    assert (directory / "a").read_bytes() == b"12"
    file = await netfs.truncate(file, 4)
    assert (directory / "a").read_bytes() == b"12\0\0"
    assert netfs.get_attr(file).size == 4


# -- names -------------------------------------------------------------------------------


async def test_a_file_is_renamed_over_another(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    make_file(directory / "a", b"1")
    make_file(directory / "b\udcff", b"2")
    await netfs.rename(volume, f"{directory}/a", f"{directory}/b\udcff")
    assert os.listdir(directory) == ["b\udcff"]
    assert (directory / "b\udcff").read_bytes() == b"1"


async def test_a_file_and_a_link_are_removed(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"1")
    await netfs.symlink(volume, "a/../\udcff", f"{directory}/link")
    assert os.readlink(directory / "link") == "a/../\udcff"
    await netfs.unlink(volume, f"{directory}/link")
    await netfs.unlink(volume, path)
    assert os.listdir(directory) == []


async def test_a_directory_is_made_and_removed(netfs: SshfsNetfs, volume: Volume, directory: Path) -> None:
    path = f"{directory}/d"
    await netfs.mkdir(volume, path, 0o700)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert netfs.get_attr(await netfs.look_up(volume, path)).kind is FileKind.DIRECTORY
    await netfs.rmdir(volume, path)
    assert os.listdir(directory) == []


async def test_mode_and_times_are_set(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"1")
    await netfs.chmod(volume, path, 0o4711)
    await netfs.utimens(volume, path, 5_000_000_000, 7_000_000_000)
    status = os.stat(path)
    assert stat.S_IMODE(status.st_mode) == 0o4711
    assert (status.st_atime, status.st_mtime) == (5, 7)
    assert netfs.get_attr(await netfs.look_up(volume, path)).mtime_ns == 7_000_000_000


async def test_times_that_sftp_cannot_say_are_refused(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"1")
    for time_ns in (-1, 2**32 * 10**9):
        with pytest.raises(CallerError, match=path):
            await netfs.utimens(volume, path, 0, time_ns)


async def test_what_is_in_the_way_is_told(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"1")
    attempts = [
        (netfs.mkdir(volume, path, 0o755), errno.EEXIST),
        (netfs.symlink(volume, "x", path), errno.EEXIST),
        (netfs.rmdir(volume, str(directory)), errno.ENOTEMPTY),
        (netfs.unlink(volume, str(directory)), errno.EISDIR),
        (netfs.unlink(volume, f"{directory}/no"), errno.ENOENT),
        (netfs.rename(volume, f"{directory}/no", path), errno.ENOENT),
        (netfs.chmod(volume, f"{directory}/no", 0o644), errno.ENOENT),
    ]
    for attempt, number in attempts:
        with pytest.raises(OriginError, match=str(directory)) as caught:
            await attempt
        assert caught.value.errno == number
