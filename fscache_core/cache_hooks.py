# The methods of a spec are only their signatures and docstrings.
# mypy: disable-error-code="empty-body"
"""Hooks of a backend for the cache as a whole: a part of the contract, `fscache_core.hookspecs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fscache_core.cache import Cache

_spec = pluggy.HookspecMarker("fscache.backend")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with what a cache has stored."""

    place: str  #: where, as a person can find it: a path below the cache directory, ...
    fault: str
    repaired: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify_cache`` looked at, and what was wrong with it."""

    n_objects: int
    read_size: int  #: bytes that were read and compared with what they should be
    problems: Sequence[Problem] = ()


class CacheHooks:
    """Binding, withdrawal, statistics, verification."""

    @_spec
    async def bind_cache(self, cache: Cache) -> None:
        """Make the backing store ready for use.

        Optional.  Kernel: ``cachefiles_daemon_bind`` (before ``fscache_add_cache``).

        Called: once, before every other hook; again only after `unbind_cache`.

        Args:
          cache: the cache as core knows it; ``cache.tag`` is its name.  Keep it for
            ``cache.io_error()`` and ``cache.stats``.

        Raises:
          CacheUnusableError: the store cannot be used.  The cache is not added.
          CallerError: an option makes no sense.  The cache is not added.

        Cancellation: all-or-nothing.
        """

    @_spec
    async def unbind_cache(self) -> None:
        """Let go of the backing store: close what `bind_cache` opened.

        Optional.  Kernel: ``cachefiles_daemon_unbind``.

        Called: once, last; no object exists any more.  What is cached stays.

        Cancellation: shielded (core allows 10 seconds).
        """

    @_spec
    async def sync_cache(self) -> None:
        """Bring what was stored to stable storage, or do nothing if a crash costs only cached data.

        Mandatory.  Kernel: ``fscache_cache_ops.sync_cache``.

        Called: on withdrawal, before objects are killed.

        Raises:
          CacheIOError: the backing store failed.  Core notes it; the withdrawal goes on.

        Cancellation: may-be-partial.
        """

    @_spec
    async def dissociate_pages(self) -> None:
        """Forget any tie between netfs pages and this cache.

        Optional.  Kernel: ``fscache_cache_ops.dissociate_pages``.

        Called: on withdrawal, after `sync_cache`.

        Cancellation: may-be-partial.
        """

    @_spec
    async def add_statistics(self, counts: Mapping[str, int]) -> None:
        """Add counts to those kept in the backing store, for all who use it and over restarts.

        Optional.  Kernel: none (its counters end with the machine).  Without it counts end with the process.

        Called: every few seconds while something is counted, and on withdrawal before `unbind_cache`; never
            twice at once.

        Args:
          counts: what came to be since the last call, by counter (fields of ``fscache_core.stats.Stats``);
            positive.  Counters that the backing store does not know yet begin at 0.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache; these counts are lost.

        Cancellation: all-or-nothing.
        """

    @_spec(firstresult=True)
    async def statistics(self) -> Mapping[str, int]:
        """Give the counts kept in the backing store: those of every process that used it.

        Optional, with `add_statistics`.  Kernel: none.

        Called: by ``fscache stats``, at any time.

        Returns:
          The sums; empty if nothing can be read.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: no-effect.
        """

    @_spec(firstresult=True)
    async def verify_cache(self, repair: bool, progress: Callable[[int, int], None]) -> VerifyReport:
        """Check everything that is stored, while others use it.

        Optional.  Kernel: none.  Default: ``UnsupportedError``.

        Called: by ``fscache verify``, at any time; may take as long as it needs.

        Args:
          repair: remove what is wrong, so that it is fetched again; else change nothing.
          progress: call ``progress(done, total)`` now and then, from the trio thread only; the unit is the
            backend's.

        Returns:
          What was found.  What others remove or store meanwhile is not wrong.

        Raises:
          CacheIOError: the backing store failed.  Core stops this cache.

        Cancellation: may-be-partial.  What was repaired stays so.
        """
