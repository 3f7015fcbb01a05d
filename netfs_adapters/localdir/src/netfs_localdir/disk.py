"""Blocking file calls, each for one trip to a worker thread.

A thread may be stuck in the kernel (a dead NFS server, a hung FUSE daemon) and be left behind by the
task that started it.  So nothing that reads writes to memory which the task has lent out, and a
descriptor is closed by whoever is last to use it.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from fscache_core.errors import OriginError, OriginPermissionError, StaleError
from netfs_localdir.version import Version

#: How to open what may turn out to be a FIFO, a terminal or a device: without waiting or getting attached.
_OPEN_SAFELY = getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC | getattr(os, "O_NOCTTY", 0)

#: (path or descriptor, its status, id of its filesystem, time before the stat in ns) -> version
Observe = Callable[[str | int, os.stat_result, int, int], Version]


def filesystem_id(target: str | int) -> int:
    """What statvfs calls the filesystem; 0 where it has no name (NFS, FUSE, not Linux)."""
    status = os.statvfs(target)
    return getattr(status, "f_fsid", 0) & 0xFFFFFFFFFFFFFFFF


def look_up(path: str, observe: Observe) -> Version:
    """Observe what ``path`` names, following links.  A file must be one that we may read."""
    while True:
        now_ns = time.time_ns()
        status = os.stat(path)
        is_file = stat.S_ISREG(status.st_mode)
        if is_file and not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise OriginPermissionError("not allowed to read it")
        version = observe(path, status, filesystem_id(path), now_ns)
        if not is_file or status.st_size:
            return version
        with suppress(StaleError):  # written to just now: look again
            _require_empty(path, version, observe)
            return version


def _require_empty(path: str, version: Version, observe: Observe) -> None:
    """Refuse what says that it is empty and is not, as there is no size to read up to.  Raises StaleError."""
    fd = os.open(path, os.O_RDONLY | _OPEN_SAFELY)
    try:
        try:
            empty = not os.read(fd, 1)
        except BlockingIOError:  # it waits for something to happen
            empty = False
        if not empty:
            require(fd, version, observe)
            raise OriginError("its size is given as 0 but it has content, as files made by the kernel do")
    finally:
        os.close(fd)


def require(fd: int, version: Version, observe: Observe) -> None:
    """Raise StaleError unless what is open is ``version``."""
    now_ns = time.time_ns()
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise StaleError("it is not a regular file any more")
    if not observe(fd, status, filesystem_id(fd), now_ns).same_file(version):
        raise StaleError("it has changed")


class Reading:
    """One range of one version, read piece by piece, in one thread at a time.

    `close` may be called while a thread is still inside `read_piece`, left behind by a task that
    was cancelled or met its deadline: then that thread closes the file when it comes out.
    """

    def __init__(self, path: str, version: Version, observe: Observe) -> None:
        self._path = path
        self._version = version
        self._observe = observe
        self._lock = threading.Lock()  # guards what follows
        self._fd = -1
        self._in_thread = False
        self._closed = False

    def read_piece(self, offset: int, size: int, last: bool) -> bytearray:
        """Read ``size`` bytes that are all of the version.  Raises StaleError.

        The file is checked when it is opened and after each piece; two equal observations vouch for
        what was read between them.  ``last`` closes the file, here because close may block as well.
        """
        with self._lock:
            self._in_thread = True
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | _OPEN_SAFELY)
                require(self._fd, self._version, self._observe)
            piece = bytearray(size)
            n_read = _read_into(self._fd, memoryview(piece), offset)
            require(self._fd, self._version, self._observe)
            if n_read < size:
                raise OriginError(f"ended after {n_read} bytes")
            return piece
        finally:
            with self._lock:
                self._in_thread = False
                self._closed |= last
            self._close_when_idle()

    def close(self) -> None:
        """Close the file as soon as no thread is using it.  Idempotent."""
        with self._lock:
            self._closed = True
        self._close_when_idle()

    def _close_when_idle(self) -> None:
        with self._lock:
            if not self._closed or self._in_thread:
                return
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


if hasattr(os, "preadv"):

    def _read_some(fd: int, view: memoryview, offset: int) -> int:
        return os.preadv(fd, [view], offset)

else:  # Windows, old macOS.  One thread at a time uses the descriptor, so its position is ours.

    def _read_some(fd: int, view: memoryview, offset: int) -> int:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)


def _read_into(fd: int, view: memoryview, offset: int) -> int:
    done = 0
    while done < len(view):
        n_read = _read_some(fd, view[done:], offset + done)
        if not n_read:
            break
        done += n_read
    return done


def write(path: str, version: Version, offset: int, buffer: memoryview, observe: Observe) -> Version:
    """Write ``buffer`` into ``version`` of an existing file; returns what it became."""
    fd = os.open(path, os.O_WRONLY | _OPEN_SAFELY)
    try:
        require(fd, version, observe)
        os.lseek(fd, offset, os.SEEK_SET)
        done = 0
        while done < len(buffer):
            done += os.write(fd, buffer[done:])
        return _synced(fd, observe)
    finally:
        os.close(fd)


def truncate(path: str, version: Version, size: int, observe: Observe) -> Version:
    """Set the size of ``version`` of an existing file; returns what it became."""
    fd = os.open(path, os.O_WRONLY | _OPEN_SAFELY)
    try:
        require(fd, version, observe)
        os.ftruncate(fd, size)
        return _synced(fd, observe)
    finally:
        os.close(fd)


def _synced(fd: int, observe: Observe) -> Version:
    """Wait until the origin has it, for an NFS server may refuse what the client took; then look at it."""
    os.fsync(fd)
    now_ns = time.time_ns()
    return observe(fd, os.fstat(fd), filesystem_id(fd), now_ns)


class Replacement:
    """A file under a temporary name beside its destination, which it replaces in one step."""

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)  # a link stays a link: what it points to is replaced
        directory, name = os.path.split(self._path)
        try:
            self._mode = stat.S_IMODE(os.stat(self._path).st_mode) & 0o777
        except FileNotFoundError:
            self._mode = 0o666 & ~_umask()
        # The name is cut so that it stays within 255 bytes however long the file's own is.
        prefix = "." + os.fsdecode(os.fsencode(name)[:200]) + "."
        self._fd, self._temporary = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=directory)

    def write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._fd, view) :]

    def publish(self, replaces: Version | None, observe: Observe) -> Version:
        """Give it its name.  Raises StaleError if what is there now is not ``replaces``."""
        os.chmod(self._temporary, self._mode)
        os.fsync(self._fd)
        if replaces is not None:
            try:
                now_ns = time.time_ns()
                present = observe(self._path, os.stat(self._path), filesystem_id(self._path), now_ns)
            except FileNotFoundError:
                raise StaleError("it has been removed") from None
            if not present.same_file(replaces):
                raise StaleError("it has changed")
        os.replace(self._temporary, self._path)
        self._temporary = ""
        now_ns = time.time_ns()
        return observe(self._fd, os.fstat(self._fd), filesystem_id(self._fd), now_ns)

    def discard(self) -> None:
        """Close it, and remove it unless it was published.  Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary:
            os.unlink(self._temporary)
            self._temporary = ""


def _umask() -> int:
    """The process's umask, which can only be read by setting it, unless /proc tells."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022  # setting it, even for a moment, would show in files that other threads create


def list_directory(path: str, observe: Observe) -> list[tuple[str, Version]]:
    """Every entry with its own attributes (a link's, not those of what it points to), sorted by name."""
    entries = []
    fsid = filesystem_id(path)
    device = os.stat(path).st_dev
    with os.scandir(path) as scan:
        for entry in scan:
            now_ns = time.time_ns()
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since
            if status.st_dev == device:
                version = observe(path, status, fsid, now_ns)
            else:  # something is mounted there
                version = observe(entry.path, status, filesystem_id(entry.path), now_ns)
            entries.append((entry.name, version))
    entries.sort(key=lambda entry: os.fsencode(entry[0]))
    return entries
