"""Reads of one large file that is cached: what lies between a caller and the page cache.

Raw reads are of the file in the cache directory, so both sides copy from the same pages of memory.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio
import xxhash

from benchmarks.made import MadeNetfs
from benchmarks.rounds import Rounds
from benchmarks.row import Outcome, Row, the_same
from benchmarks.stage import MIB
from fscache_core import blocking, open_fscache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.stage import Stage

KIB = 1 << 10


def hit_4k(stage: Stage) -> Outcome:
    buffer = bytearray(4 * KIB)
    buffers = [buffer]
    rounds = stage.short_rounds()
    with cached_file(stage) as file, raw(stage) as descriptor:
        verify_all(file)
        preadv, pread_into = os.preadv, file.pread_into
        batches = random_offsets(file.size - 4 * KIB, step=4 * KIB, count=100)
        for _ in rounds:
            offsets = next(batches)
            with rounds.timed("raw", 100):
                for offset in offsets:
                    preadv(descriptor, buffers, offset)
            offsets = next(batches)
            with rounds.timed("fscache", 100):
                for offset in offsets:
                    pread_into(offset, buffer)
        same = compared(next(batches), buffer, raw=raw_reader(descriptor), fscache=pread_into)
    return Outcome([rounds.ratio("fscache", "raw", at_most=1.7)], same, rounds.times(), rounds.samples)


def hit_4k_async(stage: Stage) -> Outcome:
    return trio.run(_hit_4k_async, stage, stage.large_cache)


async def _hit_4k_async(stage: Stage, directory: Path) -> Outcome:
    buffer = bytearray(4 * KIB)
    buffers = [buffer]
    rounds = stage.short_rounds()
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=str(directory))
        fscache.add_netfs(MadeNetfs())
        async with await fscache.open_file(stage.large_url) as file:
            async for _piece in file.stream():
                pass  # verifies every block
            with raw(stage) as descriptor:
                preadv, readinto = os.preadv, file.readinto
                batches = random_offsets(file.size - 4 * KIB, step=4 * KIB, count=100)
                for _ in rounds:
                    offsets = next(batches)
                    with rounds.timed("raw", 100):
                        for offset in offsets:
                            preadv(descriptor, buffers, offset)
                    offsets = next(batches)
                    with rounds.timed("fscache", 100):
                        for offset in offsets:
                            await readinto(offset, buffer)
                offsets = next(batches)
                digest = xxhash.xxh3_64()
                for offset in offsets:
                    await readinto(offset, buffer)
                    digest.update(buffer)
                same = compared(offsets, buffer, {"fscache": digest.hexdigest()}, raw=raw_reader(descriptor))
    return Outcome([rounds.ratio("fscache", "raw", at_most=4)], same, rounds.times(), rounds.samples)


def hit_1m(stage: Stage) -> Outcome:
    rounds = stage.rounds()
    turns = Rounds(0)
    with cached_file(stage) as file, raw(stage) as descriptor:
        verify_all(file)
        for _ in rounds:
            read_in_turns(turns, file, descriptor)
        offsets = range(0, file.size, MIB)
        same = compared(offsets, bytearray(MIB), raw=raw_reader(descriptor), fscache=file.pread_into)
    return Outcome([turns.ratio("fscache", "raw", at_most=1.1)], same, turns.times(), turns.samples)


def first_1m(stage: Stage) -> Outcome:
    rounds = stage.rounds()
    turns = Rounds(0)
    with raw(stage) as descriptor:
        for _ in rounds:
            with cached_file(stage) as file:
                read_in_turns(turns, file, descriptor)
        with cached_file(stage) as file:
            offsets = range(0, file.size, MIB)
            same = compared(offsets, bytearray(MIB), raw=raw_reader(descriptor), fscache=file.pread_into)
    return Outcome([turns.ratio("fscache", "raw", at_most=2)], same, turns.times(), turns.samples)


def read_in_turns(turns: Rounds, file: blocking.BlockingFile, descriptor: int) -> None:
    """Both sides read the whole file once, 2 MiB by turns, from places half the file apart: what one side
    has just brought into the processor's cache must not help the other."""
    buffer = bytearray(MIB)
    read_raw, pread_into = raw_reader(descriptor), file.pread_into
    for start in range(0, file.size, 2 * MIB):
        with turns.timed("fscache", 2):
            pread_into(start, buffer)
            pread_into(start + MIB, buffer)
        start = (start + file.size // 2) % file.size
        with turns.timed("raw", 2):
            read_raw(start, buffer)
            read_raw(start + MIB, buffer)


def always_64k(stage: Stage) -> Outcome:
    buffer = bytearray(64 * KIB)
    rounds = stage.short_rounds()
    with cached_file(stage, verify="always") as file, raw(stage) as descriptor:
        read_raw, pread_into = raw_reader(descriptor), file.pread_into
        verify_all(file)
        last = file.size - 64 * KIB
        anywhere = random_offsets(last, step=1, count=10)
        blocks = random_offsets(last, step=64 * KIB, count=10)
        for _ in rounds:
            for where, batches in (("", anywhere), (", whole blocks", blocks)):
                offsets = next(batches)
                with rounds.timed(f"raw{where}", 10):
                    for offset in offsets:
                        read_raw(offset, buffer)
                offsets = next(batches)
                with rounds.timed(f"fscache{where}", 10):
                    for offset in offsets:
                        pread_into(offset, buffer)
        offsets = [offset for _ in range(10) for offset in (*next(anywhere), *next(blocks))]
        same = compared(offsets, buffer, raw=read_raw, fscache=pread_into)
    figures = [
        rounds.ratio("fscache", "raw", name="anywhere", at_most=2.5),
        rounds.ratio("fscache, whole blocks", "raw, whole blocks", name="whole blocks", at_most=2.5),
    ]
    return Outcome(figures, same, rounds.times(), rounds.samples)


# -- both sides --------------------------------------------------------------------------


def random_offsets(last: int, *, step: int, count: int) -> Iterator[list[int]]:
    """Batches of ``count`` multiples of ``step``, none above ``last``; the same in each run."""
    chooser = random.Random(1)
    while True:
        yield [step * chooser.randrange(last // step + 1) for _ in range(count)]


@contextmanager
def cached_file(stage: Stage, verify: str = "touch") -> Iterator[blocking.BlockingFile]:
    """The cached file, opened; nothing of it has been verified."""
    directory = stage.large_cache
    with blocking.open_fscache() as fscache:
        fscache.add_cache("cachefiles", dir=str(directory), verify=verify)
        fscache.add_netfs(MadeNetfs())
        with fscache.open_file(stage.large_url) as file:
            yield file
            (volume,) = fscache.volumes
            assert volume.stats.bytes_from_origin == 0, "not cached"


@contextmanager
def raw(stage: Stage) -> Iterator[int]:
    descriptor = os.open(stage.large_stored, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def raw_reader(descriptor: int) -> Callable[[int, bytearray], int]:
    preadv = os.preadv
    return lambda offset, buffer: preadv(descriptor, [buffer], offset)


def verify_all(file: blocking.BlockingFile) -> None:
    buffer = bytearray(MIB)
    for offset in range(0, file.size, len(buffer)):
        file.pread_into(offset, buffer)


def compared(
    offsets: Sequence[int],
    buffer: bytearray,
    digests: dict[str, str] | None = None,
    **sides: Callable[[int, bytearray], int],
) -> str:
    """Read everything once more, and compare what comes."""
    digests = dict(digests or {})
    for side, read in sides.items():
        digest = xxhash.xxh3_64()
        for offset in offsets:
            buffer[:] = bytes(len(buffer))
            digest.update(memoryview(buffer)[: read(offset, buffer)])
        digests[side] = digest.hexdigest()
    return the_same(f"{len(offsets)} reads", digests)


ROWS = (
    Row(
        "hit-4k",
        "4 KiB at random pages of a cached file, all verified before: BlockingFile.pread_into / os.preadv",
        hit_4k,
    ),
    Row(
        "hit-4k-async",
        "4 KiB at random pages of a cached file, all verified before: File.readinto / os.preadv",
        hit_4k_async,
    ),
    Row(
        "hit-1m",
        "1 MiB after 1 MiB of a cached file, all verified before: BlockingFile.pread_into / os.preadv",
        hit_1m,
    ),
    Row(
        "first-1m",
        "1 MiB after 1 MiB of a cached file, every block verified now: BlockingFile.pread_into / os.preadv",
        first_1m,
    ),
    Row(
        "always-64k",
        '64 KiB at random bytes, and whole blocks, verified before and at each read (verify="always"): '
        "pread_into / os.preadv",
        always_64k,
    ),
)
