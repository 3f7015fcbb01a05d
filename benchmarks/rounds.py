"""Rounds: the sides of a row in turn, A B A B ..., so that whatever else the machine does hits all of them.

A machine that is shared takes the processor away for milliseconds.  So what is quick is measured in many
rounds that are shorter than that: most of them are undisturbed, and the median is of those.

::

    for _ in rounds:
        with rounds.timed("raw"):
            ...
        with rounds.timed("fscache"):
            ...
    rounds.ratio("fscache", "raw", at_most=1.7)
"""

from __future__ import annotations

import gc
import statistics
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.row import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator


class Rounds:
    """Samples of every side, one per round and side, in seconds (or bytes) per operation."""

    def __init__(self, n_rounds: int) -> None:
        self._n_rounds = n_rounds
        self.samples: dict[str, list[float]] = {}

    def __iter__(self) -> Iterator[int]:
        gc.collect()  # what went before is not ours
        yield from range(self._n_rounds)

    @contextmanager
    def timed(self, side: str, n_operations: int = 1) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.note(side, (time.perf_counter() - start) / n_operations)

    def note(self, side: str, sample: float) -> None:
        self.samples.setdefault(side, []).append(sample)

    def median(self, side: str) -> float:
        return statistics.median(self.samples[side])

    def ratio(
        self,
        side: str,
        to: str,
        *,
        name: str = "",
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Figure:
        """The median of the ratios within each round; with ``at_least``, of speeds instead of times."""
        ours, theirs = self.samples[side], self.samples[to]
        ratios = [a / b if at_least is None else b / a for a, b in zip(ours, theirs, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Figure(name, middle, at_most, at_least, quartiles=(low, high))

    def times(self) -> dict[str, str]:
        return {side: seconds_text(self.median(side)) for side in self.samples}

    def speeds(self, n_bytes: int) -> dict[str, str]:
        return {side: f"{n_bytes / self.median(side) / 1e6:.0f} MB/s" for side in self.samples}


def seconds_text(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError
