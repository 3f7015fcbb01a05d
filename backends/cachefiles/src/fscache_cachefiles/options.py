"""Options as people write them: ``--cache cachefiles:dir=/x,verify=always,max_bytes=20G``."""

import enum
import os
from dataclasses import dataclass

from fscache_cachefiles.space import check_percent
from fscache_core.errors import CallerError
from fscache_core.option import read_flag, read_size, read_text


class Verify(enum.Enum):
    """When the checksum of a block is compared."""

    TOUCH = "touch"  #: the first time a process uses it, and whenever its bytes came from the disk
    ALWAYS = "always"  #: every time
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Options:
    """How a cache directory is opened."""

    dir: str  #: made if it is missing
    verify: Verify
    percent: dict[
        str, int
    ]  #: ``brun``, ``bcull``, ``bstop`` (blocks), ``frun``, ``fcull``, ``fstop`` (inodes)
    max_bytes: int | None  #: for the whole directory
    max_files: int | None
    max_open: int | None  #: descriptors that objects may hold; None: half of what the process may
    force: bool  #: also on a network filesystem, or with files of somebody else in it


def read(
    dir: str | os.PathLike[str] | None,  # the option's name, as the reference has it
    *,
    verify: str,
    percent: dict[str, int | str],
    max_bytes: int | str | None,
    max_files: int | str | None,
    max_open: int | str | None,
    force: int | str,
) -> Options:
    """Read those that say how a directory is opened; see `CachefilesBackend`.

    Raises:
      CallerError: one makes no sense.
    """
    path = os.fspath(dir) if isinstance(dir, os.PathLike) else read_text("cachefiles: dir", dir)
    if not path:
        raise CallerError("cachefiles: no directory given (dir=/path/of/the/cache)")
    return Options(
        dir=path,
        verify=_verify(verify),
        percent=_percentages(percent),
        max_bytes=_size("max_bytes", max_bytes),
        max_files=_size("max_files", max_files),
        max_open=_size("max_open", max_open),
        force=read_flag("cachefiles: force", force),
    )


def _verify(value: str) -> Verify:
    try:
        return Verify(value)
    except ValueError:
        known = ", ".join(choice.value for choice in Verify)
        raise CallerError(f"cachefiles: verify={value!r} is none of {known}") from None


def _percentages(values: dict[str, int | str]) -> dict[str, int]:
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


def _size(name: str, value: int | str | None) -> int | None:
    """As `read_size`; None if it is not given."""
    return None if value is None or value == "" else read_size(f"cachefiles: {name}", value)
