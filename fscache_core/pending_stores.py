"""The pages of one cookie that wait to be stored, and those being stored (reference section 8).

Runs of pages, first come first served: of pages that are queued twice the later bytes win, by order.  The
bytes of all cookies together are counted in ``Domain.stores_size``, which bounds them.

Nothing here awaits but the ``wait`` methods, so queueing, taking and dropping are atomic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fscache_core.domain import Domain
    from fscache_core.folio import Folio


class PendingStores:
    """The queue.  False if nothing waits; ``running`` may still be stored then."""

    __slots__ = ("_domain", "_lot", "_queue", "running")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._queue: list[Folio] = []  # mostly empty: an empty deque is 13 times as large
        self._lot: trio.lowlevel.ParkingLot | None = None  # who waits for a store to end or be dropped
        self.running: Sequence[Folio] = ()  #: pages being stored

    def __bool__(self) -> bool:
        return bool(self._queue)

    def __iter__(self) -> Iterator[Folio]:
        """What is being stored, and what waits."""
        yield from self.running
        yield from self._queue

    def append(self, folio: Folio) -> None:
        self._queue.append(folio)
        self._domain.stores_size += len(folio.buffer)

    def pop(self) -> None:
        """Take back what was appended last."""
        self._gone(len(self._queue.pop().buffer))

    def begin(self, size: int = 0) -> Sequence[Folio]:
        """Take what waits longest, to be stored now: one run, and more up to ``size`` bytes in all."""
        n_folios, size = 1, size - len(self._queue[0].buffer)
        while n_folios < len(self._queue) and len(self._queue[n_folios].buffer) <= size:
            size -= len(self._queue[n_folios].buffer)
            n_folios += 1
        self.running = folios = self._queue[:n_folios]
        del self._queue[:n_folios]
        return folios

    def end(self) -> None:
        """What was begun is stored, or will not be."""
        folios, self.running = self.running, ()
        self._domain.stats.store_rxd += sum(folio.n_pages for folio in folios)
        self._gone(sum(len(folio.buffer) for folio in folios))

    def discard(self) -> None:
        """Drop every page that waits; one being stored finishes."""
        if self._queue:
            dropped = sum(len(folio.buffer) for folio in self._queue)
            self._domain.stats.store_rxd += sum(folio.n_pages for folio in self._queue)
            self._queue.clear()
            self._gone(dropped)

    def discard_page(self, page_index: int) -> bool:
        """Take one page out of what waits; False if it is not there."""
        for at, folio in enumerate(self._queue):
            if folio.first <= page_index < folio.end:
                # Stores are runs here: leave the rest of its run queued.
                del self._queue[at]
                before = folio.part(folio.first, page_index - folio.first)
                after = folio.part(page_index + 1, folio.end - page_index - 1)
                for piece in (after, before):
                    if piece.buffer:
                        self._queue.insert(at, piece)
                self._domain.stats.store_rxd += 1
                self._gone(len(folio.buffer) - len(before.buffer) - len(after.buffer))
                return True
        return False

    def overlaps(self, first: int, n_pages: int) -> bool:
        """Whether a store of any of these pages is pending or running."""
        end = first + n_pages
        return any(folio.first < end and first < folio.end for folio in self)

    async def wait_empty(self) -> None:
        """Wait until nothing waits or is being stored."""
        while self._queue or self.running:
            await self._wait_change()

    async def wait_pages(self, first: int, n_pages: int) -> None:
        """Wait until no store of these pages is pending or running."""
        while self.overlaps(first, n_pages):
            await self._wait_change()

    def _gone(self, size: int) -> None:
        """Note that ``size`` bytes wait no longer."""
        self._domain.stores_size -= size
        self._domain.stores_changed.unpark_all()
        if self._lot is not None:
            self._lot.unpark_all()
            self._lot = None

    async def _wait_change(self) -> None:
        if self._lot is None:
            self._lot = trio.lowlevel.ParkingLot()
        await self._lot.park()
