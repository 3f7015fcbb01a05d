"""Storing pages in a backing, block by block: the data, then the entry that says it is there.

What is valid is never written again: who brings other bytes for it was given another version of the file.
Whole blocks of which nothing is there go in long writes; to a block that may have some pages others are added
under a lock of its entry, after a look whether those still match.
"""

import os

from fscache_cachefiles.backing import Backing
from fscache_cachefiles.blockmap import (
    BLOCK_SHIFT,
    PAGES_PER_BLOCK,
    block_size,
    checksum_entry,
    checksum_whole,
    mask_of,
    runs_of,
    valid_runs,
    whole_mask,
)
from fscache_cachefiles.lock import unlock_range, wait_lock_range
from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, PageRuns

_ENTRY_LOCKS_START = 1 << 40  # byte ranges of the map file beyond any page index
_ENTRY_LOCK_SECONDS = 5.0

#: Bytes written and summed up at a time: the second pass finds them in the processor's cache.  Larger writes
#: take longer, since for them the kernel takes pieces of memory that nobody has used lately; smaller ones
#: give up the interpreter's lock more often, which a thread that fetches meanwhile is slow to give back.
_WRITE_SIZE = 1 << 20


class ContentChangedError(Exception):
    """A valid page was to be stored again with other bytes."""


class EntryBusyError(Exception):
    """Another process is changing the same block and does not get on with it."""


def new_pages(backing: Backing, first: int, n_pages: int) -> int:
    """How many pages of a run are not valid yet and beyond what is reserved: what has to be paid for."""
    wanted = PageRuns()
    wanted.add(first, n_pages)
    low, high = first // PAGES_PER_BLOCK, (first + n_pages - 1) // PAGES_PER_BLOCK
    entries = backing.entries(low, high, False, 0)
    if any(entries):
        for run_first, run_pages in list(valid_runs(entries, low, wanted)):
            wanted.remove(run_first, run_pages)
    paid = (backing.reserved_size + PAGE_SIZE - 1) >> PAGE_SHIFT
    if paid:
        wanted.remove(0, paid)
    return wanted.total()


def store_pages(backing: Backing, first: int, buffer: memoryview, *more: memoryview) -> list[int]:
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
        if not any(backing.entries(low, low + n_blocks - 1, False, 0)):
            _store_blocks(backing, low, buffer, *more)
            return damaged
        for piece in (buffer, *more):
            damaged += store_pages(backing, first, piece)
            first += len(piece) >> PAGE_SHIFT
        return damaged
    end = first + ((len(buffer) + PAGE_SIZE - 1) >> PAGE_SHIFT)
    low, high = first // PAGES_PER_BLOCK, (end - 1) // PAGES_PER_BLOCK
    entries = backing.entries(low, high, False, 0)
    block = low
    while block <= high:
        # As many empty blocks as are given whole go in one write; no other page is concerned.
        stop = block
        while stop <= high and not entries[stop - low] and _is_given_whole(backing, stop, first, end):
            stop += 1
        if stop > block:
            at = (block * PAGES_PER_BLOCK - first) << PAGE_SHIFT
            _store_blocks(backing, block, buffer[at : at + ((stop - block) << BLOCK_SHIFT)])
            block = stop
        else:
            low_page = max(first, block * PAGES_PER_BLOCK)
            high_page = min(end, (block + 1) * PAGES_PER_BLOCK)
            part = buffer[(low_page - first) << PAGE_SHIFT : (high_page - first) << PAGE_SHIFT]
            if _store_pages(backing, block, low_page - block * PAGES_PER_BLOCK, part):
                damaged.append(block)
            block += 1
    return damaged


def _is_given_whole(backing: Backing, block: int, first: int, end: int) -> bool:
    start = block * PAGES_PER_BLOCK
    return start >= first and start + whole_mask(backing.size, block).bit_length() <= end


def _store_blocks(backing: Backing, block: int, *pieces: memoryview) -> None:
    """Store whole blocks of which nothing is there, one piece behind the other."""
    entries: list[int] = []
    for piece in pieces:
        for at in range(0, len(piece), _WRITE_SIZE):
            part, number = piece[at : at + _WRITE_SIZE], block + len(entries)
            _pwrite(backing.data, part, number << BLOCK_SHIFT)
            entries += checksum_whole(backing.seed, number, part)
    backing.publish_entries(block, entries)


def _store_pages(backing: Backing, block: int, first: int, content: memoryview) -> bool:
    """Add pages to a block that may have some already.  True if those were damaged."""
    n_pages = (len(content) + PAGE_SIZE - 1) >> PAGE_SHIFT
    given = ((1 << n_pages) - 1) << first
    locked = backing.map >= 0
    if locked and not wait_lock_range(backing.map, _ENTRY_LOCKS_START + block, 1, _ENTRY_LOCK_SECONDS):
        raise EntryBusyError
    try:
        old = backing.entries(block, block, False, 0)[0]
        present = bytearray(block_size(backing.size, block))
        damaged = False
        if old:
            count = os.preadv(backing.data, (present,), block << BLOCK_SHIFT)
            del present[count:]
            present.extend(bytes(block_size(backing.size, block) - count))
            damaged = old != checksum_entry(backing.seed, block, mask_of(old), memoryview(present))
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
            _pwrite(backing.data, part, (block << BLOCK_SHIFT) + offset)
            present[offset : offset + len(part)] = part
        if missing:
            mask = mask_of(old) | missing
            backing.publish_entries(block, [checksum_entry(backing.seed, block, mask, memoryview(present))])
        return damaged
    finally:
        if locked:
            unlock_range(backing.map, _ENTRY_LOCKS_START + block, 1)


def _pwrite(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        count = os.pwrite(descriptor, content, offset)
        content = content[count:]
        offset += count
