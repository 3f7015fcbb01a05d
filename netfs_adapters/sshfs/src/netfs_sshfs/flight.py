"""How much may be asked for over one connection and not be there yet, and who asks next.

Too little, and a long link is idle while requests travel.  Too much, and what the link cannot take waits at
the server, before whatever is asked for next; and OpenSSH moves all of it about for each packet that it sends
(measured with 12 MiB on hand: at 2 Gbit/s half of what the link takes).

A link holds its speed times the time there and back.  Both are seen in what lands: the highest speed and the
shortest time, as in BBR.  Twice as much may be in flight, so it doubles with each round until more does not
land sooner.

Everything here runs in the asyncio loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes that may be in flight before anything is known of a link.
FIRST_SIZE = 2 << 20
#: Bytes that may be in flight over any: two requests of the largest that OpenSSH answers at once.
SMALLEST_SIZE = 512 << 10
#: Bytes over which more is not in flight, over any.
LARGEST_SIZE = 16 << 20
#: By how much of the difference a lower speed is believed, each time that one is seen.
_DOUBT = 1 / 16


@dataclass(frozen=True, slots=True)
class Departure:
    """Bytes that are being asked for."""

    size: int
    at: float  #: seconds
    n_landed: int  #: bytes that had landed by then, of all


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    size: int
    come: asyncio.Future[None]
    progressed: Callable[[], None]


class Flight:
    """The bytes in flight.  Streams take turns; of one stream, who came first goes first.

    A stream is whatever is read one after the other, such as ranges of a file each behind the last.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lanes: OrderedDict[object, deque[_Turn]] = OrderedDict()  # who wait, by stream
        self._n_landed = 0  # bytes
        self._speed = 0.0  # bytes per second
        self._round_trip = math.inf  # seconds
        self.size = 0  #: bytes in flight
        self.limit = FIRST_SIZE  #: how many there may be

    async def take_off(self, stream: object, size: int, progressed: Callable[[], None]) -> Departure:
        """Wait until ``size`` bytes of a stream may be asked for.  `landed` must follow.

        Args:
          progressed: called while waiting, whenever anything landed.
        """
        if self._lanes or not self._fits(size):
            turn = _Turn(size, self._loop.create_future(), progressed)
            self._lanes.setdefault(stream, deque()).append(turn)
            try:
                await turn.come
            except asyncio.CancelledError:
                if turn.come.cancelled():
                    self._leave(stream, turn)
                else:
                    self.size -= size
                self._call()
                raise
        else:
            self.size += size
        return Departure(size, self._loop.time(), self._n_landed)

    def landed(self, departure: Departure, *, whole: bool) -> None:
        """What was asked for is there; or if not ``whole``, is no longer waited for."""
        self.size -= departure.size
        if whole:
            self._n_landed += departure.size
            self._learn(departure)
            for lane in self._lanes.values():
                for turn in lane:
                    if not turn.come.cancelled():
                        turn.progressed()
        self._call()

    def _learn(self, departure: Departure) -> None:
        seconds = max(self._loop.time() - departure.at, 1e-6)
        speed = (self._n_landed - departure.n_landed) / seconds
        if speed > self._speed:
            self._speed = speed
        elif self._lanes:  # else there was less in flight than there might have been
            self._speed += (speed - self._speed) * _DOUBT
        self._round_trip = min(self._round_trip, seconds)
        self.limit = int(min(SMALLEST_SIZE + 2 * self._speed * self._round_trip, LARGEST_SIZE))

    def _fits(self, size: int) -> bool:
        return not self.size or self.size + size <= self.limit

    def _call(self) -> None:
        """Let go of those for whom there is room, one stream after the other."""
        while self._lanes:
            stream, lane = next(iter(self._lanes.items()))
            turn = lane[0]
            if not turn.come.cancelled():
                if not self._fits(turn.size):
                    break
                self.size += turn.size
                turn.come.set_result(None)
            self._lanes.move_to_end(stream)
            self._leave(stream, turn)

    def _leave(self, stream: object, turn: _Turn) -> None:
        lane = self._lanes.get(stream)
        if lane is not None and turn in lane:
            lane.remove(turn)
            if not lane:
                del self._lanes[stream]
