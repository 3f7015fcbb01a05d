"""Fault injection: a wrapper that makes hooks fail, lie, hang or corrupt bytes when a test says so.

::

    faults = Faults(seed=7)
    await fscache.add_cache(MemoryBackend(), wrappers=[faults])
    faults.arm("write_page", Fail(CacheIOError("the disk is gone")), at=3)
    stuck = faults.arm("lookup_object", Hang())
    ...
    await stuck.wait_hit()
    stuck.release()

A fault fires at the calls of its hook numbered in ``at`` (from 1, counted since it was armed), or with a
``probability``, or, with neither, at every call, until it is disarmed.  If several faults of one hook are
due at one call, the one armed first fires.  The same seed and the same calls give the same faults.
"""

from __future__ import annotations

import copy
import functools
import inspect
from random import Random
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import trio

from fscache_core.errors import CallerError
from fscache_core.folio import PAGE_SIZE, Folio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterator

P = ParamSpec("P")
R = TypeVar("R")
Args = tuple[object, ...]


class Fault:
    """What happens to one call.  This one only counts; further kinds override methods."""

    n_proceed = 1  #: how often the real hook is called

    hook = ""  #: which hook it was armed for
    armed = False
    n_calls = 0  #: calls of the hook since then
    n_hits = 0  #: how often it fired

    def disarm(self) -> None:
        self.armed = False

    def enter(self, args: Args, random: Random) -> Args:
        """Before the hook: return the arguments it is to get."""
        del random
        return args

    async def pause(self) -> None:
        """After `enter`, in async hooks only."""

    def leave(self, args: Args, result: object, random: Random) -> object:
        """After the hook, or in its place: return what the caller is to get."""
        del args, random
        return result


class Fail(Fault):
    """Raise a copy of ``error`` in place of the hook, or ``after`` it did its work."""

    def __init__(self, error: BaseException, *, after: bool = False) -> None:
        self.error = error
        self.n_proceed = int(after)

    def leave(self, args: Args, result: object, random: Random) -> object:
        raise copy.copy(self.error)  # tracebacks pile up on an exception that is raised again and again


class Answer(Fault):
    """Return ``value``, of a wrong type or untrue, in place of the hook, or ``after`` it did its work."""

    def __init__(self, value: object, *, after: bool = False) -> None:
        self.value = value
        self.n_proceed = int(after)

    def leave(self, args: Args, result: object, random: Random) -> object:
        return self.value


class Twice(Fault):
    """Do the work of the hook twice, so that whatever it completes is completed twice."""

    n_proceed = 2


class Run(Fault):
    """Call ``action`` before the hook, or ``after`` it: something else happens at an awkward moment."""

    def __init__(self, action: Callable[[], object], *, after: bool = False) -> None:
        self.action = action
        self.after = after

    def enter(self, args: Args, random: Random) -> Args:
        if not self.after:
            self.action()
        return args

    def leave(self, args: Args, result: object, random: Random) -> object:
        if self.after:
            self.action()
        return result


class Cancel(Run):
    """Cancel ``scope`` before the hook, whose first checkpoint then raises, or ``after`` it."""

    def __init__(self, scope: trio.CancelScope, *, after: bool = False) -> None:
        super().__init__(scope.cancel, after=after)


class Delay(Fault):
    """Let every other task run ``n_checkpoints`` times before the hook.  Async hooks only."""

    def __init__(self, n_checkpoints: int = 1) -> None:
        self.n_checkpoints = n_checkpoints

    async def pause(self) -> None:
        for _ in range(self.n_checkpoints):
            await trio.lowlevel.checkpoint()


class Hang(Fault):
    """Stop before the hook until released or cancelled.  Async hooks only."""

    def __init__(self) -> None:
        self._hit = trio.Event()
        self._released = trio.Event()

    async def wait_hit(self) -> None:
        """Wait until a call hangs, or did."""
        await self._hit.wait()

    def release(self) -> None:
        """Let those that hang go on, and hang no more."""
        self.disarm()
        self._released.set()

    async def pause(self) -> None:
        self._hit.set()
        await self._released.wait()


class Corrupt(Fault):
    """Change one byte of every page: of what ``write_page`` is given, or of what a read delivers."""

    def enter(self, args: Args, random: Random) -> Args:
        if self.hook == "write_page":
            # A copy: the caller's pages are good, and may be on their way to readers as well.
            args = tuple(_copied(argument) if isinstance(argument, Folio) else argument for argument in args)
            _spoil(args, random)
        return args

    def leave(self, args: Args, result: object, random: Random) -> object:
        if self.hook != "write_page":
            _spoil(args, random)
        return result


def _copied(folio: Folio) -> Folio:
    return Folio(folio.first, memoryview(bytearray(folio.buffer)))


def _spoil(args: Args, random: Random) -> None:
    for buffer in _buffers(args):
        for start in range(0, len(buffer), PAGE_SIZE):
            at = start + random.randrange(min(PAGE_SIZE, len(buffer) - start))
            buffer[at] ^= random.randrange(1, 256)


def _buffers(args: Args) -> Iterator[memoryview]:
    for argument in args:
        match argument:
            case memoryview():
                yield argument
            case Folio():
                yield argument.buffer
            case list() | tuple():
                yield from _buffers(tuple(argument))


F = TypeVar("F", bound=Fault)


class Faults:
    """The wrapper, for one cache or netfs.  ``seed`` decides everything random."""

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)
        self._armed: list[tuple[Fault, Container[int] | None, float | None]] = []

    def arm(
        self, hook: str, fault: F, *, at: int | Container[int] | None = None, probability: float | None = None
    ) -> F:
        """Let ``fault`` happen to calls of ``hook``; returns it."""
        if fault.armed or (at is not None and probability is not None):
            raise CallerError("a fault is armed once, for given calls or with a probability, not both")
        fault.hook, fault.armed = hook, True
        self._armed.append((fault, (at,) if isinstance(at, int) else at, probability))
        return fault

    def disarm(self) -> None:
        """Disarm every fault, and release what hangs."""
        for fault, _, _ in self._armed:
            if isinstance(fault, Hang):
                fault.release()
            fault.disarm()
        self._armed.clear()

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(proceed):
            asynchronous: Callable[..., Awaitable[object]] = proceed

            @functools.wraps(proceed)
            async def faulty_async(*args: object) -> object:  # core passes arguments by position
                fault = self._due(hook)
                args = fault.enter(args, self._random)
                await fault.pause()
                result = None
                for _ in range(fault.n_proceed):
                    result = await asynchronous(*args)
                return fault.leave(args, result, self._random)

            return cast("Callable[P, R]", faulty_async)

        synchronous: Callable[..., object] = proceed

        @functools.wraps(proceed)
        def faulty(*args: object) -> object:
            fault = self._due(hook)
            if isinstance(fault, (Hang, Delay)):
                raise CallerError(f"{hook} is not async: it can neither hang nor be delayed")
            args = fault.enter(args, self._random)
            result = None
            for _ in range(fault.n_proceed):
                result = synchronous(*args)
            return fault.leave(args, result, self._random)

        return cast("Callable[P, R]", faulty)

    def _due(self, hook: str) -> Fault:
        """The fault that this call gets; one that changes nothing if none is due."""
        chosen: Fault | None = None
        for fault, at, probability in self._armed:
            if fault.hook == hook and fault.armed:
                fault.n_calls += 1
                if at is not None:
                    due = fault.n_calls in at
                else:
                    due = probability is None or self._random.random() < probability
                if due and chosen is None:
                    fault.n_hits += 1
                    chosen = fault
        return chosen or NO_FAULT


NO_FAULT = Fault()
