"""Storing what was fetched."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import trio
import xxhash

from benchmarks.made import made_bytes
from benchmarks.row import Outcome, Row, the_same
from benchmarks.stage import MIB, digest_of
from fscache_core import open_fscache
from fscache_core.cookie import CookieDefinition
from fscache_core.folio import PAGE_SIZE, Folio
from fscache_core.outcome import CookieType, ReadOutcome, WriteOutcome
from fscache_core.page import alloc_page, read_or_alloc_pages, write_page

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.rounds import Rounds
    from benchmarks.stage import Stage
    from fscache_core.cookie import Cookie


def fill(stage: Stage) -> Outcome:
    """The fscache side is what a netfs does with what it fetched, without the fetching: the same buffers."""
    content = memoryview(made_bytes("large", stage.large_size))
    rounds = stage.rounds()
    digests: dict[str, str] = {}
    for _ in rounds:
        path = stage.new_path("raw")
        stage.have_memory(len(content))
        write_raw(rounds, path, content)
        digests["raw"] = digest_of(path)
        path.unlink()
        stage.have_memory(len(content))
        trio.run(store, rounds, stage.new_path("cache"), content, digests)
    same = the_same("what was read back", digests)
    figures = [rounds.ratio("fscache", "raw", at_most=1.5), rounds.processor_ratio("fscache", "raw")]
    return Outcome(figures, same, rounds.speeds(len(content)), rounds.samples)


def write_raw(rounds: Rounds, path: Path, content: memoryview) -> None:
    with rounds.timed("raw"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(descriptor, len(content))
        for at in range(0, len(content), MIB):
            os.pwrite(descriptor, content[at : at + MIB], at)
        os.close(descriptor)


async def store(rounds: Rounds, directory: Path, content: memoryview, digests: dict[str, str]) -> None:
    definition = CookieDefinition(
        "bench",
        CookieType.DATA,
        get_key=lambda data: b"file",
        get_attr=lambda data: len(content),
        get_aux=lambda data: b"1",
    )
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=str(directory))
        index = fscache.register_netfs("bench", 1).primary_index
        with rounds.timed("fscache"):
            cookie = fscache.acquire_cookie(index, definition, None)
            assert cookie is not None
            await cookie.wait_lookup()
            for at in range(0, len(content), MIB):
                folio = Folio(at // PAGE_SIZE, content[at : at + MIB])
                assert await alloc_page(cookie, folio) is ReadOutcome.NO_DATA
                assert await write_page(cookie, folio) is WriteOutcome.STORED
            await cookie.wait_on_stores()
        digests["fscache"] = await read_back(cookie, len(content))
        await fscache.relinquish_cookie(cookie)
    shutil.rmtree(directory)


async def read_back(cookie: Cookie, size: int) -> str:
    digest = xxhash.xxh3_64()
    for at in range(0, size, MIB):
        folio = Folio(at // PAGE_SIZE, memoryview(bytearray(min(MIB, size - at))))
        assert await read_or_alloc_pages(cookie, [folio]) is ReadOutcome.HIT
        digest.update(folio.buffer)
    return digest.hexdigest()


ROWS = (
    Row(
        "fill",
        "storing a large file by 1 MiB, until stored: alloc_page and write_page / os.pwrite of the same to "
        "a sparse file",
        fill,
    ),
)
