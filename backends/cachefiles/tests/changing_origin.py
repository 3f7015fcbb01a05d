"""Eight processes read, invalidate and retire the same files while the origin changes them all the time.

    python changing_origin.py [--seconds 60] [--kind ext4 ...] [--processes 8] [--files 50] [--seed 1]

Through `open_fscache` and an HTTP origin that counts.  Each process runs four tasks.  Every open file must
show one version from start to end, not older than the one that the origin had before it was opened, or
raise ESTALE.  Ends with a check that every file can be stored and is there for the next process.
Prints what was done and found for each kind of filesystem; exit status 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import random
import re
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

import findings  # type: ignore[import-not-found]
import trio
from cachefiles_session import content_of  # type: ignore[import-not-found]
from kills import Tally  # type: ignore[import-not-found]

from fscache_core import FsCache, StaleError, open_fscache
from fscache_core.testing.filesystems import FILESYSTEM_KINDS, loop_mount, why_unavailable
from fscache_core.testing.http_origin import CountingOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fscache_core import File

SIZES = [16, 3000, 4096, 20_000, 65_536, 65_537, 200_000, 700_001]
HEAD = struct.Struct("<QQ")  # version, size
N_TASKS = 4
#: What a process notes in memory that all share.
READS, OPENS, STALE = range(3)


def bytes_of(name: str, version: int) -> bytes:
    """One version of a file.  It begins with its number, and no other bytes repeat in another version."""
    size = SIZES[(sum(name.encode()) + version // 7) % len(SIZES)]
    body: bytes = content_of(name, version, size - HEAD.size)
    return HEAD.pack(version, size) + body


class WrongBytesError(Exception):
    pass


class Newest:
    """The version that the origin is known to have, by file, in memory that all processes share."""

    def __init__(self, n_files: int) -> None:
        self._memory = mmap.mmap(-1, 8 * n_files)

    def __getitem__(self, number: int) -> int:
        (version,) = struct.unpack_from("Q", self._memory, 8 * number)
        return int(version)

    def __setitem__(self, number: int, version: int) -> None:
        struct.pack_into("Q", self._memory, 8 * number, version)


class Reader:
    """One process."""

    def __init__(
        self, fscache: FsCache, url: str, newest: Newest, n_files: int, tally: list[Tally], slot: int
    ) -> None:
        self.fscache = fscache
        self.url = url
        self.newest = newest
        self.n_files = n_files
        self.tally = tally
        self.slot = slot

    async def run(self, rng: random.Random, deadline: float) -> None:
        # Longer on a machine where nobody came to read anything in that time.
        while time.monotonic() < deadline or not self.tally[READS].total():
            number = rng.randrange(self.n_files)
            name = f"file{number}"
            if rng.random() < 0.05:
                volume = await self.fscache.open_volume(self.url)
                await volume.invalidate(f"/{name}")  # deletes what is stored, whoever reads it
                continue
            oldest = self.newest[number]
            try:
                async with await self.fscache.open_file(self.url + name, reopen="never") as file:
                    self.tally[OPENS].note(self.slot)
                    await self.read(file, name, oldest, rng)
            except StaleError:
                self.tally[STALE].note(self.slot)

    async def read(self, file: File, name: str, oldest: int, rng: random.Random) -> None:
        version, size = HEAD.unpack(await file.read(0, HEAD.size))
        expected = bytes_of(name, version)
        if version < oldest or size != len(expected) or file.size != size:
            raise WrongBytesError(
                f"{name}: version {version} of {file.size} bytes; {oldest} was there before"
            )
        for _ in range(rng.randrange(1, 5)):
            offset = rng.randrange(size)
            length = rng.choice((1, 4096, 65_536, size))
            if await file.read(offset, length) != expected[offset : offset + length]:
                raise WrongBytesError(f"{name}: version {version}, {length} bytes at {offset}")
            self.tally[READS].note(self.slot)
            await trio.lowlevel.checkpoint()


def start(log: Path, run: object) -> int:
    """Fork; what the child complains about goes to ``log``."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        trio.run(run)  # type: ignore[arg-type]
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def change_while_reading(
    directory: Path, *, seconds: float, processes: int, files: int, seed: int
) -> tuple[dict[str, int], str]:
    """What was found, and what the processes complained of."""
    names = ("files opened", "reads checked", "opens that ended with ESTALE", "versions changed")
    found = dict.fromkeys((*names, "blocks found damaged", *findings.FAULTS), 0)
    tally, newest = [Tally(processes * N_TASKS) for _ in range(3)], Newest(files)
    ready, go = os.pipe()  # children are forked before the origin has threads
    log = directory.with_name("log")
    log.touch()
    alive: list[int] = []
    for number in range(processes):

        async def read(number: int = number) -> None:
            url = await trio.to_thread.run_sync(os.read, ready, 100)
            deadline = time.monotonic() + seconds
            async with open_fscache() as fscache, trio.open_nursery() as nursery:
                cache = await fscache.add_cache("cachefiles", dir=str(directory), bstop=0, bcull=1, brun=2)
                for task in range(N_TASKS):
                    slot = number * N_TASKS + task
                    reader = Reader(fscache, url.decode().strip(), newest, files, tally, slot)
                    nursery.start_soon(reader.run, random.Random(f"{seed} {slot}"), deadline)
            if cache.broken:
                print("cache not usable")

        alive.append(start(log, read))
    rng = random.Random(seed)
    versions = [1] * files
    with CountingOrigin() as origin:
        for number in range(files):
            origin.put(f"file{number}", bytes_of(f"file{number}", 1))
        for _ in range(processes):
            os.write(go, origin.url("").ljust(100).encode())
        began = time.monotonic()
        while alive:
            # Ever less often when the time is over: somebody may be waiting for a version that lasts.
            slowness = max(1.0, (time.monotonic() - began) / (seconds + 5)) ** 2
            time.sleep(slowness * rng.expovariate(1 / 0.005))
            number = rng.randrange(files)
            versions[number] += 1
            origin.put(f"file{number}", bytes_of(f"file{number}", versions[number]))
            newest[number] = versions[number]
            found["versions changed"] += 1
            for pid in list(alive):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    alive.remove(pid)
                    found["exceptions"] += status != 0
        try:
            trio.run(read_all, directory, origin, versions)
        except Exception:
            traceback.print_exc()
            found["caches not usable"] += 1
    os.close(ready)
    os.close(go)
    complaints = log.read_text()
    found["reads checked"], found["files opened"] = tally[READS].total(), tally[OPENS].total()
    found["opens that ended with ESTALE"] = tally[STALE].total()
    found["wrong bytes"] = len(re.findall("WrongBytesError:", complaints))
    found["caches not usable"] += complaints.count("cache not usable")
    found["blocks found damaged"] = complaints.count("does not match its checksum")
    return found, complaints


