"""The check time: when the origin last confirmed the version that is stored, kept with it.

It has a check value of its own, which binds it to the label and to the inode.
"""

import errno

from fscache_cachefiles import xattr
from fscache_cachefiles.backing import Backing
from fscache_cachefiles.blockmap import time_check
from fscache_cachefiles.xattr import BadAttributeError, Checked, Label


def read_check_time(backing: Backing, label: Label) -> float:
    """When the origin last confirmed this version; 0.0 if that is not known."""
    try:
        checked = xattr.read_checked(backing.descriptor)
    except (BadAttributeError, OSError):
        return 0.0
    if checked is None or checked.check != time_check(backing.seed, label.pack(), checked.time):
        return 0.0
    return checked.time


def write_check_time(backing: Backing, label: Label, check_time: float) -> None:
    """Note it if that can be done: without it the origin is asked once more."""
    checked = Checked(check_time, time_check(backing.seed, label.pack(), check_time))
    try:
        xattr.write_checked(backing.descriptor, checked)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
