"""What core asks a backend of one object: is it consistent, pinned, which pages has it, ...

A fault ends the object and is answered by the default, so that nobody who asks has to deal with it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from fscache_core.errors import FscacheError, NoSpaceError, PluginError, UnsupportedError
from fscache_core.folio import PageRuns
from fscache_core.hook_call import call_backend, call_unbounded
from fscache_core.outcome import ConsistencyOutcome, ReserveOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.object import CacheObject
    from fscache_core.operation import Operation

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


async def check_consistency(obj: CacheObject, op: Operation) -> ConsistencyOutcome:
    hook = obj.cache.backend.check_consistency
    return await _ask(obj, ConsistencyOutcome, ConsistencyOutcome.STALE, hook, op)


async def pin(obj: CacheObject) -> ReserveOutcome:
    return await _reserve(obj, obj.cache.backend.pin_object, obj)


async def unpin(obj: CacheObject) -> None:
    await _ask(obj, type(None), None, obj.cache.backend.unpin_object, obj)


async def is_pinned(obj: CacheObject) -> bool:
    return await _ask(obj, bool, False, obj.cache.backend.is_pinned, obj)


async def reserve_space(obj: CacheObject, reserved_size: int) -> ReserveOutcome:
    return await _reserve(obj, obj.cache.backend.reserve_space, obj, reserved_size)


async def get_check_time(obj: CacheObject) -> float:
    """When the origin last confirmed what is stored; 0.0 if that is not known."""
    return await _ask(obj, float, 0.0, obj.cache.backend.get_check_time, obj)


async def set_check_time(obj: CacheObject, check_time: float) -> None:
    await _ask(obj, type(None), None, obj.cache.backend.set_check_time, obj, check_time)


async def resident_pages(obj: CacheObject) -> PageRuns | None:
    """Which pages are stored; None if the backend cannot tell."""
    hook = obj.cache.backend.resident_pages
    if hook is None:
        return None
    found = await _ask(obj, Sequence, None, hook, obj)  # type: ignore[type-abstract]
    if found is None:
        return None
    runs = PageRuns()
    try:
        for first, n_pages in found:
            runs.add(operator.index(first), operator.index(n_pages))
    except (TypeError, ValueError):
        obj.hook_failed(_misanswered(obj, "resident_pages", found, "runs of pages"))
        return None
    return runs


async def child_keys(obj: CacheObject) -> Sequence[tuple[int, bytes]]:
    """What is stored below an index, as pairs of cookie type and raw key.

    Raises:
      UnsupportedError: the backend cannot tell.
      WorldError, PluginError: it failed to.
    """
    cache, hook = obj.cache, obj.cache.backend.child_keys
    if hook is None:
        raise UnsupportedError(f"cache {cache.tag}: backend {cache.backend.name} keeps no list of keys")
    try:
        found = await call_unbounded(cache, Sequence, hook, obj)  # type: ignore[type-abstract]
        for pair in found:
            match pair:
                case (int(), bytes()):
                    pass
                case _:
                    raise _misanswered(obj, "child_keys", pair, "a pair of cookie type and key")
    except FscacheError as error:
        obj.hook_failed(error)
        raise
    return found


async def _ask(
    obj: CacheObject,
    expected: type[T],
    otherwise: U,
    hook: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T | U:
    try:
        return await call_backend(obj.cache, None, expected, hook, *args, **kwargs)
    except FscacheError as error:
        obj.hook_failed(error)
        return otherwise


async def _reserve(
    obj: CacheObject, hook: Callable[P, Awaitable[ReserveOutcome]], *args: P.args, **kwargs: P.kwargs
) -> ReserveOutcome:
    try:
        return await call_backend(obj.cache, None, ReserveOutcome, hook, *args, **kwargs)
    except NoSpaceError:  # of no concern to what is stored
        return ReserveOutcome.REFUSED
    except FscacheError as error:
        obj.hook_failed(error)
        return ReserveOutcome.REFUSED


def _misanswered(obj: CacheObject, hook: str, answer: object, wanted: str) -> PluginError:
    name = obj.cache.backend.name
    return PluginError(f"backend {name}: {hook} returned {answer!r}, not {wanted}", plugin=name)
