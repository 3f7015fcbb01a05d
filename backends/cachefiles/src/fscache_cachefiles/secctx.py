"""The SELinux label that new files of a cache get, where SELinux is on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = logging.getLogger(__name__)

_STATUS = Path("/sys/fs/selinux/enforce")  # there if SELinux is on, enforcing or not
_LABEL_OF_NEW_FILES = Path("/proc/thread-self/attr/fscreate")


def is_selinux_on() -> bool:
    return _STATUS.exists()


class CreationLabel:
    """Runs work in a thread so that what it creates is labelled ``secctx``."""

    def __init__(self, secctx: str | None) -> None:
        self.secctx = secctx if secctx and is_selinux_on() else None
        if secctx and not self.secctx:
            log.warning("SELinux is off: secctx=%s has no effect", secctx)

    def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call ``function``.  The setting is the thread's own, and threads are used again: it is reset.

        Raises:
          OSError: EINVAL or EACCES, the label is not one or not allowed.
        """
        if self.secctx is None:
            return function(*args)
        _LABEL_OF_NEW_FILES.write_text(self.secctx)
        try:
            return function(*args)
        finally:
            _LABEL_OF_NEW_FILES.write_text("")
