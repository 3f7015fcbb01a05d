"""The account of the memory that fetches take, over all files of an `FsCache` (``Limits.fetch_size``).

What was fetched and could not be stored is kept a little longer, for readers who are about to want it.  It
makes room for other fetches as soon as they have had it, or have not come for it for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds for which what is kept waits for its reader, whoever else wants its room.
UNREAD_SECONDS = 5.0


@dataclass(slots=True)
class _Kept:
    size: int
    since: float  # trio time; long ago if it has been read
    free: Callable[[], None]


class FetchMemory:
    """The account.

    Args:
      limit: bytes that fetches and what is kept of them may have together.
    """

    __slots__ = ("_kept", "_limit", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.size = 0  #: bytes in the buffers of all fetches, those kept included
        # Of fetches that are over: first those that have been read, then the others, oldest first.
        self._kept: OrderedDict[object, _Kept] = OrderedDict()

    @property
    def kept_size(self) -> int:
        """Bytes of fetches that are over."""
        return sum(kept.size for kept in self._kept.values())

    @property
    def room(self) -> int:
        """How many bytes more may be fetched at once: what is free, and what nobody is about to read."""
        return max(0, self._limit - self.size + sum(kept.size for kept in self._useless()))

    @property
    def is_overdrawn(self) -> bool:
        """Whether fetches have more than the limit: whoever waits for bytes gets a few in any case."""
        return self.size > self._limit

    def take(self, size: int) -> None:
        """Charge a new fetch; frees what nobody is about to read so far as that is needed."""
        excess = self.size + size - self._limit
        for kept in list(self._useless()) if excess > 0 else ():
            kept.free()
            excess -= kept.size
            if excess <= 0:
                break
        self.size += size

    def give(self, size: int) -> None:
        """Note that a fetch is gone, and its buffer."""
        self.size -= size

    def keep(self, fetch: object, size: int, free: Callable[[], None]) -> None:
        """Note that a fetch is over and kept.

        Args:
          free: called to have its memory; calls `let_go`.
        """
        self._kept[fetch] = _Kept(size, trio.current_time(), free)

    def read(self, fetch: object) -> None:
        """Note that all of a kept fetch has been read."""
        self._kept[fetch].since = float("-inf")
        self._kept.move_to_end(fetch, last=False)

    def let_go(self, fetch: object) -> None:
        """Note that a kept fetch is gone, and its buffer."""
        self.give(self._kept.pop(fetch).size)

    def _useless(self) -> Iterator[_Kept]:
        latest = trio.current_time() - UNREAD_SECONDS
        for kept in self._kept.values():
            if kept.since > latest:
                return
            yield kept
