"""Who reads next from a file that has no ranges, or may have none: the reader of the lowest offset."""

from __future__ import annotations

from bisect import insort
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """A lock whose next holder is the waiter with the lowest offset, so that one answer serves them all."""

    def __init__(self) -> None:
        self._arrivals = count()
        self._waiting: list[tuple[int, int]] = []  # (offset, arrival), lowest first
        self._taken = False
        self._over = False
        self._lot = trio.lowlevel.ParkingLot()

    def end(self) -> None:
        """Let everybody through from now on: there are ranges."""
        self._over = True
        self._lot.unpark_all()

    @asynccontextmanager
    async def turn(self, offset: int) -> AsyncIterator[None]:
        """Hold the lock in the block."""
        ticket = (offset, next(self._arrivals))
        insort(self._waiting, ticket)
        try:
            await (
                trio.lowlevel.checkpoint()
            )  # trio starts tasks in any order: let all of a read-ahead queue up
            while not self._over and (self._taken or self._waiting[0] != ticket):
                await self._lot.park()
            self._taken = True
        finally:
            self._waiting.remove(ticket)
            if not self._taken:
                self._lot.unpark_all()  # cancelled, perhaps as the first in the queue
        try:
            yield
        finally:
            self._taken = False
            self._lot.unpark_all()
