"""The backing of a data object: one version of it, which is one inode, and reading its pages.

A small object (up to one block) is a regular file; its only block map entry lies in its seal, and
while it is not yet whole, in memory.  A large one is a directory with ``data`` and ``map``.

Pages that are valid never change.  So who has verified a block once may go on using it, and who
finds other bytes where valid pages are supposed to be has found damage.

Everything here blocks its thread, except `read_resident`.
"""

import os
import threading
from collections.abc import Sequence
from itertools import compress
from operator import ne

from fscache_cachefiles.blockmap import (
    BLOCK_SHIFT,
    BLOCK_SIZE,
    FULL_MASK,
    PAGES_PER_BLOCK,
    all_whole,
    block_count,
    block_size,
    count_valid,
    covers,
    mask_of,
    matches,
    pread_entries,
    pwrite_entries,
    runs_of,
    seed_of,
    stored_entries,
    valid_end,
    valid_runs,
    whole_mask,
    zeros,
)
from fscache_cachefiles.descriptors import Descriptors
from fscache_cachefiles.lock import carry_locks, carry_no_locks
from fscache_cachefiles.options import Verify
from fscache_cachefiles.place import Place
from fscache_cachefiles.quarters import Quarters
from fscache_cachefiles.scratch import SCRATCH_SIZE, give_scratch, take_scratch
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, PageRuns
from fscache_core.outcome import NOT_RESIDENT

#: What a large object holds open; a small one holds one.
LARGE_DESCRIPTORS = 3

_n_forks = 0  # that led to this process


def _forked() -> None:
    global _n_forks
    _n_forks += 1


os.register_at_fork(after_in_child=_forked)


