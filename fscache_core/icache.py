"""The inodes of a volume: the newest of each path, and which of them stay warm though nobody has them open.

The counts of opens change in any thread, so that blocking code can open and close a warm file without going
through the loop; `_lock` guards them together with the tables.  It is held for a few table look-ups only
and is the innermost lock there is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from fscache_core.inode import Inode


class InodeCache:
    """See the module.

    Args:
      most_warm: how many inodes that nobody has open are kept now, so that opening them again costs a look
        into a table.  It may change at any time.
    """

    def __init__(self, most_warm: Callable[[], int]) -> None:
        self._most_warm = most_warm
        self._lock = threading.Lock()
        self._newest: dict[str, Inode] = {}  # by path
        self._all: set[Inode] = set()  # superseded ones too; trio thread only
        self._warm: OrderedDict[str, Inode] = OrderedDict()  # those that nobody has open, coldest first

    # -- in any thread --

    def open(self, path: str, usable: Callable[[Inode], bool]) -> Inode | None:
        """The newest inode of a path, opened once more, if there is one and it is usable."""
        with self._lock:
            inode = self._newest.get(path)
            if inode is None or not usable(inode):
                return None
            inode.n_open += 1
            self._warm.pop(path, None)
            return inode

    def release(self, inode: Inode) -> bool:
        """Undo one open.  True if it was the last one and `settle` is to be called in the trio thread."""
        with self._lock:
            inode.n_open -= 1
            if inode.n_open:
                return False
            if (
                self._newest.get(inode.path) is inode
                and inode.at_rest
                and len(self._warm) < self._most_warm()
            ):
                self._warm[inode.path] = inode
                return False
            return True

    # -- in the trio thread --

    def newest(self, path: str) -> Inode | None:
        return self._newest.get(path)

    def everything(self) -> list[Inode]:
        return list(self._all)

    def below(self, prefix: str) -> list[Inode]:
        """The newest inodes of all paths that begin with ``prefix``."""
        with self._lock:
            return [inode for path, inode in self._newest.items() if path.startswith(prefix)]

    def add(self, inode: Inode) -> None:
        """Make a new inode the newest of its path, opened once."""
        with self._lock:
            inode.n_open += 1
            self._newest[inode.path] = inode
            self._all.add(inode)

    def hold(self, inode: Inode) -> None:
        """Open an inode once more."""
        with self._lock:
            inode.n_open += 1
            self._warm.pop(inode.path, None)

    def settle(self, inode: Inode) -> list[Inode]:
        """Keep an inode warm that nobody has open; returns those to evict, itself perhaps among them."""
        with self._lock:
            if inode.n_open:
                return []  # opened again meanwhile
            if self._newest.get(inode.path) is not inode:
                return [inode]
            self._warm[inode.path] = inode
            self._warm.move_to_end(inode.path)
            cold = []
            while len(self._warm) > self._most_warm():
                _, coldest = self._warm.popitem(last=False)
                del self._newest[coldest.path]
                cold.append(coldest)
            return cold

    def forget(self, inode: Inode) -> bool:
        """Let the next open of its path find nothing; True if it is to be evicted now."""
        with self._lock:
            if self._newest.get(inode.path) is not inode:
                return False
            del self._newest[inode.path]
            return self._warm.pop(inode.path, None) is not None

    def evicted(self, inode: Inode) -> None:
        self._all.discard(inode)
