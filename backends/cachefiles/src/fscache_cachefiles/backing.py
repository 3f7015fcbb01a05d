"""The backing of a data object: one version of it, which is one inode, and reading and storing its pages.

A small object (up to one block) is a regular file; its only block map entry lies in its seal, and
while it is not yet whole, in memory.  A large one is a directory with ``data`` and ``map``.

Pages that are valid never change.  So who has verified a block once may go on using it, and who
finds other bytes where valid pages are supposed to be has found damage, or was given another
version of the file (`ContentChangedError`).

Everything here blocks its thread, except `read_resident`.
"""

import enum
import mmap
import os
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import compress
from operator import and_, ne

from fscache_cachefiles.blockmap import (
    BLOCK_SHIFT,
    BLOCK_SIZE,
    FULL_MASK,
    PAGES_PER_BLOCK,
    QUARTER_SHIFT,
    block_count,
    block_size,
    checksum_entry,
    checksum_whole,
    count_valid,
    mask_of,
    matches,
    pread_entries,
    pwrite_entries,
    quarter_sums,
    runs_of,
    seed_of,
    whole_mask,
)
from fscache_cachefiles.descriptors import Descriptors
from fscache_cachefiles.lock import carry_locks, carry_no_locks, unlock_range, wait_lock_range
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, PageRuns
from fscache_core.outcome import NOT_RESIDENT

#: What a large object holds open; a small one holds one.
LARGE_DESCRIPTORS = 3

_ENTRY_LOCKS_START = 1 << 40  # byte ranges of the map file beyond any page index
_ENTRY_LOCK_SECONDS = 5.0

#: Bytes written and summed up at a time: the second pass finds them in the processor's cache.  Larger writes
#: take longer, since for them the kernel takes pieces of memory that nobody has used lately; smaller ones
#: give up the interpreter's lock more often, which a thread that fetches meanwhile is slow to give back.
_WRITE_SIZE = 1 << 20

_SCRATCH_SIZE = 2 * BLOCK_SIZE
_scratches: list[memoryview] = []  # those that no thread uses just now; what was used last is taken first

_n_forks = 0  # that led to this process


def _forked() -> None:
    global _n_forks
    _n_forks += 1


os.register_at_fork(after_in_child=_forked)


class Verify(enum.Enum):
    """When the checksum of a block is compared."""

    TOUCH = "touch"  #: the first time a process uses it, and whenever its bytes came from the disk
    ALWAYS = "always"  #: every time
    NEVER = "never"


class ContentChangedError(Exception):
    """A valid page was to be stored again with other bytes."""


class EntryBusyError(Exception):
    """Another process is changing the same block and does not get on with it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object belongs: below which index, under which cooked name."""

    index: "Index"
    cooked: str

    @property
    def path(self) -> str:
        """Relative to ``cache/``."""
        return f"{self.index.path}/{self.cooked}" if self.index.path else self.cooked

    @property
    def name(self) -> str:
        return self.cooked.rpartition("/")[2]

    @property
    def container(self) -> list[str]:
        """The ``@`` and ``+`` directories between the index and the name."""
        return self.cooked.split("/")[:-1]


