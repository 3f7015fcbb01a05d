"""What it costs that a cache holds many objects."""

from __future__ import annotations

import json
import random
import resource
import statistics
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

from benchmarks.made import MadeNetfs, made_bytes
from benchmarks.memory import resident_size
from benchmarks.rounds import Rounds
from benchmarks.row import Figure, Outcome, Row
from benchmarks.stage import run_python
from fscache_core import open_fscache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from benchmarks.stage import Stage
    from fscache_core import FsCache

SIZE = 4 << 10
FEW = 100


def many(stage: Stage) -> int:
    return 1_000 if stage.quick else 100_000


def url(name: object) -> str:
    return f"made://{SIZE}/{name}"


def crowded_cache(stage: Stage) -> Path:
    """A cache directory with many objects, made once."""
    directory = stage.directory / "crowded"
    if not directory.exists():
        # Two processes, because most of the work is done with the interpreter's lock held.
        half, filling = many(stage) // 2, stage.new_path("filling")
        fill = partial(run_python, "benchmarks.population", "fill", filling)
        trio.run(_together, [partial(fill, 0, half), partial(fill, half, many(stage))])
        filling.rename(directory)
    return directory


async def _together(work: Sequence[partial[str]]) -> None:
    async with trio.open_nursery() as nursery:
        for each in work:
            nursery.start_soon(trio.to_thread.run_sync, each)


async def fill(directory: str, start: str, stop: str) -> None:
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        fscache.add_netfs(MadeNetfs())
        names = iter(range(int(start), int(stop)))

        async def filler() -> None:
            for name in names:
                await read_and_store(fscache, url(name))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(filler)


async def read_and_store(fscache: FsCache, address: str) -> bytes:
    async with await fscache.open_file(address) as file:
        data = await file.read(0, SIZE)
        await file.inode.wait_stored()
    return data


# -- index -------------------------------------------------------------------------------


