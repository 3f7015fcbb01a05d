"""Loop mounts and the trees to put on them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fscache_core.testing.filesystems import (
    FILESYSTEM_KINDS,
    FilesystemError,
    FilesystemKind,
    loop_mount,
    why_unavailable,
)
from fscache_core.testing.tree import EMPTY_NAME, LARGE_NAME, make_tree

each_kind = pytest.mark.parametrize("kind", FILESYSTEM_KINDS)


def _need(kind: FilesystemKind) -> None:
    if (why := why_unavailable(kind)) is not None:
        pytest.skip(why)


def _mounted_as(path: Path) -> str | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if where == str(path):
            return kind
    return None


@pytest.mark.root
@each_kind
def test_a_filesystem_of_the_kind_is_there_and_then_gone(kind: FilesystemKind, tmp_path: Path) -> None:
    _need(kind)
    with loop_mount(kind, 512 << 20, tmp_path) as mount:
        assert _mounted_as(mount.path) == kind
        assert list(mount.path.iterdir()) == []
        (mount.path / "file").write_bytes(b"abc")
        os.setxattr(mount.path / "file", "user.test", b"1")
        mount.remount_read_only()
        with pytest.raises(OSError, match="Read-only") as caught:
            (mount.path / "file").write_bytes(b"def")
        assert caught.value.errno == errno.EROFS
        mount.remount_read_write()
        (mount.path / "file").write_bytes(b"def")
    assert _mounted_as(mount.path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_files_and_bytes_run_out(kind: FilesystemKind, tmp_path: Path) -> None:
    _need(kind)
    with loop_mount(kind, 8 << 20, tmp_path, n_inodes=64) as mount:
        with pytest.raises(OSError, match="No space"):  # noqa: PT012  (which of them fails is mkfs's choice)
            for number in range(200):
                (mount.path / str(number)).touch()
        (mount.path / "0").unlink()
        with pytest.raises(OSError, match="No space"):
            (mount.path / "1").write_bytes(bytes(9 << 20))


@pytest.mark.root
def test_a_file_left_open_is_reported_and_the_mount_goes_even_so(tmp_path: Path) -> None:
    _need("tmpfs")
    context = loop_mount("tmpfs", 1 << 20, tmp_path)
    mount = context.__enter__()
    with (mount.path / "file").open("wb"), pytest.raises(FilesystemError, match="busy"):
        context.__exit__(None, None, None)
    assert _mounted_as(mount.path) is None


@pytest.mark.root
def test_what_goes_wrong_inside_is_not_hidden_by_the_unmounting(tmp_path: Path) -> None:
    _need("tmpfs")
    context = loop_mount("tmpfs", 1 << 20, tmp_path)
    mount = context.__enter__()
    with (mount.path / "file").open("wb"):  # with it open, a plain umount fails
        # false: the error goes on as it is; were it replaced, the new one would be raised here
        assert not context.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert _mounted_as(mount.path) is None


def test_too_small_a_size_and_inodes_where_there_are_none_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="btrfs"), loop_mount("btrfs", 512 << 20, tmp_path, n_inodes=5):
        pass
    _need("xfs")
    with pytest.raises(FilesystemError, match=r"mkfs\.xfs"), loop_mount("xfs", 1 << 20, tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_fixture_gives_an_empty_private_directory_on_each_kind(fscache_filesystem: Path) -> None:
    assert list(fscache_filesystem.iterdir()) == []
    assert fscache_filesystem.stat().st_mode & 0o777 == 0o700
    assert _mounted_as(fscache_filesystem.parent) in FILESYSTEM_KINDS
    (fscache_filesystem / "left behind").touch()


def test_a_tree_is_what_its_manifest_says_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    manifest = make_tree(tmp_path / "one", seed=7, n_files=100, large_size=3 << 20)
    assert manifest == make_tree(tmp_path / "two", seed=7, n_files=100, large_size=3 << 20)
    assert manifest != make_tree(tmp_path / "three", seed=8, n_files=100, large_size=3 << 20)
    found = {
        path.relative_to(tmp_path / "one").as_posix(): path.read_bytes()
        for path in (tmp_path / "one").rglob("*")
        if path.is_file()
    }
    assert found.keys() == manifest.keys()
    for name, data in found.items():
        assert (len(data), hashlib.sha256(data).hexdigest()) == (manifest[name].size, manifest[name].sha256)
    assert (manifest[EMPTY_NAME].size, manifest[LARGE_NAME].size) == (0, 3 << 20)
    assert len(manifest) == 102
    names = [Path(name).name.encode() for name in manifest]
    assert any(len(name) == 250 for name in names)
    assert any(b" " in name for name in names)
    assert not all(name.isascii() for name in names)
    sizes = [entry.size for name, entry in manifest.items() if name not in (EMPTY_NAME, LARGE_NAME)]
    assert min(sizes) == 1
    assert (1 << 19) < max(sizes) <= (1 << 20)


def test_a_tree_may_be_made_for_any_size(tmp_path: Path) -> None:
    assert len(make_tree(tmp_path, seed=1, n_files=0, large_size=0)) == 2


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_program_that_is_not_installed_is_named_with_its_package(
    kind: FilesystemKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    _need("tmpfs")
    monkeypatch.setenv("PATH", "")
    assert re.fullmatch(rf"no mkfs\.{kind} \(Debian: apt-get install \S+\)", str(why_unavailable(kind)))
    assert why_unavailable("tmpfs") is None


@pytest.mark.root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv (Debian: util-linux)")
def test_who_may_not_mount_is_told_so() -> None:
    _need("tmpfs")
    program = "from fscache_core.testing.filesystems import *; print(why_unavailable('tmpfs'))"
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", program]
    assert subprocess.check_output(command, text=True) == "mounting tmpfs needs root\n"
