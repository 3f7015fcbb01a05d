"""Options of plugins as people write them.

What a program gives has a type, what comes from TOML may be anything, and a command line has texts.  Each
function reads one option, and its first argument is what that is called in the error, such as
``memory: max_bytes``.  Whatever makes no sense raises `CallerError`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from fscache_core.errors import CallerError

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIZE = re.compile(r"(\d+) ?([KMGT](?:[iI]?B)?|B)", re.ASCII)
_SHIFTS = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_FLAGS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def size_of(text: str) -> int | None:
    """The number of bytes that a text like ``500M``, ``20GB`` or ``1 TiB`` stands for, or None: always powers
    of 1024."""
    match = _SIZE.fullmatch(text)
    return None if match is None else int(match[1]) << _SHIFTS[match[2][0]]


def read_size(option: str, value: object, *, at_least: int = 0) -> int:
    """A number of bytes: ``1048576`` or what `size_of` reads, in small letters too."""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    size = int(text) if re.fullmatch(r"\d+", text, re.ASCII) else size_of(text.upper())
    if size is None:
        raise CallerError(f"{option}={value!r} is not a size like 1048576, 500M or 20GiB")
    if size < at_least:
        raise CallerError(f"{option}={value!r} is not at least {at_least}")
    return size


def read_number(option: str, value: object, *, at_least: float = 0.0) -> float:
    """A finite number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise CallerError(f"{option}={value!r} is not a number")
    if number < at_least:
        raise CallerError(f"{option}={value!r} is not at least {at_least:g}")
    return number


def read_count(option: str, value: object, *, at_least: int = 1) -> int:
    """A whole number."""
    number = read_number(option, value, at_least=at_least)
    if not number.is_integer():
        raise CallerError(f"{option}={value!r} is not a whole number")
    return int(number)


def read_flag(option: str, value: object) -> bool:
    """``true`` or ``false``; also yes and no, on and off, 1 and 0."""
    flag = _FLAGS.get(str(value).lower())
    if flag is None:
        raise CallerError(f"{option}={value!r} is neither true nor false")
    return flag


def read_text(option: str, value: object) -> str:
    """A text, empty for None.  What looks like a number on a command line is one, and is no text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CallerError(f"{option}={value!r} is not a text")
    return value


def read_words(option: str, value: str | Iterable[str]) -> tuple[str, ...]:
    """A list of texts, or one text with commas."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list | tuple | set | frozenset) or not all(isinstance(w, str) for w in words):
        raise CallerError(f"{option}={value!r} is not a list of words")
    return tuple(word.strip() for word in words if word.strip())
