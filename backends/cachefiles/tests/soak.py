"""Kill processes that share a cache directory, at random instants, while the origin changes.

    python soak.py [--kills 1000] [--processes 8] [--files 50] [--seed 1] [DIRECTORY]

Each process runs four tasks that read, fill, invalidate and retire; the parent changes versions at
the origin every few milliseconds, kills a process with SIGKILL at a random instant and starts another.
Ends with a check of the whole cache by a fresh process.  Prints what it did and what it found; exit
status 1 if any byte was wrong, a reader got an exception, or the cache was not usable afterwards.
"""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import trio
from cachefiles_session import Netfile, bound, content_of  # type: ignore[import-not-found]
from worker import Origin  # type: ignore[import-not-found]
from worker import main as worker_main

from fscache_core.folio import PAGE_SIZE

OPTIONS = {"bstop": 0, "bcull": 1, "brun": 2, "fstop": 0, "fcull": 1, "frun": 2}


def start(cache: Path, origin: Path, seed: str, log: Path) -> int:
    """Fork a worker; its report and what it complains about go to ``log``."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        trio.run(worker_main, str(cache), str(origin), seed, "1000000")
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


def soak(directory: Path, *, kills: int, processes: int, files: int, seed: int) -> dict[str, object]:
    cache, origin_directory = directory / "cache", directory / "origin"
    origin_directory.mkdir()
    for number in range(files):
        (origin_directory / f"file{number}").write_bytes(bytes(8))
    origin = Origin(origin_directory)
    rng = random.Random(seed)
    log = directory / "log"
    log.touch()
    alive: list[int] = []
    n_started = n_changes = n_failed = 0

    def begin() -> None:
        nonlocal n_started
        n_started += 1
        alive.append(start(cache, origin_directory, f"{seed} {n_started}", log))

    for _ in range(processes):
        begin()
    killed = 0
    started_at = time.monotonic()
    try:
        while killed < kills:
            time.sleep(rng.expovariate(1 / 0.02))
            origin.change(rng.choice(origin.names()))
            n_changes += 1
            if rng.random() < 0.4:
                victim = alive.pop(rng.randrange(len(alive)))
                os.kill(victim, signal.SIGKILL)
                _, status = os.waitpid(victim, 0)
                n_failed += not os.WIFSIGNALED(status)
                killed += 1
                begin()
            for pid in list(alive):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    alive.remove(pid)
                    n_failed += 1
                    begin()
    finally:
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    n_pages, n_wrong = trio.run(check, cache, origin)
    complaints = log.read_text()
    return {
        "kills": killed,
        "processes started": n_started,
        "versions changed": n_changes,
        "pages compared at the end": n_pages,
        "processes that failed": n_failed,
        "pages wrong at the end": n_wrong,
        "complaints": len(re.findall("Traceback|WrongBytes", complaints)),
        "blocks found damaged": complaints.count("does not match its checksum"),
        "graves left": len(os.listdir(cache / "graveyard")),
        "seconds": round(time.monotonic() - started_at, 1),
        "log": complaints[:4000],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("directory", nargs="?", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as scratch:
        found = soak(
            Path(scratch),
            kills=arguments.kills,
            processes=arguments.processes,
            files=arguments.files,
            seed=arguments.seed,
        )
    log = found.pop("log")
    for name, value in found.items():
        print(f"{name:28} {value}")
    if log:
        print(log)
    bad = ("processes that failed", "pages wrong at the end", "complaints")
    return int(any(found[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
