"""Kill processes that share a cache directory, at random instants, while the origin changes.

    python kills.py [--kills 1000] [--processes 8] [--files 50] [--seed 1] [--directory DIRECTORY]

Each process runs four tasks that read, fill, invalidate, retire and evict; the parent changes versions at
the origin every few milliseconds, kills a process with SIGKILL at a random instant and starts another.
Ends with a check of the whole cache by a fresh process.  Prints what it did and what it found; exit
status 1 if any byte was wrong, a reader got an exception, or the cache was not usable afterwards.
"""

import argparse
import mmap
import os
import random
import re
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import findings  # type: ignore[import-not-found]
import trio
from cachefiles_session import Netfile, bound, content_of  # type: ignore[import-not-found]
from worker import Origin  # type: ignore[import-not-found]
from worker import main as worker_main

from fscache_core.folio import PAGE_SIZE

OPTIONS = {"bstop": 0, "bcull": 1, "brun": 2, "fstop": 0, "fcull": 1, "frun": 2}


class Tally:
    """Reads that were compared, counted in memory that survives the process that counts."""

    def __init__(self, n_slots: int) -> None:
        self._memory = mmap.mmap(-1, 8 * n_slots)

    def note(self, slot: int) -> None:
        """One process at a time has a slot."""
        (count,) = struct.unpack_from("Q", self._memory, 8 * slot)
        struct.pack_into("Q", self._memory, 8 * slot, count + 1)

    def total(self) -> int:
        return sum(count for (count,) in struct.iter_unpack("Q", self._memory[:]))


def start(cache: Path, origin: Path, seed: str, log: Path, tally: Tally, slot: int) -> int:
    """Fork a worker; its report and what it complains about go to ``log``."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        trio.run(lambda: worker_main(str(cache), str(origin), seed, "1000000", note=lambda: tally.note(slot)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


async def check(cache: Path, origin: Origin) -> tuple[int, int]:
    """Compare all that is stored with the version its label names: (pages compared, pages that are wrong).

    Then the present version of every file can be read and stored, and is there for the next process.
    """
    n_pages = n_wrong = 0
    async with bound(cache, verify="always", **OPTIONS) as session:
        for name in origin.names():
            adopted = await session.adopt(name)
            if adopted is None:
                continue
            cookie, version = adopted
            content = content_of(name, version, cookie.object_size)
            for index, data in (await session.read_cached(cookie)).items():
                n_pages += 1
                n_wrong += data != content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
    for turn in range(2):
        async with bound(cache, **OPTIONS) as session:
            for name in origin.names():
                version = origin.version(name)
                file = Netfile(name, origin.size(name, version), version)
                n_wrong += await session.read(await session.open(file)) != file.content
                if turn and file.n_fetched:
                    raise AssertionError(f"{name} was not cached although it was just stored")
    return n_pages, n_wrong


def is_usable(cache: Path, origin: Origin, found: dict[str, int]) -> None:
    """`check`, into the findings."""
    try:
        n_pages, n_wrong = trio.run(check, cache, origin)
    except Exception:
        traceback.print_exc()
        found["caches not usable"] += 1
    else:
        found["pages compared at the end"] += n_pages
        found["wrong bytes"] += n_wrong


def kill_at_random(
    directory: Path, *, kills: int, processes: int, files: int, seed: int
) -> tuple[dict[str, int], str]:
    """What was found, and what the processes complained of."""
    cache, origin_directory = directory / "cache", directory / "origin"
    origin_directory.mkdir()
    for number in range(files):
        (origin_directory / f"file{number}").write_bytes(bytes(8))
    origin = Origin(origin_directory)
    rng = random.Random(seed)
    log = directory / "log"
    log.touch()
    alive: dict[int, int] = {}  # slot: pid
    tally = Tally(processes)
    names = ("kills", "processes started", "versions changed", "reads checked", "pages compared at the end")
    found = dict.fromkeys((*names, "blocks found damaged", *findings.FAULTS), 0)

    def begin(slot: int) -> None:
        found["processes started"] += 1
        seed_of_its_own = f"{seed} {found['processes started']}"
        alive[slot] = start(cache, origin_directory, seed_of_its_own, log, tally, slot)

    for slot in range(processes):
        begin(slot)
    try:
        # On a machine where none lives long enough to read, the last ones may.
        while found["kills"] < kills or not tally.total():
            time.sleep(rng.expovariate(1 / 0.02))
            origin.change(rng.choice(origin.names()))
            found["versions changed"] += 1
            if found["kills"] < kills and rng.random() < 0.4:
                slot = rng.randrange(processes)
                os.kill(alive[slot], signal.SIGKILL)
                _, status = os.waitpid(alive[slot], 0)
                found["exceptions"] += not os.WIFSIGNALED(status)
                found["kills"] += 1
                begin(slot)
            for slot, pid in list(alive.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    found["exceptions"] += 1
                    begin(slot)
    finally:
        for pid in alive.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    is_usable(cache, origin, found)
    complaints = log.read_text()
    found["reads checked"] = tally.total()
    found["wrong bytes"] += complaints.count("WrongBytesError:")
    found["exceptions"] = max(found["exceptions"], len(re.findall("Traceback", complaints)))
    found["blocks found damaged"] = complaints.count("does not match its checksum")
    found["caches not usable"] += len(os.listdir(cache / "graveyard"))
    return found, complaints


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    findings.add_json_option(parser)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        found, complaints = kill_at_random(
            Path(scratch),
            kills=arguments.kills,
            processes=arguments.processes,
            files=arguments.files,
            seed=arguments.seed,
        )
    return int(findings.report(found, as_json=arguments.json, complaints=complaints[:4000]))


if __name__ == "__main__":
    sys.exit(main())
