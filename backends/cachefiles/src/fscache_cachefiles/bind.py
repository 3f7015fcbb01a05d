"""The cache directory itself: what is checked before it is used, and the descriptors held on it.

Below the directory lie ``cache/`` (the master index), ``graveyard/``, ``ledger`` and ``statistics``.
Everything else is opened relative to their descriptors.

Source: the on-disk format, sections 1 and 10.
"""

import contextlib
import ctypes
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from fscache_cachefiles.lock import carry_locks, carry_no_locks
from fscache_cachefiles.xattr import BadAttributeError, has_attributes, label_master_index, read_label
from fscache_core.errors import CacheUnusableError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# What may lie in a directory that becomes a cache: what another process has made of it already, and what
# mkfs puts into the root of a filesystem.
_OWN_NAMES = {"cache", "graveyard", "ledger", "statistics", "lost+found"}

# Filesystems whose locks, or whose order of writes, another machine or process decides on.
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre"),
    *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs", "virtiofs"),
}


@dataclass(frozen=True, slots=True)
class Root:
    """Descriptors of a bound cache directory.  Closed once, by `close`."""

    path: Path  #: absolute, for messages only
    directory: int
    cache: int  #: ``cache/``
    graveyard: int  #: ``graveyard/``
    ledger: int  #: ``ledger``, read-write
    read_flags: int  #: RWF_NOWAIT, or 0 where the filesystem refuses it (tmpfs: nothing to wait for)

    def close(self) -> None:
        carry_no_locks(self.ledger)
        for descriptor in (self.ledger, self.graveyard, self.cache, self.directory):
            os.close(descriptor)


def open_root(directory: str | os.PathLike[str], *, force: bool = False) -> Root:
    """Check a cache directory, make what is missing of it, and open it.

    Args:
      directory: made with mode 0700 if it is missing.
      force: use it even on a network filesystem, and even if it holds files of somebody else.

    Raises:
      CacheUnusableError: naming the directory and what is wrong.  Nothing was left behind in it.
    """
    path = Path(os.path.abspath(directory))
    made = _make_directory(path)
    with contextlib.ExitStack() as undo:
        if made:
            undo.callback(_remove_if_empty, path)
        try:
            root = _open_checked(path, force, undo)
        except CacheUnusableError:
            raise
        except OSError as error:
            where = path / error.filename if isinstance(error.filename, str) else path
            reason = error.strerror or str(error)
            raise CacheUnusableError(f"cache directory {where}: {reason}", errno=error.errno) from error
        undo.pop_all()
        return root


def _make_directory(path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        return False
    except OSError as error:
        raise CacheUnusableError(
            f"cache directory {path} cannot be made: {error.strerror}", errno=error.errno
        ) from error
    return True


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def _open_checked(path: Path, force: bool, undo: contextlib.ExitStack) -> Root:
    def unusable(reason: str, number: int) -> CacheUnusableError:
        return CacheUnusableError(f"cache directory {path} {reason}", errno=number)

    def held(descriptor: int) -> int:
        undo.callback(os.close, descriptor)
        return descriptor

    # The directory may be reached over symbolic links; nothing below it may.
    directory = held(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    status = os.fstat(directory)
    if status.st_uid != os.geteuid():
        raise unusable(f"belongs to user {status.st_uid}, not to you", errno.EPERM)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise unusable(f"can be written by others (mode {stat.S_IMODE(status.st_mode):04o})", errno.EPERM)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
            raise unusable("is on a read-only filesystem", errno.EROFS)
        raise unusable("cannot be read and written by you", errno.EACCES)
    kind = filesystem_type(directory)
    if not force and (kind in _NETWORK or kind.startswith("fuse.")):
        raise unusable(
            f"is on a network filesystem ({kind}), where locks and crash rules do not hold;"
            " use force=true if you know better",
            errno.EOPNOTSUPP,
        )
    if not has_attributes(directory):
        raise unusable(f"is on a filesystem without user extended attributes ({kind})", errno.EOPNOTSUPP)

    if not force and (stray := _stray_name(directory)) is not None:
        raise unusable(
            f"is not empty and is no cache (it holds {stray!r}); use force=true to make it one",
            errno.ENOTEMPTY,
        )
    for name in ("cache", "graveyard"):
        if _is_strange(directory, name):
            raise unusable(f"holds a {name}/ that is not a cache's", errno.EEXIST)
    for name, magic in (("ledger", b"fscache1"), ("statistics", b"fscstat1")):
        if _is_foreign(directory, name, magic):
            raise unusable(f"holds a file {name} that is not a cache's", errno.EEXIST)
    cache = held(_open_part(directory, "cache"))
    try:
        label_master_index(cache)
    except BadAttributeError as error:
        raise unusable(f"is not a cache of this format: {error}", errno.EIO) from error
    graveyard = held(_open_part(directory, "graveyard"))
    ledger = held(
        os.open(
            "ledger",
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
            FILE_MODE,
            dir_fd=directory,
        )
    )
    if not stat.S_ISREG(os.fstat(ledger).st_mode):
        raise unusable("holds a ledger that is not a regular file", errno.EIO)
    root = Root(path, directory, cache, graveyard, ledger, _read_flags(ledger))
    carry_locks(ledger)
    return root


def _stray_name(directory: int) -> str | None:
    """A file of somebody else's in a directory that is no cache yet; None if there is none, or it is one."""
    if _has_master_index(directory):
        return None
    return min(set(os.listdir(directory)) - _OWN_NAMES, default=None)


def _is_strange(directory: int, name: str) -> bool:
    """Whether something of this name is there that no cache made: it is not ours to use or empty."""
    try:
        descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        return bool(os.listdir(descriptor)) and not _has_master_index(directory)
    finally:
        os.close(descriptor)


def _has_master_index(directory: int) -> bool:
    """Whether ``cache/`` is there and labelled.  Two processes may be making one directory a cache: the
    label is the second thing made, after ``cache/`` itself, and all else comes behind it."""
    try:
        master = os.open("cache", OPEN_DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        return read_label(master) is not None
    except BadAttributeError:
        return True  # a cache's, and damaged: whoever labels it will say so
    finally:
        os.close(master)


def _is_foreign(directory: int, name: str, magic: bytes) -> bool:
    """Whether a file of this name is somebody's own: there is no cache beside it, and no cache wrote it."""
    try:
        os.stat("cache", dir_fd=directory, follow_symlinks=False)
        return False  # a cache's, damaged perhaps: whoever reads it copes
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return False  # not there, or nothing that opening it for use will accept
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        head = os.pread(descriptor, 1 << 16, 0).lstrip(b"\0")
    finally:
        os.close(descriptor)
    return bool(head) and not head.startswith(magic)


def _open_part(directory: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, DIRECTORY_MODE, dir_fd=directory)
    return os.open(name, OPEN_DIRECTORY, dir_fd=directory)


def _read_flags(descriptor: int) -> int:
    try:
        os.preadv(descriptor, (bytearray(1),), 0, os.RWF_NOWAIT)
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return 0
    return os.RWF_NOWAIT


def sync_filesystem(descriptor: int) -> None:
    """Bring everything written to the filesystem of an open file to the disk.  Blocks."""
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def filesystem_type(descriptor: int) -> str:
    """The kind of filesystem an open file lies on, as in ``/proc/mounts``; empty if unknown."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
        mount = next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)
        for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
            fields = line.split()
            if fields[0] == mount:
                return fields[fields.index("-") + 1]
    return ""
