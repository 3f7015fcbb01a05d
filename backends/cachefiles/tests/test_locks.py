"""Locks and forks: a child has every descriptor of its parent, and must not have its locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_cachefiles.lock import close_locked, try_own
from fscache_core.outcome import LockOutcome

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def child_that_lives() -> Iterator[None]:
    """Fork; the child ends with the block."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(pid, 0)


def test_an_entry_is_free_once_it_is_closed_whoever_was_forked_meanwhile(tmp_path: Path) -> None:
    entry = os.open(tmp_path, os.O_RDONLY)
    assert try_own(entry)
    other = os.open(tmp_path, os.O_RDONLY)
    assert not try_own(other)
    with child_that_lives():
        close_locked(entry)
        assert try_own(other)
    os.close(other)


async def test_who_fills_and_is_killed_leaves_its_locks_to_the_next_and_not_to_its_children(
    tmp_path: Path,
) -> None:
    script = Path(__file__).with_name("forking_filler.py")
    filler = await trio.lowlevel.open_process(
        [sys.executable, str(script), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert filler.stdin is not None
    assert filler.stdout is not None
    said = b""
    while not said.endswith(b"\n"):
        piece = await filler.stdout.receive_some()
        assert piece, "it ended without a word"
        said += piece
    child = int(said)
    try:
        filler.send_signal(signal.SIGKILL)
        await filler.wait()
        async with bound(tmp_path) as session:
            for size in (5000, 400_000):
                cookie = await session.open(Netfile(f"file{size}", size))
                with trio.fail_after(120):
                    assert await session.read(cookie) == cookie.netfs_data.content
        os.kill(child, 0)  # it lives
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        await filler.stdin.aclose()
        await filler.stdout.aclose()


async def test_ranges_that_are_locked_at_the_same_time_are_all_locked(tmp_path: Path) -> None:
    """The first to come make the object, and what they lock must be the object that stays."""
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        for number in range(20):
            mine = await one.open(Netfile(f"file{number}", 400_000))
            async with trio.open_nursery() as nursery:
                for first in range(0, 96, 16):
                    nursery.start_soon(one.backend.lock_pages, mine.object, first, 16, 1.0)
            yours = await two.open(Netfile(f"file{number}", 400_000))
            for first in range(0, 96, 16):
                assert await two.backend.lock_pages(yours.object, first, 16, 0.0) is LockOutcome.CHANGED
            await one.read(mine)


async def test_a_forked_child_reads_on_with_descriptors_of_its_own(tmp_path: Path) -> None:
    async with bound(tmp_path) as session:
        file = Netfile("file", 400_000)
        cookie = await session.open(file)
        await session.read(cookie)
        backing = cookie.object.backing
        assert backing is not None
        before = os.fstat(backing.map)
        pid = os.fork()
        if pid == 0:
            status = 1
            with suppress(BaseException):
                now = os.fstat(backing.map)
                same = (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)
                inherited = os.get_inheritable(backing.map)
                status = 0 if same and not inherited and backing.resident_runs() == [(0, 98)] else 2
            os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0  # noqa: ASYNC222 (the child ends at once)
