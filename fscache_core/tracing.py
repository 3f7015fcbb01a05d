"""A wrapper that logs the calls of hooks: ``==> lookup_object(OBJ3)``, ``<== lookup_object(OBJ3) = CREATED``.

For caches and netfses alike.  Objects are printed as ``OBJ%x`` and operations as ``OP%x``, as everywhere.
"""

from __future__ import annotations

import enum
import functools
import inspect
import logging
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import trio

from fscache_core.errors import CallerError
from fscache_core.folio import Folio
from fscache_core.object import CacheObject
from fscache_core.operation import Operation

P = ParamSpec("P")
R = TypeVar("R")


class Debug(enum.IntFlag):
    """The ``debug`` mask."""

    ENTER = 1  #: calls, with their arguments
    LEAVE = 2  #: results, exceptions and cancellation
    INTERNAL = 4  #: how long it took, and in which task or thread


class Tracing:
    """Logs every hook of what it wraps to ``logger`` at level DEBUG, as ``debug`` says.

    ``debug`` may be changed at any time; at 0 nothing is logged.
    """

    def __init__(self, debug: int | str = Debug.ENTER | Debug.LEAVE, logger: str = "fscache.trace") -> None:
        try:
            self.debug = Debug(int(debug))
        except ValueError as error:
            raise CallerError(f"trace: debug={debug!r} is not a sum of 1, 2 and 4") from error
        self.log = logging.getLogger(logger)

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(proceed):

            @functools.wraps(proceed)
            async def traced_async(*args: P.args, **kwargs: P.kwargs) -> object:
                if not self.debug:
                    return await proceed(*args, **kwargs)
                call = _Call(self, hook, args, kwargs)
                try:
                    result = await proceed(*args, **kwargs)
                except BaseException as error:
                    call.failed(error)
                    raise
                call.returned(result)
                return result

            return cast("Callable[P, R]", traced_async)

        @functools.wraps(proceed)
        def traced(*args: P.args, **kwargs: P.kwargs) -> R:
            if not self.debug:
                return proceed(*args, **kwargs)
            call = _Call(self, hook, args, kwargs)
            try:
                result = proceed(*args, **kwargs)
            except BaseException as error:
                call.failed(error)
                raise
            call.returned(result)
            return result

        return traced


class _Call:
    """One call that is being traced, by the mask there was when it began."""

    __slots__ = ("debug", "log", "started", "text")

    def __init__(
        self, tracing: Tracing, hook: str, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        self.debug = tracing.debug
        self.log = tracing.log
        arguments = [shown(argument) for argument in args]
        arguments += [f"{name}={shown(argument)}" for name, argument in kwargs.items()]
        self.text = f"{hook}({', '.join(arguments)})"
        if self.debug & Debug.ENTER:
            self.log.debug("==> %s", self.text)
        self.started = time.perf_counter()

    def returned(self, result: object) -> None:
        self._ended("" if result is None else f" = {shown(result)}")

    def failed(self, error: BaseException) -> None:
        if isinstance(error, trio.Cancelled):
            self._ended(" was cancelled")
        else:
            self._ended(f" raised {type(error).__name__}: {error}")

    def _ended(self, how: str) -> None:
        seconds = time.perf_counter() - self.started
        if self.debug & Debug.INTERNAL:
            where = trio.lowlevel.current_task().name if trio.lowlevel.in_trio_task() else "no task"
            self.log.debug("    %s took %.6f s in %s", self.text, seconds, where)
        if self.debug & Debug.LEAVE:
            self.log.debug("<== %s%s", self.text, how)


def shown(value: object) -> str:
    """A value as a trace shows it: briefly, and without its bytes."""
    match value:
        case CacheObject():
            return f"OBJ{value.debug_id:x}"
        case Operation():
            return f"OP{value.debug_id:x}"
        case Folio():
            return f"{value.first}+{value.n_pages}"
        case memoryview() | bytearray():
            return f"<{len(value)} bytes>"
        case enum.Enum():
            return value.name
        case str() | bytes():
            return repr(value)
        case Sequence():
            return f"[{', '.join(shown(element) for element in value)}]"
        case _:
            return repr(value)
