"""An asyncio event loop in a thread of its own, and how a trio task has work done there.

asyncssh needs asyncio.  Measured on loopback it moves 300 MB/s in a loop of its own, 32 under trio-asyncio.
Only whole calls and the news of what has arrived cross between the threads, about one of them per MiB.
"""

from __future__ import annotations

import asyncio
import math
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class LoopClosedError(RuntimeError):
    """The loop ended before the work was done."""


def _ignore(_: int) -> None:
    pass


class LoopThread:
    """Constructed is running; `close` ends loop and thread."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a program that ends without `close` ends.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _end(self) -> None:
        leftover = asyncio.all_tasks() - {asyncio.current_task()}
        for task in leftover:
            task.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()  # it looks up host names

    async def run(
        self,
        work: Callable[[Callable[[int], None]], Coroutine[object, object, T]],
        progress: Callable[[int], None] = _ignore,
    ) -> T:
        """Run ``work(report)`` in the loop and wait for it.

        ``report(n)`` may be called there; ``progress(n)`` follows here, in that order, before this returns.

        Cancellation: the work is cancelled too, and this returns only when it has ended.

        Raises:
          LoopClosedError: the loop was closed meanwhile.
        """
        token = trio.lowlevel.current_trio_token()
        send, receive = trio.open_memory_channel[int | None](math.inf)
        tasks: list[asyncio.Task[T]] = []

        def wake(n: int | None) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(send.send_nowait, n)

        def start() -> None:
            task = self._loop.create_task(work(wake))
            task.add_done_callback(lambda _: wake(None))
            tasks.append(task)

        await trio.lowlevel.checkpoint_if_cancelled()
        self._soon(start)
        try:
            while (n := await receive.receive()) is not None:
                progress(n)
        except BaseException:
            self._soon(lambda: tasks[0].cancel())
            with trio.CancelScope(shield=True):
                while await receive.receive() is not None:
                    pass
            if not tasks[0].cancelled():
                tasks[0].exception()  # retrieved, so that asyncio does not complain that nobody looked
            raise
        if tasks[0].cancelled():
            raise LoopClosedError
        return tasks[0].result()

    def _soon(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError as error:
            raise LoopClosedError from error

    async def close(self) -> None:
        """Cancel what still runs, end the loop and its thread.  Idempotent.

        Cancellation: shielded; takes as long as the cancelled work takes to end.
        """
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)


async def together(*work: Coroutine[object, object, T]) -> list[T]:
    """In the loop: run all of these at the same time; if one fails, cancel the others and wait for their end.

    Not a TaskGroup: in Python 3.11 and 3.12 one that fails leaves its task counted as cancelled, and a
    timeout around it is then not recognized (python/cpython issue 116720).
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
