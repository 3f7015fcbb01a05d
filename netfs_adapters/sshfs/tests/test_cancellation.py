"""Cancelled at every step of the connection's loop: nothing is left behind, and the next read is right."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.testing

from fscache_core.testing.workspace import descendants

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

    from fscache_core.testing.sftp_server import OpenSSHServer
    from netfs_sshfs import SshfsNetfs
    from netfs_sshfs.file import File
    from netfs_sshfs.volume import Volume

    MakeFile = Callable[..., str]
    Read = Callable[[SshfsNetfs, File, int, int], Awaitable[bytes]]

pytestmark = pytest.mark.integration

T = TypeVar("T")

MIB = 1 << 20
DATA = random.Random(9).randbytes(3 * MIB)


class _Counted(Coroutine[object, object, T]):
    """A coroutine each step of which is told."""

    def __init__(self, coroutine: Coroutine[object, object, T], count: Callable[[], None]) -> None:
        self._coroutine, self._count = coroutine, count

    def send(self, value: object) -> object:
        self._count()
        return self._coroutine.send(value)

    def throw(self, *error: object) -> object:
        self._count()
        return self._coroutine.throw(*error)  # type: ignore[call-overload]

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[object, object, T]:
        return self._coroutine.__await__()


class LoopSteps:
    """Cancels a trio call when the tasks of an asyncio loop have taken so many steps together."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._scope: trio.CancelScope | None = None
        self._left = 0

    def new_event_loop(self, make: Callable[[], asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
        def counted(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[object, object, T], **more: object
        ) -> asyncio.Task[T]:
            return asyncio.Task(_Counted(coroutine, self.count), loop=loop, **more)  # type: ignore[arg-type]

        loop = make()
        loop.set_task_factory(counted)  # type: ignore[arg-type]
        return loop

    def count(self) -> None:
        self._left -= 1
        scope = self._scope
        if self._left == 0 and scope is not None:
            # The loop stands still until the cancellation has come to where it is told so.
            trio.from_thread.run_sync(scope.cancel, trio_token=self._token)
            trio.from_thread.run(trio.testing.wait_all_tasks_blocked, trio_token=self._token)

    async def cancelled_after(self, n_steps: int, function: Callable[[], Awaitable[object]]) -> bool:
        """Await ``function()``, cancelled at the ``n_steps``-th step; whether it was."""
        with trio.CancelScope() as scope:
            self._left, self._scope = n_steps, scope
            try:
                await function()
            finally:
                self._scope = None
        return scope.cancelled_caught


@pytest.fixture
async def steps(monkeypatch: pytest.MonkeyPatch) -> LoopSteps:
    steps = LoopSteps()
    monkeypatch.setattr(asyncio, "new_event_loop", partial(steps.new_event_loop, asyncio.new_event_loop))
    return steps


@pytest.fixture
async def stepped_volume(steps: LoopSteps, netfs: SshfsNetfs, server: OpenSSHServer) -> AsyncIterator[Volume]:
    """A volume whose loop is counted."""
    volume = await netfs.open_volume(netfs.parse_url(server.url))
    yield volume
    await netfs.close_volume(volume)


def n_own_threads() -> int:
    return sum(thread.name.startswith("netfs ") for thread in threading.enumerate())


def n_open_at(server: OpenSSHServer, path: str) -> int:
    """How many descriptors the server has open on a file."""
    n_open = 0
    for process in descendants(os.getpid()):
        try:
            descriptors = list(Path(f"/proc/{process}/fd").iterdir())
            n_open += sum(os.readlink(descriptor) == path for descriptor in descriptors)
        except OSError:
            continue
    return n_open


@pytest.mark.parametrize("what", ["look_up", "list", "first fetch", "fetch"])
async def test_cancelled_at_any_step_a_call_leaves_the_connection_usable(
    steps: LoopSteps,
    netfs: SshfsNetfs,
    stepped_volume: Volume,
    server: OpenSSHServer,
    directory: Path,
    make_file: MakeFile,
    read: Read,
    what: str,
) -> None:
    volume = stepped_volume
    path = make_file(directory / "a", DATA)
    file = await netfs.look_up(volume, path)
    assert await read(netfs, file, 0, len(DATA)) == DATA
    n_threads, n_descriptors = n_own_threads(), len(os.listdir("/proc/self/fd"))
    for n_steps in range(1, 5000):
        buffer = bytearray(len(DATA))
        arrived = [0]
        if what == "first fetch":
            file = await netfs.look_up(volume, path)  # so that it has no handle yet
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "look_up": partial(netfs.look_up, volume, path),
            "list": partial(netfs.list_directory, volume, str(directory)),
            "fetch": partial(netfs.fetch, file, 0, memoryview(buffer), arrived.append),
        }
        call = calls[what.removeprefix("first ")]
        cancelled = await steps.cancelled_after(n_steps, call)
        if "fetch" in what and cancelled:
            assert buffer[: arrived[-1]] == DATA[: arrived[-1]]
        after = bytes(buffer)
        assert await read(netfs, file, MIB, 100_000) == DATA[MIB : MIB + 100_000]
        assert buffer == after, "a request that was left behind wrote into the buffer"
        if not cancelled:
            break
    assert not cancelled
    assert n_steps > 3
    assert n_own_threads() == n_threads
    assert len(os.listdir("/proc/self/fd")) <= n_descriptors  # those of earlier tests may go meanwhile
    del file, call, calls
    gc.collect()
    with trio.fail_after(60):
        while n_open_at(server, path) > 0:  # closed without anybody waiting for it
            await netfs.look_up(volume, path)


async def test_cancelled_at_any_step_of_connecting_the_next_call_connects(
    steps: LoopSteps,
    netfs: SshfsNetfs,
    server: OpenSSHServer,
    directory: Path,
    make_file: MakeFile,
    read: Read,
) -> None:
    path = make_file(directory / "a", DATA)
    n_threads, n_descriptors = n_own_threads(), len(os.listdir("/proc/self/fd"))
    n_steps, cancelled = 1, True
    while cancelled:
        volume = await netfs.open_volume(netfs.parse_url(server.url))
        cancelled = await steps.cancelled_after(n_steps, partial(netfs.look_up, volume, path))
        if n_steps % 2:
            assert await read(netfs, await netfs.look_up(volume, path), 5, 5) == DATA[5:10]
        await netfs.close_volume(volume)
        n_steps += 1 if n_steps < 12 else 4
    assert n_steps > 12
    assert n_own_threads() == n_threads
    assert len(os.listdir("/proc/self/fd")) <= n_descriptors  # those of earlier tests may go meanwhile
