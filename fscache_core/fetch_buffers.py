"""Memory that fetches have used and the next ones use again.

Fresh memory costs more than what is done with it: the system clears every page of it, under the
interpreter's lock.  So it is mapped, and costs nothing before it is written to, and used again.
"""

from __future__ import annotations

import mmap

from fscache_core.errors import NoMemoryError

#: Bytes kept for the next fetches while some are under way.
FREE_SIZE = 16 << 20

#: Bytes below which fresh memory costs nothing worth saving.
SMALLEST_KEPT = 256 << 10


class _Memory(mmap.mmap):
    """What can be used again: nobody else made it, so it maps no file and is the size it says."""


class FetchBuffers:
    """The buffers that are free."""

    __slots__ = ("_free", "size")

    def __init__(self) -> None:
        self._free: list[_Memory] = []  # in the order they were given back
        self.size = 0  #: bytes

    def take(self, size: int) -> bytearray | _Memory:
        """A buffer of ``size`` bytes, whatever is in it.

        Raises:
          NoMemoryError: there is none.  What is free is let go, for whoever tries next.
        """
        for at in reversed(range(len(self._free))):  # the latest: the processor may have it still
            if len(self._free[at]) == size:
                self.size -= size
                return self._free.pop(at)
        try:
            if size < SMALLEST_KEPT:
                return bytearray(size)
            # Private: a forked child has its own.
            return _Memory(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, MemoryError) as error:
            self.clear()
            raise NoMemoryError(f"no memory for {size} bytes") from error

    def give(self, buffer: object) -> None:
        """Take back what `take` gave, unless somebody holds on to it in spite of the contract.

        All else, such as what an adapter brought, is let go.
        """
        if not isinstance(buffer, _Memory):
            return
        try:
            buffer.resize(len(buffer))  # refused while there is any view of it
        except (BufferError, SystemError):  # or where the system cannot do that
            return
        self._free.append(buffer)
        self.size += len(buffer)
        while self.size > FREE_SIZE:
            self.size -= len(self._free.pop(0))

    def clear(self) -> None:
        self._free.clear()
        self.size = 0
