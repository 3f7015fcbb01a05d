"""How long an operation goes on trying, on a clock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from netfs_s3.fault import Fault, FaultKind
from netfs_s3.retry import Deadlines, Patience

if TYPE_CHECKING:
    from trio.testing import MockClock

DEADLINES = Deadlines(deadline_seconds=60, connect_seconds=3)


async def _seconds_until_given_up(patience: Patience, kind: FaultKind) -> float:
    begun = trio.current_time()
    while True:
        try:
            await patience.wait_before_retry(Fault(kind, "again"))
        except Fault:
            return trio.current_time() - begun


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (FaultKind.BUSY, 50, 60),
        (FaultKind.LOST, 50, 60),
        (FaultKind.TIMEOUT, 50, 60),
        (FaultKind.UNREACHABLE, 1, 3),
        (FaultKind.NOT_FOUND, 0, 0),
        (FaultKind.PERMISSION, 0, 0),
        (FaultKind.CHANGED, 0, 0),
        (FaultKind.OTHER, 0, 0),
    ],
)
async def test_each_kind_of_fault_has_its_deadline(
    autojump_clock: MockClock, kind: FaultKind, least: float, most: float
) -> None:
    assert least <= await _seconds_until_given_up(Patience(DEADLINES), kind) <= most


async def test_progress_starts_the_deadline_afresh(autojump_clock: MockClock) -> None:
    patience = Patience(DEADLINES)
    await _seconds_until_given_up(patience, FaultKind.BUSY)
    patience.progress()
    assert await _seconds_until_given_up(patience, FaultKind.BUSY) > 50
