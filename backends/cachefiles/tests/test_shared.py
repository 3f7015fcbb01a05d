"""Several users of one directory at once.  Each session has its own descriptors and locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio
import trio.testing
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_core import page
from fscache_core.folio import PAGE_SIZE, Folio, page_count
from fscache_core.outcome import AuxOutcome, LockOutcome

SIZES = [5000, 65_536, 400_000]


@pytest.mark.parametrize("size", SIZES)
async def test_what_one_stores_the_other_reads_although_both_had_it_open_before(
    tmp_path: Path, size: int
) -> None:
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        mine, yours = Netfile("file", size), Netfile("file", size)
        first, second = await one.open(mine), await two.open(yours)
        assert await one.read(first) == mine.content
        assert await two.read(second) == mine.content
        assert yours.n_fetched == 0


@pytest.mark.parametrize("size", SIZES)
async def test_many_who_read_a_cold_file_at_once_fetch_it_once(tmp_path: Path, size: int) -> None:
    files = [Netfile("file", size) for _ in range(6)]

    async def read(file: Netfile) -> None:
        async with bound(tmp_path) as session:
            assert await session.read(await session.open(file)) == file.content

    async with trio.open_nursery() as nursery:
        for file in files:
            nursery.start_soon(read, file)
    assert sum(file.n_fetched for file in files) == page_count(size)


async def test_neighbouring_parts_of_a_block_can_be_filled_at_the_same_time(tmp_path: Path) -> None:
    size = 64 * PAGE_SIZE
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        mine, yours = Netfile("file", size), Netfile("file", size)
        first, second = await one.open(mine), await two.open(yours)
        async with trio.open_nursery() as nursery:
            for at in range(0, 64, 2):
                nursery.start_soon(one.fill, first, at, 1)
                nursery.start_soon(two.fill, second, at + 1, 1)
        third = Netfile("file", size)
        async with bound(tmp_path) as three:
            assert await three.read(await three.open(third)) == third.content
            assert third.n_fetched == 0


@pytest.mark.parametrize("size", SIZES)
async def test_who_reads_a_retired_object_keeps_it(tmp_path: Path, size: int) -> None:
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        mine, yours = Netfile("file", size), Netfile("file", size)
        first, second = await one.open(mine), await two.open(yours)
        await one.read(first)
        await two.read(second)
        await one.close(first, retire=True)
        assert two.read_resident(second, 0, size) == yours.content
        third = Netfile("file", size)
        assert await one.read_cached(await one.open(third)) == {}
        await two.close(second)
    assert os.listdir(tmp_path / "graveyard") == []


@pytest.mark.parametrize("size", SIZES)
async def test_an_open_file_shows_its_version_while_others_use_a_newer_one(tmp_path: Path, size: int) -> None:
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        old, new = Netfile("file", size, version=1), Netfile("file", size, version=2)
        first = await one.open(old)
        await one.fill(first, 0, 1)
        second = await two.open(new)
        assert await two.read(second) == new.content
        assert await one.read(first) == old.content  # stores the rest of its own version
        assert one.read_resident(first, 0, size) in (None, old.content)
        assert two.read_resident(second, 0, size) == new.content
    async with bound(tmp_path) as session:
        again = Netfile("file", size, version=2)
        assert await session.read(await session.open(again)) == new.content
        assert again.n_fetched == 0


@pytest.mark.parametrize("size", SIZES)
async def test_pages_of_the_old_version_never_come_under_the_new_label(tmp_path: Path, size: int) -> None:
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        mine, yours = Netfile("file", size), Netfile("file", size)
        first, second = await one.open(mine), await two.open(yours)
        n_pages = page_count(size)
        for session, cookie in ((one, first), (two, second)):
            await session.fill(cookie, 0, n_pages // 2)
        mine.version = 2  # only the second half differs at the origin, say
        first.update()
        while first.aux_updated or first.object.state.name != "WAIT_FOR_CMD":  # the new label is written
            await trio.lowlevel.checkpoint()
        await two.fill(second)  # old bytes, by one who does not know yet
        await two.close(second)
        await one.close(first)
    async with bound(tmp_path) as session:
        late = Netfile("file", size, version=2)
        cookie = await session.open(late)
        old = Netfile("file", size, version=1)
        for index, data in (await session.read_cached(cookie)).items():
            assert index < n_pages // 2
            assert data == old.content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]


@pytest.mark.parametrize("size", SIZES)
async def test_other_bytes_for_a_stored_page_are_read_back_by_us_and_by_nobody_who_has_it_open(
    tmp_path: Path, size: int
) -> None:
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        mine, yours = Netfile("file", size), Netfile("file", size)
        first, second = await one.open(mine), await two.open(yours)
        await one.read(first)
        await two.read(second)
        data = os.urandom(min(size, PAGE_SIZE))
        assert await page.write_page(first, Folio(0, memoryview(data)))
        await first.wait_on_stores()
        assert two.read_resident(second, 0, size) == yours.content
        assert (await one.read_cached(first, 0, 1)).get(0, data) == data


@pytest.mark.parametrize("size", SIZES)
async def test_a_label_that_needs_an_update_gets_one_and_the_data_stays(tmp_path: Path, size: int) -> None:
    async with bound(tmp_path) as session:
        await session.read(await session.open(Netfile("file", size)))
    async with bound(tmp_path) as session:
        file = Netfile("file", size, version=2, verdict=AuxOutcome.NEEDS_UPDATE)
        cookie = await session.open(file)
        assert len(await session.read_cached(cookie)) == page_count(size)
    async with bound(tmp_path) as session:
        cookie = await session.open(Netfile("file", size, version=2))
        assert len(await session.read_cached(cookie)) == page_count(size)


@pytest.mark.parametrize("old_size", [0, 3000, 65_536, 70_000, 400_001])
@pytest.mark.parametrize("new_size", [0, 3500, 65_536, 100_000, 400_001])
async def test_a_size_change_keeps_whole_pages_and_drops_the_rest(
    tmp_path: Path, old_size: int, new_size: int
) -> None:
    async with bound(tmp_path) as session:
        file = Netfile("file", old_size)
        cookie = await session.open(file)
        await session.read(cookie)
        old = file.content
        file.size = new_size
        cookie.attr_changed()
        kept = min(new_size, old_size if new_size <= old_size else old_size & -PAGE_SIZE)
        pages = await session.read_cached(cookie)
        assert sorted(pages) == list(range(page_count(kept)))
        assert b"".join(pages[at] for at in sorted(pages)) == old[:kept]
        await session.close(cookie)
    if page_count(kept) == page_count(new_size) or new_size > 65_536:
        async with bound(tmp_path) as session:
            pages = await session.read_cached(await session.open(Netfile("file", new_size)))
            assert b"".join(pages[at] for at in sorted(pages)) == old[:kept]


async def test_a_filler_that_is_killed_leaves_the_lock_to_the_next(tmp_path: Path) -> None:
    script = Path(__file__).with_name("stuck_filler.py")
    process = await trio.lowlevel.open_process(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    said = b""
    while not said.endswith(b"\n"):  # a pipe may give a line in pieces
        piece = await process.stdout.receive_some()
        assert piece, "it ended without a word"
        said += piece
    assert said == b"locked\n"
    sizes = (5000, 400_000)
    async with bound(tmp_path) as session:
        cookies = [await session.open(Netfile(f"file{size}", size)) for size in sizes]
        for cookie in cookies:
            with trio.move_on_after(0.2) as waiting:
                await session.read(cookie)
            assert waiting.cancelled_caught
        process.send_signal(signal.SIGKILL)
        for cookie in cookies:
            assert await session.read(cookie) == cookie.netfs_data.content
    await process.wait()
    await process.stdout.aclose()


@pytest.mark.parametrize("size", [5000, 400_000])
async def test_a_fill_lock_is_waited_for_as_long_as_core_says(
    tmp_path: Path, size: int, mock_clock: trio.testing.MockClock
) -> None:
    """On a clock that stands still: one who waits for any longer than that would wait for ever."""
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        mine, yours = await one.open(Netfile("file", size)), await two.open(Netfile("file", size))
        await one.fill(mine, 1, 1)
        await two.fill(yours, 1, 1)
        assert mine.object is not None
        assert await one.backend.lock_pages(mine.object, 0, 1, 1.0) is LockOutcome.LOCKED
        outcomes: list[LockOutcome] = []

        async def lock(seconds: float) -> None:
            assert yours.object is not None
            outcomes.append(await two.backend.lock_pages(yours.object, 0, 1, seconds))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock, 0.0)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert outcomes == [LockOutcome.CHANGED]
            nursery.start_soon(lock, 5.0)
            for seconds in (0.0, 4.0):
                mock_clock.jump(seconds)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert outcomes == [LockOutcome.CHANGED]
            mock_clock.jump(2.0)
        assert outcomes == [LockOutcome.CHANGED] * 2


async def test_who_waits_for_a_fill_lock_is_told_of_pages_that_arrive(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """On a clock that only ends pauses: the time to wait is never up, and the lock is not given back."""
    file = Netfile("file", 400_000)
    async with bound(tmp_path) as one, bound(tmp_path) as two:
        mine, yours = await one.open(file), await two.open(Netfile("file", 400_000))
        await one.fill(mine, 1, 1)
        await two.fill(yours, 1, 1)
        assert mine.object is not None
        assert await one.backend.lock_pages(mine.object, 0, 20, 1.0) is LockOutcome.LOCKED
        outcomes: list[LockOutcome] = []

        async def lock() -> None:
            assert yours.object is not None
            outcomes.append(await two.backend.lock_pages(yours.object, 0, 20, 5.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock)
            await trio.testing.wait_all_tasks_blocked(0.01)
            for index in (18, 2):
                assert outcomes == []
                mock_clock.jump(0.1)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert outcomes == []
                data = file.content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
                mine.mark_pages_cached(index, 1)
                assert await page.write_page(mine, Folio(index, memoryview(data)))
                await mine.wait_on_stores()
                mock_clock.jump(0.1)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert outcomes.pop() is LockOutcome.CHANGED
                nursery.start_soon(lock)
                await trio.testing.wait_all_tasks_blocked(0.01)
            one.backend.unlock_pages(mine.object, 0, 20)
            mock_clock.jump(0.1)
        assert outcomes == [LockOutcome.LOCKED]


async def test_files_of_one_name_below_different_volumes_are_different(tmp_path: Path) -> None:
    names = Counter[bytes]()
    for volume in ("a", "b"):
        async with bound(tmp_path, volume=volume) as session:
            file = Netfile("file", 5000, version=1 if volume == "a" else 2)
            await session.read(await session.open(file))
            names[file.content] += 1
    async with bound(tmp_path, volume="a") as session:
        file = Netfile("file", 5000, version=1)
        assert await session.read(await session.open(file)) == file.content
        assert file.n_fetched == 0
    assert len(names) == 2
