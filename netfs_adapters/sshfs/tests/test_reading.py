"""Looking up, listing and reading, on a real server that works."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from pathlib import Path
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
from fscache_core.hookspecs import AuxOutcome, FileKind, Strength

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.testing.sftp_server import OpenSSHServer
    from netfs_sshfs import SshfsNetfs
    from netfs_sshfs.file import File
    from netfs_sshfs.volume import Volume

    MakeFile = Callable[..., str]
    Read = Callable[[SshfsNetfs, File, int, int], Awaitable[bytes]]

pytestmark = pytest.mark.integration

MIB = 1 << 20
OLD = 1_000_000_000


def open_handles(server: OpenSSHServer, path: str) -> int:
    """How often the server has a file open: what its processes on this machine show."""
    found = 0
    for process in os.listdir("/proc"):
        if process.isdigit() and int(process) != os.getpid():
            try:
                descriptors = os.listdir(f"/proc/{process}/fd")
                found += sum(os.readlink(f"/proc/{process}/fd/{fd}") == path for fd in descriptors)
            except OSError:  # it ended meanwhile
                continue
    return found


async def wait_until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(120):
        while not condition():  # noqa: ASYNC110 (another process is waited for)
            await trio.sleep(0.01)


# -- looking up --------------------------------------------------------------------------


async def test_look_up_tells_kind_size_time_and_mode(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"12345")
    os.chmod(path, 0o640)
    attributes = netfs.get_attr(await netfs.look_up(volume, path))
    assert attributes.kind is FileKind.FILE
    assert attributes.size == 5
    assert attributes.mtime_ns == OLD * 10**9
    assert attributes.mode == 0o640
    assert attributes.strength is Strength.STRONG
    assert "size 5, mtime 2001-09-09T01:46:40Z" in attributes.evidence


async def test_look_up_follows_symbolic_links_and_returns_directories(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    make_file(directory / "a", b"12345")
    (directory / "link").symlink_to("a")
    assert netfs.get_attr(await netfs.look_up(volume, f"{directory}/link")).size == 5
    assert netfs.get_attr(await netfs.look_up(volume, str(directory))).kind is FileKind.DIRECTORY


async def test_a_missing_file_is_named_in_one_line(
    netfs: SshfsNetfs, volume: Volume, directory: Path
) -> None:
    with pytest.raises(OriginNotFoundError) as caught:
        await netfs.look_up(volume, f"{directory}/no\nwhere")
    assert str(caught.value) == f"{volume}{directory}/no\\nwhere: no such file"


async def test_the_evidence_of_a_file_just_written_is_weak_and_of_one_from_the_future_too(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    for mtime in (time.time(), time.time() + 3600):
        file = await netfs.look_up(volume, make_file(directory / "a", b"1", mtime))
        assert netfs.get_attr(file).strength is Strength.WEAK
        assert netfs.check_aux(file, netfs.get_aux(file), 1) is AuxOutcome.OBSOLETE


async def test_a_label_stays_good_while_the_file_does(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"12345")
    label = netfs.get_aux(await netfs.look_up(volume, path))
    again = await netfs.look_up(volume, path)
    assert netfs.check_aux(again, label, 5) is AuxOutcome.OKAY
    make_file(directory / "a", b"abcde", OLD + 1)
    changed = await netfs.look_up(volume, path)
    assert netfs.check_aux(changed, label, 5) is AuxOutcome.OBSOLETE


async def test_names_of_any_bytes_and_length_are_found(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    for name in (b"\xff\xfe%41 ?#\n", b"x" * 250, "é".encode() * 125):
        path = make_file(directory / os.fsdecode(name), name)
        file = await netfs.look_up(volume, path)
        assert await read(netfs, file, 0, len(name)) == name
    names = [entry.name for entry in await netfs.list_directory(volume, str(directory))]
    assert sorted(names) == sorted(os.listdir(directory))


async def test_a_path_below_home_is_found(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    path = make_file(directory / "a", b"12345")
    relative = "/".join([".."] * len(Path.home().parts[1:])) + path
    assert netfs.get_attr(await netfs.look_up(volume, f"/~/{relative}")).size == 5


# -- listing -----------------------------------------------------------------------------


async def test_a_listing_is_sorted_and_tells_kinds_without_following_links(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    make_file(directory / "b", b"12345")
    (directory / "a").mkdir()
    (directory / "c").symlink_to("nowhere")
    os.mkfifo(directory / "d")
    entries = await netfs.list_directory(volume, str(directory))
    assert [(entry.name, entry.attributes.kind) for entry in entries] == [
        ("a", FileKind.DIRECTORY),
        ("b", FileKind.FILE),
        ("c", FileKind.SYMLINK),
        ("d", FileKind.OTHER),
    ]
    assert entries[1].attributes.size == 5


async def test_a_large_directory_is_listed_whole(netfs: SshfsNetfs, volume: Volume, directory: Path) -> None:
    names = [f"{n:04}" for n in range(1000)]
    for name in names:
        (directory / name).touch()
    entries = await netfs.list_directory(volume, str(directory))
    assert [entry.name for entry in entries] == names


async def test_listing_what_is_not_there_or_no_directory_fails(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    file = make_file(directory / "a", b"1")
    for path in (f"{directory}/nowhere", f"{file}/below"):
        with pytest.raises(OriginNotFoundError, match=path):
            await netfs.list_directory(volume, path)
    with pytest.raises(CallerError, match=f"{file}: is not a directory$") as caught:
        await netfs.list_directory(volume, file)
    assert caught.value.errno == errno.ENOTDIR


# -- reading -----------------------------------------------------------------------------


async def test_any_range_is_read_right(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    data = random.Random(1).randbytes(5 * MIB + 12345)
    file = await netfs.look_up(volume, make_file(directory / "a", data))
    ranges = [(0, 1), (0, len(data)), (len(data) - 1, 1), (MIB - 1, 2 * MIB + 2), (261119, 3), (4096, 65536)]
    for offset, size in ranges:
        assert await read(netfs, file, offset, size) == data[offset : offset + size]


async def test_a_large_range_is_handed_on_in_pieces(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    data = random.Random(2).randbytes(8 * MIB)
    file = await netfs.look_up(volume, make_file(directory / "a", data))
    buffer = bytearray(len(data))
    arrivals: list[int] = []

    def arrived(n: int) -> None:
        assert buffer[:n] == data[:n]
        arrivals.append(n)

    await netfs.fetch(file, 0, memoryview(buffer), arrived)
    assert buffer == data
    assert len(arrivals) >= 4


async def test_ranges_fetched_at_the_same_time_do_not_mix(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    files = []
    for n in range(3):
        data = random.Random(n).randbytes(3 * MIB)
        files.append((data, await netfs.look_up(volume, make_file(directory / str(n), data))))

    async def check(data: bytes, file: File, offset: int) -> None:
        assert await read(netfs, file, offset, MIB + 7) == data[offset : offset + MIB + 7]

    async with trio.open_nursery() as nursery:
        for data, file in files:
            for offset in range(0, 2 * MIB - 7, 300_000):
                nursery.start_soon(check, data, file, offset)


async def test_a_recalled_file_is_read_if_it_is_still_the_same(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(directory / "a", b"12345")
    label = netfs.get_aux(await netfs.look_up(volume, path))
    recalled = netfs.recall_file(volume, path, label, 5)
    assert netfs.get_attr(recalled).size == 5
    assert await read(netfs, recalled, 1, 3) == b"234"
    make_file(directory / "a", b"abcde", OLD + 1)
    with pytest.raises(StaleError):
        await read(netfs, netfs.recall_file(volume, path, label, 5), 1, 3)


async def test_a_recalled_file_with_weak_evidence_is_stale(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(directory / "a", b"12345", time.time() + 3600)
    label = netfs.get_aux(await netfs.look_up(volume, path))
    with pytest.raises(StaleError, match="cannot be told from a later one"):
        await read(netfs, netfs.recall_file(volume, path, label, 5), 0, 5)


async def test_a_label_that_is_not_readable_is_a_callers_error(netfs: SshfsNetfs, volume: Volume) -> None:
    with pytest.raises(CallerError):
        netfs.recall_file(volume, "/a", b"rubbish", 5)


async def test_what_is_no_regular_file_is_not_opened(
    netfs: SshfsNetfs, volume: Volume, directory: Path, read: Read
) -> None:
    os.mkfifo(directory / "fifo")  # opening it would block the server
    for path, reason in ((str(directory), "is a directory"), (f"{directory}/fifo", "not a regular file")):
        file = await netfs.look_up(volume, path)
        with pytest.raises(OriginError, match=reason):
            await read(netfs, file, 0, 1)


# -- versions ----------------------------------------------------------------------------


async def test_a_file_changed_between_two_ranges_is_stale(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(directory / "a", b"a" * 100_000)
    file = await netfs.look_up(volume, path)
    assert await read(netfs, file, 0, 50_000) == b"a" * 50_000
    make_file(directory / "a", b"b" * 100_000, OLD + 1)  # in place: the same inode
    with pytest.raises(StaleError, match=f"{path}, bytes 50000 to 99999: changed at the origin"):
        await read(netfs, file, 50_000, 50_000)
    assert await read(netfs, await netfs.look_up(volume, path), 50_000, 50_000) == b"b" * 50_000


async def test_an_open_file_that_is_replaced_goes_on_in_its_own_version(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(directory / "a", b"a" * 100_000)
    old = await netfs.look_up(volume, path)
    assert await read(netfs, old, 0, 10) == b"a" * 10
    # Of the same size and time: nothing but the open handle tells the two apart.
    make_file(directory / "new", b"b" * 100_000)
    os.rename(directory / "new", path)
    new = await netfs.look_up(volume, path)
    assert await read(netfs, new, 50_000, 10) == b"b" * 10
    assert await read(netfs, old, 50_000, 10) == b"a" * 10


async def test_a_file_replaced_or_removed_before_it_was_first_read_is_stale(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    path = make_file(directory / "a", b"a" * 100)
    file = await netfs.look_up(volume, path)
    make_file(directory / "new", b"b" * 100, OLD + 1)
    os.rename(directory / "new", path)
    with pytest.raises(StaleError, match="changed at the origin"):
        await read(netfs, file, 0, 100)
    file = await netfs.look_up(volume, path)
    os.unlink(path)
    with pytest.raises(StaleError, match="gone at the origin"):
        await read(netfs, file, 0, 100)
    make_file(directory / "a", b"a" * 100)
    file = await netfs.look_up(volume, path)
    os.unlink(path)
    os.mkdir(path)
    with pytest.raises(StaleError, match="changed at the origin"):
        await read(netfs, file, 0, 100)


# -- handles -----------------------------------------------------------------------------


async def test_ranges_of_one_file_share_a_handle_that_goes_with_the_file(
    netfs: SshfsNetfs,
    server: OpenSSHServer,
    volume: Volume,
    directory: Path,
    make_file: MakeFile,
    read: Read,
) -> None:
    path = make_file(directory / "a", b"a" * 100_000)
    file = await netfs.look_up(volume, path)
    async with trio.open_nursery() as nursery:
        for offset in range(0, 100_000, 10_000):
            nursery.start_soon(read, netfs, file, offset, 10_000)
    assert open_handles(server, path) == 1
    del file
    await wait_until(lambda: open_handles(server, path) == 0)


async def test_no_more_handles_stay_open_than_allowed(
    server: OpenSSHServer,
    directory: Path,
    make_file: MakeFile,
    make_netfs: Callable[..., SshfsNetfs],
    read: Read,
) -> None:
    netfs = make_netfs(server, max_open_files=2)
    volume = await netfs.open_volume(netfs.parse_url(server.url))
    paths = [make_file(directory / str(n), b"12345") for n in range(6)]
    files = [await netfs.look_up(volume, path) for path in paths]
    for _ in range(2):
        for file in files:
            assert await read(netfs, file, 0, 5) == b"12345"
    await wait_until(lambda: [open_handles(server, path) for path in paths] == [0, 0, 0, 0, 1, 1])
    await netfs.close_volume(volume)


# -- threads and cancellation ------------------------------------------------------------


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("netfs", "asyncio"))]


async def test_a_volume_has_no_thread_before_it_is_needed_and_none_after_it_was_closed(
    netfs: SshfsNetfs, server: OpenSSHServer
) -> None:
    before = own_threads()
    location = netfs.parse_url(server.url)
    volume = await netfs.open_volume(location)
    netfs.get_key(netfs.name_file(volume, "/a"))
    assert own_threads() == before
    await netfs.look_up(volume, str(server.root))
    assert own_threads() != before
    await netfs.close_volume(volume)
    await netfs.close_volume(volume)
    assert own_threads() == before
    with pytest.raises(OriginUnreachableError, match="closed"):
        await netfs.look_up(volume, str(server.root))


async def test_a_cancelled_fetch_leaves_its_buffer_alone_and_the_volume_usable(
    netfs: SshfsNetfs, server: OpenSSHServer, directory: Path, make_file: MakeFile, read: Read
) -> None:
    before_threads = own_threads()
    data = random.Random(4).randbytes(32 * MIB)
    path = make_file(directory / "a", data)
    volume = await netfs.open_volume(netfs.parse_url(server.url))
    file = await netfs.look_up(volume, path)
    buffer = bytearray(len(data))
    good = 0
    with trio.CancelScope() as scope:

        def arrived(n: int) -> None:
            nonlocal good
            good = n
            scope.cancel()

        await netfs.fetch(file, 0, memoryview(buffer), arrived)
    assert scope.cancelled_caught
    assert 0 < good < len(data)
    assert buffer[:good] == data[:good]
    before = bytes(buffer)
    # The answer to this comes after those to the old requests.
    assert await read(netfs, file, 20 * MIB, MIB) == data[20 * MIB : 21 * MIB]
    assert buffer == before
    await netfs.close_volume(volume)
    assert own_threads() == before_threads


async def test_a_fetch_cancelled_at_any_moment_leaves_the_volume_usable(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile, read: Read
) -> None:
    data = random.Random(5).randbytes(2 * MIB)
    path = make_file(directory / "a", data)
    for n in range(40):
        file = await netfs.look_up(volume, path)
        with trio.move_on_after(n * 0.0005):
            await read(netfs, file, 0, len(data))
    assert await read(netfs, await netfs.look_up(volume, path), 0, len(data)) == data


async def test_an_error_of_the_receiver_ends_the_fetch(
    netfs: SshfsNetfs, volume: Volume, directory: Path, make_file: MakeFile
) -> None:
    file = await netfs.look_up(volume, make_file(directory / "a", bytes(8 * MIB)))

    def arrived(n: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await netfs.fetch(file, 0, memoryview(bytearray(8 * MIB)), arrived)
