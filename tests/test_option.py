"""Options as people write them."""

from __future__ import annotations

import pytest

from fscache_core.errors import CallerError
from fscache_core.option import read_count, read_flag, read_number, read_size, read_text, read_words

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


def test_what_is_below_the_least_is_refused() -> None:
    assert read_size("x", "4K", at_least=4096) == 4096
    for read in (read_size, read_number, read_count):
        with pytest.raises(CallerError, match=r"^x='4' is not at least 5$"):
            read("x", "4", at_least=5)


@pytest.mark.parametrize(
    ("value", "number"), [(0, 0.0), (2.5, 2.5), ("2.5", 2.5), (" 1e3 ", 1000.0), (7, 7.0), ("0", 0.0)]
)
def test_a_number_is_one_or_the_text_of_one(value: object, number: float) -> None:
    assert read_number("x", value) == number


@pytest.mark.parametrize(
    "value", [True, None, "", "many", "nan", "inf", float("nan"), float("-inf"), [1], {}, 10**400]
)
def test_what_is_no_number_is_refused(value: object) -> None:
    for read in (read_number, read_count):
        with pytest.raises(CallerError, match=r"^http: retries=.* is not a number$"):
            read("http: retries", value)


def test_a_count_is_whole() -> None:
    assert [read_count("x", value) for value in (3, 3.0, "3")] == [3, 3, 3]
    assert type(read_count("x", 3.0)) is int
    with pytest.raises(CallerError, match=r"^x='2\.5' is not a whole number$"):
        read_count("x", "2.5")
    with pytest.raises(CallerError, match=r"^x=0 is not at least 1$"):
        read_count("x", 0)


@pytest.mark.parametrize(
    ("values", "flag"),
    [((True, 1, "true", "YES", "on", "1"), True), ((False, 0, "False", "no", "off", "0"), False)],
)
def test_a_flag_is_true_or_false(values: tuple[object, ...], flag: bool) -> None:
    assert [read_flag("x", value) for value in values] == [flag] * len(values)


@pytest.mark.parametrize("value", [None, "", "perhaps", 2, 0.5, []])
def test_anything_else_is_no_flag(value: object) -> None:
    with pytest.raises(CallerError, match=r"^x=.* is neither true nor false$"):
        read_flag("x", value)


def test_a_text_is_nothing_else() -> None:
    assert read_text("x", "2024") == "2024"
    assert read_text("x", None) == ""
    for value in (2024, 0, True, b"2024", ["2024"]):
        with pytest.raises(CallerError, match=r"^cachefiles: dir=.* is not a text$"):
            read_text("cachefiles: dir", value)


def test_words_come_as_a_list_or_as_one_text() -> None:
    assert read_words("x", "a, b,,c ") == read_words("x", ["a", " b", "", "c"]) == ("a", "b", "c")
    assert read_words("x", "") == read_words("x", ()) == ()
    for value in (5, None, [1], {"a": 1}):
        with pytest.raises(CallerError, match=r"^x=.* is not a list of words$"):
            read_words("x", value)  # type: ignore[arg-type]
