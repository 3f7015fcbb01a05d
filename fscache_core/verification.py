"""Checking everything that a cache has stored, if its backend offers that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.errors import CacheIOError, UnsupportedError
from fscache_core.hook_call import call_unbounded
from fscache_core.hookspecs import VerifyReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from fscache_core.cache import Cache


async def verify(
    cache: Cache, *, repair: bool = False, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Check a cache, while it is used by this and by other processes.

    Args:
      repair: remove what is wrong, so that it is fetched again.
      progress: told ``(done, total)`` now and then, in a unit of the backend's.

    Raises:
      UnsupportedError: the backend offers no check.
      WorldError: the check could not be done.
      PluginError: the backend has a bug.

    Cancellation: what was repaired stays so.
    """
    backend = cache.backend
    if backend.verify_cache is None:
        raise UnsupportedError(f"cache {cache.tag}: its backend offers no check of what is stored")
    try:
        return await call_unbounded(cache, VerifyReport, backend.verify_cache, repair, progress or _nothing)
    except CacheIOError as error:
        cache.io_error(str(error))
        raise


def _nothing(done: int, total: int) -> None:
    del done, total
