import os
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import pytest
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_cachefiles import backing, quarters, scratch
from fscache_core.folio import PAGE_SIZE

if TYPE_CHECKING:
    from _typeshed import TraceFunction


def objects_in(cache: Path) -> list[Path]:
    """The data objects with printable keys."""
    return [path for path in cache.rglob("D*") if path.parent.name.startswith("@")]


SIZES = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 1_000_001, 5 << 20]


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_stored_is_read_by_the_next_process(tmp_path: Path, size: int) -> None:
    file = Netfile("file", size)
    async with bound(tmp_path / "cache") as session:
        cookie = await session.open(file)
        assert await session.read(cookie) == file.content
        await session.close(cookie)
    again = Netfile("file", size)
    async with bound(tmp_path / "cache") as session:
        cookie = await session.open(again)
        assert await session.read(cookie) == file.content
        assert again.n_fetched == 0


@pytest.mark.parametrize("size", [1, 5000, 65536, 65537, 1_000_001])
@pytest.mark.parametrize("verify", ["touch", "always", "never"])
async def test_the_hot_path_returns_the_bytes_of_any_range(tmp_path: Path, size: int, verify: str) -> None:
    file = Netfile("file", size)
    async with bound(tmp_path / "cache", verify=verify) as session:
        cookie = await session.open(file)
        await session.read(cookie)
        for offset in {0, 1, size // 2, max(0, size - 4097), size - 1, min(65530, size - 1)}:
            for length in {1, 10, 4096, 65536, 70000, size}:
                length = min(length, size - offset)
                assert session.read_resident(cookie, offset, length) == file.content[offset : offset + length]


@pytest.mark.parametrize("verify", ["touch", "always"])
async def test_a_read_in_the_middle_of_another_one_of_its_thread_disturbs_neither(
    tmp_path: Path, verify: str
) -> None:
    """As signal handlers and finalizers make them, between any two lines."""
    file = Netfile("file", 300_000)
    async with bound(tmp_path / "cache") as session:
        await session.read(await session.open(file))
    async with bound(tmp_path / "cache", verify=verify) as session:
        cookie = await session.open(file)
        n_between = 0

        def read_another(frame: FrameType, event: str, _: object) -> "TraceFunction | None":
            nonlocal n_between
            if frame.f_code.co_filename not in {backing.__file__, quarters.__file__, scratch.__file__}:
                return None
            if event == "line":
                sys.settrace(None)
                start = 997 * n_between % 200_000
                n_between += 1
                assert session.read_resident(cookie, start, 70_000) == file.content[start : start + 70_000]
                sys.settrace(read_another)
            return read_another

        before = sys.gettrace()
        for offset, size in ((1000, 5000), (60_000, 10_000), (100_001, 65_536), (0, 200_000), (1000, 5000)):
            sys.settrace(read_another)
            try:
                got = session.read_resident(cookie, offset, size)
            finally:
                sys.settrace(before)
            assert got == file.content[offset : offset + size]
        assert n_between > 50


async def test_parts_of_a_file_are_stored_as_they_come(tmp_path: Path) -> None:
    file = Netfile("file", 40 * PAGE_SIZE + 17)
    async with bound(tmp_path / "cache") as session:
        cookie = await session.open(file)
        for first, n_pages in [(3, 2), (17, 1), (15, 2), (40, 1), (0, 1), (30, 5)]:
            await session.fill(cookie, first, n_pages)
        present = {3, 4, 17, 15, 16, 40, 0, 30, 31, 32, 33, 34}
        assert set(await session.read_cached(cookie)) == present
    async with bound(tmp_path / "cache") as session:
        cookie = await session.open(Netfile("file", file.size))
        got = await session.read_cached(cookie)
        assert set(got) == present
        for index, data in got.items():
            assert data == file.content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
        assert session.read_resident(cookie, 3 * PAGE_SIZE + 5, 5000) == file.content[12293:17293]
        assert session.read_resident(cookie, 3 * PAGE_SIZE, 3 * PAGE_SIZE) is None


async def test_what_little_there_is_of_a_long_range_is_found(tmp_path: Path) -> None:
    file = Netfile("file", (10 << 20) + 5)
    present = {0, 1025, 2560}
    async with bound(tmp_path / "cache") as session:
        cookie = await session.open(file)
        for index in present:
            await session.fill(cookie, index, 1)
        await session.close(cookie)
        cookie = await session.open(file)
        got = await session.read_cached(cookie)
        assert set(got) == present
        assert all(data == file.content[at * PAGE_SIZE : (at + 1) * PAGE_SIZE] for at, data in got.items())
        assert await session.read_cached(cookie, 2, 1023) == {}


async def test_an_empty_file_is_an_object_of_its_own(tmp_path: Path) -> None:
    async with bound(tmp_path / "cache") as session:
        await session.open(Netfile("empty", 0))
    async with bound(tmp_path / "cache") as session:
        before = session.domain.stats.lookups_pos
        await session.open(Netfile("empty", 0))
        assert session.domain.stats.lookups_pos == before + 3  # netfs, volume, file


@pytest.mark.parametrize("size", [0, 5000, 300_000])
async def test_when_the_last_file_of_a_volume_is_retired_its_directories_go_away(
    tmp_path: Path, size: int
) -> None:
    async with bound(tmp_path) as session:
        cookies = [await session.open(Netfile(f"file{number}", size)) for number in range(3)]
        for cookie in cookies:
            await session.read(cookie)
        for cookie in cookies[:2]:
            await session.close(cookie, retire=True)
    assert [path.name for path in objects_in(tmp_path)] == ["D05file2"]
    async with bound(tmp_path) as session:
        await session.close(await session.open(Netfile("file2", size)), retire=True)
    assert os.listdir(tmp_path / "cache") == []


async def test_a_retired_index_takes_everything_below_with_it(tmp_path: Path) -> None:
    async with bound(tmp_path) as session:
        for size in (0, 5000, 300_000):
            cookie = await session.open(Netfile(f"file{size}", size))
            await session.read(cookie)
            await session.close(cookie)
        await session.volume.relinquish(retire=True)
        session.volume = session.make_volume()
        assert await session.read_cached(await session.open(Netfile("file5000", 5000))) == {}
    assert objects_in(tmp_path) == []
