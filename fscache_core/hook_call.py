"""One call of a hook: bounded in time, counted, and blamed on the plugin whose hook it is.

Whatever a hook raises or returns against its contract comes out as `PluginError` with the name of backend
or netfs, as the user knows it, and of the hook.  A netfs that is called back inside a backend's hook
(``check_aux``, ``mark_pages_cached``, ...) is blamed itself, and the backend sees nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import trio

from fscache_core.domain import log
from fscache_core.errors import FscacheError, NoMemoryError, PluginError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fscache_core.cache import Cache
    from fscache_core.cookie import Cookie
    from fscache_core.stats import Stats

P = ParamSpec("P")
T = TypeVar("T")


async def call_backend(
    cache: Cache,
    gauge: str | None,
    expected: type[T],
    hook: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call an async hook of a backend; with `call_unbounded` the only way core does.

    Args:
      gauge: the key of the ``CacheOp`` counter of calls under way, if the hook has one.
      expected: the type of what the hook must return.

    Raises:
      FscacheError: as the hook's contract says; anything else the hook does comes as `PluginError`.
    """
    name, limits = cache.backend.name, cache.domain.limits
    seconds = limits.drop_seconds if gauge == "dro" else limits.hook_seconds
    _count_call(cache.stats, gauge, 1)
    try:
        with trio.move_on_after(seconds):
            return await call_unbounded(cache, expected, hook, *args, **kwargs)
        message = f"backend {name}: {hook_name(hook)} did not return within {seconds:g} s"
        raise PluginError(message, plugin=name)
    finally:
        _count_call(cache.stats, gauge, -1)


async def call_unbounded(
    cache: Cache,
    expected: type[T],
    hook: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """`call_backend` for a hook that goes through all that is stored, and may take as long as it needs."""
    name = cache.backend.name
    try:
        result = await hook(*args, **kwargs)
    except FscacheError:
        raise
    except MemoryError as error:
        raise NoMemoryError(f"backend {name}: {hook_name(hook)}: out of memory") from error
    except BaseException as error:
        if passes_through(error):
            raise
        raise PluginError.raised("backend", name, hook_name(hook), error) from error
    if not isinstance(result, expected):
        message = f"backend {name}: {hook_name(hook)} returned {result!r}, not a {expected.__name__}"
        raise PluginError(message, plugin=name)
    return result


def ask_netfs(
    cookie: Cookie,
    hook: str,
    expected: type[T],
    callback: Callable[Concatenate[object, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Call the netfs of a cookie back for an answer of type ``expected``.

    Raises:
      PluginError: it raised something, or answered something else.  Names the netfs.
      FscacheError: what it raised on purpose.
    """
    name = cookie.definition.whose
    try:
        answer = callback(cookie.netfs_data, *args, **kwargs)
    except FscacheError:
        raise
    except BaseException as error:
        if passes_through(error):
            raise
        raise PluginError.raised("netfs", name, hook, error) from error
    if not isinstance(answer, expected):
        message = f"netfs {name}: {hook} returned {answer!r}, not {getattr(expected, '__name__', expected)}"
        raise PluginError(message, plugin=name)
    return answer


def tell_netfs(
    cookie: Cookie,
    hook: str,
    callback: Callable[Concatenate[object, P], None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Call the netfs of a cookie back to let it know something.  What it raises is logged."""
    try:
        callback(cookie.netfs_data, *args, **kwargs)
    except BaseException as error:
        if passes_through(error):
            raise
        name = cookie.definition.whose
        log.error("%r: netfs %s: %s raised %r", cookie, name, hook, error, exc_info=error)


def blame_netfs(cookie: Cookie, hook: str, error: FscacheError) -> None:
    """Log what the netfs raised where only core can deal with it."""
    name = cookie.definition.whose
    log.error("%r: netfs %s, in %s: %s", cookie, name, hook, error, exc_info=error.__cause__)


def passes_through(error: BaseException) -> bool:
    """Whether what a hook raised is no fault of its own: Ctrl-C, or a cancellation, on its way out.

    All else is, `SystemExit` too: a plugin does not end the program.
    """
    match error:
        case trio.Cancelled() | KeyboardInterrupt() | GeneratorExit():
            return True
        case BaseExceptionGroup():
            return any(passes_through(each) for each in error.exceptions)
        case _:
            return False


def hook_name(hook: object) -> str:
    return getattr(hook, "__name__", "hook")


def _count_call(stats: Stats, gauge: str | None, difference: int) -> None:
    if gauge is not None:
        field = f"cacheop_{gauge}"
        setattr(stats, field, getattr(stats, field) + difference)
