"""Admission: how much of the filesystem under the cache may be used.

Six percentages give six absolute limits, computed once when the cache is bound.  Below *cull*
somebody should start culling; below *stop* nothing more is stored; above *run* culling ends.
Between *cull* and *run* the culling flag keeps its value.

Source: the on-disk format, section 6.
"""

import errno
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from fscache_core.errors import NoSpaceError
from fscache_core.folio import PAGE_SIZE

#: The reference's percentages (of all blocks, of all inodes).
DEFAULT_PERCENT: Mapping[str, int] = MappingProxyType(
    {"brun": 7, "bcull": 5, "bstop": 1, "frun": 7, "fcull": 5, "fstop": 1}
)


class Statvfs(Protocol):
    """The part of `os.statvfs_result` that is used."""

    @property
    def f_frsize(self) -> int: ...
    @property
    def f_blocks(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...
    @property
    def f_files(self) -> int: ...
    @property
    def f_ffree(self) -> int: ...


class SpaceGuard:
    """Decides, call by call, whether there is room.  There is no latched "stopped" state.

    Args:
      statvfs: asks the filesystem; called once here and once per `has_space`.
      percent: ``brun bcull bstop frun fcull fstop``, integers with 0 <= stop < cull < run < 100.

    Raises:
      OSError: EINVAL (percentages), ERANGE (no block size), EOPNOTSUPP (blocks larger than a
        page), or whatever ``statvfs`` raises.
    """

    def __init__(self, statvfs: Callable[[], Statvfs], percent: Mapping[str, int]) -> None:
        check_percent(percent)
        self._statvfs = statvfs
        now = statvfs()
        if now.f_frsize <= 0:
            raise OSError(errno.ERANGE, "the filesystem reports no block size")
        if now.f_frsize > PAGE_SIZE:
            raise OSError(
                errno.EOPNOTSUPP,
                f"the filesystem's blocks of {now.f_frsize} bytes are larger than a page of {PAGE_SIZE}",
            )
        self._bshift = PAGE_SIZE.bit_length() - now.f_frsize.bit_length()
        # Division comes before multiplication, as in the reference; the rounding is part of the format.
        one_percent = {"b": (now.f_blocks >> self._bshift) // 100, "f": now.f_files // 100}
        #: Absolute limits: ``f*`` in files, ``b*`` in pages.
        self.limits: Mapping[str, int] = MappingProxyType(
            {name: one_percent[name[0]] * percent[name] for name in DEFAULT_PERCENT}
        )
        self.culling = False  #: somebody should be culling
        self._state_changed = False

    def has_space(self, n_files: int, n_pages: int) -> None:
        """Return if ``n_files`` new files and ``n_pages`` new pages may be stored.

        Raises:
          NoSpaceError: below ``fstop`` or ``bstop`` (ENOBUFS).
          OSError: the filesystem could not be asked; the flags are untouched.
        """
        now = self._statvfs()
        limits = self.limits
        files = max(0, now.f_ffree - n_files)
        pages = max(0, (now.f_bavail >> self._bshift) - n_pages)
        if files < limits["fstop"] or pages < limits["bstop"]:
            self._set_culling(True)
            raise NoSpaceError(
                f"no space for {n_files} files and {n_pages} pages: {files} files and {pages} pages"
                f" would be left, and {limits['fstop']} and {limits['bstop']} must be"
            )
        if files < limits["fcull"] or pages < limits["bcull"]:
            self._set_culling(True)
        elif self.culling and files >= limits["frun"] and pages >= limits["brun"]:
            self._set_culling(False)

    def take_state_changed(self) -> bool:
        """Whether `culling` changed since the last call."""
        changed, self._state_changed = self._state_changed, False
        return changed

    def _set_culling(self, culling: bool) -> None:
        if self.culling is not culling:
            self.culling = culling
            self._state_changed = True


def check_percent(percent: Mapping[str, int]) -> None:
    """Raise `OSError` (EINVAL) unless all six are there and 0 <= stop < cull < run < 100."""
    if percent.keys() != DEFAULT_PERCENT.keys():
        raise OSError(errno.EINVAL, f"percentages must be {', '.join(DEFAULT_PERCENT)}")
    for of in "bf":
        stop, cull, run = (percent[of + name] for name in ("stop", "cull", "run"))
        if not 0 <= stop < cull < run < 100:
            raise OSError(
                errno.EINVAL,
                f"limits must satisfy 0% <= {of}stop < {of}cull < {of}run < 100%,"
                f" not {stop}%, {cull}%, {run}%",
            )


def statvfs_of(descriptor: int) -> Callable[[], os.statvfs_result]:
    """The question a `SpaceGuard` asks, for the filesystem of an open descriptor."""
    return lambda: os.fstatvfs(descriptor)
