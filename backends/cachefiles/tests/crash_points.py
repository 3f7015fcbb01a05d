"""Die, or be told of a failure, at every system call of filling, replacing, burying and evicting an object.

    python crash_points.py SCENARIO MODE [DIRECTORY]

A child prepares a cache, then runs the scenario until its n-th system call: there it is killed (``kill``),
killed in the middle of a write (``torn``), or the call fails with ``EIO`` or ``ENOSPC``.  A second child then
checks that every byte read is right, that nobody gets an exception, and that the cache works.  n runs from 1
until the scenario ends by itself.  Prints the number of points; exit status 1 at the first that fails.

The calls are those the package makes through `os`, `fcntl` and pyxattr, counted in every thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import trio
import xattr
from cachefiles_session import Netfile, Session, bound  # type: ignore[import-not-found]

from fscache_cachefiles import cook_key
from fscache_cachefiles.backing import Place
from fscache_core.folio import PAGE_SIZE, page_count

SMALL, LARGE = 10_000, 200_000
# Dying before a call that changes nothing is dying before the next one that does.
CHANGING = {
    os: "open mkdir rename unlink rmdir link ftruncate pwrite utime posix_fallocate",
    fcntl: "flock fcntl",
    xattr: "set remove",
}
ASKING = {os: "preadv pread stat listdir fstatvfs", xattr: "get"}
Scenario = Callable[[Session, int], Awaitable[None]]


class Interposer:
    """Counts system calls of the package and does something else instead of the n-th."""

    def __init__(self, n: int, mode: str) -> None:
        self.n, self.mode = n, mode
        self.dies = mode in ("kill", "torn")
        self.count = 0
        self.lock = threading.Lock()

    def install(self) -> None:
        for module, names in (*CHANGING.items(), *(() if self.dies else ASKING.items())):
            for name in names.split():
                setattr(module, name, self.wrapped(name, getattr(module, name)))

    def wrapped(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if not str(sys._getframe(1).f_globals["__name__"]).startswith("fscache_cachefiles"):
                return real(*args, **kwargs)
            with self.lock:
                self.count += 1
                due = self.count == self.n
            if due:
                if self.mode == "torn" and name == "pwrite":
                    descriptor, data, offset = args
                    view = memoryview(data)  # type: ignore[arg-type]
                    real(descriptor, view[: len(view) // 2], offset)
                if self.dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                number = getattr(errno, self.mode)
                raise OSError(number, f"{os.strerror(number)} (injected into {name})")
            return real(*args, **kwargs)

        return call


async def fill(session: Session, version: int) -> None:
    for name, size in (("small", SMALL), ("large", LARGE), ("empty", 0)):
        file = Netfile(name, size, version)
        cookie = await session.open(file)
        await session.fill(cookie, 0, min(2, page_count(size)))
        assert await session.read(cookie) == file.content
        await session.close(cookie)


async def replace(session: Session, version: int) -> None:
    await fill(session, version + 1)


async def relabel(session: Session, version: int) -> None:
    for name, size in (("small", SMALL), ("large", LARGE)):
        file = Netfile(name, size, version)
        cookie = await session.open(file)
        cookie.update()
        await session.read(cookie)
        await session.close(cookie)


async def resize(session: Session, version: int) -> None:
    for name, size, new_size in (("small", SMALL, LARGE), ("large", LARGE, SMALL)):
        file = Netfile(name, size, version)
        cookie = await session.open(file)
        file.size, file.name = new_size, f"{name}"
        file.version = version + 1
        cookie.attr_changed()
        cookie.invalidate()
        assert await session.read(cookie) == file.content
        await session.close(cookie)


async def invalidate(session: Session, version: int) -> None:
    for name, size in (("small", SMALL), ("large", LARGE), ("empty", 0)):
        file = Netfile(name, size, version)
        cookie = await session.open(file)
        file.version += 1
        cookie.invalidate()
        assert await session.read(cookie) == file.content
        await session.close(cookie)


async def retire(session: Session, version: int) -> None:
    for name, size in (("small", SMALL), ("large", LARGE), ("empty", 0)):
        cookie = await session.open(Netfile(name, size, version))
        await session.close(cookie, retire=True)


async def promise(session: Session, version: int) -> None:
    for name, size in (("small", SMALL), ("large", LARGE), ("new", LARGE)):
        file = Netfile(name, size, version)
        cookie = await session.open(file)
        await cookie.pin()
        await cookie.reserve_space(size)
        assert await session.read(cookie) == file.content
        await cookie.reserve_space(0)
        await cookie.unpin()
        await session.close(cookie)


async def evict(session: Session, version: int) -> None:
    """What a culler does: one object is in use, the others are not."""
    used = await session.open(Netfile("small", SMALL, version))
    await trio.to_thread.run_sync(_cull_all, session)
    assert await session.read(used) == used.netfs_data.content
    await session.close(used)


def _cull_all(session: Session) -> None:
    if session.cache.broken:
        return
    work = session.backend._bound()
    index = session.volume.object.index
    for name in ("small", "large", "empty"):
        place = Place(index, cook_key(name.encode(), 1))
        try:
            work.namei.cull(place)
        except OSError as error:
            if error.errno == errno.EIO:
                session.cache.io_error(str(error))


SCENARIOS: dict[str, tuple[bool, Scenario]] = {  # whether version 1 is stored before; what is done
    "fill": (False, fill),
    "reread": (True, fill),
    "replace": (True, replace),
    "relabel": (True, relabel),
    "resize": (True, resize),
    "invalidate": (True, invalidate),
    "retire": (True, retire),
    "promise": (True, promise),
    "evict": (True, evict),
}
OPTIONS = {"bstop": 0, "bcull": 1, "brun": 2, "fstop": 0, "fcull": 1, "frun": 2}


async def act(cache: Path, scenario: str, n: int, mode: str) -> None:
    stored_before, action = SCENARIOS[scenario]
    if stored_before:
        async with bound(cache, **OPTIONS) as session:
            await fill(session, 1)
    async with bound(cache, **OPTIONS) as session:
        interposer = Interposer(n, mode)
        interposer.install()
        await action(session, 1)
    if interposer.count < n:
        os._exit(42)  # there is no n-th call


async def check(cache: Path) -> None:
    """What is stored of any version is right, can be completed, and is then there."""
    for turn, version in enumerate((1, 2, 2)):
        async with bound(cache, verify="always", **OPTIONS) as session:
            for name, size in (("small", SMALL), ("large", LARGE), ("empty", 0), ("new", LARGE)):
                file = Netfile(name, size, version)
                cookie = await session.open(file)
                for index, data in (await session.read_cached(cookie)).items():
                    assert data == file.content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE], (
                        name,
                        index,
                    )
                assert await session.read(cookie) == file.content
                assert len(await session.read_cached(cookie)) == page_count(size)
                assert turn < 2 or file.n_fetched == 0
                await session.close(cookie)
    async with bound(cache, **OPTIONS) as session:
        drift = session.backend.recount()
        assert drift.n_files >= 0, drift
        assert drift.n_bytes >= 0, drift
    assert os.listdir(cache / "graveyard") == []


def run(function: Callable[[], Awaitable[None]], log: Path) -> int:
    """In a child: 0, or 1 with a traceback in the log, or the child's own status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            trio.run(function)
            status = 0
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def enumerate_points(scenario: str, mode: str, directory: Path) -> int:
    """How many points there were.  Raises `AssertionError` for one that fails."""
    n = 0
    while True:
        n += 1
        cache, log = directory / f"cache{n}", directory / f"log{n}"
        status = run(lambda c=cache, k=n: act(c, scenario, k, mode), log)  # type: ignore[misc]
        expected = (-signal.SIGKILL, 42) if mode in ("kill", "torn") else (0, 42)
        if status not in expected:
            raise AssertionError(f"{scenario} {mode} {n}: ended with {status}\n{log.read_text()}")
        if run(lambda c=cache: check(c), log):  # type: ignore[misc]
            raise AssertionError(f"{scenario} {mode} {n}: afterwards\n{log.read_text()}")
        shutil.rmtree(cache)
        if status == 42:
            return n - 1


def main(scenario: str, mode: str, directory: str | None = None) -> int:
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        try:
            n_points = enumerate_points(scenario, mode, Path(scratch))
        except AssertionError as error:
            print(error)
            return 1
    print(f"{scenario} {mode}: {n_points} points")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
