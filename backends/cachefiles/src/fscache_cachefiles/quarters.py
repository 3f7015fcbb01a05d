"""Quarters of blocks: what ``verify="always"`` remembers of content that has matched.

What was a block's content once is so for ever, so the sum of a quarter of it proves as much as the sum of the
whole block, and takes half as long if the range that is read is neither long nor aligned.
"""

import os
from array import array
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from fscache_cachefiles.blockmap import BLOCK_SHIFT, block_count, zeros
from fscache_cachefiles.scratch import SCRATCH_SIZE, give_scratch, take_scratch

_SHIFT = BLOCK_SHIFT - 2
_SIZE = 1 << _SHIFT  # bytes
_PER_BLOCK = 4


class Quarters:
    """Sums of the quarters of one backing, and reading what they prove.  Usable from any thread.

    Args:
      data: descriptor of the content; the backing closes it.
      size: of the object, bytes.
      read_flags: with which nothing waits for the disk.
    """

    __slots__ = ("_data", "_read_flags", "_size", "_sums")

    def __init__(self, data: int, size: int, read_flags: int) -> None:
        self._data = data
        self._size = size
        self._read_flags = read_flags
        #: One per quarter; 0 until its block has matched its entry.  Made when the first has.
        self._sums: memoryview[int] | None = None

    def read(self, offset: int, buffer: memoryview) -> bool:
        """Read a range of blocks that matched before, and sum up those quarters of them that it touches.

        False if it cannot be, or proves nothing: then the map says what is right.

        Raises:
          OSError: as read; BlockingIOError if the disk would be needed.
        """
        sums = self._sums
        if sums is None:
            return False
        end = offset + len(buffer)
        first = offset >> _SHIFT
        known = sums[first : ((end - 1) >> _SHIFT) + 1].tolist()
        start = first << _SHIFT
        stop = min(start + (len(known) << _SHIFT), self._size)
        if stop - start > SCRATCH_SIZE or not all(known):
            return False
        if start == offset and stop == end:
            return self._read_known(start, buffer, known)
        scratch = take_scratch()
        try:
            content = scratch[: stop - start]
            if not self._read_known(start, content, known):
                return False
            buffer[:] = content[offset - start : end - start]
            return True
        finally:
            give_scratch(scratch)

    def _read_known(self, start: int, content: memoryview, known: list[int]) -> bool:
        if os.preadv(self._data, (content,), start, self._read_flags) != len(content):
            return False
        if _sums_of(content) != known:
            self._sums = None  # it is damaged, or was and has been stored again: start afresh
            return False
        return True

    def note(self, block: int, content: Sequence[memoryview]) -> None:
        """Remember the quarters of a whole block that has just matched, given in one piece or several."""
        sums = self._sums
        if sums is None:
            sums = self._sums = memoryview(zeros(_PER_BLOCK * block_count(self._size)))
        at = block * _PER_BLOCK
        if not sums[at]:
            new = _sums_of(content[0] if len(content) == 1 else memoryview(b"".join(content)))
            sums[at : at + len(new)] = array("Q", new)


def _sums_of(content: memoryview) -> list[int]:
    """A sum of each quarter of neighbouring blocks; ``content`` is their bytes from one's beginning on.

    Only ever compared within this process, so the seed does not matter.
    """
    return [xxh3_64_intdigest(content[at : at + _SIZE]) for at in range(0, len(content), _SIZE)]
