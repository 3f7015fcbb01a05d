"""Cancellation at a chosen step: every checkpoint of a call can be tried in turn."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import trio

from fscache_core.errors import FscacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

P = ParamSpec("P")
R = TypeVar("R")


class StepCanceller(trio.abc.Instrument):
    """Cancels ``scope`` when ``task`` is about to run for the ``n_steps``-th time from now."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, n_steps: int) -> None:
        self.task, self.scope, self.n_left = task, scope, n_steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.n_left -= 1
            if self.n_left == 0:
                self.scope.cancel()


async def cancelled_after(n_steps: int, function: Callable[[], Awaitable[R]]) -> tuple[bool, R | None]:
    """Await ``function()``, cancelled in its ``n_steps``-th step; (False, its result) if it took fewer.

    Step 0 is before its first checkpoint.
    """
    with trio.CancelScope() as scope:
        if n_steps == 0:
            scope.cancel()
        canceller = StepCanceller(trio.lowlevel.current_task(), scope, n_steps)
        trio.lowlevel.add_instrument(canceller)
        try:
            result = await function()
        finally:
            trio.lowlevel.remove_instrument(canceller)
        return False, result
    return True, None


class Interrupter:
    """A wrapper: the ``at``-th call of one hook is cancelled at its ``n_steps``-th step, and fails for it."""

    def __init__(self, hook: str, at: int, n_steps: int) -> None:
        self.hook, self.at, self.n_steps = hook, at, n_steps
        self.n_calls = 0
        self.cancelled = False

    def wrap(self, hook: str, proceed: Callable[P, R]) -> Callable[P, R]:
        if hook != self.hook:
            return proceed
        asynchronous = cast("Callable[..., Awaitable[object]]", proceed)

        async def interrupted(*args: object) -> object:
            self.n_calls += 1
            if self.n_calls != self.at:
                return await asynchronous(*args)
            self.cancelled, result = await cancelled_after(self.n_steps, partial(asynchronous, *args))
            if self.cancelled:
                raise FscacheError(f"the test cancelled {hook} at step {self.n_steps}")
            return result

        return cast("Callable[P, R]", interrupted)
