"""Options as people write them: ``--cache cachefiles:dir=/x,verify=always,max_bytes=20G``."""

import enum

from fscache_cachefiles.space import check_percent
from fscache_core.errors import CallerError
from fscache_core.option import read_size


class Verify(enum.Enum):
    """When the checksum of a block is compared."""

    TOUCH = "touch"  #: the first time a process uses it, and whenever its bytes came from the disk
    ALWAYS = "always"  #: every time
    NEVER = "never"


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
    """As `read_size`; None if it is not given."""
    return None if value is None or value == "" else read_size(f"cachefiles: {name}", value)
