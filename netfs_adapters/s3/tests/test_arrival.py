"""Bytes from a thread into a buffer that its owner may take back at any moment."""

from __future__ import annotations

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
