"""Byte-range locks that belong to an open file description and die with it.

Tasks and threads that share a descriptor do not exclude each other: core already lets only one
of them in.  Processes, and caches opened twice in one process, do.
"""

import errno
import fcntl
import struct
import time

_FLOCK = struct.Struct("@hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid (must be 0)
_PAUSE_SECONDS = 0.0005


def try_lock_range(descriptor: int, start: int, length: int) -> bool:
    """Take ``length`` bytes from ``start`` on, exclusively.  False if somebody else holds some of it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, start, length, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def wait_lock_range(descriptor: int, start: int, length: int, timeout_seconds: float) -> bool:
    """`try_lock_range` until it succeeds or the time is up.  Blocks the thread.

    Bounded, because a process that was stopped (not killed) keeps its locks.
    """
    deadline = time.monotonic() + timeout_seconds
    while not try_lock_range(descriptor, start, length):
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def unlock_range(descriptor: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, 0, start, length, 0))


def try_share(descriptor: int) -> bool:
    """Mark an entry as in use (``flock``).  False while somebody is removing it."""
    return _try_flock(descriptor, fcntl.LOCK_SH)


def try_own(descriptor: int) -> bool:
    """Take an entry that nobody uses.  False if it is in use."""
    return _try_flock(descriptor, fcntl.LOCK_EX)


def _try_flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True
