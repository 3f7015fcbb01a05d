"""The inodes of a volume: the newest of each path, and which of them stay warm though nobody has them open.

The others are evicted: what was fetched of them is stored, and their cookies are given back.

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

    from fscache_core.domain import Domain
    from fscache_core.inode import Inode


class InodeCache:
    """See the module.  Each volume keeps its share of ``Limits.warm_inodes`` warm."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._closed = False
        self._lock = threading.Lock()
        self._newest: dict[str, Inode] = {}  # by path
        self._all: set[Inode] = set()  # superseded ones too; trio thread only
        self._warm: OrderedDict[str, Inode] = OrderedDict()  # those that nobody has open, coldest first

    def _most_warm(self) -> int:
        return self._domain.limits.warm_inodes // max(1, self._domain.n_volumes)

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
        """`close` from any thread; True if the trio thread must call `settle`."""
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

    def of(self, path: str) -> list[Inode]:
        """Every inode of a path that is in use: the newest, and older versions that some have open still."""
        return [inode for inode in self._all if inode.path == path]

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

    def close(self, inode: Inode) -> None:
        """Undo one open.  The newest version of a file stays warm for a while."""
        if self.release(inode):
            self.settle(inode)

    def settle(self, inode: Inode) -> None:
        """See to an inode whose last reader is gone: it stays warm, or is evicted, or makes others be."""
        if not inode.n_open and not self._closed:
            inode.closed()
            for cold in self._keep_warm(inode):
                self._evict(cold)

    def _keep_warm(self, inode: Inode) -> list[Inode]:
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

    def forget(self, inode: Inode) -> None:
        """Let the next open of its path find nothing."""
        with self._lock:
            if self._newest.get(inode.path) is not inode:
                return
            del self._newest[inode.path]
            warm = self._warm.pop(inode.path, None) is not None
        if warm:
            self._evict(inode)

    def _evict(self, inode: Inode) -> None:
        if self._closed:
            return  # `close` sees to it

        async def evict() -> None:
            for fetch in list(inode.fetches):
                await fetch.wait_over()  # one that was given up: what had arrived by then is stored still
            await inode.wait_stored()
            await inode.keep_check_time()
            await inode.evict()
            self._all.discard(inode)

        # Its key is free at once, so that it can be opened again while this one is put away.
        inode.cookie.supersede()
        self._domain.spawn(evict, f"evict {inode.path}")

    async def close_all(self, *, store: bool) -> None:
        """Evict every inode, and nothing from now on.

        Args:
          store: wait until what was fetched is stored; else it is dropped.
        """
        self._closed = True
        for inode in list(self._all):
            for fetch in list(inode.fetches):
                fetch.give_up()
        for inode in list(self._all):
            inode.closed()
            for fetch in list(inode.fetches):
                await fetch.wait_over()
            if store:
                await inode.wait_stored()
                await inode.keep_check_time()
            await inode.evict()
