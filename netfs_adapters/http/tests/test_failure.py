"""How long a call goes on after failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from fscache_core.errors import OriginError, OriginTimeoutError, StaleError
from netfs_http.failure import Failure, patience

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_each_wait_is_about_twice_the_one_before_until_the_retries_are_used_up(
    autojump_clock: MockClock,
) -> None:
    failure = Failure(OriginError, "500", transient=True)
    with patience(5, 1.0, 1000.0) as patient:
        for longest in (2, 4, 8, 10, 10):
            before = trio.current_time()
            await patient.wait(failure)
            assert longest / 2 <= trio.current_time() - before <= longest * 1.0001
        with pytest.raises(Failure, match="500"):
            await patient.wait(failure)


async def test_the_origin_says_how_long_to_wait_and_the_deadline_how_long_at_most(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    with patience(4, 1.0, 100.0) as patient:
        await patient.wait(Failure(OriginError, "503", transient=True, retry_after_seconds=70))
        assert trio.current_time() - began == pytest.approx(70)
        with pytest.raises(Failure, match="429"):
            await patient.wait(Failure(OriginError, "429", transient=True, retry_after_seconds=70))
        assert trio.current_time() - began == pytest.approx(70)


async def test_what_will_not_pass_is_not_waited_for(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with patience(4, 1.0, 100.0) as patient:
        with pytest.raises(Failure, match="412"):
            await patient.wait(Failure(StaleError, "412"))
        assert trio.current_time() == began


async def test_progress_moves_the_deadline(autojump_clock: MockClock) -> None:
    began = trio.current_time()

    async def progress_for_45_seconds() -> None:
        with patience(4, 0.0, 10.0) as patient:
            await patient.wait(Failure(OriginError, "500", transient=True))
            for _ in range(5):
                await trio.sleep(9)
                patient.progressed()
            await trio.sleep_forever()

    with pytest.raises(Failure, match=r"nothing came for 10 s \(500\)") as caught:
        await progress_for_45_seconds()
    assert caught.value.kind is OriginTimeoutError
    assert trio.current_time() - began == pytest.approx(55)


async def test_to_wait_for_a_turn_before_each_attempt_is_no_progress(autojump_clock: MockClock) -> None:
    """An origin that breaks every connection at once is given up at the deadline."""
    began = trio.current_time()

    async def ask_again_and_again() -> None:
        with patience(10**6, 0.1, 100.0) as patient:
            while True:
                with patient.waiting():
                    await trio.sleep(1)
                await patient.wait(Failure(OriginError, "reset", transient=True))

    with pytest.raises(Failure, match="reset"):
        await ask_again_and_again()
    assert 90 < trio.current_time() - began < 150  # what was waited for a turn does not count


async def test_what_fails_thousands_of_times_is_waited_for_as_before(autojump_clock: MockClock) -> None:
    with patience(2000, 0.1, 10**9) as patient:
        for _ in range(2000):
            await patient.wait(Failure(OriginError, "500", transient=True))
