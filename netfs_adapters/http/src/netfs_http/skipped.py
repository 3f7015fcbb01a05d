"""What an answer brought on the way to the range that was asked for."""

from __future__ import annotations


class Skipped:
    """Bytes of one version that nobody has asked for yet: at most ``limit`` of them, those read last.

    The ranges of a read-ahead are asked for in ascending order, but do not always come in it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._runs: list[tuple[int, bytearray]] = []  # (offset in the file, bytes), ascending, with gaps
        self._size = 0  # bytes

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __contains__(self, offset: int) -> bool:
        return any(start <= offset < start + len(run) for start, run in self._runs)

    def add(self, offset: int, piece: memoryview) -> None:
        """Keep ``piece``, which is copied; it lies behind all that is kept."""
        if self._runs and self._runs[-1][0] + len(self._runs[-1][1]) == offset:
            self._runs[-1][1].extend(piece)
        else:
            self._runs.append((offset, bytearray(piece)))
        self._size += len(piece)
        while self._size > self._limit:
            start, run = self._runs.pop(0)
            n_bytes = min(len(run), self._size - self._limit)
            self._size -= n_bytes
            if n_bytes < len(run):
                del run[:n_bytes]
                self._runs.insert(0, (start + n_bytes, run))

    def take_into(self, view: memoryview, offset: int) -> int:
        """Move the bytes at ``offset`` into ``view``, as far as they reach; returns how many."""
        for at, (start, run) in enumerate(self._runs):
            if start <= offset < start + len(run):
                first = offset - start
                n_bytes = min(len(view), len(run) - first)
                view[:n_bytes] = memoryview(run)[first : first + n_bytes]
                parts = (start, run[:first]), (offset + n_bytes, run[first + n_bytes :])
                self._runs[at : at + 1] = [part for part in parts if part[1]]
                self._size -= n_bytes
                return n_bytes
        return 0
