"""What core has a backend change of one object: its data, its size, its label.

Hooks that change what an object refers to (these, and the state machine's ``lookup_object`` and
``drop_object``) run one at a time, under its ``lock``.  Data, size or label that could not be changed are not
to be believed: the object ends, and what is stored goes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from fscache_core.errors import CacheIOError, FscacheError, NoMemoryError
from fscache_core.hook_call import call_backend
from fscache_core.hot_path import open_hot_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.object import CacheObject
    from fscache_core.operation import Operation

P = ParamSpec("P")
T = TypeVar("T")


async def change(
    obj: CacheObject,
    gauge: str,
    expected: type[T],
    hook: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call a hook that changes what an object refers to, behind those called before."""
    backend = obj.cache.backend
    if obj.lock.locked():
        await obj.lock.acquire()
    else:
        obj.lock.acquire_nowait()
    try:
        if backend.lock_object is not None:
            await call_backend(obj.cache, None, type(None), backend.lock_object, obj)
        try:
            return await call_backend(obj.cache, gauge, expected, hook, *args, **kwargs)
        finally:
            if backend.unlock_object is not None:
                obj.tell(backend.unlock_object)
    finally:
        obj.lock.release()


async def invalidate_object(op: Operation) -> None:
    """The exclusive operation of an invalidation: discard all data."""
    obj = op.object
    obj.domain.stats.invals_run += 1
    if obj.invalidation is op:
        obj.invalidation = None
    cookie = obj.cookie
    obj.set_store_limit(cookie.object_size)
    cookie.aux_updated = False  # the hook labels what it makes
    try:
        if obj.cache.broken:
            raise CacheIOError(f"cache {obj.cache.tag} was stopped")
        await change(obj, "inv", type(None), obj.cache.backend.invalidate_object, op)
    except FscacheError as error:
        obj.hook_failed(error)
        obj.distrust()
        obj.abort()
    else:
        cookie.no_data_yet = False
        open_hot_path(obj)
    finally:
        if not op.ended:  # the backend may have completed it
            op.complete()


async def attr_changed(op: Operation) -> None:
    """The exclusive operation of a change of size."""
    obj = op.object
    stats = obj.domain.stats
    stats.attrchg_run += 1
    try:
        if obj.active:
            await change(obj, "atc", type(None), obj.cache.backend.attr_changed, obj)
            obj.set_store_limit(obj.cookie.object_size)
    except FscacheError as error:
        if isinstance(error, NoMemoryError):
            stats.attrchg_oom += 1
        obj.hook_failed(error)
        obj.retired = True
        obj.abort()
    else:
        open_hot_path(obj)
    finally:
        if not op.ended:
            op.complete()


async def update_object(obj: CacheObject) -> None:
    """Write the present version evidence to the label, if that is the evidence of what is stored."""
    cookie = obj.cookie
    if cookie.aux is None or obj.invalidation is not None:
        # In the second case the data is still the old, and must not get the new label, not even for a
        # moment: other processes would believe it.
        return
    obj.domain.stats.updates_run += 1
    cookie.aux_updated = False
    try:
        await change(obj, "upo", type(None), obj.cache.backend.update_object, obj)
    except FscacheError as error:
        # A label that could not be written must not be believed later.
        obj.hook_failed(error)
        obj.retired = True
        obj.abort()
