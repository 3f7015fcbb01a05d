"""Promises: objects that are not culled, and space that is kept for them.

What was promised is on disk, with the entry of the object, for every process to see.  So an object needs a
backing that is published; `Work` gets it one.  Promises are read and written under the ledger's own lock for
them: who counts what is stored counts what is reserved, too.
"""

import errno
import logging
import os

from fscache_cachefiles import xattr
from fscache_cachefiles.admission import Admission
from fscache_cachefiles.backing import Backing
from fscache_cachefiles.ledger import weigh_pages
from fscache_cachefiles.object import CachefilesObject
from fscache_cachefiles.scan import count_pages
from fscache_cachefiles.xattr import Pin
from fscache_core.errors import NoSpaceError
from fscache_core.folio import page_count

log = logging.getLogger(__name__)


class Promises:
    """What the objects of one bound cache are promised.  Usable from any thread; blocks."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def promise_of(self, obj: CachefilesObject) -> Pin:
        """What the object was promised, by whatever process."""
        backing = obj.backing
        if backing is None or not backing.published:
            return Pin(obj.pinned, obj.reserved_size)
        try:
            return xattr.read_pin(backing.descriptor) or xattr.NO_PIN
        except xattr.BadAttributeError:
            return xattr.NO_PIN  # a damaged one promises nothing

    def pin(self, obj: CachefilesObject, backing: Backing) -> None:
        """Promise that the object is not culled.  ``backing`` is its own, and published."""
        with self._admission.ledger.promising():
            self._see(obj, backing)
            xattr.write_pin(backing.descriptor, Pin(True, obj.reserved_size))
            obj.pinned = True

    def unpin(self, obj: CachefilesObject) -> None:
        with self._admission.ledger.promising():
            if obj.backing is not None and obj.backing.published:
                self._see(obj, obj.backing)
                xattr.write_pin(obj.backing.descriptor, Pin(False, obj.reserved_size))
            obj.pinned = False

    def reserve(self, obj: CachefilesObject, backing: Backing, reserved_size: int) -> bool:
        """Have the first ``reserved_size`` bytes paid for.  False if there is no room.

        Args:
          backing: the object's own, and published.
        """
        try:
            with self._admission.ledger.promising():
                self._see(obj, backing)
                self._pay(backing, reserved_size, pinned=obj.pinned)
                obj.reserved_size = backing.reserved_size = reserved_size
        except OSError as error:
            if not lacks_room(error):
                raise
            return False
        return True

    def carry_over(self, obj: CachefilesObject, backing: Backing) -> None:
        """Put on disk what an object was promised before it got this backing, as far as there is room."""
        reserved_size, obj.reserved_size = obj.reserved_size, 0
        if obj.pinned:
            xattr.write_pin(backing.descriptor, Pin(True, 0))
        if reserved_size and not self.reserve(obj, backing, min(reserved_size, obj.size)):
            warn_of_lost_room(obj)

    def _see(self, obj: CachefilesObject, backing: Backing) -> None:
        """Learn what other processes have been promised of the object since we looked."""
        pin = self.promise_of(obj)
        obj.pinned = pin.pinned
        obj.reserved_size = backing.reserved_size = min(pin.reserved_size, obj.size)

    def _pay(self, backing: Backing, reserved_size: int, *, pinned: bool) -> None:
        """Charge or take off the difference, and put on disk what is reserved from now on."""
        ledger = self._admission.ledger
        old, new = 0, 0  # a small object is paid for as a whole
        if not backing.is_small:
            old = count_pages(backing.map, page_count(backing.reserved_size))
            new = count_pages(backing.map, page_count(reserved_size))
        more = weigh_pages(max(new - old, 0))
        if new > old:
            self._admission.admit(0, new - old, more)
        try:
            if reserved_size and not backing.is_small:
                os.posix_fallocate(backing.data, 0, reserved_size)
        except BaseException:
            ledger.give_back(more)
            raise
        try:
            with ledger.removal(weigh_pages(max(old - new, 0))):
                xattr.write_pin(backing.descriptor, Pin(pinned, reserved_size))
        finally:
            ledger.settle(more)


def lacks_room(error: OSError) -> bool:
    """Whether an error only says that there is no room to reserve."""
    return isinstance(error, NoSpaceError) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def warn_of_lost_room(obj: CachefilesObject) -> None:
    log.warning("%r (%r): no room any more for what was reserved for it", obj, obj.cookie)
