"""Block map entries: which pages of a 64 KiB block are valid, and their checksum.

An entry is one 64-bit little-endian integer: bit *i* of the low 16 says that page *i* of the
block is valid, the high 48 are the high 48 bits of XXH3-64 over the bytes of the valid pages in
order.  0 means that nothing is there.  The seed of a block's checksum comes from the object's
path and nonce and from the block's number, so an entry only fits its own block of its own object.

An entry is written after the data it speaks of and there is no fsync: whatever a crash leaves
behind either matches or is a miss.
"""

import errno
import mmap
import os
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import and_

import xxhash

from fscache_core.folio import PAGE_SHIFT, PAGE_SIZE, PageRuns, page_count

BLOCK_SHIFT = 16
BLOCK_SIZE = 1 << BLOCK_SHIFT  #: bytes
PAGES_PER_BLOCK = BLOCK_SIZE >> PAGE_SHIFT
FULL_MASK = (1 << PAGES_PER_BLOCK) - 1
ENTRY_SIZE = 8  #: bytes

_MAPPED = 1 << 12  # so many numbers are given memory page by page
_PIECE = 1 << 12  # entries of a map that are read at once: of 256 MiB

_SUM_MASK = 0xFFFF_FFFF_FFFF_0000
_SEED_MASK = 0xFFFF_FFFF_FFFF_FFFF


def block_count(size: int) -> int:
    """How many blocks an object of ``size`` bytes has."""
    return (size + BLOCK_SIZE - 1) >> BLOCK_SHIFT


def block_size(size: int, block: int) -> int:
    """How many bytes block ``block`` of an object of ``size`` bytes has."""
    return max(0, min(BLOCK_SIZE, size - (block << BLOCK_SHIFT)))


def whole_mask(size: int, block: int) -> int:
    """The mask of all pages that block ``block`` of an object of ``size`` bytes has."""
    if (block + 1) << BLOCK_SHIFT <= size:
        return FULL_MASK
    return (1 << page_count(block_size(size, block))) - 1


def mask_of(entry: int) -> int:
    """The valid pages an entry speaks of."""
    return entry & FULL_MASK


def valid_end(size: int, block: int, entry: int) -> int:
    """Where the last valid page of block ``block`` of an object of ``size`` bytes ends, bytes."""
    return min((block << BLOCK_SHIFT) + (mask_of(entry).bit_length() << PAGE_SHIFT), size)


def seed_of(path: str, nonce: int) -> int:
    """The seed of block 0 of the object at ``path`` (relative to ``cache/``)."""
    return xxhash.xxh3_64_intdigest(path.encode() + nonce.to_bytes(8, "little"))


def seal_check(seed: int, size: int, entry: int) -> int:
    """The check value of a seal: a changed size, entry or nonce is not the object's."""
    return xxhash.xxh3_64_intdigest(size.to_bytes(8, "little") + entry.to_bytes(8, "little"), seed)


def time_check(seed: int, label: bytes, time: float) -> int:
    """The check value of a check time: it says nothing of another label or another inode."""
    return xxhash.xxh3_64_intdigest(struct.pack("<d", time) + label, seed)


