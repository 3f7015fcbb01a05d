"""Real filesystems to put a cache directory on: ext4, xfs and btrfs in a sparse file, and tmpfs.

::

    if (why := why_unavailable("xfs")) is not None:
        pytest.skip(why)
    with loop_mount("xfs", 512 << 20, tmp_path) as mount:
        ...  # mount.path is empty and writable
        mount.remount_read_only()
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from fscache_core.testing.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

FilesystemKind = Literal["ext4", "xfs", "btrfs", "tmpfs"]
FILESYSTEM_KINDS: tuple[FilesystemKind, ...] = get_args(FilesystemKind)

_MKFS: dict[FilesystemKind, list[str]] = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
_PACKAGES: dict[FilesystemKind, str] = {"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs"}
_CAP_SYS_ADMIN = 21
_SECTOR_SIZE = 512
_XFS_INODE_SIZE = 512

# <linux/loop.h>: struct loop_info64 and where lo_sizelimit is in it.
_LOOP_SET_STATUS64, _LOOP_GET_STATUS64 = 0x4C04, 0x4C05
_LOOP_STATUS_SIZE, _LOOP_SIZE_LIMIT_AT = 232, 32


class FilesystemError(OSError):
    """A mkfs, mount or umount failed; the text is what the program said."""


def why_unavailable(kind: FilesystemKind) -> str | None:
    """Why `loop_mount` of this kind cannot work here, or None if nothing is known to be in its way."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    if not int(status["CapEff"], 16) >> _CAP_SYS_ADMIN & 1:
        return f"mounting {kind} needs root"
    if kind == "tmpfs":
        return None
    program = _MKFS[kind][0]
    if shutil.which(program) is None:
        return f"no {program} (Debian: apt-get install {_PACKAGES[kind]})"
    if not os.path.exists("/dev/loop-control"):
        return "no loop devices (/dev/loop-control is missing)"
    return None


def _run(*command: str | Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FilesystemError(errno.EIO, f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _inode_options(kind: FilesystemKind, size_bytes: int, n_inodes: int | None) -> list[str]:
    if n_inodes is None:
        return []
    if kind == "ext4":
        return ["-N", str(n_inodes)]
    percent = max(1, round(100 * n_inodes * _XFS_INODE_SIZE / size_bytes))
    return ["-i", f"size={_XFS_INODE_SIZE},maxpct={percent}"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted filesystem; ``path`` is its root, mode 0700."""

    kind: FilesystemKind
    path: Path

    def remount_read_only(self) -> None:
        """From now on writing fails with EROFS.  Fails itself (busy) while a file is open for writing."""
        _run("mount", "-o", "remount,ro", self.path)

    def remount_read_write(self) -> None:
        _run("mount", "-o", "remount,rw", self.path)

    def break_disk(self) -> None:
        """From now on the disk answers EIO, to reads of what is not in memory and to what is written back.

        The filesystem deals with that as with any disk; it is sound again only when it was mounted anew.
        """
        _limit_loop_device(self.path, _SECTOR_SIZE)

    def mend_disk(self) -> None:
        """Undo `break_disk`, and mount the filesystem anew."""
        _limit_loop_device(self.path, 0)
        _run("umount", self.path)
        _run("mount", "-t", self.kind, "-o", "loop", self.path.parent / "image", self.path)


def _limit_loop_device(mounted: Path, size_bytes: int) -> None:
    """Have the loop device below a mount end after so many bytes; 0: where its file ends."""
    device = _run("findmnt", "--noheadings", "--output", "SOURCE", mounted).strip()
    descriptor = os.open(device, os.O_RDONLY)
    try:
        status = bytearray(_LOOP_STATUS_SIZE)
        fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, status)
        struct.pack_into("Q", status, _LOOP_SIZE_LIMIT_AT, size_bytes)
        fcntl.ioctl(descriptor, _LOOP_SET_STATUS64, bytes(status))
    finally:
        os.close(descriptor)


@contextmanager
def loop_mount(
    kind: FilesystemKind, size_bytes: int, directory: Path, *, n_inodes: int | None = None
) -> Iterator[Mount]:
    """Make a filesystem and mount it for as long as the context lasts, or this process lives.

    Args:
      size_bytes: of the whole filesystem.  The sparse file takes only what is written.  Least sizes: ext4 1
        MiB, xfs 300 MiB, btrfs 110 MiB.
      directory: where the image file and the mount point are put, under fresh names; both are removed at the
        end.
      n_inodes: about so many files fit, on xfs at least 1 % of its blocks full (not for btrfs).

    Raises:
      ValueError: `n_inodes` for btrfs.
      FilesystemError: mkfs or mount failed; or, at the end, the mount was still in use (a file left open): it
      is detached
        even so, and goes when that file is closed.
    """
    if n_inodes is not None and kind == "btrfs":
        raise ValueError("btrfs has no fixed number of inodes")
    workspace = Workspace(f"mount-{kind}", parent=directory)  # unmounts also if this process is killed
    try:
        path = workspace.directory / "mnt"
        path.mkdir()
        if kind == "tmpfs":
            options = f"size={size_bytes}" + (f",nr_inodes={n_inodes}" if n_inodes is not None else "")
            _run("mount", "-t", "tmpfs", "-o", options, "fscache-test", path)
        else:
            image = workspace.directory / "image"
            with image.open("wb") as file:
                file.truncate(size_bytes)
            _run(*_MKFS[kind], *_inode_options(kind, size_bytes, n_inodes), image)
            _run("mount", "-t", kind, "-o", "loop", image, path)
        workspace.mounted(path)
        try:
            path.chmod(0o700)
            if kind == "ext4":
                (path / "lost+found").rmdir()
            yield Mount(kind, path)
        except BaseException:
            with suppress(FilesystemError):
                _run("umount", "--lazy", path)  # whatever went wrong inside says more than "busy"
            raise
        try:
            _run("umount", path)
        except FilesystemError:
            _run("umount", "--lazy", path)
            raise
    finally:
        workspace.close()
