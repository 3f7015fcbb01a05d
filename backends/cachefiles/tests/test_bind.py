"""Which directories are used and which are refused."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import trio
import xattr
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_cachefiles import CachefilesBackend
from fscache_cachefiles.bind import filesystem_type, open_root
from fscache_cachefiles.secctx import is_selinux_on
from fscache_core.errors import CacheUnusableError, CallerError
from fscache_core.testing.filesystems import loop_mount, why_unavailable

if TYPE_CHECKING:
    from pathlib import Path


def refused(directory: Path, **options: object) -> CacheUnusableError:
    """The error; nothing may have been written."""
    before = sorted(directory.rglob("*")) if directory.is_dir() else None
    with pytest.raises(CacheUnusableError) as caught:
        open_root(directory, **options)  # type: ignore[arg-type]
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (sorted(directory.rglob("*")) if directory.is_dir() else None) == before
    return caught.value


def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    root = open_root(tmp_path / "a" / "b")
    root.close()
    for path in (tmp_path / "a" / "b", *(tmp_path / "a" / "b" / part for part in ("cache", "graveyard"))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "ledger").stat().st_mode) == 0o600
    assert xattr.get(str(tmp_path / "a" / "b" / "cache"), "user.CacheFiles.cache") == b"C3"


async def test_nothing_in_a_cache_can_be_read_by_others(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        async with bound(tmp_path / "cache") as session:
            for size in (0, 5000, 300_000):
                await session.read(await session.open(Netfile(f"file{size}", size)))
    finally:
        os.umask(old)
    for path in (tmp_path / "cache").rglob("*"):
        assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    assert refused(tmp_path).errno == errno.EPERM


@pytest.mark.root
def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12345)
    assert refused(directory).errno == errno.EPERM


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file").errno == errno.ENOTDIR
    assert refused(tmp_path / "file" / "below").errno == errno.ENOTDIR


@pytest.mark.parametrize("name", ["cache", "graveyard"])
def test_directories_of_these_names_that_no_cache_made_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").write_text("data")
    assert refused(tmp_path).errno == errno.EEXIST


@pytest.mark.parametrize("name", ["ledger", "statistics"])
def test_files_of_these_names_that_no_cache_made_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert refused(tmp_path).errno == errno.EEXIST
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["notes.txt", ".git", "Cache", "cache~"])
def test_a_directory_with_other_files_in_it_is_refused_unless_forced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    error = refused(tmp_path)
    assert error.errno == errno.ENOTEMPTY
    assert name in str(error)
    assert "force=true" in str(error)
    open_root(tmp_path, force=True).close()
    open_root(tmp_path).close()  # it is a cache now


def test_an_empty_cache_directory_among_other_files_makes_no_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert refused(tmp_path).errno == errno.ENOTEMPTY


def test_a_cache_stays_one_whatever_is_put_beside_it(tmp_path: Path) -> None:
    open_root(tmp_path).close()
    (tmp_path / "notes.txt").write_text("mine")
    open_root(tmp_path).close()


def test_the_root_of_a_new_filesystem_can_be_a_cache(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir(mode=0o700)
    open_root(tmp_path).close()


@pytest.mark.parametrize("made", [(), ("cache",), ("cache", "graveyard"), ("cache", "graveyard", "ledger")])
def test_a_directory_that_another_process_is_just_making_a_cache_is_used(
    tmp_path: Path, made: tuple[str, ...]
) -> None:
    for name in made:
        (tmp_path / name).touch() if name == "ledger" else (tmp_path / name).mkdir(mode=0o700)
    open_root(tmp_path).close()


def test_one_new_directory_is_bound_by_many_threads_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for round_ in range(50):
            directory = tmp_path / str(round_)
            barrier = threading.Barrier(8)

            def bind(directory: Path = directory, barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                open_root(directory).close()

            for bound_ in [threads.submit(bind) for _ in range(8)]:
                bound_.result()


def test_a_cache_whose_cache_directory_is_gone_is_made_again(tmp_path: Path) -> None:
    open_root(tmp_path).close()
    (tmp_path / "cache").rmdir()
    open_root(tmp_path).close()
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("name", ["cache", "graveyard", "ledger"])
def test_symbolic_links_below_the_directory_are_not_followed(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory = tmp_path / "dir"
    directory.mkdir(mode=0o700)
    (directory / name).symlink_to(elsewhere if name != "ledger" else elsewhere / "file")
    with pytest.raises(CacheUnusableError, match=str(directory)):
        open_root(directory)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["cache", "graveyard", "ledger"])
def test_a_fifo_below_the_directory_does_not_block(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CacheUnusableError, match=str(tmp_path)):
        open_root(tmp_path)


def test_the_label_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    xattr.set(str(tmp_path / "cache"), "user.CacheFiles.cache", b"C4")
    assert refused(tmp_path).errno == errno.EIO


@pytest.mark.root
def test_a_filesystem_without_user_attributes_is_refused(tmp_path: Path) -> None:
    if (why := why_unavailable("tmpfs")) is not None:
        pytest.skip(why)
    subprocess.run(["mount", "-t", "ramfs", "ramfs", tmp_path], check=True)
    try:
        tmp_path.chmod(0o700)
        error = refused(tmp_path / "made")
        assert error.errno == errno.EOPNOTSUPP
        assert "extended attributes" in str(error)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.root
async def test_a_read_only_filesystem_is_refused_also_with_a_cache_on_it(tmp_path: Path) -> None:
    if (why := why_unavailable("ext4")) is not None:
        pytest.skip(why)
    with loop_mount("ext4", 32 << 20, tmp_path) as mount:
        async with bound(mount.path / "cache") as session:
            await session.read(await session.open(Netfile("file", 5000)))
        mount.remount_read_only()
        assert refused(mount.path / "cache").errno == errno.EROFS
        assert refused(mount.path / "new").errno == errno.EROFS
        mount.remount_read_write()


@pytest.mark.root
def test_a_network_filesystem_is_refused_unless_forced(tmp_path: Path) -> None:
    if (why := why_unavailable("ext4")) is not None:
        pytest.skip(why)
    # A filesystem in user space that calls itself one of a network: what `sshfs` looks like to us.
    command = ["mount", "-t", "fuse.sshfs", "none", str(tmp_path)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no FUSE filesystem to mount here")
    try:
        assert "network" in str(refused(tmp_path))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_kind_of_filesystem_is_known(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        assert filesystem_type(descriptor) != ""
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dir": None}, "no directory given"),
        ({"dir": ""}, "no directory given"),
        ({"dir": 2024}, "dir=2024 is not a text"),
        ({"secctx": 5}, "secctx=5 is not a text"),
        ({"verify": "sometimes"}, "touch, always, never"),
        ({"brun": "x"}, "brun='x' is not a percentage"),
        ({"bstop": "7%"}, "limits must satisfy"),
        ({"frun": 100}, "limits must satisfy"),
        ({"max_bytes": "many"}, "not a size"),
        ({"max_files": "-1"}, "not a size"),
        ({"force": "perhaps"}, "neither true nor false"),
        ({"force": 2}, "neither true nor false"),
    ],
)
def test_an_option_that_makes_no_sense_is_the_callers_fault(options: dict[str, object], says: str) -> None:
    with pytest.raises(CallerError, match=says) as caught:
        CachefilesBackend(**{"dir": "/nowhere", **options})  # type: ignore[arg-type]
    assert caught.value.errno == errno.EINVAL


def test_options_may_be_written_as_on_a_command_line(tmp_path: Path) -> None:
    CachefilesBackend(
        tmp_path,
        verify="always",
        brun="20%",
        bcull="10",
        bstop=5,
        max_bytes="20G",
        max_files="100k",
        force=1,  # what a command line makes of force=1
        sync="false",
    )


def test_a_label_for_selinux_is_used_or_said_to_be_of_no_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if is_selinux_on():
        pytest.skip("SELinux is on here")
    CachefilesBackend(tmp_path, secctx="system_u:object_r:cachefiles_var_t:s0")
    assert "SELinux is off" in caplog.text


async def test_a_cache_is_bound_by_many_at_once_from_nothing(tmp_path: Path) -> None:
    async def bind() -> None:
        async with bound(tmp_path / "cache") as session:
            file = Netfile("file", 5000)
            assert await session.read(await session.open(file)) == file.content

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(bind)