async def read_all(directory: Path, origin: CountingOrigin, versions: list[int]) -> None:
    """Afterwards every file can be read and stored, and the next process need not fetch it."""
    for turn in range(2):
        sent = origin.bytes_sent
        async with open_fscache() as fscache:
            cache = await fscache.add_cache("cachefiles", dir=str(directory), bstop=0, bcull=1, brun=2)
            for number, version in enumerate(versions):
                async with await fscache.open_file(origin.url(f"file{number}")) as file:
                    assert await file.read(0, file.size) == bytes_of(f"file{number}", version)
            assert not cache.broken
        assert turn == 0 or origin.bytes_sent == sent, f"{origin.bytes_sent - sent} bytes fetched again"


@contextlib.contextmanager
def place_for(kind: str | None, scratch: Path) -> Iterator[Path]:
    """A cache directory on a filesystem of that kind, or where ``scratch`` is."""
    if kind is None:
        yield scratch / "cache"
        return
    with loop_mount(kind, 512 << 20, scratch) as mount:  # type: ignore[arg-type]
        yield mount.path / "cache"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kind", nargs="+", choices=FILESYSTEM_KINDS, help="default: where --directory is")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    findings.add_json_option(parser)
    arguments = parser.parse_args()
    found: Counter[str] = Counter()
    complaints = ""
    for kind in arguments.kind or (None,):
        if kind is not None and (why := why_unavailable(kind)) is not None:
            print(f"{kind}: skipped, {why}", file=sys.stderr)
            continue
        with (
            tempfile.TemporaryDirectory(dir=arguments.directory) as scratch,
            place_for(kind, Path(scratch)) as directory,
        ):
            part, text = change_while_reading(
                directory,
                seconds=arguments.seconds,
                processes=arguments.processes,
                files=arguments.files,
                seed=arguments.seed,
            )
        found.update(part)
        complaints += text[:4000]
    return int(findings.report(found, as_json=arguments.json, complaints=complaints))


if __name__ == "__main__":
    sys.exit(main())
