"""May this be stored?  The filesystem's limits and the cache's own ceilings, asked together."""

import logging
import threading
import time

from fscache_cachefiles.ledger import Ledger, Weight
from fscache_cachefiles.space import SpaceGuard
from fscache_core.errors import NoSpaceError

log = logging.getLogger(__name__)

_RECOUNT_PAUSE_SECONDS = 60.0


class Admission:
    """Usable from any thread; blocks."""

    def __init__(self, guard: SpaceGuard, ledger: Ledger) -> None:
        self.guard = guard
        self.ledger = ledger
        self._mutex = threading.Lock()
        self._recounted_at = -_RECOUNT_PAUSE_SECONDS

    def admit(self, n_files: int, n_pages: int, weight: Weight) -> None:
        """Return with ``weight`` charged, or refuse.

        Args:
          n_files, n_pages: what the filesystem will have to provide.
          weight: what it adds to the cache.

        Raises:
          NoSpaceError: nothing was charged.
          OSError: the filesystem could not be asked.
        """
        with self._mutex:
            self.guard.has_space(n_files, n_pages)
        try:
            self.ledger.charge(weight)
        except NoSpaceError:
            if not self._recount():
                raise
            self.ledger.charge(weight)

    def has_room(self, n_pages: int) -> bool:
        """Whether ``n_pages`` pages would be admitted now.  Charges nothing and does not wait."""
        try:
            with self._mutex:
                self.guard.has_space(0, n_pages)
        except NoSpaceError:
            return False
        return self.ledger.has_room(n_pages)

    def _recount(self) -> bool:
        """Full, perhaps only with what crashes left over in the account.  True if that changed."""
        with self._mutex:
            now = time.monotonic()
            if now - self._recounted_at < _RECOUNT_PAUSE_SECONDS:
                return False
            self._recounted_at = now
        drift = self.ledger.recount()
        if drift.n_files <= 0 and drift.n_bytes <= 0:
            return False
        log.info("the account of the cache was %d files and %d bytes too high", drift.n_files, drift.n_bytes)
        return True
