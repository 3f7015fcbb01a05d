"""The trio loop of the blocking form: a thread of its own, and the calls that other threads make into it."""

from __future__ import annotations

import contextvars
import os
import sys
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import FrameType

    from fscache_core.fscache import FsCache

T = TypeVar("T")


class Call(Generic[T]):
    """An async function that one thread has run in the loop, and waits for."""

    def __init__(self, function: Callable[..., Awaitable[T]], args: tuple[object, ...]) -> None:
        self.ended = threading.Event()  # or it will never begin
        self._function = function
        self._args = args
        self._context = contextvars.copy_context()
        self._scope = trio.CancelScope()
        self._begun = False
        self._outcome: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()

    def result(self) -> T:
        """Wait for the function, and return or raise what it does."""
        outcome = self._outcome.get()
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome[0]
        finally:
            del outcome  # an error refers to this frame

    # -- in the trio thread --

    def begin(self) -> None:
        self._begun = True
        try:
            trio.lowlevel.spawn_system_task(self._run, name=self._function, context=self._context)
        except RuntimeError:  # it is too late for that
            self._outcome.put(trio.RunFinishedError())
            self.ended.set()

    def give_up(self) -> None:
        """Nobody waits any more.  What was handed over before this comes before it, or never."""
        self._scope.cancel()
        if not self._begun:
            self.ended.set()

    async def _run(self) -> None:
        outcome: tuple[T] | BaseException = trio.RunFinishedError()
        try:
            with self._scope:
                outcome = (await self._function(*self._args),)
        except trio.Cancelled:
            raise
        except BaseException as error:  # raised again, in the thread that waits for it
            outcome = error
        finally:
            self._outcome.put(outcome)
            self.ended.set()
            del outcome  # an error refers to this frame


class Loop(threading.Thread):
    """The background thread, from its start to the end of its `trio.run`."""

    token: trio.lowlevel.TrioToken

    def __init__(self, opening: AbstractAsyncContextManager[FsCache]) -> None:
        # A daemon: a program that forgets to close the cache is not to hang.  `end` is called at its exit.
        super().__init__(name="fscache", daemon=True)
        self.fscache: FsCache | None = None
        self.opened = threading.Event()  # or failed to
        self.store = True  # whether to wait, at the end, until what was fetched is stored
        self.error: BaseException | None = None
        self._opening = opening
        self._finish: trio.Event
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that has the loop."""
        return os.getpid() == self._pid

    @property
    def has_me(self) -> bool:
        """Whether the loop cannot go on before this thread does: it is its own, or interrupted in `enter`."""
        if threading.get_ident() == self.ident:
            return True
        # The stack tells; a note of it could be left behind by Ctrl-C.
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            if frame.f_code is Loop.enter.__code__ and frame.f_locals["self"] is self:
                return True
            frame = frame.f_back
        return False

    def enter(self, function: Callable[..., object], *args: object) -> None:
        """Have a function called in the loop.  From any thread, and again in a handler that interrupts this.

        Trio holds a lock meanwhile, which its worker threads need to report back.

        Raises:
          RunFinishedError: it has ended.
        """
        self.token.run_sync_soon(function, *args)

    def run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # raised again, in the thread that waits for us
            self.error = error
        finally:
            self.opened.set()

    async def _main(self) -> None:
        self.token, self._finish = trio.lowlevel.current_trio_token(), trio.Event()
        async with self._opening as self.fscache:
            self.opened.set()
            await self._finish.wait()
            self.fscache.store_at_close = self.store

    def end(self) -> None:
        """Close the cache and wait until that is done.  Idempotent."""
        if self.is_ours and threading.current_thread() is not self:
            self.opened.wait()
            with suppress(trio.RunFinishedError):
                self.token.run_sync_soon(self._finish.set)
            self.join()
