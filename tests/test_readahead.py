"""The read-ahead window: grows for sequential readers, vanishes for random ones."""

from __future__ import annotations

from fscache_core import Readahead
from fscache_core.readahead import NEVER, Window

KIB, MIB = 1 << 10, 1 << 20


def test_sequential_reads_double_the_window_up_to_the_largest() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    sizes = []
    for number in range(8):
        end = (number + 1) * 16 * KIB
        assert window.read(number * 16 * KIB, 16 * KIB) == end + window.size
        sizes.append(window.size)
    assert sizes == [128 * KIB, 256 * KIB, 512 * KIB, MIB, MIB, MIB, MIB, MIB]


def test_a_jump_ends_it_and_fetches_only_what_was_asked_for() -> None:
    window = Window(Readahead())
    window.read(0, 4096)
    assert window.read(10 * MIB, 4096) == 10 * MIB + 4096
    assert window.trigger == NEVER


def test_a_reader_of_hits_is_asked_for_more_half_way_through_the_window() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    ahead = window.read(0, 64 * KIB)
    assert window.trigger == 64 * KIB + 64 * KIB
    start, end = window.advance(window.trigger)
    assert start == ahead
    assert end == 128 * KIB + 256 * KIB


def test_a_largest_window_of_nothing_switches_it_off() -> None:
    window = Window(Readahead(max_size=0))
    for number in range(4):
        assert window.read(number * 4096, 4096) == (number + 1) * 4096
    assert window.trigger == NEVER
