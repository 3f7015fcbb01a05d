"""What all cookies, objects and operations of one `FsCache` share."""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from fscache_core.errors import CallerError
from fscache_core.fetch_buffers import FetchBuffers
from fscache_core.fetch_memory import FetchMemory
from fscache_core.stats import Histogram, Stats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cache import Cache, CacheTag
    from fscache_core.cookie import Cookie

log = logging.getLogger("fscache")


def _most_warm_inodes() -> int:
    """Few enough that what they hold open is a small share of the descriptors this process may have."""
    try:
        import resource
    except ImportError:  # Windows
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 256 if soft == resource.RLIM_INFINITY else min(256, soft // 16)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the run time; every one can be changed, none is needed for correctness.

    Raises:
      CallerError: a value makes no sense.
    """

    object_max_active: int = max(4, os.cpu_count() or 1)  #: objects being worked on (section 7.6)
    operation_max_active: int = max(2, (os.cpu_count() or 1) // 2)  #: operations in tasks (7.6)
    store_size: int = 64 << 20  #: bytes waiting to be stored, all cookies together
    fetch_size: int = 256 << 20  #: bytes being fetched, or fetched and kept in memory, all files together
    #: Files kept ready that nobody has open; 0 for none.
    warm_inodes: int = field(default_factory=_most_warm_inodes)
    hook_seconds: float = 60.0  #: after this a hook of a backend counts as hung
    drop_seconds: float = 10.0  #: the same for hooks that are shielded from cancellation
    statistics_seconds: float = 30.0  #: how often counts go to a cache that keeps them
    debug: int = 0  #: 1 function entry, 2 function exit, 4 internal

    def __post_init__(self) -> None:
        for name in ("object_max_active", "operation_max_active", "store_size", "fetch_size"):
            self._check_count(name, at_least=1)
        for name in ("warm_inodes", "debug"):
            self._check_count(name, at_least=0)
        for name in ("hook_seconds", "drop_seconds", "statistics_seconds"):
            seconds: object = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
                raise CallerError(f"Limits: {name}={seconds!r} is not a number above 0")

    def _check_count(self, name: str, *, at_least: int) -> None:
        count: object = getattr(self, name)
        if isinstance(count, bool) or not isinstance(count, int) or count < at_least:
            raise CallerError(f"Limits: {name}={count!r} is not a whole number of at least {at_least}")


class Domain:
    """The state below one `FsCache`: its tasks, counters, caches and cookies.

    Everything here belongs to the trio thread.  Tasks are started with `spawn`: each runs shielded
    from the cancellation of whoever opened the `FsCache`, because objects must be dropped in order; they
    end when the caches are withdrawn.
    """

    def __init__(self, nursery: trio.Nursery, limits: Limits) -> None:
        self.limits = limits
        self.stats = Stats()
        self.histogram = Histogram()
        self.kept: dict[str, int] = {}  # counts that were brought to a cache that keeps them
        self.statistics_to: Cache | None = None  # the one that keeps them
        self.nursery = nursery
        self.stopped = False  # every task is to end on the spot
        self._scopes: set[trio.CancelScope] = set()  # of the tasks that run
        self.token = trio.lowlevel.current_trio_token()
        self.object_pool = trio.CapacityLimiter(limits.object_max_active)
        self.operation_pool = trio.CapacityLimiter(limits.operation_max_active)
        self.object_ids = itertools.count(1)
        self.operation_ids = itertools.count(1)
        self.caches: list[Cache] = []  # most recently added first, as in the reference
        self.tags: dict[str, CacheTag] = {}
        self.cookies: OrderedDict[int, Cookie] = OrderedDict()  # every cookie not yet relinquished, by id()
        self.stores_size = 0  # bytes in all cookies' pending stores
        self.stores_changed = trio.lowlevel.ParkingLot()
        self.n_volumes = 0
        self.fetch_memory = FetchMemory(limits.fetch_size)
        self.fetch_buffers = FetchBuffers()

    def spawn(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        self.nursery.start_soon(self._shielded, function, name=name)

    def stop(self) -> None:
        """Cancel every task, for a close that failed: nobody is left to end them in order."""
        self.stopped = True
        for scope in list(self._scopes):
            scope.cancel()

    async def _shielded(self, function: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope(shield=not self.stopped) as scope:
            self._scopes.add(scope)
            try:
                await function()
            finally:
                self._scopes.discard(scope)

    def bug(self, where: str, error: Exception) -> None:
        """Report what core itself did wrong and got over: critical in the log, and tests fail for it."""
        log.critical("bug in fscache, %s: %s: %s", where, type(error).__name__, error, exc_info=error)

    @property
    def has_caches(self) -> bool:
        return bool(self.caches)

    @property
    def congested(self) -> bool:
        """Whether objects wait for a place to run (section 7.6)."""
        return self.object_pool.statistics().tasks_waiting > 0
