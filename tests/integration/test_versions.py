"""One open file is one version, while the origin changes it every few milliseconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fscache_core.testing.http_origin import CountingOrigin

SECONDS = 4.0

#: Reads, invalidates and opens again for a while.  Every eight bytes of a file are the number of its version.
HAMMER = """
import json, random, sys
import trio
from fscache_core import Coherency, OriginError, Readahead, StaleError, open_fscache
from fscache_memory import MemoryBackend

url, directory, seconds, coherency, seed = sys.argv[1:]
count = {"files": 0, "reads": 0, "stale": 0}

def version_of(offset, piece):
    shift = -offset % 8
    words = memoryview(piece)[shift:]
    words = words[: len(words) & -8].cast("Q")
    found = set(words.tolist()) if words else set()
    assert len(found) <= 1, f"one read of {len(piece)} bytes at {offset} has versions {sorted(found)}"
    return found.pop() if found else None

async def reader(fscache, number):
    chooser = random.Random(int(seed) * 100 + number)
    while True:
        try:
            async with await fscache.open_file(url) as file:
                count["files"] += 1
                version = None
                for _ in range(chooser.randrange(1, 12)):
                    if chooser.random() < 0.5:
                        offset, size = chooser.randrange(500_000), chooser.randrange(16, 200_000)
                    else:
                        offset, size = 0, 10_000_000
                    piece = await file.read(offset, size)
                    count["reads"] += 1
                    found = version_of(offset, piece)
                    assert version is None or found in (version, None), f"{found} after {version}"
                    version = version if found is None else found
                    if size == 10_000_000:
                        expected = 300_000 + version % 5 * 40_000
                        assert len(piece) == expected, f"{len(piece)} bytes of {version}, not {expected}"
        except StaleError:
            count["stale"] += 1

async def invalidator(fscache):
    chooser = random.Random(int(seed))
    volume = await fscache.open_volume(url)
    path = fscache.locate(url).path
    while True:
        await volume.invalidate(path)
        await trio.sleep(chooser.random() / 20)

async def main():
    async with open_fscache(coherency=coherency, readahead=Readahead(fetch_size=65536)) as fscache:
        if directory:
            await fscache.add_cache("cachefiles", dir=directory)
        else:
            await fscache.add_cache(MemoryBackend())
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(reader, fscache, number)
            nursery.start_soon(invalidator, fscache)
            await trio.sleep(float(seconds))
            while count["reads"] < 20:  # a busy machine
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    print(json.dumps(count))

trio.run(main)
"""


def version(number: int) -> bytes:
    return number.to_bytes(8, sys.byteorder) * ((300_000 + number % 5 * 40_000) // 8)


def hammer(
    url: str,
    scratch: Path,
    change: Callable[[int], None],
    *,
    in_memory: bool = False,
    coherency: str = "always",
    n_processes: int = 1,
) -> None:
    directory = "" if in_memory else str(scratch / "cache")
    change(1)
    # What they say goes to files: one that waits for its words to be read would hold its locks meanwhile.
    outputs = [scratch / f"said-{seed}" for seed in range(n_processes)]
    processes = []
    for seed, output in enumerate(outputs):
        with output.open("w") as said_to:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", HAMMER, url, directory, str(SECONDS), coherency, str(seed)],
                    stdout=subprocess.PIPE,
                    stderr=said_to,
                    text=True,
                )
            )
    stop = threading.Event()

    def keep_changing() -> None:
        number, began = 2, time.monotonic()
        while not stop.is_set():
            change(number)
            number += 1
            # Now and then long enough to be cached, now and then not; on a machine where that is never long
            # enough to be read, ever longer.
            slowness = max(1.0, (time.monotonic() - began) / (10 * SECONDS))
            stop.wait(slowness**2 * (0.15 if number % 8 == 0 else 0.004 * (number % 7)))

    changer = threading.Thread(target=keep_changing)
    changer.start()
    try:
        ended = [process.communicate(timeout=500) for process in processes]
    finally:
        stop.set()
        changer.join()
    for process, (out, _), output in zip(processes, ended, outputs, strict=True):
        said = output.read_text()
        assert process.returncode == 0, said
        assert "Traceback" not in said, said  # of a hook that was called at a wrong moment, for instance
        count = json.loads(out)
        assert count["reads"] > 0, count


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("coherency", ["always", "ttl=0.05"])
@pytest.mark.parametrize("n_processes", [1, 4])
def test_http(fscache_http_origin: CountingOrigin, tmp_path: Path, coherency: str, n_processes: int) -> None:
    origin = fscache_http_origin
    hammer(
        origin.url("a"),
        tmp_path,
        lambda number: origin.put("a", version(number)),
        coherency=coherency,
        n_processes=n_processes,
    )


@pytest.mark.slow
def test_http_in_memory(fscache_http_origin: CountingOrigin, tmp_path: Path) -> None:
    origin = fscache_http_origin
    hammer(origin.url("a"), tmp_path, lambda number: origin.put("a", version(number)), in_memory=True)


@pytest.mark.processes
@pytest.mark.slow
def test_a_directory_in_which_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()

    def change(number: int) -> None:
        new = tmp_path / "tree" / "new"
        new.write_bytes(version(number))
        os.replace(new, tmp_path / "tree" / "a")

    hammer(f"file://{tmp_path}/tree/a", tmp_path, change, n_processes=3)
