"""Bytes from a thread into a buffer that its owner may take back at any moment."""

from __future__ import annotations

import pytest
import trio.testing

from netfs_s3.arrival import Arrival


async def test_what_has_arrived_is_told_in_the_trio_thread_and_only_while_somebody_waits() -> None:
    buffer, told = bytearray(10), list[int]()
    with Arrival(memoryview(buffer), told.append) as arrival:
        assert await trio.to_thread.run_sync(arrival.put, b"abc")
        await trio.testing.wait_all_tasks_blocked()
        assert told == [3]
        assert arrival.put(b"def")
    await trio.testing.wait_all_tasks_blocked()
    assert told == [3]  # leaving means that all has arrived
    assert buffer == b"abcdef\0\0\0\0"


async def test_a_buffer_is_not_touched_once_its_owner_has_it_back() -> None:
    buffer, told = bytearray(10), list[int]()
    with Arrival(memoryview(buffer), told.append) as arrival:
        pass
    assert not arrival.put(b"abc")
    await trio.testing.wait_all_tasks_blocked()
    assert buffer == bytes(10)
    assert told == []
    buffer.extend(b"x")  # no view of it is left, which Python would refuse


async def test_more_than_the_buffer_takes_is_refused_as_a_whole() -> None:
    buffer = bytearray(4)
    with Arrival(memoryview(buffer), lambda n: None) as arrival:
        assert arrival.put(b"ab")
        assert not arrival.put(b"cde")
        assert arrival.size == 2
        assert buffer == b"ab\0\0"


class NoMoreError(Exception):
    """What core says to what has arrived."""


def refuse(n_bytes: int) -> None:
    raise NoMoreError(n_bytes)


async def test_what_core_says_to_what_has_arrived_ends_the_fetch_and_not_trio() -> None:
    arrival = Arrival(memoryview(bytearray(10)), refuse)

    async def fetch() -> None:
        with arrival:
            assert arrival.put(b"abc")
            await trio.sleep_forever()

    with pytest.raises(NoMoreError, match="3"):
        await fetch()
    assert not arrival.put(b"def")
    await trio.testing.wait_all_tasks_blocked()


async def test_a_buffer_is_not_touched_either_after_a_fetch_that_failed_and_was_refused() -> None:
    buffer = bytearray(10)
    arrival = Arrival(memoryview(buffer), refuse)

    def fetch() -> None:
        with arrival:
            assert arrival.put(b"abc")
            raise OSError("the origin is gone")

    with pytest.raises(NoMoreError):
        fetch()
    assert not arrival.put(b"def")
    assert buffer == b"abc" + bytes(7)
