"""Die, or be told of a failure, at every system call of filling, replacing, burying and evicting an object.

    python crash_points.py [--scenario fill ...] [--mode kill ...] [--kind xfs ...] [--without-tmpfile]
                           [--every 1] [--jobs 2] [--directory DIRECTORY]

A child runs the scenario, in a cache that was prepared for it, until its n-th system call: there it is
killed (``kill``), killed in the middle of a write (``torn``), or the call fails with ``EIO``, ``ENOSPC`` or
``EMFILE`` (of which only the first may stop the cache).  A second child then checks that every byte read is
right, that nobody gets an exception, and that the cache works.  n runs from 1 until the scenario ends by
itself; with ``--every`` over a part of these.  ``--kind`` names filesystems to do it on, instead of that of
the directory; with ``--without-tmpfile`` they know no files without a name.  Prints what was done and found;
exit status 1 if anything was wrong, with the points and tracebacks on standard error.

The calls are those the package makes through `os`, `fcntl` and pyxattr, in every thread.  Dying before
a call that only asks is dying before the next one that does not; ENOSPC and EMFILE come from the calls that
can say so, EIO from all.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import findings  # type: ignore[import-not-found]
import trio
import xattr
from cachefiles_session import Netfile, Session, bound  # type: ignore[import-not-found]

from fscache_cachefiles import cook_key
from fscache_cachefiles.place import Place
from fscache_core.folio import PAGE_SIZE, page_count
from fscache_core.testing.filesystems import FILESYSTEM_KINDS, loop_mount

SMALL, LARGE = 10_000, 200_000
CHANGING = {
    os: "open mkdir rename unlink rmdir link ftruncate pwrite utime posix_fallocate",
    fcntl: "flock fcntl",
    xattr: "set remove",
}
ASKING = {os: "preadv pread stat listdir fstatvfs", xattr: "get"}
CALLS = {
    "kill": [*CHANGING.items()],
    "torn": [(os, "pwrite")],
    "EIO": [*CHANGING.items(), *ASKING.items()],
    "ENOSPC": [(os, "open mkdir rename link ftruncate pwrite posix_fallocate"), (xattr, "set")],
    "EMFILE": [(os, "open dup listdir")],
}
MODES = list(CALLS)
Scenario = Callable[[Session, int], Awaitable[None]]


class Interposer:
    """Counts system calls of the package and does something else instead of the n-th."""

    def __init__(self, n: int, mode: str) -> None:
        self.n, self.mode = n, mode
        self.dies = mode in ("kill", "torn")
        self.count = 0
        self.lock = threading.Lock()

    def install(self) -> None:
        for module, names in CALLS[self.mode]:
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


def refuse_tmpfile() -> None:
    """From now on in this process, as on a filesystem that has no files without a name."""
    real = os.open

    def refusing(path: str, flags: int, *arguments: int, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *arguments, dir_fd=dir_fd)

    os.open = refusing  # type: ignore[assignment]


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
    if session.cache.broken or session.volume.object is None:
        return  # its directory could not be opened
    work = session.backend._bound()
    index = session.volume.object.index
    for name in ("small", "large", "empty"):
        place = Place(index, cook_key(name.encode(), 1))
        try:
            work.removal.cull(place)
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


async def prepare(cache: Path, scenario: str) -> None:
    if SCENARIOS[scenario][0]:
        async with bound(cache, **OPTIONS) as session:
            await fill(session, 1)


async def act(cache: Path, scenario: str, n: int, mode: str) -> int:
    async with bound(cache, **OPTIONS) as session:
        interposer = Interposer(n, mode)
        interposer.install()
        await SCENARIOS[scenario][1](session, 1)
        assert mode == "EIO" or not session.cache.broken
    return 0 if interposer.count >= n else NO_SUCH_CALL


async def check(cache: Path) -> int:
    """What is stored of any version is right, can be completed, and is then there."""
    n_reads = 0
    for turn, version in enumerate((1, 2, 2)):
        async with bound(cache, verify="always", **OPTIONS) as session:
            for name, size in (("small", SMALL), ("large", LARGE), ("empty", 0), ("new", LARGE)):
                file = Netfile(name, size, version)
                cookie = await session.open(file)
                for index, data in (await session.read_cached(cookie)).items():
                    expected = file.content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
                    assert data == expected, f"wrong bytes: {name} {version} page {index}"
                assert await session.read(cookie) == file.content
                assert len(await session.read_cached(cookie)) == page_count(size)
                assert turn < 2 or file.n_fetched == 0
                n_reads += 3
                await session.close(cookie)
            if turn == 2:
                drift = session.backend.recount()
                assert drift.n_files >= 0, drift
                assert drift.n_bytes >= 0, drift
    assert os.listdir(cache / "graveyard") == []
    return n_reads


NO_SUCH_CALL = 42
FAILED = 1


def run(function: Callable[[], Awaitable[int]], log: Path) -> int:
    """In a child: what the function returns, or `FAILED` with a traceback in the log, or minus a signal."""
    pid = os.fork()
    if pid == 0:
        status = FAILED
        try:
            status = trio.run(function)
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def enumerate_points(
    scenario: str, mode: str, directory: Path, *, first: int = 1, step: int = 1
) -> tuple[Counter[str], str]:
    """Every ``step``-th point from ``first`` on: what was found, and what went wrong at which point."""
    found, complaints, log = Counter[str](), "", directory / "log"
    prepared = directory / "prepared"
    assert run(lambda: _done(prepare(prepared, scenario)), log) == 0, log.read_text()
    dies = mode in ("kill", "torn")
    n, status = first, 0
    while status != NO_SUCH_CALL:
        cache = directory / f"cache{n}"
        if prepared.exists():
            shutil.copytree(prepared, cache, symlinks=True)  # with its attributes
        status = run(lambda c=cache, k=n: act(c, scenario, k, mode), log)  # type: ignore[misc]
        wrong = status not in (-signal.SIGKILL if dies else 0, NO_SUCH_CALL)
        if wrong:
            found["exceptions"] += 1
        else:
            afterwards = run(lambda c=cache: check(c), log)  # type: ignore[misc]
            found["reads checked"] += max(afterwards, 0)
            if afterwards <= FAILED:
                wrong = True
                found["wrong bytes" if "wrong bytes" in log.read_text() else "caches not usable"] += 1
        if wrong:
            complaints += f"{scenario} {mode} {n}: ended with {status}\n{log.read_text()}\n"
            log.unlink()
            if found.total() > 20 + found["reads checked"] + found["points"]:
                break  # enough is known
        shutil.rmtree(cache)
        found["points"] += status != NO_SUCH_CALL
        n += step
    return found, complaints


async def _done(work: Awaitable[None]) -> int:
    await work
    return 0


def in_jobs(
    scenario: str, mode: str, directory: Path, n_jobs: int, *, first: int = 1, every: int = 1
) -> tuple[Counter[str], str]:
    """Every ``every``-th point from ``first`` on, by several processes in turns; as `enumerate_points`."""
    parts: list[tuple[int, Path]] = []
    for job in range(n_jobs):
        scratch = directory / f"{scenario} {mode} {job}"
        scratch.mkdir()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                result = enumerate_points(
                    scenario, mode, scratch, first=first + job * every, step=n_jobs * every
                )
                (scratch / "result").write_text(json.dumps(result))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        parts.append((pid, scratch))
    found, complaints = Counter[str](), ""
    for pid, scratch in parts:
        if os.waitpid(pid, 0)[1]:
            found["caches not usable"] += 1
            continue
        counts, text = json.loads((scratch / "result").read_text())
        found.update(counts)
        complaints += text
        shutil.rmtree(scratch)
    return found, complaints


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--mode", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--kind", nargs="+", choices=FILESYSTEM_KINDS, default=[None])
    parser.add_argument("--without-tmpfile", action="store_true")
    parser.add_argument("--every", type=int, default=1, help="only every N-th point")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--directory", type=Path)
    findings.add_json_option(parser)
    arguments = parser.parse_args()
    found = Counter(dict.fromkeys(("points", "reads checked", *findings.FAULTS), 0))
    complaints = ""
    if arguments.without_tmpfile:
        refuse_tmpfile()
    for kind in arguments.kind:
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.directory)))
            if kind is not None:
                scratch = stack.enter_context(loop_mount(kind, 512 << 20, scratch)).path
            for scenario, mode in itertools.product(arguments.scenario, arguments.mode):
                # Of a part not the same one everywhere, but the same one every time.
                first = 1 + zlib.crc32(f"{kind} {scenario} {mode}".encode()) % arguments.every
                part, text = in_jobs(
                    scenario, mode, scratch, arguments.jobs, first=first, every=arguments.every
                )
                where = f"{kind}: " if kind else ""
                print(f"{where}{scenario} {mode}: {part['points']} points", file=sys.stderr, flush=True)
                found.update(part)
                complaints += text
    return int(findings.report(found, as_json=arguments.json, complaints=complaints))


if __name__ == "__main__":
    sys.exit(main())
