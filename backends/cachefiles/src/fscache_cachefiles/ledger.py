"""The account of a whole cache directory: what is stored, in files and bytes.

One small file that every user of the directory shares holds four counters that only grow: files
and bytes added, files and bytes removed.  Who stores something adds it *before* it exists, who
removes something takes it off *after* it is gone; so a process that dies in between leaves the
account too high, never too low, and the ceilings hold with many writers and over restarts.
`recount` puts right what crashes left over.

Who counts does not find what is charged and not yet there, nor what is gone and still to be taken off.  So
everybody who has the account open says in a slot of its own how much is on its way, and the slot holds for as
long as it is locked: a crash unlocks it.

What things weigh depends on nothing but their size and their valid pages, so that what was added
is what is taken off: see the ``weigh`` functions.  They count a page for each inode's attributes
and for each directory, which is what ext4 needs.

The same file carries the fill locks of small objects (`fill_lock_start`): those have no file of
their own until they are whole.
"""

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import xxhash

from fscache_cachefiles.blockmap import ENTRY_SIZE, block_count
from fscache_cachefiles.lock import try_lock_range, unlock_range, wait_lock_range
from fscache_core.errors import CacheIOError, NoSpaceError
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, page_count

_COUNTERS = struct.Struct("<8sQQQQ")
_SLOT = struct.Struct("<QQQQ")  # on its way in: files, bytes; on its way out: files, bytes
_SLOTS_START = 64  # the first 126 need no further block
_MAGIC = b"fscache1"
_PROMISES_AT = 1  # the byte whose lock is theirs; that of the counters is 0
_LOCK_SECONDS = 10.0  # how long a holder may be stopped in the middle of a few microseconds of work
_FILL_LOCKS_START = 1 << 40  # byte ranges beyond anything the file will hold


@dataclass(frozen=True, slots=True)
class Weight:
    """How much of the ceilings something takes."""

    n_files: int
    n_bytes: int

    def __add__(self, other: "Weight") -> "Weight":
        return Weight(self.n_files + other.n_files, self.n_bytes + other.n_bytes)

    def __sub__(self, other: "Weight") -> "Weight":
        return Weight(self.n_files - other.n_files, self.n_bytes - other.n_bytes)


NOTHING = Weight(0, 0)
HASH_DIRECTORY = Weight(1, PAGE_SIZE)
INDEX_DIRECTORY = Weight(1, 2 * PAGE_SIZE)


def weigh_small(size: int) -> Weight:
    """A small object: one file, always whole."""
    return Weight(1, (page_count(size) + 1) << PAGE_SHIFT)


def weigh_large(size: int) -> Weight:
    """A large object without any page: its directory, data and map."""
    return Weight(3, (page_count(block_count(size) * ENTRY_SIZE) + 2) << PAGE_SHIFT)


def weigh_pages(n_pages: int) -> Weight:
    """Valid pages of a large object, beyond what was reserved for it."""
    return Weight(0, n_pages << PAGE_SHIFT)


def fill_lock_start(path: str) -> int:
    """Where the fill locks of the small object at ``path`` begin: one byte for each of its pages."""
    return _FILL_LOCKS_START + ((xxhash.xxh3_64_intdigest(path.encode()) & (1 << 56) - 1) << 4)


