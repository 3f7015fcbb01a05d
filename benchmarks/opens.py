"""Opening small files that are cached."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from benchmarks.made import MadeNetfs, made_bytes
from benchmarks.row import Outcome, Row, the_same
from fscache_core import blocking

if TYPE_CHECKING:
    from benchmarks.stage import Stage

SIZE = 64 << 10


def open_64k(stage: Stage) -> Outcome:
    directory = stage.new_path("small")
    directory.mkdir()
    names = [f"{number:03}" for number in range(200)]
    paths, urls = [f"{directory}/{name}" for name in names], [f"made://{SIZE}/{name}" for name in names]
    for name, path in zip(names, paths, strict=True):
        Path(path).write_bytes(made_bytes(name, SIZE))
    rounds = stage.short_rounds()
    with blocking.open_fscache(coherency="ttl=3600") as fscache:
        fscache.add_cache("cachefiles", dir=str(stage.new_path("cache")))
        fscache.add_netfs(MadeNetfs())

        def read_raw(path: str) -> bytes:
            descriptor = os.open(path, os.O_RDONLY)
            data = os.pread(descriptor, SIZE, 0)
            os.close(descriptor)
            return data

        def read(url: str) -> bytes:
            file = fscache.open_file(url)
            data = file.pread(0, SIZE)
            file.close()
            return data

        for _ in range(2):  # fetched, then verified
            digests = {"raw": xxhash.xxh3_64(), "fscache": xxhash.xxh3_64()}
            for path, url in zip(paths, urls, strict=True):
                digests["raw"].update(read_raw(path))
                digests["fscache"].update(read(url))
        for number in rounds:
            part = slice(10 * number % 200, 10 * number % 200 + 10)
            with rounds.timed("raw", 10):
                for path in paths[part]:
                    read_raw(path)
            with rounds.timed("fscache", 10):
                for url in urls[part]:
                    read(url)
        (volume,) = fscache.volumes
        assert volume.stats.bytes_from_origin == len(names) * SIZE, "not cached"
    same = the_same(f"{len(names)} files", {side: digest.hexdigest() for side, digest in digests.items()})
    return Outcome([rounds.ratio("fscache", "raw", at_most=4)], same, rounds.times(), rounds.samples)


ROWS = (
    Row(
        "open-64k",
        "open, read all, close of 200 cached files of 64 KiB, verified, checked within TTL: blocking API / "
        "os.open, os.pread, os.close",
        open_64k,
    ),
)
