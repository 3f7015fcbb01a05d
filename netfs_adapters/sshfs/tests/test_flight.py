"""How much is asked for at once, on links whose time is simulated."""

from __future__ import annotations

import asyncio
import selectors
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from netfs_sshfs.flight import FIRST_SIZE, LARGEST_SIZE, SMALLEST_SIZE, Flight

if TYPE_CHECKING:
    from collections.abc import Coroutine

KIB, MIB = 1 << 10, 1 << 20
BLOCK_SIZE = 255 * KIB  # what OpenSSH answers at once


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Whoever sleeps has slept at once."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Sleepless(self))

    def time(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class _Sleepless(selectors.SelectSelector):
    def __init__(self, loop: SimulatedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self._loop.sleep(timeout)
        return super().select(0)


def simulate(work: Coroutine[object, object, None]) -> None:
    loop = SimulatedLoop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


class Link:
    """A server at the end of a link: answers in order, as fast as the link takes it.

    Args:
      speed: bytes per second.
      round_trip: seconds.
    """

    def __init__(self, speed: float, round_trip: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.speed = speed
        self.round_trip = round_trip
        self.free_at = 0.0
        self.most_waiting = 0.0  # bytes at the server that the link could not take yet
        self.asked: list[object] = []

    async def read(self, file: object, size: int) -> None:
        self.asked.append(file)
        there = self._loop.time() + self.round_trip / 2
        self.free_at = max(self.free_at, there) + size / self.speed
        self.most_waiting = max(self.most_waiting, (self.free_at - there) * self.speed)
        await asyncio.sleep(self.free_at + self.round_trip / 2 - self._loop.time())


def ignore() -> None:
    pass


async def fly(flight: Flight, link: Link, file: object, size: int) -> None:
    departure = await flight.take_off(file, size, ignore)
    landed = False
    try:
        await link.read(file, size)
        landed = True
    finally:
        flight.landed(departure, whole=landed)


@pytest.mark.parametrize("round_trip", [0.0002, 0.001, 0.02, 0.1])
@pytest.mark.parametrize("speed", [1e6, 1e7, 1e8, 1e9])
def test_a_link_is_busy_and_little_waits_at_the_server(speed: float, round_trip: float) -> None:
    async def read_on() -> None:
        flight, link = Flight(), Link(speed, round_trip)
        n_blocks = int(max(64 * MIB, 40 * speed * round_trip)) // BLOCK_SIZE
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(fly(flight, link, "a", BLOCK_SIZE) for _ in range(n_blocks)))
        seconds = asyncio.get_running_loop().time() - began
        held = speed * round_trip
        reachable = min(speed, (LARGEST_SIZE - BLOCK_SIZE) / (round_trip + BLOCK_SIZE / speed))
        assert seconds < 1.15 * n_blocks * BLOCK_SIZE / reachable + 10 * round_trip
        assert link.most_waiting < max(FIRST_SIZE, 2 * held + 4 * BLOCK_SIZE)
        assert flight.size == 0

    simulate(read_on())


def test_what_is_small_goes_before_the_rest_of_what_is_large() -> None:
    async def read_both() -> None:
        flight, link = Flight(), Link(1e7, 0.01)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(100):
                tasks.create_task(fly(flight, link, "large", BLOCK_SIZE))
            await asyncio.sleep(0.05)
            n_asked = len(link.asked)
            tasks.create_task(fly(flight, link, "small", 64 * KIB))
        assert n_asked < 20
        assert "small" in link.asked[n_asked : n_asked + 3]

    simulate(read_both())


def test_of_one_stream_who_came_first_goes_first() -> None:
    async def read_in_order() -> None:
        flight, link = Flight(), Link(1e7, 0.01)
        asked: list[int] = []

        async def read(number: int) -> None:
            departure = await flight.take_off("a", BLOCK_SIZE, ignore)
            asked.append(number)
            await link.read("a", BLOCK_SIZE)
            flight.landed(departure, whole=True)

        await asyncio.gather(*map(read, range(50)))
        assert asked == list(range(50))

    simulate(read_in_order())


def test_who_waits_hears_of_what_lands() -> None:
    async def wait() -> None:
        flight, n_heard = Flight(), 0

        def progressed() -> None:
            nonlocal n_heard
            n_heard += 1

        first = [await flight.take_off("a", FIRST_SIZE // 4, ignore) for _ in range(4)]
        waiting = asyncio.ensure_future(flight.take_off("b", LARGEST_SIZE, progressed))
        await asyncio.sleep(1)
        assert (n_heard, waiting.done()) == (0, False)
        for n, departure in enumerate(first, 1):
            flight.landed(departure, whole=True)
            assert n_heard == n
        flight.landed(await waiting, whole=True)

    simulate(wait())


def test_who_is_given_up_hears_no_more() -> None:
    async def give_up() -> None:
        flight, heard = Flight(), list[int]()
        held = await flight.take_off("a", FIRST_SIZE, ignore)
        waiting = asyncio.ensure_future(flight.take_off("a", BLOCK_SIZE, lambda: heard.append(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        flight.landed(held, whole=True)
        with suppress(asyncio.CancelledError):
            await waiting
        assert (heard, flight.size) == ([], 0)

    simulate(give_up())


@pytest.mark.parametrize("when", ["before its turn", "as its turn comes", "in flight"])
def test_who_is_cancelled_leaves_room(when: str) -> None:
    async def cancel() -> None:
        flight, link = Flight(), Link(1e7, 0.01)
        held = await flight.take_off("a", FIRST_SIZE, ignore)
        tasks = [asyncio.ensure_future(fly(flight, link, "a", BLOCK_SIZE)) for _ in range(3)]
        last = asyncio.ensure_future(fly(flight, link, "b", SMALLEST_SIZE))
        await asyncio.sleep(0)
        if when == "in flight":
            flight.landed(held, whole=False)
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        if when == "as its turn comes":
            flight.landed(held, whole=False)
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        if when == "before its turn":
            assert flight.size == FIRST_SIZE
            flight.landed(held, whole=False)
        await last
        assert flight.size == 0
        assert link.asked.count("b") == 1

    simulate(cancel())
