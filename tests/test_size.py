"""Sizes as people write them."""

from __future__ import annotations

import pytest

from fscache_core.errors import CallerError
from fscache_core.size import read_size

MIB = 1 << 20


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (MIB, MIB),
        ("1048576", MIB),
        (" 12 ", 12),
        ("12B", 12),
        ("1K", 1024),
        ("20MiB", 20 * MIB),
        ("20 MB", 20 * MIB),
        ("20m", 20 * MIB),
        ("3G", 3 << 30),
        ("1TiB", 1 << 40),
    ],
)
def test_a_size_is_a_number_or_one_with_a_unit(value: object, size: int) -> None:
    assert read_size("memory: max_bytes", value) == size


@pytest.mark.parametrize(
    "value", [True, False, None, 1.5, -1, "", "lots", "-5", "1.5G", "10iB", "1P", "M", "٣", [1], "1\n1"]
)
def test_anything_else_is_refused_by_name(value: object) -> None:
    with pytest.raises(CallerError, match=r"^memory: max_bytes=.* is not a size like") as caught:
        read_size("memory: max_bytes", value)
    assert "\n" not in str(caught.value)
