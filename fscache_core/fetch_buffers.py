"""Memory that fetches have used and the next ones use again.

Fresh memory costs more than what is done with it: the system clears every page of it, and `bytearray` does
once more, both under the interpreter's lock.
"""

from __future__ import annotations

#: Bytes kept for the next fetches while some are under way.
FREE_SIZE = 16 << 20

#: Bytes below which fresh memory costs nothing worth saving.
SMALLEST_KEPT = 256 << 10


class FetchBuffers:
    """The buffers that are free."""

    __slots__ = ("_free", "size")

    def __init__(self) -> None:
        self._free: list[bytearray] = []  # in the order they were given back
        self.size = 0  #: bytes

    def take(self, size: int) -> bytearray:
        """A buffer of ``size`` bytes, whatever is in it."""
        for at in reversed(range(len(self._free))):  # the latest: the processor may have it still
            if len(self._free[at]) == size:
                self.size -= size
                return self._free.pop(at)
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back, unless somebody holds on to it in spite of the contract."""
        if len(buffer) < SMALLEST_KEPT:
            return
        try:
            buffer.append(buffer.pop())  # refused while there is any view of it
        except BufferError:
            return
        self._free.append(buffer)
        self.size += len(buffer)
        while self.size > FREE_SIZE:
            self.size -= len(self._free.pop(0))

    def clear(self) -> None:
        self._free.clear()
        self.size = 0
