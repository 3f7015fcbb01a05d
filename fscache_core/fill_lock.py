"""The fill lock: of the processes that use one cache, which fetches a range of a file.

Only a backend whose cache several processes may use has one.  It is no promise: who cannot get it fetches all
the same, at worst a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from fscache_core.domain import log
from fscache_core.errors import FscacheError
from fscache_core.hook_call import call_backend
from fscache_core.operation import Operation, SubmitOutcome
from fscache_core.outcome import LockOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cookie import Cookie
    from fscache_core.object import CacheObject

#: How long one call of a backend's ``lock_pages`` may wait, at most: then it is time to look again.
LOCK_SECONDS = 1.0


async def lock_pages(
    cookie: Cookie, first: int, n_pages: int, look_again: Callable[[], Awaitable[int]]
) -> CacheObject | None:
    """Take the fill lock of a range across processes.

    While another process holds it, ``look_again`` is awaited each time something may have arrived, and tells
    how many pages are missing still; when it says 0 the lock is not taken.  Who holds it is waited for as
    long as pages arrive: a process that is stopped must not stop others for ever.

    Returns:
      The object whose lock was taken (give it to `unlock_pages`), or None: not offered, not needed or not
      possible.  None never means that the caller must not fetch what is missing.
    """
    seconds = cookie.domain.limits.hook_seconds
    wait_seconds = min(LOCK_SECONDS, seconds / 2)  # a hook that waits as long as it may has not hung
    give_up_at = trio.current_time() + seconds
    n_missing = n_pages
    while True:
        obj = cookie.object
        if obj is None or obj.cache.backend.lock_pages is None:
            return None
        op = Operation(obj)  # keeps the object from being dropped meanwhile
        try:
            if obj.ops.submit(op) is not SubmitOutcome.ACCEPTED or not await op.wait_active():
                return None
            if not obj.active:
                return None
            hook = obj.cache.backend.lock_pages
            outcome = await call_backend(
                obj.cache, None, LockOutcome, hook, obj, first, n_pages, wait_seconds
            )
        except FscacheError as error:
            obj.hook_failed(error)
            return None
        finally:
            op.finish()
        if outcome is LockOutcome.LOCKED:
            return obj
        n_left = await look_again()
        if not n_left:
            return None
        if n_left < n_missing:
            n_missing, give_up_at = n_left, trio.current_time() + seconds
        elif trio.current_time() >= give_up_at:
            log.warning(
                "%r (%r): pages %d+%d are locked elsewhere; fetched anyway", obj, cookie, first, n_pages
            )
            return None
        await trio.lowlevel.checkpoint()  # a hook that does not wait must not keep others from running


def unlock_pages(obj: CacheObject, first: int, n_pages: int) -> None:
    """Give back what `lock_pages` took."""
    hook = obj.cache.backend.unlock_pages
    if hook is not None and not obj.dead:
        obj.tell(hook, first, n_pages)
