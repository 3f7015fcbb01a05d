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
        self.processor: dict[str, list[float]] = {}  #: the same in processor time of all our threads

    def __iter__(self) -> Iterator[int]:
        gc.collect()  # what went before is not ours
        yield from range(self._n_rounds)

    @contextmanager
    def timed(self, side: str, n_operations: int = 1) -> Iterator[None]:
        processor, start = time.process_time(), time.perf_counter()
        yield
        self.note(side, (time.perf_counter() - start) / n_operations)
        self.processor.setdefault(side, []).append((time.process_time() - processor) / n_operations)

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
        faster: bool = False,
    ) -> Figure:
        """The median of the ratios within each round, of times or, if ``faster``, of speeds."""
        ours, theirs = self.samples[side], self.samples[to]
        ratios = [b / a if faster else a / b for a, b in zip(ours, theirs, strict=True)]
        return _figure(name, ratios, at_most, at_least)

    def processor_ratio(self, side: str, to: str) -> Figure:
        """`ratio` of processor times, kernel included: what remains of it on a machine that is not idle."""
        ratios = [a / b for a, b in zip(self.processor[side], self.processor[to], strict=True)]
        return _figure("processor time", ratios)

    def times(self) -> dict[str, str]:
        return {side: seconds_text(self.median(side)) for side in self.samples}

    def speeds(self, n_bytes: int) -> dict[str, str]:
        return {side: f"{n_bytes / self.median(side) / 1e6:.0f} MB/s" for side in self.samples}


def _figure(
    name: str, ratios: list[float], at_most: float | None = None, at_least: float | None = None
) -> Figure:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Figure(name, middle, at_most, at_least, quartiles=(low, high))


def seconds_text(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError
