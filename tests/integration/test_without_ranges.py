"""A server that sends only whole files: a reader gets each byte of them over the network once."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from fscache_core import open_fscache
from fscache_core.testing.http_origin import CountingOrigin
from fscache_memory import MemoryBackend
from netfs_http import HttpNetfs

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 96 << 20  # many windows of read-ahead


@pytest.mark.parametrize("told", [True, False], ids=["told", "found-out"])
@pytest.mark.parametrize("backend", ["memory", "cachefiles"])
async def test_a_file_without_ranges_is_sent_once_to_a_reader_from_start_to_end(
    tmp_path: Path, backend: str, told: bool
) -> None:
    data = random.Random(1).randbytes(SIZE)
    with CountingOrigin() as origin:
        origin.ranges, origin.tells_ranges = False, told
        origin.put("big.bin", data, modified=1_000_000_000)
        async with open_fscache() as fscache:
            fscache.add_netfs(HttpNetfs(), scheme="http")
            if backend == "memory":
                await fscache.add_cache(MemoryBackend())
            else:
                await fscache.add_cache(backend, dir=str(tmp_path / "cache"))
            async with await fscache.open_file(origin.url("big.bin")) as file:
                pieces = [bytes(piece) async for piece in file.stream()]
        assert b"".join(pieces) == data
        assert origin.bytes_sent <= 1.05 * SIZE
