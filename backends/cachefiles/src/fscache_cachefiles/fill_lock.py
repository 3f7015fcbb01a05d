"""Fill locks: byte-range locks between processes on the pages that one of them fetches.

Large objects are locked page by page on their map, small ones as a whole on the ledger.
"""

import logging

import trio

from fscache_cachefiles.backing import Backing
from fscache_cachefiles.fault import translated
from fscache_cachefiles.ledger import fill_lock_start
from fscache_cachefiles.lock import try_lock_range, unlock_range
from fscache_cachefiles.object import CachefilesObject

log = logging.getLogger(__name__)

_SMALL_LOCK_SIZE = 16  # one byte per page of a small object
_FIRST_PAUSE_SECONDS = 0.001
_LAST_PAUSE_SECONDS = 0.02


class FillLocks:
    """Those that the objects of one bound cache hold.  Never blocks.

    Args:
      ledger: descriptor of the ledger; the root closes it.
    """

    def __init__(self, ledger: int) -> None:
        self._ledger = ledger

    async def take(
        self, obj: CachefilesObject, backing: Backing | None, first: int, n_pages: int, seconds: float
    ) -> bool:
        """Take the lock of a run, waiting as long as another process holds some of it.

        Returns:
          False if pages of the run have arrived meanwhile, or ``seconds`` are over.

        Raises:
          FscacheError: the filesystem has no locks to give.

        Cancellation: all-or-nothing.
        """
        if not self._try_lock(obj, backing, first, n_pages):
            # Counted only now: almost always the lock is to be had.
            present = 0 if backing is None else backing.count_present(first, n_pages)
            deadline = trio.current_time() + seconds
            pause = _FIRST_PAUSE_SECONDS
            while not self._try_lock(obj, backing, first, n_pages):
                if trio.current_time() >= deadline:
                    return False
                await trio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE_SECONDS)
                if backing is not None and backing.count_present(first, n_pages) != present:
                    return False
        obj.held.add(first, n_pages)
        return True

    def _try_lock(self, obj: CachefilesObject, backing: Backing | None, first: int, n_pages: int) -> bool:
        try:
            if obj.is_small:
                if obj.held:
                    return True
                return try_lock_range(self._ledger, _small_lock_start(obj), _SMALL_LOCK_SIZE)
            if backing is None or not backing.writable:
                return True
            return try_lock_range(backing.map, first, n_pages)
        except OSError as error:
            raise translated(error, "locking") from error

    def give_back(self, obj: CachefilesObject, first: int, n_pages: int) -> None:
        """Give back a run or what is held of it."""
        if not obj.held.overlaps(first, n_pages):
            return
        obj.held.remove(first, n_pages)
        try:
            if not obj.is_small:
                if obj.backing is not None:
                    unlock_range(obj.backing.map, first, n_pages)
            elif not obj.held and obj.place is not None:
                unlock_range(self._ledger, _small_lock_start(obj), _SMALL_LOCK_SIZE)
        except OSError as error:  # ENOLCK when a range is split: it ends with the descriptor then
            log.warning("%r: unlocking: %s", obj, error)

    def give_back_all(self, obj: CachefilesObject) -> None:
        for first, n_pages in list(obj.held):
            self.give_back(obj, first, n_pages)


def _small_lock_start(obj: CachefilesObject) -> int:
    assert obj.place is not None
    return fill_lock_start(obj.place.path)
