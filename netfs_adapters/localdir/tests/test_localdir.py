"""The hooks, called as core calls them, on real files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import (
    CallerError,
    OriginError,
    OriginNotFoundError,
    OriginPermissionError,
    OriginTimeoutError,
    OriginUnreachableError,
    StaleError,
)
from fscache_core.hookspecs import FileKind, Location, Strength
from fscache_core.testing.interruption import cancelled_after
from netfs_localdir import LocaldirNetfs

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path

ROOT = Location("file://", "/")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


async def read(
    netfs: LocaldirNetfs,
    file: object,
    offset: int = 0,
    size: int | None = None,
    seen: Callable[[int], None] = lambda n: None,
) -> bytes:
    size = netfs.get_attr(file).size - offset if size is None else size
    buffer = bytearray(size)
    await netfs.fetch(file, offset, memoryview(buffer), seen)
    return bytes(buffer)


async def chunks(*data: bytes) -> AsyncGenerator[bytes, None]:
    for chunk in data:
        yield chunk


async def wait_strong(netfs: LocaldirNetfs, volume: object, path: Path) -> object:
    while True:
        file = await netfs.look_up(volume, str(path))
        if netfs.get_attr(file).strength is Strength.STRONG:
            return file
        await trio.sleep(0.005)


# -- names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///data/a.bin", "/data/a.bin"),
        ("localdir:///data/a.bin", "/data/a.bin"),
        ("FILE://localhost/data/a.bin", "/data/a.bin"),
        ("file:/data/a.bin", "/data/a.bin"),
        ("file:///data//./a%20b%23c%3f", "/data/a b#c?"),
        ("file:///caf%C3%A9/%FF", "/café/\udcff"),
        ("file:///café/\udcff", "/café/\udcff"),
        ("file:///data/../a", "/data/../a"),
        ("file:///", "/"),
    ],
)
def test_a_url_names_a_path(url: str, path: str) -> None:
    volume = "localdir://" if url.startswith("localdir") else "file://"
    assert LocaldirNetfs().parse_url(url) == Location(volume, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://host/a",
        "file://host/a",
        "file:a",
        "file://",
        "/a",
        "file:///a?b",
        "file:///a#b",
        "file:///a%00b",
        "file:///a\ud800b",
    ],
)
def test_what_is_not_a_url_of_a_local_file_is_refused_by_name(url: str) -> None:
    with pytest.raises(CallerError) as caught:
        LocaldirNetfs().parse_url(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "/a\0b", "/a\ud800b"])
async def test_what_is_no_file_name_is_refused(name: str) -> None:
    netfs = LocaldirNetfs()
    with pytest.raises(CallerError):
        netfs.name_file(await netfs.open_volume(ROOT), name)


async def test_keys_are_short_and_distinct_and_do_not_need_the_file() -> None:
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    long = "/" + "/".join(["d" * 100] * 8)
    names = ["/a", "/b", "/a/b", long, long + "x", "/\udcff"]
    keys = {netfs.get_key(netfs.name_file(volume, name)) for name in names}
    assert len(keys) == len(names)
    assert all(1 <= len(key) <= 511 for key in keys)
    assert netfs.get_key(netfs.name_file(volume, "/a")) == b"/a"


PRINT_KEYS = """
import os
import trio
from fscache_core.hookspecs import Location
from netfs_localdir import LocaldirNetfs

os.seteuid(65534)
for netfs in LocaldirNetfs(), LocaldirNetfs(shared="yes"):
    print(netfs.get_key(trio.run(netfs.open_volume, Location("file://", "/"))).hex())
