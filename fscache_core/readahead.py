"""Read-ahead: a window that grows for sequential readers and vanishes for random ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from fscache_core.errors import CallerError
from fscache_core.folio import PAGE_SIZE

#: A trigger that no offset reaches.
NEVER = sys.maxsize


@dataclass(frozen=True, slots=True)
class Readahead:
    """How far ahead of a sequential reader to fetch.  All in bytes; multiples of a page are best.

    Raises:
      CallerError: a value makes no sense.
    """

    max_size: int = 8 << 20  #: the largest window; 0 switches read-ahead off
    initial_size: int = 128 << 10  #: the window after the first sequential read
    fetch_size: int = 4 << 20  #: the largest single request; a window holds several, fetched in parallel

    def __post_init__(self) -> None:
        for name, at_least in (("max_size", 0), ("initial_size", 1), ("fetch_size", PAGE_SIZE)):
            size: object = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int) or size < at_least:
                raise CallerError(f"Readahead: {name}={size!r} is not a whole number of at least {at_least}")


#: The default for adapters that give whole ranges (`fetch_whole`): what such a range costs does not depend on
#: its size.  The bytes of others are touched once more, and are to stay in the processor's cache until then.
WHOLE_READAHEAD = Readahead(fetch_size=8 << 20)


class Window:
    """The read-ahead state of one sequential reader of an open file.

    A window smaller than a fetch is renewed when half of it is left.  A larger one is always whole: it ends
    where a fetch ends, and as the reader enters the next fetch, one more is asked for.  As a fetch arrives,
    another takes its place, up to two windows ahead of the reader.  So the origin is never idle while there
    is more to come, whoever comes first.

    A reader may touch ``trigger`` and ``expected`` on its hot path: compare the end of each read with
    the one, set the other to it.
    """

    __slots__ = ("_noted", "ahead", "expected", "limits", "size", "trigger")

    def __init__(self, limits: Readahead) -> None:
        self.limits = limits
        self.size = 0  #: bytes
        self.expected = 0  #: where a sequential reader would read next
        self.ahead = 0  #: up to where has been asked for
        self.trigger = NEVER  #: when a read passes this, it is time to ask for more
        self._noted = 0  # where the reader was last heard of: in between it had hits

    def comes_to(self, offset: int) -> bool:
        """Whether a read at ``offset`` may be this reader's next: a jump goes elsewhere."""
        return self._noted <= offset <= self.ahead

    def read(self, offset: int, size: int) -> tuple[int, int]:
        """Note a read that was no plain hit; returns the range to read ahead if it misses, as (from, to)."""
        end = offset + size
        start = max(end, self.ahead)
        if offset != self.expected or not self.limits.max_size:
            self.size = 0
            self.ahead = start = end
            self.trigger = NEVER
        elif end >= self.trigger or self.trigger == NEVER:
            self.size = min(self.limits.max_size, max(self.limits.initial_size, 2 * self.size, 2 * size))
            self._aim(end)
        self.expected = self._noted = end
        return start, max(start, self.ahead)

    def advance(self, end: int) -> tuple[int, int]:
        """Note that a sequential hit passed ``trigger``; returns the range to read ahead, as (from, to)."""
        start = max(end, self.ahead)
        self.size = min(self.limits.max_size, 2 * self.size)
        self._noted = end
        self._aim(end)
        return start, max(start, self.ahead)

    def arrived(self) -> tuple[int, int]:
        """Note that a fetch has arrived; returns the range to ask for in its place, as (from, to)."""
        start, fetch_size = self.ahead, self.limits.fetch_size
        if (
            self.trigger != NEVER
            and self.size >= fetch_size
            and start + fetch_size <= self.expected + 2 * self.size
        ):
            self.ahead = start + fetch_size
            self.trigger = self.ahead - self.size
        return start, self.ahead

    def refused(self, asked: int) -> None:
        """Note that nothing was asked for from ``asked`` on: the next read tries again."""
        if asked < self.ahead:
            self.ahead = asked
            self.trigger = min(self.trigger, self.expected)

    def rest(self) -> None:
        """Read nothing ahead until the next miss."""
        self.trigger = NEVER

    def found(self, end: int, asked: int) -> None:
        """Note that a read up to ``end`` missed nothing, and nothing was asked for beyond ``asked``."""
        if self.size and asked > end:
            self.ahead = asked
            self.trigger = asked - self.size
        else:
            self.ahead = end
            self.rest()

    def _aim(self, end: int) -> None:
        fetch_size = self.limits.fetch_size
        if self.size < fetch_size:
            self.ahead = max(self.ahead, end + self.size)
            self.trigger = self.ahead - self.size // 2
        else:
            self.ahead = max(self.ahead, ((end + self.size) // fetch_size + 1) * fetch_size)
            self.trigger = self.ahead - self.size
