"""A process that is stopped amid a store: others wait for it for a while, and go on without it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_core.folio import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SIZE = 400_000


@asynccontextmanager
async def stopped_filler(cache: Path, name: str) -> AsyncIterator[trio.Process]:
    """A process that is stopped while it stores page 0; see `stopped_filler.py`."""
    script = Path(__file__).with_name("stopped_filler.py")
    process = await trio.lowlevel.open_process([sys.executable, str(script), str(cache), name])
    try:
        changes = os.WSTOPPED | os.WEXITED | os.WNOWAIT  # an end is left to who waits for that
        what = await trio.to_thread.run_sync(os.waitid, os.P_PID, process.pid, changes)
        assert what is not None
        assert what.si_code == os.CLD_STOPPED, "it ended"
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def pages_of(file: Netfile, *indices: int) -> dict[int, bytes]:
    return {index: file.content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE] for index in indices}


@pytest.mark.processes
@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL], ids=["it goes on", "it is killed"])
@pytest.mark.parametrize("name", ["data", "map"])
async def test_who_stores_in_a_block_that_a_stopped_process_has_locked_goes_on_without(
    tmp_path: Path, name: str, end: signal.Signals
) -> None:
    file = Netfile("file", SIZE)
    async with bound(tmp_path) as session:
        cookie = await session.open(file)
        await session.fill(cookie, 5, 1)
        async with stopped_filler(tmp_path, name) as process:
            await session.fill(cookie, 1, 3)
            # The block was not to be had: nothing more of it is stored, and what was stored is as it was.
            assert await session.read_cached(cookie, 0, 16) == pages_of(file, 5)
            assert await session.read_cached(cookie, 5, 1) == pages_of(file, 5)
            await session.fill(cookie, 30, 4)
            assert await session.read_cached(cookie, 30, 4) == pages_of(file, 30, 31, 32, 33)
            process.send_signal(end)
            assert await process.wait() == (0 if end == signal.SIGCONT else -signal.SIGKILL)
        stored = pages_of(file, 0, 5) if end == signal.SIGCONT else pages_of(file, 5)
        assert await session.read_cached(cookie, 0, 16) == stored
        assert await session.read(cookie) == file.content
        assert session.cache.usable
    async with bound(tmp_path) as session:
        again = Netfile("file", SIZE)
        assert await session.read(await session.open(again)) == file.content
        assert again.n_fetched == 0
