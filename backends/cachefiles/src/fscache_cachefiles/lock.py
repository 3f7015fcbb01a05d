"""Byte-range locks that belong to an open file description and die with it.

Tasks and threads that share a descriptor do not exclude each other: core already lets only one
of them in.  Processes, and caches opened twice in one process, do.

A forked child shares its parent's descriptions, and would keep the parent's locks alive for as long
as it lives.  So locks are given back by unlocking, never by closing alone; and what carries byte-range
locks for long (`carry_locks`) is opened anew in the child, should the parent be killed while it has some.
"""

import errno
import fcntl
import os
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


def close_locked(descriptor: int) -> None:
    """Unlock an entry (``flock``) and close it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _try_flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True


# -- forks -------------------------------------------------------------------------------

_carriers: set[int] = set()


def carry_locks(descriptor: int) -> None:
    """Have children open this file anew: range locks are taken on it.  Until `carry_no_locks`."""
    _carriers.add(descriptor)


def carry_no_locks(descriptor: int) -> None:
    """Before the descriptor is closed."""
    _carriers.discard(descriptor)


def _part_from_parent() -> None:
    """In a child: the same files under the same descriptors, without the parent's locks."""
    for descriptor in _carriers:
        try:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE | os.O_CLOEXEC
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError:
            continue  # no /proc, no descriptor left: who waits for a lock gives up in time
        os.dup2(own, descriptor, inheritable=False)
        os.close(own)


os.register_at_fork(after_in_child=_part_from_parent)
