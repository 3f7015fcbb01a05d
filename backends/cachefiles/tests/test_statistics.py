"""Statistics of a cache directory: they add up, and damage costs nothing but counts."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from fscache_cachefiles import CachefilesBackend
from fscache_cachefiles.statistics import NAME, SLOT_SIZE, add, read
from fscache_core.domain import Limits
from fscache_core.statistics import kept_statistics
from fscache_core.testing.cache_session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_counts_add_up(root: int) -> None:
    assert read(root) == {}
    add(root, {"lookups_n": 2})
    add(root, {"lookups_n": 3, "stores_n": 1})
    assert read(root) == {"lookups_n": 5, "stores_n": 1}


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("damage", ["torn", "flipped", "zeros"])
def test_a_damaged_slot_costs_at_most_the_last_writing(
    slot: int, damage: str, root: int, tmp_path: Path
) -> None:
    add(root, {"n": 1})
    add(root, {"n": 1})
    path = tmp_path / NAME
    raw = bytearray(path.read_bytes())
    raw += bytes(2 * SLOT_SIZE - len(raw))
    start = slot * SLOT_SIZE
    match damage:
        case "torn":
            raw[start + 20 : start + 60] = bytes(40)
        case "flipped":
            raw[start + 34] ^= 1
        case "zeros":
            raw[start : start + SLOT_SIZE] = bytes(SLOT_SIZE)
    path.write_bytes(raw)
    # The second writing is in slot 0, the first in slot 1.
    assert read(root) == {"n": 1 if slot == 0 else 2}
    add(root, {"n": 1})
    assert read(root) == {"n": 2 if slot == 0 else 3}


@pytest.mark.parametrize("content", [b"", b"x", b"something else altogether" * 100, bytes(2 * SLOT_SIZE)])
def test_a_foreign_file_counts_as_zero(content: bytes, root: int, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert read(root) == {}
    add(root, {"n": 1})
    assert read(root) == {"n": 1}


@pytest.mark.parametrize("kind", ["directory", "symbolic link", "fifo"])
def test_something_that_is_no_file_is_left_alone(kind: str, root: int, tmp_path: Path) -> None:
    path = tmp_path / NAME
    match kind:
        case "directory":
            path.mkdir()
        case "symbolic link":
            path.symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(path)
    add(root, {"n": 1})
    assert read(root) == {}
    assert not (tmp_path / "elsewhere").exists()


def test_counts_that_do_not_fit_are_dropped(root: int) -> None:
    add(root, {"n": 1})
    add(root, {f"counter number {number}": number for number in range(2000)})
    assert read(root) == {"n": 1}


@pytest.mark.processes
def test_many_processes_count_into_one_file(root: int, tmp_path: Path) -> None:
    program = (
        "import os, sys; from fscache_cachefiles.statistics import add; "
        "root = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY); "
        "[add(root, {'n': 1}) for _ in range(100)]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(4)]
    for process in processes:
        assert process.wait(240) == 0
    assert read(root) == {"n": 400}


async def test_the_counts_of_one_session_are_in_the_next(tmp_path: Path) -> None:
    for n_sessions in range(1, 4):
        async with open_session(CachefilesBackend(dir=tmp_path)) as session:
            await session.file()
            kept = await kept_statistics(session.cache)
            assert kept is not None
            assert kept.cookies_dat == n_sessions
            assert kept.lookups_n >= n_sessions


async def test_counts_come_to_the_directory_while_the_cache_is_in_use(tmp_path: Path, root: int) -> None:
    async with open_session(
        CachefilesBackend(dir=tmp_path), limits=Limits(statistics_seconds=0.001)
    ) as session:
        await session.file()
        backend = session.cache.backend
        assert backend.statistics is not None
        while not (await backend.statistics()).get("cookies_dat"):
            pass
        assert read(root)["cookies_dat"] == 1
