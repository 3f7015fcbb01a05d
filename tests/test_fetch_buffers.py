"""Memory that fetches use again."""

from __future__ import annotations

import mmap

from fscache_core.fetch_buffers import FREE_SIZE, FetchBuffers

MIB = 1 << 20


def test_what_is_given_back_is_taken_again() -> None:
    buffers = FetchBuffers()
    buffer = buffers.take(MIB)
    buffers.give(buffer)
    assert buffers.size == MIB
    assert buffers.take(MIB) is buffer
    assert buffers.size == 0
    assert buffers.take(MIB) is not buffer


def test_only_a_buffer_of_the_very_size_is_taken() -> None:
    buffers = FetchBuffers()
    buffers.give(buffers.take(2 * MIB))
    assert len(buffers.take(MIB)) == MIB
    assert buffers.size == 2 * MIB


def test_what_somebody_has_a_view_of_is_not_used_again() -> None:
    buffers = FetchBuffers()
    buffer = buffers.take(MIB)
    view = memoryview(buffer)[:4096]
    buffers.give(buffer)
    assert buffers.size == 0
    assert len(buffer) == MIB
    del view


def test_what_is_kept_is_bounded() -> None:
    buffers = FetchBuffers()
    for taken in [buffers.take(MIB) for _ in range(2 * FREE_SIZE // MIB)]:
        buffers.give(taken)
    assert buffers.size == FREE_SIZE


def test_small_ones_are_not_worth_it() -> None:
    buffers = FetchBuffers()
    buffers.give(buffers.take(4096))
    assert buffers.size == 0


def test_what_an_adapter_brought_is_its_own() -> None:
    buffers = FetchBuffers()
    buffers.give(bytes(MIB))
    buffers.give(bytearray(MIB))
    buffers.give(mmap.mmap(-1, MIB))
    assert buffers.size == 0