class Ledger:
    """The open account.  Usable from any thread.

    Args:
      descriptor: of the ledger file, read-write; the caller closes it.
      max_files, max_bytes: ceilings for the whole cache, ``None`` for none.
      count: walks the cache and weighs what is stored; called if the account is missing or unreadable.
    """

    def __init__(
        self, descriptor: int, max_files: int | None, max_bytes: int | None, count: Callable[[], Weight]
    ) -> None:
        self.descriptor = descriptor
        self.max_files = max_files
        self.max_bytes = max_bytes
        self._count = count
        self._mutex = threading.Lock()
        self._promises = threading.Lock()
        self._slot_start = _SLOTS_START
        self._adding = self._removing = NOTHING

    def open(self) -> None:
        """Use the account that is there; if there is none, start one."""
        with self._locked():
            while not try_lock_range(self.descriptor, self._slot_start, _SLOT.size):
                self._slot_start += _SLOT.size
            self._write_slot()
            self._read()

    def charge(self, weight: Weight) -> None:
        """Add what is about to be stored.  `settle` or `give_back` follows.

        Raises:
          NoSpaceError: a ceiling would be passed; nothing was added.
        """
        if weight.n_files <= 0 and weight.n_bytes <= 0:
            return
        with self._locked():
            files_in, files_out, bytes_in, bytes_out = self._read()
            files = files_in - files_out + weight.n_files
            size = bytes_in - bytes_out + weight.n_bytes
            if self.max_files is not None and files > self.max_files:
                raise NoSpaceError(f"the cache would hold {files} files, and max_files is {self.max_files}")
            if self.max_bytes is not None and size > self.max_bytes:
                raise NoSpaceError(f"the cache would hold {size} bytes, and max_bytes is {self.max_bytes}")
            self._adding += weight
            try:
                self._write_slot()
                self._write(files_in + weight.n_files, files_out, bytes_in + weight.n_bytes, bytes_out)
            except BaseException:
                self._adding -= weight
                raise

    def settle(self, weight: Weight) -> None:
        """What was charged is stored: who counts finds it."""
        if weight != NOTHING:
            with self._mutex:
                self._adding -= weight
                self._write_slot()

    def give_back(self, weight: Weight) -> None:
        """Take off what was charged and is not stored."""
        self._discharge(weight)
        self.settle(weight)

    def has_room(self, n_pages: int) -> bool:
        """Whether ``n_pages`` pages would pass no ceiling.  A hint: reads without the lock."""
        if self.max_bytes is None:
            return True
        raw = os.pread(self.descriptor, _COUNTERS.size, 0)
        if len(raw) != _COUNTERS.size:
            return True
        _, _, _, bytes_in, bytes_out = _COUNTERS.unpack(raw)
        size: int = bytes_in - bytes_out
        return size + (n_pages << PAGE_SHIFT) <= self.max_bytes

    @contextmanager
    def removal(self, weight: Weight) -> Iterator[None]:
        """Around the step that removes something: takes it off, unless that raises."""
        try:
            self._mark_removing(weight)
            yield
            self._discharge(weight)
        finally:
            self._mark_removing(NOTHING - weight)

    def _mark_removing(self, weight: Weight) -> None:
        with self._mutex:
            self._removing += weight
            self._write_slot()

    def _discharge(self, weight: Weight) -> None:
        if weight == NOTHING:
            return
        with self._locked():
            files_in, files_out, bytes_in, bytes_out = self._read()
            files_out = min(files_in, files_out + weight.n_files)
            bytes_out = min(bytes_in, bytes_out + weight.n_bytes)
            self._write(files_in, files_out, bytes_in, bytes_out)

    @contextmanager
    def promising(self) -> Iterator[None]:
        """Around reading and writing a pin: one at a time, in all processes.

        Who waits for a stopped process goes on without: it might lose its own promise, no other.
        """
        with self._promises:
            locked = wait_lock_range(self.descriptor, _PROMISES_AT, 1, _LOCK_SECONDS)
            try:
                yield
            finally:
                if locked:
                    unlock_range(self.descriptor, _PROMISES_AT, 1)

    def usage(self) -> Weight:
        """What the cache holds according to the account."""
        with self._locked():
            files_in, files_out, bytes_in, bytes_out = self._read()
        return Weight(files_in - files_out, bytes_in - bytes_out)

    def recount(self) -> Weight:
        """Count what is there, while others go on, and correct the account by what that proves wrong.

        Of what is on its way when the count begins or ends, and of what comes and goes meanwhile, the
        count tells nothing: by so much the account may be off it.

        Returns:
          What was too much; below zero what was missing.
        """
        with self._locked():
            before = self._read()
            adding, _ = self._on_the_way()
        found = self._count()
        with self._locked():
            now = files_in, files_out, bytes_in, bytes_out = self._read()
            _, removing = self._on_the_way()
            came, went = (
                Weight(max(now[k] - before[k], 0), max(now[k + 2] - before[k + 2], 0)) for k in (0, 1)
            )
            most, least = found + adding + came + removing, found - went
            files = min(max(files_in - files_out, least.n_files), most.n_files)
            size = min(max(bytes_in - bytes_out, least.n_bytes), most.n_bytes)
            drift = Weight(files_in - files_out - files, bytes_in - bytes_out - size)
            files_in, bytes_in = max(files_in, files), max(bytes_in, size)
            self._write(files_in, files_in - files, bytes_in, bytes_in - size)
        return drift

    def _on_the_way(self) -> tuple[Weight, Weight]:
        """In and out, of all who have the account open.  Call it locked."""
        adding, removing = self._adding, self._removing
        n_bytes = os.fstat(self.descriptor).st_size - _SLOTS_START
        slots = os.pread(self.descriptor, max(n_bytes, 0) // _SLOT.size * _SLOT.size, _SLOTS_START)
        for start, slot in enumerate(_SLOT.iter_unpack(slots)):
            at = _SLOTS_START + start * _SLOT.size
            if at == self._slot_start or not any(slot):
                continue
            if try_lock_range(self.descriptor, at, _SLOT.size):  # nobody's: a crash left it
                os.pwrite(self.descriptor, bytes(_SLOT.size), at)
                unlock_range(self.descriptor, at, _SLOT.size)
                continue
            adding += Weight(slot[0], slot[1])
            removing += Weight(slot[2], slot[3])
        return adding, removing

    def _write_slot(self) -> None:
        adding, removing = self._adding, self._removing
        raw = _SLOT.pack(adding.n_files, adding.n_bytes, removing.n_files, removing.n_bytes)
        try:
            os.pwrite(self.descriptor, raw, self._slot_start)
        except OSError as error:
            # Some filesystems need room for any write.  Better a count that is off than no removal.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def _read(self) -> tuple[int, int, int, int]:
        raw = os.pread(self.descriptor, _COUNTERS.size, 0)
        if len(raw) == _COUNTERS.size:
            magic, files_in, files_out, bytes_in, bytes_out = _COUNTERS.unpack(raw)
            if magic == _MAGIC and files_out <= files_in and bytes_out <= bytes_in:
                return files_in, files_out, bytes_in, bytes_out
        found = self._count() + self._on_the_way()[0]
        self._write(found.n_files, 0, found.n_bytes, 0)
        return found.n_files, 0, found.n_bytes, 0

    def _write(self, files_in: int, files_out: int, bytes_in: int, bytes_out: int) -> None:
        os.pwrite(self.descriptor, _COUNTERS.pack(_MAGIC, files_in, files_out, bytes_in, bytes_out), 0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._mutex:
            if not wait_lock_range(self.descriptor, 0, 1, _LOCK_SECONDS):
                raise CacheIOError("another process holds the ledger of the cache and does not let go")
            try:
                yield
            finally:
                unlock_range(self.descriptor, 0, 1)
