"""The inodes of a volume: the newest of each path, and which of them stay warm though nobody has them open.

The others are evicted: what was fetched of them is stored, and their cookies are given back.

Opens and closes happen in any thread, so that blocking code can open and close a warm file without going
through the loop, and between any two steps of one that has begun: in a signal handler, or in what the
garbage collector calls.  A lock would be held by the very code that was interrupted, so there is none.
Each step is one operation of a list or dict, which nothing interrupts.  Who opens announces it first
(`Inode.opens`), and then looks whether the inode can still be found; who evicts takes care first that it
cannot be found, and then looks whether anybody opens it.  So one of the two sees the other, and gives way.
Only the trio thread adds to the newest or takes from them, and only it evicts.

An inode that nobody has open is warm, or `settle` is about to be called for it, or it is leaving.  What is
in the table of the warm ones may be open or leaving all the same, and is passed over then.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from fscache_core.domain import Domain
    from fscache_core.inode import Inode


class InodeCache:
    """See the module.  Each volume keeps its share of ``Limits.warm_inodes`` warm."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._closed = False
        self._newest: dict[str, Inode] = {}  # by path; changed by the trio thread only
        self._all: set[Inode] = set()  # superseded ones too; trio thread only
        self._warm: OrderedDict[Inode, None] = OrderedDict()  # those that nobody has open, coldest first

    def _most_warm(self) -> int:
        return self._domain.limits.warm_inodes // max(1, self._domain.n_volumes)

    # -- in any thread --

    def open(self, path: str, usable: Callable[[Inode], bool]) -> Inode | None:
        """The newest inode of a path, opened once more, if there is one and it is usable."""
        inode = self._newest.get(path)
        if inode is None or not usable(inode):
            return None
        inode.opens.append(None)
        if self._newest.get(path) is not inode:
            if self.release(inode):
                with suppress(trio.RunFinishedError):  # else closing has seen to it
                    self._domain.token.run_sync_soon(self.settle, inode)
            return None
        self._warm.pop(inode, None)
        return inode

    def release(self, inode: Inode) -> bool:
        """`close` from any thread; True if the trio thread must call `settle`."""
        inode.opens.pop()
        if inode.opens:
            return False
        most = self._most_warm()
        if inode.at_rest and len(self._warm) < most:
            self._warm[inode] = None
            if self._newest.get(inode.path) is inode and len(self._warm) <= most:
                return False
            self._warm.pop(inode, None)
        return True

    # -- in the trio thread --

    def newest(self, path: str) -> Inode | None:
        return self._newest.get(path)

    def at_or_below(self, path: str) -> list[Inode]:
        """Every inode in use of a path and of those below it, older versions that some have open too."""
        below = path.rstrip("/") + "/"
        return [inode for inode in self._all if inode.path == path or inode.path.startswith(below)]

    def below(self, prefix: str) -> list[Inode]:
        """The newest inodes of all paths that begin with ``prefix``."""
        return [inode for path, inode in self._newest.items() if path.startswith(prefix)]

    def add(self, inode: Inode) -> None:
        """Make a new inode the newest of its path, opened once."""
        inode.opens.append(None)
        self._newest[inode.path] = inode
        self._all.add(inode)

    def hold(self, inode: Inode) -> None:
        """Open an inode once more."""
        inode.opens.append(None)
        self._warm.pop(inode, None)

    def close(self, inode: Inode) -> None:
        """Undo one open.  The newest version of a file stays warm for a while."""
        if self.release(inode):
            self.settle(inode)

    def settle(self, inode: Inode) -> None:
        """See to an inode whose last reader is gone: it stays warm, or is evicted, or makes others be."""
        if inode.opens or inode.leaving or self._closed:
            return
        inode.closed()
        if self._newest.get(inode.path) is not inode:
            self._evict(inode)
            return
        self._warm.pop(inode, None)
        self._warm[inode] = None
        while len(self._warm) > self._most_warm():
            try:
                coldest, _ = self._warm.popitem(last=False)
            except KeyError:  # the last one was just opened
                break
            self._cool(coldest)

    def _cool(self, coldest: Inode) -> None:
        """Evict an inode that was warm, unless somebody opens it."""
        if coldest.opens or self._newest.get(coldest.path) is not coldest:
            return  # whoever closes it sees to it, or has
        del self._newest[coldest.path]
        if coldest.opens:  # just now; whoever did not find it goes through the loop
            self._newest[coldest.path] = coldest
        else:
            self._evict(coldest)

    def forget(self, inode: Inode) -> None:
        """Let the next open of its path find nothing."""
        if self._newest.get(inode.path) is not inode:
            return
        del self._newest[inode.path]
        if self._warm.pop(inode, False) is None and not inode.opens:
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

        inode.leaving = True
        self._warm.pop(inode, None)  # whoever closed it may have put it there since
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