def runs_of(mask: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits of a page mask, as ``(first, n_pages)``."""
    first = 0
    while mask:
        skip = (mask & -mask).bit_length() - 1
        mask >>= skip
        first += skip
        n_pages = (~mask & (mask + 1)).bit_length() - 1
        yield first, n_pages
        mask >>= n_pages
        first += n_pages


def all_whole(entries: Sequence[int]) -> bool:
    """Whether all pages of full blocks are valid."""
    return reduce(and_, entries, FULL_MASK) == FULL_MASK


def covers(entries: Sequence[int], block: int, offset: int, end: int) -> bool:
    """Whether the pages of a byte range are all valid; ``block`` is that of the first entry."""
    for at, entry in enumerate(entries):
        start = (block + at) << BLOCK_SHIFT
        low = max(offset - start, 0) >> PAGE_SHIFT
        high = (min(end - start, BLOCK_SIZE) + PAGE_SIZE - 1) >> PAGE_SHIFT
        if ~mask_of(entry) & ((1 << high) - (1 << low)):
            return False
    return True


def valid_runs(entries: Sequence[int], block: int, wanted: PageRuns) -> Iterator[tuple[int, int]]:
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


def count_valid(entries: Sequence[int], first: int, n_pages: int) -> int:
    """How many pages of a run are valid; ``first`` counts from the first page of the first entry's block."""
    masks = list(map(mask_of, entries))
    masks[-1] &= (1 << first + n_pages - (len(masks) - 1) * PAGES_PER_BLOCK) - 1
    masks[0] &= -1 << first
    return sum(map(int.bit_count, masks))


def checksum_entry(seed: int, block: int, mask: int, content: memoryview) -> int:
    """The entry of a block whose valid pages are ``mask``.

    Args:
      content: the bytes of the block from its first page on.  May be cut after the last valid page.
    """
    if not mask:
        return 0
    block_seed = (seed + block) & _SEED_MASK
    if not mask & (mask + 1):  # from the first page on without a hole
        size = mask.bit_length() << PAGE_SHIFT
        return xxhash.xxh3_64_intdigest(content[:size], block_seed) & _SUM_MASK | mask
    return _checksum_pieces(block_seed, mask, (content,))


def checksum_whole(seed: int, block: int, content: memoryview) -> list[int]:
    """The entries of blocks all of whose pages are valid, from ``block`` on.

    Args:
      content: the bytes of the blocks; only the last block of an object may be short.
    """
    digest = xxhash.xxh3_64_intdigest
    entries = [
        digest(content[at : at + BLOCK_SIZE], (seed + number) & _SEED_MASK) & _SUM_MASK | FULL_MASK
        for number, at in enumerate(range(0, len(content), BLOCK_SIZE), block)
    ]
    if short := len(content) % BLOCK_SIZE:
        entries[-1] = entries[-1] & _SUM_MASK | (1 << page_count(short)) - 1
    return entries


def matches(seed: int, block: int, entry: int, content: Sequence[memoryview]) -> bool:
    """Whether an entry that is not 0 fits the bytes of its block, given in one piece or several."""
    if len(content) == 1 and entry & FULL_MASK == FULL_MASK:
        digest = xxhash.xxh3_64_intdigest(content[0], (seed + block) & _SEED_MASK)
        return not (digest ^ entry) & _SUM_MASK
    return _checksum_pieces((seed + block) & _SEED_MASK, entry & FULL_MASK, content) == entry


def _checksum_pieces(block_seed: int, mask: int, content: Sequence[memoryview]) -> int:
    digest = xxhash.xxh3_64(seed=block_seed)
    if mask == FULL_MASK:
        for piece in content:
            digest.update(piece)
        return digest.intdigest() & _SUM_MASK | mask
    for first, n_pages in runs_of(mask):
        start, end = first << PAGE_SHIFT, (first + n_pages) << PAGE_SHIFT
        at = 0
        for piece in content:
            if at < end and at + len(piece) > start:
                digest.update(piece[max(0, start - at) : end - at])
            at += len(piece)
    return digest.intdigest() & _SUM_MASK | mask


def pread_entries(descriptor: int, block: int, n_blocks: int, flags: int = 0) -> Sequence[int]:
    """Read ``n_blocks`` entries from a map file; what is past its end, or torn there, is 0.

    Raises:
      BlockingIOError: ``flags`` has RWF_NOWAIT and the disk would be needed.
      OSError: as read.
    """
    raw = bytearray(n_blocks * ENTRY_SIZE)
    at = os.preadv(descriptor, (raw,), block * ENTRY_SIZE, flags)
    while at % PAGE_SIZE == 0 and 0 < at < len(raw):
        # Short at a page boundary: the end of the file, or only of what is resident.
        more = os.preadv(descriptor, (memoryview(raw)[at:],), block * ENTRY_SIZE + at, flags)
        if not more:
            break
        at += more
    if torn := at % ENTRY_SIZE:
        raw[at - torn : at] = bytes(torn)
    return _from_little_endian(array("Q", raw))


def stored_entries(descriptor: int, n_blocks: int) -> Iterator[tuple[int, Sequence[int]]]:
    """What a map file has, from its first entry on, as ``(block, entries)``; its holes are passed over.

    Raises:
      OSError: as read.
    """
    block = 0
    while block < n_blocks:
        try:
            block = os.lseek(descriptor, block * ENTRY_SIZE, os.SEEK_DATA) // ENTRY_SIZE
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing up to the end
                return
            raise
        n_entries = min(_PIECE, n_blocks - block)
        yield block, pread_entries(descriptor, block, n_entries)
        block += n_entries


def zeros(n_numbers: int) -> "array[int] | memoryview[int]":
    """So many 64-bit numbers, all 0.  Of a large table only what is written to takes memory.

    Raises:
      OSError: there is no room for so large a table.
    """
    if n_numbers < _MAPPED:
        return array("Q", bytes(8 * n_numbers))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # as other memory: a forked child has its own
    return memoryview(mmap.mmap(-1, 8 * n_numbers, flags)).cast("Q")


def pwrite_entries(descriptor: int, block: int, entries: Sequence[int]) -> None:
    """Publish entries of neighbouring blocks: one write, aligned to 8 bytes."""
    raw = _from_little_endian(array("Q", entries)).tobytes()
    written = os.pwrite(descriptor, raw, block * ENTRY_SIZE)
    if written != len(raw):
        raise OSError(errno.ENOSPC, "the map was not written whole")


def _from_little_endian(entries: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        entries.byteswap()
    return entries
