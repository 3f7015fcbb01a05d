"""Files that are huge and mostly holes, of which a little is read."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from fscache_core import open_fscache

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20

#: Reads a little of a file with less memory than a table of its blocks would take.
READER = """
import resource, sys, trio
from fscache_core import open_fscache

url, directory, offset = sys.argv[1], sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (1536 << 20, 1536 << 20))

async def main():
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        async with await fscache.open_file(url) as file:
            print((await file.read(offset, 5)).decode())
        (volume,) = fscache.volumes
        print((await volume.status(fscache.locate(url).path)).cached_size)

trio.run(main)
"""


def make_sparse(path: Path, size: int, offsets: list[int]) -> str:
    with path.open("wb") as file:
        file.truncate(size)
        for offset in offsets:
            file.seek(offset)
            file.write(b"%x" % offset)
    os.utime(path, (1e9, 1e9))
    return f"file://{path}"


@pytest.mark.parametrize("verify", ["touch", "always"])
async def test_of_a_huge_file_only_what_is_read_takes_memory(tmp_path: Path, verify: str) -> None:
    size = 1 << 40
    offsets = [0, (1 << 31) - 5, (1 << 32) - 5, size // 2, size - 11]
    url = make_sparse(tmp_path / "sparse", size, offsets)
    tracemalloc.start()
    try:
        for offline in (False, True):
            async with open_fscache(offline=offline) as fscache:
                await fscache.add_cache("cachefiles", dir=str(tmp_path / "cache"), verify=verify)
                async with await fscache.open_file(url) as file:
                    for offset in [*offsets, *offsets]:
                        mark = b"%x" % offset
                        assert await file.read(offset, len(mark)) == mark
                (volume,) = fscache.volumes
                status = await volume.status(fscache.locate(url).path)
                assert status is not None
                assert status.cached_size is not None
                assert 0 < status.cached_size < MIB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


@pytest.mark.processes
def test_a_file_too_huge_for_the_memory_is_read_from_the_origin(tmp_path: Path) -> None:
    offset = (1 << 43) + 5
    url = make_sparse(tmp_path / "sparse", (1 << 44) - (1 << 16), [offset])
    done = subprocess.run(
        [sys.executable, "-c", READER, url, tmp_path / "cache", str(offset)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"{offset:x}"[:5], "0"]
