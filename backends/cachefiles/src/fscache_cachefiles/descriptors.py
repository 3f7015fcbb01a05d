"""How many descriptors the objects of a cache hold, and how many they may.

The rest belongs to the program and to the connections to origins: a cache that took the last descriptor
would fail its user.  What would be too many is not opened, so that file is read from the origin.
"""

import resource
import threading

from fscache_core.errors import NoSpaceError


def default_max_open() -> int:
    """Half of what the process may have open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft // 2


class Descriptors:
    """The account of one bound cache.  Usable from any thread."""

    def __init__(self, max_open: int) -> None:
        self.max_open = max_open
        self.n_open = 0  #: held now
        self._lock = threading.RLock()  # the garbage collector may give back while we count

    def check(self, n_descriptors: int) -> None:
        """See whether there is room for so many more.

        Raises:
          NoSpaceError: there is not.
        """
        if self.n_open + n_descriptors > self.max_open:
            raise NoSpaceError(f"cachefiles: {self.n_open} of {self.max_open} descriptors are in use")

    def hold(self, n_descriptors: int) -> None:
        with self._lock:
            self.n_open += n_descriptors

    def give(self, n_descriptors: int) -> None:
        with self._lock:
            self.n_open -= n_descriptors

    @property
    def is_over(self) -> bool:
        """Whether more are held than may be."""
        return self.n_open > self.max_open