class Index:
    """The backing of an index object: its directory, held in use until the last reference is gone."""

    __slots__ = ("descriptor", "emptied", "inode", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path  #: relative to ``cache/``; empty for the master index
        self.descriptor = descriptor
        self.inode = os.fstat(descriptor).st_ino
        self.emptied = False  #: what was below it was deleted; it may go too if that was all

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


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
        self._table = array("Q", bytes(8 * self.n_blocks))  # per block the entry that was verified
        #: Under ``always``, per quarter of a block its sum, if the block has matched its entry; else 0.
        self._quarters: memoryview[int] | None = None
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
        trusted = self.verify is not Verify.ALWAYS
        try:
            if (quarters := self._quarters) is not None:
                if self._read_quarters(quarters, offset, buffer):
                    return len(buffer)
            elif trusted and first == last and self._table[first] & FULL_MASK == FULL_MASK:
                if os.preadv(self.data, (buffer,), offset, self.read_flags) == len(buffer):
                    return len(buffer)
                return self.disk_needed(offset, buffer)
            if not buffer:
                return 0
            entries = self._entries(first, last, trusted, self.read_flags)
            if not _all_whole(entries) and not _covers(entries, first, offset, end):
                return NOT_RESIDENT
            bad = self._read_verified(offset, buffer, first, entries, self.read_flags, trusted)
            if bad is None:
                return self.disk_needed(offset, buffer)
            return NOT_RESIDENT if bad else len(buffer)
        except OSError:  # the disk is needed, or it failed: both are for a thread to find out
            return self.disk_needed(offset, buffer)

    def _read_quarters(self, quarters: "memoryview[int]", offset: int, buffer: memoryview) -> bool:
        """Read a range of blocks that matched before, and sum up those quarters of them that it touches.

        What was a block's content once is so for ever, so this proves as much as the sums of the whole
        blocks, and takes half as long if the range is neither long nor aligned.  False if it cannot be, or
        proves nothing: then the map says what is right.
        """
        end = offset + len(buffer)
        first = offset >> QUARTER_SHIFT
        known = quarters[first : ((end - 1) >> QUARTER_SHIFT) + 1].tolist()
        start = first << QUARTER_SHIFT
        stop = min(start + (len(known) << QUARTER_SHIFT), self.size)
        if stop - start > _SCRATCH_SIZE or not all(known):
            return False
        if start == offset and stop == end:
            return self._read_known(start, buffer, known)
        scratch = _take_scratch()
        try:
            content = scratch[: stop - start]
            if not self._read_known(start, content, known):
                return False
            buffer[:] = content[offset - start : end - start]
            return True
        finally:
            _scratches.append(scratch)

    def _read_known(self, start: int, content: memoryview, known: list[int]) -> bool:
        if os.preadv(self.data, (content,), start, self.read_flags) != len(content):
            return False
        if quarter_sums(content) != known:
            self._quarters = None  # it is damaged, or was and has been stored again: start afresh
            return False
        return True

    def _note_quarters(self, block: int, content: Sequence[memoryview]) -> None:
        """Remember the quarters of a whole block that has just matched."""
        quarters = self._quarters
        if quarters is None:
            quarters = self._quarters = memoryview(bytearray(8 * 4 * self.n_blocks)).cast("Q")
        at = block << (BLOCK_SHIFT - QUARTER_SHIFT)
        if not quarters[at]:
            sums = quarter_sums(content[0] if len(content) == 1 else memoryview(b"".join(content)))
            quarters[at : at + len(sums)] = array("Q", sums)

    def disk_needed(self, offset: int, buffer: memoryview) -> int:
        """What `read_resident` says when a range is not at hand.

        In a child that was forked later nobody else would read from the disk, so there it is read here.
        """
        if self._n_forks == _n_forks:
            return NOT_RESIDENT
        end = offset + len(buffer)
        first, last = offset >> BLOCK_SHIFT, (end - 1) >> BLOCK_SHIFT
        try:
            entries = self._entries(first, last, False, 0)
            if not _covers(entries, first, offset, end):
                return NOT_RESIDENT
            return (
                NOT_RESIDENT if self._read_verified(offset, buffer, first, entries, 0, False) else len(buffer)
            )
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
            entries = self._entries(low, high, False, 0)
            bad = []
            for run_first, run_pages in list(_valid_runs(entries, low, wanted)):
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
        wanted = PageRuns()
        if self.n_blocks:
            wanted.add(0, self.n_blocks * PAGES_PER_BLOCK)
        return list(_valid_runs(self._entries(0, self.n_blocks - 1, False, 0), 0, wanted))

    def count_present(self, first: int, n_pages: int) -> int:
        """How many pages of a run the map calls valid.  Never blocks; a hint, and 1 if the disk is needed."""
        low, high = first // PAGES_PER_BLOCK, (first + n_pages - 1) // PAGES_PER_BLOCK
        try:
            entries = self._entries(low, high, False, self.read_flags)
        except OSError:
            return 1
        return count_valid(entries, first % PAGES_PER_BLOCK, n_pages) if any(entries) else 0

    def _entries(self, first: int, last: int, trusted: bool, flags: int) -> Sequence[int]:
        if self.map < 0:
            return (self.entry,)
        if trusted:
            known = self._table[first : last + 1]
            if 0 not in known and _all_whole(known):
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
            stop = (last << BLOCK_SHIFT) + (mask_of(entries[-1]).bit_length() << PAGE_SHIFT)
            stop = max(end, min(stop, self.size))
        if start == offset and stop == end:
            return self._read_pieces((buffer,), start, stop, first, entries, check, flags)
        scratch = _take_scratch()
        try:
            if stop - start > _SCRATCH_SIZE:
                pieces = (scratch[: offset - start], buffer, scratch[BLOCK_SIZE : BLOCK_SIZE + stop - end])
                return self._read_pieces(pieces, start, stop, first, entries, check, flags)
            # What lies in one piece is summed up faster, and copying so little takes less than that gains.
            bad = self._read_pieces((scratch[: stop - start],), start, stop, first, entries, check, flags)
            buffer[:] = scratch[offset - start : end - start]
            return bad
        finally:
            _scratches.append(scratch)

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
                more = os.preadv(self.data, _after(pieces, count), start + count, 0)
                if not more:
                    break
                count += more
        bad: list[int] = []
        always = self.verify is Verify.ALWAYS
        for block, entry in compress(enumerate(entries, first), check):
            low = (block << BLOCK_SHIFT) - start
            if count < low + BLOCK_SIZE and count < self._valid_end(block, entry) - start:
                bad.append(block)  # cut off
                continue
            content = (
                (pieces[0][low : low + BLOCK_SIZE],)
                if len(pieces) == 1
                else _slice(pieces, low, low + block_size(self.size, block))
            )
            if not matches(self.seed, block, entry, content):
                bad.append(block)
            elif always and mask_of(entry) == whole_mask(self.size, block):
                self._note_quarters(block, content)
        if count == stop - start and not always:
            self._note_verified(first, entries, bad)
        return bad

    def _valid_end(self, block: int, entry: int) -> int:
        """Where the last valid page of a block ends, bytes."""
        return min((block << BLOCK_SHIFT) + (mask_of(entry).bit_length() << PAGE_SHIFT), self.size)

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

    # -- storing -------------------------------------------------------------------------

    def new_pages(self, first: int, n_pages: int) -> int:
        """How many pages of a run are not valid yet and beyond what is reserved: what has to be paid for."""
        wanted = PageRuns()
        wanted.add(first, n_pages)
        low, high = first // PAGES_PER_BLOCK, (first + n_pages - 1) // PAGES_PER_BLOCK
        entries = self._entries(low, high, False, 0)
        if any(entries):
            for run_first, run_pages in list(_valid_runs(entries, low, wanted)):
                wanted.remove(run_first, run_pages)
        paid = (self.reserved_size + PAGE_SIZE - 1) >> PAGE_SHIFT
        if paid:
            wanted.remove(0, paid)
        return wanted.total()

    def store(self, first: int, buffer: memoryview, *more: memoryview) -> list[int]:
        """Store a run of pages: the data, then the entries.

        Args:
          more: what goes behind ``buffer``, one behind the other.  Then all begin and end with a block.

        Returns:
          Blocks whose earlier pages were damaged; only the new ones are valid there now.

        Raises:
          ContentChangedError: a valid page has other bytes.  Pages before it may have been stored.
          EntryBusyError: another process holds the entry of a block.
          OSError: as write.
        """
        damaged: list[int] = []
        if more:
            low, n_blocks = first // PAGES_PER_BLOCK, sum(map(len, (buffer, *more))) >> BLOCK_SHIFT
            if not any(self._entries(low, low + n_blocks - 1, False, 0)):
                self._store_blocks(low, buffer, *more)
                return damaged
            for piece in (buffer, *more):
                damaged += self.store(first, piece)
                first += len(piece) >> PAGE_SHIFT
            return damaged
        end = first + ((len(buffer) + PAGE_SIZE - 1) >> PAGE_SHIFT)
        low, high = first // PAGES_PER_BLOCK, (end - 1) // PAGES_PER_BLOCK
        entries = self._entries(low, high, False, 0)
        block = low
        while block <= high:
            # As many empty blocks as are given whole go in one write; no other page is concerned.
            stop = block
            while stop <= high and not entries[stop - low] and self._is_given_whole(stop, first, end):
                stop += 1
            if stop > block:
                at = (block * PAGES_PER_BLOCK - first) << PAGE_SHIFT
                self._store_blocks(block, buffer[at : at + ((stop - block) << BLOCK_SHIFT)])
                block = stop
            else:
                low_page = max(first, block * PAGES_PER_BLOCK)
                high_page = min(end, (block + 1) * PAGES_PER_BLOCK)
                part = buffer[(low_page - first) << PAGE_SHIFT : (high_page - first) << PAGE_SHIFT]
                if self._store_pages(block, low_page - block * PAGES_PER_BLOCK, part):
                    damaged.append(block)
                block += 1
        return damaged

    def _is_given_whole(self, block: int, first: int, end: int) -> bool:
        start = block * PAGES_PER_BLOCK
        return start >= first and start + whole_mask(self.size, block).bit_length() <= end

    def _store_blocks(self, block: int, *pieces: memoryview) -> None:
        """Store whole blocks of which nothing is there, one piece behind the other."""
        entries: list[int] = []
        for piece in pieces:
            for at in range(0, len(piece), _WRITE_SIZE):
                part, number = piece[at : at + _WRITE_SIZE], block + len(entries)
                _pwrite(self.data, part, number << BLOCK_SHIFT)
                entries += checksum_whole(self.seed, number, part)
        self._publish_entries(block, entries)

    def _store_pages(self, block: int, first: int, content: memoryview) -> bool:
        """Add pages to a block that may have some already.  True if those were damaged."""
        n_pages = (len(content) + PAGE_SIZE - 1) >> PAGE_SHIFT
        given = ((1 << n_pages) - 1) << first
        locked = self.map >= 0
        if locked and not wait_lock_range(self.map, _ENTRY_LOCKS_START + block, 1, _ENTRY_LOCK_SECONDS):
            raise EntryBusyError
        try:
            old = self._entries(block, block, False, 0)[0]
            present = bytearray(block_size(self.size, block))
            damaged = False
            if old:
                count = os.preadv(self.data, (present,), block << BLOCK_SHIFT)
                del present[count:]
                present.extend(bytes(block_size(self.size, block) - count))
                damaged = old != checksum_entry(self.seed, block, mask_of(old), memoryview(present))
                if damaged:
                    old = 0
            missing = given & ~mask_of(old)
            for run_first, run_pages in runs_of(given & mask_of(old)):
                low, high = run_first << PAGE_SHIFT, (run_first + run_pages) << PAGE_SHIFT
                at = first << PAGE_SHIFT
                if present[low:high] != content[low - at : high - at]:
                    raise ContentChangedError
            for run_first, run_pages in runs_of(missing):
                at = (run_first - first) << PAGE_SHIFT
                part = content[at : at + (run_pages << PAGE_SHIFT)]
                offset = run_first << PAGE_SHIFT
                _pwrite(self.data, part, (block << BLOCK_SHIFT) + offset)
                present[offset : offset + len(part)] = part
            if missing:
                mask = mask_of(old) | missing
                self._publish_entries(block, [checksum_entry(self.seed, block, mask, memoryview(present))])
            return damaged
        finally:
            if locked:
                unlock_range(self.map, _ENTRY_LOCKS_START + block, 1)

    def _publish_entries(self, block: int, entries: Sequence[int]) -> None:
        if self.map < 0:
            self.entry = entries[0]
        else:
            pwrite_entries(self.map, block, entries)
        # What we have just written and summed up is verified.
        self._note_verified(block, entries, ())


def _all_whole(entries: Sequence[int]) -> bool:
    return reduce(and_, entries, FULL_MASK) == FULL_MASK


def _covers(entries: Sequence[int], block: int, offset: int, end: int) -> bool:
    """Whether the pages of a byte range are all valid; ``block`` is that of the first entry."""
    for at, entry in enumerate(entries):
        start = (block + at) << BLOCK_SHIFT
        low = max(offset - start, 0) >> PAGE_SHIFT
        high = (min(end - start, BLOCK_SIZE) + PAGE_SIZE - 1) >> PAGE_SHIFT
        if ~mask_of(entry) & ((1 << high) - (1 << low)):
            return False
    return True


def _valid_runs(entries: Sequence[int], block: int, wanted: PageRuns) -> Iterator[tuple[int, int]]:
    """The runs of valid pages among the wanted ones; ``block`` is that of the first entry."""
    valid = PageRuns()
    for at, entry in enumerate(entries, block):
        for first, n_pages in runs_of(mask_of(entry)):
            valid.add(at * PAGES_PER_BLOCK + first, n_pages)
    for first, n_pages in valid:
        start, stop = first, first + n_pages
        for wanted_first, wanted_pages in wanted:
            low, high = max(start, wanted_first), min(stop, wanted_first + wanted_pages)
            if low < high:
                yield low, high - low


def _pwrite(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        count = os.pwrite(descriptor, content, offset)
        content = content[count:]
        offset += count


def _take_scratch() -> memoryview:
    """Two blocks of memory, the caller's alone until it puts them back into `_scratches`.

    Not the thread's: a signal handler or a finalizer may read, too, in the middle of a read.

    They begin with a page.  Large pieces of malloc's begin 16 bytes later, and to copy a page 16 bytes
    further on takes up to twice the time: what is written looks to the processor like what it reads next.
    """
    try:
        return _scratches.pop()
    except IndexError:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # private: a forked child has its own
        return memoryview(mmap.mmap(-1, _SCRATCH_SIZE, flags=flags))


def _slice(pieces: Sequence[memoryview], low: int, high: int) -> list[memoryview]:
    out: list[memoryview] = []
    at = 0
    for piece in pieces:
        if at < high and at + len(piece) > low:
            out.append(piece[max(0, low - at) : high - at])
        at += len(piece)
    return out


def _after(pieces: Sequence[memoryview], count: int) -> list[memoryview]:
    return _slice(pieces, count, sum(map(len, pieces)))