"""


@needs_root
async def test_another_user_has_another_volume_unless_told_to_share() -> None:
    finished = await trio.run_process([sys.executable, "-c", PRINT_KEYS], capture_stdout=True)
    own, shared = finished.stdout.decode().split()
    assert own != LocaldirNetfs().get_key(await LocaldirNetfs().open_volume(ROOT)).hex()
    netfs = LocaldirNetfs(shared=True)
    assert shared == netfs.get_key(await netfs.open_volume(ROOT)).hex()


async def test_both_schemes_can_be_used_at_once() -> None:
    netfs = LocaldirNetfs()
    volumes = [await netfs.open_volume(Location(f"{scheme}://", "/")) for scheme in ("file", "localdir")]
    assert netfs.get_key(volumes[0]) != netfs.get_key(volumes[1])


# -- reading -----------------------------------------------------------------------------


async def test_any_range_is_fetched_in_pieces_each_announced(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (tmp_path / "f").write_bytes(data)
    netfs = LocaldirNetfs(piece_bytes="4096")
    file = await netfs.look_up(await netfs.open_volume(ROOT), str(tmp_path / "f"))
    assert netfs.get_attr(file).size == len(data)
    for offset, size in [(0, len(data)), (1, 4096), (4095, 8194), (99_999, 1)]:
        seen: list[int] = []
        assert await read(netfs, file, offset, size, seen.append) == data[offset : offset + size]
        assert seen == sorted(set(seen))
        assert seen[-1] == size


async def test_a_recalled_version_is_the_one_looked_up(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    file = await netfs.look_up(volume, str(tmp_path / "f"))
    recalled = netfs.recall_file(volume, str(tmp_path / "f"), netfs.get_aux(file), 5)
    assert recalled == file
    assert netfs.get_key(recalled) == netfs.get_key(file)
    assert await read(netfs, recalled) == b"hello"


async def test_a_file_that_has_aged_is_strong_and_its_label_stays_the_same(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    file = await wait_strong(netfs, volume, tmp_path / "f")
    again = await netfs.look_up(volume, str(tmp_path / "f"))
    assert netfs.get_aux(again) == netfs.get_aux(file)


async def test_same_size_and_mtime_do_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old bytes")
    os.utime(path, ns=(1, 1_000_000_001))
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    file = await wait_strong(netfs, volume, path)
    path.write_bytes(b"new bytes")
    os.utime(path, ns=(1, 1_000_000_001))
    with pytest.raises(StaleError, match=r"^file://.*f, bytes 0-8: it has changed$"):
        await read(netfs, file)
    assert netfs.get_aux(await netfs.look_up(volume, str(path))) != netfs.get_aux(file)


async def test_a_file_that_changes_between_two_pieces_gives_no_further_byte(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 40_960)
    netfs = LocaldirNetfs(piece_bytes=4096)
    file = await wait_strong(netfs, await netfs.open_volume(ROOT), path)
    seen: list[int] = []

    def change(n: int) -> None:
        seen.append(n)
        if n == 8192:
            with path.open("r+b") as origin:
                origin.write(b"b" * 40_960)

    buffer = bytearray(40_960)
    with pytest.raises(StaleError, match="bytes 8192-12287"):
        await netfs.fetch(file, 0, memoryview(buffer), change)
    assert seen == [4096, 8192]
    assert b"b" not in buffer


@pytest.mark.parametrize("size", [0, 5, 20_000])
async def test_a_file_of_another_size_is_stale(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a" * 10_000)
    netfs = LocaldirNetfs()
    file = await netfs.look_up(await netfs.open_volume(ROOT), str(path))
    os.truncate(path, size)
    with pytest.raises(StaleError):
        await read(netfs, file)


async def test_a_replaced_file_is_stale_though_its_size_and_times_are_the_same(tmp_path: Path) -> None:
    path, other = tmp_path / "f", tmp_path / "g"
    path.write_bytes(b"old bytes")
    other.write_bytes(b"new bytes")
    for each in (path, other):
        os.utime(each, ns=(1, 1_000_000_001))
    netfs = LocaldirNetfs(ignore="ctime")
    file = await netfs.look_up(await netfs.open_volume(ROOT), str(path))
    assert netfs.get_attr(file).strength is Strength.STRONG
    other.rename(path)
    with pytest.raises(StaleError):
        await read(netfs, file)


async def test_links_are_followed_and_directories_seen(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello")
    (tmp_path / "link").symlink_to("f")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    link = await netfs.look_up(volume, str(tmp_path / "link"))
    assert (netfs.get_attr(link).kind, netfs.get_attr(link).size) == (FileKind.FILE, 5)
    assert await read(netfs, link) == b"hello"
    assert netfs.get_attr(await netfs.look_up(volume, str(tmp_path))).kind is FileKind.DIRECTORY


async def test_a_fifo_in_place_of_the_file_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    file = await netfs.look_up(volume, str(path))
    path.unlink()
    os.mkfifo(path)
    assert netfs.get_attr(await netfs.look_up(volume, str(path))).kind is FileKind.OTHER
    with pytest.raises(StaleError):
        await read(netfs, file)


async def test_a_listing_has_every_entry_sorted_with_its_own_attributes(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"12")
    (tmp_path / "a").mkdir()
    (tmp_path / "c").symlink_to("nowhere")
    os.mkfifo(tmp_path / "d")
    (tmp_path / os.fsdecode(b"e\xff")).write_bytes(b"")
    netfs = LocaldirNetfs()
    entries = await netfs.list_directory(await netfs.open_volume(ROOT), str(tmp_path))
    assert [(entry.name, entry.attributes.kind) for entry in entries] == [
        ("a", FileKind.DIRECTORY),
        ("b", FileKind.FILE),
        ("c", FileKind.SYMLINK),
        ("d", FileKind.OTHER),
        ("e\udcff", FileKind.FILE),
    ]
    assert entries[1].attributes.size == 2


# -- faults ------------------------------------------------------------------------------


async def test_a_file_is_no_directory_and_below_it_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    with pytest.raises(CallerError) as caught:
        await netfs.list_directory(volume, f"{tmp_path}/a")
    assert caught.value.errno == errno.ENOTDIR
    assert str(caught.value) == f"file://{tmp_path}/a is not a directory"
    with pytest.raises(OriginNotFoundError):
        await netfs.list_directory(volume, f"{tmp_path}/a/b")


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="needs /proc")
async def test_a_file_whose_size_is_not_what_it_says_is_refused() -> None:
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    with pytest.raises(OriginError, match="file:///proc/cpuinfo: its size is given as 0 but it has content"):
        await netfs.look_up(volume, "/proc/cpuinfo")


async def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    netfs = LocaldirNetfs()
    assert netfs.get_attr(await netfs.look_up(await netfs.open_volume(ROOT), f"{tmp_path}/a")).size == 0


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    (tmp_path / "f").write_bytes(b"")
    for path in (tmp_path / "none", tmp_path / "f" / "below"):
        with pytest.raises(OriginNotFoundError) as caught:
            await netfs.look_up(volume, str(path))
        assert str(caught.value).startswith(f"file://{path}: ")


@needs_root
async def test_a_file_that_the_user_may_not_read_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    path.chmod(0o600)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and directory.name.startswith(("pytest", "test")):
            directory.chmod(0o755)
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    os.seteuid(65534)
    try:
        with pytest.raises(OriginPermissionError):
            await netfs.look_up(volume, str(path))
    finally:
        os.seteuid(0)


async def test_a_mount_point_without_its_mount_is_unreachable_and_not_empty(tmp_path: Path) -> None:
    netfs = LocaldirNetfs(mount_points=str(tmp_path))
    volume = await netfs.open_volume(ROOT)
    with pytest.raises(OriginUnreachableError, match="is not mounted"):
        await netfs.look_up(volume, str(tmp_path / "f"))


@pytest.fixture
def hung_mount(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A FUSE filesystem whose daemon never answers, and what kills the daemon."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    libc = ctypes.CDLL(None, use_errno=True)
    daemon = os.open("/dev/fuse", os.O_RDWR)
    target = os.fsencode(tmp_path)
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % daemon
    if libc.mount(b"hung", target, b"fuse.hung", 0, options):
        os.close(daemon)
        pytest.skip(f"cannot mount FUSE here: {os.strerror(ctypes.get_errno())}")
    with contextlib.ExitStack() as stack:
        stack.callback(libc.umount2, target, 2)
        kill_daemon = stack.enter_context(contextlib.ExitStack())
        kill_daemon.callback(os.close, daemon)
        yield tmp_path, kill_daemon.close


@pytest.mark.root
async def test_a_mount_that_hangs_is_a_timeout_and_one_that_died_is_unreachable(
    hung_mount: tuple[Path, Callable[[], None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    mount, kill_daemon = hung_mount
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "f"
    elsewhere.write_bytes(b"hello")
    netfs = LocaldirNetfs(deadline_seconds="0.05")
    volume = await netfs.open_volume(ROOT)
    with pytest.raises(OriginTimeoutError, match=r"f: no answer within 0\.05 s"):
        await netfs.look_up(volume, str(mount / "f"))
    patient = LocaldirNetfs()
    aux = patient.get_aux(await patient.look_up(await patient.open_volume(ROOT), str(elsewhere)))
    recalled = netfs.recall_file(volume, str(mount / "f"), aux, 5)
    with pytest.raises(OriginTimeoutError, match="bytes 0-4"):
        await read(netfs, recalled)
    kill_daemon()
    with pytest.raises(OriginUnreachableError) as caught:
        await patient.look_up(await patient.open_volume(ROOT), str(mount / "f"))
    assert not isinstance(caught.value, OriginTimeoutError)


async def test_a_cancelled_fetch_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a" * 40_960)
    netfs = LocaldirNetfs(piece_bytes=4096)
    file = await netfs.look_up(await netfs.open_volume(ROOT), str(tmp_path / "f"))
    with trio.CancelScope() as scope:
        await netfs.fetch(file, 0, memoryview(bytearray(40_960)), lambda n: scope.cancel())
    assert scope.cancelled_caught
    await wait_closed(tmp_path / "f")


async def wait_closed(path: Path) -> None:
    while True:
        if str(path) not in open_files():
            return
        await trio.sleep(0.001)


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of listdir itself
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


# -- writing -----------------------------------------------------------------------------


async def test_a_file_is_put_whole_and_comes_back(tmp_path: Path) -> None:
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    file = await netfs.put_file(volume, str(tmp_path / "f"), chunks(b"hello ", b"", b"world"), None)
    assert netfs.get_attr(file).size == 11
    assert await read(netfs, file) == b"hello world"
    assert os.listdir(tmp_path) == ["f"]
    (tmp_path / "other").touch()
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "other").stat().st_mode


async def test_a_replacement_keeps_the_mode_and_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "f").chmod(0o640)
    (tmp_path / "link").symlink_to("f")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    await netfs.put_file(volume, str(tmp_path / "link"), chunks(b"new"), None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "f").read_bytes() == b"new"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("gone", [False, True])
async def test_a_conditional_put_does_not_replace_another_version(tmp_path: Path, gone: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    file = await netfs.look_up(volume, str(path))
    if gone:
        path.unlink()
    else:
        path.write_bytes(b"other")
    with pytest.raises(StaleError):
        await netfs.put_file(volume, str(path), chunks(b"mine"), file)
    assert contents(tmp_path) == ([] if gone else [b"other"])


def contents(directory: Path) -> list[bytes]:
    return [each.read_bytes() for each in directory.iterdir()]


async def test_a_put_whose_source_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")

    async def failing() -> AsyncGenerator[bytes, None]:
        yield b"new"
        raise ValueError("source")

    netfs = LocaldirNetfs()
    with pytest.raises(ValueError, match="source"):
        await netfs.put_file(await netfs.open_volume(ROOT), str(tmp_path / "f"), failing(), None)
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


async def test_a_put_cancelled_at_any_step_leaves_the_old_file_or_the_new_and_nothing_else(
    tmp_path: Path,
) -> None:
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    cancelled = True
    n_steps = 0
    while cancelled:
        (tmp_path / "f").write_bytes(b"old")
        async with contextlib.aclosing(chunks(b"new", b"er")) as source:
            put = partial(netfs.put_file, volume, str(tmp_path / "f"), source, None)
            cancelled, _ = await cancelled_after(n_steps, put)
        assert contents(tmp_path) in ([b"old"], [b"newer"])
        assert not [name for name in open_files() if name.startswith(str(tmp_path))]
        n_steps += 1
    assert n_steps > 3
    assert contents(tmp_path) == [b"newer"]


async def test_a_fetch_cancelled_at_any_step_leaves_good_bytes_and_no_descriptor(tmp_path: Path) -> None:
    data = os.urandom(20_000)
    (tmp_path / "f").write_bytes(data)
    netfs = LocaldirNetfs(piece_bytes=4096)
    file = await netfs.look_up(await netfs.open_volume(ROOT), str(tmp_path / "f"))
    cancelled = True
    n_steps = 0
    while cancelled:
        buffer = bytearray(len(data))
        seen = [0]
        cancelled, _ = await cancelled_after(
            n_steps, partial(netfs.fetch, file, 0, memoryview(buffer), seen.append)
        )
        assert buffer == data[: seen[-1]] + bytes(len(data) - seen[-1])
        await wait_closed(tmp_path / "f")  # by a thread that was left behind
        n_steps += 1
    assert n_steps > 5
    assert seen[-1] == len(data)


async def test_a_cancelled_put_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with trio.CancelScope() as scope:

        async def cancelling() -> AsyncGenerator[bytes, None]:
            yield b"new"
            scope.cancel()
            yield b"newer"

        netfs = LocaldirNetfs()
        volume = await netfs.open_volume(ROOT)
        async with contextlib.aclosing(cancelling()) as source:
            await netfs.put_file(volume, str(tmp_path / "f"), source, None)
    assert scope.cancelled_caught
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


async def test_bytes_are_stored_and_the_size_set_in_the_version_given(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    file = await netfs.look_up(volume, str(path))
    file = await netfs.store(file, 8, memoryview(b"abcd"))
    assert netfs.get_attr(file).size == 12
    file = await netfs.truncate(file, 9)
    assert await read(netfs, file) == b"01234567a"
    path.write_bytes(b"another")
    with pytest.raises(StaleError):
        await netfs.store(file, 0, memoryview(b"x"))
    with pytest.raises(StaleError):
        await netfs.truncate(file, 0)
    assert path.read_bytes() == b"another"


async def test_names_modes_and_times_are_changed(tmp_path: Path) -> None:
    netfs = LocaldirNetfs()
    volume = await netfs.open_volume(ROOT)
    (tmp_path / "f").write_bytes(b"x")
    await netfs.mkdir(volume, str(tmp_path / "d"), 0o700)
    await netfs.rename(volume, str(tmp_path / "f"), str(tmp_path / "d/g"))
    await netfs.symlink(volume, "g", str(tmp_path / "d/l"))
    await netfs.chmod(volume, str(tmp_path / "d/g"), 0o600)
    await netfs.utimens(volume, str(tmp_path / "d/g"), 1_000_000_001, 2_000_000_002)
    found = (tmp_path / "d/g").stat()
    assert (found.st_mode & 0o777, found.st_atime_ns, found.st_mtime_ns) == (
        0o600,
        1_000_000_001,
        2_000_000_002,
    )
    assert os.readlink(tmp_path / "d/l") == "g"
    with pytest.raises(OriginError) as caught:
        await netfs.rmdir(volume, str(tmp_path / "d"))
    assert caught.value.errno == errno.ENOTEMPTY
    await netfs.unlink(volume, str(tmp_path / "d/g"))
    await netfs.unlink(volume, str(tmp_path / "d/l"))
    await netfs.rmdir(volume, str(tmp_path / "d"))
    assert os.listdir(tmp_path) == []


# -- options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"threads": "0"}, {"threads": "many"}, {"ignore": "size"}, {"mount_points": "mnt"}, {"shared": "maybe"}],
)
def test_an_option_that_makes_no_sense_is_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(CallerError, match=next(iter(options))):
        LocaldirNetfs(**options)
