"""Options as people write them: ``--cache cachefiles:dir=/x,verify=always,max_bytes=20G``."""

import re

from fscache_cachefiles.backing import Verify
from fscache_cachefiles.space import check_percent
from fscache_core.errors import CallerError

_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def verify(value: str) -> Verify:
    try:
        return Verify(value)
    except ValueError:
        known = ", ".join(choice.value for choice in Verify)
        raise CallerError(f"cachefiles: verify={value!r} is none of {known}") from None


def percentages(**values: int | str) -> dict[str, int]:
    """Six integers, each with or without a per cent sign, in the order the rules demand."""
    percent: dict[str, int] = {}
    for name, value in values.items():
        text = str(value).removesuffix("%")
        if not text.isascii() or not text.isdigit():
            raise CallerError(f"cachefiles: {name}={value!r} is not a percentage")
        percent[name] = int(text)
    try:
        check_percent(percent)
    except OSError as error:
        raise CallerError(f"cachefiles: {error.strerror}", errno=error.errno) from error
    return percent


def size(name: str, value: int | str | None) -> int | None:
    """A number, with a binary suffix if need be: ``500M``, ``20G``, ``1TiB``."""
    if value is None or value == "":
        return None
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise CallerError(f"cachefiles: {name}={value!r} is not a size like 500M or 20G")
    return int(match[1]) << _SHIFTS[match[2].upper()]


def switch(name: str, value: bool | str) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _SWITCHES[value.lower()]
    except KeyError:
        raise CallerError(f"cachefiles: {name}={value!r} is neither true nor false") from None
