"""More files open than descriptors: what cannot be held open is read from the origin."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import xxhash
from cachefiles_session import Netfile, bound  # type: ignore[import-not-found]

from fscache_core.folio import page_count
from fscache_core.outcome import ReserveOutcome

SCRIPT = Path(__file__).with_name("many_open.py")


def stored_in(cache: Path) -> list[Path]:
    return list(cache.rglob("D*"))


@pytest.mark.processes
async def test_four_hundred_files_are_read_with_two_hundred_and_fifty_six_descriptors(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    expected, urls = [], []
    for number in range(400):
        path = origin / f"file{number}"
        data = random.Random(number).randbytes(5000 if number % 2 else 100_000)
        path.write_bytes(data)
        os.utime(path, (1e9, 1e9))  # old enough to prove something
        urls.append(f"file://{path}")
        expected.append(xxhash.xxh3_64_hexdigest(data))
    for _ in range(2):
        command = [sys.executable, str(SCRIPT), str(tmp_path / "cache"), "256", *urls]
        done = await trio.run_process(command, capture_stdout=True, stdin=subprocess.DEVNULL)
        said = json.loads(done.stdout)
        assert said["digests"] == expected
        assert not said["broken"]
        assert 0 < said["held"] <= 128


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_what_is_too_many_is_not_cached_until_others_are_closed(tmp_path: Path, size: int) -> None:
    async with bound(tmp_path, max_open=1 if size == 5000 else 3) as session:
        first, second = Netfile("first", size), Netfile("second", size)
        held, refused = await session.open(first), await session.open(second)
        assert await session.read(held) == first.content
        for _ in range(2):
            assert await session.read(refused) == second.content
            assert await session.read_cached(refused) == {}
        assert await refused.reserve_space(size) is ReserveOutcome.REFUSED
        await session.close(held)
        assert await session.read(refused) == second.content
        assert len(await session.read_cached(refused)) == page_count(size)


@pytest.mark.parametrize("size", [0, 5000, 300_000])
@pytest.mark.parametrize("way", ["retire", "invalidate"])
async def test_what_is_too_many_can_be_deleted_all_the_same(tmp_path: Path, size: int, way: str) -> None:
    async with bound(tmp_path) as session:
        await session.read(await session.open(Netfile("file", size)))
    async with bound(tmp_path, max_open=0) as session:
        cookie = await session.open(Netfile("file", size))
        assert await session.read_cached(cookie) == {}
        if way == "invalidate":
            cookie.invalidate()
        await session.close(cookie, retire=way == "retire")
    assert stored_in(tmp_path) == []


async def test_what_was_too_many_is_there_for_the_next_process(tmp_path: Path) -> None:
    async with bound(tmp_path) as session:
        await session.read(await session.open(Netfile("file", 300_000)))
    async with bound(tmp_path, max_open=0) as session:
        file = Netfile("file", 300_000)
        assert await session.read(await session.open(file)) == file.content
    async with bound(tmp_path) as session:
        file = Netfile("file", 300_000)
        await session.read(await session.open(file))
        assert file.n_fetched == 0