class Backing:
    """One version of a data object.

    The descriptors are closed with the last reference, so a thread in `read_resident` keeps
    what it reads from.  Closing also gives back the in-use lock and all fill locks.

    Args:
      place: where it is, or will be when it is published.
      size: of the object, bytes.
      nonce: of its seal.
      data: descriptor of the content; of a small object also the entry itself.
      directory, map_: descriptors of a large object, else -1.
      entry: block map entry of a small object.
      writable: whether ``data`` and ``map_`` are open for writing.
      descriptors: where they are counted.

    Raises:
      OSError: there is no memory for it; the descriptors are still the caller's.
    """

    __slots__ = (
        "_last_mask",
        "_mutex",
        "_n_forks",
        "_n_good",
        "_quarters",
        "_table",
        "data",
        "descriptors",
        "directory",
        "entry",
        "inode",
        "map",
        "n_blocks",
        "nonce",
        "place",
        "published",
        "read_flags",
        "reserved_size",
        "seed",
        "size",
        "temporary",
        "verify",
        "whole",
        "writable",
    )

    def __init__(
        self,
        place: Place,
        size: int,
        nonce: int,
        *,
        data: int,
        directory: int = -1,
        map_: int = -1,
        entry: int = 0,
        writable: bool = True,
        published: bool = True,
        verify: Verify = Verify.TOUCH,
        read_flags: int = 0,
        descriptors: Descriptors,
    ) -> None:
        self._table = zeros(block_count(size))  # per block the entry that was verified
        self.descriptors = descriptors
        descriptors.hold(1 if directory < 0 else LARGE_DESCRIPTORS)
        self.place = place
        self.size = size
        self.nonce = nonce
        self.data = data
        self.directory = directory
        self.map = map_
        if map_ >= 0:
            carry_locks(map_)
        self.entry = entry
        self.writable = writable
        self.published = published  #: others can find it
        self.temporary: str | None = None  #: name in the graveyard of a small one that is not published
        self.reserved_size = 0  #: bytes already paid for
        self.verify = verify
        self.read_flags = read_flags
        self.seed = seed_of(place.path, nonce)
        self.n_blocks = block_count(size)
        self.inode = os.fstat(self.descriptor).st_ino
        self.whole = False  #: every block was verified whole, and once is enough
        self._quarters = Quarters(data, size, read_flags) if verify is Verify.ALWAYS else None
        self._last_mask = whole_mask(size, self.n_blocks - 1)  # of the last block
        self._n_good = 0
        self._mutex = threading.Lock()
        self._n_forks = _n_forks

    @property
    def descriptor(self) -> int:
        """The entry: what carries label, seal, pin and the in-use lock."""
        return self.data if self.directory < 0 else self.directory

    @property
    def is_small(self) -> bool:
        return self.directory < 0

    @property
    def is_complete(self) -> bool:
        """For a small object: whether every page is there."""
        return mask_of(self.entry) == whole_mask(self.size, 0)

    def __del__(self) -> None:
        if not hasattr(self, "descriptors"):
            return  # there was no memory for the table: what it was given is still the caller's
        self.descriptors.give(1 if self.directory < 0 else LARGE_DESCRIPTORS)
        carry_no_locks(self.map)
        for descriptor in (self.map, self.data, self.directory):
            if descriptor >= 0:
                os.close(descriptor)

    # -- reading -------------------------------------------------------------------------

    def read_resident(self, offset: int, buffer: memoryview) -> int:
        """Copy a range if the page cache has it and it is, or can now be, verified.

        Never blocks, but in a child that was forked after the object was opened: nobody else would read from
        the disk there.
        """
        end = offset + len(buffer)
        first, last = offset >> BLOCK_SHIFT, (end - 1) >> BLOCK_SHIFT
        quarters = self._quarters
        try:
            if quarters is not None:
                if quarters.read(offset, buffer):
                    return len(buffer)
            elif first == last and self._table[first] & FULL_MASK == FULL_MASK:
                if os.preadv(self.data, (buffer,), offset, self.read_flags) == len(buffer):
                    return len(buffer)
                return self.disk_needed(offset, buffer)
            if not buffer:
                return 0
            trusted = quarters is None  # what was verified once
            entries = self.entries(first, last, trusted, self.read_flags)
            if not all_whole(entries) and not covers(entries, first, offset, end):
                return NOT_RESIDENT
            bad = self._read_verified(offset, buffer, first, entries, self.read_flags, trusted)
            if bad is None:
                return self.disk_needed(offset, buffer)
            return NOT_RESIDENT if bad else len(buffer)
        except OSError:  # the disk is needed, or it failed: both are for a thread to find out
            return self.disk_needed(offset, buffer)

    def disk_needed(self, offset: int, buffer: memoryview) -> int:
        """What `read_resident` says when a range is not at hand.

        In a child that was forked later nobody else would read from the disk, so there it is read here.
        """
        if self._n_forks == _n_forks:
            return NOT_RESIDENT
        end = offset + len(buffer)
        first, last = offset >> BLOCK_SHIFT, (end - 1) >> BLOCK_SHIFT
        try:
            entries = self.entries(first, last, False, 0)
            if not covers(entries, first, offset, end):
                return NOT_RESIDENT
            bad = self._read_verified(offset, buffer, first, entries, 0, False)
            return NOT_RESIDENT if bad else len(buffer)
        except OSError:
            return NOT_RESIDENT

    def read_runs(self, first: int, buffer: memoryview) -> tuple[list[tuple[int, int]], list[int]]:
        """Read the valid pages of a run of pages, verifying all of them.

        Returns:
          The runs ``(first, n_pages)`` that are in their place now, and the blocks that were damaged.

        Raises:
          OSError: the disk failed.
        """
        left = max(self.size - (first << PAGE_SHIFT), 0)
        if len(buffer) > left:  # what lies beyond the end reads as zero
            buffer[left:] = bytes(len(buffer) - left)
            buffer = buffer[:left]
        n_pages = (len(buffer) + PAGE_SIZE - 1) >> PAGE_SHIFT
        if not n_pages:
            return [], []
        end = first + n_pages
        low, high = first // PAGES_PER_BLOCK, (end - 1) // PAGES_PER_BLOCK
        wanted = PageRuns()
        wanted.add(first, n_pages)
        good = PageRuns()
        bad: list[int] = []
        # A block can look damaged because its entry was replaced while we read.  Look twice.
        for _ in range(2):
            entries = self.entries(low, high, False, 0)
            bad = []
            for run_first, run_pages in list(valid_runs(entries, low, wanted)):
                at = run_first - first
                part = buffer[at << PAGE_SHIFT : (at + run_pages) << PAGE_SHIFT]
                block = run_first // PAGES_PER_BLOCK
                last = (run_first + run_pages - 1) // PAGES_PER_BLOCK
                found = self._read_verified(
                    run_first << PAGE_SHIFT, part, block, entries[block - low : last - low + 1], 0, False
                )
                good.add(run_first, run_pages)
                wanted.remove(run_first, run_pages)
                for block in found or ():
                    good.remove(block * PAGES_PER_BLOCK, PAGES_PER_BLOCK)
                    at = max(block * PAGES_PER_BLOCK, run_first)
                    wanted.add(at, min((block + 1) * PAGES_PER_BLOCK, run_first + run_pages) - at)
                    bad.append(block)
            if not bad:
                break
        return list(good), bad

    def resident_runs(self) -> list[tuple[int, int]]:
        """The pages that the map says are valid, not verified."""
        pages = PageRuns()
        stored = ((0, (self.entry,)),) if self.map < 0 else stored_entries(self.map, self.n_blocks)
        for block, entries in stored:
            for at, entry in enumerate(entries, block):
                for first, n_pages in runs_of(mask_of(entry)):
                    pages.add(at * PAGES_PER_BLOCK + first, n_pages)
        return list(pages)

    def count_present(self, first: int, n_pages: int) -> int:
        """How many pages of a run the map calls valid.  Never blocks; a hint, and 1 if the disk is needed."""
        low, high = first // PAGES_PER_BLOCK, (first + n_pages - 1) // PAGES_PER_BLOCK
        try:
            entries = self.entries(low, high, False, self.read_flags)
        except OSError:
            return 1
        return count_valid(entries, first % PAGES_PER_BLOCK, n_pages) if any(entries) else 0

    def entries(self, first: int, last: int, trusted: bool, flags: int) -> Sequence[int]:
        if self.map < 0:
            return (self.entry,)
        if trusted:
            known = self._table[first : last + 1]
            if 0 not in known and all_whole(known):
                return known
        return pread_entries(self.map, first, last - first + 1, flags)

    def _read_verified(
        self, offset: int, buffer: memoryview, first: int, entries: Sequence[int], flags: int, trusted: bool
    ) -> list[int] | None:
        """Read a range all of whose pages ``entries`` calls valid; the blocks that do not match.

        None: ``flags`` has RWF_NOWAIT and not everything was at hand.
        """
        end = offset + len(buffer)
        last = first + len(entries) - 1
        check = [self.verify is not Verify.NEVER] * len(entries)
        if trusted and check[0]:
            check = list(map(ne, entries, self._table[first : last + 1]))
        # A block is checked as a whole, so what lies before and after the range is read with it.
        start, stop = offset, end
        if check[0]:
            start = first << BLOCK_SHIFT
        if check[-1]:
            stop = max(end, valid_end(self.size, last, entries[-1]))
        if start == offset and stop == end:
            return self._read_pieces((buffer,), start, stop, first, entries, check, flags)
        scratch = take_scratch()
        try:
            if stop - start > SCRATCH_SIZE:
                pieces = (scratch[: offset - start], buffer, scratch[BLOCK_SIZE : BLOCK_SIZE + stop - end])
                return self._read_pieces(pieces, start, stop, first, entries, check, flags)
            # What lies in one piece is summed up faster, and copying so little takes less than that gains.
            bad = self._read_pieces((scratch[: stop - start],), start, stop, first, entries, check, flags)
            buffer[:] = scratch[offset - start : end - start]
            return bad
        finally:
            give_scratch(scratch)

    def _read_pieces(
        self,
        pieces: Sequence[memoryview],
        start: int,
        stop: int,
        first: int,
        entries: Sequence[int],
        check: Sequence[bool],
        flags: int,
    ) -> list[int] | None:
        """Read from ``start`` to ``stop`` and compare the blocks that ``check`` says; as `_read_verified`."""
        count = os.preadv(self.data, pieces, start, flags)
        if count < stop - start:
            if flags:
                return None
            while count < stop - start:  # a signal, or the file was cut off
                more = os.preadv(self.data, _slice(pieces, count, stop - start), start + count, 0)
                if not more:
                    break
                count += more
        bad: list[int] = []
        quarters = self._quarters
        for block, entry in compress(enumerate(entries, first), check):
            low = (block << BLOCK_SHIFT) - start
            if count < low + BLOCK_SIZE and count < valid_end(self.size, block, entry) - start:
                bad.append(block)  # cut off
                continue
            content = (
                (pieces[0][low : low + BLOCK_SIZE],)
                if len(pieces) == 1
                else _slice(pieces, low, low + block_size(self.size, block))
            )
            if not matches(self.seed, block, entry, content):
                bad.append(block)
            elif quarters is not None and mask_of(entry) == whole_mask(self.size, block):
                quarters.note(block, content)
        if count == stop - start and quarters is None:
            self._note_verified(first, entries, bad)
        return bad

    def _note_verified(self, first: int, entries: Sequence[int], bad: Sequence[int]) -> None:
        table = self._table
        # Not noted is only verified again; damage must be.  Who waited here could wait for ever, in a child
        # that was forked while another thread was at it.
        if not self._mutex.acquire(blocking=bool(bad)):
            return
        try:
            for block, entry in enumerate(entries, first):
                known = 0 if block in bad else entry
                old = table[block]
                if old != known:
                    whole = FULL_MASK if block < self.n_blocks - 1 else self._last_mask
                    self._n_good += (known & FULL_MASK == whole) - (old & FULL_MASK == whole)
                    table[block] = known
            self.whole = self._n_good == self.n_blocks and self.verify is not Verify.ALWAYS
        finally:
            self._mutex.release()

    def publish_entries(self, block: int, entries: Sequence[int]) -> None:
        if self.map < 0:
            self.entry = entries[0]
        else:
            pwrite_entries(self.map, block, entries)
        # What we have just written and summed up is verified.
        self._note_verified(block, entries, ())


def _slice(pieces: Sequence[memoryview], low: int, high: int) -> list[memoryview]:
    out: list[memoryview] = []
    at = 0
    for piece in pieces:
        if at < high and at + len(piece) > low:
            out.append(piece[max(0, low - at) : high - at])
        at += len(piece)
    return out
