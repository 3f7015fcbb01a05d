"""More files open than there are descriptors: every byte is right, and the program keeps its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

#: Keeps every file open, reads all twice, then opens, reads and closes each once more.
READER = """
import json, os, resource, sys
import trio
from fscache_core import open_fscache

tree, directory, n_files, coherency = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))

async def main():
    wrong = 0
    async with open_fscache(coherency=coherency) as fscache:
        cache = await fscache.add_cache("cachefiles", dir=directory)
        urls = [f"file://{tree}/{number}" for number in range(int(n_files))]
        contents = [bytes([number % 251]) * 100_000 for number in range(int(n_files))]
        files = [await fscache.open_file(url) for url in urls]
        for _ in range(2):
            for file, content in zip(files, contents):
                wrong += await file.read(0, 200_000) != content
        n_used = len(os.listdir("/proc/self/fd"))
        for file in files:
            await file.aclose()
        (volume,) = fscache.volumes
        before = volume.stats.bytes_from_origin
        for url, content in zip(urls, contents):
            async with await fscache.open_file(url) as file:
                wrong += await file.read(0, 200_000) != content
        fetched = volume.stats.bytes_from_origin - before
    print(json.dumps({"wrong": wrong, "broken": cache.broken, "descriptors": n_used, "fetched": fetched}))

trio.run(main)
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("coherency", ["always", "ttl=600"])
def test_fifteen_hundred_files_are_open_with_1024_descriptors(tmp_path: Path, coherency: str) -> None:
    n_files = 1500
    (tmp_path / "tree").mkdir()
    for number in range(n_files):
        path = tmp_path / "tree" / str(number)
        path.write_bytes(bytes([number % 251]) * 100_000)
        os.utime(path, (1, 1))

    def run() -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", READER, tmp_path / "tree", tmp_path / "cache", str(n_files), coherency],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        found: dict[str, int] = json.loads(done.stdout)
        assert not found["wrong"]
        assert not found["broken"]
        assert found["descriptors"] < 700
        return found

    run()
    assert run()["fetched"] == 0  # one by one they were all cached
