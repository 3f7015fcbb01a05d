"""Coherency, as text and as a value."""

from __future__ import annotations

import pytest

from fscache_core import CallerError, Coherency
from fscache_core.coherency import CoherencyMode


def test_the_three_modes_are_read_from_text() -> None:
    assert Coherency.parse("always") == Coherency()
    assert Coherency.parse("ttl=2.5") == Coherency(CoherencyMode.TTL, 2.5)
    assert Coherency.parse("immutable", offline=True) == Coherency(CoherencyMode.IMMUTABLE, offline=True)


@pytest.mark.parametrize(
    "text", ["", "sometimes", "ttl", "ttl=", "ttl=soon", "ttl=0", "ttl=-1", "ttl=nan", "always=1", "Always"]
)
def test_nonsense_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(CallerError):
        Coherency.parse(text)


def test_a_negative_ttl_below_zero_is_the_callers_mistake() -> None:
    with pytest.raises(CallerError, match="negative_ttl: -1 seconds make no sense"):
        Coherency(negative_ttl_seconds=-1)


def test_what_adopts_is_what_never_asks_about_a_cached_file() -> None:
    assert Coherency.parse("immutable").adopts
    assert Coherency.parse("always", offline=True).adopts
    assert not Coherency.parse("always").adopts
    assert not Coherency.parse("ttl=9").adopts