def index(stage: Stage) -> Outcome:
    crowded, sparse = crowded_cache(stage), stage.new_path("sparse")
    trio.run(fill, str(sparse), "0", str(FEW))
    rounds, turns = stage.rounds(), Rounds(0)
    for number in rounds:
        trio.run(_hits_and_misses, turns, {"few": sparse, "many": crowded}, number, many(stage) // FEW)
    figures = [
        turns.ratio(f"{what}, many", f"{what}, few", name=what, at_most=1.2) for what in ("hit-open", "miss")
    ]
    same = f"{len(turns.samples['miss, few']) * 4} files of {SIZE} bytes, each equal to what the origin made"
    return Outcome(figures, same, turns.times(), turns.samples)


async def _hits_and_misses(rounds: Rounds, directories: dict[str, Path], number: int, step: int) -> None:
    """By turns in both caches, open files that this process has not opened, read and close them."""
    async with AsyncExitStack() as stack:
        caches: dict[str, FsCache] = {}
        for side, directory in directories.items():
            caches[side] = fscache = await stack.enter_async_context(open_fscache())
            await fscache.add_cache("cachefiles", dir=str(directory))
            fscache.add_netfs(MadeNetfs())
            await read_and_store(fscache, url(FEW - 1))  # attaches the volume
        for at in random.Random(number).sample(range(FEW - 1), 50):
            for side, fscache in caches.items():
                held = at if side == "few" else at * step  # of many, from anywhere among them
                with rounds.timed(f"hit-open, {side}"):
                    async with await fscache.open_file(url(held)) as file:
                        data = await file.read(0, SIZE)
                assert data == made_bytes(str(held), SIZE), "wrong bytes"
        for fscache in caches.values():
            (volume,) = fscache.volumes
            assert volume.stats.bytes_from_origin == 0, "not cached"
        for at in range(50):
            for side, fscache in caches.items():
                new = f"new {number} {at}"
                with rounds.timed(f"miss, {side}"):
                    data = await read_and_store(fscache, url(new))
                assert data == made_bytes(new, SIZE), "wrong bytes"


# -- start -------------------------------------------------------------------------------


def start(stage: Stage) -> Outcome:
    crowded, empty = crowded_cache(stage), stage.new_path("empty")
    rounds, memory = stage.rounds(), stage.rounds()
    for number in range(-1, stage.n_rounds):
        for side, directory in (("empty", empty), ("many", crowded)):
            seconds, size = json.loads(run_python("benchmarks.population", "opened", directory))
            if number >= 0:
                rounds.note(side, seconds)
                memory.note(side, size)
    figures = [
        rounds.ratio("many", "empty", name="time", at_most=1.2),
        memory.ratio("many", "empty", name="memory", at_most=1.2),
    ]
    sides = rounds.times() | {
        f"{side}, memory": f"{memory.median(side) / 1024:.0f} KiB" for side in ("empty", "many")
    }
    samples = rounds.samples | {f"{side}, memory": sample for side, sample in memory.samples.items()}
    return Outcome(figures, "nothing is read", sides, samples)


async def opened(directory: str) -> None:
    """Print what opening a cache takes: seconds, the median of the later times, so without those for imports,
    and bytes of memory the first time."""
    before = resident_size()
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        size = resident_size() - before
    times = []
    for _ in range(25):  # each takes so little time that most are undisturbed
        started = time.perf_counter()
        async with open_fscache() as fscache:
            await fscache.add_cache("cachefiles", dir=directory)
            times.append(time.perf_counter() - started)
    print(json.dumps([statistics.median(times), size]))


# -- memory ------------------------------------------------------------------------------


def memory(stage: Stage) -> Outcome:
    n_open = 300 if stage.quick else 2_000
    crowded, empty = crowded_cache(stage), stage.new_path("empty")
    n_rounds = 1 if stage.quick else 3  # not timed: hardly differs from round to round
    opening, resting = Rounds(n_rounds), Rounds(n_rounds)
    for _ in opening:
        for side, directory in (("empty", empty), ("many", crowded)):
            resting.note(side, json.loads(run_python("benchmarks.population", "resting", empty, directory)))
        held, same = json.loads(run_python("benchmarks.population", "held", crowded, n_open))
        opening.note("open", held / n_open)
        assert same, "wrong bytes"
    per_object = (resting.median("many") - resting.median("empty")) / many(stage)
    figures = [
        Figure("open", opening.median("open") / 1024, at_most=8, unit=" KiB"),
        Figure("not open", round(per_object, 1), at_most=0, unit=" B"),
    ]
    same_bytes = f"{n_open} files of {SIZE} bytes, each equal to what the origin made"
    return Outcome(figures, same_bytes, {"objects open": str(n_open)}, opening.samples | resting.samples)


async def resting(warm_up: str, directory: str) -> None:
    """Print the bytes of memory that an open cache takes, in a process that has opened another before: what
    comes with the first, threads and their heaps, differs from time to time by more than is looked for."""
    for _ in range(10):
        async with open_fscache() as fscache:
            await fscache.add_cache("cachefiles", dir=warm_up)
    before = resident_size()
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        print(resident_size() - before)


async def held(directory: str, n_open: str) -> None:
    """Print the bytes of memory that so many open files take, and whether they had the right bytes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with open_fscache() as fscache:
        await fscache.add_cache("cachefiles", dir=directory)
        fscache.add_netfs(MadeNetfs())
        files = []
        same = True
        for name in range(int(n_open) + 100):
            if name == 100:  # what the first ones bring with them is not theirs
                before = resident_size()
            file = await fscache.open_file(url(name))
            same &= await file.read(0, SIZE) == made_bytes(str(name), SIZE)
            files.append(file)
        size = resident_size() - before
        for file in files:
            await file.aclose()
    print(json.dumps([size, same]))


ROWS = (
    Row(
        "index",
        "a file opened for the first time, read, closed: with 100 000 objects in the cache / with 100; a "
        "miss is stored too",
        index,
    ),
    Row("start", "opening a cache with 100 000 objects / an empty one: time, and memory it takes", start),
    Row("memory", "resident memory per open object of 4 KiB, and per cached object that is not open", memory),
)

if __name__ == "__main__":
    tasks: dict[str, Callable[..., Awaitable[None]]] = {
        "fill": fill,
        "opened": opened,
        "resting": resting,
        "held": held,
    }
    trio.run(tasks[sys.argv[1]], *sys.argv[2:])
