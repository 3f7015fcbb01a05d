"""One of several processes that read, invalidate, retire and evict the same files in one cache directory.

    python worker.py CACHE ORIGIN SEED SECONDS [N_TASKS]

``ORIGIN`` is a directory with one file per name that holds the version the origin has now.  Every open
file must show one version from start to end, or be given up because the origin has gone on (ESTALE).
Prints one line ``reads=… stale=… fetched=…`` and exits 0, or 1 at the first wrong byte, naming it.
"""

import errno
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import trio
from cachefiles_session import Netfile, Session, bound  # type: ignore[import-not-found]

from fscache_cachefiles import cook_key
from fscache_cachefiles.place import Place
from fscache_core.cookie import Cookie
from fscache_core.errors import CallerError
from fscache_core.folio import PAGE_SIZE, page_count

SIZES = [0, 1, 3000, 4096, 20_000, 65_536, 65_537, 200_000, 700_001]


class StaleOriginError(Exception):
    """ESTALE: the origin has another version than the file was opened with."""


class WrongBytesError(Exception):
    pass


class Origin:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def names(self) -> list[str]:
        return sorted(os.listdir(self.directory))

    def version(self, name: str) -> int:
        return int.from_bytes((self.directory / name).read_bytes(), "little")

    def change(self, name: str) -> None:
        with (self.directory / name).open("r+b") as file:
            file.write((self.version(name) + 1).to_bytes(8, "little"))

    def size(self, name: str, version: int) -> int:
        return SIZES[(hash_of(name) + version // 7) % len(SIZES)]


def hash_of(name: str) -> int:
    return sum(name.encode())


class Worker:
    def __init__(
        self,
        session: Session,
        origin: Origin,
        rng: random.Random,
        deadline: float,
        note: Callable[[], None],
    ) -> None:
        self.session = session
        self.note = note  # a read was compared
        self.origin = origin
        self.rng = rng
        self.deadline = deadline
        self.n_reads = self.n_stale = self.n_fetched = 0

    async def run(self) -> None:
        while time.monotonic() < self.deadline:
            name = self.rng.choice(self.origin.names())
            version = self.origin.version(name)
            file = Netfile(name, self.origin.size(name, version), version)
            try:
                cookie = await self.session.open(file)
            except CallerError:  # another task of this process has it open
                await trio.lowlevel.checkpoint()
                continue
            try:
                for _ in range(self.rng.randrange(1, 4)):
                    await self.read_some(cookie, file)
                if self.rng.random() < 0.1:
                    cookie.invalidate()
                    await self.read_some(cookie, file)
            except StaleOriginError:
                self.n_stale += 1
            finally:
                await self.session.forget(cookie, retire=self.rng.random() < 0.1)
            self.n_fetched += file.n_fetched
            if self.rng.random() < 0.1:
                await trio.to_thread.run_sync(self.evict, self.rng.choice(self.origin.names()))

    def evict(self, name: str) -> None:
        """What a culler does to one object."""
        index = self.session.volume.object.index
        try:
            self.session.backend._bound().removal.cull(Place(index, cook_key(name.encode(), 1)))
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ESTALE):
                raise

    async def read_some(self, cookie: Cookie, file: Netfile) -> None:
        n_pages = page_count(file.size)
        first = self.rng.randrange(n_pages) if n_pages and self.rng.random() < 0.5 else 0
        count = (
            self.rng.randrange(1, n_pages - first + 1)
            if self.rng.random() < 0.5 and n_pages
            else n_pages - first
        )
        if count and len(await self.session.read_cached(cookie, first, count)) < count:
            if self.origin.version(file.name) != file.version:
                raise StaleOriginError
            await self.session.fill(cookie, first, count)
        content = file.content
        for index, data in (await self.session.read_cached(cookie, first, count)).items():
            if data != content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]:
                raise WrongBytesError(f"{file}: page {index}")
        size = min(count * PAGE_SIZE, file.size - first * PAGE_SIZE)
        if size > 0:
            resident = self.session.read_resident(cookie, first * PAGE_SIZE, size)
            if resident is not None and resident != content[first * PAGE_SIZE : first * PAGE_SIZE + size]:
                raise WrongBytesError(f"{file}: resident range at page {first}")
        self.n_reads += 1
        self.note()


async def main(
    cache: str,
    origin: str,
    seed: str,
    seconds: str,
    n_tasks: str = "4",
    *,
    note: Callable[[], None] = lambda: None,
) -> None:
    deadline = time.monotonic() + float(seconds)
    async with bound(cache, bstop=0, bcull=1, brun=2, fstop=0, fcull=1, frun=2) as session:
        workers = [
            Worker(session, Origin(Path(origin)), random.Random(f"{seed} {number}"), deadline, note)
            for number in range(int(n_tasks))
        ]
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(worker.run)
        broken = session.cache.broken
    print(
        f"reads={sum(worker.n_reads for worker in workers)} stale={sum(worker.n_stale for worker in workers)}"
        f" fetched={sum(worker.n_fetched for worker in workers)} broken={int(broken)}"
    )


if __name__ == "__main__":
    trio.run(lambda: main(*sys.argv[1:]))
