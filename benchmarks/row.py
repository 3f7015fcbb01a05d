"""A row of the table: what is compared, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.stage import Stage


class DifferentBytesError(Exception):
    """The sides of a row did not return the same bytes, so their times say nothing."""


class SkippedError(Exception):
    """A row cannot run here; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a row is judged by."""

    name: str  #: which of the row's figures; empty if there is only one
    value: float
    at_most: float | None = None  #: what to reach; None for a figure that is shown for orientation
    at_least: float | None = None
    unit: str = ""  #: empty for a ratio
    quartiles: tuple[float, float] | None = None  #: of the rounds

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"<= {self.at_most:g}{self.unit}"
        return "" if self.at_least is None else f">= {self.at_least:g}{self.unit}"

    @property
    def is_met(self) -> bool | None:
        """None: nothing to reach.  Compared as printed, with two decimals."""
        value = round(self.value, 2)
        if self.at_most is not None:
            return value <= self.at_most
        return None if self.at_least is None else value >= self.at_least


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a row came to."""

    figures: Sequence[Figure]
    same_bytes: str  #: how it was made sure that all sides returned the same bytes
    sides: Mapping[str, str] = field(default_factory=dict)  #: side -> its median, for orientation
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)  #: side -> per round; seconds, bytes


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    compared: str  #: in words
    run: Callable[[Stage], Outcome]


def the_same(what: str, digests: Mapping[str, str]) -> str:
    """Say that every side had the same bytes.

    Raises:
      DifferentBytesError: they had not.
    """
    if len(set(digests.values())) != 1:
        raise DifferentBytesError(", ".join(f"{side}: {digest}" for side, digest in digests.items()))
    return f"{what}: XXH3 {next(iter(digests.values()))} for {', '.join(digests)}"
