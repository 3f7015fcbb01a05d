"""Pages, and runs of them."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT  #: bytes


def page_count(size: int) -> int:
    """How many pages ``size`` bytes take."""
    return (size + PAGE_SIZE - 1) >> PAGE_SHIFT


@dataclass(frozen=True, slots=True)
class Folio:
    """A run of contiguous pages with one buffer.

    ``buffer`` is a flat byte view (format ``B``).  It holds whole pages, except that it ends
    where the object ends: the last page of an object may be cut at the object's size.  So
    ``len(buffer)`` is exactly the number of bytes the run has.  For a read it is writable.
    """

    first: int  #: index of the first page
    buffer: memoryview

    @property
    def n_pages(self) -> int:
        return (len(self.buffer) + PAGE_SIZE - 1) >> PAGE_SHIFT

    @property
    def offset(self) -> int:
        """Byte offset of the run in the object."""
        return self.first << PAGE_SHIFT

    @property
    def end(self) -> int:
        """Index of the page after the run."""
        return self.first + self.n_pages

    def part(self, first: int, n_pages: int) -> "Folio":
        """The pages ``first`` to ``first + n_pages - 1`` of this run, in the same memory."""
        start = (first - self.first) << PAGE_SHIFT
        return Folio(first, self.buffer[start : start + (n_pages << PAGE_SHIFT)])


class PageRuns:
    """A set of page indices, kept as sorted, disjoint, non-adjacent runs."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield ``(first, n_pages)`` of every run, lowest first."""
        return ((start, end - start) for start, end in zip(self._starts, self._ends, strict=True))

    def __contains__(self, page_index: object) -> bool:
        return isinstance(page_index, int) and self.covers(page_index, 1)

    def covers(self, first: int, n_pages: int) -> bool:
        """Whether every page of the range is in the set."""
        at = bisect_right(self._starts, first) - 1
        return at >= 0 and self._ends[at] >= first + n_pages

    def overlaps(self, first: int, n_pages: int) -> bool:
        """Whether any page of the range is in the set."""
        at = bisect_left(self._starts, first + n_pages) - 1
        return at >= 0 and self._ends[at] > first

    def add(self, first: int, n_pages: int) -> None:
        if n_pages <= 0:
            return  # a run without pages would make the set look filled
        end = first + n_pages
        low = bisect_left(self._ends, first)  # runs that touch [first, end) at either side merge
        high = bisect_right(self._starts, end)
        if low < high:
            first = min(first, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [first]
        self._ends[low:high] = [end]

    def remove(self, first: int, n_pages: int) -> None:
        end = first + n_pages
        low = bisect_right(self._ends, first)
        high = bisect_left(self._starts, end)
        if low >= high:
            return
        starts: list[int] = []
        ends: list[int] = []
        if self._starts[low] < first:
            starts.append(self._starts[low])
            ends.append(first)
        if self._ends[high - 1] > end:
            starts.append(end)
            ends.append(self._ends[high - 1])
        self._starts[low:high] = starts
        self._ends[low:high] = ends

    def gaps(self, first: int, n_pages: int) -> Iterator[tuple[int, int]]:
        """Yield ``(first, n_pages)`` of every run of the range that is not in the set."""
        at, end = first, first + n_pages
        for index in range(bisect_right(self._ends, first), len(self._starts)):
            start = self._starts[index]
            if start >= end:
                break
            if start > at:
                yield at, start - at
            at = max(at, self._ends[index])
        if at < end:
            yield at, end - at

    def clear(self) -> None:
        self._starts.clear()
        self._ends.clear()

    def total(self) -> int:
        """How many pages are in the set."""
        return sum(self._ends) - sum(self._starts)
