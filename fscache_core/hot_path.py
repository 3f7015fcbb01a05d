"""The hot path: how a hit reaches the backend, without a task, a queue or the event loop.

A cookie has ``read_resident`` while an object of its can answer, and readers in any thread call it.  It is
offered by what makes the object ready, and taken away before the object dies, changes or is invalidated: who
got hold of it before may still be in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fscache_core.errors import PluginError
from fscache_core.hook_call import passes_through
from fscache_core.outcome import NOT_RESIDENT, CookieType

if TYPE_CHECKING:
    from collections.abc import Callable

    from fscache_core.object import CacheObject


def open_hot_path(obj: CacheObject) -> None:
    """Let readers ask the backend, if it can answer on the spot and the object is ready for that."""
    read = obj.cache.backend.read_resident
    cookie = obj.cookie
    if read is not None and cookie.type != CookieType.INDEX and obj.active and not cookie.invalidating:
        cookie.read_resident = _bound(obj, read)


def close_hot_path(obj: CacheObject) -> None:
    """Take it away from readers.  No-op if the cookie has another object by now."""
    if obj.cookie.object is obj:
        obj.cookie.read_resident = None


def _bound(
    obj: CacheObject, read: Callable[[CacheObject, int, memoryview], int]
) -> Callable[[int, memoryview], int]:
    def read_resident(offset: int, buffer: memoryview) -> int:
        # Any thread.
        try:
            return read(obj, offset, buffer)
        except BaseException as error:
            if passes_through(error):
                raise
            _failed(obj, error)
            return NOT_RESIDENT

    return read_resident


def _failed(obj: CacheObject, error: BaseException) -> None:
    obj.cookie.read_resident = None
    failed = PluginError.raised("backend", obj.cache.backend.name, "read_resident", error)
    failed.__cause__ = error
    obj.domain.token.run_sync_soon(obj.hook_failed, failed)
