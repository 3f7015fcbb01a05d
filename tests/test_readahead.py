"""The read-ahead window: grows for sequential readers, vanishes for random ones."""

from __future__ import annotations

import pytest

from fscache_core import CallerError, Readahead
from fscache_core.readahead import NEVER, Window

KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    "sizes",
    [{"max_size": -1}, {"initial_size": 0}, {"fetch_size": 0}, {"fetch_size": 4095}, {"fetch_size": 1e6}],
    ids=str,
)
def test_sizes_that_make_no_sense_are_the_callers_error(sizes: dict[str, int]) -> None:
    (name,) = sizes
    with pytest.raises(CallerError, match=rf"Readahead: {name}={sizes[name]} is not a whole number of at"):
        Readahead(**sizes)


def test_sequential_misses_double_the_window_up_to_the_largest() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    sizes, end = [128 * KIB], 0
    window.read(0, 16 * KIB)
    for number in range(1, 100):
        start, end = window.read(number * 16 * KIB, 16 * KIB)
        if start < end:
            assert end == (number + 1) * 16 * KIB + window.size
            sizes.append(window.size)
    assert sizes == [128 * KIB, 256 * KIB, 512 * KIB, MIB, MIB, MIB]


def test_a_jump_ends_it_and_fetches_only_what_was_asked_for() -> None:
    window = Window(Readahead())
    window.read(0, 4096)
    assert window.read(10 * MIB, 4096) == (10 * MIB + 4096, 10 * MIB + 4096)
    assert window.trigger == NEVER


def test_a_reader_of_hits_is_asked_for_more_half_way_through_the_window() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    _, ahead = window.read(0, 64 * KIB)
    assert window.trigger == 64 * KIB + 64 * KIB
    start, end = window.advance(window.trigger)
    assert start == ahead
    assert end == 128 * KIB + 256 * KIB


def test_a_reader_of_misses_is_asked_for_more_half_way_through_the_window() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    _, ahead = window.read(0, 64 * KIB)
    assert window.read(64 * KIB, 32 * KIB) == (ahead, ahead)
    assert window.read(96 * KIB, 32 * KIB) == (ahead, 128 * KIB + 256 * KIB)


def test_a_window_of_whole_fetches_always_reaches_as_far_ahead_as_it_may() -> None:
    limits = Readahead(max_size=8 * MIB, fetch_size=4 * MIB)
    window = Window(limits)
    asked = 0
    for number in range(64):
        end = (number + 1) * MIB
        start, ahead = window.read(number * MIB, MIB)
        if start < ahead:
            assert start == max(end, asked)
            asked = ahead
        if window.size == limits.max_size:
            assert end + limits.max_size < asked <= end + limits.max_size + limits.fetch_size
            assert asked % limits.fetch_size == 0
    assert window.size == limits.max_size


def test_who_found_everything_and_then_misses_is_read_ahead_for_from_there() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    window.read(0, 64 * KIB)
    window.found(64 * KIB, 0)
    assert window.trigger == NEVER
    assert window.read(64 * KIB, 64 * KIB) == (128 * KIB, 128 * KIB + window.size)


def test_who_finds_what_was_fetched_ahead_is_read_ahead_for_from_there() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    _, asked = window.read(0, 64 * KIB)
    window.read(64 * KIB, 64 * KIB)
    window.found(128 * KIB, asked)
    assert window.trigger < asked
    start, _ = window.advance(192 * KIB)
    assert start == asked


def test_who_jumped_and_found_everything_is_not_read_ahead_for() -> None:
    window = Window(Readahead())
    _, asked = window.read(0, MIB)
    window.read(65536, 4096)
    window.found(69632, asked)
    assert window.trigger == NEVER


def test_a_largest_window_of_nothing_switches_it_off() -> None:
    window = Window(Readahead(max_size=0))
    for number in range(4):
        end = (number + 1) * 4096
        assert window.read(number * 4096, 4096) == (end, end)
    assert window.trigger == NEVER


def test_as_a_fetch_arrives_another_takes_its_place_up_to_two_windows_ahead() -> None:
    window = Window(Readahead(max_size=8 * MIB, fetch_size=4 * MIB))
    for number in range(16):
        window.read(number * MIB, MIB)
    assert window.size == 8 * MIB
    asked = window.ahead
    while True:
        start, end = window.arrived()
        assert start == asked
        if end == asked:
            break
        assert end == asked + 4 * MIB
        asked = end
    assert 16 * MIB + 12 * MIB < asked <= 16 * MIB + 16 * MIB
    assert asked % (4 * MIB) == 0
    start, end = window.read(16 * MIB, MIB)
    assert start == end == asked  # the reader asks for nothing twice


def test_for_who_reads_little_or_no_more_nothing_takes_the_place_of_what_arrives() -> None:
    window = Window(Readahead())
    window.read(0, 4096)
    start, end = window.arrived()
    assert start == end
    for number in range(1, 64):
        window.read(number * MIB, MIB)
    window.rest()
    start, end = window.arrived()
    assert start == end


def test_what_was_refused_is_asked_for_by_the_next_read() -> None:
    window = Window(Readahead(max_size=8 * MIB, fetch_size=4 * MIB))
    for number in range(16):
        window.read(number * MIB, MIB)
    asked, refused = window.arrived()
    assert asked < refused
    window.refused(asked)
    assert window.read(16 * MIB, MIB)[0] == asked
    assert window.ahead >= 17 * MIB + 8 * MIB


def test_a_reader_is_known_by_coming_to_where_it_was_heard_of_or_has_been_read_ahead_for() -> None:
    window = Window(Readahead(max_size=MIB, initial_size=128 * KIB))
    assert window.comes_to(0)
    window.read(0, 64 * KIB)
    assert [window.comes_to(KIB * at) for at in (0, 63, 64, 192, 193)] == [False, False, True, True, False]
    window.advance(128 * KIB)
    assert [window.comes_to(KIB * at) for at in (127, 128, 384, 385)] == [False, True, True, False]
    window.read(MIB, 4096)  # a jump
    assert [window.comes_to(MIB + at) for at in (0, 4095, 4096, 4097)] == [False, False, True, False]
